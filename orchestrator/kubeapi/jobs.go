package kubeapi

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	jobrules "github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// jobs serves batch/v1 jobs.
type jobs struct{ *editable }

func newJobs(s *Server) *jobs {
	r := newResource(s, view.Jobs, batchv1.GroupName, "job", true,
		func() runtime.Object { return &batchv1.Job{} }, func() runtime.Object { return &batchv1.JobList{} }, printed.Jobs)
	r.categories = []string{"all"}
	return &jobs{&editable{deletable: &deletable{r, deleteJob}}}
}

// Create implements rest.Creater: it answers when policy has decided.
func (j *jobs) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	job := object.(*batchv1.Job)
	return j.resource.create(ctx, job, func() (runtime.Object, error) { return j.create(ctx, job, validate, dryrun.IsDryRun(options.DryRun)) })
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
	if err := j.reach(ctx, admitted.Name, seq, err); err != nil {
		return nil, err
	}
	return j.shown(admitted), nil
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

// Update implements rest.Updater: PUT, patches and apply come here. Of the spec may change what Kubernetes lets change.
func (j *jobs) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, validateCreate rest.ValidateObjectFunc,
	validateUpdate rest.ValidateObjectUpdateFunc, createIfMissing bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	created, done, err := j.createInstead(ctx, name, info, createIfMissing, func(wanted runtime.Object) (runtime.Object, error) {
		return j.Create(ctx, wanted, validateCreate, &metav1.CreateOptions{DryRun: options.DryRun})
	})
	if done {
		return created, true, err
	}
	changed, err := j.change(ctx, name, info, func(change edit) (runtime.Object, error) {
		return j.update(ctx, change.wanted.(*batchv1.Job), change.before.(*batchv1.Job), validateUpdate, dryrun.IsDryRun(options.DryRun))
	})
	return changed, false, err
}

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
		return j.shown(admitted), nil
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
	if err := j.submit(ctx, old.Name, engine.UpdateJob{Job: stored, Digest: digest}); err != nil {
		return nil, err
	}
	return j.shown(admitted), nil
}

// deleteJob is the deletion of a Job. Its pods always go with it, and before it: kubectl's background deletion shows the Job until they have ended.
func deleteJob(ctx context.Context, of object, options *metav1.DeleteOptions) (engine.Command, error) {
	policy := options.PropagationPolicy
	//lint:ignore SA1019 clients may still send the deprecated field, and mean it
	orphan := options.OrphanDependents
	if (policy != nil && *policy == metav1.DeletePropagationOrphan) || (orphan != nil && *orphan) {
		return nil, apierrors.NewBadRequest("propagationPolicy Orphan is not supported by this version of Nightshift: the pods of a Job end with it")
	}
	if policy == nil && orphan == nil {
		warning.AddWarning(ctx, "", "the Job's pods are deleted with it; kube-apiserver would leave them, as no propagationPolicy is given")
	}
	return engine.DeleteJob{Namespace: of.GetNamespace(), Name: of.GetName(), UID: string(of.GetUID())}, nil
}

// GetResetFields implements rest.ResetFieldsStrategy: what clients write to the status is dropped.
func (j *jobs) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"batch/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// jobStatus serves jobs/status. What the engine tells of a Job is the engine's; clients write conditions of other types, and all of the status of a Job that
// another controller manages.
type jobStatus struct{ of *jobs }

// New implements rest.Storage.
func (s *jobStatus) New() runtime.Object { return s.of.New() }

// Destroy implements rest.Storage.
func (s *jobStatus) Destroy() {}

// Get implements rest.Getter.
func (s *jobStatus) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.of.Get(ctx, name, options)
}

// Update implements rest.Updater: PUT, patches and apply come here. The spec stays as it is, the metadata may change.
func (s *jobStatus) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	changed, err := s.of.change(ctx, name, info, func(change edit) (runtime.Object, error) {
		job, old := change.wanted.(*batchv1.Job), change.before.(*batchv1.Job)
		admitted, whole, errs := manifest.AdmitStatus(ctx, job, old, s.of.server.config.Images(engine.Name{Namespace: old.Namespace, Name: old.Name}))
		if len(errs) > 0 {
			return nil, manifest.Invalid(old.Name, errs)
		}
		if !whole {
			warning.AddWarning(ctx, "", "status: what the control plane tells of the Job itself stays as it is; of what was written, conditions of other types are kept")
		}
		if validate != nil {
			if err := validate(ctx, admitted, old); err != nil {
				return nil, err
			}
		}
		return s.of.store(ctx, admitted, old, dryrun.IsDryRun(options.DryRun))
	})
	return changed, false, err
}

// GetResetFields implements rest.ResetFieldsStrategy: what clients write to the spec is dropped.
func (s *jobStatus) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"batch/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))}
}

// ConvertToTable implements rest.TableConvertor.
func (s *jobStatus) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.of.ConvertToTable(ctx, object, options)
}
