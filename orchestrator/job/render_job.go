package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status renders a Job's status, as the Job controller writes it. That of a Job which another controller manages is empty: it is that one's.
func Status(spec *Spec, progress *Progress, pods *Pods) batchv1.JobStatus {
	if spec.ManagedElsewhere {
		return batchv1.JobStatus{}
	}
	ready, terminating := pods.Ready, pods.Ending
	status := batchv1.JobStatus{
		Active: pods.Active, Ready: &ready, Terminating: &terminating, Succeeded: progress.Succeeded, Failed: progress.Failed,
		// A pod is counted in one step with its end.
		UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{},
	}
	if !progress.Started.IsZero() {
		started := metav1.NewTime(progress.Started)
		status.StartTime = &started
	}
	if spec.Indexed {
		status.CompletedIndexes = progress.Completed.String()
	}
	if spec.CountsPerIndex() {
		failed := progress.FailedIndexes.String()
		status.FailedIndexes = &failed
	}
	for _, condition := range progress.Conditions {
		at := metav1.NewTime(condition.At)
		holds := corev1.ConditionTrue
		if condition.False {
			holds = corev1.ConditionFalse
		}
		status.Conditions = append(status.Conditions, batchv1.JobCondition{
			Type: condition.Type, Status: holds, LastProbeTime: at, LastTransitionTime: at, Reason: condition.Reason, Message: condition.Message,
		})
		if condition.Type == batchv1.JobComplete {
			status.CompletionTime = &at
		}
	}
	return status
}

// Written is what of a status is not the engine's, and stays as clients have written it: conditions of types that the Job controller does not set, or all of it
// if another controller manages the Job.
func Written(spec *Spec, status *batchv1.JobStatus) batchv1.JobStatus {
	if spec.ManagedElsewhere {
		return *status.DeepCopy()
	}
	var written batchv1.JobStatus
	for _, condition := range status.Conditions {
		if !slices.Contains(controllersConditions, condition.Type) {
			written.Conditions = append(written.Conditions, condition)
		}
	}
	return written
}

// controllersConditions are those that the Job controller sets (k8s.io/api/batch/v1/types.go).
var controllersConditions = []batchv1.JobConditionType{
	batchv1.JobSuspended, batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet,
}

// WithWritten is a status with what clients have written in place of what they had.
func WithWritten(spec *Spec, status *batchv1.JobStatus, written *batchv1.JobStatus) batchv1.JobStatus {
	if spec.ManagedElsewhere {
		return *written.DeepCopy()
	}
	with := *status.DeepCopy()
	with.Conditions = slices.DeleteFunc(with.Conditions, func(c batchv1.JobCondition) bool { return !slices.Contains(controllersConditions, c.Type) })
	with.Conditions = append(with.Conditions, written.Conditions...)
	return with
}
