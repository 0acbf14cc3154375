package manifest_test

import (
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

func TestDifferencesNameTheFieldsInWhichDigestsDiffer(t *testing.T) {
	plain := func() *batchv1.Job {
		return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{Completions: new(int32(1)), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i", Command: []string{"a", "b"}}},
		}}}}
	}
	stored, errs := manifest.Admit(plain(), manifest.Options{UID: uuid.NewUUID()})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, test := range []struct {
		name   string
		change func(*batchv1.Job)
		want   []manifest.Difference
	}{
		{"the manifest of a stored Job differs in nothing", func(*batchv1.Job) {}, nil},
		{"a value", func(job *batchv1.Job) { job.Spec.Parallelism = new(int32(3)) }, []manifest.Difference{{"spec.parallelism", "1", "3"}}},
		{"what one alone has", func(job *batchv1.Job) { job.Annotations = map[string]string{"a/b": "c"} },
			[]manifest.Difference{{"metadata.annotations", "", `{"a/b":"c"}`}}},
		{"an item of a list", func(job *batchv1.Job) { job.Spec.Template.Spec.Containers[0].Command[1] = "z" },
			[]manifest.Difference{{"spec.template.spec.containers[0].command[1]", `"b"`, `"z"`}}},
		{"lists of different lengths, and another field", func(job *batchv1.Job) {
			job.Spec.Template.Spec.Containers[0].Command = []string{"a"}
			job.Spec.BackoffLimit = new(int32(0))
		}, []manifest.Difference{{"spec.backoffLimit", "6", "0"}, {"spec.template.spec.containers[0].command", `["a","b"]`, `["a"]`}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := plain()
			test.change(changed)
			got, err := manifest.Differences(stored, changed)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("differences %q (%v), want %q", got, err, test.want)
			}
			one, err := manifest.Digest(stored)
			if err != nil {
				t.Fatal(err)
			}
			other, err := manifest.Digest(changed)
			if err != nil || (one == other) != (len(test.want) == 0) {
				t.Errorf("the digests %s and %s (%v) do not go with that", one, other, err)
			}
		})
	}
}
