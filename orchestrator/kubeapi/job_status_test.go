package kubeapi_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const custom = batchv1.JobConditionType("example.com/Checked")

func TestAConditionOfAClientStaysBesideTheJobsOwn(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	p.create(newJob("a", 1))
	at := metav1.NewTime(time.Unix(1_000_000_000, 0))
	own := func(job *batchv1.Job) bool {
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == custom && c.Status == corev1.ConditionTrue && c.LastTransitionTime.Equal(&at)
		})
	}
	patch := func(text string) (*batchv1.Job, []string) {
		t.Helper()
		result := p.client.BatchV1().RESTClient().Patch(types.MergePatchType).Namespace("default").Resource("jobs").Name("a").SubResource("status").Body([]byte(text)).Do(t.Context())
		job := new(batchv1.Job)
		p.must(result.Into(job))
		var warnings []string
		for _, each := range result.Warnings() {
			warnings = append(warnings, each.Text)
		}
		return job, warnings
	}
	const condition = `{"type":"example.com/Checked","status":"True","lastTransitionTime":"2001-09-09T01:46:40Z"}`
	job, warnings := patch(`{"metadata":{"labels":{"x":"y"}},"spec":{"parallelism":7},"status":{"conditions":[` + condition + `]}}`)
	if !own(job) || job.Labels["x"] != "y" || *job.Spec.Parallelism == 7 || job.Generation != 1 || len(warnings) != 0 {
		t.Errorf("with the warnings %q the Job is %+v", warnings, job)
	}
	// What the engine tells is put right at once, and the client is told so.
	job, warnings = patch(`{"status":{"active":5,"ready":3}}`)
	if job.Status.Active != 1 || *job.Status.Ready != 0 || !own(job) || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "status: ") {
		t.Errorf("with the warnings %q the status is %+v", warnings, job.Status)
	}
	_, err := jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":{"active":1,"ready":3}}`), metav1.PatchOptions{}, "status")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.ready") {
		t.Errorf("a status that Kubernetes refuses: %v", err)
	}
	_, err = jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"parallelism":2}}`), metav1.PatchOptions{})
	p.must(err)
	p.supply()
	p.finish("a")
	job, err = jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if !own(job) || len(job.Status.Conditions) != 3 || job.Status.CompletionTime == nil {
		t.Errorf("at its end the status is %+v", job.Status)
	}
	_, err = jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":{"conditions":[]}}`), metav1.PatchOptions{}, "status")
	if !apierrors.IsInvalid(err) {
		t.Errorf("a Job that is Complete is made to go on with: %v", err)
	}
	job.Status.Conditions = slices.DeleteFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == custom })
	job, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{})
	p.must(err)
	if own(job) || len(job.Status.Conditions) != 2 {
		t.Errorf("without the client's condition the status is %+v", job.Status)
	}
	job.ResourceVersion = "1"
	if _, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a change to an old version: %v", err)
	}
}

func TestTheControllerThatManagesAJobWritesItsStatus(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	wanted := newJob("a", 1)
	wanted.Spec.ManagedBy = ptr("example.com/other")
	p.create(wanted)
	job, err := jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	started := metav1.NewTime(time.Unix(1_000_000_000, 0))
	job.Status = batchv1.JobStatus{StartTime: &started, Active: 1, Ready: ptr(int32(1))}
	job, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{})
	p.must(err)
	if !job.Status.StartTime.Equal(&started) || job.Status.Active != 1 || *job.Status.Ready != 1 {
		t.Errorf("the status is %+v", job.Status)
	}
	job.Labels = map[string]string{"x": "y"}
	job, err = jobs.Update(t.Context(), job, metav1.UpdateOptions{})
	p.must(err)
	if job.Status.Active != 1 {
		t.Errorf("after a change of its labels the status is %+v", job.Status)
	}
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	if _, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a Job that is Complete before its criteria are met: %v", err)
	}
}
