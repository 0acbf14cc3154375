package view

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Record is one object as it was from one fact to the next. It never changes.
type Record struct {
	key     Key
	id      string
	version uint64
	content content
}

// content is what a record shows.
type content interface {
	labels() labels.Labels
	fields() fields.Set
	// object makes the object anew, without a resource version.
	object() runtime.Object
}

// Key names the object.
func (r *Record) Key() Key { return r.key }

// Version is the sequence number of the fact that last concerned the object.
func (r *Record) Version() uint64 { return r.version }

// Object renders the object; the caller owns it.
func (r *Record) Object() runtime.Object { return r.objectAt(r.version) }

// objectAt renders the object with another resource version, for the events of a watch.
func (r *Record) objectAt(version uint64) runtime.Object {
	object := r.content.object()
	accessor, err := meta.Accessor(object)
	if err != nil {
		panic(fmt.Sprintf("view: %T has no metadata: %v", object, err))
	}
	accessor.SetResourceVersion(strconv.FormatUint(version, 10))
	return object
}

// jobContent is a Job with the status that it had.
type jobContent struct {
	stored  *batchv1.Job // never changed
	status  batchv1.JobStatus
	deleted time.Time
}

func jobRecord(owner *engine.Job) *Record {
	return &Record{key: Key(owner.Name), id: owner.UID, version: owner.Version, content: &jobContent{
		stored: owner.Object, status: statusOf(owner), deleted: owner.DeletionRequested,
	}}
}

// statusOf is a Job's status, with what clients have written to it, if they have.
func statusOf(owner *engine.Job) batchv1.JobStatus {
	status := job.Status(&owner.Spec, &owner.Progress, &owner.Counts)
	if owner.Spec.ManagedElsewhere || len(owner.Object.Status.Conditions) > 0 {
		return job.WithWritten(&owner.Spec, &status, &owner.Object.Status)
	}
	return status
}

func (c *jobContent) labels() labels.Labels { return labels.Set(c.stored.Labels) }

// fields are those of pkg/registry/batch/job/strategy.go: JobToSelectableFields.
func (c *jobContent) fields() fields.Set {
	return fields.Set{"status.successful": strconv.Itoa(int(c.status.Succeeded))}
}

func (c *jobContent) object() runtime.Object {
	object := c.stored.DeepCopy()
	object.TypeMeta = metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}
	c.status.DeepCopyInto(&object.Status)
	showDeletion(&object.ObjectMeta, c.deleted) // Its pods go first.
	return object
}

// showDeletion shows that an object waits, since a time, for its dependents to go; not if that is zero.
func showDeletion(object *metav1.ObjectMeta, since time.Time) {
	if since.IsZero() {
		return
	}
	at, now := metav1.NewTime(since), int64(0)
	object.DeletionTimestamp, object.DeletionGracePeriodSeconds = &at, &now
	object.Finalizers = []string{metav1.FinalizerDeleteDependents}
}

// podContent is a pod and its Job as it was when the pod was made.
type podContent struct {
	owner *batchv1.Job // never changed
	pod   job.Pod
}

func podRecord(pod *engine.Pod) *Record {
	rendered := pod.Render()
	return &Record{
		key: Key{pod.Namespace(), rendered.Name}, id: rendered.UID, version: pod.Version,
		content: &podContent{owner: pod.Template().Object, pod: rendered},
	}
}

func (c *podContent) labels() labels.Labels {
	if c.pod.Index == job.NoIndex {
		return labels.Set(c.owner.Spec.Template.Labels)
	}
	return indexedLabels{labels.Set(c.owner.Spec.Template.Labels), c.pod.Index}
}

// indexedLabels are a template's labels and that of one completion index.
type indexedLabels struct {
	labels.Set
	index int32
}

func (l indexedLabels) Has(key string) bool {
	return key == batchv1.JobCompletionIndexAnnotation || l.Set.Has(key)
}

func (l indexedLabels) Get(key string) string {
	value, _ := l.Lookup(key)
	return value
}

func (l indexedLabels) Lookup(key string) (string, bool) {
	if key == batchv1.JobCompletionIndexAnnotation {
		return strconv.Itoa(int(l.index)), true
	}
	return l.Set.Lookup(key)
}

// fields are those of pkg/registry/core/pod/strategy.go: ToSelectableFields.
func (c *podContent) fields() fields.Set {
	pod := c.object().(*corev1.Pod)
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             pod.Status.PodIP,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

func (c *podContent) object() runtime.Object { return job.PodObject(c.owner, c.pod, 0) }

// fixedContent is an object that is kept as it is shown.
type fixedContent struct {
	shown interface {
		runtime.Object
		metav1.Object
	}
	selectable fields.Set
}

func (c *fixedContent) labels() labels.Labels  { return labels.Set(c.shown.GetLabels()) }
func (c *fixedContent) fields() fields.Set     { return c.selectable }
func (c *fixedContent) object() runtime.Object { return c.shown.DeepCopyObject() }

// uidOf derives a UID, a version 8 UUID (RFC 9562), from what makes an object the only one of its kind, so that every
// replica shows the same one.
func uidOf(kind string, parts ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q", kind, fmt.Sprint(parts...)))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
