package process

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// run is one run of a container.
type run struct {
	pod       *pod
	member    *member
	child     *reaper.Child
	group     *cgroup.Group
	output    *tail
	collector *collector
	started   time.Time
}

// startRun starts the container's process; the pod's goroutine calls it.
func (p *pod) startRun(m *member) (_ *run, err error) {
	config := &p.runtime.config
	path, err := m.executable()
	if err != nil {
		return nil, err
	}
	if m.dir != config.Dir { // That one is the agent's own.
		if info, err := os.Stat(m.dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("working directory %s: %w", m.dir, cmp.Or(err, error(unix.ENOTDIR)))
		}
	}
	mark := fmt.Sprintf("%s=%s.%d.%s.%d.%s", markName, p.attempt.UID, p.attempt.Epoch, m.name, m.restarted, p.runtime.nonce)
	group, err := config.Cgroups.New(m.limits)
	if err != nil {
		return nil, err
	}
	read, write, err := openPipe()
	if err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	defer unix.Close(write)
	r := &run{pod: p, member: m, group: group, started: time.Now()}
	r.child, err = config.Reaper.Start(reaper.Command{
		Path:       path,
		Args:       m.args,
		Env:        append(m.env[:len(m.env):len(m.env)], mark),
		Dir:        m.dir,
		Output:     write,
		Mark:       mark,
		Birthplace: group,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", m.args[0], err), read.Close(), group.Remove())
	}
	r.output = &tail{out: p.observer.Output(m.name, m.restarted)}
	r.collector = collect(read, r.output)
	return r, nil
}

// startError is the ending of a run that there was not.
func startError(m *member, err error) ending {
	now := time.Now()
	return ending{
		member: m, exitCode: attempt.ExitCodeStartError, reason: attempt.ReasonStartError, message: err.Error(),
		text: fmt.Sprintf("%s could not be started: %v", m.title(), err), started: now, finished: now,
	}
}

// kill kills everything of the run, and does not wait for it.
func (r *run) kill() {
	r.child.Kill()
	r.warn("killing a container", r.group.Signal())
}

func (r *run) warn(what string, err error) {
	if err != nil {
		r.pod.runtime.config.Log.Error(what, "pod", r.pod.attempt.UID, "container", r.member.name, "error", err)
	}
}

// await waits for the end of the main process. When it returns nothing of the run is left, and its output has been taken.
func (r *run) await() ending {
	<-r.child.Done()
	e := ending{member: r.member, exitCode: r.child.ExitCode(), reason: attempt.ReasonError, started: r.started, finished: r.child.EndedAt()}
	outOfMemory := false
	if e.exitCode != 0 && r.member.limits.MemoryBytes > 0 {
		var err error
		outOfMemory, err = r.group.OOMKilled()
		r.warn("asking whether a container ran out of memory", err)
	}
	if err := r.group.Remove(); err == nil && r.group.HoldsAll() {
		r.child.Swept()
	} else {
		r.warn("ending what is left of a container", err)
		r.child.Sweep()
	}
	r.collector.finish()

	e.message = r.terminationMessage(e.exitCode)
	title := r.member.title()
	signal, signaled := r.child.Signaled()
	switch {
	case e.exitCode == 0:
		e.reason = attempt.ReasonCompleted
	case outOfMemory:
		e.reason = attempt.ReasonOOMKilled
		e.text = fmt.Sprintf("%s ran out of memory: its limit is %d bytes", title, r.member.limits.MemoryBytes)
	case signaled:
		e.text = fmt.Sprintf("%s was ended by %s", title, unix.SignalName(signal))
	default:
		e.text = fmt.Sprintf("%s exited with code %d", title, e.exitCode)
	}
	if signaled {
		e.signal = signal
	}
	return e
}
