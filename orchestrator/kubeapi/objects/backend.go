package objects

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// Submitter hands a command to the engine and returns when its facts are durable: the number of the log's head then, also with an
// *engine.Rejection, which means that nothing has changed.
type Submitter interface {
	Submit(ctx context.Context, command engine.Command) (seq uint64, err error)
}

// Config is what resources are served with. All is required but the Sealer, without which there are no Secrets.
type Config struct {
	View      *view.View
	Submitter Submitter
	Sealer    Sealer
	Scheme    runtime.ObjectTyper
	// Codec reads and writes objects of a version, for dry runs.
	Codec func(schema.GroupVersion) runtime.Codec
	Now   func() time.Time
	// WhileServing returns a context that also ends when the server stops.
	WhileServing func(context.Context) (context.Context, context.CancelFunc)
}

// backend is the storage of one kind.
type backend struct {
	Config
	kind Kind
}

// Object is an object of the API.
type Object interface {
	runtime.Object
	metav1.Object
}

// keyOf reads what the registry made, "/resource/namespace/name" or less.
func (b *backend) keyOf(key string) view.Key {
	_, rest, _ := strings.Cut(strings.TrimPrefix(key, "/"), "/")
	if !b.kind.namespaced {
		return view.Key{Name: rest}
	}
	namespace, name, _ := strings.Cut(rest, "/")
	return view.Key{Namespace: namespace, Name: name}
}

// Versioner implements storage.Interface.
func (b *backend) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

// current returns an object, opened; nil if there is none.
func (b *backend) current(key view.Key) (Object, error) {
	record, ok := b.View.Get(b.kind.Resource, key)
	if !ok {
		return nil, nil
	}
	shown := record.Object().(Object)
	return shown, b.open(shown)
}

// give puts an object where the registry wants it.
func give(o, out runtime.Object) {
	if out != nil {
		reflect.ValueOf(out).Elem().Set(reflect.ValueOf(o).Elem())
	}
}

// Create implements storage.Interface.
func (b *backend) Create(ctx context.Context, key string, given, out runtime.Object, ttl uint64) error {
	created := given.DeepCopyObject().(Object)
	if created.GetResourceVersion() != "" {
		return storage.ErrResourceVersionSetOnCreate
	}
	_, err := b.put(ctx, key, created, nil, ttl, out)
	return err
}

// put writes an object in place of old, nil for none. It tells whether to try again since old is not what is there any more.
func (b *backend) put(ctx context.Context, key string, o, old Object, ttl uint64, out runtime.Object) (again bool, err error) {
	command := engine.PutObject{Put: object.Put{
		Key: object.Key{Resource: string(b.kind.Resource), Namespace: o.GetNamespace(), Name: o.GetName()}, UID: string(o.GetUID()),
		Finalizers: o.GetFinalizers(), Owners: ownersOf(o), Deleting: o.GetDeletionTimestamp() != nil,
		Lasts: time.Duration(ttl) * time.Second, Create: old == nil,
	}}
	if old != nil {
		if command.Version, err = strconv.ParseUint(old.GetResourceVersion(), 10, 64); err != nil {
			return false, apierrors.NewInternalError(err)
		}
	}
	if command.Object, err = b.encode(o); err != nil {
		return false, err
	}
	seq, err := b.submit(ctx, command)
	var rejection *engine.Rejection
	if errors.As(err, &rejection) && rejection.Kind == engine.Conflict && old != nil {
		return true, nil
	}
	if err != nil {
		return false, b.refused(err, key, o)
	}
	return false, b.written(o, seq, out)
}

// written gives an object as its writer left it, with what the engine has changed in the same step; seq is the number of that step's last fact. If the
// object is gone or somebody has written it since, it is what was sent: who goes on from its version learns the rest.
func (b *backend) written(o Object, seq uint64, out runtime.Object) error {
	record, ok := b.View.Get(b.kind.Resource, view.Key{Namespace: o.GetNamespace(), Name: o.GetName()})
	if ok && record.Version() <= seq {
		if shown := record.Object().(Object); shown.GetUID() == o.GetUID() {
			if err := b.open(shown); err != nil {
				return err
			}
			give(shown, out)
			return nil
		}
	}
	o.SetResourceVersion(strconv.FormatUint(seq, 10))
	give(o, out)
	return nil
}

// submit has a command decided and waits until the view shows what it was decided on.
func (b *backend) submit(ctx context.Context, command engine.Command) (uint64, error) {
	seq, err := b.Submitter.Submit(ctx, command)
	var rejection *engine.Rejection
	if err != nil && !errors.As(err, &rejection) {
		return seq, err
	}
	return seq, errors.Join(err, b.View.WaitFor(ctx, seq))
}

