package kubeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	batchapply "k8s.io/client-go/applyconfigurations/batch/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// hourly is a CronJob that starts nothing while a test runs, but by hand.
func hourly(name string) *batchv1.CronJob {
	cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"special": name}}}
	cronJob.Spec.Schedule = "0 0 29 2 *"
	cronJob.Spec.JobTemplate.Spec.Template.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyOnFailure, Containers: []corev1.Container{{Name: "c", Image: "busybox", Command: []string{"sleep", "300"}}},
	}
	return cronJob
}

// runAt makes the run of a minute due, so many of them ago: it is the one in the day that the schedule wants, and was not started.
func (p *plane) runAt(name string, minutes int) {
	p.t.Helper()
	at := time.Now().UTC().Add(-time.Duration(minutes) * time.Minute)
	patch := fmt.Sprintf(`{"spec":{"schedule":"%d %d * * *"}}`, at.Minute(), at.Hour())
	_, err := p.client.BatchV1().CronJobs("default").Patch(p.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	p.must(err)
	p.due(name, time.Since(at)+time.Minute)
}

// due makes a run of the CronJob missed, so that it is due: its last one was so long ago.
func (p *plane) due(name string, ago time.Duration) *batchv1.CronJob {
	p.t.Helper()
	patch := fmt.Sprintf(`{"status":{"lastScheduleTime":%q}}`, time.Now().Add(-ago).UTC().Format(time.RFC3339))
	patched, err := p.client.BatchV1().CronJobs("default").Patch(p.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	p.must(err)
	return patched
}

// active waits until so many Jobs are active, and returns their names.
func (p *plane) active(name string, count int) (jobs []string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%d Jobs of %s are active", count, name), func(s *engine.State) bool {
		owner, ok := s.CronJobOf("default", name)
		jobs = nil
		for _, ref := range owner.Progress.Active {
			jobs = append(jobs, ref.Name)
		}
		return ok && len(jobs) == count
	})
	return jobs
}

// K12 of the upstream end-to-end tests: "should support CronJob API operations".
func TestCronJobsSupportTheOperationsOfTheAPI(t *testing.T) {
	p := newPlane(t)
	cronJobs, ctx := p.client.BatchV1().CronJobs("default"), t.Context()
	created, err := cronJobs.Create(ctx, hourly("a"), metav1.CreateOptions{})
	p.must(err)
	if created.Generation != 1 || created.UID == "" || created.ResourceVersion == "" || *created.Spec.SuccessfulJobsHistoryLimit != 3 || created.Spec.ConcurrencyPolicy != "Allow" {
		t.Errorf("it is created as %+v", created)
	}
	if _, err := cronJobs.Create(ctx, hourly("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created again: %v", err)
	}
	if dry, err := cronJobs.Create(ctx, hourly("dry"), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil || dry.UID == "" {
		t.Errorf("a dry run gives %v, %v", dry, err)
	}
	generated := hourly("")
	generated.GenerateName = "b-"
	_, err = cronJobs.Create(ctx, generated, metav1.CreateOptions{})
	p.must(err)
	everywhere, err := p.client.BatchV1().CronJobs("").List(ctx, metav1.ListOptions{})
	p.must(err)
	selected, err := cronJobs.List(ctx, metav1.ListOptions{LabelSelector: "special=a", FieldSelector: "metadata.name=a"})
	p.must(err)
	if len(everywhere.Items) != 2 || len(selected.Items) != 1 {
		t.Errorf("%d everywhere and %d selected", len(everywhere.Items), len(selected.Items))
	}
	watching, err := cronJobs.Watch(ctx, metav1.ListOptions{ResourceVersion: created.ResourceVersion, LabelSelector: "special=a"})
	p.must(err)
	defer watching.Stop()
	patched, err := cronJobs.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	p.must(err)
	if patched.Annotations["patched"] != "true" || patched.Generation != 1 || patched.ResourceVersion == created.ResourceVersion {
		t.Errorf("patched to %+v", patched.ObjectMeta)
	}
	patched.Spec.Suspend = new(bool)
	*patched.Spec.Suspend = true
	updated, err := cronJobs.Update(ctx, patched, metav1.UpdateOptions{})
	p.must(err)
	if updated.Generation != 2 || !*updated.Spec.Suspend {
		t.Errorf("updated to %+v", updated)
	}
	if _, err := cronJobs.Update(ctx, created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old version is written: %v", err)
	}
	last := metav1.Now().Rfc3339Copy()
	status, err := json.Marshal(batchv1.CronJobStatus{LastScheduleTime: &last})
	p.must(err)
	patched, err = cronJobs.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":`+string(status)+`}`), metav1.PatchOptions{}, "status")
	p.must(err)
	if !patched.Status.LastScheduleTime.Equal(&last) || patched.Annotations["patchedstatus"] != "true" || !*patched.Spec.Suspend {
		t.Errorf("its status is patched to %+v", patched)
	}
	later := metav1.NewTime(last.Add(time.Minute))
	patched.Status.LastScheduleTime, patched.Spec.Schedule = &later, "* * * * *"
	written, err := cronJobs.UpdateStatus(ctx, patched, metav1.UpdateOptions{})
	p.must(err)
	if !written.Status.LastScheduleTime.Equal(&later) || written.Spec.Schedule != "0 0 29 2 *" || written.Generation != 2 {
		t.Errorf("its status is written as %+v", written)
	}
	p.must(cronJobs.Delete(ctx, "a", metav1.DeleteOptions{}))
	if _, err := cronJobs.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after its deletion: %v", err)
	}
	for _, want := range []watch.EventType{watch.Modified, watch.Modified, watch.Modified, watch.Modified, watch.Deleted} {
		if got := nextEvent(t, watching); got.Type != want {
			t.Fatalf("the watch tells %s of %+v, want %s", got.Type, got.Object, want)
		}
	}
	p.must(cronJobs.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	if left, err := cronJobs.List(ctx, metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d are left, %v", len(left.Items), err)
	}
}

func nextEvent(t *testing.T, watching watch.Interface) watch.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case e := <-watching.ResultChan():
		return e
	case <-ctx.Done():
		t.Fatal("the watch tells nothing")
		return watch.Event{}
	}
}

