package job

import (
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Object renders a Job as a Kubernetes client sees it. Stored is the object without status and is not changed; version is
// the sequence number of the last fact that concerned the Job.
func Object(stored *batchv1.Job, spec Spec, progress *Progress, live []Pod, version uint64) *batchv1.Job {
	object := stored.DeepCopy()
	object.TypeMeta = metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}
	object.ResourceVersion = strconv.FormatUint(version, 10)
	object.Status = Status(spec, progress, live)
	return object
}

// Status renders a Job's status, as the Job controller writes it.
func Status(spec Spec, progress *Progress, live []Pod) batchv1.JobStatus {
	status := batchv1.JobStatus{
		Succeeded:               progress.Succeeded,
		Failed:                  progress.Failed,
		UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{},
	}
	var ready, terminating int32
	for i := range live {
		switch {
		case !live[i].Stopping.IsZero():
			terminating++
		default:
			status.Active++
			if !live[i].Started.IsZero() {
				ready++
			}
		}
	}
	status.Ready, status.Terminating = &ready, &terminating
	if !progress.Started.IsZero() {
		started := metav1.NewTime(progress.Started)
		status.StartTime = &started
	}
	if spec.Indexed {
		status.CompletedIndexes = progress.Completed.String()
	}
	for _, condition := range progress.Conditions {
		at := metav1.NewTime(condition.At)
		status.Conditions = append(status.Conditions, batchv1.JobCondition{
			Type: condition.Type, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at,
			Reason: condition.Reason, Message: condition.Message,
		})
		if condition.Type == batchv1.JobComplete {
			status.CompletionTime = &at
		}
	}
	return status
}
