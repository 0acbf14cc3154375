// Package job owns the meaning of a batch/v1 Job: which pods it needs next, what counts as a failure, when it has ended and why, and
// how it and its pods look to a Kubernetes client. It is pure: state and time are arguments, the answer is data. The behaviour is that
// of Kubernetes v1.37 (pkg/controller/job/job_controller.go), but for evictions, which are no failures here.
package job

import (
	"maps"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Retry delays after failed pods, as in Kubernetes v1.37 (pkg/controller/job/job_controller.go: DefaultJobPodFailureBackOff,
// MaxJobPodFailureBackOff).
const (
	FirstRetryDelay = 10 * time.Second
	LastRetryDelay  = 10 * time.Minute
)

// NoIndex is the completion index of pods of a NonIndexed Job.
const NoIndex int32 = -1

// Spec is what decisions need of a Job's spec, with all defaults resolved.
type Spec struct {
	// Completions is how many pods must succeed, or, Indexed, how many indexes there are.
	Completions int32
	// Parallelism is how many pods may be live at a time; 0 pauses the Job.
	Parallelism int32
	Indexed     bool
	// BackoffLimit is how many failures are borne; one more fails the Job.
	BackoffLimit int32
	// ActiveDeadline bounds the time since the Job's start; 0 is none.
	ActiveDeadline time.Duration
	// RestartsInPlace is restartPolicy OnFailure.
	RestartsInPlace bool
	GraceSeconds    int64
	// Requests of one pod in base units by resource name, millicores for cpu; "pods" is 1.
	Requests map[string]int64
	// Arch that the pods demand, a GOARCH; empty for any.
	Arch string
}

// SpecOf reads the spec of a Job whose defaults are filled in.
func SpecOf(object *batchv1.Job) Spec {
	source := &object.Spec
	template := &source.Template.Spec
	spec := Spec{
		Completions:     valueOr(source.Completions, 1),
		Parallelism:     valueOr(source.Parallelism, 1),
		Indexed:         source.CompletionMode != nil && *source.CompletionMode == batchv1.IndexedCompletion,
		BackoffLimit:    valueOr(source.BackoffLimit, 6),
		RestartsInPlace: template.RestartPolicy == corev1.RestartPolicyOnFailure,
		GraceSeconds:    valueOr(template.TerminationGracePeriodSeconds, 30),
		Requests:        map[string]int64{string(corev1.ResourcePods): 1},
		Arch:            template.NodeSelector[corev1.LabelArchStable],
	}
	if source.ActiveDeadlineSeconds != nil {
		spec.ActiveDeadline = time.Duration(*source.ActiveDeadlineSeconds) * time.Second
	}
	for name, amount := range podRequests(template) {
		spec.Requests[name] += amount
	}
	return spec
}

// podRequests is what a pod needs at once: its app containers and all its sidecars together, or more while an init container runs beside
// the sidecars that were started before it (k8s.io/component-helpers/resource/helpers.go, AggregateContainerRequests).
func podRequests(template *corev1.PodSpec) map[string]int64 {
	need := map[string]int64{}
	for i := range template.Containers {
		addRequests(need, &template.Containers[i])
	}
	sidecars, most := map[string]int64{}, map[string]int64{}
	for i := range template.InitContainers {
		container := &template.InitContainers[i]
		stage := maps.Clone(sidecars)
		addRequests(stage, container)
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars = stage
			addRequests(need, container)
		}
		for name, amount := range stage {
			most[name] = max(most[name], amount)
		}
	}
	for name, amount := range most {
		need[name] = max(need[name], amount)
	}
	return need
}

func addRequests(to map[string]int64, container *corev1.Container) {
	for name, quantity := range container.Resources.Requests {
		amount := quantity.Value()
		if name == corev1.ResourceCPU {
			amount = quantity.MilliValue()
		}
		to[string(name)] += amount
	}
}

func valueOr[T any](pointer *T, fallback T) T {
	if pointer == nil {
		return fallback
	}
	return *pointer
}
