package main_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// What Kubernetes' end-to-end tests ask of Jobs (test/e2e/apps/job.go and ttl_after_finished.go at v1.37), asked of a real server by client-go. One
// server serves all of them at a time, each in a namespace of its own. Where those tests keep something on the node, in a volume, pods here have a
// directory; where a Job of theirs needs what later versions bring, its refusal is held by name in jobs_acceptance_refused_test.go.
func TestJobsDoWhatKubernetesTestsOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve("--nodes", "3")
	config, err := clientcmd.BuildConfigFromFlags("", w.path("state", "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // it is many clients at a time
	client := kubernetes.NewForConfigOrDie(config)
	// All at a time, and not as many as there are CPUs: most of them wait, as a Job does after a failure, for ten seconds and more.
	var tests sync.WaitGroup
	for i, test := range slices.Concat(jobsThatEnd, jobsWithIndexes, jobsThatAreChanged, jobsWithPodsThatAreDeleted, jobsByTheirSubresources, jobsThatAreRefused) {
		tests.Go(func() {
			t.Run(test.name, func(t *testing.T) { test.check(newTenant(t, w, client, fmt.Sprintf("tenant-%d", i))) })
		})
	}
	tests.Wait()
}

// acceptance is one of Kubernetes' tests, by its number in our list of them and what it asks for.
type acceptance struct {
	name  string
	check func(*tenant)
}

// tenant is a client of a server, with a namespace that no other has, and a directory for its pods.
type tenant struct {
	t         *testing.T
	namespace string
	dir       string
	client    *kubernetes.Clientset
	jobs      batchclient.JobInterface
	pods      coreclient.PodInterface
}

func newTenant(t *testing.T, w *world, client *kubernetes.Clientset, namespace string) *tenant {
	t.Helper()
	k := &tenant{
		t: t, namespace: namespace, dir: w.path("pods", namespace), client: client,
		jobs: client.BatchV1().Jobs(namespace), pods: client.CoreV1().Pods(namespace),
	}
	k.must(os.MkdirAll(k.dir, 0o755))
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	k.must(err)
	return k
}

func (k *tenant) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// What the pods of a test do. Those of them that leave something behind do so in the tenant's directory, where they run.
const (
	succeeds = "exit 0"
	fails    = "exit 1"
	// runs until it is told to end.
	runs = "exec sleep 1000"
	// failsOnce has exactly one pod of the Job fail, its first or second, failsOncePerIndex one of each index, failsOncePerPod one run in each pod.
	failsOnce         = "if mkdir failed; then exit 1; fi"
	failsOncePerIndex = "if mkdir failed-$JOB_COMPLETION_INDEX; then exit 42; fi"
	failsOncePerPod   = "if mkdir failed-$POD; then exit 1; fi"
	oddIndexesFail    = "exit $(( JOB_COMPLETION_INDEX % 2 ))"
)

// newJob is a Job with one container, which runs a shell script. More change it.
func (k *tenant) newJob(script string, parallelism, completions int32, more ...func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "demo"},
		Spec: batchv1.JobSpec{
			Parallelism: &parallelism, Completions: &completions,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Containers: []corev1.Container{{
					Name: "c", Image: "none", Command: []string{"sh", "-c", script}, WorkingDir: k.dir,
					Env: []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
				}},
			}},
		},
	}
	for _, change := range more {
		change(job)
	}
	return job
}

func indexed(job *batchv1.Job) { job.Spec.CompletionMode = new(batchv1.IndexedCompletion) }

func suspended(job *batchv1.Job) { job.Spec.Suspend = new(true) }

func backoffLimit(limit int32) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.Spec.BackoffLimit = &limit }
}

func backoffLimitPerIndex(limit int32) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.Spec.BackoffLimitPerIndex = &limit }
}

func failurePolicy(rule batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{rule}}
	}
}

