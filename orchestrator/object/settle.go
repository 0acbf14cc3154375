package object

import (
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Outside is what objects may belong to, or share a namespace with, and that is not in the Store.
type Outside interface {
	// Exists tells whether something outside has the UID.
	Exists(uid string) bool
	// Holds tells whether something outside is in the namespace.
	Holds(namespace string) bool
}

// Settle returns what follows from the facts applied so far and from the time, at most one fact an object; it is called again when these are
// applied. What it has looked at it does not look at again before something about it changes.
func (s *Store) Settle(now time.Time, outside Outside) []Decided {
	for len(s.timers) > 0 && !s.timers[0].Expires.After(now) {
		if o := heap.Pop(&s.timers).(*Object); !o.gone {
			s.due[o] = true
		}
	}
	if len(s.due) == 0 {
		return nil
	}
	p := &pass{store: s, outside: outside, now: now, decided: make(map[*Object]bool)}
	due := sorted(maps.Keys(s.due))
	clear(s.due)
	for _, o := range due {
		switch {
		case p.decided[o]:
		case o.Resource == Namespaces && o.Deleting:
			p.namespace(o)
		case !o.Expires.IsZero() && !o.Expires.After(now):
			p.expire(o)
		case o.Deleting:
			p.deleting(o)
		case len(o.Owners) > 0:
			p.owned(o)
		}
	}
	return p.facts
}

// pass is one call of Settle.
type pass struct {
	store   *Store
	outside Outside
	now     time.Time
	facts   []Decided
	decided map[*Object]bool
}

func (p *pass) decide(o *Object, fact Decided) {
	p.decided[o] = true
	p.facts = append(p.facts, fact)
}

// delete lets an object go, or has it go once its finalizers and these are done.
func (p *pass) delete(o *Object, finalizers ...string) {
	if len(o.Finalizers)+len(finalizers) == 0 {
		p.decide(o, deleted(o))
		return
	}
	p.decide(o, Decided{o.tenant(), &event.ObjectDeletionRequested{
		Resource: o.Resource, Namespace: o.Namespace, Name: o.Name,
		Finalizers: without(finalizers, func(f string) bool { return slices.Contains(o.Finalizers, f) }),
	}})
}

func (p *pass) release(o *Object, finalizers []string, owners []string) {
	p.decide(o, Decided{o.tenant(), &event.ObjectReleased{
		Resource: o.Resource, Namespace: o.Namespace, Name: o.Name, Finalizers: finalizers, Owners: owners,
	}})
}

func (p *pass) expire(o *Object) {
	if !o.Deleting || len(o.Finalizers) == 0 {
		p.delete(o)
	}
}

// namespace lets all that is in a namespace go, and then the namespace.
func (p *pass) namespace(o *Object) {
	left := false
	if t := p.store.tenants[o.Name]; t != nil {
		left = true
		for _, content := range sorted(maps.Keys(t.objects)) {
			if !content.Deleting && !p.decided[content] {
				p.delete(content)
			}
		}
	}
	if !left && !p.outside.Holds(o.Name) && len(o.Finalizers) == 0 {
		p.decide(o, deleted(o))
	}
}

// deleting carries out the finalizers that are ours, and lets the object go when it has none.
func (p *pass) deleting(o *Object) {
	dependents := sorted(maps.Keys(p.store.dependents[o.UID]))
	switch {
	case len(o.Finalizers) == 0:
		p.decide(o, deleted(o))
	case slices.Contains(o.Finalizers, finalizerOrphan):
		for _, dependent := range dependents {
			if !p.decided[dependent] {
				p.release(dependent, nil, []string{o.UID})
			}
		}
		if len(dependents) == 0 {
			p.release(o, []string{finalizerOrphan}, nil)
		}
	case o.waits():
		blocked := slices.ContainsFunc(dependents, func(dependent *Object) bool { return dependent.blocks(o.UID) })
		if !blocked {
			p.release(o, []string{finalizerForeground}, nil)
		}
	}
}

func (o *Object) blocks(uid string) bool {
	return slices.ContainsFunc(o.Owners, func(owner Owner) bool { return owner.UID == uid && owner.Blocks })
}

// owned lets an object go that belongs to nothing that stays (garbagecollector.go: attemptToDeleteItem).
func (p *pass) owned(o *Object) {
	var leaving []string
	waiting, stays := false, false
	for _, owner := range o.Owners {
		held, here := p.store.byUID[owner.UID]
		switch {
		case here && held.waits():
			waiting = true
			leaving = append(leaving, owner.UID)
		case here || owner.Foreign || p.outside.Exists(owner.UID):
			stays = true
		default:
			leaving = append(leaving, owner.UID)
		}
	}
	dependents := p.store.dependents[o.UID]
	switch {
	case stays && len(leaving) > 0:
		p.release(o, nil, leaving)
	case stays:
	case waiting && len(dependents) > 0 && !anyWaits(dependents):
		p.delete(o, finalizerForeground)
	default:
		p.delete(o)
	}
}

// anyWaits finds a circle: what belongs to an object waits for it, so it must not wait in turn.
func anyWaits(dependents map[*Object]bool) bool {
	for dependent := range dependents {
		if dependent.waits() {
			return true
		}
	}
	return false
}
