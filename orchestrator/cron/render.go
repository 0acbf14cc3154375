package cron

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Kind of a CronJob.
var Kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// JobName names the Job of a run by the minute that it was scheduled for: no run has two (getJobName in
// pkg/controller/cronjob/cronjob_controllerv2.go).
func JobName(cronJob string, scheduled time.Time) string {
	return fmt.Sprintf("%s-%d", cronJob, scheduled.Unix()/60)
}

// JobUID is the UID of a Job that a CronJob starts, a version 8 UUID (RFC 9562). Seq is the number of the fact that starts it, so that a Job
// that is made again under its former name is another one.
func JobUID(cronJobUID string, seq uint64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "cronjob %s %d", cronJobUID, seq))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return job.FormatUID([16]byte(sum[:16]))
}

// JobOf makes the Job of a run from what the CronJob's Jobs are made of, a Job with its defaults; neither is changed (getJobFromTemplate2 in
// pkg/controller/cronjob/utils.go; the rest is what the API server adds to a Job that is created).
func JobOf(cronJob *batchv1.CronJob, made *batchv1.Job, uid string, scheduled, now time.Time, zone *time.Location) *batchv1.Job {
	object := made.DeepCopy()
	object.Name, object.Namespace, object.UID, object.Generation = JobName(cronJob.Name, scheduled), cronJob.Namespace, types.UID(uid), 1
	object.CreationTimestamp = metav1.NewTime(now)
	object.Annotations = maps.Clone(object.Annotations)
	if object.Annotations == nil {
		object.Annotations = make(map[string]string)
	}
	object.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = scheduled.In(zone).Format(time.RFC3339)
	object.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cronJob, Kind)}
	labels := maps.Clone(object.Spec.Template.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	// pkg/registry/batch/job/strategy.go: generateSelector.
	for key, value := range map[string]string{
		"job-name": object.Name, batchv1.JobNameLabel: object.Name, "controller-uid": uid, batchv1.ControllerUidLabel: uid,
	} {
		if _, set := labels[key]; !set {
			labels[key] = value
		}
	}
	object.Spec.Template.Labels = labels
	object.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: uid}}
	if len(object.Labels) == 0 {
		object.Labels = maps.Clone(labels)
	}
	return object
}

// Controller returns the UID of the CronJob that controls a Job, empty for none.
func Controller(object *batchv1.Job) string {
	if owner := metav1.GetControllerOfNoCopy(object); owner != nil && owner.Kind == Kind.Kind && owner.APIVersion == batchv1.SchemeGroupVersion.String() {
		return string(owner.UID)
	}
	return ""
}

// Status renders a CronJob's status, as its controller writes it.
func Status(namespace string, progress *Progress) batchv1.CronJobStatus {
	status := batchv1.CronJobStatus{LastScheduleTime: timeOf(progress.LastSchedule), LastSuccessfulTime: timeOf(progress.LastSuccessful)}
	for _, ref := range progress.Active {
		status.Active = append(status.Active, corev1.ObjectReference{
			APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: namespace, Name: ref.Name, UID: types.UID(ref.UID),
		})
	}
	return status
}

func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	at := metav1.NewTime(t)
	return &at
}