func TestACronJobIsAppliedOnTheServerAndItsZoneIsChecked(t *testing.T) {
	p := newPlane(t)
	container := coreapply.Container().WithName("c").WithImage("busybox").WithCommand("true")
	applied := func(zone string) *batchapply.CronJobApplyConfiguration {
		pod := coreapply.PodTemplateSpec().WithSpec(coreapply.PodSpec().WithRestartPolicy("Never").WithContainers(container))
		return batchapply.CronJob("zoned", "default").WithSpec(batchapply.CronJobSpec().WithSchedule("30 2 * * *").WithTimeZone(zone).
			WithJobTemplate(batchapply.JobTemplateSpec().WithSpec(batchapply.JobSpec().WithTemplate(pod))))
	}
	cronJobs := p.client.BatchV1().CronJobs("default")
	// K11 of the upstream end-to-end tests: "should support timezone".
	if _, err := cronJobs.Apply(t.Context(), applied("bad-time-zone"), metav1.ApplyOptions{FieldManager: "test"}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `CronJob.batch "zoned" is invalid: spec.timeZone`) {
		t.Errorf("a zone that there is not: %v", err)
	}
	for i, zone := range []string{"Asia/Kolkata", "Europe/Berlin", "Europe/Berlin"} {
		object, err := cronJobs.Apply(t.Context(), applied(zone), metav1.ApplyOptions{FieldManager: "test"})
		p.must(err)
		if object.Generation != int64(min(i+1, 2)) || *object.Spec.TimeZone != zone {
			t.Errorf("applied as %+v", object)
		}
	}
	p.view.Read(func(s *engine.State) {
		if owner, _ := s.CronJobOf("default", "zoned"); owner.Spec.Zone.String() != "Europe/Berlin" || len(s.Zones) != 2 {
			t.Errorf("it runs in %s, of %d zones", owner.Spec.Zone, len(s.Zones))
		}
	})
}

