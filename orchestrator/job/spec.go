// Package job owns the meaning of a batch/v1 Job: which pods it needs next, what counts as a failure, when it has ended and why, and
// how it and its pods look to a Kubernetes client. It is pure: state and time are arguments, the answer is data. The behaviour is that
// of Kubernetes v1.37 (pkg/controller/job/job_controller.go), but for evictions, which are no failures here unless the Job asks for
// Kubernetes' own accounting.
//
// Next decides from counts and sets, never from a list of pods, so that its cost does not grow with them. Spec.Judge decides what a pod
// that failed means for its Job.
package job

import (
	"slices"
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

// Unlimited is the value of a limit that the Job does not have.
const Unlimited = -1

// The annotations of a Job that change how it is counted, each with its values.
const (
	// AnnotationStrictUpstream, "true": evictions are counted as Kubernetes counts them.
	AnnotationStrictUpstream = "nightshift.dev/strict-upstream"
	// AnnotationOnFirstSuccess, "leave" or "terminate": what a work queue's other pods do when one has succeeded.
	AnnotationOnFirstSuccess = "nightshift.dev/on-first-success"
	FirstSuccessLeaves       = "leave"
	FirstSuccessTerminates   = "terminate"
)

// Spec is what decisions need of a Job's spec, with all defaults resolved.
type Spec struct {
	// Completions is how many pods must succeed, or, Indexed, how many indexes there are; Unlimited for a work queue, which one success ends.
	Completions int32
	// Parallelism is how many pods may be active at a time; 0 pauses the Job.
	Parallelism int32
	Indexed     bool
	// BackoffLimit is how many failures are borne; one more fails the Job.
	BackoffLimit int32
	// BackoffLimitPerIndex is how many failures of one index are borne, MaxFailedIndexes how many failed indexes; or Unlimited.
	BackoffLimitPerIndex int32
	MaxFailedIndexes     int32
	// FailurePolicy is nil for none. It is never changed.
	FailurePolicy *batchv1.PodFailurePolicy
	SuccessRules  []SuccessRule
	// ActiveDeadline bounds the time since the Job's start, TTL is how long it is kept once it has ended; or Unlimited.
	ActiveDeadline time.Duration
	TTL            time.Duration
	Suspended      bool
	// ReplaceFailed is podReplacementPolicy Failed: a pod that is ending holds its place until it has ended.
	ReplaceFailed bool
	// ManagedElsewhere: another controller acts on the Job, and nobody here does.
	ManagedElsewhere bool
	// RestartsInPlace is restartPolicy OnFailure.
	RestartsInPlace bool
	// StrictUpstream counts evictions as Kubernetes does.
	StrictUpstream bool
	// EndsOnFirstSuccess stops a work queue's other pods when one has succeeded.
	EndsOnFirstSuccess bool
}

// SuccessRule is one rule of a success policy.
type SuccessRule struct {
	// Indexes that count; nil for all.
	Indexes *IndexSet
	// Count of successes among them that is enough; Unlimited for all of Indexes.
	Count int32
}

// IsWorkQueue tells whether the pods decide among themselves when the work is done.
func (s *Spec) IsWorkQueue() bool { return s.Completions == Unlimited }

// CountsPerIndex tells whether each index has failures of its own.
func (s *Spec) CountsPerIndex() bool { return s.BackoffLimitPerIndex != Unlimited }

// SpecOf reads the spec of a Job whose defaults are filled in.
func SpecOf(object *batchv1.Job) Spec {
	source := &object.Spec
	spec := Spec{
		Completions:          valueOr(source.Completions, Unlimited),
		Parallelism:          valueOr(source.Parallelism, 1),
		Indexed:              source.CompletionMode != nil && *source.CompletionMode == batchv1.IndexedCompletion,
		BackoffLimit:         valueOr(source.BackoffLimit, 6),
		BackoffLimitPerIndex: valueOr(source.BackoffLimitPerIndex, Unlimited),
		MaxFailedIndexes:     valueOr(source.MaxFailedIndexes, Unlimited),
		FailurePolicy:        source.PodFailurePolicy,
		ActiveDeadline:       Unlimited,
		TTL:                  Unlimited,
		Suspended:            valueOr(source.Suspend, false),
		ReplaceFailed:        valueOr(source.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed,
		ManagedElsewhere:     valueOr(source.ManagedBy, batchv1.JobControllerName) != batchv1.JobControllerName,
		RestartsInPlace:      source.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure,
		StrictUpstream:       object.Annotations[AnnotationStrictUpstream] == "true",
		EndsOnFirstSuccess:   object.Annotations[AnnotationOnFirstSuccess] == FirstSuccessTerminates,
	}
	if source.Completions == nil && source.Parallelism == nil {
		spec.Completions = 1
	}
	if source.ActiveDeadlineSeconds != nil {
		spec.ActiveDeadline = time.Duration(*source.ActiveDeadlineSeconds) * time.Second
	}
	if source.TTLSecondsAfterFinished != nil {
		spec.TTL = time.Duration(*source.TTLSecondsAfterFinished) * time.Second
	}
	if spec.Indexed && source.SuccessPolicy != nil {
		for i := range source.SuccessPolicy.Rules {
			spec.SuccessRules = append(spec.SuccessRules, successRule(&source.SuccessPolicy.Rules[i], spec.Completions))
		}
	}
	return spec
}

func successRule(source *batchv1.SuccessPolicyRule, completions int32) SuccessRule {
	rule := SuccessRule{Count: valueOr(source.SucceededCount, Unlimited)}
	if source.SucceededIndexes != nil {
		indexes := parseIndexes(*source.SucceededIndexes, completions)
		rule.Indexes = &indexes
	}
	return rule
}

// Template is what the engine needs of a pod template.
type Template struct {
	GraceSeconds int64
	// Requests of one pod in base units by resource name, millicores for cpu; "pods" is 1.
	Requests map[string]int64
	// Arch that the pods demand, a GOARCH; empty for any.
	Arch string
	// Initial are the init containers that have to succeed before the others start, sidecars left out.
	Initial []string
}

// IsInitialized tells whether the init containers have done their work, by how containers have ended (pkg/kubelet/status/generate.go:
// GeneratePodInitializedCondition).
func (t *Template) IsInitialized(exits []Exit) bool {
	for _, name := range t.Initial {
		if !slices.ContainsFunc(exits, func(exit Exit) bool { return exit.Init && exit.Container == name && exit.Code == 0 }) {
			return false
		}
	}
	return true
}

// TemplateOf reads the template of a Job whose defaults are filled in. A pod requests the sum of its containers, or what its init
// containers need before them if that is more, a sidecar counting among both (k8s.io/component-helpers/resource: PodRequests).
func TemplateOf(object *batchv1.Job) Template {
	source := &object.Spec.Template.Spec
	template := Template{
		GraceSeconds: valueOr(source.TerminationGracePeriodSeconds, 30),
		Requests:     make(map[string]int64),
		Arch:         source.NodeSelector[corev1.LabelArchStable],
	}
	for i := range source.Containers {
		addRequests(template.Requests, &source.Containers[i])
	}
	sidecars, before := make(map[string]int64), make(map[string]int64)
	for i := range source.InitContainers {
		container := &source.InitContainers[i]
		needed := make(map[string]int64)
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			addRequests(sidecars, container)
		} else {
			template.Initial = append(template.Initial, container.Name)
			addRequests(needed, container)
		}
		for name, amount := range sidecars {
			needed[name] += amount
		}
		for name, amount := range needed {
			before[name] = max(before[name], amount)
		}
	}
	for name, amount := range sidecars {
		template.Requests[name] += amount
	}
	for name, amount := range before {
		template.Requests[name] = max(template.Requests[name], amount)
	}
	template.Requests[string(corev1.ResourcePods)] = 1
	return template
}

func addRequests(sum map[string]int64, container *corev1.Container) {
	for name, quantity := range container.Resources.Requests {
		amount := quantity.Value()
		if name == corev1.ResourceCPU {
			amount = quantity.MilliValue()
		}
		sum[string(name)] += amount
	}
}

func valueOr[T any](pointer *T, fallback T) T {
	if pointer == nil {
		return fallback
	}
	return *pointer
}
