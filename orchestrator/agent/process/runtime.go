// Package process runs pods as plain processes of this machine.
//
// Each container is a process with a process group of its own, and a control group of its own where there are any (package cgroup). It is
// the machine's in every other respect: same user, same files, same network, same host name. A container inherits the agent's
// environment (without the variables named NIGHTSHIFT_...) below its own, and starts in the directory in which the agent was started,
// unless it names a working directory. Images are not pulled: a container names its command, or --image says which executable an image
// stands for. Whatever else a pod asks for that would change how it runs is refused by name.
//
// A pod goes as with the kubelet: its init containers one after the other, each when the one before has succeeded; those that are sidecars
// are started in their turn and stay; then all app containers at once. A container that fails under restartPolicy OnFailure is started
// again in place, with the kubelet's delays, a sidecar always is; one that cannot be started at all (no such executable) counts as
// failed, and one that this runtime refuses fails the pod for good. The pod ends when its app containers have, or when an init container
// has failed for good. Then the sidecars are stopped, the last first.
//
// A run of a container is over when its main process ends. The groups are killed then, and so is everything that carries the run's
// mark in its environment, as the end of a container's first process ends the container. Only then is the end told, so an attempt that
// is Done runs nothing. Standard output and standard error share one pipe, in order of arrival.
//
// A container leaves its termination message in the file that its variable TERMINATION_MESSAGE_PATH names, and that it makes by writing to it.
// Kubernetes mounts a file at terminationMessagePath; a process has no mounts of its own, so the path is another for each container.
//
// CPU and memory limits are enforced by control groups. Where the machine has none that the agent may use they are not, and the reports
// of a running pod that has limits say so.
package process

import (
	"crypto/rand"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// markName is the variable that marks a run's processes; see reaper.Command.Mark.
const markName = ownPrefix + "RUN"

// Config is what pods run with. All fields but Images are required.
type Config struct {
	// Reaper starts and ends the processes.
	Reaper *reaper.Reaper
	// Cgroups bound the processes.
	Cgroups *cgroup.Node
	// Environ is what pods inherit, NAME=VALUE each.
	Environ []string
	// Dir is the absolute directory in which pods start.
	Dir string
	// StateDir is the absolute directory of what the runtime keeps for pods while they run.
	StateDir string
	// Images says which executable an image stands for when the container names no command.
	Images map[string]string
	// Backoff before restarts in place.
	Backoff Backoff
	Machine Machine
	Log     *slog.Logger
}

// Machine is what pods may ask about where they run.
type Machine struct {
	// Address finds the IP address of the machine, which is also that of its pods. It is asked when a pod wants to know.
	Address func() (string, error)
	// Allocatable are the cpu and memory that pods may use: the limits of containers that have none.
	Allocatable corev1.ResourceList
}

// Runtime runs pods as processes. Safe for concurrent use.
type Runtime struct {
	config Config
	// nonce keeps the marks of this agent's runs apart from those of any other on the machine.
	nonce string
	// pods counts the attempts, for the names of what is kept for them.
	pods atomic.Int64
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
		ended:    make(chan ending),
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
	if p.stop.at.IsZero() {
		p.stop.reason = reason
	} else if !deadline.Before(p.stop.at) {
		return
	}
	p.stop.at, p.stop.atOnce = deadline, grace <= 0
	select {
	case p.changed <- struct{}{}:
	default: // It has yet to look at the change before.
	}
}

// Done implements attempt.Running.
func (p *pod) Done() <-chan struct{} { return p.done }
