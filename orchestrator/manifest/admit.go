package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	jobwarnings "k8s.io/kubernetes/pkg/api/job"
	"k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchdefaults "k8s.io/kubernetes/pkg/apis/batch/v1"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/coordination"
	coordinationdefaults "k8s.io/kubernetes/pkg/apis/coordination/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	coredefaults "k8s.io/kubernetes/pkg/apis/core/v1"
	jobstrategy "k8s.io/kubernetes/pkg/registry/batch/job"

	jobrules "github.com/nightshift-batch/nightshift/orchestrator/job"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	schedulingdefaults "k8s.io/kubernetes/pkg/apis/scheduling/v1"
)

// Options is what the caller knows about a Job that enters and the manifest does not say.
type Options struct {
	// UID of the new Job; the generated selector and labels carry it. Required.
	UID types.UID
	// Created becomes metadata.creationTimestamp; the zero time leaves it empty.
	Created metav1.Time
	// Images that containers without a command may name.
	Images Images
}

// Admit returns the Job as it is stored: defaulted, with generated selector and labels, generation 1 and no status; or why it
// cannot be taken. job is not changed. Metadata that only a server gives (uid, creationTimestamp, resourceVersion...) is
// overwritten, a namespace that is missing becomes "default".
//
// The errors are Kubernetes' own first, then one for each field that this version does not support.
func Admit(job *batchv1.Job, opts Options) (*batchv1.Job, field.ErrorList) {
	out := job.DeepCopy()
	out.TypeMeta = jobTypeMeta
	out.UID = opts.UID
	out.CreationTimestamp = opts.Created
	out.DeletionTimestamp, out.DeletionGracePeriodSeconds = nil, nil
	out.ResourceVersion = ""
	out.Generation = 1
	out.Status = batchv1.JobStatus{}
	if out.Namespace == "" {
		out.Namespace = metav1.NamespaceDefault
	}
	// A Job without labels shows those of its template, the generated ones included, as when kube-apiserver reads it back.
	mirrorLabels := len(out.Labels) == 0
	Default(out)
	generateSelector(out)
	if mirrorLabels {
		out.Labels = maps.Clone(out.Spec.Template.Labels)
	}

	internal, err := toInternal[batch.Job](out)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	errs := batchvalidation.ValidateJobCreate(internal, batchvalidation.JobValidationOptions{
		PodValidationOptions:  pod.GetValidationOptionsFromPodTemplate(&internal.Spec.Template, nil),
		RequirePrefixedLabels: true,
	})
	errs = append(errs, Unsupported(out, opts.Images)...)
	if len(errs) > 0 {
		return nil, errs
	}
	return out, nil
}

