package telemetry

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// maxRestartEvents bounds what a container that restarts all night adds to its span; the first ones are kept, the count is an attribute.
const maxRestartEvents = 100

// projection is what is known of Jobs, attempts and nodes that have not ended. A fact that names another one is passed over: a span
// is made of what the log tells, and a log may begin after a snapshot.
type projection struct {
	tracer trace.Tracer
	costs  Costs

	jobs     map[string]*jobTrace
	attempts map[string]*attempt
	nodes    map[string]*node
	launches map[string]*event.LaunchIntended
}

type jobTrace struct {
	uid, tenant, name string
	created           time.Time
	// ended is when the Job became Complete or Failed, and never before the end of an attempt.
	ended   time.Time
	outcome string
	// failure says why a Failed Job is one.
	failure string
	events  []spanEvent
}

type attempt struct {
	uid, name string
	job       *jobTrace
	index     int32
	number    int32
	// start is when it was bound, until then when it was created.
	start  time.Time
	bound  bool
	node   *node
	events []spanEvent
	// noticed is set once it was told that its instance goes.
	noticed  bool
	restarts int32
}

type node struct {
	name, provider string
	offer          *event.Offer
	attempts       map[string]*attempt
}

type spanEvent struct {
	name       string
	at         time.Time
	attributes []attribute.KeyValue
}

func newProjection(tracer trace.Tracer, costs Costs) *projection {
	return &projection{
		tracer: tracer, costs: costs, jobs: map[string]*jobTrace{}, attempts: map[string]*attempt{},
		nodes: map[string]*node{}, launches: map[string]*event.LaunchIntended{},
	}
}

// apply takes a fact into account and ends the spans that it ends.
func (p *projection) apply(fact *event.Fact) {
	switch fact.Body.(type) {
	case *event.Fact_JobCreated, *event.Fact_JobAdmitted, *event.Fact_JobStarted, *event.Fact_JobConditionSet,
		*event.Fact_JobDenied, *event.Fact_JobDeleted, *event.Fact_ReceiptIssued:
		p.applyToJob(fact)
	case *event.Fact_PodCreated, *event.Fact_PodBound, *event.Fact_PodStarted, *event.Fact_PodRestarted, *event.Fact_PodStopping,
		*event.Fact_PodFinished:
		p.applyToAttempt(fact)
	case *event.Fact_LaunchIntended, *event.Fact_LaunchSettled, *event.Fact_NodeNoticed, *event.Fact_NodeGone:
		p.applyToNode(fact)
	}
}

func (p *projection) applyToJob(fact *event.Fact) {
	now := fact.At()
	switch body := fact.Body.(type) {
	case *event.Fact_JobCreated:
		created := body.JobCreated
		p.jobs[created.GetUid()] = &jobTrace{uid: created.GetUid(), tenant: fact.GetTenant(), name: created.GetName(), created: now}
		delete(p.jobs, created.GetReplaces())
	case *event.Fact_JobAdmitted:
		if job := p.jobs[body.JobAdmitted.GetUid()]; job != nil {
			profile := body.JobAdmitted.GetProfile()
			job.events = append(job.events, spanEvent{"admitted", now, []attribute.KeyValue{
				attribute.String("nightshift.tier", profile.GetTier()),
				attribute.String("nightshift.bundle_digest", profile.GetBundleDigest()),
			}})
		}
	case *event.Fact_JobStarted:
		if job := p.jobs[body.JobStarted.GetUid()]; job != nil {
			job.events = append(job.events, spanEvent{name: "started", at: now})
		}
	case *event.Fact_JobConditionSet:
		set := body.JobConditionSet
		// The terminal conditions of batch/v1 (k8s.io/api/batch/v1, JobConditionType).
		if job := p.jobs[set.GetUid()]; job != nil && (set.GetType() == "Complete" || set.GetType() == "Failed") {
			job.outcome, job.ended = set.GetType(), later(job.ended, now)
			if set.GetType() == "Failed" {
				job.failure = sentence(set.GetReason(), set.GetMessage())
			}
		}
	case *event.Fact_JobDenied:
		delete(p.jobs, body.JobDenied.GetUid())
	case *event.Fact_JobDeleted:
		delete(p.jobs, body.JobDeleted.GetUid())
	case *event.Fact_ReceiptIssued:
		if job := p.jobs[body.ReceiptIssued.GetUid()]; job != nil {
			p.endJob(job, now, body.ReceiptIssued.GetReceipt())
			delete(p.jobs, job.uid)
		}
	}
}

