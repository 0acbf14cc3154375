package job

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// indexedJob is one with an init container and a container that sets its own index.
func indexedJob() *batchv1.Job {
	mode, limit := batchv1.IndexedCompletion, int32(1)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "team", UID: "uid"},
		Spec: batchv1.JobSpec{CompletionMode: &mode, BackoffLimitPerIndex: &limit, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
			Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "setup"}},
				Containers:     []corev1.Container{{Name: "main"}, {Name: "own", Env: []corev1.EnvVar{{Name: "JOB_COMPLETION_INDEX", Value: "mine"}}}},
			},
		}},
	}
}

func TestAPodOfAnIndexIsMadeAsTheJobControllerMakesIt(t *testing.T) {
	owner := indexedJob()
	pod := PodObject(owner, Pod{Name: "demo-3-abcde", UID: "pod", Index: 3, IndexFailures: 2, IndexIgnored: 1, Created: time.Unix(1, 0)}, 7)
	for what, ok := range map[string]bool{
		"name and prefix":     pod.Name == "demo-3-abcde" && pod.GenerateName == "demo-3-",
		"index label":         pod.Labels["batch.kubernetes.io/job-completion-index"] == "3" && pod.Labels["app"] == "x",
		"index annotation":    pod.Annotations["batch.kubernetes.io/job-completion-index"] == "3",
		"failure annotations": pod.Annotations["batch.kubernetes.io/job-index-failure-count"] == "2" && pod.Annotations["batch.kubernetes.io/job-index-ignored-failure-count"] == "1",
		"hostname":            pod.Spec.Hostname == "demo-3",
		"finalizer":           slices.Equal(pod.Finalizers, []string{"batch.kubernetes.io/job-tracking"}),
		"resource version":    pod.ResourceVersion == "7",
	} {
		if !ok {
			t.Errorf("the %s: %+v", what, pod)
		}
	}
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.Kind != "Job" || ref.Name != "demo" || ref.UID != "uid" || !*ref.BlockOwnerDeletion {
		t.Errorf("the owner is %+v", ref)
	}
	for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers[0]) {
		if at := slices.IndexFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == "JOB_COMPLETION_INDEX" }); at < 0 ||
			container.Env[at].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
			t.Errorf("container %s has %+v", container.Name, container.Env)
		}
	}
	if env := pod.Spec.Containers[1].Env; len(env) != 1 || env[0].Value != "mine" {
		t.Errorf("the user's own index became %+v", env)
	}
	if len(owner.Spec.Template.Labels) != 1 || owner.Spec.Template.Annotations != nil {
		t.Errorf("the stored Job was changed: %+v", owner.Spec.Template.ObjectMeta)
	}
}

func TestAnIndexHasNoCountOfFailuresWithoutALimitPerIndex(t *testing.T) {
	owner := indexedJob()
	owner.Spec.BackoffLimitPerIndex = nil
	if pod := PodObject(owner, Pod{Name: "demo-0-abcde"}, 1); len(pod.Annotations) != 1 {
		t.Errorf("the annotations are %v", pod.Annotations)
	}
}

func TestAPodThatEndsShowsItsContainersAndWhy(t *testing.T) {
	at := time.Unix(1000, 0)
	ended := PodObject(indexedJob(), Pod{
		Name: "demo-0-abcde", Created: at, Bound: at, Finished: at, Outcome: Failed, ExitCode: 3, Reason: "Error",
		Exits: []Exit{{Container: "setup", Init: true, Code: 3, Restarts: 2, Reason: "Error"}},
	}, 1)
	if len(ended.Finalizers) > 0 || ended.Status.Phase != corev1.PodFailed {
		t.Errorf("finalizers %v, phase %s", ended.Finalizers, ended.Status.Phase)
	}
	if init := ended.Status.InitContainerStatuses[0]; init.State.Terminated == nil || init.State.Terminated.ExitCode != 3 || init.RestartCount != 2 {
		t.Errorf("the init container is %+v", init)
	}
	if main := ended.Status.ContainerStatuses[0]; main.State.Waiting == nil || main.State.Waiting.Reason != "PodInitializing" {
		t.Errorf("a container that never ran is %+v", main)
	}
	stopping := PodObject(indexedJob(), Pod{Name: "demo-0-abcde", Created: at, Bound: at, Started: at, Stopping: at, GraceSeconds: 30, Evicting: true, Reason: "TerminationByKubelet"}, 1)
	if !stopping.DeletionTimestamp.Time.Equal(at.Add(30*time.Second)) || *stopping.DeletionGracePeriodSeconds != 30 || len(stopping.Finalizers) != 1 {
		t.Errorf("a pod that ends is %+v", stopping.ObjectMeta)
	}
	last := stopping.Status.Conditions[len(stopping.Status.Conditions)-1]
	if last.Type != corev1.DisruptionTarget || last.Status != corev1.ConditionTrue || last.Reason != "TerminationByKubelet" {
		t.Errorf("a pod that is evicted has %+v", stopping.Status.Conditions)
	}
	released := PodObject(indexedJob(), Pod{Name: "demo-0-abcde", Created: at, Bound: at, Started: at, Stopping: at, Released: true}, 1)
	if len(released.Finalizers) > 0 {
		t.Errorf("a pod that has given up its place has %v", released.Finalizers)
	}
}

func TestAPodRequestsWhatItsContainersNeedAtOnce(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	container := func(name, cpu string, sidecar bool) corev1.Container {
		made := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}
		if sidecar {
			made.RestartPolicy = &always
		}
		return made
	}
	for name, c := range map[string]struct {
		init, main []corev1.Container
		want       int64
	}{
		"the sum of its containers":             {nil, []corev1.Container{container("a", "1", false), container("b", "500m", false)}, 1500},
		"an init container that needs more":     {[]corev1.Container{container("i", "3", false)}, []corev1.Container{container("a", "1", false)}, 3000},
		"a sidecar beside both":                 {[]corev1.Container{container("s", "1", true), container("i", "3", false)}, []corev1.Container{container("a", "1", false)}, 4000},
		"a sidecar that begins after the first": {[]corev1.Container{container("i", "3", false), container("s", "1", true)}, []corev1.Container{container("a", "1", false)}, 3000},
	} {
		owner := indexedJob()
		owner.Spec.Template.Spec.InitContainers, owner.Spec.Template.Spec.Containers = c.init, c.main
		if got := TemplateOf(owner).Requests; got["cpu"] != c.want || got["pods"] != 1 {
			t.Errorf("%s: %v, want %d millicores", name, got, c.want)
		}
	}
}
