package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// provider is the name of the only one there is.
const provider = "cloud"

// noticeTime is what the cloud gives before it takes an instance that it has noticed.
const noticeTime = 2 * time.Minute

// cloud lends instances with agents on them. It knows what no control plane knows, and forgets nothing when one crashes.
type cloud struct {
	world     *world
	instances map[string]*instance
	// launched are the instances by the key of the launch, so that a launch that is repeated brings the same ones.
	launched map[string][]string
	made     int
}

// instance is one, with the agent that runs on it.
type instance struct {
	id, offer string
	alive     bool
	noticed   time.Time // when the cloud takes it; zero if it gave no notice
	node      string    // as the control plane calls it; empty until it has told
	attempts  map[string]*attempt
}

// attempt is one pod on the instance.
type attempt struct {
	uid      string
	epoch    uint64
	stopping bool
	// reports that nobody has written down yet, in order.
	reports []engine.ReportPod
	sending bool
	ended   bool
}

func newCloud(w *world) *cloud {
	c := &cloud{world: w, instances: make(map[string]*instance), launched: make(map[string][]string)}
	w.later(0, c.offer)
	w.later(time.Minute, c.look)
	return c
}

// offer tells what there is, and again every while.
func (c *cloud) offer() {
	var offers []*event.Offer
	for _, kind := range []struct {
		name string
		cpu  int64
	}{{"small", 2000}, {"large", 8000}} {
		offers = append(offers, &event.Offer{
			Id: kind.name, InstanceType: kind.name, Zone: "z", Market: "spot", Arch: "amd64", Resources: map[string]int64{"cpu": kind.cpu, "pods": 110},
			PriceMicrosPerHour: 10 * kind.cpu, OnDemandPriceMicrosPerHour: 30 * kind.cpu, Available: -1,
		})
	}
	c.world.submit(engine.ObserveOffers{Provider: provider, Offers: offers})
	c.world.later(10*time.Second, c.offer)
}

func (c *cloud) look() {
	c.reconcile()
	c.world.later(time.Minute, c.look)
}

func (c *cloud) alive() (count int) {
	for _, each := range c.instances {
		if each.alive {
			count++
		}
	}
	return count
}

// launch brings instances, at times fewer than asked for, and the same ones when it is asked again.
func (c *cloud) launch(launch engine.Launch) {
	w := c.world
	ids, known := c.launched[launch.Key]
	if !known {
		count := int(launch.Count)
		if w.random.IntN(10) == 0 {
			count = w.random.IntN(count + 1)
		}
		for range count {
			c.made++
			each := &instance{id: fmt.Sprintf("i-%d", c.made), offer: launch.Offers[0].GetId(), alive: true, attempts: make(map[string]*attempt)}
			c.instances[each.id] = each
			ids = append(ids, each.id)
			w.later(w.between(10*time.Second, 60*time.Second), func() { c.join(each) })
			if life := w.config.MeanLife; life > 0 {
				w.later(w.between(0, 2*life), func() { c.take(each) })
			}
		}
		c.launched[launch.Key] = ids
	}
	settled := engine.SettleLaunch{Key: launch.Key}
	for _, id := range ids {
		settled.Instances = append(settled.Instances, engine.LaunchedInstance{ID: id, OfferID: c.instances[id].offer})
	}
	if len(ids) < int(launch.Count) {
		settled.ErrorKind, settled.Error = "no-capacity", "there are no more"
	}
	w.submit(settled)
}

// join opens the agent's session, once the control plane knows of the instance.
func (c *cloud) join(each *instance) {
	w := c.world
	if !each.alive {
		return
	}
	if w.state != nil {
		if node, ok := w.state.NodeOf(provider, each.id); ok {
			each.node = node.Name
			if w.submit(engine.JoinNode{Node: node.Name}) {
				return
			}
		}
	}
	w.later(2*time.Second, func() { c.join(each) })
}

// take takes an instance back: with notice, or without.
func (c *cloud) take(each *instance) {
	w := c.world
	if !each.alive || !each.noticed.IsZero() {
		return
	}
	w.result.Evictions++
	if w.random.IntN(3) == 0 {
		c.end(each)
		return
	}
	each.noticed = w.now.Add(noticeTime)
	c.notice(each)
	w.later(noticeTime, func() { c.end(each) })
}

