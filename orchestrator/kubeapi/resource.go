package kubeapi

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// resource is the reading side of one resource: get, list, watch and table. It serves read-only resources by itself.
type resource struct {
	server     *Server
	kind       view.Resource
	group      schema.GroupResource
	singular   string
	short      []string
	categories []string
	namespaced bool
	newObject  func() runtime.Object
	newList    func() runtime.Object
	table      printed.Table
}

// New implements rest.Storage.
func (r *resource) New() runtime.Object { return r.newObject() }

// NewList implements rest.Lister.
func (r *resource) NewList() runtime.Object { return r.newList() }

// Destroy implements rest.Storage.
func (r *resource) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *resource) NamespaceScoped() bool { return r.namespaced }

// GetSingularName implements rest.SingularNameProvider.
func (r *resource) GetSingularName() string { return r.singular }

// ShortNames implements rest.ShortNamesProvider.
func (r *resource) ShortNames() []string { return r.short }

// Categories implements rest.CategoriesProvider.
func (r *resource) Categories() []string { return r.categories }

// key names the object of a request.
func (r *resource) key(ctx context.Context, name string) view.Key {
	if !r.namespaced {
		return view.Key{Name: name}
	}
	return view.Key{Namespace: request.NamespaceValue(ctx), Name: name}
}

func (r *resource) view() *view.View { return r.server.config.View }

// Get implements rest.Getter.
func (r *resource) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	if options != nil {
		if _, err := r.view().Reach(ctx, options.ResourceVersion); err != nil {
			return nil, err
		}
	}
	record, ok := r.view().Get(r.kind, r.key(ctx, name))
	if !ok {
		return nil, apierrors.NewNotFound(r.group, name)
	}
	return record.Object(), nil
}

// List implements rest.Lister.
func (r *resource) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	var part view.PageOptions
	if options != nil {
		part = view.PageOptions{Version: options.ResourceVersion, Match: options.ResourceVersionMatch, Limit: options.Limit, Continue: options.Continue}
	}
	page, err := r.view().Page(ctx, r.kind, r.selection(ctx, options), part)
	if err != nil {
		return nil, err
	}
	return r.listOf(page)
}

func (r *resource) listOf(page view.Page) (runtime.Object, error) {
	objects := make([]runtime.Object, len(page.Records))
	for i, record := range page.Records {
		objects[i] = record.Object()
		// The members of a typed list name no kind.
		objects[i].GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	list := r.newList()
	if err := meta.SetList(list, objects); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return list, storage.APIObjectVersioner{}.UpdateList(list, page.Version, page.Continue, page.Remaining)
}

// Watch implements rest.Watcher.
func (r *resource) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	if options == nil {
		options = &internalversion.ListOptions{}
	}
	begin, err := r.view().WatchFrom(ctx, options.ResourceVersion, options.SendInitialEvents, options.AllowWatchBookmarks, r.newObject)
	if err != nil {
		return nil, err
	}
	// The watch ends with its context, which also ends when the server stops.
	ctx, cancel := r.server.whileServing(ctx)
	watching, err := r.view().Watch(ctx, r.kind, r.selection(ctx, options), begin)
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	return watching, nil
}

// selection says which objects a list or watch means.
func (r *resource) selection(ctx context.Context, options *internalversion.ListOptions) view.Selection {
	selection := view.Selection{}
	if r.namespaced {
		selection.Namespace = request.NamespaceValue(ctx)
	}
	if options != nil {
		selection.Labels, selection.Fields = options.LabelSelector, options.FieldSelector
	}
	return selection
}

// ConvertToTable implements rest.TableConvertor.
func (r *resource) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.table.Convert(object, options, r.server.config.Now())
}

// newResource makes what serves reads of a kind.
func newResource(s *Server, kind view.Resource, group, singular string, namespaced bool, newObject, newList func() runtime.Object, rows printed.Table, short ...string) *resource {
	return &resource{
		server: s, kind: kind, group: schema.GroupResource{Group: group, Resource: string(kind)}, singular: singular, short: short,
		namespaced: namespaced, newObject: newObject, newList: newList, table: rows,
	}
}
