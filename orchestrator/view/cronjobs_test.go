package view_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// schedule creates a CronJob that runs each minute.
func (w *world) schedule(name string, policy batchv1.ConcurrencyPolicy) (*batchv1.CronJob, *batchv1.Job) {
	w.t.Helper()
	made := &batchv1.Job{Spec: batchv1.JobSpec{
		Completions: ptr(int32(1)), Parallelism: ptr(int32(1)), BackoffLimit: ptr(int32(0)), CompletionMode: ptr(batchv1.NonIndexedCompletion),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "i"}}}},
	}}
	cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Generation: 1}}
	cronJob.Spec = batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: policy, SuccessfulJobsHistoryLimit: ptr(int32(0)), FailedJobsHistoryLimit: ptr(int32(0))}
	w.do(engine.CreateCronJob{CronJob: cronJob, Job: made})
	return cronJob, made
}

// minute passes, and the Job that has started last is returned.
func (w *world) minute(cronJob string) *engine.Job {
	w.t.Helper()
	w.now = w.now.Truncate(time.Minute).Add(time.Minute)
	w.do(engine.Tick{})
	owner, _ := w.state.CronJobOf("default", cronJob)
	active := owner.Progress.Active
	return w.state.Jobs[active[len(active)-1].UID]
}

// cronNight plays CronJobs through runs that end, are skipped, vanish, are denied and replaced, and through deletion.
func cronNight(w *world) {
	hello, made := w.schedule("hello", batchv1.ForbidConcurrent)
	run := w.minute("hello")
	w.do(engine.AdmitJob{UID: run.UID, Profile: &event.Profile{Markets: []string{"spot"}}})
	w.supply()
	w.minute("hello")
	done := func(run *engine.Job, phase engine.ReportPhase) {
		for pod := range run.Live() {
			w.do(w.report(pod, phase, 0))
		}
	}
	done(run, engine.ReportSucceeded)
	owner, _ := w.state.CronJobOf("default", "hello")
	w.do(engine.DeleteJob{Namespace: "default", Name: owner.Progress.Active[0].Name})
	w.do(engine.DenyJob{UID: w.minute("hello").UID, Reasons: []string{"too dear"}})
	changed := hello.DeepCopy()
	changed.Spec.ConcurrencyPolicy, changed.Generation = batchv1.ReplaceConcurrent, 2
	w.do(engine.UpdateCronJob{CronJob: changed, Job: made})
	w.minute("hello")
	w.minute("hello")
	controls := true
	byHand := made.DeepCopy()
	byHand.Name, byHand.Namespace, byHand.UID = "by-hand", "default", "uid-by-hand"
	byHand.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "hello", UID: hello.UID, Controller: &controls}}
	w.do(engine.CreateJob{Job: byHand})
	w.schedule("gone", batchv1.AllowConcurrent)
	w.minute("gone")
	w.do(engine.DeleteCronJob{Namespace: "default", Name: "gone", Propagation: metav1.DeletePropagationForeground})
}

func TestWhatHappensToACronJobIsShownInKubernetesWords(t *testing.T) {
	w := newWorld(t, view.Options{})
	cronNight(w)
	var said []string
	records, _ := w.view.List(view.Events, view.Selection{Namespace: "default", Fields: fields.OneTermEqualSelector("involvedObject.kind", "CronJob")})
	events := make([]*corev1.Event, len(records))
	for i, record := range records {
		events[i] = record.Object().(*corev1.Event)
	}
	slices.SortStableFunc(events, func(a, b *corev1.Event) int {
		return strings.Compare(a.Name[strings.LastIndex(a.Name, "."):], b.Name[strings.LastIndex(b.Name, "."):])
	})
	for _, e := range events {
		if e.Source.Component != "cronjob-controller" || e.InvolvedObject.APIVersion != "batch/v1" || e.InvolvedObject.UID != types.UID("uid-"+e.InvolvedObject.Name) {
			t.Errorf("an event is about %+v, by %s", e.InvolvedObject, e.Source.Component)
		}
		said = append(said, e.InvolvedObject.Name+" "+e.Type+" "+e.Reason+" "+e.Message)
	}
	want := []string{
		"hello Normal SuccessfulCreate Created job hello-29540041",
		"hello Normal JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid",
		"hello Normal SawCompletedJob Saw completed job: hello-29540041, condition: Complete",
		"hello Normal SuccessfulDelete Deleted job hello-29540041",
		"hello Normal SuccessfulCreate Created job hello-29540042",
		"hello Normal MissingJob Active job went missing: hello-29540042",
		"hello Normal SuccessfulCreate Created job hello-29540043",
		"hello Warning FailedCreate Error creating job: hello-29540043 was denied by policy: too dear",
		"hello Normal SuccessfulCreate Created job hello-29540044",
		"hello Normal SuccessfulDelete Deleted job hello-29540044",
		"hello Normal SuccessfulCreate Created job hello-29540045",
		"hello Warning UnexpectedJob Saw a job that the controller did not create or forgot: by-hand",
	}
	// Both run from here on, and the order of the two in the same minute is no promise.
	if len(said) < len(want) || strings.Join(said[:len(want)], "\n") != strings.Join(want, "\n") {
		t.Errorf("users hear\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	objects, _ := shown(w.view, view.CronJobs, view.Selection{})
	hello := objects["default/hello"].(*batchv1.CronJob)
	if len(hello.Status.Active) != 1 || hello.Status.LastSuccessfulTime == nil || hello.Generation != 2 || hello.Kind != "CronJob" {
		t.Errorf("it is shown as %+v", hello)
	}
	if gone, there := objects["default/gone"]; there {
		t.Errorf("what was deleted is shown as %+v", gone)
	}
}
