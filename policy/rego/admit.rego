# METADATA
# title: Admission
# description: >-
#   Decides once for each Job, before anything is done for it, whether it may run and under which profile. `decision` is the
#   whole answer. A Job is denied for every reason that holds, not for the first one only, so that its user mends them in one go.
package nightshift.admit

decision := {
	"allowed": count(deny) == 0,
	"reasons": sort(deny),
	"profile": profile,
}

# All Jobs run under one profile in the default bundle; only the markets follow the Job.
profile := {
	"tier": "default",
	"priority": 0,
	"markets": markets,
}

# The markets that each value of the annotation opens, the preferred one first.
capacities := {
	"auto": ["spot", "on-demand"],
	"spot": ["spot"],
	"on-demand": ["on-demand"],
}

annotation := "nightshift.dev/capacity"

capacity := object.get(input.job, ["metadata", "annotations", annotation], "auto")

# A value that is not known is denied below; the profile is still whole, as an answer always has one.
markets := object.get(capacities, capacity, capacities.auto)

deny contains reason if {
	not capacities[capacity]
	reason := sprintf("annotation %s is %q; it must be auto, spot or on-demand", [annotation, capacity])
}

# A tenant without an entry, and an entry without a key, has no limit.
limits := data.tenants[input.tenant]

deny contains reason if {
	limit := round(limits.vcpu * 1000)
	asked := round(input.demand.vcpu * 1000)
	asked > limit
	reason := sprintf("tenant %q may use %s vCPU at a time; this Job asks for %s%s", [
		input.tenant,
		cores(limit),
		cores(asked),
		pods(asked),
	])
}

# An unknown forecast denies nothing: the Job waits until an offer fits, and its price is bounded by what is offered then.
deny contains reason if {
	input.forecast.known
	limit := round(limits.maxPricePerHour * 1000000)
	price := round(input.forecast.pricePerHour * 1000000)
	price > limit
	reason := sprintf("tenant %q may spend %s an hour; this Job would cost %s an hour at the cheapest offers that fit", [
		input.tenant,
		dollars(limit),
		dollars(price),
	])
}

# pods says how the Job comes to its millicores: " (10 pods of 500m)".
pods(millis) := sprintf(" (1 pod of %s)", [quantity(millis)]) if input.demand.pods == 1

pods(millis) := sprintf(" (%d pods of %s)", [input.demand.pods, quantity(round(millis / input.demand.pods))]) if {
	input.demand.pods > 1
}

pods(_) := "" if input.demand.pods < 1

# quantity writes millicores as Kubernetes does: 500m, 2.
quantity(millis) := sprintf("%dm", [millis]) if millis % 1000 != 0

quantity(millis) := sprintf("%d", [millis / 1000]) if millis % 1000 == 0

# cores writes millicores as a decimal number without needless zeros: 4, 2.5.
cores(millis) := trim_right(trim_right(sprintf("%d.%03d", [floor(millis / 1000), millis % 1000]), "0"), ".")

# dollars writes micro-dollars with two places, or with as many as they need: $1.50, $0.0416.
dollars(micros) := sprintf("$%d.%02d", [floor(micros / 1000000), floor((micros % 1000000) / 10000)]) if {
	micros % 10000 == 0
}

dollars(micros) := trim_right(sprintf("$%d.%06d", [floor(micros / 1000000), micros % 1000000]), "0") if {
	micros % 10000 != 0
}
