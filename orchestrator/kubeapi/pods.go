package kubeapi

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/printed"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// pods serves core/v1 pods. They are made by their Jobs alone.
type pods struct{ *deletable }

func newPods(s *Server) *pods {
	r := newResource(s, view.Pods, corev1.GroupName, "pod", true,
		func() runtime.Object { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} }, printed.Pods, "po")
	r.categories = []string{"all"}
	return &pods{&deletable{r, deletePod}}
}

// deletePod is the deletion of a pod: it is told to end, and its Job counts it as failed and makes another, as in Kubernetes. One that has ended is gone
// at once.
func deletePod(ctx context.Context, of object, options *metav1.DeleteOptions) (engine.Command, error) {
	own := of.(*corev1.Pod).Spec.TerminationGracePeriodSeconds
	if wanted := options.GracePeriodSeconds; wanted != nil && (own == nil || *wanted != *own) {
		warning.AddWarning(ctx, "", "gracePeriodSeconds of a deletion is not supported by this version of Nightshift: the pod has its own grace period to end")
	}
	return engine.DeletePod{Namespace: of.GetNamespace(), Name: of.GetName(), UID: string(of.GetUID())}, nil
}

// podStatus serves pods/status, which is read here and written by the engine alone.
type podStatus struct{ of *pods }

// New implements rest.Storage.
func (s *podStatus) New() runtime.Object { return s.of.New() }

// Destroy implements rest.Storage.
func (s *podStatus) Destroy() {}

// Get implements rest.Getter.
func (s *podStatus) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.of.Get(ctx, name, options)
}

// ConvertToTable implements rest.TableConvertor.
func (s *podStatus) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.of.ConvertToTable(ctx, object, options)
}

// podEviction serves pods/eviction. There are no disruption budgets that could be in the way.
type podEviction struct{ of *pods }

// New implements rest.Storage.
func (e *podEviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage.
func (e *podEviction) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (e *podEviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Create implements rest.NamedCreater: the pod is told to end, and that is no failure of its Job.
func (e *podEviction) Create(ctx context.Context, name string, given runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction := given.(*policyv1.Eviction)
	if eviction.Name != "" && eviction.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	record, ok := e.of.view().Get(e.of.kind, e.of.key(ctx, name))
	if !ok {
		return nil, apierrors.NewNotFound(e.of.group, name)
	}
	pod := record.Object().(*corev1.Pod)
	wanted := eviction.DeleteOptions
	if wanted == nil {
		wanted = &metav1.DeleteOptions{}
	}
	if err := checkPreconditions(wanted.Preconditions, pod, e.of.group); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, given.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if !dryrun.IsDryRun(options.DryRun) && !dryrun.IsDryRun(wanted.DryRun) {
		if err := e.of.submit(ctx, name, engine.EvictPod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}); err != nil {
			return nil, err
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// newNodes serves core/v1 nodes, read-only: they are bought and given back by the engine alone.
func newNodes(s *Server) *resource {
	return newResource(s, view.Nodes, corev1.GroupName, "node", false,
		func() runtime.Object { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} }, printed.Nodes, "no")
}
