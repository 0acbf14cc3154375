package process

import (
	"fmt"
	"syscall"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// state of a container.
type state int

const (
	waiting state = iota
	running
	ended // For good.
)

// member is one container of a pod, over all its runs. The pod's goroutine alone uses it.
type member struct {
	*container
	state state
	// runs that were begun, or tried, before the newest one.
	restarted int32
	// begun: a run was started, however it went on, since the pod began or was begun again as a whole.
	begun bool
	// startAt is when a container that has run, or was tried to, is started again; zero for one that waits for its turn.
	startAt time.Time
	delays  delays
	// run is the one that runs; nil when none does.
	run *run
	// end of the newest run that has ended, endBefore of the one before; nil for none.
	end, endBefore *ending
	// termed and killed: the run was sent SIGTERM, and SIGKILL.
	termed, killed bool
}

// ending is how a run went, or why there was none.
type ending struct {
	member   *member
	exitCode int32
	signal   syscall.Signal
	reason   string
	// message is the termination message, or why the container could not be started.
	message string
	// text is the end in words.
	text              string
	started, finished time.Time
}

func (m *member) isDue(now time.Time) bool { return m.state == waiting && !now.Before(m.startAt) }

// title names the container in messages.
func (m *member) title() string {
	kind := "container"
	if m.role != app {
		kind = "init container"
	}
	return fmt.Sprintf("%s %q", kind, m.name)
}

// start starts the next run.
func (p *pod) start(m *member) {
	if m.end != nil {
		m.restarted++
	}
	p.untold = true
	r, err := p.startRun(m)
	if err != nil {
		p.over(startError(m, err))
		return
	}
	m.state, m.run, m.begun, m.termed, m.killed = running, r, true, false, false
	go func() { p.ended <- r.await() }()
}

// end asks a run to end, or kills it; once each.
func (p *pod) end(m *member, kill bool) {
	switch {
	case kill && !m.killed:
		m.killed = true
		m.run.kill()
	case !kill && !m.termed:
		m.termed = true
		m.run.child.Signal(syscall.SIGTERM)
	}
}

// over takes the end of a run and decides whether there is another.
func (p *pod) over(e ending) {
	m := e.member
	m.run, m.end, m.endBefore = nil, &e, m.end
	if e.exitCode != 0 {
		p.lastFailed = &e
	}
	p.untold = true
	m.state = ended
	switch m.restarts.after(m.role, e.exitCode) {
	case itself:
		// A stop has no use for it, and leaves the container as it is.
		m.state = waiting
		m.startAt = e.finished.Add(m.delays.after(e.finished.Sub(e.started)))
	case everything:
		if p.anew == nil {
			p.anew = &anew{at: e.finished.Add(m.delays.after(e.finished.Sub(e.started)))}
		}
	}
}

// anew is a beginning of the whole pod that is to come, when nothing of it runs any more.
type anew struct{ at time.Time }

// beginAnew kills what runs, without grace as the kubelet does (kuberuntime_manager.go, ContainersToReset), and then puts the pod back to where
// it began. The kubelet does so without delay. Here it waits as the container that wants it would wait for a restart, since a pod that ends at
// once would keep its machine busy with beginning.
func (p *pod) beginAnew(now time.Time) {
	runs := false
	for _, m := range p.members {
		if m.state == running {
			runs = true
			p.end(m, true)
		}
	}
	if runs || now.Before(p.anew.at) {
		return
	}
	for _, m := range p.members {
		m.state, m.begun, m.startAt = waiting, false, time.Time{}
	}
	p.anew, p.untold = nil, true
}

// status renders the container for a report; stopped when the pod is to end.
func (m *member) status(plan *plan, stopped bool) *wire.ContainerStatus {
	s := &wire.ContainerStatus{Name: m.name, Init: m.role != app, Restarts: m.restarted}
	switch {
	case m.state == running:
		s.State = &wire.ContainerStatus_Running{Running: &wire.ContainerRunning{StartedUnixNano: m.run.started.UnixNano()}}
		s.Last = m.end.terminated()
	case m.state == ended, stopped && m.end != nil:
		s.State = &wire.ContainerStatus_Terminated{Terminated: m.end.terminated()}
		s.Last = m.endBefore.terminated()
	case m.end != nil && !m.startAt.IsZero():
		s.State = &wire.ContainerStatus_Waiting{Waiting: &wire.ContainerWaiting{
			Reason:  "CrashLoopBackOff",
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", m.startAt.Sub(m.end.finished), m.name, plan.title),
		}}
	case plan.initializes():
		s.State = &wire.ContainerStatus_Waiting{Waiting: &wire.ContainerWaiting{Reason: "PodInitializing"}}
	default:
		s.State = &wire.ContainerStatus_Waiting{Waiting: &wire.ContainerWaiting{Reason: "ContainerCreating"}}
	}
	if m.state == waiting && s.GetWaiting() != nil {
		s.Last = m.end.terminated()
	}
	return s
}

func (e *ending) terminated() *wire.ContainerTerminated {
	if e == nil {
		return nil
	}
	t := &wire.ContainerTerminated{
		ExitCode: e.exitCode, Signal: int32(e.signal), Reason: e.reason, Message: e.message, FinishedUnixNano: e.finished.UnixNano(),
	}
	if e.reason != attempt.ReasonStartError {
		t.StartedUnixNano = e.started.UnixNano()
	}
	return t
}
