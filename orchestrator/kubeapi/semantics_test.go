package kubeapi_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
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

func TestWhatKubernetesWarnsOfIsToldToTheClient(t *testing.T) {
	p := newPlane(t)
	create := func(body string) (warnings []string) {
		t.Helper()
		result := p.client.BatchV1().RESTClient().Post().Namespace("default").Resource("jobs").SetHeader("Content-Type", "application/yaml").Body([]byte(body)).Do(t.Context())
		p.must(result.Error())
		for _, each := range result.Warnings() {
			warnings = append(warnings, each.Text)
		}
		return warnings
	}
	const text = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: NAME}\nspec:\n  suspend: true\n  completionMode: MODE\n  completions: COUNT\n  parallelism: 10001\n" +
		"  template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, command: [x]}]}}\n"
	body := func(name, mode, count string) string {
		return strings.NewReplacer("NAME", name, "MODE", mode, "COUNT", count).Replace(text)
	}
	if got := create(body("plain", "Indexed", "100000")); len(got) > 0 {
		t.Errorf("of a Job that is as it should be: %q", got)
	}
	if got := create(body("a.b", "NonIndexed", "100001")); len(got) != 1 || !strings.Contains(got[0], "metadata.name: this is used in Pod names and hostnames") {
		t.Errorf("of a Job whose name is no DNS label: %q", got)
	}
	if got := create(body("large", "Indexed", "100001")); len(got) != 1 ||
		!strings.Contains(got[0], "spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4") {
		t.Errorf("of a large Job: %q", got)
	}
	change := func(patch string) int {
		result := p.client.BatchV1().RESTClient().Patch(types.MergePatchType).Namespace("default").Resource("jobs").Name("large").Body([]byte(patch)).Do(t.Context())
		p.must(result.Error())
		return len(result.Warnings())
	}
	if large, label, small := change(`{"spec":{"parallelism":10002}}`), change(`{"metadata":{"labels":{"a":"b"}}}`), change(`{"spec":{"parallelism":10000}}`); large != 1 || label != 0 || small != 0 {
		t.Errorf("%d, %d and %d warnings of changes", large, label, small)
	}
}

