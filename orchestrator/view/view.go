// Package view is the read model: what a Kubernetes client sees, made from facts alone.
//
// A View follows the log with an engine state of its own. For each object that a batch of facts touches it keeps one immutable
// Record and one change in a window; a v1.Pod is rendered when somebody asks for it. Several changes of an object within
// one batch are one change, as an object that came and went within a batch was never there.
//
// The resource version of an object is the sequence number of the fact that last concerned it, that of a list the number of the
// last fact applied. A watch goes on after any version that the window still holds; older ones are answered with 410 Expired, as in
// Kubernetes. Watchers read the window at their own pace and never hold up the one who applies facts: whoever falls out
// of the window is cut off with 410 and lists again.
//
// Most events are projections too, bounded in age, as in Kubernetes, and in number a namespace: the oldest go first, when a next fact comes.
// They come back the same after a restart.
//
// Other objects are shown as they were put. What of a secret is encrypted stays so here: whoever may know its data opens it.
//
// All methods are safe for concurrent use. Observe is called by one goroutine, in order.
package view

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Resource is a kind of object that a View shows, by the plural name that the API uses.
type Resource string

// The resources.
const (
	Jobs       Resource = "jobs"
	Pods       Resource = "pods"
	Nodes      Resource = "nodes"
	Namespaces Resource = "namespaces"
	Events     Resource = "events"

	ConfigMaps      Resource = "configmaps"
	Secrets         Resource = "secrets"
	ServiceAccounts Resource = "serviceaccounts"
	ResourceQuotas  Resource = "resourcequotas"
	LimitRanges     Resource = "limitranges"
	PriorityClasses Resource = "priorityclasses"
	Leases          Resource = "leases"
)

var resources = []Resource{Jobs, CronJobs, Pods, Nodes, Namespaces, Events, ConfigMaps, Secrets, ServiceAccounts, ResourceQuotas, LimitRanges, PriorityClasses, Leases}

// Options of a View. The zero value is ready for use.
type Options struct {
	// Window is how many changes of each resource are kept for watches; 0 is DefaultWindow.
	Window int
	// MaxEvents is how many Events that were made of facts are kept of each namespace; 0 is DefaultMaxEvents.
	MaxEvents int
	// Each, if not nil, is told each fact in order, with its number and the state that holds right after it: what is made of
	// facts elsewhere (traces, progress) needs no state of its own. It is called within Observe, must not call the View, and
	// neither keeps nor changes the state.
	Each func(seq uint64, fact *event.Fact, state *engine.State)
}

// Bounds where Options give none.
const (
	DefaultWindow    = 16384
	DefaultMaxEvents = 4096
)

// View is the read model. New makes one; it is empty until facts are observed.
type View struct {
	maxEvents int
	each      func(seq uint64, fact *event.Fact, state *engine.State)

	mu      sync.RWMutex
	state   *engine.State
	tables  map[Resource]map[string]*Record // by Record.id
	windows map[Resource]*window
	// objects that are kept as they were put.
	objects map[touch]*kept
	// events that were made of facts, by namespace in the order in which they go, the next one first.
	events map[string][]*Record
	// changed is closed and replaced when facts have been applied.
	changed chan struct{}
}

// Key names an object; Namespace is empty for resources that have none.
type Key struct{ Namespace, Name string }

// id by which the objects are found that have no better one.
func (k Key) id() string { return k.Namespace + "/" + k.Name }

func (k Key) compare(other Key) int {
	if order := strings.Compare(k.Namespace, other.Namespace); order != 0 {
		return order
	}
	return strings.Compare(k.Name, other.Name)
}

// New returns a View of a log of which no fact has been seen.
func New(options Options) *View {
	if options.Window <= 0 {
		options.Window = DefaultWindow
	}
	if options.MaxEvents <= 0 {
		options.MaxEvents = DefaultMaxEvents
	}
	if options.Each == nil {
		options.Each = func(uint64, *event.Fact, *engine.State) {}
	}
	v := &View{
		maxEvents: options.MaxEvents, each: options.Each, state: engine.NewState(), changed: make(chan struct{}),
		tables: make(map[Resource]map[string]*Record), windows: make(map[Resource]*window),
		objects: make(map[touch]*kept), events: make(map[string][]*Record),
	}
	for _, resource := range resources {
		v.tables[resource] = make(map[string]*Record)
		v.windows[resource] = newWindow(options.Window)
	}
	return v
}

// Observe applies durable facts, the first of which is numbered first, and wakes those who wait. It panics when facts are missing
// or do not fit the state: then the log or this code is broken.
func (v *View) Observe(first uint64, facts []*event.Fact) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if first != v.state.Seq+1 {
		panic(fmt.Sprintf("view: facts from %d on were given after fact %d", first, v.state.Seq))
	}
	b := newBatch(v)
	for _, fact := range facts {
		b.apply(fact)
		v.each(v.state.Seq, fact, v.state)
	}
	b.publish()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Seq returns the sequence number of the last fact applied.
func (v *View) Seq() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.Seq
}

// WaitFor returns when the fact of that number has been applied, or with the context's error.
func (v *View) WaitFor(ctx context.Context, seq uint64) error {
	for {
		v.mu.RLock()
		reached, changed := v.state.Seq >= seq, v.changed
		v.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Read calls see with the state behind the view, which see must neither keep nor change; facts wait meanwhile.
func (v *View) Read(see func(*engine.State)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	see(v.state)
}

// Get returns an object.
func (v *View) Get(resource Resource, key Key) (*Record, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.get(resource, key)
}

// get needs the lock.
func (v *View) get(resource Resource, key Key) (*Record, bool) {
	id := key.Name
	switch resource {
	case Jobs:
		id = v.state.JobNames[engine.Name(key)]
	case CronJobs:
		id = v.state.CronJobNames[engine.Name(key)]
	case Pods:
		if pod, ok := v.state.PodOf(key.Namespace, key.Name); ok {
			id = pod.UID()
		}
	case Nodes:
	default:
		id = key.id()
	}
	record, ok := v.tables[resource][id]
	if !ok || record.key != key {
		return nil, false
	}
	return record, true
}

// List returns the objects that are selected, ordered by namespace and name, and the version at which this was so.
func (v *View) List(resource Resource, selection Selection) ([]*Record, uint64) {
	v.mu.RLock()
	records, version := v.pick(resource, selection), v.state.Seq
	v.mu.RUnlock()
	return selection.sorted(records), version
}

// pick returns at least the objects that are selected; it needs the lock and does no more than it must while it has it.
func (v *View) pick(resource Resource, selection Selection) []*Record {
	if key, one := selection.key(resource); one {
		if record, ok := v.get(resource, key); ok {
			return []*Record{record}
		}
		return nil
	}
	return slices.AppendSeq(make([]*Record, 0, len(v.tables[resource])), maps.Values(v.tables[resource]))
}
