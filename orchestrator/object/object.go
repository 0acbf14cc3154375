// Package object is what the engine knows of API objects that it does not interpret: configmaps, secrets, leases, namespaces.
//
// The bytes of an object are in its fact and in the read model. Here is what decisions need: its version, its size, its finalizers, what it
// belongs to, and when it goes by itself. The rules are Kubernetes': an object that is being deleted goes when its last finalizer does; one that
// belongs to others goes with the last of them (pkg/controller/garbagecollector); a namespace that is being deleted takes what is in it along
// (pkg/controller/namespace). Here all of this happens in the command's own step.
//
// It is pure. Check... decides about a command and changes nothing, Apply applies a fact, Settle returns what follows from the facts so far: at
// most one fact an object, and again after these were applied, until nothing follows.
package object

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Resources that have a meaning here.
const (
	Namespaces = "namespaces"
	Events     = "events"
	// DefaultNamespace is there from the first fact on and is never deleted.
	DefaultNamespace = "default"
)

// Finalizers that are carried out here (k8s.io/apimachinery/pkg/apis/meta/v1).
const (
	finalizerOrphan     = "orphan"
	finalizerForeground = "foregroundDeletion"
)

// Bounds on what a namespace holds. What belongs to no namespace counts as one.
const (
	// MaxBytes of one object, so that its fact fits into one batch of the log.
	MaxBytes = 1<<20 - 1<<14
	// MaxObjects and MaxTenantBytes of a namespace, events aside.
	MaxObjects     = 10_000
	MaxTenantBytes = 64 << 20
	// MaxEvents of a namespace; for another one the oldest goes.
	MaxEvents = 2048
)

// Key names an object. Namespace is empty for those that belong to none.
type Key struct{ Resource, Namespace, Name string }

func (k Key) compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Resource, other.Resource), cmp.Compare(k.Namespace, other.Namespace), cmp.Compare(k.Name, other.Name))
}

// Owner is an object that another one belongs to.
type Owner struct {
	UID string
	// Blocks: the owner stays until the other one is gone, when it is deleted in the foreground.
	Blocks bool
	// Foreign: it is of a kind that is not collected here, and is taken to exist.
	Foreign bool
}

// Object is what is known of one. Others than the Store only read it.
type Object struct {
	Key
	UID string
	// Version is the sequence number of the fact that wrote it last.
	Version    uint64
	Bytes      int
	Finalizers []string
	Owners     []Owner
	// Deleting: it goes when it has no finalizers.
	Deleting bool
	// Expires is when it goes by itself; zero for never.
	Expires time.Time

	gone bool
}

// waits tells whether the object is being deleted and waits for what belongs to it.
func (o *Object) waits() bool {
	return o.Deleting && slices.Contains(o.Finalizers, finalizerForeground)
}

// Store holds all objects. It belongs to one goroutine.
type Store struct {
	objects map[Key]*Object
	byUID   map[string]*Object
	// dependents by the UID of what they belong to, which need not exist.
	dependents map[string]map[*Object]bool
	tenants    map[string]*tenant
	// due are those about which something may have to be decided.
	due map[*Object]bool
	// terminating are the namespaces that have begun to be deleted.
	terminating map[string]bool
	// timers of objects that expire, the earliest first; also of some that are gone.
	timers timers
	expire int
}

// tenant is what one namespace holds.
type tenant struct {
	objects map[*Object]bool
	// bytes of all that are no events.
	bytes int
	// events is how many there are; queue has them in the order of their last writing, and some that are gone.
	events int
	queue  []*Object
}

// NewStore returns one that is empty.
func NewStore() *Store {
	return &Store{
		objects: make(map[Key]*Object), byUID: make(map[string]*Object), dependents: make(map[string]map[*Object]bool),
		tenants: make(map[string]*tenant), due: make(map[*Object]bool), terminating: make(map[string]bool),
	}
}

// Get returns an object.
func (s *Store) Get(key Key) (*Object, bool) {
	o, ok := s.objects[key]
	return o, ok
}

// Sorted returns all objects, by key.
func (s *Store) Sorted() []*Object { return sorted(maps.Values(s.objects)) }

// Terminating tells whether a namespace is being deleted.
func (s *Store) Terminating(namespace string) bool {
	o, ok := s.objects[Key{Resource: Namespaces, Name: namespace}]
	return ok && o.Deleting
}

// Begin puts the default namespace in place, which needs no fact of its own.
func (s *Store) Begin(seq uint64) {
	key := Key{Resource: Namespaces, Name: DefaultNamespace}
	if _, ok := s.objects[key]; !ok {
		s.add(&Object{Key: key, Version: seq})
	}
}

// Apply applies the fact with that number, if it is about an object. It panics when the fact does not fit what is there.
func (s *Store) Apply(fact *event.Fact, seq uint64) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_ObjectPut:
		s.put(body.ObjectPut, seq)
	case *event.Fact_ObjectDeleted:
		gone := body.ObjectDeleted
		s.remove(s.must(Key{gone.GetResource(), gone.GetNamespace(), gone.GetName()}, seq))
	case *event.Fact_ObjectDeletionRequested:
		asked := body.ObjectDeletionRequested
		o := s.must(Key{asked.GetResource(), asked.GetNamespace(), asked.GetName()}, seq)
		s.change(o, seq, func() {
			o.Deleting = true
			o.Finalizers = append(slices.Clip(o.Finalizers), asked.GetFinalizers()...)
		})
	case *event.Fact_ObjectReleased:
		released := body.ObjectReleased
		o := s.must(Key{released.GetResource(), released.GetNamespace(), released.GetName()}, seq)
		s.change(o, seq, func() {
			o.Finalizers = without(o.Finalizers, func(f string) bool { return slices.Contains(released.GetFinalizers(), f) })
			o.Owners = without(o.Owners, func(owner Owner) bool { return slices.Contains(released.GetOwners(), owner.UID) })
		})
	default:
		return false
	}
	return true
}

