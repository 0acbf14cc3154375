package kubeapi

import (
	"cmp"
	"context"
	"errors"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/objects"
	stored "github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// object is one that a client names, of a kind that this package serves.
type object interface {
	runtime.Object
	metav1.Object
}

// submit has a command about an object carried out, and returns when the view holds what became of it.
func (r *resource) submit(ctx context.Context, name string, command engine.Command) error {
	seq, err := r.server.config.Submitter.Submit(ctx, command)
	return r.reach(ctx, name, seq, err)
}

// reach returns when the view holds what a command has brought about, or with the command's error in the API's words.
func (r *resource) reach(ctx context.Context, name string, seq uint64, err error) error {
	if err == nil {
		err = r.view().WaitFor(ctx, seq)
	}
	return apiError(err, r.group, name)
}

// asItIs returns the object as it is now; false if it has gone, or another has its name.
func (r *resource) asItIs(of object) (runtime.Object, bool) {
	record, ok := r.view().Get(r.kind, view.Key{Namespace: of.GetNamespace(), Name: of.GetName()})
	if !ok {
		return nil, false
	}
	now := record.Object()
	return now, now.(object).GetUID() == of.GetUID()
}

// shown is the object as it is now, or else as it was written if it is gone already.
func (r *resource) shown(written object) runtime.Object {
	if now, ok := r.asItIs(written); ok {
		return now
	}
	return written
}

// nameTries is how many names are tried for a generateName. The five random characters do collide within some thousands of Jobs.
const nameTries = 8

// create fills in what the server says of a new object, and has it made, under a name that is free if it has none of its own.
func (r *resource) create(ctx context.Context, wanted object, attempt func() (runtime.Object, error)) (runtime.Object, error) {
	if wanted.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	rest.FillObjectMetaSystemFields(wanted)
	wanted.SetNamespace(request.NamespaceValue(ctx))
	if err := objects.CheckNamespace(r.view(), wanted.GetNamespace(), r.group, wanted.GetName()); err != nil {
		return nil, err
	}
	if wanted.GetName() != "" || wanted.GetGenerateName() == "" {
		return attempt()
	}
	for range nameTries {
		wanted.SetName(names.SimpleNameGenerator.GenerateName(wanted.GetGenerateName()))
		if created, err := attempt(); !apierrors.IsAlreadyExists(err) {
			return created, err
		}
	}
	return nil, apierrors.NewGenerateNameConflict(r.group, wanted.GetName(), 1)
}

// deletable serves the deletions of a kind. command is what the engine is to do for one; it may refuse the options.
type deletable struct {
	*resource
	command func(ctx context.Context, of object, options *metav1.DeleteOptions) (engine.Command, error)
}

// Delete implements rest.GracefulDeleter.
func (d *deletable) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	record, ok := d.view().Get(d.kind, d.key(ctx, name))
	if !ok {
		return nil, false, apierrors.NewNotFound(d.group, name)
	}
	return d.delete(ctx, record, validate, options)
}

func (d *deletable) delete(ctx context.Context, record *view.Record, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	of := record.Object().(object)
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkPreconditions(options.Preconditions, of, d.group); err != nil {
		return nil, false, err
	}
	command, err := d.command(ctx, of, options)
	if err != nil {
		return nil, false, err
	}
	if validate != nil {
		if err := validate(ctx, of.DeepCopyObject()); err != nil {
			return nil, false, err
		}
	}
	if dryrun.IsDryRun(options.DryRun) {
		return of, false, nil
	}
	if err := d.submit(ctx, of.GetName(), command); err != nil {
		return nil, false, err
	}
	if left, ok := d.asItIs(of); ok {
		return left, false, nil
	}
	return of, true, nil
}

// DeleteCollection implements rest.CollectionDeleter.
func (d *deletable) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	records, version := d.view().List(d.kind, d.selection(ctx, list))
	for _, record := range records {
		if _, _, err := d.delete(ctx, record, validate, options); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return d.listOf(view.Page{Records: records, Version: version})
}

// editable serves the changes of a kind by clients.
type editable struct {
	*deletable
	// changing makes reading, changing and writing an object one step. Only this server writes it; what the engine changes meanwhile
	// is status, of which clients write other parts, or with the version that they have read.
	changing sync.Mutex
}

// edit is a change that a client wants. before is the object as it is stored, old as it is shown: how a deletion is shown is no part of what is stored.
type edit struct {
	wanted, before, old object
	version             uint64
}

// change has an object written as the client wants it in place of what it is, which nobody else changes meanwhile.
func (e *editable) change(ctx context.Context, name string, info rest.UpdatedObjectInfo, write func(edit) (runtime.Object, error)) (runtime.Object, error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	record, ok := e.view().Get(e.kind, e.key(ctx, name))
	if !ok {
		return nil, apierrors.NewNotFound(e.group, name)
	}
	old := record.Object().(object)
	if err := checkPreconditions(info.Preconditions(), old, e.group); err != nil {
		return nil, err
	}
	updated, err := info.UpdatedObject(ctx, old.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	change := edit{wanted: updated.(object), before: old.DeepCopyObject().(object), old: old, version: record.Version()}
	wanted := change.wanted
	if version := wanted.GetResourceVersion(); version != "" && version != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(e.group, name, errors.New(stored.WasModified))
	}
	wanted.SetNamespace(cmp.Or(wanted.GetNamespace(), old.GetNamespace()))
	wanted.SetResourceVersion(old.GetResourceVersion())
	wanted.SetUID(cmp.Or(wanted.GetUID(), old.GetUID()))
	wanted.SetCreationTimestamp(old.GetCreationTimestamp())
	wanted.SetGeneration(old.GetGeneration())
	if old.GetDeletionTimestamp() != nil {
		for _, each := range []object{wanted, change.before} {
			each.SetDeletionTimestamp(nil)
			each.SetDeletionGracePeriodSeconds(nil)
			each.SetFinalizers(nil)
		}
	}
	return write(change)
}

// createInstead makes the object that an update means if there is none; not done if there is, or the update may not.
func (e *editable) createInstead(ctx context.Context, name string, info rest.UpdatedObjectInfo, allowed bool, create func(wanted runtime.Object) (runtime.Object, error)) (created runtime.Object, done bool, err error) {
	if _, exists := e.view().Get(e.kind, e.key(ctx, name)); exists || !allowed {
		return nil, false, nil
	}
	wanted, err := info.UpdatedObject(ctx, e.New())
	if err == nil {
		created, err = create(wanted)
	}
	return created, true, err
}
