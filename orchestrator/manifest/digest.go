package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Digest is "sha256:" and a hex digest of what the user asked for: name, namespace, labels, annotations and spec with
// defaults filled in, without anything that is generated for one Job alone. It is the same for a manifest and for the Job that Admit
// made of it, under whichever UID, so it tells whether the same Job is submitted again. job is not changed.
func Digest(job *batchv1.Job) (string, error) {
	text, err := json.Marshal(askedFor(job))
	if err != nil {
		return "", fmt.Errorf("digest of Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// asked is what the user asked for. Digests are on record: the names and the order of its fields are for ever.
type asked struct {
	Namespace, Name     string
	Labels, Annotations map[string]string
	Spec                batchv1.JobSpec
}

func askedFor(job *batchv1.Job) asked {
	in := job.DeepCopy()
	stripGenerated(in.Spec.Template.Labels, in)
	stripGenerated(in.Labels, in)
	Default(in)
	in.Spec.Selector = userSelector(in)
	if in.Namespace == "" {
		in.Namespace = metav1.NamespaceDefault
	}
	annotations := maps.Clone(in.Annotations)
	// Client-side apply repeats the manifest here, in whichever format the user chose.
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	return asked{in.Namespace, in.Name, nonEmpty(in.Labels), nonEmpty(annotations), canonicalSpec(in.Spec)}
}

// stripGenerated takes the labels away that Admit gives, where they have the values that it gives.
func stripGenerated(labels map[string]string, job *batchv1.Job) {
	for _, key := range generatedLabels {
		if value, set := labels[key]; set && value == generatedLabel(key, job) {
			delete(labels, key)
		}
	}
}

// userSelector is the selector without the generated term; nil when nothing else is in it.
func userSelector(job *batchv1.Job) *metav1.LabelSelector {
	if job.Spec.Selector == nil {
		return nil
	}
	selector := job.Spec.Selector.DeepCopy()
	delete(selector.MatchLabels, batchv1.ControllerUidLabel)
	if len(selector.MatchLabels) == 0 && len(selector.MatchExpressions) == 0 {
		return nil
	}
	return selector
}

// canonicalSpec makes empty and absent the same.
func canonicalSpec(spec batchv1.JobSpec) batchv1.JobSpec {
	spec.Template.Labels = nonEmpty(spec.Template.Labels)
	spec.Template.Annotations = nonEmpty(spec.Template.Annotations)
	spec.Template.CreationTimestamp = metav1.Time{}
	return spec
}

func nonEmpty(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
