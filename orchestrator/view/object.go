package view

import (
	"encoding/json"
	"fmt"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

// apiObject is an object of the API.
type apiObject interface {
	runtime.Object
	metav1.Object
}

// form says what the objects of a resource are that are kept as they were put.
type form struct {
	kind schema.GroupVersionKind
	make func() apiObject
	// complete adds what is not stored; fields are those that can be selected. Either may be nil.
	complete func(apiObject)
	fields   func(apiObject) fields.Set
}

var forms = map[Resource]form{
	ConfigMaps:      {kind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), make: func() apiObject { return &corev1.ConfigMap{} }},
	Secrets:         {kind: corev1.SchemeGroupVersion.WithKind("Secret"), make: func() apiObject { return &corev1.Secret{} }, fields: secretFields},
	ServiceAccounts: {kind: corev1.SchemeGroupVersion.WithKind("ServiceAccount"), make: func() apiObject { return &corev1.ServiceAccount{} }},
	ResourceQuotas:  {kind: corev1.SchemeGroupVersion.WithKind("ResourceQuota"), make: func() apiObject { return &corev1.ResourceQuota{} }},
	LimitRanges:     {kind: corev1.SchemeGroupVersion.WithKind("LimitRange"), make: func() apiObject { return &corev1.LimitRange{} }},
	PriorityClasses: {kind: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), make: func() apiObject { return &schedulingv1.PriorityClass{} }},
	Leases:          {kind: coordinationv1.SchemeGroupVersion.WithKind("Lease"), make: func() apiObject { return &coordinationv1.Lease{} }},
	Events: {kind: corev1.SchemeGroupVersion.WithKind("Event"), make: func() apiObject { return &corev1.Event{} }, fields: func(o apiObject) fields.Set {
		return eventFields(o.(*corev1.Event))
	}},
	Namespaces: {kind: corev1.SchemeGroupVersion.WithKind("Namespace"), make: func() apiObject { return &corev1.Namespace{} }, complete: completeNamespace,
		fields: func(o apiObject) fields.Set {
			return fields.Set{"status.phase": string(o.(*corev1.Namespace).Status.Phase)}
		}},
}

// secretFields are those of pkg/registry/core/secret/strategy.go: SelectableFields.
func secretFields(o apiObject) fields.Set {
	return fields.Set{"type": string(o.(*corev1.Secret).Type)}
}

func completeNamespace(o apiObject) {
	shown := o.(*corev1.Namespace)
	if shown.Labels == nil {
		shown.Labels = make(map[string]string)
	}
	shown.Labels[corev1.LabelMetadataName] = shown.Name
	shown.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	shown.Status.Phase = corev1.NamespaceActive
	if shown.DeletionTimestamp != nil {
		shown.Status.Phase = corev1.NamespaceTerminating
	}
}

// kept is an object as it was put and changed since. It is replaced and never changed.
type kept struct {
	shown   apiObject
	version uint64
}

// applyToObject keeps what a fact says of an object, if it does. What it is about must be there: else the log does not fit.
func (b *batch) applyToObject(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_ObjectPut:
		put := body.ObjectPut
		if f, ok := forms[Resource(put.GetResource())]; ok {
			b.keep(Resource(put.GetResource()), f.decode(put, b.view.state.Seq+1))
		}
	case *event.Fact_ObjectDeleted:
		gone := body.ObjectDeleted
		t := touch{Resource(gone.GetResource()), Key{gone.GetNamespace(), gone.GetName()}.id()}
		delete(b.view.objects, t)
		b.remove(t.resource, t.id)
	case *event.Fact_ObjectDeletionRequested:
		asked := body.ObjectDeletionRequested
		b.change(asked.GetResource(), Key{asked.GetNamespace(), asked.GetName()}, func(shown apiObject) {
			at, none := metav1.NewTime(fact.At()), int64(0)
			shown.SetDeletionTimestamp(&at)
			shown.SetDeletionGracePeriodSeconds(&none)
			shown.SetFinalizers(append(shown.GetFinalizers(), asked.GetFinalizers()...))
		})
	case *event.Fact_ObjectReleased:
		released := body.ObjectReleased
		b.change(released.GetResource(), Key{released.GetNamespace(), released.GetName()}, func(shown apiObject) {
			shown.SetFinalizers(slices.DeleteFunc(shown.GetFinalizers(), func(f string) bool { return slices.Contains(released.GetFinalizers(), f) }))
			shown.SetOwnerReferences(slices.DeleteFunc(shown.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
				return slices.Contains(released.GetOwners(), string(owner.UID))
			}))
		})
	default:
		return false
	}
	return true
}

// decode reads an object that was put as JSON; the API wrote it, so that it cannot be read means that the log is broken.
func (f form) decode(put *event.ObjectPut, seq uint64) apiObject {
	shown := f.make()
	if err := json.Unmarshal(put.GetObject(), shown); err != nil {
		panic(fmt.Sprintf("view: %s %s/%s, written by fact %d, cannot be read: %v", put.GetResource(), put.GetNamespace(), put.GetName(), seq, err))
	}
	return shown
}

// keep keeps an object as the next fact leaves it.
func (b *batch) keep(resource Resource, shown apiObject) {
	f := forms[resource]
	shown.GetObjectKind().SetGroupVersionKind(f.kind)
	if f.complete != nil {
		f.complete(shown)
	}
	t := touch{resource, Key{shown.GetNamespace(), shown.GetName()}.id()}
	b.view.objects[t] = &kept{shown, b.view.state.Seq + 1}
	b.touch(t.resource, t.id)
}

func (b *batch) change(resource string, key Key, how func(apiObject)) {
	if o, ok := b.view.objects[touch{Resource(resource), key.id()}]; ok {
		changed := o.shown.DeepCopyObject().(apiObject)
		how(changed)
		b.keep(Resource(resource), changed)
	}
}

// keepDefaultNamespace shows the namespace that is there from the first fact on, without one of its own.
func (b *batch) keepDefaultNamespace() {
	state := b.view.state
	shown := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: object.DefaultNamespace, UID: types.UID(uidOf("namespace", state.Seed, object.DefaultNamespace)), CreationTimestamp: metav1.NewTime(state.Now),
	}}
	b.keep(Namespaces, shown)
	b.view.objects[touch{Namespaces, Key{"", shown.Name}.id()}].version = state.Seq
}

func (o *kept) record(resource Resource) *Record {
	key := Key{o.shown.GetNamespace(), o.shown.GetName()}
	content := &fixedContent{shown: o.shown}
	if f := forms[resource]; f.fields != nil {
		content.selectable = f.fields(o.shown)
	}
	return &Record{key: key, id: key.id(), version: o.version, content: content}
}
