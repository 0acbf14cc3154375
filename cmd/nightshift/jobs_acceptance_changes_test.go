package main_test

import (
	"maps"
	"os"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

// checkLeft holds what pods have left in their directory.
func (k *tenant) checkLeft(want ...string) {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	k.must(err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, want) {
		k.t.Errorf("the pods have left %q, want %q", names, want)
	}
}

// update changes the tenant's Job as a client does that reads, changes and writes, again if somebody was faster.
func (k *tenant) update(change func(*batchv1.Job)) (updated *batchv1.Job) {
	k.t.Helper()
	k.must(retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		job := k.job()
		change(job)
		updated, err = k.jobs.Update(k.t.Context(), job, metav1.UpdateOptions{})
		return err
	}))
	return updated
}

func suspend(yes bool) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.Spec.Suspend = &yes }
}

// awaitSuspended waits until the Job says that it is suspended.
func (k *tenant) awaitSuspended() *batchv1.Job {
	k.t.Helper()
	job := k.awaitJob("it is suspended", func(job *batchv1.Job) bool {
		return has(job, batchv1.JobSuspended, "JobSuspended") && job.Status.Active == 0
	})
	if job.Status.StartTime != nil || job.Status.Failed != 0 {
		k.t.Errorf("it is suspended, and its status is %+v", job.Status)
	}
	return job
}

// requests have each container request that much.
func requests(cpu, memory string) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

// checkRequests holds what pods request.
func (k *tenant) checkRequests(pods map[string]*corev1.Pod, count int, cpu, memory string) {
	k.t.Helper()
	if len(pods) != count {
		k.t.Errorf("%d pods are there, want %d", len(pods), count)
	}
	for name, pod := range pods {
		if got := pod.Spec.Containers[0].Resources.Requests; got.Cpu().String() != cpu || got.Memory().String() != memory {
			k.t.Errorf("the pod %s requests %v", name, got)
		}
	}
}

