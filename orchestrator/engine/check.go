package engine

import (
	"fmt"
	"maps"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Check returns the invariants that the state breaks, none when it is sound. It is for tests and simulation, and looks at everything.
func (s *State) Check() []error {
	c := &checker{state: s}
	homeless, pods := 0, 0
	for _, owner := range s.jobsByAge() {
		c.job(owner)
		c.conditions(owner)
		for pod := range owner.Pods() {
			pods++
			c.pod(pod)
			if pod.isHomeless() {
				homeless++
			}
		}
	}
	c.holds(homeless == s.homeless, "%d pods have no node, %d are counted", homeless, s.homeless)
	c.holds(pods == len(s.pods.byUID), "Jobs have %d pods, %d are found by their UIDs", pods, len(s.pods.byUID))
	for _, name := range sortedKeys(s.Nodes) {
		c.node(s.Nodes[name])
	}
	c.cronJobs()
	return append(c.broken, s.Objects.Check(s)...)
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

// job holds the counts of a Job against its pods.
func (c *checker) job(owner *Job) {
	name := owner.Object.Name
	var counts job.Pods
	ended := make(map[job.Outcome]int32)
	holder := make(map[int32]string)
	for _, pod := range owner.pods {
		if !pod.IsLive() {
			if pod.flags&released == 0 {
				ended[pod.Outcome]++
			}
			continue
		}
		counts.Enter(&owner.Progress, pod.standing())
		if pod.Index == job.NoIndex || pod.flags&released != 0 {
			continue
		}
		c.holds(holder[pod.Index] == "", "job %s: index %d is held by both %s and %s", name, pod.Index, holder[pod.Index], pod.Name())
		c.holds(!owner.Progress.Completed.Has(pod.Index) || pod.IsStopping(), "job %s: index %d has succeeded and runs again as %s", name, pod.Index, pod.Name())
		holder[pod.Index] = pod.Name()
	}
	have := &owner.Counts
	c.holds(counts.Active == have.Active && counts.Ready == have.Ready && counts.Ending == have.Ending && counts.Held == have.Held && counts.Restarts == have.Restarts,
		"job %s: its pods come to %d active, %d ready, %d ending, %d held and %d restarts, and %d, %d, %d, %d and %d are counted", name,
		counts.Active, counts.Ready, counts.Ending, counts.Held, counts.Restarts, have.Active, have.Ready, have.Ending, have.Held, have.Restarts)
	for _, sets := range [][2]*job.IndexBag{
		{&counts.ActiveIndexes, &have.ActiveIndexes}, {&counts.EndingIndexes, &have.EndingIndexes}, {&counts.HeldIndexes, &have.HeldIndexes},
	} {
		c.holds(sets[0].String() == sets[1].String(), "job %s: its pods hold the indexes %s, and %s are counted", name, sets[0], sets[1])
	}
	c.holds(have.Ready <= have.Active, "job %s: %d of %d active pods are ready", name, have.Ready, have.Active)
	if !owner.Spec.IsWorkQueue() && owner.DeletionRequested.IsZero() {
		c.holds(have.Active <= max(owner.Spec.Parallelism, 0) || c.state.Closed != "", "job %s: %d pods are active, parallelism is %d", name, have.Active, owner.Spec.Parallelism)
	}
	progress := &owner.Progress
	if owner.Spec.Indexed {
		c.holds(progress.Succeeded == progress.Completed.Len(), "job %s: %d indexes succeeded, %d are counted", name, progress.Completed.Len(), progress.Succeeded)
		c.holds(progress.Completed.CountIn(&progress.FailedIndexes) == 0, "job %s: indexes %s succeeded, and %s failed", name, &progress.Completed, &progress.FailedIndexes)
	} else {
		c.holds(progress.Succeeded == ended[job.Succeeded], "job %s: %d pods succeeded, %d are counted", name, ended[job.Succeeded], progress.Succeeded)
	}
	var evicted int64
	for _, eviction := range owner.Evictions {
		evicted += eviction.Count
	}
	c.holds(evicted == int64(progress.Evicted), "job %s: %d evictions by reason, %d are counted", name, evicted, progress.Evicted)
	c.holds(owner.Account.Evicted+owner.Account.Idle <= owner.Account.Paid, "job %s: the parts of its account %+v exceed the whole", name, owner.Account)
	live := 0
	for range owner.Live() {
		live++
	}
	c.holds(live == owner.live.len() && live == int(have.Live()), "job %s: %d pods are live, %d are listed", name, live, owner.live.len())
}

// conditions are those that Kubernetes' validation of a status demands (pkg/apis/batch/validation/validation.go: validateJobStatus).
func (c *checker) conditions(owner *Job) {
	name, has := owner.Object.Name, owner.Progress.Has
	c.holds(!has(batchv1.JobComplete) || !has(batchv1.JobFailed), "job %s is Complete and Failed", name)
	c.holds(!has(batchv1.JobComplete) || has(batchv1.JobSuccessCriteriaMet), "job %s is Complete without SuccessCriteriaMet", name)
	c.holds(!has(batchv1.JobFailed) || has(batchv1.JobFailureTarget), "job %s is Failed without FailureTarget", name)
	c.holds(!has(batchv1.JobFailureTarget) || !has(batchv1.JobSuccessCriteriaMet), "job %s has both FailureTarget and SuccessCriteriaMet", name)
	c.holds(!owner.Ended() || owner.Counts.Live() == 0, "job %s has ended with %d live pods", name, owner.Counts.Live())
	c.holds(!owner.Ended() || !owner.Progress.Started.IsZero() || owner.Spec.Suspended && owner.Spec.Completions == 0, "job %s has ended and never started", name)
	c.holds(!owner.Spec.ManagedElsewhere || len(owner.pods)+len(owner.Progress.Conditions) == 0 && owner.Progress.Started.IsZero(),
		"job %s is another controller's and was touched", name)
}

func (c *checker) pod(pod *Pod) {
	owner, ok := c.state.Jobs[pod.Job().UID]
	c.holds(ok && owner == pod.Job(), "pod %s has no Job", pod.Name())
	named, ok := c.state.PodOf(pod.Namespace(), pod.Name())
	c.holds(ok && named == pod, "pod %s does not hold its name", pod.Name())
	if !pod.IsLive() || pod.node == nil {
		return
	}
	node := c.state.Nodes[pod.node.Name]
	c.holds(node == pod.node, "pod %s of job %s is live on node %s, which is gone", pod.Name(), owner.Object.Name, pod.Node())
	listed := 0
	for _, other := range pod.node.pods {
		if other == pod {
			listed++
		}
	}
	c.holds(listed == 1, "pod %s is bound to %s, which lists it %d times", pod.Name(), pod.Node(), listed)
	c.holds(pod.Epoch != 0 && pod.Epoch <= c.state.Epoch, "pod %s is bound with epoch %d of %d", pod.Name(), pod.Epoch, c.state.Epoch)
}

func (c *checker) node(node *Node) {
	free := maps.Clone(node.Capacity)
	for _, pod := range node.pods {
		c.holds(pod.IsLive(), "node %s holds pod %s, which has ended", node.Name, pod.Name())
		for resource, amount := range pod.template.Requests {
			free[resource] -= amount
		}
	}
	known, takes := c.state.fleet.Free(node.Name)
	c.holds(takes == (node.Open() && !node.Joined.IsZero()), "node %s is among those that take pods: %v", node.Name, takes)
	maps.DeleteFunc(free, func(_ string, amount int64) bool { return amount == 0 })
	c.holds(!takes || maps.Equal(free, known), "node %s has %v free, and %v is counted", node.Name, free, known)
	for resource, amount := range free {
		c.holds(amount >= 0, "node %s is overcommitted by %d of %s", node.Name, -amount, resource)
	}
	c.holds(node.Released.IsZero() || len(node.pods) == 0, "node %s is released and holds %d pods", node.Name, len(node.pods))
	found, ok := c.state.NodeOf(node.Provider, node.InstanceID)
	c.holds(ok && found == node, "node %s is not found by its instance %s", node.Name, node.InstanceID)
	payer, there := c.state.payerOf(node)
	c.holds(!there || !node.Released.IsZero() || payer.paying[node], "node %s is paid for by a Job that does not know", node.Name)
}
