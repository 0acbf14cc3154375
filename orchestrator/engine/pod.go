package engine

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// Pod is one attempt of a Job. There may be a million, so it holds nothing that can be derived, and what few pods have is kept apart.
type Pod struct {
	// template that it was made of.
	template *Template
	// node that holds it, or held it; nil until bound.
	node *Node
	// why it ended, is ending or cannot be placed; nil for nothing. Pods with the same reason share it.
	why *why
	// end is nil until the pod has restarted, is told to end, or has ended, unless its index has failures behind it.
	end *ending
	// Epoch fences its reports; 0 until bound.
	Epoch uint64
	// Version is the sequence number of the last fact that concerned the pod.
	Version uint64
	// created, bound and started in nanoseconds since the Unix epoch, 0 until it happens.
	created, bound, started int64
	uid                     podUID
	// ordinal in its Job, in order of creation.
	ordinal int32
	// Index is job.NoIndex for a Job without indexes; Attempt counts the pods before this one.
	Index, Attempt int32
	// Restarts in place.
	Restarts int32
	// suffix of its name, after what its Job and index give.
	suffix  [podSuffix]byte
	Outcome job.Outcome
	flags   podFlags
}

// podSuffix is the length of what is drawn of a pod's name.
const podSuffix = 5

type podFlags uint8

const (
	// oddName: the name is not made of the Job's and a suffix.
	oddName podFlags = 1 << iota
	// evictionPending: it is being stopped because its node goes away.
	evictionPending
	// released: it has given up its place, and its end counts for nothing.
	released
	// deleted: it has ended and was removed; nobody finds it any more.
	deleted
	// backingOff: one of its containers waits to be started again.
	backingOff
)

// why is a Kubernetes reason and its words.
type why struct{ reason, message string }

// ending is what a pod has that does not simply run.
type ending struct {
	stopping, finished int64
	grace              int64
	exits              []job.Exit
	// oddName of a pod that has one.
	oddName string
	// charge is what the pod has cost, when it has ended.
	charge   ledger.Charge
	exitCode int32
	// indexFailures and indexIgnored are what its index had behind it.
	indexFailures, indexIgnored int32
}

// Template is a pod template of a Job. A Job has several if it was changed while it was suspended.
type Template struct {
	job.Template
	job *Job
	// class that its pods are placed by; nil until one is.
	class *placement.Class
	// share of a node with the capacity of an offer that a pod takes, in parts per million, as it was asked for last.
	offer *event.Offer
	share int64
	// Object is the Job as it was stored with this template; never changed.
	Object *batchv1.Job
}

// shareOf is which part of a node a pod of the template takes, in parts per million.
func (t *Template) shareOf(node *Node) int64 {
	if t.offer != node.Offer {
		t.offer, t.share = node.Offer, node.Capacity.DominantShare(t.Requests)
	}
	return t.share
}

// podUID is a UUID.
type podUID [16]byte

// parseUID reads a UUID in its usual form.
func parseUID(text string) (uid podUID, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return uid, false
	}
	at := 0
	for i := 0; i < 36; i += 2 {
		if text[i] == '-' {
			i++
		}
		high, low := unhex(text[i]), unhex(text[i+1])
		if high > 15 || low > 15 {
			return uid, false
		}
		uid[at] = high<<4 | low
		at++
	}
	return uid, true
}

// unhex returns the value of a lower-case hex digit, or more than 15.
func unhex(digit byte) byte {
	switch {
	case '0' <= digit && digit <= '9':
		return digit - '0'
	case 'a' <= digit && digit <= 'f':
		return digit - 'a' + 10
	}
	return 16
}

func (u podUID) String() string { return job.FormatUID(u) }

// UID of the pod.
func (p *Pod) UID() string { return p.uid.String() }

// Job that the pod belongs to.
func (p *Pod) Job() *Job { return p.template.job }

// Template that the pod was made of.
func (p *Pod) Template() *Template { return p.template }

// Namespace of the pod.
func (p *Pod) Namespace() string { return p.template.job.Namespace }

