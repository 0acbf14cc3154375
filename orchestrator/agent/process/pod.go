package process

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// sidecarGrace is the least that a sidecar gets between SIGTERM and SIGKILL (the kubelet's minimumGracePeriodInSeconds,
// pkg/kubelet/kuberuntime/kuberuntime_manager.go).
const sidecarGrace = 2 * time.Second

// pod is one attempt. Its goroutine looks at the state as a whole after each event and does what is due (advance), so that it does not
// matter which of several events came first.
type pod struct {
	runtime  *Runtime
	attempt  attempt.Attempt
	observer attempt.Observer
	// changed holds a token when stop has changed since it was last looked at.
	changed chan struct{}
	done    chan struct{}
	// ended tells the end of a container run.
	ended chan ending

	mu   sync.Mutex
	stop stop // Guarded by mu.

	// The rest belongs to the pod's goroutine.

	plan    *plan
	members []*member // Init containers first, each in the order of the spec.
	// closing is the stop of the sidecars after the end of what they served; zero before.
	closing stop
	// lastFailed is the newest run that failed; nil when none has.
	lastFailed *ending
	// untold: something has changed since the last status.
	untold bool
}

// stop is an end that was asked for.
type stop struct {
	// at is when what runs then is killed; the zero time for no stop.
	at time.Time
	// atOnce: no SIGTERM before, nor a sidecar's own time.
	atOnce bool
	reason string
}

// ending returns the stop that counts: the earlier of the one from outside and the pod's own.
func (p *pod) ending() stop {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop.at.IsZero() || !p.closing.at.IsZero() && !p.stop.atOnce && p.closing.at.Before(p.stop.at) {
		return p.closing
	}
	return p.stop
}

// stopReason is why the pod was stopped from outside, "" if it was not or for no reason.
func (p *pod) stopReason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stop.reason
}

// run is the life of the pod.
func (p *pod) run() {
	if err := p.prepare(); err != nil {
		p.observer.Observe(attempt.Status{Phase: wire.PodReport_STARTING})
		p.observer.Observe(attempt.Status{
			Phase: wire.PodReport_FAILED, ExitCode: attempt.ExitCodeStartError, Reason: attempt.ReasonStartError, Message: err.Error(),
		})
		return
	}
	p.observer.Observe(p.status())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		p.advance(now)
		if p.isOver() {
			p.observer.Observe(p.verdict())
			return
		}
		if p.untold {
			p.observer.Observe(p.status())
			p.untold = false
		}
		if at := p.wakeAt(now); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case e := <-p.ended:
			p.over(e)
		case <-p.changed:
		case <-timer.C:
		}
	}
}

// prepare makes the plan.
func (p *pod) prepare() (err error) {
	config := &p.runtime.config
	if err := os.MkdirAll(config.StateDir, 0o700); err != nil {
		return err
	}
	messages := fmt.Sprintf("%s/message-%s-%d", config.StateDir, p.runtime.nonce, p.runtime.pods.Add(1))
	if p.plan, err = newPlan(*config, p.attempt.Pod, messages); err != nil {
		return err
	}
	for _, c := range p.plan.containers {
		p.members = append(p.members, &member{container: c, delays: delays{Backoff: config.Backoff}})
	}
	return nil
}

// advance does what is due.
func (p *pod) advance(now time.Time) {
	if p.ending().at.IsZero() && p.startDue(now) {
		p.closing = stop{at: now.Add(p.plan.grace)}
	}
	if end := p.ending(); !end.at.IsZero() {
		p.shutDown(now, end)
	}
}

// startDue starts what may be started now; true when the pod has come to its end: an init container has failed for good, or all app
// containers have ended (pkg/kubelet/kuberuntime/kuberuntime_manager.go, computePodActions).
func (p *pod) startDue(now time.Time) (over bool) {
	over = true
	for _, m := range p.members {
		if m.isDue(now) {
			p.start(m)
		}
		switch {
		case m.role == app:
			over = over && m.state == ended
		case m.role == initial && m.state == ended && m.end.exitCode != 0:
			return true
		case m.role == initial && m.state != ended, m.role == sidecar && !m.begun:
			return false // Those behind it wait.
		}
	}
	return over
}

// shutDown stops what runs: app and init containers first, then the sidecars one by one, the last first. When the time is up for the
// former the sidecars are told all at once (kuberuntime_termination_order.go).
func (p *pod) shutDown(now time.Time, end stop) {
	late := end.atOnce || !now.Before(end.at)
	served := false // Something runs that sidecars serve.
	for _, m := range p.members {
		if m.role != sidecar && m.state == running {
			served = true
			p.end(m, late)
		}
	}
	for _, m := range slices.Backward(p.members) {
		if m.role != sidecar || m.state != running {
			continue
		}
		switch {
		case end.atOnce:
			p.end(m, true)
		case late:
			p.end(m, !now.Before(end.at.Add(sidecarGrace)))
		case !served:
			p.end(m, false)
			return // The next when it has ended.
		}
	}
}

// wakeAt is when there is something to do though nothing happens; the zero time for never.
func (p *pod) wakeAt(now time.Time) (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if end := p.ending(); !end.at.IsZero() {
		for _, t := range []time.Time{end.at, end.at.Add(sidecarGrace)} {
			if t.After(now) {
				sooner(t)
			}
		}
		return at
	}
	for _, m := range p.members {
		if m.state == waiting && !m.startAt.IsZero() {
			sooner(m.startAt)
		}
	}
	return at
}

// isOver says that the pod has ended: it was to, and nothing of it runs.
func (p *pod) isOver() bool {
	return !p.ending().at.IsZero() && !slices.ContainsFunc(p.members, func(m *member) bool { return m.state == running })
}
