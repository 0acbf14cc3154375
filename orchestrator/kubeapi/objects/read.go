package objects

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// Get implements storage.Interface.
func (b *backend) Get(ctx context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	if _, err := b.View.Reach(ctx, options.ResourceVersion); err != nil {
		return err
	}
	known, err := b.current(b.keyOf(key))
	switch {
	case err != nil:
		return err
	case known != nil:
		give(known, out)
	case options.IgnoreNotFound:
		give(b.kind.newObject(), out)
	default:
		return storage.NewKeyNotFoundError(key, 0)
	}
	return nil
}

func (b *backend) selection(key string, predicate storage.SelectionPredicate) view.Selection {
	return view.Selection{Namespace: b.keyOf(key).Namespace, Labels: predicate.Label, Fields: predicate.Field}
}

// GetList implements storage.Interface.
func (b *backend) GetList(ctx context.Context, key string, options storage.ListOptions, list runtime.Object) error {
	page, err := b.View.Page(ctx, b.kind.Resource, b.selection(key, options.Predicate), view.PageOptions{
		Version: options.ResourceVersion, Match: options.ResourceVersionMatch, Limit: options.Predicate.Limit, Continue: options.Predicate.Continue,
	})
	if err != nil {
		return err
	}
	members := make([]runtime.Object, len(page.Records))
	for i, record := range page.Records {
		members[i] = record.Object()
		if err := b.open(members[i]); err != nil {
			return err
		}
		// The members of a typed list name no kind.
		members[i].GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	if err := meta.SetList(list, members); err != nil {
		return apierrors.NewInternalError(err)
	}
	return b.Versioner().UpdateList(list, page.Version, page.Continue, page.Remaining)
}

// Watch implements storage.Interface.
func (b *backend) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	begin, err := b.View.WatchFrom(ctx, options.ResourceVersion, options.SendInitialEvents, options.Predicate.AllowWatchBookmarks, b.kind.newObject)
	if err != nil {
		return nil, err
	}
	// The watch ends with its context, which also ends when the server stops.
	ctx, cancel := b.WhileServing(ctx)
	watching, err := b.View.Watch(ctx, b.kind.Resource, b.selection(key, options.Predicate), begin)
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	if b.kind.Resource != view.Secrets {
		return watching, nil
	}
	return watch.Filter(watching, func(told watch.Event) (watch.Event, bool) {
		if err := b.open(told.Object); err != nil {
			status := apierrors.NewInternalError(err).Status()
			return watch.Event{Type: watch.Error, Object: &status}, true
		}
		return told, true
	}), nil
}

// Stats implements storage.Interface.
func (b *backend) Stats(context.Context) (storage.Stats, error) {
	records, _ := b.View.List(b.kind.Resource, view.Selection{})
	return storage.Stats{ObjectCount: int64(len(records))}, nil
}

// ReadinessCheck implements storage.Interface.
func (b *backend) ReadinessCheck() error { return nil }

// RequestWatchProgress implements storage.Interface.
func (b *backend) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface.
func (b *backend) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return b.View.Seq(), nil
}

// EnableResourceSizeEstimation implements storage.Interface.
func (b *backend) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface.
func (b *backend) CompactRevision() int64 { return 0 }
