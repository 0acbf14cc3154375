package kubeapi

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// cronJobs serves batch/v1 cronjobs. Policy is asked about their Jobs, and not about them.
type cronJobs struct{ *editable }

func newCronJobs(s *Server) *cronJobs {
	r := newResource(s, view.CronJobs, batchv1.GroupName, "cronjob", true,
		func() runtime.Object { return &batchv1.CronJob{} }, func() runtime.Object { return &batchv1.CronJobList{} }, printed.CronJobs, "cj")
	r.categories = []string{"all"}
	return &cronJobs{&editable{deletable: &deletable{r, deleteCronJob}}}
}

// Create implements rest.Creater.
func (c *cronJobs) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	cronJob := object.(*batchv1.CronJob)
	return c.resource.create(ctx, cronJob, func() (runtime.Object, error) {
		return c.create(ctx, cronJob, validate, dryrun.IsDryRun(options.DryRun))
	})
}

func (c *cronJobs) create(ctx context.Context, cronJob *batchv1.CronJob, validate rest.ValidateObjectFunc, dryRun bool) (runtime.Object, error) {
	admitted, made, errs := manifest.AdmitCronJob(cronJob, manifest.Options{UID: cronJob.UID, Created: cronJob.CreationTimestamp, Images: c.server.config.Images(engine.Name{Namespace: cronJob.Namespace})})
	if len(errs) > 0 {
		return nil, manifest.InvalidCronJob(cronJob.Name, errs)
	}
	if problems := validation.IsDNS1123Label(admitted.Name); len(problems) > 0 {
		warning.AddWarning(ctx, "", fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", problems))
	}
	if validate != nil {
		if err := validate(ctx, admitted); err != nil {
			return nil, err
		}
	}
	if dryRun {
		if _, taken := c.view().Get(c.kind, view.Key{Namespace: admitted.Namespace, Name: admitted.Name}); taken {
			return nil, apierrors.NewAlreadyExists(c.group, admitted.Name)
		}
		return admitted, nil
	}
	rules, err := c.zoneRules(admitted)
	if err != nil {
		return nil, err
	}
	command := engine.CreateCronJob{CronJob: admitted, Job: made, ZoneRules: rules}
	if who, ok := request.UserFrom(ctx); ok {
		command.User = who.GetName()
	}
	if err := c.submit(ctx, admitted.Name, command); err != nil {
		return nil, err
	}
	return c.shown(admitted), nil
}

// zoneRules are those of the CronJob's time zone; nil if it names none.
func (c *cronJobs) zoneRules(cronJob *batchv1.CronJob) ([]byte, error) {
	if cronJob.Spec.TimeZone == nil {
		return nil, nil
	}
	rules, err := manifest.ZoneRules(*cronJob.Spec.TimeZone, c.server.config.Now())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return rules, nil
}

// Update implements rest.Updater: PUT, patches and apply come here. Jobs that were made stay as they are.
func (c *cronJobs) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, validateCreate rest.ValidateObjectFunc,
	validateUpdate rest.ValidateObjectUpdateFunc, createIfMissing bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	created, done, err := c.createInstead(ctx, name, info, createIfMissing, func(wanted runtime.Object) (runtime.Object, error) {
		return c.Create(ctx, wanted, validateCreate, &metav1.CreateOptions{DryRun: options.DryRun})
	})
	if done {
		return created, true, err
	}
	changed, err := c.change(ctx, name, info, func(change edit) (runtime.Object, error) {
		return c.write(ctx, cronJobEdit{edit: change, validate: validateUpdate, dryRun: dryrun.IsDryRun(options.DryRun)})
	})
	return changed, false, err
}

// cronJobEdit is a change of the object, or of its metadata and status.
type cronJobEdit struct {
	edit
	validate rest.ValidateObjectUpdateFunc
	dryRun   bool
	ofStatus bool
}