// refused words an error of the submitter for the registry.
func (b *backend) refused(err error, key string, o Object) error {
	var rejection *engine.Rejection
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %q: %v", b.kind.groupResource(), o.GetName(), err), 1)
	case !errors.As(err, &rejection):
		return apierrors.NewInternalError(fmt.Errorf("%s %q: %w", b.kind.groupResource(), o.GetName(), err))
	}
	switch rejection.Kind {
	case engine.NotFound:
		if _, shown := b.View.Get(b.kind.Resource, view.Key{Namespace: o.GetNamespace(), Name: o.GetName()}); shown {
			return apierrors.NewForbidden(b.kind.groupResource(), o.GetName(), errors.New("it is made of what has happened and not written by anybody"))
		}
		return storage.NewKeyNotFoundError(key, 0)
	case engine.AlreadyExists:
		return storage.NewKeyExistsError(key, 0)
	case engine.TooLarge:
		return apierrors.NewRequestEntityTooLargeError(rejection.Message)
	case engine.NoNamespace:
		return apierrors.NewNotFound(corev1.Resource("namespaces"), o.GetNamespace())
	}
	if err := CheckNamespace(b.View, o.GetNamespace(), b.kind.groupResource(), o.GetName()); err != nil {
		return err
	}
	return apierrors.NewForbidden(b.kind.groupResource(), o.GetName(), rejection)
}

// Delete implements storage.Interface.
func (b *backend) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions,
) error {
	for {
		known, err := b.current(b.keyOf(key))
		if err != nil {
			return err
		}
		if known == nil {
			return storage.NewKeyNotFoundError(key, 0)
		}
		if preconditions != nil {
			if err := preconditions.Check(key, known); err != nil {
				return err
			}
		}
		if err := validate(ctx, known); err != nil {
			return err
		}
		version, err := strconv.ParseUint(known.GetResourceVersion(), 10, 64)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		seq, err := b.submit(ctx, engine.DeleteObject{
			Key: object.Key{Resource: string(b.kind.Resource), Namespace: known.GetNamespace(), Name: known.GetName()}, Version: version,
		})
		var rejection *engine.Rejection
		switch {
		case errors.As(err, &rejection) && rejection.Kind == engine.Conflict:
			continue
		case err != nil:
			return b.refused(err, key, known)
		}
		known.SetResourceVersion(strconv.FormatUint(seq, 10))
		give(known, out)
		return nil
	}
}

// GuaranteedUpdate implements storage.Interface.
func (b *backend) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions,
	tryUpdate storage.UpdateFunc, _ runtime.Object,
) error {
	for {
		known, err := b.current(b.keyOf(key))
		if err != nil {
			return err
		}
		if known == nil && !ignoreNotFound {
			return storage.NewKeyNotFoundError(key, 0)
		}
		again, err := b.update(ctx, key, out, known, preconditions, tryUpdate)
		if err != nil || !again {
			return err
		}
	}
}

func (b *backend) update(ctx context.Context, key string, out runtime.Object, known Object, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc) (again bool, err error) {
	input, about := b.kind.newObject(), storage.ResponseMeta{}
	if known != nil {
		input = known.DeepCopyObject()
		if about.ResourceVersion, err = strconv.ParseUint(known.GetResourceVersion(), 10, 64); err != nil {
			return false, apierrors.NewInternalError(err)
		}
	}
	if preconditions != nil {
		if err := preconditions.Check(key, input); err != nil {
			return false, err
		}
	}
	changed, ttl, err := tryUpdate(input, about)
	if err != nil {
		return false, err
	}
	updated := changed.DeepCopyObject().(Object)
	if known != nil {
		same, err := equal(updated, known)
		if err != nil {
			return false, apierrors.NewInternalError(err)
		}
		if same && b.kind.lasts == 0 {
			give(known, out)
			return false, nil
		}
	}
	lasts := uint64(b.kind.lasts.Seconds())
	if ttl != nil {
		lasts = *ttl
	}
	again, err = b.put(ctx, key, updated, known, lasts, out)
	if known == nil && storage.IsExist(err) {
		return true, nil // it has come meanwhile, so it is an update
	}
	return again, err
}

// equal tells whether two objects would be stored as the same bytes.
func equal(x, y Object) (bool, error) {
	first, err := json.Marshal(bare(x))
	if err != nil {
		return false, err
	}
	second, err := json.Marshal(bare(y))
	return bytes.Equal(first, second), err
}

// bare returns an object without what is not stored.
func bare(o Object) Object {
	stored := o.DeepCopyObject().(Object)
	stored.SetResourceVersion("")
	stored.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return stored
}

// encode writes an object as it is stored: sealed.
func (b *backend) encode(o Object) ([]byte, error) {
	stored := bare(o)
	if err := b.seal(stored); err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(stored)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return encoded, nil
}

// collected are the kinds beside those of this package that objects go with.
var collected = map[schema.GroupKind]bool{{Group: "batch", Kind: "Job"}: true, {Group: "batch", Kind: "CronJob"}: true, {Kind: "Pod"}: true}

func ownersOf(o Object) (owners []object.Owner) {
	for _, reference := range o.GetOwnerReferences() {
		kind := schema.FromAPIVersionAndKind(reference.APIVersion, reference.Kind).GroupKind()
		known := collected[kind]
		for _, each := range Kinds() {
			// Events that are made of facts are not the engine's, and the default namespace has no UID there.
			known = known || kind == each.Version.WithKind(each.Name).GroupKind() && each.Resource != view.Events && each.Resource != view.Namespaces
		}
		owners = append(owners, object.Owner{
			UID: string(reference.UID), Blocks: reference.BlockOwnerDeletion != nil && *reference.BlockOwnerDeletion, Foreign: !known,
		})
	}
	return owners
}
