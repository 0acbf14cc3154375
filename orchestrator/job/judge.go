package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Exit is how the last run of a container ended.
type Exit struct {
	Container string
	Code      int32
	// Init: it is an init container.
	Init     bool
	Restarts int32
	Reason   string
	Message  string
	// State of the container while its pod runs; of a pod that has ended it says nothing.
	State ExitState
	// At is when the end was told; zero for that of a pod that has ended.
	At time.Time
}

// ExitState is what became of a container after a run.
type ExitState uint8

// The states. The zero one is that the node did not tell.
const (
	ExitUntold ExitState = iota
	// ExitEnded: it is done for good.
	ExitEnded
	// ExitRunning: it runs again.
	ExitRunning
	// ExitBackingOff: it waits until it is started again.
	ExitBackingOff
)

// Failure is what is known of a pod that has not succeeded, when it is judged.
type Failure struct {
	Namespace, Pod string
	Index          int32
	// IndexFailures of the index that counted before this one.
	IndexFailures int32
	// Exits of its containers, those of init first; an exit code of 0 and a container that still runs are no failure of it.
	Exits []Exit
	// Unbound: no node ever held it.
	Unbound bool
	// Evicted: it has the condition DisruptionTarget, as its node or the control plane took it away.
	Evicted bool
}

// Ruling is what a failure means for the Job.
type Ruling struct {
	// Counted: it is a failure in .status.failed and for the limits.
	Counted bool
	// IndexFailed: the index is not tried again.
	IndexFailed bool
	// FailJob is why the Job fails with it; empty if it does not.
	FailJob string
}

// Judge applies the Job's podFailurePolicy, first match wins (pkg/controller/job/pod_failure_policy.go). An eviction for which no rule speaks
// is no failure, unless the Job counts as Kubernetes does. The exit codes of an evicted pod are the eviction's doing, so rules on exit
// codes are not held against them, again unless the Job counts as Kubernetes does.
func (s *Spec) Judge(failure *Failure) Ruling {
	ruling := Ruling{Counted: !failure.Evicted || s.StrictUpstream}
	if s.FailurePolicy != nil {
		for i := range s.FailurePolicy.Rules {
			if s.apply(i, failure, &ruling) {
				break
			}
		}
	}
	if ruling.Counted && s.CountsPerIndex() && failure.IndexFailures >= s.BackoffLimitPerIndex {
		ruling.IndexFailed = true
	}
	return ruling
}

// apply changes the ruling if the rule matches. A rule with an action that nobody knows is skipped.
func (s *Spec) apply(at int, failure *Failure, ruling *Ruling) (matched bool) {
	rule := &s.FailurePolicy.Rules[at]
	var words string
	switch {
	case rule.OnExitCodes != nil:
		if failure.Evicted && !s.StrictUpstream {
			return false
		}
		exit, ok := matchExits(failure.Exits, rule.OnExitCodes)
		if !ok {
			return false
		}
		words = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching %s rule at index %d",
			exit.Container, failure.Namespace, failure.Pod, exit.Code, rule.Action, at)
	case rule.OnPodConditions != nil:
		condition, ok := matchConditions(failure, rule.OnPodConditions)
		if !ok {
			return false
		}
		words = fmt.Sprintf("Pod %s/%s has condition %s matching %s rule at index %d", failure.Namespace, failure.Pod, condition, rule.Action, at)
	default:
		return false
	}
	switch rule.Action {
	case batchv1.PodFailurePolicyActionIgnore:
		ruling.Counted = false
	case batchv1.PodFailurePolicyActionFailIndex:
		ruling.Counted, ruling.IndexFailed = true, true
	case batchv1.PodFailurePolicyActionCount:
		ruling.Counted = true
	case batchv1.PodFailurePolicyActionFailJob:
		ruling.Counted, ruling.FailJob = true, words
	default:
		return false
	}
	return true
}

// matchExits finds the first container whose exit matches, those of the app before those of init.
func matchExits(exits []Exit, requirement *batchv1.PodFailurePolicyOnExitCodesRequirement) (Exit, bool) {
	for _, init := range []bool{false, true} {
		for _, exit := range exits {
			if exit.Init != init || exit.Code == 0 || (requirement.ContainerName != nil && *requirement.ContainerName != exit.Container) {
				continue
			}
			listed := slices.Contains(requirement.Values, exit.Code)
			if (requirement.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && listed) ||
				(requirement.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !listed) {
				return exit, true
			}
		}
	}
	return Exit{}, false
}

// matchConditions looks among the conditions of a pod that has ended: DisruptionTarget if it was evicted, and those that the rendered pod shows.
func matchConditions(failure *Failure, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) (corev1.PodConditionType, bool) {
	for _, condition := range endedConditions(failure) {
		for _, pattern := range patterns {
			if pattern.Type == condition.Type && pattern.Status == condition.Status {
				return condition.Type, true
			}
		}
	}
	return "", false
}

// endedConditions are those of a pod that has failed, in the order in which they are rendered.
func endedConditions(failure *Failure) []corev1.PodCondition {
	conditions := []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		{Type: corev1.ContainersReady, Status: corev1.ConditionFalse},
		{Type: corev1.PodReady, Status: corev1.ConditionFalse},
	}
	if failure.Unbound {
		conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}}
	}
	if failure.Evicted {
		conditions = append(conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
	}
	return conditions
}