func (c *cloud) notice(each *instance) {
	w := c.world
	if each.alive && !w.submit(engine.NoticeInstance{Provider: provider, InstanceID: each.id, Deadline: each.noticed, Cause: "spot"}) {
		w.later(5*time.Second, func() { c.notice(each) })
	}
}

func (c *cloud) terminate(id string) {
	if each, ok := c.instances[id]; ok {
		c.end(each)
	}
}

// end ends an instance and all that runs on it, and tells so until somebody has heard.
func (c *cloud) end(each *instance) {
	each.alive = false
	c.gone(each)
}

func (c *cloud) gone(each *instance) {
	if !c.world.submit(engine.InstanceGone{Provider: provider, InstanceID: each.id, Cause: "ended"}) {
		c.world.later(5*time.Second, func() { c.gone(each) })
	}
}

// reconcile is what a control plane does after its start and now and then: what its record has and the cloud does not is gone. So an instance that
// ended before its launch was on record is found out.
func (c *cloud) reconcile() {
	state := c.world.state
	if state == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(state.Nodes)) {
		node := state.Nodes[name]
		if each, ok := c.instances[node.InstanceID]; !ok || !each.alive {
			c.world.submit(engine.InstanceGone{Provider: provider, InstanceID: node.InstanceID, Cause: "not listed"})
		}
		if c.world.state != state {
			return // it has crashed again
		}
	}
}

// assign tells the agents which pods they shall hold. What an agent does about it takes its time.
func (c *cloud) assign(assignments engine.Assignments) {
	for _, id := range slices.Sorted(maps.Keys(c.instances)) {
		each := c.instances[id]
		if !each.alive || each.node == "" {
			continue
		}
		wanted := make(map[string]bool)
		held := assignments.Of(each.node)
		for i := range held {
			wanted[held[i].UID()] = true
			c.hold(each, &held[i])
		}
		maps.DeleteFunc(each.attempts, func(uid string, _ *attempt) bool { return !wanted[uid] })
	}
}

// hold starts a pod that is new, and ends one that is to end.
func (c *cloud) hold(each *instance, assignment *engine.Assignment) {
	w := c.world
	known, ok := each.attempts[assignment.UID()]
	if !ok || known.epoch != assignment.Epoch() {
		known = &attempt{uid: assignment.UID(), epoch: assignment.Epoch()}
		each.attempts[known.uid] = known
		w.later(w.between(0, 5*time.Second), func() { c.report(each, known, engine.ReportRunning, 0) })
		w.later(w.between(6*time.Second, 3*time.Minute), func() { c.finish(each, known) })
	}
	if _, grace, _, stops := assignment.Stop(); stops && !known.stopping {
		known.stopping = true
		w.later(w.between(0, time.Duration(grace)*time.Second), func() { c.report(each, known, engine.ReportFailed, 143) })
	}
}

// finish ends a pod of itself: most succeed.
func (c *cloud) finish(each *instance, known *attempt) {
	if c.world.random.IntN(8) == 0 {
		c.report(each, known, engine.ReportFailed, int32(c.world.random.IntN(3)+1))
		return
	}
	c.report(each, known, engine.ReportSucceeded, 0)
}

// report tells of a pod until it is written down. A pod ends once.
func (c *cloud) report(each *instance, known *attempt, phase engine.ReportPhase, code int32) {
	if known.ended || !each.alive || each.attempts[known.uid] != known {
		return
	}
	known.ended = phase != engine.ReportRunning
	known.reports = append(known.reports, engine.ReportPod{Node: each.node, UID: known.uid, Epoch: known.epoch, Phase: phase, ExitCode: code})
	if !known.sending {
		c.send(each, known)
	}
}

func (c *cloud) send(each *instance, known *attempt) {
	known.sending = false
	for len(known.reports) > 0 && each.alive {
		if !c.world.submit(known.reports[0]) {
			known.sending = true
			c.world.later(2*time.Second, func() { c.send(each, known) })
			return
		}
		known.reports = known.reports[1:]
	}
}
