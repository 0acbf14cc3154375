package engine

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"time"
)

// work is what may follow from the facts that were applied, so that Settle looks at what has changed and not at everything. It derives from
// the state and is no part of it: marking too much costs time, marking too little loses a decision. Each stage of Settle takes its marks
// away; Apply sets them again for what the stage's facts change.
type work struct {
	advance []*Job // Jobs whose next step may have come
	ends    []*Job // Jobs that may be done with
	evict   []*Node
	release []*Node
	// cronJobs of which a run may be due, or Jobs may go.
	cronJobs map[*CronJob]bool
	// stray are nodes that no Job which runs pays for, kept because other pods wait.
	stray map[*Node]bool
	// place: pods may find a node, or may have to be bought one.
	place bool
	// planned is when places were last looked for.
	planned time.Time
	timers  timers
	// spare room of lists that were taken last.
	spareJobs  []*Job
	spareNodes []*Node
}

// mark bits of a Job or a node.
type marks uint8

const (
	markAdvance marks = 1 << iota
	markEnds
	markEvict
	markRelease
)

func (s *State) markAdvance(owner *Job) {
	if owner.marks&markAdvance == 0 {
		owner.marks |= markAdvance
		s.work.advance = append(s.marked(s.work.advance), owner)
	}
}

func (s *State) markEnds(owner *Job) {
	if owner.marks&markEnds == 0 && (owner.Ended() || !owner.DeletionRequested.IsZero()) {
		owner.marks |= markEnds
		s.work.ends = append(s.marked(s.work.ends), owner)
	}
}

func (s *State) markEvict(node *Node) {
	if node.marks&markEvict == 0 {
		node.marks |= markEvict
		s.work.evict = append(s.markedNodes(s.work.evict), node)
	}
}

func (s *State) markRelease(node *Node) {
	if node.marks&markRelease == 0 {
		node.marks |= markRelease
		s.work.release = append(s.markedNodes(s.work.release), node)
	}
}

// marked drops the Jobs that are there no more, once there are very many: a state that only follows a log never takes its marks away.
func (s *State) marked(jobs []*Job) []*Job {
	if len(jobs) < 2*len(s.Jobs)+64 {
		return jobs
	}
	return slices.DeleteFunc(jobs, func(owner *Job) bool { return s.Jobs[owner.UID] != owner })
}

// markedNodes does the same for nodes.
func (s *State) markedNodes(nodes []*Node) []*Node {
	if len(nodes) < 2*len(s.Nodes)+64 {
		return nodes
	}
	return slices.DeleteFunc(nodes, func(node *Node) bool { return s.Nodes[node.Name] != node })
}

// markAll is for facts that concern everything.
func (s *State) markAll() {
	for _, owner := range s.Jobs {
		s.markAdvance(owner)
		s.markEnds(owner)
	}
	for _, node := range s.Nodes {
		s.markEvict(node)
		s.markRelease(node)
	}
	for _, owner := range s.CronJobs {
		s.work.cronJobs[owner] = true
	}
	s.work.place = true
}

// takeJobs empties a list of marked Jobs and returns those that are still there, the oldest first; the answer is good until the next call.
func (s *State) takeJobs(marked *[]*Job, mark marks) []*Job {
	jobs := *marked
	*marked, s.work.spareJobs = s.work.spareJobs[:0], jobs
	for _, owner := range jobs {
		owner.marks &^= mark
	}
	jobs = slices.DeleteFunc(jobs, func(owner *Job) bool { return s.Jobs[owner.UID] != owner })
	slices.SortFunc(jobs, compareAge)
	return jobs
}

// takeNodes empties a list of marked nodes and returns those that are still there, by name; the answer is good until the next call.
func (s *State) takeNodes(marked *[]*Node, mark marks) []*Node {
	nodes := *marked
	*marked, s.work.spareNodes = s.work.spareNodes[:0], nodes
	for _, node := range nodes {
		node.marks &^= mark
	}
	nodes = slices.DeleteFunc(nodes, func(node *Node) bool { return s.Nodes[node.Name] != node })
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// compareAge puts the older Job first.
func compareAge(a, b *Job) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.UID, b.UID))
}

// timer marks a Job, a CronJob or a node when its time has come, if it is still the one that it waits for.
type timer struct {
	at      time.Time
	job     *Job
	cronJob *CronJob
	node    *Node
}

// holds tells whether the timer has not been replaced.
func (t timer) holds() bool {
	switch {
	case t.job != nil:
		return t.job.wake.Equal(t.at)
	case t.cronJob != nil:
		return t.cronJob.wake.Equal(t.at)
	}
	return t.node.due.Equal(t.at)
}

// timers is a heap, the earliest first.
type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

// wakeJob sets when the Job is looked at again; zero for not by time alone.
func (s *State) wakeJob(owner *Job, at time.Time) {
	if owner.wake.Equal(at) {
		return
	}
	if owner.wake = at; !at.IsZero() {
		heap.Push(&s.work.timers, timer{at: at, job: owner})
	}
}

func (s *State) wakeCronJob(owner *CronJob, at time.Time) {
	if owner.wake.Equal(at) {
		return
	}
	if owner.wake = at; !at.IsZero() {
		heap.Push(&s.work.timers, timer{at: at, cronJob: owner})
	}
}

func (s *State) wakeNode(node *Node, at time.Time) {
	if node.due.Equal(at) {
		return
	}
	if node.due = at; !at.IsZero() {
		heap.Push(&s.work.timers, timer{at: at, node: node})
	}
}

// ring marks what has been waiting for a time that has come.
func (s *State) ring(now time.Time) {
	for {
		first, any := s.nextTimer()
		if !any || first.at.After(now) {
			break
		}
		heap.Pop(&s.work.timers)
		switch {
		case first.job != nil:
			first.job.wake = time.Time{}
			s.markAdvance(first.job)
		case first.cronJob != nil:
			first.cronJob.wake = time.Time{}
			s.work.cronJobs[first.cronJob] = true
		default:
			first.node.due = time.Time{}
			s.markRelease(first.node)
		}
	}
	if pause := s.nextPause(s.work.planned); !pause.IsZero() && !pause.After(now) {
		s.work.place = true
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// nextTimer returns the earliest timer that holds, and drops those before it that do not.
func (s *State) nextTimer() (timer, bool) {
	for len(s.work.timers) > 0 {
		if first := s.work.timers[0]; first.holds() {
			return first, true
		}
		heap.Pop(&s.work.timers)
	}
	return timer{}, false
}

// nextPause is the earliest end of a pause after a time, if pods wait for what is out; zero for none.
func (s *State) nextPause(after time.Time) time.Time {
	var next time.Time
	if s.homeless == 0 || s.Closed != "" {
		return next
	}
	for _, paused := range s.pauses {
		if paused.until.After(after) && (next.IsZero() || paused.until.Before(next)) {
			next = paused.until
		}
	}
	return next
}

// wake is the earliest time at which Tick would decide something; zero for never.
func (s *State) wake() time.Time {
	if s.work.place || len(s.work.advance)+len(s.work.ends)+len(s.work.evict)+len(s.work.release)+len(s.work.cronJobs) > 0 {
		return s.Now
	}
	// A tick that decides nothing leaves no fact, and Now as it was: what was looked at since is not looked at again.
	wake := s.nextPause(later(s.Now, s.work.planned))
	if first, any := s.nextTimer(); any && (wake.IsZero() || first.at.Before(wake)) {
		wake = first.at
	}
	if objects := s.Objects.Wake(s.Now); !objects.IsZero() && (wake.IsZero() || objects.Before(wake)) {
		wake = objects
	}
	return wake
}
