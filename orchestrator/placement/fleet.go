package placement

import (
	"fmt"
	"maps"
	"slices"
)

// Fleet knows the nodes that take pods, ordered for each need that is asked for, and counts those on their way. It is changed by its methods
// alone and belongs to one goroutine.
type Fleet struct {
	// resources gives each name of a resource its place in amounts.
	resources map[string]int
	nodes     map[string]*node
	classes   map[string]*Class
	// indexed are the classes that keep nodes in order, the one that was asked for last at the end.
	indexed []*Class
	// coming are instances on their way, by what they will be.
	coming map[string]*coming
	// changed are nodes that the classes have not seen as they are.
	changed []*node
	// taken is what a plan has taken off nodes, to be given back when it is made.
	taken []taking
}

type taking struct {
	node     *node
	requests amounts
}

// node is one that takes pods.
type node struct {
	name    string
	machine Machine
	free    amounts
	// stamp tells an entry of a class that is as the node is from one that is not.
	stamp   uint32
	changed bool
}

// amounts by resource.
type amounts []int64

// coming counts instances of one offer that are on their way.
type coming struct {
	machine  Machine
	capacity amounts
	count    int64
}

// NewFleet returns a fleet without nodes.
func NewFleet() *Fleet {
	return &Fleet{
		resources: make(map[string]int), nodes: make(map[string]*node), classes: make(map[string]*Class), coming: make(map[string]*coming),
	}
}

// Come counts instances of an offer that are on their way, or, less than zero, that are not any more.
func (f *Fleet) Come(offer *Offer, count int64) {
	key := fmt.Sprintf("%s/%s/%v/%v", offer.Provider, offer.ID, offer.Machine, offer.Capacity)
	of, known := f.coming[key]
	if !known {
		of = &coming{machine: offer.Machine, capacity: f.amounts(offer.Capacity)}
		f.coming[key] = of
	}
	if of.count += count; of.count == 0 {
		delete(f.coming, key)
	}
}

// Join adds a node that takes pods and holds none.
func (f *Fleet) Join(name string, machine Machine, capacity Vector) {
	joined := &node{name: name, machine: machine, free: f.amounts(capacity)}
	f.nodes[name] = joined
	f.change(joined)
}

// Leave takes a node out.
func (f *Fleet) Leave(name string) {
	if left, ok := f.nodes[name]; ok {
		left.stamp++
		delete(f.nodes, name)
	}
}

// Take takes what a pod of the class requests off the node, Give gives it back. A node that is not in the fleet is passed over.
func (f *Fleet) Take(name string, class *Class) { f.move(name, class, -1) }

// Give is the reverse of Take.
func (f *Fleet) Give(name string, class *Class) { f.move(name, class, 1) }

func (f *Fleet) move(name string, class *Class, sign int64) {
	if on, ok := f.nodes[name]; ok {
		on.add(class.requests, sign)
		f.change(on)
	}
}

// Free returns what a node has left, if it is in the fleet.
func (f *Fleet) Free(name string) (Vector, bool) {
	on, ok := f.nodes[name]
	if !ok {
		return nil, false
	}
	free := make(Vector)
	for resource, at := range f.resources {
		if at < len(on.free) && on.free[at] != 0 {
			free[resource] = on.free[at]
		}
	}
	return free, true
}

// Class returns the class of a need. Who has asked for it gives it back by Release.
func (f *Fleet) Class(need Need) *Class {
	key := fmt.Sprint(need.Requests, "|", need.Arch, need.Markets, need.Providers, need.MaxPriceMicrosPerHour)
	class, ok := f.classes[key]
	if !ok {
		class = &Class{Need: need, text: need.Requests.String(), requests: f.amounts(need.Requests), key: key}
		f.classes[key] = class
	}
	class.users++
	return class
}

// Release gives a class back.
func (f *Fleet) Release(class *Class) {
	if class.users--; class.users == 0 {
		delete(f.classes, class.key)
		f.forget(class)
	}
}

// maxIndexed is how many classes keep nodes in order: each takes room for every node, and time when a node changes.
const maxIndexed = 64

// index lets a class keep nodes in order, in place of the one that was not asked for the longest.
func (f *Fleet) index(class *Class) {
	if last := len(f.indexed) - 1; last >= 0 && f.indexed[last] == class {
		return
	}
	known := class.entries != nil
	if known {
		f.indexed = slices.DeleteFunc(f.indexed, func(other *Class) bool { return other == class })
	} else {
		class.entries = make(entries, 0, len(f.nodes))
		for _, each := range f.nodes {
			class.enter(each)
		}
	}
	if f.indexed = append(f.indexed, class); len(f.indexed) > maxIndexed {
		f.forget(f.indexed[0])
	}
}

func (f *Fleet) forget(class *Class) {
	class.entries = nil
	f.indexed = slices.DeleteFunc(f.indexed, func(other *Class) bool { return other == class })
}