// AdmitUpdate returns updated as it is stored in place of old: defaulted, with the generation that the change calls for and old's
// status; or why the change cannot be taken. What may change is what Kubernetes lets change; old's status says whether it is suspended.
func AdmitUpdate(updated, old *batchv1.Job, images Images) (*batchv1.Job, field.ErrorList) {
	out := updated.DeepCopy()
	out.TypeMeta = jobTypeMeta
	out.Status = *old.Status.DeepCopy()
	Default(out)

	internal, err := toInternal[batch.Job](out)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	oldInternal, err := toInternal[batch.Job](old)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	mutable := templateMutable(old)
	errs := batchvalidation.ValidateJobUpdate(internal, oldInternal, batchvalidation.JobValidationOptions{
		PodValidationOptions:             pod.GetValidationOptionsFromPodTemplate(&internal.Spec.Template, &oldInternal.Spec.Template),
		RequirePrefixedLabels:            true,
		AllowMutableSchedulingDirectives: mutable,
		AllowMutablePodResources:         mutable,
	})
	if len(errs) == 0 {
		errs = append(errs, Unsupported(out, images)...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	out.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(out.Spec, old.Spec) {
		out.Generation++
	}
	return out, nil
}

// AdmitStatus returns old with the metadata of updated and with what clients may write of its status (job.Written), and whether that is all that was written; or
// why the change cannot be taken. What is written has to pass Kubernetes' validation as a whole, as if the Job controller put its part right again afterwards.
func AdmitStatus(ctx context.Context, updated, old *batchv1.Job, images Images) (admitted *batchv1.Job, whole bool, errs field.ErrorList) {
	// Times lose their nanoseconds on the way to a client and back, which is no change.
	out, before := new(batchv1.Job), new(batchv1.Job)
	for from, to := range map[*batchv1.Job]*batchv1.Job{updated: out, old: before} {
		if err := throughJSON(from, to); err != nil {
			return nil, false, field.ErrorList{field.InternalError(nil, err)}
		}
	}
	out.TypeMeta, out.Spec = jobTypeMeta, *old.Spec.DeepCopy()
	internal, err := toInternal[batch.Job](out)
	if err != nil {
		return nil, false, field.ErrorList{field.InternalError(nil, err)}
	}
	oldInternal, err := toInternal[batch.Job](before)
	if err != nil {
		return nil, false, field.ErrorList{field.InternalError(nil, err)}
	}
	errs = append(jobstrategy.StatusStrategy.ValidateUpdate(ctx, internal, oldInternal), Unsupported(out, images)...)
	if len(errs) > 0 {
		return nil, false, errs
	}
	spec, asked := jobrules.SpecOf(out), out.Status
	written := jobrules.Written(&spec, &asked)
	whole = apiequality.Semantic.DeepEqual(jobrules.WithWritten(&spec, &before.Status, &written), asked)
	out.Status = jobrules.WithWritten(&spec, &old.Status, &written)
	return out, whole, nil
}

func throughJSON(from, to *batchv1.Job) error {
	text, err := json.Marshal(from)
	if err != nil {
		return fmt.Errorf("write Job %s/%s: %w", from.Namespace, from.Name, err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("read Job %s/%s: %w", from.Namespace, from.Name, err)
	}
	return nil
}

// Warnings are what kube-apiserver warns of when it takes the Job, which was admitted: in place of old, whose generation it has left behind, or
// for the first time if old is nil (pkg/registry/batch/job/strategy.go: WarningsOnCreate, WarningsOnUpdate).
func Warnings(ctx context.Context, job, old *batchv1.Job) ([]string, error) {
	internal, err := toInternal[batch.Job](job)
	if err != nil {
		return nil, err
	}
	var warnings []string
	var before *batch.JobSpec
	switch {
	case old == nil:
		if problems := utilvalidation.IsDNS1123Label(job.Name); len(problems) > 0 {
			warnings = append(warnings, fmt.Sprintf(
				"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", problems))
		}
	case old.Generation == job.Generation:
		return nil, nil
	default:
		oldInternal, err := toInternal[batch.Job](old)
		if err != nil {
			return nil, err
		}
		before = &oldInternal.Spec
	}
	return append(warnings, jobwarnings.WarningsForJobSpec(ctx, field.NewPath("spec"), &internal.Spec, before)...), nil
}

// templateMutable tells whether the template's scheduling directives and resources may change: the Job is suspended, has not started or
// has taken its pods back, and none is active (pkg/registry/batch/job/strategy.go: shouldAllowMutablePodTemplate).
func templateMutable(job *batchv1.Job) bool {
	if job.Spec.Suspend == nil || !*job.Spec.Suspend || job.Status.Active > 0 {
		return false
	}
	return job.Status.StartTime == nil || slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	})
}

// Default fills in what Kubernetes fills in, in place. It is idempotent.
func Default(job *batchv1.Job) {
	batchdefaults.SetObjectDefaults_Job(job)
	// The defaulting makes metadata.labels and the template's one map; from here on each is changed alone.
	job.Labels = maps.Clone(job.Labels)
}

// maxErrors is how many errors are told of one Job. Joining them takes the library time that grows with the square of their number: with a
// hundred thousand, minutes.
const maxErrors = 1000

// Invalid is the errors as kube-apiserver reports them: `Job.batch "x" is invalid: spec.completions: Invalid value: ...`,
// HTTP status 422. Beyond a thousand they are counted and not told.
func Invalid(name string, errs field.ErrorList) *apierrors.StatusError {
	if more := len(errs) - maxErrors; more > 0 {
		errs = append(errs[:maxErrors:maxErrors], field.Forbidden(nil, fmt.Sprintf("%d more errors are not listed", more)))
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: batchv1.GroupName, Kind: "Job"}, name, errs)
}

var jobTypeMeta = metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"}

// generatedLabels are the pod labels by which Kubernetes ties pods to their Job, in the order of
// pkg/registry/batch/job/strategy.go, function generateSelector.
var generatedLabels = []string{"job-name", batchv1.JobNameLabel, "controller-uid", batchv1.ControllerUidLabel}

// generatedLabel is the value of one of generatedLabels.
func generatedLabel(key string, job *batchv1.Job) string {
	if key == "controller-uid" || key == batchv1.ControllerUidLabel {
		return string(job.UID)
	}
	return job.Name
}

// generateSelector gives the template the labels of its Job and the Job the selector for them, where the user has not set them;
// what the user set wrongly is left for the validation to refuse.
func generateSelector(job *batchv1.Job) {
	if *job.Spec.ManualSelector {
		return // The user gives both.
	}
	if job.Spec.Template.Labels == nil {
		job.Spec.Template.Labels = map[string]string{}
	}
	for _, key := range generatedLabels {
		if _, set := job.Spec.Template.Labels[key]; !set {
			job.Spec.Template.Labels[key] = generatedLabel(key, job)
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, set := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}

// conversions holds Kubernetes' internal types and the way to them; validation is written for those alone.
var conversions = sync.OnceValue(func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		core.AddToScheme, coredefaults.AddToScheme, batch.AddToScheme, batchdefaults.AddToScheme,
		scheduling.AddToScheme, schedulingdefaults.AddToScheme, coordination.AddToScheme, coordinationdefaults.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	return scheme
})

// internalObject is a pointer to one of Kubernetes' internal types.
type internalObject[T any] interface {
	*T
	runtime.Object
}

// toInternal converts to the internal type, for which validation is written.
func toInternal[T any, P internalObject[T]](object runtime.Object) (P, error) {
	var internal P = new(T)
	// The conversion shares memory with its source.
	if err := conversions().Convert(object.DeepCopyObject(), internal, nil); err != nil {
		return nil, fmt.Errorf("convert a %T: %w", object, err)
	}
	return internal, nil
}