func TestAJobIsListedByTheStateThatCountsMost(t *testing.T) {
	p := newPlane(t)
	state := func(job string) string {
		t.Helper()
		text, err := p.client.BatchV1().RESTClient().Get().Namespace("default").Resource("jobs").Name(job).
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
		p.must(err)
		var table metav1.Table
		p.must(json.Unmarshal(text, &table))
		return table.Rows[0].Cells[1].(string)
	}
	failing := newJob("failing", 2)
	failing.Spec.BackoffLimit = ptr(int32(0))
	enough := newJob("enough", 2)
	enough.Spec.CompletionMode = ptr(batchv1.IndexedCompletion)
	enough.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr(int32(1))}}}
	for _, each := range []*batchv1.Job{failing, enough, newJob("paused", 1), newJob("going", 1)} {
		p.create(each)
	}
	p.supply()
	p.reportOne("failing", engine.ReportFailed, 1)
	p.reportOne("enough", engine.ReportSucceeded, 0)
	_, err := p.client.BatchV1().Jobs("default").Patch(t.Context(), "paused", types.MergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{})
	p.must(err)
	p.until("the Job is suspended", func(s *engine.State) bool {
		found, _ := s.JobOf("default", "paused")
		return found.Progress.Has(batchv1.JobSuspended)
	})
	p.report("going", engine.ReportRunning, 0)
	p.must(p.client.BatchV1().Jobs("default").Delete(t.Context(), "going", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	for job, want := range map[string]string{"failing": "FailureTarget", "enough": "SuccessCriteriaMet", "paused": "Suspended", "going": "Terminating"} {
		if got := state(job); got != want {
			t.Errorf("%s is %s, want %s", job, got, want)
		}
	}
	p.report("failing", engine.ReportFailed, 143)
	p.report("enough", engine.ReportFailed, 143)
	for job, want := range map[string]string{"failing": "Failed", "enough": "Complete"} {
		if got := state(job); got != want {
			t.Errorf("%s is %s, want %s", job, got, want)
		}
	}
}

// As TestBackoffLimitPerIndex_DelayedPodDeletion in Kubernetes' test/integration/job: whoever deletes a failed pod takes no failure from its index.
func TestAPodThatHasEndedCanBeDeletedAndStaysCounted(t *testing.T) {
	p := newPlane(t)
	pods := p.client.CoreV1().Pods("default")
	wanted := newJob("a", 1)
	wanted.Spec.CompletionMode, wanted.Spec.BackoffLimitPerIndex = ptr(batchv1.IndexedCompletion), ptr(int32(1))
	p.create(wanted)
	p.supply()
	watching, err := pods.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	p.must(err)
	defer watching.Stop()
	failed := p.report("a", engine.ReportFailed, 1)[0]
	p.must(pods.Delete(t.Context(), failed.Name, metav1.DeleteOptions{}))
	if _, err := pods.Get(t.Context(), failed.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted pod: %v", err)
	}
	for e := range watching.ResultChan() {
		if e.Type == watch.Deleted {
			if gone := e.Object.(*corev1.Pod); gone.Name != failed.Name {
				t.Errorf("the watch tells of %s", gone.Name)
			}
			break
		}
	}
	got, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if got.Status.Failed != 1 {
		t.Errorf("%d failures are counted", got.Status.Failed)
	}
	p.until("the index is tried again", func(s *engine.State) bool {
		found, _ := s.JobOf("default", "a")
		return found.Attempts() == 2
	})
	list, err := pods.List(t.Context(), metav1.ListOptions{})
	p.must(err)
	if len(list.Items) != 1 || list.Items[0].Annotations[batchv1.JobIndexFailureCountAnnotation] != "1" {
		t.Errorf("the pods are %+v", list.Items)
	}
	p.finish("a")
	p.must(pods.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	list, err = pods.List(t.Context(), metav1.ListOptions{})
	p.must(err)
	if len(list.Items) != 0 {
		t.Errorf("%d pods are left", len(list.Items))
	}
	p.must(p.client.BatchV1().Jobs("default").Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	p.until("the Job is gone", func(s *engine.State) bool { return len(s.Jobs) == 0 })
}

func TestPodsAreListedWithTheirRestartsWhileTheyRun(t *testing.T) {
	p := newPlane(t)
	wanted := newJob("a", 1)
	wanted.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	wanted.Spec.Template.Spec.InitContainers = []corev1.Container{
		{Name: "setup", Image: "i", Command: []string{"x"}}, {Name: "proxy", Image: "i", Command: []string{"x"}, RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)},
	}
	p.create(wanted)
	p.supply()
	told := func(restarts int32, exits ...job.Exit) string {
		t.Helper()
		var report engine.ReportPod
		p.view.Read(func(s *engine.State) {
			for pod := range s.Pods() {
				report = engine.ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: engine.ReportRunning, Restarts: restarts, ExitCode: 1, Containers: exits}
			}
		})
		p.submit(report)
		text, err := p.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
		p.must(err)
		var table metav1.Table
		p.must(json.Unmarshal(text, &table))
		return fmt.Sprint(table.Rows[0].Cells[1:4]...)
	}
	setup := job.Exit{Container: "setup", Init: true, State: job.ExitEnded}
	for _, c := range []struct{ got, want string }{
		{told(0), `^0/2 ?Init:0/2 ?0$`},
		{told(1, job.Exit{Container: "setup", Init: true, Code: 1, Restarts: 1, State: job.ExitRunning}), `^0/2 ?Init:0/2 ?1 \(\d+s ago\)$`},
		{told(1, setup), `^2/2 ?Running ?0$`},
		{told(1, setup, job.Exit{Container: "main", Code: 1, State: job.ExitBackingOff}), `^1/2 ?CrashLoopBackOff ?0$`},
		{told(2, setup, job.Exit{Container: "main", Code: 1, Restarts: 1, State: job.ExitRunning}), `^2/2 ?Running ?1 \(\d+s ago\)$`},
		{told(3, setup, job.Exit{Container: "proxy", Init: true, Code: 1, Restarts: 1}, job.Exit{Container: "main", Code: 1, Restarts: 1}), `^2/2 ?Running ?2 \(\d+s ago\)$`},
	} {
		if !regexp.MustCompile(c.want).MatchString(c.got) {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}
