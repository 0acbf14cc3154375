// Package admission asks policy about every Job and brings its decision to the engine.
//
// Whoever created a Job, it waits in the engine until a decision has come back; so a decision that a crash has lost is asked for again,
// and there is one way in. The full input of each decision is kept in the archive before the decision is submitted. If policy
// fails to decide, the Job stays unadmitted and is asked about again after a while.
package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/policy"
)

// RetryAfter is how long a Job about which policy could not decide waits.
const RetryAfter = 5 * time.Second

// Submitter hands commands to the engine and returns when their facts are durable.
type Submitter interface {
	Submit(ctx context.Context, command engine.Command) (seq uint64, err error)
}

// Documents keeps decision inputs, by name.
type Documents interface {
	PutDocument(ctx context.Context, name string, document any) error
}

// DeniedError is policy's no, with its reasons for the user.
type DeniedError struct {
	Reasons []string
}

func (e *DeniedError) Error() string { return "denied by policy: " + strings.Join(e.Reasons, "; ") }

// Desk decides about the Jobs that wait. Its methods are safe for concurrent use.
type Desk struct {
	decider   policy.Decider
	submitter Submitter
	documents Documents
	logger    *slog.Logger

	wanted chan []engine.Admission

	mu      sync.Mutex
	waiting map[string]chan error
}

// New returns a desk. Run must be running for Want and Create to have an effect.
func New(decider policy.Decider, submitter Submitter, documents Documents, logger *slog.Logger) *Desk {
	return &Desk{
		decider: decider, submitter: submitter, documents: documents, logger: logger,
		wanted: make(chan []engine.Admission, 1), waiting: make(map[string]chan error),
	}
}

// Want takes the latest effects; it does not block.
func (d *Desk) Want(effects engine.Effects) {
	select {
	case <-d.wanted:
	default:
	}
	d.wanted <- effects.Admissions
}

// Create submits a new Job and waits for policy's decision: a *DeniedError if that is no, an *engine.Rejection if the engine refuses.
// When the context ends first the Job is stored and will be decided about.
func (d *Desk) Create(ctx context.Context, command engine.CreateJob) (uint64, error) {
	uid := string(command.Job.UID)
	decided := make(chan error, 1)
	d.mu.Lock()
	d.waiting[uid] = decided
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.waiting, uid)
		d.mu.Unlock()
	}()
	seq, err := d.submitter.Submit(ctx, command)
	if err != nil {
		return 0, err
	}
	select {
	case err := <-decided:
		return seq, err
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for policy's decision about Job %s: %w", command.Job.Name, ctx.Err())
	}
}

// Observe tells those who wait what has been decided, once it is durable. It is a follower of the log.
func (d *Desk) Observe(_ uint64, facts []*event.Fact) {
	for _, fact := range facts {
		switch body := fact.Body.(type) {
		case *event.Fact_JobAdmitted:
			d.answer(body.JobAdmitted.GetUid(), nil)
		case *event.Fact_JobDenied:
			d.answer(body.JobDenied.GetUid(), &DeniedError{Reasons: body.JobDenied.GetReasons()})
		}
	}
}

func (d *Desk) answer(uid string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if waiter, ok := d.waiting[uid]; ok {
		waiter <- err
		delete(d.waiting, uid)
	}
}

// Run decides until the context ends.
func (d *Desk) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	open := make(map[string]engine.Admission)
	failed := make(map[string]bool)
	done := make(chan result)
	retry := time.NewTimer(RetryAfter)
	defer retry.Stop()
	busy := make(map[string]bool)
	for {
		for uid, waiting := range open {
			if busy[uid] || failed[uid] {
				continue
			}
			busy[uid] = true
			running.Go(func() {
				err := d.decide(ctx, waiting)
				select {
				case done <- result{uid, err}:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case admissions := <-d.wanted:
			clear(open)
			for _, waiting := range admissions {
				open[waiting.UID] = waiting
			}
			maps.DeleteFunc(failed, func(uid string, _ bool) bool { _, still := open[uid]; return !still })
		case ended := <-done:
			delete(busy, ended.uid)
			if ended.err == nil {
				delete(open, ended.uid)
			} else {
				d.logger.Error("policy could not decide about a Job; it waits", "uid", ended.uid, "error", ended.err)
				failed[ended.uid] = true
				retry.Reset(RetryAfter)
			}
		case <-retry.C:
			clear(failed)
		}
	}
}

type result struct {
	uid string
	err error
}

// decide asks policy and submits what it says.
func (d *Desk) decide(ctx context.Context, waiting engine.Admission) error {
	input, err := inputOf(waiting)
	if err != nil {
		return err
	}
	decision, err := d.decider.Admit(ctx, input)
	if err != nil {
		return fmt.Errorf("ask policy: %w", err)
	}
	name := fmt.Sprintf("decisions/%s/%s", waiting.Object.Namespace, waiting.UID)
	if err := d.documents.PutDocument(ctx, name, input); err != nil {
		return fmt.Errorf("keep the input of the decision: %w", err)
	}
	var command engine.Command = engine.DenyJob{UID: waiting.UID, Reasons: decision.Reasons, BundleDigest: decision.BundleDigest}
	if decision.Allowed {
		command = engine.AdmitJob{UID: waiting.UID, Profile: &event.Profile{
			BundleDigest: decision.BundleDigest, Input: name, Tier: decision.Profile.Tier, Priority: decision.Profile.Priority,
			Markets: decision.Profile.Markets, Providers: decision.Profile.Providers,
			MaxInstancePriceMicrosPerHour: decision.Profile.MaxInstancePriceMicrosPerHour,
		}}
	}
	var rejection *engine.Rejection
	if _, err := d.submitter.Submit(ctx, command); err != nil && !errors.As(err, &rejection) {
		return fmt.Errorf("record the decision: %w", err)
	}
	return nil
}

func inputOf(waiting engine.Admission) (policy.Input, error) {
	object, err := json.Marshal(waiting.Object)
	if err != nil {
		return policy.Input{}, fmt.Errorf("write the Job down for policy: %w", err)
	}
	pods := int64(waiting.Pods)
	return policy.Input{
		Tenant: waiting.Object.Namespace,
		User:   waiting.User,
		Job:    object,
		Demand: policy.Demand{
			Pods: pods, VCPU: float64(pods*waiting.Requests["cpu"]) / 1000, MemoryBytes: pods * waiting.Requests["memory"],
		},
		Forecast: policy.Forecast{Known: waiting.ForecastKnown, PricePerHour: float64(waiting.ForecastMicrosPerHour) / 1e6},
	}, nil
}