// Name of the pod.
func (p *Pod) Name() string {
	owner := p.Job()
	if p.flags&oddName != 0 {
		return p.end.oddName
	}
	var room [72]byte
	return string(append(job.AppendPodPrefix(room[:0], owner.Name.Name, p.Index), p.suffix[:]...))
}

// Node that holds the pod, or held it; empty until bound.
func (p *Pod) Node() string {
	if p.node == nil {
		return ""
	}
	return p.node.Name
}

// Instance that holds the pod or held it, in its provider's words; empty until bound.
func (p *Pod) Instance() string {
	if p.node == nil {
		return ""
	}
	return p.node.InstanceID
}

// Charge is what the pod has cost so far.
func (p *Pod) Charge() ledger.Charge {
	if !p.IsLive() {
		return p.end.charge
	}
	if p.node != nil {
		if at := slices.Index(p.node.pods, p); at >= 0 {
			return ledger.Charge{Paid: p.node.paid[at], OnDemand: p.node.onDemand[at]}
		}
	}
	return ledger.Charge{}
}

// IsLive tells whether the pod has not ended.
func (p *Pod) IsLive() bool { return p.Outcome == job.Live }

// IsStopping tells whether it was told to end.
func (p *Pod) IsStopping() bool { return p.end != nil && p.end.stopping != 0 }

// HasStarted tells whether its node has reported it as running.
func (p *Pod) HasStarted() bool { return p.started != 0 }

// isHomeless tells whether it waits for a node.
func (p *Pod) isHomeless() bool { return p.node == nil && p.IsLive() }

// reason returns why it ended, is ending or cannot be placed.
func (p *Pod) reason() why {
	if p.why == nil {
		return why{}
	}
	return *p.why
}

// standing is how a live pod counts for its Job.
func (p *Pod) standing() job.Standing {
	return job.Standing{
		Index: p.Index, Ready: p.started != 0 && p.flags&backingOff == 0, Ending: p.IsStopping(), Held: p.IsStopping() && p.flags&released == 0, Restarts: p.Restarts,
	}
}

// cold returns the part that few pods have.
func (p *Pod) cold() *ending {
	if p.end == nil {
		p.end = new(ending)
	}
	return p.end
}

// Render returns the pod as it is rendered.
func (p *Pod) Render() job.Pod {
	why := p.reason()
	rendered := job.Pod{
		UID: p.UID(), Name: p.Name(), Index: p.Index, Attempt: p.Attempt, Created: timeOf(p.created),
		Bound: timeOf(p.bound), Started: timeOf(p.started), Evicting: p.flags&evictionPending != 0, Released: p.flags&released != 0, Outcome: p.Outcome, Restarts: p.Restarts,
		Reason: why.reason, Message: why.message, Node: p.Node(),
	}
	if end := p.end; end != nil {
		rendered.Finished, rendered.Stopping, rendered.GraceSeconds = timeOf(end.finished), timeOf(end.stopping), end.grace
		rendered.ExitCode, rendered.Exits = end.exitCode, end.exits
		rendered.IndexFailures, rendered.IndexIgnored = end.indexFailures, end.indexIgnored
	}
	return rendered
}

// timeOf returns a time in UTC; 0 is none.
func timeOf(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}

// podList holds pods of one kind in order. A pod that is no more of the kind stays until the list is compacted.
type podList struct {
	pods []*Pod
	gone int
}

func (l *podList) add(pod *Pod) { l.pods = append(l.pods, pod) }

// drop notes that one pod is no more of the kind, which is tells.
func (l *podList) drop(is func(*Pod) bool) {
	if l.gone++; l.gone*2 < len(l.pods) {
		return
	}
	if l.gone == len(l.pods) {
		*l = podList{}
		return
	}
	l.pods = slices.DeleteFunc(l.pods, func(pod *Pod) bool { return !is(pod) })
	l.gone = 0
}

func (l *podList) len() int { return len(l.pods) - l.gone }

// podIndex finds pods.
type podIndex struct {
	byUID map[podUID]*Pod
	// byName holds them by a hash of their names. A name is drawn so that no two pods share one; byOddName has those that came to share it.
	byName    map[uint64]*Pod
	byOddName map[Name]*Pod
	// recent is the pod that was found or made last: several facts in a row are of one.
	recent *Pod
}