func onExit(action batchv1.PodFailurePolicyAction, code int32) func(*batchv1.Job) {
	return failurePolicy(batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
		Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code},
	}})
}

func successPolicy(rule batchv1.SuccessPolicyRule) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
	}
}

// run creates the tenant's Job.
func (k *tenant) run(script string, parallelism, completions int32, more ...func(*batchv1.Job)) *batchv1.Job {
	k.t.Helper()
	job, err := k.jobs.Create(k.t.Context(), k.newJob(script, parallelism, completions, more...), metav1.CreateOptions{})
	k.must(err)
	return job
}

// job is the tenant's Job.
func (k *tenant) job() *batchv1.Job {
	k.t.Helper()
	job, err := k.jobs.Get(k.t.Context(), "demo", metav1.GetOptions{})
	k.must(err)
	return job
}

// remove deletes the tenant's Job as kubectl does.
func (k *tenant) remove() {
	k.t.Helper()
	k.must(k.jobs.Delete(k.t.Context(), "demo", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}))
}

// touch makes a file that pods wait for.
func (k *tenant) touch(name string) {
	k.t.Helper()
	k.must(os.WriteFile(filepath.Join(k.dir, name), nil, 0o644))
}

// ofDemo selects the pods of the tenant's Job.
var ofDemo = metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=demo"}

// listed are the pods of the tenant's Job, by name.
func (k *tenant) listed() map[string]*corev1.Pod {
	k.t.Helper()
	list, err := k.pods.List(k.t.Context(), ofDemo)
	k.must(err)
	return byName(list.Items)
}

func byName(pods []corev1.Pod) map[string]*corev1.Pod {
	named := make(map[string]*corev1.Pod, len(pods))
	for i := range pods {
		named[pods[i].Name] = &pods[i]
	}
	return named
}

// awaitPods follows the pods of the tenant's Job until they are as the test wants them.
func (k *tenant) awaitPods(what string, holds func(map[string]*corev1.Pod) bool) map[string]*corev1.Pod {
	k.t.Helper()
	list, err := k.pods.List(k.t.Context(), ofDemo)
	k.must(err)
	return follow(k, what, byName(list.Items), list.ResourceVersion, ofDemo, k.pods.Watch, holds)
}

// awaitJob follows the tenant's Job until it is as the test wants it, and returns it as it is then.
func (k *tenant) awaitJob(what string, holds func(*batchv1.Job) bool) *batchv1.Job {
	k.t.Helper()
	job := k.job()
	alone := metav1.ListOptions{FieldSelector: "metadata.name=demo"}
	seen := follow(k, what, map[string]*batchv1.Job{"demo": job}, job.ResourceVersion, alone, k.jobs.Watch, func(jobs map[string]*batchv1.Job) bool {
		job, there := jobs["demo"]
		return there && holds(job)
	})
	return seen["demo"]
}

// awaitGone follows the tenant's Job until it is there no more, and returns it as it was last; nil if it has gone already.
func (k *tenant) awaitGone() (last *batchv1.Job) {
	k.t.Helper()
	last, err := k.jobs.Get(k.t.Context(), "demo", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	k.must(err)
	alone := metav1.ListOptions{FieldSelector: "metadata.name=demo"}
	follow(k, "the Job is gone", map[string]*batchv1.Job{"demo": last}, last.ResourceVersion, alone, k.jobs.Watch, func(jobs map[string]*batchv1.Job) bool {
		job, there := jobs["demo"]
		if there {
			last = job
		}
		return !there
	})
	return last
}

// follow keeps objects up to date by a watch, until they are as the test wants them.
func follow[T metav1.Object](k *tenant, what string, objects map[string]T, version string, of metav1.ListOptions,
	open func(context.Context, metav1.ListOptions) (watch.Interface, error), holds func(map[string]T) bool,
) map[string]T {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	of.ResourceVersion = version
	changes, err := open(ctx, of)
	k.must(err)
	defer changes.Stop()
	for !holds(objects) {
		change, more := <-changes.ResultChan()
		object, known := change.Object.(T)
		if !more || !known {
			k.t.Fatalf("waited in vain until %s: %v; last seen: %s", what, change.Object, shown(objects))
		}
		if change.Type == watch.Deleted {
			delete(objects, object.GetName())
		} else {
			objects[object.GetName()] = object
		}
	}
	return objects
}

// shown are the statuses of objects, for the words of a failure.
func shown[T metav1.Object](objects map[string]T) (text string) {
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		switch object := any(objects[name]).(type) {
		case *batchv1.Job:
			text += fmt.Sprintf("\n%s: %+v", name, object.Status)
		case *corev1.Pod:
			text += fmt.Sprintf("\n%s: deleted at %v, %+v", name, object.DeletionTimestamp, object.Status)
		}
	}
	return text
}

