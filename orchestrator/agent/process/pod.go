package process

import (
	"cmp"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// pod is one attempt; its goroutine alone runs it.
type pod struct {
	runtime  *Runtime
	attempt  attempt.Attempt
	observer attempt.Observer
	// changed holds a token when killAt has changed since it was last looked at.
	changed chan struct{}
	done    chan struct{}

	mu         sync.Mutex
	killAt     time.Time // Zero until it is to stop.
	stopReason string
}

// stopping returns when the pod is to be killed, the zero time if it is not, and why.
func (p *pod) stopping() (killAt time.Time, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killAt, p.stopReason
}

func (p *pod) stopped() bool {
	killAt, _ := p.stopping()
	return !killAt.IsZero()
}

// run is the life of the pod: runs of its container until one succeeds, may not be repeated, or the pod is stopped.
func (p *pod) run() {
	p.observer.Observe(attempt.Status{Phase: wire.PodReport_STARTING})
	plan, err := newPlan(p.runtime.config, p.attempt.Pod)
	if err != nil {
		p.fail(attempt.Status{ExitCode: attempt.ExitCodeStartError, Reason: attempt.ReasonStartError, Message: err.Error()})
		return
	}
	if p.stopped() {
		p.fail(attempt.Status{
			ExitCode: 128 + int32(unix.SIGTERM), Reason: attempt.ReasonError, Message: "stopped before it was started",
		})
		return
	}
	delays := delays{Backoff: p.runtime.config.Backoff}
	var last attempt.Status
	for {
		began := time.Now()
		last = p.runOnce(plan, last)
		if last.ExitCode == 0 {
			last.Phase, last.Reason, last.Message = wire.PodReport_SUCCEEDED, attempt.ReasonCompleted, ""
			p.observer.Observe(last)
			return
		}
		if plan.restart == corev1.RestartPolicyNever || !p.pause(delays.after(time.Since(began))) {
			p.fail(last)
			return
		}
		last.Restarts++
	}
}

// fail observes the last status of a pod that did not succeed.
func (p *pod) fail(last attempt.Status) {
	last.Phase = wire.PodReport_FAILED
	if _, reason := p.stopping(); reason != "" {
		last.Message += "; the pod was stopped: " + reason
	}
	p.observer.Observe(last)
}

// pause waits before a restart; false when the pod is stopped.
func (p *pod) pause(wait time.Duration) bool {
	if p.stopped() {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.changed: // A stop.
	}
	return !p.stopped()
}

// runOnce runs the container once and returns its end, with the restarts of before. When it returns nothing of the run is
// left, and its output has been taken.
func (p *pod) runOnce(plan *plan, before attempt.Status) attempt.Status {
	running := before
	running.Phase = wire.PodReport_RUNNING
	if running.Restarts > 0 {
		// Even if it cannot be started this time: the restart counts.
		p.observer.Observe(running)
	}
	child, output, err := p.start(plan, running.Restarts)
	if err != nil {
		running.ExitCode, running.Reason = attempt.ExitCodeStartError, attempt.ReasonStartError
		running.Message = fmt.Sprintf("container %q could not be started: %v", plan.container, err)
		return running
	}
	if running.Restarts == 0 {
		p.observer.Observe(running)
	}
	collector := collect(output, p.observer.Output(plan.container, running.Restarts))
	p.await(child)
	child.Sweep()
	collector.finish()

	running.ExitCode, running.Reason = child.ExitCode(), attempt.ReasonError
	running.Message = fmt.Sprintf("container %q exited with code %d", plan.container, running.ExitCode)
	if signal, ok := child.Signaled(); ok {
		running.Message = fmt.Sprintf("container %q was ended by %s", plan.container, unix.SignalName(signal))
	}
	return running
}

func (p *pod) start(plan *plan, restart int32) (child *reaper.Child, output *os.File, err error) {
	path, err := plan.executable()
	if err != nil {
		return nil, nil, err
	}
	if info, err := os.Stat(plan.dir); err != nil || !info.IsDir() {
		return nil, nil, fmt.Errorf("working directory %s: %w", plan.dir, cmp.Or(err, error(unix.ENOTDIR)))
	}
	mark := fmt.Sprintf("%s=%s.%d.%d.%s", markName, p.attempt.UID, p.attempt.Epoch, restart, p.runtime.nonce)
	read, write, err := openPipe()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(write)
	child, err = p.runtime.config.Reaper.Start(reaper.Command{
		Path:   path,
		Args:   plan.args,
		Env:    append(plan.env[:len(plan.env):len(plan.env)], mark),
		Dir:    plan.dir,
		Output: write,
		Mark:   mark,
	})
	if err != nil {
		read.Close()
		return nil, nil, fmt.Errorf("%s: %w", plan.args[0], err)
	}
	return child, read, nil
}

// await waits for the end of the child and ends it when the pod is to stop: SIGTERM to its group, and at the deadline SIGKILL to
// everything of it.
func (p *pod) await(child *reaper.Child) {
	timer := time.NewTimer(0)
	<-timer.C
	termed := false
	look := func() {
		killAt, _ := p.stopping()
		if killAt.IsZero() {
			return
		}
		wait := time.Until(killAt)
		if !termed && wait > 0 {
			child.Signal(syscall.SIGTERM)
			termed = true
		}
		timer.Reset(wait)
	}
	look() // A stop may have come, and its token gone, while the container was started.
	for {
		select {
		case <-child.Done():
			timer.Stop()
			return
		case <-p.changed:
			look()
		case <-timer.C:
			child.Kill()
		}
	}
}
