package job

import "time"

// Pods is what the pods of a Job that have not ended come to. It is changed in place by its methods alone.
type Pods struct {
	// Active are those that were not told to end, Ready the ones of them that have started. Ending are those that were told.
	Active, Ready, Ending int32
	// Held are the ones among Ending whose places stay taken until they have ended: evicted pods, so that no index runs twice at
	// once. With podReplacementPolicy Failed, all that are ending hold theirs.
	Held int32
	// Restarts in place, summed over all that have not ended.
	Restarts int64
	// ActiveIndexes, EndingIndexes and HeldIndexes say the same by index, for an Indexed Job.
	ActiveIndexes, EndingIndexes, HeldIndexes IndexBag
	// lowest is an index below which none is free.
	lowest int32
}

// IndexBag is a set in which an index may be more than once.
type IndexBag struct {
	IndexSet
	// more holds how often an index is there beyond the first time.
	more map[int32]int32
}

// move puts an index in, or takes it out.
func (b *IndexBag) move(index, by int32) {
	switch {
	case index == NoIndex:
	case by > 0:
		b.put(index)
	default:
		b.take(index)
	}
}

func (b *IndexBag) put(index int32) {
	if !b.Has(index) {
		b.Add(index)
		return
	}
	if b.more == nil {
		b.more = make(map[int32]int32)
	}
	b.more[index]++
}

func (b *IndexBag) take(index int32) {
	switch left := b.more[index]; {
	case left > 1:
		b.more[index] = left - 1
	case left == 1:
		delete(b.more, index)
	default:
		b.Remove(index)
	}
}

// Live returns how many there are.
func (l *Pods) Live() int32 { return l.Active + l.Ending }

// Standing is where one live pod stands in the counts.
type Standing struct {
	Index               int32
	Ready, Ending, Held bool
	Restarts            int32
}

// Enter counts a pod in, or again after it has left.
func (l *Pods) Enter(progress *Progress, pod Standing) {
	l.count(pod, 1)
	if pod.Index == NoIndex {
		return
	}
	if pod.Index >= l.lowest {
		l.lowest = nextOutside(l.lowest, &progress.Completed, &progress.FailedIndexes, &l.ActiveIndexes.IndexSet, &l.HeldIndexes.IndexSet)
	}
	l.Freed(progress, pod.Index)
}

// Leave counts a pod out: it has ended, or enters again otherwise. When the progress knows of it, Freed follows.
func (l *Pods) Leave(pod Standing) { l.count(pod, -1) }

// Freed notes that the index may be free.
func (l *Pods) Freed(progress *Progress, index int32) {
	if index == NoIndex || index >= l.lowest || progress.Completed.Has(index) || progress.FailedIndexes.Has(index) ||
		l.ActiveIndexes.Has(index) || l.HeldIndexes.Has(index) {
		return
	}
	l.lowest = index
}

// Started counts an active pod as ready.
func (l *Pods) Started() { l.Ready++ }

// Restarted counts restarts in place.
func (l *Pods) Restarted(more int32) { l.Restarts += int64(more) }

func (l *Pods) count(pod Standing, by int32) {
	l.Restarts += int64(by) * int64(pod.Restarts)
	if !pod.Ending {
		l.Active += by
		if pod.Ready {
			l.Ready += by
		}
		l.ActiveIndexes.move(pod.Index, by)
		return
	}
	l.Ending += by
	l.EndingIndexes.move(pod.Index, by)
	if pod.Held {
		l.Held += by
		l.HeldIndexes.move(pod.Index, by)
	}
}

// Recount forgets which indexes were found to be taken, after the spec or the progress has changed otherwise than by the pods.
func (l *Pods) Recount() { l.lowest = 0 }

// Pod is one attempt as it is rendered.
type Pod struct {
	UID  string
	Name string
	// Index is NoIndex for NonIndexed Jobs.
	Index int32
	// Attempt counts the pods before this one: of its index, or of the Job when it has no indexes.
	Attempt int32
	// IndexFailures and IndexIgnored are what its index had behind it, with backoffLimitPerIndex.
	IndexFailures, IndexIgnored int32
	Created                     time.Time
	// Bound, Started and Finished are zero until they happen, in this order; a pod may finish without the ones before.
	Bound    time.Time
	Started  time.Time
	Finished time.Time
	// Stopping is when the pod was told to end; zero if it was not.
	Stopping time.Time
	// GraceSeconds that it was given to end.
	GraceSeconds int64
	// Evicting: it was told to end because it is taken away.
	Evicting bool
	// Released: it has given up its place, and how it ends counts for nothing.
	Released bool
	Outcome  Outcome
	Restarts int32
	// ExitCode, of the container run that ended last, and Exits of all containers if the node told them, those of init first.
	ExitCode int32
	Exits    []Exit
	// Reason and Message: why it ended, is ending, or cannot be placed.
	Reason  string
	Message string
	// Node that holds it; empty until bound.
	Node string
}

// Removal is what counts when one of several active pods has to go.
type Removal struct {
	Index          int32
	Bound, Started time.Time
	Restarts       int32
	// Ordinal of the pod in its Job, in order of creation.
	Ordinal int32
}

// GoesBefore orders active pods of which some have to go: indexes beyond the completions first, then those that lose least: without a
// node, not started, started last, restarted more often, created last (activePodsForRemoval in pkg/controller/job/job_controller.go,
// ActivePods in pkg/controller/controller_utils.go).
func (r Removal) GoesBefore(other Removal, spec *Spec) bool {
	if spec.Indexed {
		if beyond, otherBeyond := r.Index >= spec.Completions, other.Index >= spec.Completions; beyond != otherBeyond {
			return beyond
		}
	}
	if r.Bound.IsZero() != other.Bound.IsZero() {
		return r.Bound.IsZero()
	}
	if r.Started.IsZero() != other.Started.IsZero() {
		return r.Started.IsZero()
	}
	if !r.Started.Equal(other.Started) {
		return r.Started.After(other.Started)
	}
	if r.Restarts != other.Restarts {
		return r.Restarts > other.Restarts
	}
	return r.Ordinal > other.Ordinal
}