// has tells whether the Job has a condition that holds, for the reason.
func has(job *batchv1.Job, wanted batchv1.JobConditionType, reason string) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == wanted && c.Status == corev1.ConditionTrue && c.Reason == reason
	})
}

// awaitEnd waits until the Job has ended, as Complete or Failed and for the reason, and holds what must be so of every Job that has: its interim condition came
// before, for the same reason, and no pod is left running.
func (k *tenant) awaitEnd(end batchv1.JobConditionType, reason string) *batchv1.Job {
	k.t.Helper()
	job := k.awaitJob("it has ended", func(job *batchv1.Job) bool {
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		})
	})
	interim := batchv1.JobSuccessCriteriaMet
	if end == batchv1.JobFailed {
		interim = batchv1.JobFailureTarget
	}
	at := func(wanted batchv1.JobConditionType) int {
		return slices.IndexFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == wanted })
	}
	if !has(job, end, reason) || !has(job, interim, reason) || at(interim) > at(end) {
		k.t.Fatalf("it did not end with %s and %s for the reason %s: %+v", interim, end, reason, job.Status)
	}
	status := job.Status
	if status.Active != 0 || *status.Ready != 0 || *status.Terminating != 0 || (status.CompletionTime != nil) != (end == batchv1.JobComplete) {
		k.t.Errorf("it has ended, and its status is %+v", status)
	}
	return job
}

// awaitRunning waits until so many pods of the Job run and are ready.
func (k *tenant) awaitRunning(count int32) map[string]*corev1.Pod {
	k.t.Helper()
	k.awaitJob(fmt.Sprintf("%d pods are ready", count), func(job *batchv1.Job) bool {
		return job.Status.Active == count && job.Status.Ready != nil && *job.Status.Ready == count
	})
	return k.awaitPods(fmt.Sprintf("%d pods run", count), func(pods map[string]*corev1.Pod) bool {
		return countOf(pods, corev1.PodRunning) == int(count)
	})
}

// awaitNoPods waits until the Job has no pods at all.
func (k *tenant) awaitNoPods() {
	k.t.Helper()
	k.awaitPods("the pods are gone", func(pods map[string]*corev1.Pod) bool { return len(pods) == 0 })
}

func countOf(pods map[string]*corev1.Pod, phase corev1.PodPhase) (count int) {
	for _, pod := range pods {
		if pod.Status.Phase == phase {
			count++
		}
	}
	return count
}

// counts are what a Job's status counts, of pods and of indexes.
type counts struct {
	succeeded, failed               int32
	completedIndexes, failedIndexes string
}

func (k *tenant) checkCounts(job *batchv1.Job, want counts) {
	k.t.Helper()
	got := counts{succeeded: job.Status.Succeeded, failed: job.Status.Failed, completedIndexes: job.Status.CompletedIndexes}
	if job.Status.FailedIndexes != nil {
		got.failedIndexes = *job.Status.FailedIndexes
	}
	if got != want {
		k.t.Errorf("the Job counts %+v, want %+v", got, want)
	}
}
