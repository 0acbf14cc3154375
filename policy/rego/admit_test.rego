package nightshift.admit_test

import data.nightshift.admit

# What a test does not care for: a Job of 10 pods of 500m at 30 cents an hour.
job(annotations) := {
	"tenant": "team-a",
	"user": "ada",
	"job": {"metadata": {"name": "night", "annotations": annotations}},
	"demand": {"pods": 10, "vcpu": 5, "memoryBytes": 5368709120},
	"forecast": {"known": true, "pricePerHour": 0.3},
}

plain := job({})

with_demand(pods, vcpu) := object.union(plain, {"demand": {"pods": pods, "vcpu": vcpu}})

with_price(known, price) := object.union(plain, {"forecast": {"known": known, "pricePerHour": price}})

test_a_tenant_without_an_entry_has_no_limits if {
	decision := admit.decision with input as plain with data.tenants as {"team-b": {"vcpu": 0}}
	decision == {
		"allowed": true,
		"reasons": [],
		"profile": {"tier": "default", "priority": 0, "markets": ["spot", "on-demand"]},
	}
}

test_without_any_data_a_job_is_admitted if {
	decision := admit.decision with input as plain
	decision.allowed
}

test_a_job_without_metadata_annotations_runs_on_any_market if {
	bare := object.union(json.remove(plain, ["job"]), {"job": {"metadata": {"name": "night"}}})
	admit.decision.profile.markets == ["spot", "on-demand"] with input as bare
	admit.decision.allowed with input as bare
}

test_the_annotation_chooses_the_markets if {
	every value, markets in {
		"auto": ["spot", "on-demand"],
		"spot": ["spot"],
		"on-demand": ["on-demand"],
	} {
		decision := admit.decision with input as job({"nightshift.dev/capacity": value})
		decision.allowed
		decision.profile.markets == markets
	}
}

test_another_value_of_the_annotation_is_denied_and_still_has_a_profile if {
	decision := admit.decision with input as job({"nightshift.dev/capacity": "spots"})
	not decision.allowed
	decision.reasons == [`annotation nightshift.dev/capacity is "spots"; it must be auto, spot or on-demand`]
	decision.profile.markets == ["spot", "on-demand"]
}

test_a_demand_at_the_limit_is_admitted if {
	decision := admit.decision with input as plain with data.tenants as {"team-a": {"vcpu": 5}}
	decision.allowed
}

test_a_demand_over_the_limit_is_denied_with_both_figures if {
	decision := admit.decision with input as plain with data.tenants as {"team-a": {"vcpu": 4}}
	not decision.allowed
	decision.reasons == [`tenant "team-a" may use 4 vCPU at a time; this Job asks for 5 (10 pods of 500m)`]
}

test_one_pod_and_fractions_are_written_as_kubernetes_does if {
	one := admit.decision with input as with_demand(1, 2.5) with data.tenants as {"team-a": {"vcpu": 0.25}}
	one.reasons == [`tenant "team-a" may use 0.25 vCPU at a time; this Job asks for 2.5 (1 pod of 2500m)`]
	whole := admit.decision with input as with_demand(20, 40) with data.tenants as {"team-a": {"vcpu": 10}}
	whole.reasons == [`tenant "team-a" may use 10 vCPU at a time; this Job asks for 40 (20 pods of 2)`]
}

test_a_limit_of_nothing_denies_a_millicore_and_admits_a_demand_of_nothing if {
	least := admit.decision with input as with_demand(1, 0.001) with data.tenants as {"team-a": {"vcpu": 0}}
	least.reasons == [`tenant "team-a" may use 0 vCPU at a time; this Job asks for 0.001 (1 pod of 1m)`]
	nothing := admit.decision with input as with_demand(0, 0) with data.tenants as {"team-a": {"vcpu": 0}}
	nothing.allowed
}

test_a_demand_that_cannot_be_told_by_pods_is_still_denied if {
	decision := admit.decision with input as with_demand(0, 3) with data.tenants as {"team-a": {"vcpu": 1}}
	decision.reasons == [`tenant "team-a" may use 1 vCPU at a time; this Job asks for 3`]
}

test_the_noise_of_floating_point_does_not_deny if {
	decision := admit.decision with input as with_demand(3, 0.30000000000000004) with data.tenants as {"team-a": {"vcpu": 0.3}}
	decision.allowed
}

test_a_price_over_the_limit_is_denied_with_both_dollar_figures if {
	decision := admit.decision with input as with_price(true, 1.25) with data.tenants as {"team-a": {"maxPricePerHour": 1}}
	decision.reasons == ["tenant \"team-a\" may spend $1.00 an hour; this Job would cost $1.25 an hour at the cheapest offers that fit"]
}

test_small_prices_keep_the_places_that_tell_them_apart if {
	decision := admit.decision with input as with_price(true, 0.041634) with data.tenants as {"team-a": {"maxPricePerHour": 0.0416}}
	decision.reasons == ["tenant \"team-a\" may spend $0.0416 an hour; this Job would cost $0.041634 an hour at the cheapest offers that fit"]
}

test_a_price_at_the_limit_is_admitted if {
	decision := admit.decision with input as with_price(true, 0.3) with data.tenants as {"team-a": {"maxPricePerHour": 0.3}}
	decision.allowed
}

test_an_unknown_price_denies_nothing if {
	decision := admit.decision with input as with_price(false, 99) with data.tenants as {"team-a": {"maxPricePerHour": 0}}
	decision.allowed
}

test_every_reason_is_given_and_they_are_sorted if {
	asked := job({"nightshift.dev/capacity": "cheap"})
	decision := admit.decision with input as asked with data.tenants as {"team-a": {"vcpu": 1, "maxPricePerHour": 0.01}}
	not decision.allowed
	count(decision.reasons) == 3
	decision.reasons == sort(decision.reasons)
}
