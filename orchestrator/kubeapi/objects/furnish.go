package objects

import (
	"context"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// What is in every namespace, as Kubernetes' controllers see to it (pkg/controller/serviceaccount, pkg/controller/certificates/rootcacertpublisher).
const (
	defaultAccount = "default"
	rootCA         = "kube-root-ca.crt"
	rootCAKey      = "ca.crt"
)

// furnishAgain is after what time it is tried again when something could not be put in its place.
const furnishAgain = 5 * time.Second

// furnisher puts into each namespace what belongs there, whoever has taken it away. It looks at what is shown and not at what has changed.
type furnisher struct {
	view     *view.View
	accounts *store
	configs  *store
	ca       string
}

// Furnish keeps what is in every namespace in its place until the context ends, which is no error.
func Furnish(ctx context.Context, c Config, ca []byte, logger *slog.Logger) error {
	f := &furnisher{view: c.View, ca: string(ca)}
	for _, kind := range Kinds() {
		switch kind.Resource {
		case view.ServiceAccounts:
			f.accounts = c.newStore(kind)
		case view.ConfigMaps:
			f.configs = c.newStore(kind)
		}
	}
	for ctx.Err() == nil {
		if err := f.follow(ctx); err != nil && ctx.Err() == nil {
			logger.Warn("the service account or the configmap of a namespace is not in its place; trying again", "error", err)
			timer := time.NewTimer(furnishAgain)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	}
	return nil
}

// follow furnishes the namespaces, and again those in which something of it changes, until that fails or a watch ends.
func (f *furnisher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := view.WatchOptions{Initial: true, New: func() runtime.Object { return &corev1.Namespace{} }}
	var watches [3]watch.Interface
	for i, each := range []struct {
		resource view.Resource
		name     string
	}{{view.Namespaces, ""}, {view.ServiceAccounts, defaultAccount}, {view.ConfigMaps, rootCA}} {
		selection := view.Selection{}
		if each.name != "" {
			selection.Fields = fields.OneTermEqualSelector("metadata.name", each.name)
		}
		var err error
		if watches[i], err = f.view.Watch(ctx, each.resource, selection, begin); err != nil {
			return err
		}
	}
	for {
		var told watch.Event
		var open bool
		select {
		case told, open = <-watches[0].ResultChan():
		case told, open = <-watches[1].ResultChan():
		case told, open = <-watches[2].ResultChan():
		}
		if !open {
			return ctx.Err()
		}
		if told.Type == watch.Error {
			return apierrors.FromObject(told.Object)
		}
		name := told.Object.(metav1.Object).GetNamespace()
		if namespace, ok := told.Object.(*corev1.Namespace); ok {
			name = namespace.Name
		}
		if err := f.furnish(ctx, name); err != nil {
			return err
		}
	}
}

// furnish puts into a namespace what is missing, if it is there and stays.
func (f *furnisher) furnish(ctx context.Context, namespace string) error {
	if CheckNamespace(f.view, namespace, corev1.Resource("configmaps"), rootCA) != nil {
		return nil
	}
	ctx = request.WithNamespace(ctx, namespace)
	var errs []error
	if _, ok := f.view.Get(view.ServiceAccounts, view.Key{Namespace: namespace, Name: defaultAccount}); !ok {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: defaultAccount}}
		_, err := f.accounts.Create(ctx, account, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		errs = append(errs, err)
	}
	wanted := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootCA, Annotations: map[string]string{
			"kubernetes.io/description": "The certificate authority by which clients know this API server.",
		}},
		Data: map[string]string{rootCAKey: f.ca},
	}
	record, ok := f.view.Get(view.ConfigMaps, view.Key{Namespace: namespace, Name: rootCA})
	switch {
	case !ok:
		_, err := f.configs.Create(ctx, wanted, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		errs = append(errs, err)
	case record.Object().(*corev1.ConfigMap).DeletionTimestamp != nil:
	case record.Object().(*corev1.ConfigMap).Data[rootCAKey] != f.ca:
		found := record.Object().(*corev1.ConfigMap)
		found.Data, found.ResourceVersion = wanted.Data, ""
		_, _, err := f.configs.Update(ctx, rootCA, rest.DefaultUpdatedObjectInfo(found), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		errs = append(errs, err)
	}
	for i, err := range errs {
		// Somebody else was faster, or the namespace goes meanwhile: what is shown next tells.
		if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}
