package main_test

import (
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1alpha3 "k8s.io/api/scheduling/v1alpha3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refuses has the Job refused, with the path of what is not supported.
func (k *tenant) refuses(path string, change func(*batchv1.Job)) {
	k.t.Helper()
	_, err := k.jobs.Create(k.t.Context(), k.newJob(succeeds, 2, 2, change), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), path+": Forbidden: not supported by this version of Nightshift") {
		k.t.Errorf("it is not refused for %s: %v", path, err)
	}
	if _, err := k.jobs.Get(k.t.Context(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		k.t.Errorf("it was created: %v", err)
	}
}

func gang(job *batchv1.Job) {
	job.Spec.Scheduling = &batchv1.JobSchedulingConfiguration{SchedulingPolicy: &schedulingv1alpha3.WorkloadPodGroupSchedulingPolicy{
		Gang: &schedulingv1alpha3.WorkloadPodGroupGangSchedulingPolicy{MinCount: new(int32(2))},
	}}
}

func withVolume(source corev1.VolumeSource) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		pod := &job.Spec.Template.Spec
		pod.Volumes = []corev1.Volume{{Name: "data", VolumeSource: source}}
		pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	}
}

// jobsThatAreRefused are about what this version does not do: gates that are off in Kubernetes too, and what Kubernetes' tests have their Jobs say beside what
// they are about.
var jobsThatAreRefused = []acceptance{
	{"J2, J3: a gang is refused, as the gate WorkloadWithJob is off", func(k *tenant) { k.refuses("spec.scheduling", gang) }},
	{"J3: a Job is not made a gang later", func(k *tenant) {
		k.run(succeeds, 2, 2, suspended)
		job := k.job()
		gang(job)
		if _, err := k.jobs.Update(k.t.Context(), job, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.scheduling") {
			k.t.Errorf("it is not refused: %v", err)
		}
	}},
	{"J32: a Job that could be a gang runs without a Workload, as the gate GenericWorkload is off", func(k *tenant) {
		k.run(succeeds, 4, 4, indexed)
		k.checkCounts(k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached), counts{succeeded: 4, completedIndexes: "0-3"})
		for name, pod := range k.listed() {
			if pod.Spec.SchedulingGroup != nil {
				k.t.Errorf("the pod %s is of the group %v", name, pod.Spec.SchedulingGroup)
			}
		}
		if _, err := k.client.SchedulingV1beta1().Workloads(k.namespace).List(k.t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			k.t.Errorf("Workloads are listed with %v", err)
		}
		if _, err := k.client.SchedulingV1beta1().PodGroups(k.namespace).List(k.t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			k.t.Errorf("PodGroups are listed with %v", err)
		}
	}},
	{"J4, J5, J6, J21: a directory of the node is refused, until pods are containers", func(k *tenant) {
		k.refuses("spec.template.spec.volumes", withVolume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/x"}}))
	}},
	{"J4, J5, J6, J21: a privileged container is refused, until pods are containers", func(k *tenant) {
		k.refuses("spec.template.spec.containers[0].securityContext", func(job *batchv1.Job) {
			job.Spec.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		})
	}},
	{"J4, J5, J6, J21, J26, J31: a node is not chosen by its name", func(k *tenant) {
		k.refuses("spec.template.spec.nodeSelector[kubernetes.io/hostname]", func(job *batchv1.Job) {
			job.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: k.anyNode().Name}
		})
	}},
	{"J24: a pod is not orphaned, released or adopted: its labels and its owner are its Job's, and are not changed", func(k *tenant) {
		k.run(runs, 2, 4)
		for name, pod := range k.awaitRunning(2) {
			if owner := metav1.GetControllerOf(pod); owner == nil || owner.Kind != "Job" || owner.Name != "demo" {
				k.t.Errorf("the pod %s is owned by %+v", name, owner)
			}
			pod.OwnerReferences = nil
			if _, err := k.pods.Update(k.t.Context(), pod, metav1.UpdateOptions{}); !apierrors.IsMethodNotSupported(err) {
				k.t.Errorf("the pod %s is orphaned with %v", name, err)
			}
			if _, err := k.pods.Patch(k.t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{}); !apierrors.IsMethodNotSupported(err) {
				k.t.Errorf("the pod %s is relabelled with %v", name, err)
			}
			if _, err := k.pods.Create(k.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Labels: pod.Labels}}, metav1.CreateOptions{}); !apierrors.IsMethodNotSupported(err) {
				k.t.Errorf("a pod without a Job is created with %v", err)
			}
		}
		if job := k.job(); job.Status.Active != 2 {
			k.t.Errorf("its status is %+v", job.Status)
		}
	}},
	{"J6: a command that probes readiness is refused, until pods are containers", func(k *tenant) {
		k.refuses("spec.template.spec.containers[0].readinessProbe", func(job *batchv1.Job) {
			job.Spec.Template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		})
	}},
	{"T1: a finalizer of the user's is refused, until garbage is collected", func(k *tenant) {
		k.refuses("metadata.finalizers", func(job *batchv1.Job) { job.Finalizers = []string{"example.com/dummy"} })
	}},
	{"J20: an empty directory of the pod's own is refused, until pods are containers", func(k *tenant) {
		k.refuses("spec.template.spec.volumes", withVolume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	}},
}
