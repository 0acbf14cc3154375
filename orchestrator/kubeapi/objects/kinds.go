// Package objects serves the objects of the API that the engine does not interpret, and namespaces.
//
// What Kubernetes' own generic registry does (names that are generated, preconditions, finalizers, deletion by propagation policy, dry run,
// server-side apply) is done by that code, k8s.io/apiserver/pkg/registry/generic/registry; this package puts storage of ours under it: reads come
// from the view, writes are commands that carry the version that they are about. So a conflict is decided where the log is written. What
// follows from a deletion (dependents, the content of a namespace, time) is the engine's.
//
// A kind is a row of a table. Validation and defaults are Kubernetes' own, by package manifest.
//
// The data of a Secret and its annotations, among which kubectl keeps a copy of the data, are sealed before they become a command, and opened when
// they are read.
package objects

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// Kind says how the objects of one resource are served.
type Kind struct {
	Resource view.Resource
	Version  schema.GroupVersion
	Name     string

	singular   string
	short      []string
	namespaced bool
	newObject  func() runtime.Object
	newList    func() runtime.Object
	table      printed.Table
	// prepare sets what clients do not decide; old is nil for a new object. May be nil.
	prepare func(given, old runtime.Object)
	// reset are the fields that are dropped from what clients write; may be nil.
	reset *fieldpath.Set
	// creates: a PUT of an object that does not exist creates it. conditional: one without a resourceVersion is refused.
	creates, conditional bool
	// lasts is how long an object is kept after it was written last; 0 for ever.
	lasts time.Duration
}

// Kinds are all that this package serves.
func Kinds() []Kind {
	core, status := corev1.SchemeGroupVersion, fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	return []Kind{
		{
			Resource: view.ConfigMaps, Version: core, Name: "ConfigMap", singular: "configmap", short: []string{"cm"}, namespaced: true, table: printed.ConfigMaps,
			newObject: func() runtime.Object { return &corev1.ConfigMap{} }, newList: func() runtime.Object { return &corev1.ConfigMapList{} },
		},
		{
			Resource: view.Secrets, Version: core, Name: "Secret", singular: "secret", namespaced: true, table: printed.Secrets, prepare: prepareSecret,
			newObject: func() runtime.Object { return &corev1.Secret{} }, newList: func() runtime.Object { return &corev1.SecretList{} },
		},
		{
			Resource: view.ServiceAccounts, Version: core, Name: "ServiceAccount", singular: "serviceaccount", short: []string{"sa"}, namespaced: true, table: printed.Plain,
			newObject: func() runtime.Object { return &corev1.ServiceAccount{} }, newList: func() runtime.Object { return &corev1.ServiceAccountList{} },
			prepare: prepareServiceAccount, conditional: true,
		},
		{
			Resource: view.ResourceQuotas, Version: core, Name: "ResourceQuota", singular: "resourcequota", short: []string{"quota"}, namespaced: true, table: printed.ResourceQuotas,
			newObject: func() runtime.Object { return &corev1.ResourceQuota{} }, newList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
			prepare: prepareQuota, reset: status,
		},
		{
			Resource: view.LimitRanges, Version: core, Name: "LimitRange", singular: "limitrange", short: []string{"limits"}, namespaced: true, table: printed.LimitRanges,
			newObject: func() runtime.Object { return &corev1.LimitRange{} }, newList: func() runtime.Object { return &corev1.LimitRangeList{} },
		},
		{
			Resource: view.Events, Version: core, Name: "Event", singular: "event", short: []string{"ev"}, namespaced: true, table: printed.Events,
			newObject: func() runtime.Object { return &corev1.Event{} }, newList: func() runtime.Object { return &corev1.EventList{} },
			creates: true, lasts: time.Hour,
		},
		{
			Resource: view.Namespaces, Version: core, Name: "Namespace", singular: "namespace", short: []string{"ns"}, table: printed.Namespaces,
			newObject: func() runtime.Object { return &corev1.Namespace{} }, newList: func() runtime.Object { return &corev1.NamespaceList{} },
			prepare: prepareNamespace, reset: status,
		},
		{
			Resource: view.PriorityClasses, Version: schedulingv1.SchemeGroupVersion, Name: "PriorityClass", singular: "priorityclass", short: []string{"pc"}, table: printed.PriorityClasses,
			newObject: func() runtime.Object { return &schedulingv1.PriorityClass{} }, newList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
			prepare: preparePriorityClass,
		},
		{
			Resource: view.Leases, Version: coordinationv1.SchemeGroupVersion, Name: "Lease", singular: "lease", namespaced: true, table: printed.Leases,
			newObject: func() runtime.Object { return &coordinationv1.Lease{} }, newList: func() runtime.Object { return &coordinationv1.LeaseList{} },
			creates: true, conditional: true,
		},
	}
}

// Types are an object and a list of the kind.
func (k Kind) Types() []runtime.Object { return []runtime.Object{k.newObject(), k.newList()} }

func (k Kind) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Version.Group, Resource: string(k.Resource)}
}

// prepareSecret follows pkg/registry/core/secret/strategy.go.
func prepareSecret(given, old runtime.Object) {
	if secret := given.(*corev1.Secret); old != nil && secret.Type == "" {
		secret.Type = old.(*corev1.Secret).Type
	}
}

// prepareServiceAccount leaves of references to secrets the names (pkg/registry/core/serviceaccount/strategy.go).
func prepareServiceAccount(given, _ runtime.Object) {
	account := given.(*corev1.ServiceAccount)
	for i, secret := range account.Secrets {
		account.Secrets[i] = corev1.ObjectReference{Name: secret.Name}
	}
}

// prepareQuota gives what is to hold as the status: nothing is counted yet.
func prepareQuota(given, old runtime.Object) {
	quota := given.(*corev1.ResourceQuota)
	quota.Status = corev1.ResourceQuotaStatus{}
	if old != nil {
		quota.Status = old.(*corev1.ResourceQuota).Status
	}
}

func prepareNamespace(given, old runtime.Object) {
	namespace := given.(*corev1.Namespace)
	namespace.Spec = corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}
	namespace.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if old != nil {
		namespace.Status = old.(*corev1.Namespace).Status
	}
}

func preparePriorityClass(given, old runtime.Object) {
	if old == nil {
		given.(*schedulingv1.PriorityClass).Generation = 1
	}
}