// jobsThatAreChanged are about what clients do to Jobs.
var jobsThatAreChanged = []acceptance{
	{"J7: a Job that is created suspended has no pods until it is resumed", func(k *tenant) {
		k.run(succeeds, 2, 4, suspended)
		k.awaitSuspended()
		if pods := k.listed(); len(pods) != 0 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
		k.update(suspend(false))
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 4})
		if resumed := job.Status.Conditions[0]; resumed.Type != batchv1.JobSuspended || resumed.Status != corev1.ConditionFalse || resumed.Reason != "JobResumed" {
			k.t.Errorf("the conditions are %+v", job.Status.Conditions)
		}
	}},
	{"J8: the pods of a Job that is suspended go", func(k *tenant) {
		k.run(runs, 2, 4)
		k.awaitRunning(2)
		k.update(suspend(true))
		k.awaitNoPods()
		k.checkCounts(k.awaitSuspended(), counts{})
	}},
	{"J28: a Job is created, patched, updated, watched, listed and deleted with others of its label", func(k *tenant) {
		labelled := metav1.ListOptions{LabelSelector: "of=" + k.namespace}
		before, err := k.jobs.List(k.t.Context(), labelled)
		k.must(err)
		created := k.run(succeeds, 2, 4, suspended, func(job *batchv1.Job) { job.Labels = map[string]string{"of": k.namespace} })
		patched, err := k.jobs.Patch(k.t.Context(), "demo", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"more":"patched"}}}`), metav1.PatchOptions{})
		k.must(err)
		if patched.Labels["more"] != "patched" || patched.Labels["of"] != k.namespace || k.versionOf(created) >= k.versionOf(patched) {
			k.t.Errorf("version %s was patched to %s: %+v", created.ResourceVersion, patched.ResourceVersion, patched.ObjectMeta)
		}
		updated := k.update(func(job *batchv1.Job) {
			suspend(false)(job)
			job.Annotations = map[string]string{"note": "updated"}
		})
		if updated.Annotations["note"] != "updated" || *updated.Spec.Suspend || k.versionOf(patched) >= k.versionOf(updated) {
			k.t.Errorf("version %s was updated to %s: %+v", patched.ResourceVersion, updated.ResourceVersion, updated.ObjectMeta)
		}
		everywhere, err := k.client.BatchV1().Jobs("").List(k.t.Context(), labelled)
		k.must(err)
		if len(everywhere.Items) != 1 || everywhere.Items[0].UID != created.UID {
			k.t.Errorf("of all Jobs the label selects %+v", everywhere.Items)
		}
		k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		background := metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
		k.must(k.jobs.DeleteCollection(k.t.Context(), background, labelled))
		k.checkLife(before.ResourceVersion, labelled)
		after, err := k.client.BatchV1().Jobs("").List(k.t.Context(), labelled)
		k.must(err)
		if len(after.Items) != 0 {
			k.t.Errorf("after its deletion the label selects %+v", after.Items)
		}
	}},
	{"J29: how many pods are ready is told as the Job is resumed and suspended", func(k *tenant) {
		ready := func(count int32) {
			k.awaitJob("it tells how many pods are ready", func(job *batchv1.Job) bool { return job.Status.Ready != nil && *job.Status.Ready == count })
		}
		k.run(runs, 2, 4, suspended)
		ready(0)
		k.update(suspend(false))
		ready(2)
		k.update(suspend(true))
		ready(0)
	}},
	{"J30: nobody acts here on a Job that another controller manages", func(k *tenant) {
		job := k.run(succeeds, 2, 4, func(job *batchv1.Job) { job.Spec.ManagedBy = new("example.com/custom-job-controller") })
		// Another Job, created after it, has come to its end meanwhile.
		other := k.newJob(succeeds, 1, 1)
		other.Name = "other"
		_, err := k.jobs.Create(k.t.Context(), other, metav1.CreateOptions{})
		k.must(err)
		follow(k, "the other Job is complete", map[string]*batchv1.Job{}, job.ResourceVersion, metav1.ListOptions{FieldSelector: "metadata.name=other"}, k.jobs.Watch,
			func(jobs map[string]*batchv1.Job) bool {
				other, there := jobs["other"]
				return there && has(other, batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
			})
		status := k.job().Status
		if status.StartTime != nil || status.Ready != nil || status.Terminating != nil || status.UncountedTerminatedPods != nil || len(status.Conditions)+len(k.listed()) > 0 {
			k.t.Errorf("its status is %+v", status)
		}
	}},
	{"J33: the resources of a suspended Job may change, and its pods have them once it is resumed", func(k *tenant) {
		k.run(succeeds, 1, 1, suspended, requests("100m", "128Mi"))
		k.awaitSuspended()
		k.update(requests("200m", "256Mi"))
		k.update(suspend(false))
		k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkRequests(k.listed(), 1, "200m", "256Mi")
	}},
	{"J34: the resources of a Job that has run and is suspended may change, and its next pods have them", func(k *tenant) {
		k.run(runs, 2, 4, requests("100m", "128Mi"))
		k.checkRequests(k.awaitRunning(2), 2, "100m", "128Mi")
		job := k.job()
		requests("200m", "256Mi")(job)
		if _, err := k.jobs.Update(k.t.Context(), job, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			k.t.Errorf("while it runs: %v", err)
		}
		k.update(suspend(true))
		k.awaitNoPods()
		k.awaitSuspended()
		k.update(requests("200m", "256Mi"))
		k.update(suspend(false))
		k.checkRequests(k.awaitRunning(2), 2, "200m", "256Mi")
	}},
}

// versionOf is the resource version as the number that it is here.
func (k *tenant) versionOf(job *batchv1.Job) uint64 {
	k.t.Helper()
	version, err := strconv.ParseUint(job.ResourceVersion, 10, 64)
	k.must(err)
	return version
}

// checkLife reads the Job's life from a watch that begins before it, to its end: it is added once, each of its versions follows on the one before, its
// label, its annotation and its end come in this order, and it is deleted last.
func (k *tenant) checkLife(version string, labelled metav1.ListOptions) {
	k.t.Helper()
	var told []string
	tell := func(what string) {
		if !slices.Contains(told, what) {
			told = append(told, what)
		}
	}
	labelled.ResourceVersion = version
	changes, err := k.jobs.Watch(k.t.Context(), labelled)
	k.must(err)
	defer changes.Stop()
	var last uint64
	for change := range changes.ResultChan() {
		job, known := change.Object.(*batchv1.Job)
		if !known {
			k.t.Fatalf("the watch tells of %+v", change.Object)
		}
		if next := k.versionOf(job); next <= last || (change.Type == watch.Added) != (last == 0) {
			k.t.Errorf("after version %d the watch tells of %s %d", last, change.Type, next)
		} else {
			last = next
		}
		if change.Type == watch.Added {
			tell("added")
		}
		if job.Labels["more"] == "patched" {
			tell("patched")
		}
		if job.Annotations["note"] == "updated" {
			tell("updated")
		}
		if has(job, batchv1.JobComplete, batchv1.JobReasonCompletionsReached) {
			tell("complete")
		}
		if change.Type == watch.Deleted {
			tell("deleted")
			break
		}
	}
	if want := []string{"added", "patched", "updated", "complete", "deleted"}; !slices.Equal(told, want) {
		k.t.Errorf("the watch told that the Job was %q", told)
	}
}

// jobsWithPodsThatAreDeleted are about pods that go before their Job has ended.
var jobsWithPodsThatAreDeleted = []acceptance{
	{"J9: with replacement policy Failed a pod is replaced when it has ended, and not while it ends", func(k *tenant) {
		k.run("trap 'while [ ! -e go ]; do sleep 0.05; done; exit 143' TERM; touch trapped; while :; do sleep 0.05; done", 1, 1, backoffLimit(1),
			func(job *batchv1.Job) { job.Spec.PodReplacementPolicy = new(batchv1.Failed) })
		deleted := k.awaitTrapped()
		k.must(k.pods.Delete(k.t.Context(), deleted, metav1.DeleteOptions{GracePeriodSeconds: new(int64(30))}))
		standing := func(active, failed, terminating int32) {
			k.awaitJob("its pods stand as they should", func(job *batchv1.Job) bool {
				status := job.Status
				return status.Active == active && status.Failed == failed && status.Terminating != nil && *status.Terminating == terminating
			})
		}
		standing(0, 0, 1)
		if pods := k.listed(); len(pods) != 1 || pods[deleted] == nil || pods[deleted].DeletionTimestamp == nil {
			k.t.Errorf("the pods are%s", shown(pods))
		}
		k.touch("go")
		standing(1, 1, 0)
		if names := slices.Collect(maps.Keys(k.listed())); len(names) != 1 || names[0] == deleted {
			k.t.Errorf("%s was deleted, and the pods are %q", deleted, names)
		}
	}},
	{"J19: the pods of a Job that is deleted go", func(k *tenant) {
		k.run(runs, 2, 4)
		k.awaitRunning(2)
		k.remove()
		k.awaitNoPods()
	}},
	{"J23: a Job that is deleted is not found", func(k *tenant) {
		k.run(runs, 2, 4)
		k.awaitRunning(2)
		k.remove()
		k.awaitGone()
		if _, err := k.jobs.Get(k.t.Context(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			k.t.Errorf("it is read with %v", err)
		}
	}},
}

// awaitTrapped waits until the only pod of the Job has set its trap, and returns its name.
func (k *tenant) awaitTrapped() (name string) {
	k.t.Helper()
	for name = range k.awaitRunning(1) {
	}
	k.awaitLeft(1)
	return name
}
