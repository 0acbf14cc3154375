package object

import (
	"fmt"
	"maps"
)

// Check returns the invariants that the store breaks once nothing follows any more, none when it is sound. It is for tests and simulation.
func (s *Store) Check(outside Outside) (broken []error) {
	holds := func(condition bool, format string, arguments ...any) {
		if !condition {
			broken = append(broken, fmt.Errorf(format, arguments...))
		}
	}
	held, bytes, events := 0, 0, 0
	for _, t := range s.tenants {
		held, bytes, events = held+len(t.objects), bytes+t.bytes, events+t.events
		holds(t.events <= MaxEvents, "a namespace holds %d events", t.events)
	}
	for _, o := range sorted(maps.Values(s.objects)) {
		if o.Resource == Events {
			events--
		} else {
			bytes -= o.Bytes
		}
		held--
		_, has := s.objects[Key{Resource: Namespaces, Name: o.Namespace}]
		holds(o.Namespace == "" || has, "%v is in a namespace that does not exist", o.Key)
		holds(!o.Deleting || len(o.Finalizers) > 0 || o.Resource == Namespaces, "%v is being deleted, has no finalizers and is there", o.Key)
		holds(o.Deleting || !s.Terminating(o.Namespace), "%v is in a namespace that is being deleted, and is not", o.Key)
		goes := o.Resource == Namespaces && o.Deleting && len(o.Finalizers) == 0
		holds(!goes || s.tenants[o.Name] != nil || outside.Holds(o.Name), "%v is being deleted, is empty and is there", o.Key)
		stays := len(o.Owners) == 0 || o.Deleting
		for _, owner := range o.Owners {
			_, here := s.byUID[owner.UID]
			stays = stays || here || owner.Foreign || outside.Exists(owner.UID)
			holds(s.dependents[owner.UID][o], "%v belongs to %s, which does not know", o.Key, owner.UID)
		}
		holds(stays, "%v belongs to nothing that exists", o.Key)
	}
	for uid, dependents := range s.dependents {
		holds(len(dependents) > 0, "nothing belongs to %s, and that is on record", uid)
	}
	holds(held == 0 && bytes == 0 && events == 0, "%d objects, %d bytes and %d events are counted and not there", held, bytes, events)
	return broken
}
