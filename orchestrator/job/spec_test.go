package job_test

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// cpus is a container that requests so many CPUs.
func cpus(n int64) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewQuantity(n, resource.DecimalSI)}}}
}

func sidecar(n int64) corev1.Container {
	c := cpus(n)
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	return c
}

func TestAPodRequestsTheMostThatItsContainersNeedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		init, apps []corev1.Container
		want       int64
	}{
		"app containers run together":                          {nil, []corev1.Container{cpus(1), cpus(2)}, 3},
		"a small init container needs no more":                 {[]corev1.Container{cpus(2)}, []corev1.Container{cpus(1), cpus(2)}, 3},
		"a large init container needs more":                    {[]corev1.Container{cpus(8), cpus(4)}, []corev1.Container{cpus(1)}, 8},
		"a sidecar runs beside the app containers":             {[]corev1.Container{sidecar(1)}, []corev1.Container{cpus(2)}, 3},
		"an init container runs beside the sidecars before it": {[]corev1.Container{sidecar(1), cpus(4), sidecar(2)}, []corev1.Container{cpus(1)}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			var object batchv1.Job
			object.Spec.Template.Spec = corev1.PodSpec{InitContainers: c.init, Containers: c.apps}
			if got := job.TemplateOf(&object).Requests["cpu"]; got != 1000*c.want {
				t.Errorf("%d millicores, want %d", got, 1000*c.want)
			}
		})
	}
}

func TestInitContainersGetTheCompletionIndexToo(t *testing.T) {
	var owner batchv1.Job
	owner.Name = "demo"
	mine := corev1.Container{Name: "mine", Env: []corev1.EnvVar{{Name: "JOB_COMPLETION_INDEX", Value: "my own"}}}
	owner.Spec.Template.Spec = corev1.PodSpec{InitContainers: []corev1.Container{{Name: "setup"}, mine}, Containers: []corev1.Container{{Name: "main"}}}
	spec := job.PodObject(&owner, job.Pod{Name: "demo-3-abcde", Index: 3}, 1).Spec
	for _, c := range []corev1.Container{spec.InitContainers[0], spec.Containers[0]} {
		if len(c.Env) != 1 || c.Env[0].Name != "JOB_COMPLETION_INDEX" || c.Env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
			t.Errorf("container %s has the environment %v", c.Name, c.Env)
		}
	}
	if env := spec.InitContainers[1].Env; len(env) != 1 || env[0].Value != "my own" {
		t.Errorf("the user's own variable became %v", env)
	}
}
