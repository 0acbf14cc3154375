package kubeapi

import (
	"context"
	"errors"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	jobrules "github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/objects"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// nameTries is how many names are tried for a generateName. The five random characters do collide within some thousands of Jobs.
const nameTries = 8

// jobs serves batch/v1 jobs.
type jobs struct {
	*resource
	// changing makes reading, changing and writing a Job's object one step. Only this server writes it; what the engine changes
	// meanwhile is status, of which no client writes the same parts.
	changing sync.Mutex
}

func newJobs(s *Server) *jobs {
	r := newResource(s, view.Jobs, batchv1.GroupName, "job", true,
		func() runtime.Object { return &batchv1.Job{} }, func() runtime.Object { return &batchv1.JobList{} }, printed.Jobs)
	r.categories = []string{"all"}
	return &jobs{resource: r}
}

// Create implements rest.Creater: it answers when policy has decided.
func (j *jobs) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	job := object.(*batchv1.Job)
	if job.ResourceVersion != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	rest.FillObjectMetaSystemFields(job)
	job.Namespace = request.NamespaceValue(ctx)
	if err := objects.CheckNamespace(j.view(), job.Namespace, j.group, job.Name); err != nil {
		return nil, err
	}
	if job.Name != "" || job.GenerateName == "" {
		return j.create(ctx, job, validate, dryrun.IsDryRun(options.DryRun))
	}
	var err error
	for range nameTries {
		job.Name = names.SimpleNameGenerator.GenerateName(job.GenerateName)
		var created runtime.Object
		if created, err = j.create(ctx, job, validate, dryrun.IsDryRun(options.DryRun)); !apierrors.IsAlreadyExists(err) {
			return created, err
		}
	}
	return nil, apierrors.NewGenerateNameConflict(j.group, job.Name, 1)
}

func (j *jobs) create(ctx context.Context, job *batchv1.Job, validate rest.ValidateObjectFunc, dryRun bool) (runtime.Object, error) {
	images := j.server.config.Images(engine.Name{Namespace: job.Namespace, Name: job.Name})
	admitted, errs := manifest.Admit(job, manifest.Options{UID: job.UID, Created: job.CreationTimestamp, Images: images})
	if len(errs) > 0 {
		return nil, manifest.Invalid(job.Name, errs)
	}
	if err := warn(ctx, admitted, nil); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, admitted); err != nil {
			return nil, err
		}
	}
	if dryRun {
		if _, taken := j.view().Get(j.kind, view.Key{Namespace: admitted.Namespace, Name: admitted.Name}); taken {
			return nil, apierrors.NewAlreadyExists(j.group, admitted.Name)
		}
		return admitted, nil
	}
	digest, err := manifest.Digest(admitted)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	command := engine.CreateJob{Job: admitted, Digest: digest}
	if who, ok := request.UserFrom(ctx); ok {
		command.User = who.GetName()
	}
	if who, ok := identityFrom(ctx); ok {
		command.ReplaceEnded = who.ReplaceEnded
	}
	seq, err := j.server.config.Jobs.Create(ctx, command)
	if err != nil {
		return nil, apiError(err, j.group, admitted.Name)
	}
	return j.shown(ctx, admitted, seq)
}

// warn tells the client what Kubernetes warns of.
func warn(ctx context.Context, admitted, old *batchv1.Job) error {
	warnings, err := manifest.Warnings(ctx, admitted, old)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	for _, text := range warnings {
		warning.AddWarning(ctx, "", text)
	}
	return nil
}

// shown waits until the view holds a change and returns the Job, or else what was written if it is gone already.
func (j *jobs) shown(ctx context.Context, written *batchv1.Job, seq uint64) (runtime.Object, error) {
	if err := j.view().WaitFor(ctx, seq); err != nil {
		return nil, apiError(err, j.group, written.Name)
	}
	if record, ok := j.view().Get(j.kind, view.Key{Namespace: written.Namespace, Name: written.Name}); ok {
		if object := record.Object().(*batchv1.Job); object.UID == written.UID {
			return object, nil
		}
	}
	return written, nil
}

// Update implements rest.Updater: PUT, patches and apply come here. Of the spec may change what Kubernetes lets change.
func (j *jobs) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, validateCreate rest.ValidateObjectFunc,
	validateUpdate rest.ValidateObjectUpdateFunc, createIfMissing bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	if _, exists := j.view().Get(j.kind, j.key(ctx, name)); !exists && createIfMissing {
		wanted, err := info.UpdatedObject(ctx, j.New())
		if err != nil {
			return nil, false, err
		}
		created, err := j.Create(ctx, wanted, validateCreate, &metav1.CreateOptions{DryRun: options.DryRun})
		return created, true, err
	}
	changed, err := j.change(ctx, name, info, func(job, old *batchv1.Job) (runtime.Object, error) {
		return j.update(ctx, job, old, validateUpdate, dryrun.IsDryRun(options.DryRun))
	})
	return changed, false, err
}