// write stores an object in place of old. A change of the status is refused if the engine has changed it since old was read.
func (c *cronJobs) write(ctx context.Context, change cronJobEdit) (runtime.Object, error) {
	cronJob, before, old := change.wanted.(*batchv1.CronJob), change.before.(*batchv1.CronJob), change.old.(*batchv1.CronJob)
	status := cronJob.Status
	if change.ofStatus {
		cronJob.Spec = *old.Spec.DeepCopy()
	}
	admitted, made, errs := manifest.AdmitCronJobUpdate(cronJob, before, c.server.config.Images(engine.Name{Namespace: old.Namespace}))
	if len(errs) > 0 {
		return nil, manifest.InvalidCronJob(old.Name, errs)
	}
	if change.ofStatus {
		admitted.Status.LastScheduleTime, admitted.Status.LastSuccessfulTime = status.LastScheduleTime, status.LastSuccessfulTime
	}
	if change.validate != nil {
		if err := change.validate(ctx, admitted, old); err != nil {
			return nil, err
		}
	}
	if apiequality.Semantic.DeepEqual(admitted, before) {
		return old, nil
	}
	if change.dryRun {
		return admitted, nil
	}
	rules, err := c.zoneRules(admitted)
	if err != nil {
		return nil, err
	}
	stored := admitted.DeepCopy()
	stored.Status, stored.ResourceVersion = batchv1.CronJobStatus{}, ""
	command := engine.UpdateCronJob{CronJob: stored, Job: made, ZoneRules: rules}
	if change.ofStatus {
		command.Version = change.version
		command.Status = &engine.CronJobStatus{}
		if at := status.LastScheduleTime; at != nil {
			command.Status.LastSchedule = at.Time
		}
		if at := status.LastSuccessfulTime; at != nil {
			command.Status.LastSuccessful = at.Time
		}
	}
	if err := c.submit(ctx, admitted.Name, command); err != nil {
		return nil, err
	}
	return c.shown(admitted), nil
}

// deleteCronJob is the deletion of a CronJob. Its Jobs go behind it, or before it with Foreground; with Orphan they stay
// (pkg/registry/batch/cronjob/strategy.go: DefaultGarbageCollectionPolicy).
func deleteCronJob(_ context.Context, of object, options *metav1.DeleteOptions) (engine.Command, error) {
	command := engine.DeleteCronJob{Namespace: of.GetNamespace(), Name: of.GetName(), UID: string(of.GetUID()), Propagation: metav1.DeletePropagationBackground}
	//lint:ignore SA1019 clients may still send the deprecated field, and mean it
	orphan := options.OrphanDependents
	switch {
	case options.PropagationPolicy != nil:
		command.Propagation = *options.PropagationPolicy
	case orphan != nil && *orphan:
		command.Propagation = metav1.DeletePropagationOrphan
	}
	return command, nil
}

// GetResetFields implements rest.ResetFieldsStrategy: what clients write to the status here is dropped.
func (c *cronJobs) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"batch/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// cronJobStatus serves cronjobs/status. Clients may write the times in it; which Jobs are active is for the engine to see.
type cronJobStatus struct{ of *cronJobs }

// New implements rest.Storage.
func (s *cronJobStatus) New() runtime.Object { return s.of.New() }

// Destroy implements rest.Storage.
func (s *cronJobStatus) Destroy() {}

// Get implements rest.Getter.
func (s *cronJobStatus) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.of.Get(ctx, name, options)
}

// statusTries is how often a change of a status that names no version is made anew, since the engine has changed it meanwhile.
const statusTries = 8

// Update implements rest.Updater.
func (s *cronJobStatus) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (changed runtime.Object, created bool, err error) {
	for range statusTries {
		changed, err = s.of.change(ctx, name, info, func(change edit) (runtime.Object, error) {
			return s.of.write(ctx, cronJobEdit{edit: change, validate: validate, dryRun: dryrun.IsDryRun(options.DryRun), ofStatus: true})
		})
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return changed, false, err
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *cronJobStatus) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"batch/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))}
}

// ConvertToTable implements rest.TableConvertor.
func (s *cronJobStatus) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.of.ConvertToTable(ctx, object, options)
}

// zonesEvery is how often the rules of time zones are read anew: governments change them, and the machine's database with them.
const zonesEvery = time.Hour

// followZones brings the rules of the zones that CronJobs name up to date, until the context ends.
func (s *Server) followZones(ctx context.Context) {
	ticker := time.NewTicker(zonesEvery)
	defer ticker.Stop()
	for {
		if err := s.refreshZones(ctx); err != nil && ctx.Err() == nil {
			s.config.Logger.Warn("rules of time zones are not brought up to date; CronJobs keep those on record", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// refreshZones records the rules that differ from those on record.
func (s *Server) refreshZones(ctx context.Context) error {
	var known map[string][]byte
	s.config.View.Read(func(state *engine.State) { known = maps.Clone(state.Zones) })
	for _, name := range slices.Sorted(maps.Keys(known)) {
		rules, err := manifest.ZoneRules(name, s.config.Now())
		if err != nil {
			return err
		}
		if bytes.Equal(rules, known[name]) {
			continue
		}
		if _, err := s.config.Submitter.Submit(ctx, engine.ObserveTimeZone{Name: name, Rules: rules}); err != nil {
			return err
		}
	}
	return nil
}
