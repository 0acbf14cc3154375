package kubeapi

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

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
	changed, err := s.of.change(ctx, name, info, func(job, old *batchv1.Job) (runtime.Object, error) {
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
