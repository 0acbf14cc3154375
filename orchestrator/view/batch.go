package view

import (
	"cmp"
	"slices"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// batch applies facts and collects the objects that they touch, so that each is made into a record once.
type batch struct {
	view *View
	// touched, in order of the first touch.
	touched []touch
	seen    map[touch]bool
	// gone gives the number of the fact that removed an object.
	gone   map[touch]uint64
	events []*Record
}

// touch names an object by its UID, or by its name where the engine knows no UID.
type touch struct {
	resource Resource
	id       string
}

func newBatch(v *View) *batch {
	return &batch{view: v, seen: make(map[touch]bool), gone: make(map[touch]uint64)}
}

func (b *batch) touch(resource Resource, id string) {
	t := touch{resource, id}
	if !b.seen[t] {
		b.seen[t] = true
		b.touched = append(b.touched, t)
	}
}

// remove notes that the next fact removes an object.
func (b *batch) remove(resource Resource, id string) {
	b.touch(resource, id)
	b.gone[touch{resource, id}] = b.view.state.Seq + 1
}

// apply brings the state to what holds after the fact. What the fact removes is looked at before it is gone.
func (b *batch) apply(fact *event.Fact) {
	state := b.view.state
	b.events = append(b.events, project(state, fact)...)
	switch body := fact.Body.(type) {
	case *event.Fact_JobDenied:
		b.removeJob(body.JobDenied.GetUid())
	case *event.Fact_JobDeleted:
		b.removeJob(body.JobDeleted.GetUid())
	case *event.Fact_JobCreated:
		if replaced := body.JobCreated.GetReplaces(); replaced != "" {
			b.removeJob(replaced)
		}
		b.touch(Jobs, body.JobCreated.GetUid())
	case *event.Fact_LaunchSettled:
		for _, node := range body.LaunchSettled.GetNodes() {
			b.touch(Nodes, node.GetNode())
		}
	case *event.Fact_PodDeleted:
		b.remove(Pods, body.PodDeleted.GetUid())
	case *event.Fact_NodeGone:
		b.remove(Nodes, body.NodeGone.GetNode())
	default:
		if !b.applyToObject(fact) {
			b.touchSubject(fact)
		}
	}
	b.applyWithCronJobs(fact)
	if state.Seq == 1 {
		b.keepDefaultNamespace()
	}
}

// touchSubject touches the Job, the pod or else the node that the fact names as its own.
func (b *batch) touchSubject(fact *event.Fact) {
	state := b.view.state
	if created, ok := fact.Body.(*event.Fact_PodCreated); ok {
		b.touch(Jobs, created.PodCreated.GetJobUid())
		b.touch(Pods, created.PodCreated.GetUid())
		return
	}
	message := fact.ProtoReflect()
	body := message.Get(message.WhichOneof(message.Descriptor().Oneofs().ByName("body"))).Message().Interface()
	if subject, ok := body.(interface{ GetUid() string }); ok {
		if pod, ok := state.Pod(subject.GetUid()); ok {
			b.touch(Pods, pod.UID())
			b.touch(Jobs, pod.Job().UID)
		} else if owner, ok := state.Jobs[subject.GetUid()]; ok {
			b.touch(Jobs, owner.UID)
		}
		// That a pod is bound to a node changes the pod alone, as in Kubernetes.
		return
	}
	if subject, ok := body.(interface{ GetNode() string }); ok {
		b.touch(Nodes, subject.GetNode())
	}
}

func (b *batch) removeJob(uid string) {
	b.remove(Jobs, uid)
	for pod := range b.view.state.Jobs[uid].Pods() {
		b.remove(Pods, pod.UID())
	}
}

// publish makes records of what was touched, puts them into the tables and their changes into the windows.
func (b *batch) publish() {
	changes := make(map[Resource][]change)
	for _, t := range b.touched {
		c := change{former: b.view.tables[t.resource][t.id], current: b.record(t)}
		switch {
		case c.current != nil:
			c.seq = c.current.version
		case c.former != nil:
			c.seq = b.gone[t]
		default:
			continue // it came and went within the batch
		}
		changes[t.resource] = append(changes[t.resource], c)
	}
	for _, record := range b.events {
		changes[Events] = append(changes[Events], change{seq: record.version, current: record})
	}
	for _, record := range b.view.dropEvents(b.events, b.view.state.Now) {
		changes[Events] = append(changes[Events], change{seq: b.view.state.Seq, former: record})
	}
	for resource, list := range changes {
		slices.SortStableFunc(list, func(x, y change) int { return cmp.Compare(x.seq, y.seq) })
		table := b.view.tables[resource]
		for _, c := range list {
			if c.current != nil {
				table[c.current.id] = c.current
			} else {
				delete(table, c.former.id)
			}
		}
		b.view.windows[resource].add(list)
	}
}

// record makes the record of what a touched object is now; nil when it is gone.
func (b *batch) record(t touch) *Record {
	state := b.view.state
	switch t.resource {
	case Jobs:
		if owner, ok := state.Jobs[t.id]; ok {
			return jobRecord(owner)
		}
	case Pods:
		if pod, ok := state.Pod(t.id); ok {
			return podRecord(pod)
		}
	case CronJobs:
		if owner, ok := state.CronJobs[t.id]; ok {
			return cronJobRecord(owner)
		}
	case Nodes:
		if node, ok := state.Nodes[t.id]; ok {
			return nodeRecord(node)
		}
	default:
		if o, ok := b.view.objects[t]; ok {
			return o.record(t.resource)
		}
	}
	return nil
}
