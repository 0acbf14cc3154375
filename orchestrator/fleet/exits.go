package fleet

import (
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// exitsOf tells how the containers of a pod ended last, and what they do now. One that has never ended, as it runs for the first time or an init
// container had failed before it, has no exit.
func exitsOf(containers []*wire.ContainerStatus) []job.Exit {
	var exits []job.Exit
	for _, container := range containers {
		ended := container.GetTerminated()
		if ended == nil {
			ended = container.GetLast()
		}
		if ended == nil {
			continue
		}
		exits = append(exits, job.Exit{
			Container: container.GetName(), Code: ended.GetExitCode(), Init: container.GetInit(), Restarts: container.GetRestarts(),
			Reason: ended.GetReason(), Message: ended.GetMessage(), State: exitStateOf(container),
		})
	}
	return exits
}

func exitStateOf(container *wire.ContainerStatus) job.ExitState {
	switch {
	case container.GetTerminated() != nil:
		return job.ExitEnded
	case container.GetRunning() != nil:
		return job.ExitRunning
	case container.GetWaiting().GetReason() == "CrashLoopBackOff":
		return job.ExitBackingOff
	}
	return job.ExitUntold
}
