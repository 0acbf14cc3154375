package objects

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// Storage returns what serves each resource, by group and then by name.
func Storage(c Config) map[string]map[string]rest.Storage {
	served := make(map[string]map[string]rest.Storage)
	for _, kind := range Kinds() {
		group := served[kind.Version.Group]
		if group == nil {
			group = make(map[string]rest.Storage)
			served[kind.Version.Group] = group
		}
		group[string(kind.Resource)] = c.newStore(kind)
		if kind.Resource == view.Namespaces {
			group[string(kind.Resource)] = &namespaces{c.newStore(kind)}
		}
	}
	return served
}

// namespaces are the tenants. One that is deleted is shown as Terminating until what is in it has gone, which the engine sees to.
type namespaces struct{ *store }

// Delete implements rest.GracefulDeleter: it marks the namespace (pkg/registry/core/namespace/storage).
func (n *namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	key, err := n.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	var preconditions storage.Preconditions
	if wanted := options.Preconditions; wanted != nil {
		preconditions.UID, preconditions.ResourceVersion = wanted.UID, wanted.ResourceVersion
	}
	out := n.New()
	err = n.Store.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions, storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		namespace := existing.(*corev1.Namespace)
		if validate != nil {
			if err := validate(ctx, namespace); err != nil {
				return nil, err
			}
		}
		if name == metav1.NamespaceDefault {
			return nil, apierrors.NewForbidden(corev1.Resource("namespaces"), name, fmt.Errorf("this namespace may not be deleted"))
		}
		if namespace.DeletionTimestamp == nil {
			now := metav1.Now()
			namespace.DeletionTimestamp = &now
			namespace.Status.Phase = corev1.NamespaceTerminating
		}
		return namespace, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		return nil, false, storeerr.InterpretUpdateError(err, corev1.Resource("namespaces"), name)
	}
	return out, false, nil
}

// DeleteCollection hides the registry's: as in Kubernetes, namespaces are not deleted by the collection.
func (n *namespaces) DeleteCollection() {}
