// Package attempt holds the words in which the agent and a runtime speak about one pod on the node.
//
// The agent hands an Attempt and an Observer to a runtime; the runtime runs the pod, tells the Observer how it goes, and returns
// a Running by which the agent ends it. A runtime keeps no record beyond the attempts that run: what was reported, and what is to
// be repeated, is the agent's affair.
package attempt

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// Reasons in Kubernetes' words, for Status.Reason.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
)

// ExitCodeStartError is the exit code of a container that could not be started, as containerd reports it.
const ExitCodeStartError = 128

// Attempt is one run of a pod on this node, restarts in place included.
type Attempt struct {
	UID   string
	Epoch uint64
	// Pod as the control plane rendered it; read only.
	Pod *corev1.Pod
}

// Status is how far an attempt has come. The phase and, within a phase, the restarts only grow.
type Status struct {
	Phase wire.PodReport_Phase
	// Restarts in place so far, of all containers together.
	Restarts int32
	// ExitCode as in wire.PodReport: 0 to 255, 128 + the signal's number after a signal; 0 before the first failure.
	ExitCode int32
	Reason   string
	Message  string
	// Containers as in wire.PodReport; never changed once they are observed.
	Containers []*wire.ContainerStatus
}

// Ended says that nothing of the attempt runs and nothing will.
func (s Status) Ended() bool {
	return s.Phase == wire.PodReport_SUCCEEDED || s.Phase == wire.PodReport_FAILED
}

// Observer hears about one attempt. A runtime calls it from one goroutine at a time.
type Observer interface {
	// Observe takes the next status. It does not block for long. After an ended status there is no other call.
	Observe(Status)
	// Output opens the log of one container run. The runtime ends every Output before it opens the next of the same container and before
	// it observes an ended status. The outputs of several containers are open at once, and written from goroutines of their own.
	Output(container string, restart int32) Output
}

// Output takes the log of one container run.
type Output interface {
	// Write takes a chunk of at most 64 KiB and copies what it keeps. It blocks while the agent holds as much as it may: that
	// is how back-pressure reaches the pod.
	Write(chunk []byte)
	// End says that the log is complete.
	End()
}

// Running is an attempt that was started.
type Running interface {
	// Stop ends the attempt: SIGTERM now, SIGKILL after the grace, at once for a grace of zero or less. Sidecars get their SIGTERM when
	// the containers that they serve have ended, the last first, and at least two seconds after it, if the grace is not zero. Called
	// again, the earlier deadline and the first reason count. It does not block.
	Stop(grace time.Duration, reason string)
	// Done is closed when the attempt has ended, its last status was observed, and nothing of it runs any more.
	Done() <-chan struct{}
}
