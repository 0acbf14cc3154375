package job

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// isInitial tells whether an init container has to succeed before those behind it start; the others are sidecars.
func isInitial(container corev1.Container) bool {
	return container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways
}

// initStatus is that of a container which has done its work when the pod has started; a sidecar runs as long as the pod.
func initStatus(container *corev1.Container, pod Pod) corev1.ContainerStatus {
	status := containerStatus(container, pod, true)
	if !isInitial(*container) || pod.Outcome != Live {
		return status
	}
	exit, told := exitOf(container.Name, true, pod)
	done := &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: metav1.NewTime(pod.Bound), FinishedAt: metav1.NewTime(pod.Started)}
	switch {
	case !pod.Started.IsZero():
	case told && exit.Code == 0:
		done.FinishedAt = metav1.NewTime(exit.At)
	default:
		return status
	}
	status.State, status.LastTerminationState = corev1.ContainerState{Terminated: done}, corev1.ContainerState{}
	status.Ready = true
	return status
}

// containerStatus says of each container what its node told, or else what the pod's state says.
func containerStatus(container *corev1.Container, pod Pod, init bool) corev1.ContainerStatus {
	status := corev1.ContainerStatus{
		Name: container.Name, Image: container.Image, ImageID: container.Image,
		Ready: pod.Outcome == Live && !pod.Started.IsZero(),
	}
	exit, told := exitOf(container.Name, init, pod)
	status.RestartCount = exit.Restarts
	status.Started = &status.Ready
	switch {
	case pod.Outcome != Live && !told && (len(pod.Exits) > 0 || pod.Started.IsZero() && init):
		// It never came to run.
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	case pod.Outcome != Live:
		status.State.Terminated = terminated(exit)
		status.State.Terminated.StartedAt, status.State.Terminated.FinishedAt = metav1.NewTime(pod.Started), metav1.NewTime(pod.Finished)
	case told && exit.State == ExitBackingOff:
		status.Ready = false
		status.State.Waiting = &corev1.ContainerStateWaiting{
			Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off restarting failed container=%s pod=%s", container.Name, pod.Name),
		}
		status.LastTerminationState.Terminated = terminated(exit)
	case told && (exit.State == ExitRunning || exit.State == ExitUntold && exit.Restarts > 0):
		// When it was started again is not on record; it was not before its last end.
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(exit.At)}
		status.LastTerminationState.Terminated = terminated(exit)
	case told && !pod.Started.IsZero():
		// It is done, and others go on.
		status.Ready = false
		status.State.Terminated = terminated(exit)
	case !pod.Started.IsZero():
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(pod.Started)}
	default:
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	return status
}

// initializing says of containers of a pod with init containers which wait to be started that the pod is being initialized, as the kubelet does.
func initializing(statuses []corev1.ContainerStatus) {
	for i := range statuses {
		if waiting := statuses[i].State.Waiting; waiting != nil && waiting.Reason == "ContainerCreating" {
			waiting.Reason = "PodInitializing"
		}
	}
}

// terminated is how a run of a container ended.
func terminated(exit Exit) *corev1.ContainerStateTerminated {
	reason := exit.Reason
	if reason == "" {
		reason = "Error"
		if exit.Code == 0 {
			reason = "Completed"
		}
	}
	return &corev1.ContainerStateTerminated{ExitCode: exit.Code, Reason: reason, Message: exit.Message, FinishedAt: metav1.NewTime(exit.At)}
}

// exitOf is how a container ended. A node that tells of no container has told of the pod's only one.
func exitOf(container string, init bool, pod Pod) (exit Exit, told bool) {
	for _, exit := range pod.Exits {
		if exit.Container == container && exit.Init == init {
			return exit, true
		}
	}
	if init || len(pod.Exits) > 0 {
		return Exit{}, false
	}
	exit = Exit{Container: container, Code: pod.ExitCode, Restarts: pod.Restarts}
	if pod.Outcome != Live && pod.Outcome != Succeeded {
		exit.Reason = "Error"
	}
	return exit, false
}
