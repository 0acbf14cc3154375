package agent

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/protobuf/proto"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// defaultGrace is Kubernetes' default of terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// Runtime runs pods; it is declared here because the agent is who needs it.
type Runtime interface {
	// Start runs an attempt until it ends. It does not block, and calls the observer from another goroutine.
	Start(attempt.Attempt, attempt.Observer) attempt.Running
}

// node is what the agent holds: the pods that it was told to run, what of them is still to be reported, and their output. It is
// level-triggered: reconcile compares what is desired with what is held, whatever happened in between. It outlives sessions.
type node struct {
	runtime Runtime
	log     *slog.Logger
	// logLimit bounds the unacknowledged output of one pod, bytes.
	logLimit int

	mu sync.Mutex
	// changed tells that there may be something to send, or that a pod has ended.
	changed signal
	// desired by UID; nil until the control plane has spoken.
	desired map[string]*wire.DesiredPod
	held    map[string]*held
	// streams that are not acknowledged to their end, in the order of their beginning; next turns sends evenly from them.
	streams []*stream
	turn    int
	// draining: the node is going away, nothing is started any more.
	draining bool
}

// held is a pod on the node.
type held struct {
	node  *node
	uid   string
	epoch uint64
	// grace is how long it gets when the whole node ends.
	grace time.Duration
	// running is nil for a pod that never started.
	running attempt.Running
	// ended: its last report is in reports, or acknowledged, and nothing of it runs.
	ended bool
	// last report of all.
	last *wire.PodReport
	// reports that are not acknowledged, in order. One that is not sent gives way to a later one that says it too.
	reports []*wire.PodReport
	// sent is how many of the reports this session has sent.
	sent int
	// endTold: some session has sent the last report of an ended pod.
	endTold bool

	// unacked is the pod's output that is held, bytes.
	unacked int
	space   *sync.Cond
	// unlimited: the pod is being killed; its last words need no back-pressure, a full buffer must not keep it from ending.
	unlimited bool
	// void: a newer attempt of the pod took its place; nobody wants its output.
	void bool
}

func newNode(runtime Runtime, log *slog.Logger, logLimit int) *node {
	return &node{runtime: runtime, log: log, logLimit: logLimit, changed: newSignal(), held: map[string]*held{}}
}

// setDesired takes the list of pods that the node shall hold, or what changes in it.
func (n *node) setDesired(d *wire.Desired) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.desired
	if !d.GetChanges() || before == nil {
		n.desired = make(map[string]*wire.DesiredPod, len(d.GetPods()))
	}
	for _, uid := range d.GetGone() {
		delete(n.desired, uid)
	}
	for _, p := range d.GetPods() {
		if known := before[p.GetUid()]; len(p.GetPod()) == 0 && known.GetEpoch() == p.GetEpoch() {
			p.Pod = known.GetPod()
		}
		n.desired[p.GetUid()] = p
	}
	n.reconcile()
}

// reconcile moves what is held towards what is desired; mu is held. Everything that it starts or stops ends in another call.
func (n *node) reconcile() {
	for uid, h := range n.held {
		want, wanted := n.desired[uid]
		switch {
		case wanted && want.GetEpoch() < h.epoch:
			// Told by a control plane that is behind: it may neither stop nor replace the newer attempt.
			n.log.Warn("ignoring an older attempt of a pod", "pod", uid, "epoch", want.GetEpoch(), "held", h.epoch)
		case wanted && want.GetEpoch() == h.epoch:
			if stop := want.GetStop(); stop != nil && !h.ended {
				h.running.Stop(time.Duration(stop.GetGraceSeconds())*time.Second, stop.GetReason())
			}
		case h.ended:
			delete(n.held, uid)
			if wanted {
				n.discardOutput(h)
			}
			n.changed.tell()
		case !h.unlimited:
			n.log.Info("killing a pod that is not wanted any more", "pod", uid, "epoch", h.epoch)
			h.unlimited = true
			h.space.Broadcast()
			h.running.Stop(0, "not wanted on this node any more")
		}
	}
	if n.draining {
		return
	}
	for uid, want := range n.desired {
		if n.held[uid] == nil {
			n.start(want)
		}
	}
}

