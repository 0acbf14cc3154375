// Package process runs pods as plain processes of this machine.
//
// A pod has one container, and the container is a process with a process group of its own. It is the machine's in every other
// respect: same user, same files, same network, same host name. A pod inherits the agent's environment (without the variables
// named NIGHTSHIFT_...) below its own, and starts in the directory in which the agent was started, unless its container names a
// working directory. Images are not pulled: a container names its command, or --image says which executable an image stands
// for. Resources are not enforced. Whatever else a pod asks for that would change how it runs is refused by name.
//
// A run of the container is over when its main process ends. The group is killed then, and so is everything that carries the
// run's mark in its environment, as the end of a container's first process ends the container. Only then is the end told, so an
// attempt that is Done runs nothing. Standard output and standard error share one pipe, in order of arrival.
//
// A container that fails under restartPolicy OnFailure is started again in place, with the kubelet's delays; one that cannot
// be started at all (no such executable) is retried in the same way, and one that this runtime refuses fails for good.
package process

import (
	"crypto/rand"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// markName is the variable that marks a run's processes; see reaper.Command.Mark.
const markName = ownPrefix + "RUN"

// Config is what pods run with.
type Config struct {
	// Reaper starts and ends the processes.
	Reaper *reaper.Reaper
	// Environ is what pods inherit, NAME=VALUE each.
	Environ []string
	// Dir is the absolute directory in which pods start.
	Dir string
	// Images says which executable an image stands for when the container names no command.
	Images map[string]string
	// Backoff before restarts in place.
	Backoff Backoff
}

// Runtime runs pods as processes. Safe for concurrent use.
type Runtime struct {
	config Config
	// nonce keeps the marks of this agent's runs apart from those of any other on the machine.
	nonce string
}

// New returns a runtime.
func New(config Config) *Runtime {
	return &Runtime{config: config, nonce: rand.Text()}
}

// Start runs an attempt until it ends; the observer hears how it goes.
func (r *Runtime) Start(a attempt.Attempt, observer attempt.Observer) attempt.Running {
	p := &pod{
		runtime:  r,
		attempt:  a,
		observer: observer,
		changed:  make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	go func() {
		defer close(p.done)
		p.run()
	}()
	return p
}

// Stop implements attempt.Running.
func (p *pod) Stop(grace time.Duration, reason string) {
	deadline := time.Now().Add(max(grace, 0))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killAt.IsZero() {
		p.stopReason = reason
	} else if !deadline.Before(p.killAt) {
		return
	}
	p.killAt = deadline
	select {
	case p.changed <- struct{}{}:
	default: // It has yet to look at the change before.
	}
}

// Done implements attempt.Running.
func (p *pod) Done() <-chan struct{} { return p.done }
