package kubeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// namespaces serves core/v1 namespaces, which are the tenants. "default" is always there.
type namespaces struct {
	*resource

	mu sync.Mutex
	// entering counts the Jobs that are being created, by namespace; leaving holds the namespaces that are being deleted. With
	// both, no Job comes into a namespace that goes, and nobody waits for policy.
	entering map[string]int
	leaving  map[string]bool
}

func newNamespaces(s *Server) *namespaces {
	r := newResource(s, view.Namespaces, corev1.GroupName, "namespace", false,
		func() runtime.Object { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} }, namespaceTable, "ns")
	return &namespaces{resource: r, entering: make(map[string]int), leaving: make(map[string]bool)}
}

// enter makes sure that a namespace exists until leave is called, for a Job that is being created in it.
func (n *namespaces) enter(name string) (leave func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.view().Get(n.kind, view.Key{Name: name}); !ok || n.leaving[name] {
		return nil, apierrors.NewNotFound(n.group, name)
	}
	n.entering[name]++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.entering[name]--; n.entering[name] == 0 {
			delete(n.entering, name)
		}
	}, nil
}

// close keeps Jobs out of a namespace that is being deleted, until open is called; it refuses while it holds any.
func (n *namespaces) close(name string) (open func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if held := n.view().CountIn(view.Jobs, name) + n.view().CountIn(view.CronJobs, name) + n.entering[name]; held > 0 || n.leaving[name] {
		return nil, apierrors.NewConflict(n.group, name,
			fmt.Errorf("it holds %d Jobs and CronJobs; delete them first: a namespace with any is not deleted by this version of Nightshift", held))
	}
	n.leaving[name] = true
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.leaving, name)
	}, nil
}

// Create implements rest.Creater.
func (n *namespaces) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	given := object.(*corev1.Namespace)
	rest.FillObjectMetaSystemFields(given)
	if given.Name == "" && given.GenerateName != "" {
		given.Name = names.SimpleNameGenerator.GenerateName(given.GenerateName)
	}
	if given.Labels == nil {
		given.Labels = map[string]string{}
	}
	given.Labels[corev1.LabelMetadataName] = given.Name
	errs := apivalidation.ValidateObjectMeta(&given.ObjectMeta, false, apivalidation.ValidateNamespaceName, field.NewPath("metadata"))
	if len(given.Finalizers) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "finalizers"), "not supported by this version of Nightshift"))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind(), given.Name, errs)
	}
	if validate != nil {
		if err := validate(ctx, given); err != nil {
			return nil, err
		}
	}
	if _, taken := n.view().Get(n.kind, view.Key{Name: given.Name}); taken {
		// "default" is there without a fact of its own, so the engine would not refuse it.
		return nil, apierrors.NewAlreadyExists(n.group, given.Name)
	}
	if dryrun.IsDryRun(options.DryRun) {
		return given, nil
	}
	stored := &corev1.Namespace{ObjectMeta: given.ObjectMeta}
	encoded, err := json.Marshal(stored)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return given, n.submit(ctx, given, engine.PutObject{Key: n.objectKey(given.Name), UID: string(given.UID), Object: encoded, Create: true})
}

func (n *namespaces) objectKey(name string) engine.ObjectKey {
	return engine.ObjectKey{Resource: string(view.Namespaces), Name: name}
}

// submit has a command carried out and reads the namespace back, if it is still there.
func (n *namespaces) submit(ctx context.Context, namespace *corev1.Namespace, command engine.Command) error {
	seq, err := n.server.config.Submitter.Submit(ctx, command)
	if err == nil {
		err = n.view().WaitFor(ctx, seq)
	}
	if err != nil {
		return apiError(err, n.group, namespace.Name)
	}
	if record, ok := n.view().Get(n.kind, view.Key{Name: namespace.Name}); ok {
		record.Object().(*corev1.Namespace).DeepCopyInto(namespace)
	}
	return nil
}

// Delete implements rest.GracefulDeleter. Only an empty namespace can be deleted, and never "default".
func (n *namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	record, ok := n.view().Get(n.kind, view.Key{Name: name})
	if !ok {
		return nil, false, apierrors.NewNotFound(n.group, name)
	}
	namespace := record.Object().(*corev1.Namespace)
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkPreconditions(options.Preconditions, namespace, n.group); err != nil {
		return nil, false, err
	}
	if name == metav1.NamespaceDefault {
		return nil, false, apierrors.NewForbidden(n.group, name, fmt.Errorf("this namespace may not be deleted"))
	}
	open, err := n.close(name)
	if err != nil {
		return nil, false, err
	}
	defer open()
	if validate != nil {
		if err := validate(ctx, namespace.DeepCopy()); err != nil {
			return nil, false, err
		}
	}
	if dryrun.IsDryRun(options.DryRun) {
		return namespace, true, nil
	}
	return namespace, true, n.submit(ctx, namespace, engine.DeleteObject{Key: n.objectKey(name), UID: string(namespace.UID)})
}
