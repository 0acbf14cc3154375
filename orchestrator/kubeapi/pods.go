package kubeapi

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
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
type pods struct{ *resource }

func newPods(s *Server) *pods {
	r := newResource(s, view.Pods, corev1.GroupName, "pod", true,
		func() runtime.Object { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} }, printed.Pods, "po")
	r.categories = []string{"all"}
	return &pods{resource: r}
}

// Delete implements rest.GracefulDeleter: the pod is told to end, and its Job counts it as failed and makes another, as in Kubernetes. One that has
// ended is gone at once.
func (p *pods) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	record, ok := p.view().Get(p.kind, p.key(ctx, name))
	if !ok {
		return nil, false, apierrors.NewNotFound(p.group, name)
	}
	return p.delete(ctx, record, validate, options)
}

func (p *pods) delete(ctx context.Context, record *view.Record, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	pod := record.Object().(*corev1.Pod)
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkPreconditions(options.Preconditions, pod, p.group); err != nil {
		return nil, false, err
	}
	own := pod.Spec.TerminationGracePeriodSeconds
	if wanted := options.GracePeriodSeconds; wanted != nil && (own == nil || *wanted != *own) {
		warning.AddWarning(ctx, "", "gracePeriodSeconds of a deletion is not supported by this version of Nightshift: the pod has its own grace period to end")
	}
	if validate != nil {
		if err := validate(ctx, pod.DeepCopy()); err != nil {
			return nil, false, err
		}
	}
	if dryrun.IsDryRun(options.DryRun) {
		return pod, false, nil
	}
	seq, err := p.server.config.Submitter.Submit(ctx, engine.DeletePod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)})
	if err != nil {
		return nil, false, apiError(err, p.group, pod.Name)
	}
	if err := p.view().WaitFor(ctx, seq); err != nil {
		return nil, false, apiError(err, p.group, pod.Name)
	}
	if left, ok := p.view().Get(p.kind, record.Key()); ok {
		return left.Object(), false, nil
	}
	return pod, true, nil
}

// DeleteCollection implements rest.CollectionDeleter.
func (p *pods) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	records, version := p.view().List(p.kind, p.selection(ctx, list))
	var deleted []*view.Record
	for _, record := range records {
		if _, _, err := p.delete(ctx, record, validate, options); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		deleted = append(deleted, record)
	}
	return p.listOf(view.Page{Records: deleted, Version: version})
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
		seq, err := e.of.server.config.Submitter.Submit(ctx, engine.EvictPod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)})
		if err == nil {
			err = e.of.view().WaitFor(ctx, seq)
		}
		if err != nil {
			return nil, apiError(err, e.of.group, name)
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// newNodes serves core/v1 nodes, read-only: they are bought and given back by the engine alone.
func newNodes(s *Server) *resource {
	return newResource(s, view.Nodes, corev1.GroupName, "node", false,
		func() runtime.Object { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} }, printed.Nodes, "no")
}
