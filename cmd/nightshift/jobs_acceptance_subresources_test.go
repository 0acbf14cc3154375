package main_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// jobsByTheirSubresources are about what clients do by pods/eviction and jobs/status. Where the server does not say that it serves evictions, they are refused.
var jobsByTheirSubresources = []acceptance{
	{"J6: pods that are evicted by the API are ignored by a rule, and are gone when they have ended", func(k *tenant) {
		const count = 3
		ignore := failurePolicy(batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
		}})
		k.run("if mkdir started-$JOB_COMPLETION_INDEX; then exec sleep 1000; fi", count, count, indexed, backoffLimit(count-1), ignore)
		pods := k.awaitRunning(count)
		k.awaitLeft(count)
		var evictions sync.WaitGroup
		for name := range pods {
			evictions.Go(func() {
				if err := k.evict(name); err != nil {
					k.t.Errorf("the pod %s is evicted with %v", name, err)
				}
			})
		}
		evictions.Wait()
		k.awaitPods("the evicted pods are gone", func(now map[string]*corev1.Pod) bool {
			for name := range pods {
				if pod, there := now[name]; there {
					k.checkDisrupted(pod)
					return false
				}
			}
			return true
		})
		k.checkCounts(k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached), counts{succeeded: count, completedIndexes: "0-2"})
	}},
	{"J27: a client patches, updates and reads a Job's status", func(k *tenant) {
		created := k.run(runs, 2, 4)
		k.awaitRunning(2)
		const custom = batchv1.JobConditionType("CustomConditionType")
		first := metav1.NewTime(time.Now().Add(-time.Minute)).Rfc3339Copy()
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"conditions":[{"type":%q,"status":"True","lastTransitionTime":%q}]}}`,
			custom, first.UTC().Format(time.RFC3339))
		patched, err := k.jobs.Patch(k.t.Context(), "demo", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		k.must(err)
		at := func(job *batchv1.Job) (at metav1.Time) {
			k.t.Helper()
			found := slices.IndexFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == custom && c.Status == corev1.ConditionTrue })
			if found < 0 || job.Status.Active != 2 || job.Annotations["patchedstatus"] != "true" {
				k.t.Fatalf("the annotations are %v and the status is %+v", job.Annotations, job.Status)
			}
			return job.Status.Conditions[found].LastTransitionTime
		}
		if got := at(patched); !got.Equal(&first) {
			k.t.Errorf("the condition is of %v, want %v", got, first)
		}
		second := metav1.NewTime(first.Add(time.Second))
		job := k.job()
		job.Status.Conditions[slices.IndexFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == custom })].LastTransitionTime = second
		updated, err := k.jobs.UpdateStatus(k.t.Context(), job, metav1.UpdateOptions{})
		k.must(err)
		if got := at(updated); !got.Equal(&second) {
			k.t.Errorf("the condition is of %v, want %v", got, second)
		}
		read := new(batchv1.Job)
		k.must(k.client.BatchV1().RESTClient().Get().Namespace(k.namespace).Resource("jobs").Name("demo").SubResource("status").Do(k.t.Context()).Into(read))
		if got := at(read); read.UID != created.UID || !got.Equal(&second) {
			k.t.Errorf("the status that is read is that of %s at %v", read.UID, got)
		}
	}},
}

func (k *tenant) evict(name string) error {
	return k.pods.EvictV1(k.t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: k.namespace}})
}

// checkDisrupted holds a pod that has been evicted by the API and has not ended.
func (k *tenant) checkDisrupted(pod *corev1.Pod) {
	k.t.Helper()
	disrupted := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI"
	})
	if !disrupted || pod.DeletionTimestamp == nil {
		k.t.Errorf("the pod %s was evicted, is to be gone at %v, and its status is %+v", pod.Name, pod.DeletionTimestamp, pod.Status)
	}
}

// awaitLeft waits until pods have left so many files and directories.
func (k *tenant) awaitLeft(count int) {
	k.t.Helper()
	(&world{t: k.t}).await("the pods have left their marks", func() bool {
		left, err := filepath.Glob(filepath.Join(k.dir, "*"))
		k.must(err)
		return len(left) == count
	})
}