// endJob makes the root span. A Job that was deleted before it ended has no outcome of its own, and ends with its receipt.
func (p *projection) endJob(job *jobTrace, now time.Time, receipt *event.Receipt) {
	if job.outcome == "" {
		job.outcome, job.ended = "Deleted", later(job.ended, now)
	}
	p.emit("job", spanIDs{traceID(job.uid), rootID(job.uid)}, trace.SpanContext{}, job.created, job.ended, job.failure, job.events,
		attribute.String("nightshift.job.uid", job.uid),
		attribute.String("nightshift.job.name", job.name),
		attribute.String("nightshift.tenant", job.tenant),
		attribute.String("nightshift.outcome", job.outcome),
		attribute.Int64("nightshift.cost_micros", receipt.GetCostMicros()),
		attribute.Int64("nightshift.on_demand_micros", receipt.GetOnDemandMicros()),
		attribute.Int64("nightshift.evicted_micros", receipt.GetEvictedMicros()),
		attribute.Int64("nightshift.idle_micros", receipt.GetIdleMicros()),
		attribute.String("nightshift.currency", receipt.GetCurrency()),
		attribute.Int64("nightshift.attempts", receipt.GetAttempts()),
		attribute.Int64("nightshift.evictions", receipt.GetEvictions()),
	)
}

func (p *projection) applyToAttempt(fact *event.Fact) {
	now := fact.At()
	switch body := fact.Body.(type) {
	case *event.Fact_PodCreated:
		created := body.PodCreated
		if job := p.jobs[created.GetJobUid()]; job != nil {
			p.attempts[created.GetUid()] = &attempt{
				uid: created.GetUid(), name: created.GetName(), job: job, index: created.GetIndex(), number: created.GetAttempt(), start: now,
			}
		}
	case *event.Fact_PodBound:
		if a := p.attempts[body.PodBound.GetUid()]; a != nil {
			p.bind(a, body.PodBound.GetNode(), now)
		}
	case *event.Fact_PodStarted:
		if a := p.attempts[body.PodStarted.GetUid()]; a != nil {
			a.events = append(a.events, spanEvent{name: "started", at: now})
		}
	case *event.Fact_PodRestarted:
		if a := p.attempts[body.PodRestarted.GetUid()]; a != nil {
			a.restarts = max(a.restarts, body.PodRestarted.GetRestarts())
			if a.restarts <= maxRestartEvents {
				a.events = append(a.events, spanEvent{"restarted", now, []attribute.KeyValue{
					attribute.Int("nightshift.restarts", int(body.PodRestarted.GetRestarts())),
					attribute.Int("nightshift.exit_code", int(body.PodRestarted.GetExitCode())),
				}})
			}
		}
	case *event.Fact_PodStopping:
		if a := p.attempts[body.PodStopping.GetUid()]; a != nil && body.PodStopping.GetEviction() {
			a.notice(now, sentence(body.PodStopping.GetReason(), body.PodStopping.GetMessage()))
		}
	case *event.Fact_PodFinished:
		if a := p.attempts[body.PodFinished.GetUid()]; a != nil {
			p.endAttempt(a, now, body.PodFinished)
		}
	}
}

func (p *projection) bind(a *attempt, name string, now time.Time) {
	if !a.bound {
		a.start, a.bound = now, true
	}
	if a.node != nil {
		delete(a.node.attempts, a.uid)
	}
	a.node = p.nodes[name]
	if a.node == nil {
		a.node = &node{name: name, attempts: map[string]*attempt{}}
	}
	a.node.attempts[a.uid] = a
}

// notice adds the event of an interruption once: the cloud's notice, or the stop for an eviction without one.
func (a *attempt) notice(now time.Time, cause string) {
	if a.noticed {
		return
	}
	a.noticed = true
	a.events = append(a.events, spanEvent{"interruption notice", now, []attribute.KeyValue{attribute.String("nightshift.cause", cause)}})
}

