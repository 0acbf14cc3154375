package object

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Problem is why a command about an object is not obeyed.
type Problem uint8

// The problems.
const (
	Missing Problem = iota + 1
	Exists
	// Modified: the object is not the version, or not the one, that the command is about.
	Modified
	// NoNamespace: the namespace does not exist.
	NoNamespace
	// Forbidden: the namespace is full or is being deleted, or the object may not be deleted.
	Forbidden
	// TooLarge: no object may be of this size.
	TooLarge
)

// Refusal is a command that is not obeyed. Nothing has changed.
type Refusal struct {
	Problem Problem
	Message string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Message }

func refuse(problem Problem, format string, arguments ...any) error {
	return &Refusal{problem, fmt.Sprintf(format, arguments...)}
}

// WasModified is what Kubernetes says of a change to an older version (k8s.io/apiserver/pkg/registry/generic/registry).
const WasModified = "the object has been modified; please apply your changes to the latest version and try again"

// Put creates or replaces an object.
type Put struct {
	Key Key
	UID string
	// Object is the object as JSON, with nothing in it that must not be read at rest.
	Object []byte
	// Finalizers, Owners and Deleting say what the object says.
	Finalizers []string
	Owners     []Owner
	Deleting   bool
	// Lasts is after what time it goes by itself; 0 for never.
	Lasts time.Duration
	// Create refuses an object that exists; otherwise it must.
	Create bool
	// Version, if not 0, must be that of the object.
	Version uint64
}

// Decided is a fact for a tenant.
type Decided struct {
	Tenant string
	Fact   proto.Message
}

// Put decides about a command: the facts, or a *Refusal.
func (s *Store) Put(put *Put, now time.Time) ([]Decided, error) {
	if len(put.Object) > MaxBytes {
		return nil, refuse(TooLarge, "%s %q is of %d bytes; at most %d are stored", put.Key.Resource, put.Key.Name, len(put.Object), MaxBytes)
	}
	known, exists := s.objects[put.Key]
	switch {
	case put.Create && exists:
		return nil, refuse(Exists, "%s %q already exists", put.Key.Resource, put.Key.Name)
	case !put.Create && !exists:
		return nil, refuse(Missing, "%s %q not found", put.Key.Resource, put.Key.Name)
	case exists && (put.Version != 0 && put.Version != known.Version || known.UID != "" && put.UID != known.UID):
		return nil, refuse(Modified, WasModified)
	}
	if put.Deleting && put.Key == (Key{Resource: Namespaces, Name: DefaultNamespace}) {
		return nil, refuse(Forbidden, "this namespace may not be deleted")
	}
	if put.Create {
		if err := s.CheckNamespace(put.Key.Namespace); err != nil {
			return nil, err
		}
	}
	facts, err := s.room(put, known, now)
	if err != nil {
		return nil, err
	}
	message := &event.ObjectPut{
		Resource: put.Key.Resource, Namespace: put.Key.Namespace, Name: put.Key.Name, Uid: put.UID, Object: put.Object,
		Finalizers: put.Finalizers, Deleting: put.Deleting,
	}
	for _, owner := range put.Owners {
		message.Owners = append(message.Owners, &event.ObjectOwner{Uid: owner.UID, Blocks: owner.Blocks, Foreign: owner.Foreign})
	}
	if put.Lasts > 0 {
		message.ExpiresUnixNano = now.Add(put.Lasts).UnixNano()
	}
	return append(facts, Decided{put.Key.tenant(), message}), nil
}

// tenant of the fact: a namespace's own facts are its tenant's.
func (k Key) tenant() string {
	if k.Resource == Namespaces {
		return k.Name
	}
	return k.Namespace
}

// CheckNamespace tells whether something can be created in a namespace: nil, or a *Refusal. Everything can in none.
func (s *Store) CheckNamespace(name string) error {
	if name == "" {
		return nil
	}
	namespace, ok := s.objects[Key{Resource: Namespaces, Name: name}]
	switch {
	case !ok:
		return refuse(NoNamespace, "namespaces %q not found", name)
	case namespace.Deleting:
		return refuse(Forbidden, "unable to create new content in namespace %s because it is being terminated", name)
	}
	return nil
}

// room refuses what the namespace has no room for. For an event the oldest one goes.
func (s *Store) room(put *Put, known *Object, now time.Time) ([]Decided, error) {
	t := s.tenants[put.Key.Namespace]
	if t == nil {
		return nil, nil
	}
	if put.Key.Resource == Events {
		if put.Create && t.events >= MaxEvents {
			oldest := slices.IndexFunc(t.queue, func(e *Object) bool { return !e.gone })
			return []Decided{deleted(t.queue[oldest])}, nil
		}
		return nil, nil
	}
	held := 0
	if known != nil {
		held = known.Bytes
	}
	switch grown := t.bytes - held + len(put.Object); {
	case put.Create && len(t.objects)-t.events >= MaxObjects:
		return nil, refuse(Forbidden, "exceeded quota: %s holds %d objects, which is the limit", place(put.Key.Namespace), MaxObjects)
	case len(put.Object) > held && grown > MaxTenantBytes:
		return nil, refuse(Forbidden, "exceeded quota: the objects of %s would come to %d bytes, and the limit is %d", place(put.Key.Namespace), grown, MaxTenantBytes)
	}
	return nil, nil
}

func place(namespace string) string {
	if namespace == "" {
		return "the control plane"
	}
	return "namespace " + namespace
}

// Delete decides about the deletion of an object: the facts, or a *Refusal. UID and version, if given, must be the object's. Who names the version has
// seen to its finalizers; without one it must have none.
func (s *Store) Delete(key Key, uid string, version uint64) ([]Decided, error) {
	known, exists := s.objects[key]
	switch {
	case !exists:
		return nil, refuse(Missing, "%s %q not found", key.Resource, key.Name)
	case uid != "" && uid != known.UID, version != 0 && version != known.Version, version == 0 && len(known.Finalizers) > 0:
		return nil, refuse(Modified, WasModified)
	case key.Resource == Namespaces && key.Name == DefaultNamespace:
		return nil, refuse(Forbidden, "this namespace may not be deleted")
	case key.Resource == Namespaces && s.tenants[key.Name] != nil:
		return nil, refuse(Forbidden, "the namespace is not empty; it goes when it has been marked as being deleted and all that is in it has gone")
	}
	return []Decided{deleted(known)}, nil
}

func deleted(o *Object) Decided {
	return Decided{o.tenant(), &event.ObjectDeleted{Resource: o.Resource, Namespace: o.Namespace, Name: o.Name}}
}

func sorted(objects iter.Seq[*Object]) []*Object {
	return slices.SortedFunc(objects, func(a, b *Object) int { return a.compare(b.Key) })
}
