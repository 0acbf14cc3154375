package manifest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchdefaults "k8s.io/kubernetes/pkg/apis/batch/v1"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
)

// MaxCronJobBytes bounds the admitted CronJob as JSON: what its Jobs are made of is written down beside it.
const MaxCronJobBytes = MaxJobBytes / 2

// latestRun stands for the minute in the names of a CronJob's Jobs: no minute has more digits until the year 2160.
const latestRun = "-99999999"

// AdmitCronJob returns the CronJob as it is stored: defaulted, generation 1 and no status; and what its Jobs are made of: a Job with the defaults of
// one, without a name; or why it cannot be taken. cronJob is not changed.
//
// The errors are Kubernetes' own of a CronJob first, and only if there are none those that its Jobs would meet, at once and not at the first run.
func AdmitCronJob(cronJob *batchv1.CronJob, opts Options) (*batchv1.CronJob, *batchv1.Job, field.ErrorList) {
	out := cronJob.DeepCopy()
	out.TypeMeta = cronJobTypeMeta
	out.UID, out.CreationTimestamp = opts.UID, opts.Created
	out.DeletionTimestamp, out.DeletionGracePeriodSeconds = nil, nil
	out.ResourceVersion, out.Generation, out.Status = "", 1, batchv1.CronJobStatus{}
	if out.Namespace == "" {
		out.Namespace = metav1.NamespaceDefault
	}
	batchdefaults.SetObjectDefaults_CronJob(out)
	internal, err := toInternal[batch.CronJob](out)
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	errs := batchvalidation.ValidateCronJobCreate(internal, pod.GetValidationOptionsFromPodTemplate(&internal.Spec.JobTemplate.Spec.Template, nil))
	if len(errs) == 0 {
		errs = unsupportedCronJob(out, opts.Images)
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	return out, jobsOf(out), nil
}

// AdmitCronJobUpdate does the same for updated in place of old, with the generation that the change calls for and old's status.
func AdmitCronJobUpdate(updated, old *batchv1.CronJob, images Images) (*batchv1.CronJob, *batchv1.Job, field.ErrorList) {
	out := updated.DeepCopy()
	out.TypeMeta = cronJobTypeMeta
	out.Status = *old.Status.DeepCopy()
	batchdefaults.SetObjectDefaults_CronJob(out)
	internal, err := toInternal[batch.CronJob](out)
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	oldInternal, err := toInternal[batch.CronJob](old)
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	options := pod.GetValidationOptionsFromPodTemplate(&internal.Spec.JobTemplate.Spec.Template, &oldInternal.Spec.JobTemplate.Spec.Template)
	errs := batchvalidation.ValidateCronJobUpdate(internal, oldInternal, options)
	if len(errs) == 0 {
		errs = unsupportedCronJob(out, images)
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	out.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(out.Spec, old.Spec) {
		out.Generation++
	}
	return out, jobsOf(out), nil
}

// InvalidCronJob is the errors as kube-apiserver reports them, HTTP status 422.
func InvalidCronJob(name string, errs field.ErrorList) *apierrors.StatusError {
	return apierrors.NewInvalid(schema.GroupKind{Group: batchv1.GroupName, Kind: "CronJob"}, name, errs)
}

var cronJobTypeMeta = metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "CronJob"}

// jobsOf is what the CronJob's Jobs are made of. Of the template's metadata labels and annotations alone are the Job's, as in Kubernetes.
func jobsOf(cronJob *batchv1.CronJob) *batchv1.Job {
	template := cronJob.Spec.JobTemplate.DeepCopy()
	made := &batchv1.Job{Spec: template.Spec}
	Default(made)
	made.Labels, made.Annotations = template.Labels, template.Annotations
	return made
}

// unsupportedCronJob returns an error for each field that does not work in this version, and those that a Job of it would meet, by its path here.
func unsupportedCronJob(cronJob *batchv1.CronJob, images Images) field.ErrorList {
	text, err := json.Marshal(cronJob)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	var written struct{ Metadata map[string]any }
	if err := json.Unmarshal(text, &written); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	metadata := maps.Clone(supportedJob["metadata"].(object))
	delete(metadata, "ownerReferences")
	errs := metadata.check(field.NewPath("metadata"), written.Metadata)
	for _, key := range slices.Sorted(maps.Keys(cronJob.Annotations)) {
		if strings.HasPrefix(key, annotationPrefix) {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations").Key(key), "belongs to the Jobs: spec.jobTemplate.metadata.annotations"))
		}
	}
	if len(text) > MaxCronJobBytes {
		errs = append(errs, field.TooLong(field.NewPath("spec"), "", MaxCronJobBytes))
	}
	run := jobsOf(cronJob)
	run.Name, run.Namespace = cronJob.Name+latestRun, cronJob.Namespace
	_, ofJob := Admit(run, Options{UID: cronJob.UID, Images: images})
	for _, one := range ofJob {
		if one.Field != "metadata.name" {
			one.Field = "spec.jobTemplate." + one.Field
		}
		errs = append(errs, one)
	}
	return errs
}

// controllingCronJob takes the reference by which kubectl create job --from ties a Job to its CronJob, and no other: nothing else owns Jobs.
func controllingCronJob(path *field.Path, value any) field.ErrorList {
	reference, ok := value.(map[string]any)
	if !ok || reference["apiVersion"] != cronJobTypeMeta.APIVersion || reference["kind"] != cronJobTypeMeta.Kind || reference["controller"] != true {
		return forbidden(path, "an owner of a Job other than the CronJob that controls it is "+unsupported)
	}
	return nil
}
