package engine

import (
	"fmt"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Check returns the invariants that the state breaks, none when it is sound. It is for tests and simulation, and looks at everything.
func (s *State) Check() []error {
	c := &checker{state: s}
	for _, owner := range s.jobsByAge() {
		c.job(owner)
	}
	for _, uid := range sortedKeys(s.Pods) {
		c.pod(s.Pods[uid])
	}
	for _, name := range sortedKeys(s.Nodes) {
		c.node(s.Nodes[name])
	}
	return c.broken
}

type checker struct {
	state  *State
	broken []error
}

func (c *checker) holds(condition bool, format string, arguments ...any) {
	if !condition {
		c.broken = append(c.broken, fmt.Errorf(format, arguments...))
	}
}

func (c *checker) job(owner *Job) {
	name := owner.Object.Name
	counts := make(map[job.Outcome]int32)
	for _, uid := range owner.AllPods {
		counts[c.state.Pods[uid].Outcome]++
	}
	c.holds(int(counts[job.Live]) == len(owner.LivePods), "job %s: %d pods are live, %d are listed as live", name, counts[job.Live], len(owner.LivePods))
	c.holds(counts[job.Evicted] == owner.Progress.Evicted, "job %s: %d pods were evicted, %d are counted", name, counts[job.Evicted], owner.Progress.Evicted)
	c.holds(owner.Progress.Failed >= counts[job.Failed], "job %s: %d pods failed, %d are counted", name, counts[job.Failed], owner.Progress.Failed)
	c.holds(owner.Progress.Succeeded == counts[job.Succeeded], "job %s: %d pods succeeded, %d are counted", name, counts[job.Succeeded], owner.Progress.Succeeded)
	c.holds(!owner.Ended() || len(owner.LivePods) == 0, "job %s has ended with %d live pods", name, len(owner.LivePods))
	c.holds(int32(len(owner.LivePods)) <= max(owner.Spec.Parallelism, 0) || c.stopping(owner) > 0, "job %s: %d pods are live, parallelism is %d", name, len(owner.LivePods), owner.Spec.Parallelism)
	holder := make(map[int32]string)
	for _, uid := range owner.LivePods {
		pod := c.state.Pods[uid]
		if pod.Index == job.NoIndex {
			continue
		}
		c.holds(holder[pod.Index] == "", "job %s: index %d is held by both %s and %s", name, pod.Index, holder[pod.Index], pod.Name)
		c.holds(!owner.Progress.Completed.Has(pod.Index), "job %s: index %d has succeeded and runs again as %s", name, pod.Index, pod.Name)
		holder[pod.Index] = pod.Name
	}
	c.holds(owner.Account.Evicted+owner.Account.Idle <= owner.Account.Paid, "job %s: the parts of its account %+v exceed the whole", name, owner.Account)
}

func (c *checker) stopping(owner *Job) (stopping int) {
	for _, uid := range owner.LivePods {
		if !c.state.Pods[uid].Stopping.IsZero() {
			stopping++
		}
	}
	return stopping
}

func (c *checker) pod(pod *Pod) {
	owner, ok := c.state.Jobs[pod.JobUID]
	c.holds(ok, "pod %s has no Job", pod.Name)
	c.holds(c.state.PodNames[Name{pod.Namespace, pod.Name}] == pod.UID, "pod %s does not hold its name", pod.Name)
	if !ok || !pod.IsLive() || pod.Node == "" {
		return
	}
	node, ok := c.state.Nodes[pod.Node]
	c.holds(ok, "pod %s of job %s is live on node %s, which is gone", pod.Name, owner.Object.Name, pod.Node)
	c.holds(ok && len(without(node.Pods, pod.UID)) == len(node.Pods)-1, "pod %s is bound to %s, which does not list it", pod.Name, pod.Node)
	c.holds(pod.Epoch != 0 && pod.Epoch <= c.state.Epoch, "pod %s is bound with epoch %d of %d", pod.Name, pod.Epoch, c.state.Epoch)
}

func (c *checker) node(node *Node) {
	free := node.Capacity
	for _, uid := range node.Pods {
		pod := c.state.Pods[uid]
		c.holds(pod.IsLive(), "node %s holds pod %s, which has ended", node.Name, pod.Name)
		free = free.Minus(c.state.Jobs[pod.JobUID].Spec.Requests)
	}
	for resource, amount := range free {
		c.holds(amount >= 0, "node %s is overcommitted by %d of %s", node.Name, -amount, resource)
	}
	c.holds(node.Released.IsZero() || len(node.Pods) == 0, "node %s is released and holds %d pods", node.Name, len(node.Pods))
	known, ok := c.state.NodeOf(node.Provider, node.InstanceID)
	c.holds(ok && known == node, "node %s is not found by its instance %s", node.Name, node.InstanceID)
}
