package kubeapi_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

func TestASuspendedJobTakesOtherResourcesAndRunsWithThemOnceResumed(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	wanted := newJob("a", 1)
	wanted.Spec.Suspend = ptr(true)
	p.create(wanted)
	p.until("the Job is suspended", func(s *engine.State) bool {
		found, _ := s.JobOf("default", "a")
		return found.Progress.Has(batchv1.JobSuspended)
	})
	got, err := jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if got.Status.StartTime != nil || got.Status.Conditions[0].Reason != "JobSuspended" {
		t.Errorf("the status is %+v", got.Status)
	}
	pods, err := p.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	p.must(err)
	if len(pods.Items) != 0 {
		t.Errorf("%d pods were made", len(pods.Items))
	}
	got.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("500m")
	got.Spec.Template.Labels["wave"] = "2"
	_, err = jobs.Update(t.Context(), got, metav1.UpdateOptions{})
	p.must(err)
	_, err = jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
	p.must(err)
	p.finish("a")
	got, err = jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if resumed := got.Status.Conditions[0]; resumed.Status != corev1.ConditionFalse || resumed.Reason != "JobResumed" || got.Status.StartTime == nil {
		t.Errorf("the status is %+v", got.Status)
	}
	pods, err = p.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "wave=2"})
	p.must(err)
	if len(pods.Items) != 1 || pods.Items[0].Spec.Containers[0].Resources.Requests.Cpu().String() != "500m" {
		t.Errorf("the pods are %+v", pods.Items)
	}
	events, err := p.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Job"})
	p.must(err)
	var reasons []string
	for _, each := range events.Items {
		reasons = append(reasons, each.Reason)
	}
	if all := strings.Join(reasons, " "); !strings.Contains(all, "Suspended") || !strings.Contains(all, "Resumed") || !strings.Contains(all, "Completed") {
		t.Errorf("the events are %s", all)
	}
}

func TestAJobOfAnotherControllerKeepsAnEmptyStatus(t *testing.T) {
	p := newPlane(t)
	wanted := newJob("a", 1)
	wanted.Spec.ManagedBy = ptr("example.com/other")
	p.create(wanted)
	got, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if status := got.Status; status.StartTime != nil || len(status.Conditions) > 0 || status.UncountedTerminatedPods != nil || status.Ready != nil {
		t.Errorf("the status is %+v", status)
	}
	p.must(p.client.BatchV1().Jobs("default").Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	p.until("the Job is gone", func(s *engine.State) bool { _, there := s.JobOf("default", "a"); return !there })
}

func TestAWorkQueueIsListedByItsFirstSuccess(t *testing.T) {
	p := newPlane(t)
	wanted := newJob("a", 1)
	wanted.Spec.Completions, wanted.Spec.Parallelism = nil, ptr(int32(2))
	wanted.Spec.CompletionMode = nil
	p.create(wanted)
	text, err := p.client.BatchV1().RESTClient().Get().Namespace("default").Resource("jobs").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	p.must(err)
	if !strings.Contains(string(text), `"a","Running","0/1 of 2"`) {
		t.Errorf("the table is %s", text)
	}
	p.finish("a")
	text, err = p.client.BatchV1().RESTClient().Get().Namespace("default").Resource("jobs").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	p.must(err)
	if !strings.Contains(string(text), `"a","Complete","2/1 of 2"`) {
		t.Errorf("the table is %s", text)
	}
}