// start takes a pod onto the node; mu is held.
func (n *node) start(want *wire.DesiredPod) {
	h := &held{node: n, uid: want.GetUid(), epoch: want.GetEpoch(), grace: defaultGrace, space: newSpace(n)}
	n.held[h.uid] = h
	var pod corev1.Pod
	err := pod.Unmarshal(want.GetPod())
	switch {
	case want.GetStop() != nil:
		// It was to end before it came here, or it ran on this node and was lost with an agent before this one.
		h.neverStarted(128+15, attempt.ReasonError, "stopped before it was started: "+want.GetStop().GetReason())
		return
	case err != nil:
		h.neverStarted(attempt.ExitCodeStartError, attempt.ReasonStartError, "the pod cannot be read: "+err.Error())
		return
	}
	if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
		h.grace = time.Duration(*seconds) * time.Second
	}
	n.log.Debug("starting a pod", "pod", h.uid, "name", pod.Name, "epoch", h.epoch)
	h.running = n.runtime.Start(attempt.Attempt{UID: h.uid, Epoch: h.epoch, Pod: &pod}, h)
	go func() {
		<-h.running.Done()
		n.mu.Lock()
		defer n.mu.Unlock()
		h.ended = true
		n.log.Info("a pod has ended", "pod", h.uid, "name", pod.Name, "epoch", h.epoch, "phase", h.last.GetPhase(), "exitCode", h.last.GetExitCode())
		n.reconcile()
		n.changed.tell()
	}()
}

func (h *held) neverStarted(exitCode int32, reason, message string) {
	h.ended = true
	h.add(&wire.PodReport{
		Uid: h.uid, Epoch: h.epoch, Phase: wire.PodReport_FAILED, ExitCode: exitCode, Reason: reason, Message: message,
	})
}

// Observe implements attempt.Observer.
func (h *held) Observe(s attempt.Status) {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	h.add(&wire.PodReport{
		Uid: h.uid, Epoch: h.epoch, Phase: s.Phase,
		Restarts: s.Restarts, ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message, Containers: s.Containers,
	})
}

// add queues a report; mu is held.
func (h *held) add(r *wire.PodReport) {
	r.Revision = h.last.GetRevision() + 1
	if h.last != nil && (r.Phase < h.last.Phase || r.Restarts < h.last.Restarts || isEnd(h.last)) {
		h.node.log.Error("the runtime went back in a pod's life; not reported", "pod", h.uid, "from", h.last, "to", r)
		return
	}
	if newest := len(h.reports) - 1; newest >= h.sent && newest >= 0 && isSaidBy(h.reports[newest], r) {
		h.reports[newest] = r
	} else {
		h.reports = append(h.reports, r)
	}
	h.last = r
	h.node.changed.tell()
}

// isSaidBy tells whether the later report says all of the earlier one that matters: it is of the same phase, or a success without restarts, which
// began.
func isSaidBy(earlier, later *wire.PodReport) bool {
	simple := later.GetPhase() == wire.PodReport_SUCCEEDED && later.GetRestarts() == 0
	return earlier.GetPhase() == later.GetPhase() || simple && earlier.GetPhase() == wire.PodReport_RUNNING
}

func isEnd(r *wire.PodReport) bool {
	return r.GetPhase() == wire.PodReport_SUCCEEDED || r.GetPhase() == wire.PodReport_FAILED
}

// Output implements attempt.Observer.
func (h *held) Output(container string, restart int32) attempt.Output {
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &stream{node: n, pod: h, key: streamKey{uid: h.uid, container: container, restart: restart}}
	n.streams = append(n.streams, s)
	return s
}

// discardOutput forgets the output of an attempt that another replaces: the protocol tells them apart by epoch, and a log chunk
// has none. mu is held.
func (n *node) discardOutput(h *held) {
	h.void = true
	n.streams = slices.DeleteFunc(n.streams, func(s *stream) bool { return s.pod == h })
	if h.unacked > 0 {
		n.log.Warn("discarding the output of a replaced attempt", "pod", h.uid, "epoch", h.epoch, "bytes", h.unacked)
	}
}

// acknowledgeReports takes the control plane's word that reports are on record, and with each those before.
func (n *node) acknowledgeReports(acks []*wire.ReportAck) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range acks {
		n.acknowledgeReport(a)
	}
	n.changed.tell()
}

// acknowledgeReport takes one; mu is held.
func (n *node) acknowledgeReport(a *wire.ReportAck) {
	h := n.held[a.GetUid()]
	if h == nil || h.epoch != a.GetEpoch() {
		return // Forgotten or replaced meanwhile.
	}
	covered := 0
	for _, r := range h.reports {
		if isCovered(r, a) {
			covered++
		}
	}
	h.reports = slices.Delete(h.reports, 0, covered)
	h.sent = max(h.sent-covered, 0)
}