func (i *podIndex) find(uid podUID) (*Pod, bool) {
	if i.recent != nil && i.recent.uid == uid {
		return i.recent, true
	}
	pod, ok := i.byUID[uid]
	if ok {
		i.recent = pod
	}
	return pod, ok
}

// hashOf is FNV-1a (RFC 9923) of namespace/name.
func hashOf(name Name) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	hash := uint64(offset)
	for i := range len(name.Namespace) {
		hash = (hash ^ uint64(name.Namespace[i])) * prime
	}
	hash = (hash ^ '/') * prime
	for i := range len(name.Name) {
		hash = (hash ^ uint64(name.Name[i])) * prime
	}
	return hash
}

func (i *podIndex) named(name Name) (*Pod, bool) {
	if pod, ok := i.byName[hashOf(name)]; ok && pod.Namespace() == name.Namespace && pod.Name() == name.Name {
		return pod, true
	}
	pod, ok := i.byOddName[name]
	return pod, ok
}

// free tells whether a new pod may have the name.
func (i *podIndex) free(name Name) bool {
	_, taken := i.byName[hashOf(name)]
	_, odd := i.byOddName[name]
	return !taken && !odd
}

func (i *podIndex) put(pod *Pod, name Name) {
	i.byUID[pod.uid], i.recent = pod, pod
	if hash := hashOf(name); i.byName[hash] == nil {
		i.byName[hash] = pod
	} else {
		i.byOddName[name] = pod
	}
}

func (i *podIndex) remove(pod *Pod) {
	delete(i.byUID, pod.uid)
	if i.recent == pod {
		i.recent = nil
	}
	name := Name{pod.Namespace(), pod.Name()}
	if hash := hashOf(name); i.byName[hash] == pod {
		delete(i.byName, hash)
	} else {
		delete(i.byOddName, name)
	}
}

// exitsOf translates what a fact tells of containers.
func exitsOf(results []*event.ContainerResult) []job.Exit {
	if len(results) == 0 {
		return nil
	}
	exits := make([]job.Exit, len(results))
	for i, result := range results {
		exits[i] = job.Exit{
			Container: result.GetName(), Code: result.GetExitCode(), Init: result.GetInit(), Restarts: result.GetRestarts(),
			Reason: result.GetReason(), Message: result.GetMessage(), State: exitStates[result.GetState()],
		}
	}
	return exits
}

func resultsOf(exits []job.Exit) []*event.ContainerResult {
	if len(exits) == 0 {
		return nil
	}
	results := make([]*event.ContainerResult, len(exits))
	for i, exit := range exits {
		results[i] = &event.ContainerResult{
			Name: exit.Container, ExitCode: exit.Code, Init: exit.Init, Restarts: exit.Restarts, Reason: exit.Reason, Message: exit.Message,
			State: resultStates[exit.State],
		}
	}
	return results
}

// saysMore tells whether an exit says more than that its pod has succeeded does: most do not, and of those nothing is kept.
func saysMore(exit job.Exit) bool {
	return exit.Code != 0 || exit.Restarts > 0 || exit.Message != "" || exit.Reason != "Completed"
}

// exitStates translate the log's words into those of package job, resultStates do the reverse.
var (
	exitStates = map[event.ContainerResult_State]job.ExitState{
		event.ContainerResult_ENDED: job.ExitEnded, event.ContainerResult_RUNNING: job.ExitRunning, event.ContainerResult_BACKING_OFF: job.ExitBackingOff,
	}
	resultStates = map[job.ExitState]event.ContainerResult_State{
		job.ExitEnded: event.ContainerResult_ENDED, job.ExitRunning: event.ContainerResult_RUNNING, job.ExitBackingOff: event.ContainerResult_BACKING_OFF,
	}
)

// isBackingOff tells whether a container waits to be started again.
func isBackingOff(exits []job.Exit) bool {
	return slices.ContainsFunc(exits, func(exit job.Exit) bool { return exit.State == job.ExitBackingOff })
}

// mustUID reads a pod's UID from a fact.
func (s *State) mustUID(text string) podUID {
	uid, ok := parseUID(text)
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names a pod %q, which is no UUID", s.Seq, text))
	}
	return uid
}
