package job

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodObject renders a pod as a Kubernetes client and the node's agent see it: named, labelled and owned as the Job controller does it
// (pkg/controller/job/job_controller.go, indexed_job_utils.go). Owner is the stored Job and is not changed; version is the
// sequence number of the last fact that concerned the pod.
func PodObject(owner *batchv1.Job, pod Pod, version uint64) *corev1.Pod {
	template := owner.Spec.Template.DeepCopy()
	object := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, GenerateName: pod.Name[:max(len(pod.Name)-5, 0)], Namespace: owner.Namespace, UID: types.UID(pod.UID),
			ResourceVersion: strconv.FormatUint(version, 10), CreationTimestamp: metav1.NewTime(pod.Created),
			Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: template.Spec,
	}
	object.Spec.NodeName = pod.Node
	if pod.Index != NoIndex {
		index(object, owner.Name, pod.Index)
		if owner.Spec.BackoffLimitPerIndex != nil {
			countFailures(object, pod)
		}
	}
	if pod.Outcome == Live && !pod.Released {
		object.Finalizers = []string{batchv1.JobTrackingFinalizer}
	}
	if !pod.Stopping.IsZero() && pod.Outcome == Live {
		at := metav1.NewTime(pod.Stopping.Add(time.Duration(pod.GraceSeconds) * time.Second))
		grace := pod.GraceSeconds
		object.DeletionTimestamp, object.DeletionGracePeriodSeconds = &at, &grace
	}
	object.Status = podStatus(object, pod)
	return object
}

// index gives the pod its completion index: annotation, label, hostname, and an environment variable that reads the label, unless the
// user's own takes its place.
func index(object *corev1.Pod, jobName string, completionIndex int32) {
	text := strconv.Itoa(int(completionIndex))
	if object.Annotations == nil {
		object.Annotations = make(map[string]string)
	}
	if object.Labels == nil {
		object.Labels = make(map[string]string)
	}
	object.Annotations[batchv1.JobCompletionIndexAnnotation] = text
	object.Labels[batchv1.JobCompletionIndexAnnotation] = text
	object.Spec.Hostname = fmt.Sprintf("%s-%s", jobName, text)
	for _, containers := range [][]corev1.Container{object.Spec.InitContainers, object.Spec.Containers} {
		for i := range containers {
			addIndexEnv(&containers[i])
		}
	}
}

func addIndexEnv(container *corev1.Container) {
	if hasEnv(container.Env, "JOB_COMPLETION_INDEX") {
		return
	}
	container.Env = append(container.Env, corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{
			APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation),
		},
	}})
}

// countFailures notes what the pod's index had behind it, as addIndexFailureCountAnnotation does.
func countFailures(object *corev1.Pod, pod Pod) {
	object.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(pod.IndexFailures))
	if pod.IndexIgnored > 0 {
		object.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(pod.IndexIgnored))
	}
}

func hasEnv(env []corev1.EnvVar, name string) bool {
	for i := range env {
		if env[i].Name == name {
			return true
		}
	}
	return false
}

func podStatus(object *corev1.Pod, pod Pod) corev1.PodStatus {
	status := corev1.PodStatus{Phase: phase(pod), QOSClass: qosClass(&object.Spec)}
	running := pod.Outcome == Live && !pod.Started.IsZero() && !slices.ContainsFunc(pod.Exits, func(exit Exit) bool { return exit.State == ExitBackingOff })
	initialized := pod.Outcome != Live || !pod.Started.IsZero() || !slices.ContainsFunc(object.Spec.InitContainers, isInitial)
	if pod.Bound.IsZero() {
		status.Conditions = []corev1.PodCondition{condition(corev1.PodScheduled, false, pod.Created, "Unschedulable", pod.Message)}
	} else {
		started := metav1.NewTime(pod.Bound)
		status.StartTime = &started
		status.Conditions = []corev1.PodCondition{
			condition(corev1.PodScheduled, true, pod.Bound, "", ""),
			condition(corev1.PodInitialized, initialized, pod.Bound, "", ""),
			condition(corev1.ContainersReady, running, lastChange(pod), "", ""),
			condition(corev1.PodReady, running, lastChange(pod), "", ""),
		}
	}
	switch {
	case pod.Outcome == Evicted:
		status.Conditions = append(status.Conditions, condition(corev1.DisruptionTarget, true, pod.Finished, pod.Reason, pod.Message))
	case pod.Outcome == Live && pod.Evicting:
		status.Conditions = append(status.Conditions, condition(corev1.DisruptionTarget, true, pod.Stopping, pod.Reason, pod.Message))
	}
	if pod.Outcome != Live && pod.Outcome != Succeeded {
		status.Reason, status.Message = pod.Reason, pod.Message
	}
	for i := range object.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, initStatus(&object.Spec.InitContainers[i], pod))
	}
	for i := range object.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(&object.Spec.Containers[i], pod, false))
	}
	if len(object.Spec.InitContainers) > 0 {
		initializing(status.InitContainerStatuses)
		initializing(status.ContainerStatuses)
	}
	return status
}

func phase(pod Pod) corev1.PodPhase {
	switch {
	case pod.Outcome == Succeeded:
		return corev1.PodSucceeded
	case pod.Outcome != Live:
		return corev1.PodFailed
	case !pod.Started.IsZero():
		return corev1.PodRunning
	}
	return corev1.PodPending
}

func lastChange(pod Pod) time.Time {
	for _, at := range []time.Time{pod.Finished, pod.Started, pod.Bound} {
		if !at.IsZero() {
			return at
		}
	}
	return pod.Created
}

func condition(kind corev1.PodConditionType, holds bool, at time.Time, reason, message string) corev1.PodCondition {
	status := corev1.ConditionFalse
	if holds {
		status = corev1.ConditionTrue
	}
	return corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: metav1.NewTime(at), Reason: reason, Message: message}
}

// qosClass follows pkg/apis/core/v1/helper/qos for the resources cpu and memory.
func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	guaranteed, any := true, false
	for i := range spec.Containers {
		resources := &spec.Containers[i].Resources
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := resources.Requests[name], resources.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && request.Cmp(limit) == 0
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