// amounts translates a vector.
func (f *Fleet) amounts(vector Vector) amounts {
	for _, name := range vector.names() {
		if _, known := f.resources[name]; !known {
			f.resources[name] = len(f.resources)
		}
	}
	translated := make(amounts, len(f.resources))
	for name, amount := range vector {
		translated[f.resources[name]] = amount
	}
	return translated
}

func (n *node) add(requests amounts, sign int64) {
	for len(n.free) < len(requests) {
		n.free = append(n.free, 0)
	}
	for i, amount := range requests {
		n.free[i] += sign * amount
	}
	n.stamp++
}

// times is how many requests fit; the request of a pod is never nothing.
func (a amounts) times(requests amounts) int64 {
	times := int64(1 << 40)
	for i, amount := range requests {
		if amount <= 0 {
			continue
		}
		if i >= len(a) {
			return 0
		}
		times = min(times, a[i]/amount)
	}
	return max(times, 0)
}

// minus returns a without so many requests.
func (a amounts) minus(requests amounts, times int64) amounts {
	rest := make(amounts, max(len(a), len(requests)))
	copy(rest, a)
	for i, amount := range requests {
		rest[i] -= times * amount
	}
	return rest
}

func (f *Fleet) change(changed *node) {
	if !changed.changed {
		changed.changed = true
		f.changed = append(f.changed, changed)
	}
}

// show lets the classes see the nodes that have changed.
func (f *Fleet) show() {
	for _, changed := range f.changed {
		changed.changed = false
		if f.nodes[changed.name] != changed {
			continue
		}
		for _, class := range f.indexed {
			class.enter(changed)
			if len(class.entries) > 2*len(f.nodes)+64 {
				class.clean()
			}
		}
	}
	f.changed = f.changed[:0]
}

// Group is a number of pods with one need, in the order in which they are placed.
type Group struct {
	*Class
	Pods int64
}

// Plan is what to do for one group: its first pods go to Nodes, in order; then some wait for what comes; for the rest there are Launches, and
// for the last Refused of them nothing, for a Reason.
type Plan struct {
	Nodes    []Binding
	Launches []Launch
	Refused  int64
	Reason   string
}

// Binding puts the next pod on a node.
type Binding struct{ Node, Reason string }

// Make plans for the groups, in their order. Offers gives those that may be bought now, if any are needed. The fleet is as it was afterwards.
func (f *Fleet) Make(groups []Group, offers func() []Offer) []Plan {
	f.show()
	plans := make([]Plan, len(groups))
	var coming arrivals
	var sold []Offer
	f.taken = f.taken[:0]
	for i, group := range groups {
		plan := &plans[i]
		left := group.Pods - f.place(group, plan)
		if left == 0 {
			continue
		}
		if sold == nil {
			coming, sold = f.arriving(), offers()
		}
		left -= coming.take(group.Class, left)
		plan.Launches, plan.Refused, plan.Reason = Buy(&group.Need, left, sold)
	}
	for _, each := range f.taken {
		each.node.add(each.requests, 1)
		f.change(each.node)
	}
	return plans
}

// place gives the first pods of a group to nodes that have room, and returns how many.
func (f *Fleet) place(group Group, plan *Plan) (placed int64) {
	f.index(group.Class)
	for ; placed < group.Pods; placed++ {
		on := group.best()
		if on == nil {
			break
		}
		plan.Nodes = append(plan.Nodes, Binding{Node: on.name, Reason: on.name + " has room for " + group.text})
		f.taken = append(f.taken, taking{on, group.requests})
		on.add(group.requests, -1)
		for _, class := range f.indexed {
			class.enter(on)
		}
	}
	return placed
}

// arrivals are instances on their way, alike ones together.
type arrivals []arrival

type arrival struct {
	machine Machine
	free    amounts
	count   int64
}

func (f *Fleet) arriving() arrivals {
	arriving := make(arrivals, 0, len(f.coming))
	for _, key := range slices.Sorted(maps.Keys(f.coming)) {
		of := f.coming[key]
		arriving = append(arriving, arrival{of.machine, of.capacity, of.count})
	}
	return arriving
}

// take gives pods of a class to what is on its way, tightest first, and returns how many found room.
func (a *arrivals) take(class *Class, pods int64) (placed int64) {
	for placed < pods {
		best, least := -1, int64(0)
		for i := range *a {
			each := &(*a)[i]
			if times := each.free.times(class.requests); each.count > 0 && times > 0 && class.allows(&each.machine) && (best < 0 || times < least) {
				best, least = i, times
			}
		}
		if best < 0 {
			break
		}
		from := (*a)[best]
		full := min(from.count, (pods-placed)/least)
		(*a)[best].count -= full
		placed += full * least
		if full > 0 {
			*a = append(*a, arrival{from.machine, from.free.minus(class.requests, least), full})
		}
		if rest := pods - placed; rest > 0 && rest < least && full < from.count {
			(*a)[best].count--
			*a = append(*a, arrival{from.machine, from.free.minus(class.requests, rest), 1})
			placed = pods
		}
	}
	return placed
}