// change has a Job written as the client wants it in place of what it is, which nobody else changes meanwhile.
func (j *jobs) change(ctx context.Context, name string, info rest.UpdatedObjectInfo, write func(job, old *batchv1.Job) (runtime.Object, error)) (runtime.Object, error) {
	j.changing.Lock()
	defer j.changing.Unlock()
	record, ok := j.view().Get(j.kind, j.key(ctx, name))
	if !ok {
		return nil, apierrors.NewNotFound(j.group, name)
	}
	old := record.Object().(*batchv1.Job)
	if err := checkPreconditions(info.Preconditions(), old, j.group); err != nil {
		return nil, err
	}
	updated, err := info.UpdatedObject(ctx, old.DeepCopy())
	if err != nil {
		return nil, err
	}
	job := updated.(*batchv1.Job)
	if job.ResourceVersion != "" && job.ResourceVersion != old.ResourceVersion {
		return nil, apierrors.NewConflict(j.group, name, errors.New(optimisticLock))
	}
	if job.Namespace == "" {
		job.Namespace = old.Namespace
	}
	job.ResourceVersion = old.ResourceVersion
	job.UID, job.CreationTimestamp, job.Generation = orOld(job.UID, old.UID), old.CreationTimestamp, old.Generation
	before := old.DeepCopy()
	if old.DeletionTimestamp != nil {
		// How a deletion is shown is no part of what is stored.
		for _, each := range []*batchv1.Job{job, before} {
			each.DeletionTimestamp, each.DeletionGracePeriodSeconds, each.Finalizers = nil, nil, nil
		}
	}
	return write(job, before)
}

// optimisticLock is what Kubernetes says of a change to an older version (k8s.io/apiserver/pkg/registry/generic/registry).
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

func (j *jobs) update(ctx context.Context, job, old *batchv1.Job, validate rest.ValidateObjectUpdateFunc, dryRun bool) (runtime.Object, error) {
	admitted, errs := manifest.AdmitUpdate(job, old, j.server.config.Images(engine.Name{Namespace: old.Namespace, Name: old.Name}))
	if len(errs) > 0 {
		return nil, manifest.Invalid(old.Name, errs)
	}
	if err := warn(ctx, admitted, old); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, admitted, old); err != nil {
			return nil, err
		}
	}
	return j.store(ctx, admitted, old, dryRun)
}

// store writes an admitted Job down in place of what it is, if they differ. Of its status is stored what clients have written.
func (j *jobs) store(ctx context.Context, admitted, old *batchv1.Job, dryRun bool) (runtime.Object, error) {
	if apiequality.Semantic.DeepEqual(admitted, old) {
		return j.shown(ctx, admitted, 0)
	}
	if dryRun {
		return admitted, nil
	}
	digest, err := manifest.Digest(admitted)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	stored := admitted.DeepCopy()
	spec := jobrules.SpecOf(stored)
	stored.Status, stored.ResourceVersion = jobrules.Written(&spec, &stored.Status), ""
	seq, err := j.server.config.Submitter.Submit(ctx, engine.UpdateJob{Job: stored, Digest: digest})
	if err != nil {
		return nil, apiError(err, j.group, old.Name)
	}
	return j.shown(ctx, admitted, seq)
}

func orOld[T comparable](value, old T) T {
	var zero T
	if value == zero {
		return old
	}
	return value
}

// Delete implements rest.GracefulDeleter. A Job's pods always go with it, and before it: kubectl's background deletion shows the
// Job until they have ended.
func (j *jobs) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	record, ok := j.view().Get(j.kind, j.key(ctx, name))
	if !ok {
		return nil, false, apierrors.NewNotFound(j.group, name)
	}
	return j.delete(ctx, record, validate, options)
}

func (j *jobs) delete(ctx context.Context, record *view.Record, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	job := record.Object().(*batchv1.Job)
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkPreconditions(options.Preconditions, job, j.group); err != nil {
		return nil, false, err
	}
	policy := options.PropagationPolicy
	//lint:ignore SA1019 clients may still send the deprecated field, and mean it
	orphan := options.OrphanDependents
	if (policy != nil && *policy == metav1.DeletePropagationOrphan) || (orphan != nil && *orphan) {
		return nil, false, apierrors.NewBadRequest("propagationPolicy Orphan is not supported by this version of Nightshift: the pods of a Job end with it")
	}
	if policy == nil && orphan == nil {
		warning.AddWarning(ctx, "", "the Job's pods are deleted with it; kube-apiserver would leave them, as no propagationPolicy is given")
	}
	if validate != nil {
		if err := validate(ctx, job.DeepCopy()); err != nil {
			return nil, false, err
		}
	}
	if dryrun.IsDryRun(options.DryRun) {
		return job, false, nil
	}
	seq, err := j.server.config.Submitter.Submit(ctx, engine.DeleteJob{Namespace: job.Namespace, Name: job.Name, UID: string(job.UID)})
	if err != nil {
		return nil, false, apiError(err, j.group, job.Name)
	}
	if err := j.view().WaitFor(ctx, seq); err != nil {
		return nil, false, apiError(err, j.group, job.Name)
	}
	if left, ok := j.view().Get(j.kind, record.Key()); ok {
		if object := left.Object().(*batchv1.Job); object.UID == job.UID {
			return object, false, nil
		}
	}
	return job, true, nil
}

// DeleteCollection implements rest.CollectionDeleter.
func (j *jobs) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	records, version := j.view().List(j.kind, j.selection(ctx, list))
	for _, record := range records {
		if _, _, err := j.delete(ctx, record, validate, options); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return j.listOf(view.Page{Records: records, Version: version})
}

// GetResetFields implements rest.ResetFieldsStrategy: what clients write to the status is dropped.
func (j *jobs) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"batch/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}