// K1, K3, K4, K7 and K8 of the upstream end-to-end tests, with runs that are made due.
func TestRunsStartAsTheConcurrencyPolicySays(t *testing.T) {
	p := newPlane(t)
	for _, policy := range []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent} {
		name := strings.ToLower(string(policy))
		cronJob := hourly(name)
		cronJob.Spec.ConcurrencyPolicy = policy
		_, err := p.client.BatchV1().CronJobs("default").Create(t.Context(), cronJob, metav1.CreateOptions{})
		p.must(err)
		p.runAt(name, 3)
		first := p.active(name, 1)[0]
		job, err := p.client.BatchV1().Jobs("default").Get(t.Context(), first, metav1.GetOptions{})
		p.must(err)
		if at, err := time.Parse(time.RFC3339, job.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"]); err != nil || first != fmt.Sprintf("%s-%d", name, at.Unix()/60) {
			t.Errorf("%s was scheduled for %s, %v", first, at, err)
		}
		if !metav1.IsControlledBy(job, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{UID: p.uidOf(name)}}) {
			t.Errorf("%s is owned by %+v", first, job.OwnerReferences)
		}
		p.until("policy has decided", func(s *engine.State) bool { found, _ := s.JobOf("default", first); return found.Profile != nil })
		p.runAt(name, 2)
		p.until("the next run has started or not", func(s *engine.State) bool {
			owner, _ := s.CronJobOf("default", name)
			switch policy {
			case batchv1.AllowConcurrent:
				return len(owner.Progress.Active) == 2
			case batchv1.ForbidConcurrent:
				return owner.Progress.Told.Reason == "JobAlreadyActive" && len(owner.Progress.Active) == 1
			}
			return len(owner.Progress.Active) == 1 && owner.Progress.Active[0].Name != first
		})
	}
}

func (p *plane) uidOf(cronJob string) (uid types.UID) {
	p.view.Read(func(s *engine.State) {
		if owner, ok := s.CronJobOf("default", cronJob); ok {
			uid = types.UID(owner.UID)
		}
	})
	return uid
}

func TestTheJobsOfACronJobGoWithItAsTheClientSays(t *testing.T) {
	p := newPlane(t)
	for policy, want := range map[metav1.DeletionPropagation]bool{metav1.DeletePropagationBackground: false, metav1.DeletePropagationForeground: false, metav1.DeletePropagationOrphan: true} {
		name := strings.ToLower(string(policy))
		_, err := p.client.BatchV1().CronJobs("default").Create(t.Context(), hourly(name), metav1.CreateOptions{})
		p.must(err)
		p.runAt(name, 3)
		run := p.active(name, 1)[0]
		p.until("policy has decided", func(s *engine.State) bool { found, _ := s.JobOf("default", run); return found.Attempts() > 0 })
		p.supply()
		p.must(p.client.BatchV1().CronJobs("default").Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}))
		if policy == metav1.DeletePropagationForeground {
			left, err := p.client.BatchV1().CronJobs("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || left.DeletionTimestamp == nil || len(left.Finalizers) != 1 || left.Finalizers[0] != "foregroundDeletion" {
				t.Errorf("while its Jobs are there it is %+v, %v", left, err)
			}
		}
		if policy != metav1.DeletePropagationOrphan {
			p.report(run, engine.ReportFailed, 1)
		}
		p.until("the CronJob has gone, and its Job or not", func(s *engine.State) bool {
			_, there := s.CronJobOf("default", name)
			job, left := s.JobOf("default", run)
			return !there && left == want && (!left || len(job.Object.OwnerReferences) == 0)
		})
	}
}

func TestANamespaceTakesItsCronJobsAlong(t *testing.T) {
	p := newPlane(t)
	_, err := p.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	p.must(err)
	_, err = p.client.BatchV1().CronJobs("team").Create(t.Context(), hourly("a"), metav1.CreateOptions{})
	p.must(err)
	p.must(p.client.CoreV1().Namespaces().Delete(t.Context(), "team", metav1.DeleteOptions{}))
	p.until("both have gone", func(s *engine.State) bool {
		_, there := s.CronJobOf("team", "a")
		return !there && !s.Objects.Terminating("team") && !s.Holds("team")
	})
	if _, err := p.client.CoreV1().Namespaces().Get(t.Context(), "team", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace: %v", err)
	}
	if _, err := p.client.BatchV1().CronJobs("nowhere").Create(t.Context(), hourly("a"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("created in a namespace that is not there: %v", err)
	}
}

// What governments change comes with the machine's database, and reaches CronJobs when the server looks there.
func TestTheRulesOfZonesAreBroughtUpToDate(t *testing.T) {
	p := newPlane(t)
	berlin, err := manifest.ZoneRules("Europe/Berlin", time.Now())
	p.must(err)
	tokyo, err := manifest.ZoneRules("Asia/Tokyo", time.Now())
	p.must(err)
	p.must(p.stopServing())
	p.submit(engine.ObserveTimeZone{Name: "Europe/Berlin", Rules: tokyo})
	p.serve()
	p.until("the rules are those of this machine", func(s *engine.State) bool { return bytes.Equal(s.Zones["Europe/Berlin"], berlin) })
}
