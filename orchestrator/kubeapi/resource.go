package kubeapi

import (
	"context"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

const (
	// bookmarkEvery is how often a watch that asks for it learns the current version, as in Kubernetes.
	bookmarkEvery = time.Minute
	// newerWithin bounds how long a request waits for a version that the view does not show yet, as Kubernetes' watch cache does.
	newerWithin = 3 * time.Second
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
	table      table
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
		if _, err := r.reach(ctx, options.ResourceVersion); err != nil {
			return nil, err
		}
	}
	record, ok := r.view().Get(r.kind, r.key(ctx, name))
	if !ok {
		return nil, apierrors.NewNotFound(r.group, name)
	}
	return record.Object(), nil
}

// List implements rest.Lister. It ignores a limit and gives all, which the API allows.
func (r *resource) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	selection := r.selection(ctx, options)
	wanted := uint64(0)
	if options != nil {
		if options.Continue != "" {
			return nil, apierrors.NewBadRequest("continue: lists are never cut into chunks here, so no such token was given")
		}
		var err error
		if wanted, err = r.reach(ctx, options.ResourceVersion); err != nil {
			return nil, err
		}
	}
	records, version := r.view().List(r.kind, selection)
	if options != nil && options.ResourceVersionMatch == metav1.ResourceVersionMatchExact && wanted != version {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("the list at version %d is no longer kept; the current one is %d", wanted, version))
	}
	return r.listOf(records, version)
}

func (r *resource) listOf(records []*view.Record, version uint64) (runtime.Object, error) {
	objects := make([]runtime.Object, len(records))
	for i, record := range records {
		objects[i] = record.Object()
		// The members of a typed list name no kind.
		objects[i].GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	list := r.newList()
	if err := meta.SetList(list, objects); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	accessor.SetResourceVersion(strconv.FormatUint(version, 10))
	return list, nil
}

// Watch implements rest.Watcher, with the meaning that Kubernetes gives to versions and initial events
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch).
func (r *resource) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	begin := view.WatchOptions{New: r.newObject}
	version := ""
	if options != nil {
		version = options.ResourceVersion
		if options.AllowWatchBookmarks {
			begin.BookmarkEvery = bookmarkEvery
		}
	}
	after, err := r.reach(ctx, version)
	if err != nil {
		return nil, err
	}
	switch {
	case options != nil && options.SendInitialEvents != nil && *options.SendInitialEvents:
		begin.Initial, begin.InitialEnd = true, options.AllowWatchBookmarks
	case after != 0:
		begin.After = after
	case options != nil && options.SendInitialEvents != nil:
		begin.After = r.view().Seq()
	default:
		begin.Initial = true
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

// reach waits for the view to show a version that a client has seen elsewhere, and returns it; 0 for none.
func (r *resource) reach(ctx context.Context, version string) (uint64, error) {
	if version == "" || version == "0" {
		return 0, nil
	}
	wanted, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %q is not one that this server has given", version))
	}
	limit, cancel := context.WithTimeout(ctx, newerWithin)
	defer cancel()
	if err := r.view().WaitFor(limit, wanted); err != nil {
		return 0, storage.NewTooLargeResourceVersionError(wanted, r.view().Seq(), 1)
	}
	return wanted, nil
}

// ConvertToTable implements rest.TableConvertor.
func (r *resource) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.table.convert(object, options, r.server.config.Now())
}

// readable is what all read-only resources share; it hides what they cannot do.
func newResource(s *Server, kind view.Resource, group, singular string, namespaced bool, newObject, newList func() runtime.Object, rows table, short ...string) *resource {
	return &resource{
		server: s, kind: kind, group: schema.GroupResource{Group: group, Resource: string(kind)}, singular: singular, short: short,
		namespaced: namespaced, newObject: newObject, newList: newList, table: rows,
	}
}