func without[T any](list []T, drop func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), drop)
}

func (s *Store) must(key Key, seq uint64) *Object {
	o, ok := s.objects[key]
	if !ok {
		panic(fmt.Sprintf("object: fact %d names %v, which does not exist", seq, key))
	}
	return o
}

func (s *Store) put(put *event.ObjectPut, seq uint64) {
	o := &Object{
		Key: Key{put.GetResource(), put.GetNamespace(), put.GetName()}, UID: put.GetUid(), Version: seq, Bytes: len(put.GetObject()),
		Finalizers: put.GetFinalizers(), Deleting: put.GetDeleting(),
	}
	for _, owner := range put.GetOwners() {
		o.Owners = append(o.Owners, Owner{owner.GetUid(), owner.GetBlocks(), owner.GetForeign()})
	}
	if at := put.GetExpiresUnixNano(); at != 0 {
		o.Expires = time.Unix(0, at).UTC()
	}
	if old, replaces := s.objects[o.Key]; replaces {
		s.remove(old)
	}
	s.add(o)
	if o.Resource == Namespaces && o.Deleting {
		s.terminating[o.Name] = true
	}
}

// change changes what is known of an object that stays.
func (s *Store) change(o *Object, seq uint64, do func()) {
	s.touch(o)
	s.unindex(o)
	do()
	o.Version = seq
	s.index(o)
	s.touch(o)
}

func (s *Store) add(o *Object) {
	s.objects[o.Key] = o
	if o.UID != "" {
		s.byUID[o.UID] = o
	}
	s.index(o)
	t := s.tenants[o.Namespace]
	if t == nil {
		t = &tenant{objects: make(map[*Object]bool)}
		s.tenants[o.Namespace] = t
	}
	t.objects[o] = true
	if o.Resource == Events {
		t.events++
		t.queue = append(t.queue, o)
		if len(t.queue) > 2*t.events+64 {
			t.queue = slices.DeleteFunc(t.queue, func(e *Object) bool { return e.gone })
		}
	} else {
		t.bytes += o.Bytes
	}
	if !o.Expires.IsZero() {
		s.expire++
		heap.Push(&s.timers, o)
		if len(s.timers) > 2*s.expire+64 {
			s.timers = slices.DeleteFunc(s.timers, func(e *Object) bool { return e.gone })
			heap.Init(&s.timers)
		}
	}
	s.touch(o)
}

func (s *Store) index(o *Object) {
	for _, owner := range o.Owners {
		if s.dependents[owner.UID] == nil {
			s.dependents[owner.UID] = make(map[*Object]bool)
		}
		s.dependents[owner.UID][o] = true
	}
}

func (s *Store) unindex(o *Object) {
	for _, owner := range o.Owners {
		if delete(s.dependents[owner.UID], o); len(s.dependents[owner.UID]) == 0 {
			delete(s.dependents, owner.UID)
		}
	}
}

func (s *Store) remove(o *Object) {
	s.touch(o)
	o.gone = true
	delete(s.objects, o.Key)
	delete(s.due, o)
	if o.Resource == Namespaces {
		delete(s.terminating, o.Name)
	}
	if s.byUID[o.UID] == o {
		delete(s.byUID, o.UID)
	}
	s.unindex(o)
	t := s.tenants[o.Namespace]
	if delete(t.objects, o); len(t.objects) == 0 {
		delete(s.tenants, o.Namespace)
	}
	if o.Resource == Events {
		t.events--
	} else {
		t.bytes -= o.Bytes
	}
	if !o.Expires.IsZero() {
		s.expire--
	}
}

// touch notes that something may follow for the object, for what belongs to it, for what it belongs to, and for its namespace if that is being
// deleted.
func (s *Store) touch(o *Object) {
	s.due[o] = true
	s.OwnerChanged(o.UID)
	for _, owner := range o.Owners {
		if held, ok := s.byUID[owner.UID]; ok && held.Deleting {
			s.due[held] = true
		}
	}
	s.NamespaceChanged(o.Namespace)
}

// AnyOwned tells whether any object belongs to another.
func (s *Store) AnyOwned() bool { return len(s.dependents) > 0 }

// OwnerChanged notes that something has happened to what has that UID, here or outside.
func (s *Store) OwnerChanged(uid string) {
	for dependent := range s.dependents[uid] {
		s.due[dependent] = true
	}
}

// NamespaceChanged notes that something has left the namespace.
func (s *Store) NamespaceChanged(name string) {
	if o, ok := s.objects[Key{Resource: Namespaces, Name: name}]; ok && o.Deleting {
		s.due[o] = true
	}
}

// TakeTerminating returns, once each, the namespaces that have begun to be deleted.
func (s *Store) TakeTerminating() []string {
	if len(s.terminating) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(s.terminating))
	clear(s.terminating)
	return names
}

// Wake is when time alone lets something follow; zero for never. The answer is in the past while Settle has something to look at.
func (s *Store) Wake(now time.Time) time.Time {
	if len(s.due) > 0 {
		return now
	}
	for len(s.timers) > 0 && s.timers[0].gone {
		heap.Pop(&s.timers)
	}
	if len(s.timers) > 0 {
		return s.timers[0].Expires
	}
	return time.Time{}
}

// timers is a heap of objects that expire.
type timers []*Object

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].Expires.Before(t[j].Expires) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(*Object)) }

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}
