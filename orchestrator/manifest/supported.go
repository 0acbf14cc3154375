package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	jobrules "github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Bounds of this version on one Job.
const (
	// MaxJobBytes bounds the admitted Job as JSON, so that it fits into one batch of the journal with room to spare.
	MaxJobBytes = 512 << 10
	// MaxParallelism is Kubernetes' bound for Indexed Jobs; here it holds for all.
	MaxParallelism = 100_000
	// MaxCompletions bounds what one Job counts or indexes.
	MaxCompletions = 1_000_000
)

const unsupported = "not supported by this version of Nightshift"

// Unsupported returns an error for each field of a defaulted Job that would change behaviour and does not work in this version,
// by its path. Harmless values of such fields are no error.
func Unsupported(job *batchv1.Job, images Images) field.ErrorList {
	text, err := json.Marshal(job)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := supportedJob.check(nil, object)
	errs = append(errs, checkAnnotations(job)...)
	errs = append(errs, checkBounds(job, len(text))...)
	errs = append(errs, checkCommands(job, images)...)
	return errs
}

// checkBounds refuses Jobs beyond this version's bounds.
func checkBounds(job *batchv1.Job, size int) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if n := job.Spec.Completions; n != nil && *n > MaxCompletions {
		errs = append(errs, field.Forbidden(spec.Child("completions"), fmt.Sprintf("more than %d is %s", MaxCompletions, unsupported)))
	}
	if job.Spec.Parallelism != nil && *job.Spec.Parallelism > MaxParallelism {
		errs = append(errs, field.Forbidden(spec.Child("parallelism"), fmt.Sprintf("more than %d is %s", MaxParallelism, unsupported)))
	}
	if size > MaxJobBytes {
		errs = append(errs, field.TooLong(spec, "", MaxJobBytes))
	}
	return errs
}

// checkCommands makes sure that a node can be told what to run.
func checkCommands(job *batchv1.Job, images Images) field.ErrorList {
	var errs field.ErrorList
	spec := &job.Spec.Template.Spec
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i, container := range list.containers {
			if _, ok := images.Command(container); !ok {
				errs = append(errs, field.Required(field.NewPath("spec", "template", "spec", list.name).Index(i).Child("command"), fmt.Sprintf(
					"images are not pulled by this version of Nightshift: name a command here, or say which executable stands for the image with --image %s=EXECUTABLE",
					container.Image)))
			}
		}
	}
	return errs
}

// AnnotationCapacity says which markets a Job may use: "auto", "spot" or "on-demand".
const AnnotationCapacity = annotationPrefix + "capacity"

const annotationPrefix = "nightshift.dev/"

// annotationValues are the keys that have a meaning in this version, each with its values.
var annotationValues = map[string][]string{
	AnnotationCapacity:                {"auto", "on-demand", "spot"},
	jobrules.AnnotationStrictUpstream: {"false", "true"},
	jobrules.AnnotationOnFirstSuccess: {jobrules.FirstSuccessLeaves, jobrules.FirstSuccessTerminates},
}

// laterAnnotations are the keys that the design gives a meaning and this version does not.
var laterAnnotations = []string{"finish-by", "start-window", "expected-duration", "eviction-budget", "carry", "max-pool-share"}

func checkAnnotations(job *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(job.Annotations)) {
		name, ours := strings.CutPrefix(key, annotationPrefix)
		known, meant := annotationValues[key]
		switch {
		case !ours:
		case key == jobrules.AnnotationOnFirstSuccess && job.Spec.Completions != nil:
			errs = append(errs, field.Forbidden(path.Key(key), "is for work queues: Jobs with parallelism and without completions"))
		case meant:
			if value := job.Annotations[key]; !slices.Contains(known, value) {
				errs = append(errs, field.NotSupported(path.Key(key), value, known))
			}
		case slices.Contains(laterAnnotations, name):
			errs = append(errs, field.Forbidden(path.Key(key), unsupported))
		default:
			errs = append(errs, field.Forbidden(path.Key(key), "not a key that Nightshift knows"))
		}
	}
	path = field.NewPath("spec", "template", "metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(job.Spec.Template.Annotations)) {
		if strings.HasPrefix(key, annotationPrefix) {
			errs = append(errs, field.Forbidden(path.Key(key), "belongs to the Job's own metadata"))
		}
	}
	return errs
}

// envField takes what the downward API gives in this version.
func envField(path *field.Path, value any) field.ErrorList {
	text, _ := value.(string)
	switch text {
	case "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs":
		return nil
	}
	if strings.HasPrefix(text, "metadata.labels['") || strings.HasPrefix(text, "metadata.annotations['") {
		return nil
	}
	return forbidden(path, fmt.Sprintf("%s is %s", text, unsupported))
}

// envResource takes the resources that containers have in this version.
func envResource(path *field.Path, value any) field.ErrorList {
	text, _ := value.(string)
	switch text {
	case "limits.cpu", "limits.memory", "requests.cpu", "requests.memory":
		return nil
	}
	return forbidden(path, fmt.Sprintf("%s is %s", text, unsupported))
}

// resourceName takes cpu, memory and extended resources; those with a domain of Kubernetes' own mean more than a count.
func resourceName(path *field.Path, key string, _ any) field.ErrorList {
	switch name := corev1.ResourceName(key); {
	case name == corev1.ResourceCPU, name == corev1.ResourceMemory:
		return nil
	case strings.Contains(key, "/") && !strings.Contains(key, "kubernetes.io/"):
		return nil
	}
	return forbidden(path.Key(key), unsupported)
}

func nodeLabel(path *field.Path, key string, value any) field.ErrorList {
	switch key {
	case corev1.LabelArchStable:
		return nil
	case corev1.LabelOSStable:
		if value != string(corev1.Linux) {
			return field.ErrorList{field.NotSupported(path.Key(key), value, []string{string(corev1.Linux)})}
		}
		return nil
	}
	return forbidden(path.Key(key), unsupported)
}