// isCovered says that an acknowledgement is of this report or a later one.
func isCovered(r *wire.PodReport, a *wire.ReportAck) bool {
	if a.GetRevision() > 0 {
		return r.GetRevision() <= a.GetRevision()
	}
	return r.GetPhase() < a.GetPhase() || r.GetPhase() == a.GetPhase() && r.GetRestarts() <= a.GetRestarts()
}

// acknowledgeLog takes the control plane's word that output is kept.
func (n *node) acknowledgeLog(a *wire.LogAck) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := streamKey{uid: a.GetPodUid(), container: a.GetContainer(), restart: a.GetRestart()}
	i := slices.IndexFunc(n.streams, func(s *stream) bool { return s.key == key })
	if i < 0 {
		return
	}
	if n.streams[i].acknowledge(a.GetOffset(), a.GetEnd()) {
		n.streams = slices.Delete(n.streams, i, i+1)
	}
	n.changed.tell()
}

// beginSession marks everything as not sent and returns the first message. Only after the session before has ended.
func (n *node) beginSession() *wire.FromAgent {
	n.mu.Lock()
	defer n.mu.Unlock()
	hello := &wire.Hello{}
	for _, h := range n.held {
		h.sent = 0
		switch {
		case h.last == nil || isEnd(h.last) && len(h.reports) == 0:
		case isEnd(h.last) && !h.endTold && len(h.reports) > 1:
			// The end follows the output, as ever; the state before it is known to be true.
			hello.Pods = append(hello.Pods, proto.CloneOf(h.reports[len(h.reports)-2]))
		case isEnd(h.last) && !h.endTold && h.running != nil:
			hello.Pods = append(hello.Pods, &wire.PodReport{
				Uid: h.uid, Epoch: h.epoch, Phase: wire.PodReport_RUNNING, Restarts: h.last.Restarts, Revision: h.last.Revision - 1,
			})
		default:
			hello.Pods = append(hello.Pods, proto.CloneOf(h.last))
		}
	}
	for _, s := range n.streams {
		s.sent, s.endSent = s.base, false
	}
	return &wire.FromAgent{Body: &wire.FromAgent_Hello{Hello: hello}}
}

// next takes the next message to send, nil when there is none before changed tells. Reports go before output, but the end of
// a pod goes after all of its output: whoever hears of the end may take the node away.
func (n *node) next() (message *wire.FromAgent, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if reports := n.reportsToSend(); len(reports) > 0 {
		return &wire.FromAgent{Body: &wire.FromAgent_Reports{Reports: &wire.Reports{Reports: reports}}}, nil
	}
	for range n.streams {
		n.turn++
		if s := n.streams[n.turn%len(n.streams)]; s.unsent() {
			return &wire.FromAgent{Body: &wire.FromAgent_Log{Log: s.next()}}, nil
		}
	}
	return nil, n.changed.wait()
}

// maxReports bounds how many reports share a message.
const maxReports = 256

// reportsToSend takes reports that may be sent now; mu is held.
func (n *node) reportsToSend() (reports []*wire.PodReport) {
	for _, h := range n.held {
		for h.sent < len(h.reports) && len(reports) < maxReports {
			r := h.reports[h.sent]
			if isEnd(r) {
				if slices.ContainsFunc(n.streams, func(s *stream) bool { return s.pod == h && s.unsent() }) {
					break
				}
				h.endTold = true
			}
			h.sent++
			reports = append(reports, proto.CloneOf(r))
		}
	}
	return reports
}

// drain stops every pod with its own grace and starts none any more. It returns the longest grace.
func (n *node) drain(reason string) (longest time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining = true
	for _, h := range n.held {
		if !h.ended {
			h.running.Stop(h.grace, reason)
			longest = max(longest, h.grace)
		}
	}
	return longest
}

// size is how many pods are held.
func (n *node) size() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.held)
}

// settled says whether no pod runs any more, and whether nothing waits for an acknowledgement either.
func (n *node) settled() (stopped, flushed bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	stopped, flushed = true, len(n.streams) == 0
	for _, h := range n.held {
		stopped = stopped && h.ended
		flushed = flushed && len(h.reports) == 0
	}
	return stopped, stopped && flushed, n.changed.wait()
}