// endAttempt makes the attempt's span.
func (p *projection) endAttempt(a *attempt, now time.Time, finished *event.PodFinished) {
	delete(p.attempts, a.uid)
	end := now
	if at := finished.GetFinishedUnixNano(); at != 0 {
		end = time.Unix(0, at).UTC()
	}
	end = later(end, a.start)
	a.job.ended = later(a.job.ended, end)
	failure := ""
	if finished.GetOutcome() == event.PodFinished_FAILED {
		failure = sentence(finished.GetReason(), finished.GetMessage())
	}
	attributes := []attribute.KeyValue{
		attribute.String("nightshift.job.uid", a.job.uid),
		attribute.String("nightshift.pod.uid", a.uid),
		attribute.String("nightshift.pod.name", a.name),
		attribute.String("nightshift.tenant", a.job.tenant),
		attribute.Int("nightshift.index", int(a.index)),
		attribute.Int("nightshift.attempt", int(a.number)),
		attribute.String("nightshift.outcome", strings.ToLower(finished.GetOutcome().String())),
		attribute.Bool("nightshift.evicted", finished.GetOutcome() == event.PodFinished_EVICTED),
		attribute.String("nightshift.reason", finished.GetReason()),
		attribute.Int("nightshift.exit_code", int(finished.GetExitCode())),
		attribute.Int("nightshift.restarts", int(max(a.restarts, finished.GetRestarts()))),
	}
	if a.node != nil {
		delete(a.node.attempts, a.uid)
		attributes = append(attributes, attribute.String("nightshift.node", a.node.name))
		if offer := a.node.offer; offer != nil {
			attributes = append(attributes,
				attribute.String("nightshift.provider", a.node.provider),
				attribute.String("nightshift.instance_type", offer.GetInstanceType()),
				attribute.String("nightshift.zone", offer.GetZone()),
				attribute.String("nightshift.market", offer.GetMarket()))
		}
	}
	if p.costs != nil {
		if micros, known := p.costs.CostOf(a.uid); known {
			attributes = append(attributes, attribute.Int64("nightshift.cost_micros", micros))
		}
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID(a.job.uid), SpanID: rootID(a.job.uid), TraceFlags: trace.FlagsSampled})
	p.emit("attempt", spanIDs{traceID(a.job.uid), attemptID(a.uid)}, parent, a.start, end, failure, a.events, attributes...)
}

func (p *projection) applyToNode(fact *event.Fact) {
	switch body := fact.Body.(type) {
	case *event.Fact_LaunchIntended:
		p.launches[body.LaunchIntended.GetKey()] = body.LaunchIntended
	case *event.Fact_LaunchSettled:
		launch := p.launches[body.LaunchSettled.GetKey()]
		delete(p.launches, body.LaunchSettled.GetKey())
		for _, launched := range body.LaunchSettled.GetNodes() {
			n := &node{name: launched.GetNode(), provider: launch.GetProvider(), attempts: map[string]*attempt{}}
			for _, offer := range launch.GetOffers() {
				if offer.GetId() == launched.GetOfferId() {
					n.offer = offer
				}
			}
			p.nodes[n.name] = n
		}
	case *event.Fact_NodeNoticed:
		if n := p.nodes[body.NodeNoticed.GetNode()]; n != nil {
			for _, a := range n.attempts {
				a.notice(fact.At(), body.NodeNoticed.GetCause())
			}
		}
	case *event.Fact_NodeGone:
		// Attempts that it held keep it until they end.
		delete(p.nodes, body.NodeGone.GetNode())
	}
}

// emit runs a span that has ended through the SDK.
func (p *projection) emit(name string, ids spanIDs, parent trace.SpanContext, start, end time.Time, failure string,
	events []spanEvent, attributes ...attribute.KeyValue) {
	ctx := withIDs(context.Background(), ids)
	if parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, parent)
	}
	_, span := p.tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithAttributes(attributes...))
	for _, e := range events {
		span.AddEvent(e.name, trace.WithTimestamp(e.at), trace.WithAttributes(e.attributes...))
	}
	if failure != "" {
		span.SetStatus(codes.Error, failure)
	}
	span.End(trace.WithTimestamp(later(start, end)))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sentence joins a Kubernetes reason and its message; it is never empty, as an empty description would hide that there is a failure.
func sentence(reason, message string) string {
	switch {
	case reason != "" && message != "":
		return reason + ": " + message
	case reason+message != "":
		return reason + message
	default:
		return "no reason was given"
	}
}
