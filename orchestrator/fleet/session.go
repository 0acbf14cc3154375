package fleet

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// helloTimeout is how long an agent may take to say Hello.
const helloTimeout = 20 * time.Second

// partingTime is how long a session goes on when its node has gone off the record: what the node has still sent is worth keeping.
const partingTime = 2 * time.Second

// What a session holds of messages received and to send. When a queue is full, its other end waits, and with it the agent.
const (
	inboxLength  = 64
	outboxLength = 64
)

// appendTries is how often a log chunk is offered to the archive before the session ends; the agent sends it again in the next one.
const appendTries = 4

// session is one stream of one agent. Three goroutines serve it: one receives, one handles what was received, in order, and the
// handler of the stream sends. What was received is handled even if the connection is lost meanwhile: the node may be gone for good.
type session struct {
	hub  *hub
	node string
	// ctx ends with the fleet, with the handler of the stream, or when another session takes the place.
	ctx    context.Context
	cancel context.CancelCauseFunc

	inbox  chan *wire.FromAgent
	outbox chan *wire.ToAgent
	// opened is closed when the node is on record as joined: pods may be sent.
	opened chan struct{}
	// worked is closed when nothing more will be handled; failure, set before, is why if the agent is to know.
	worked  chan struct{}
	failure error

	// told and rounds are the sender's: the attempts that the node was told of and shall hold still, by epoch, and how often it was told.
	// discarded is the handler's: pods whose output nobody wants.
	told      map[uint64]*toldPod
	rounds    int
	discarded map[string]bool
}

func newSession(h *hub, node string) *session {
	ctx, cancel := context.WithCancelCause(h.ctx)
	return &session{
		hub: h, node: node, ctx: ctx, cancel: cancel,
		inbox: make(chan *wire.FromAgent, inboxLength), outbox: make(chan *wire.ToAgent, outboxLength),
		opened: make(chan struct{}), worked: make(chan struct{}),
		told: make(map[uint64]*toldPod), discarded: make(map[string]bool),
	}
}

func (s *session) run(stream grpc.BidiStreamingServer[wire.FromAgent, wire.ToAgent]) error {
	s.hub.work.Go(func() { s.receive(stream) })
	s.hub.work.Go(s.handleAll)
	hello := time.NewTimer(helloTimeout)
	defer hello.Stop()
	watch, leave := s.hub.fleet.board.watch(s.node)
	defer leave()
	var changed <-chan struct{} // Nil until the node is on record as joined.
	opened, overdue := s.opened, hello.C
	var parted <-chan time.Time
	for {
		select {
		case <-s.ctx.Done():
			return endOf(s.ctx)
		case <-s.worked:
			return s.flush(stream)
		case <-overdue:
			return status.Error(codes.DeadlineExceeded, "no Hello came")
		case <-parted:
			return offRecord(s.node)
		case message := <-s.outbox:
			if err := stream.Send(message); err != nil {
				return s.drain()
			}
			continue
		case <-opened:
			opened, overdue, changed = nil, nil, watch.changed
		case <-changed:
		}
		effects, _, _ := s.hub.fleet.board.read()
		if desired := s.desired(effects.Assignments.Of(s.node)); desired != nil {
			if err := stream.Send(&wire.ToAgent{Body: &wire.ToAgent_Desired{Desired: desired}}); err != nil {
				return s.drain()
			}
		}
		if _, there := instanceOf(effects, s.node); !there && parted == nil {
			parted = time.After(partingTime)
		}
	}
}

// flush sends what is left to send after the last message was handled.
func (s *session) flush(stream grpc.BidiStreamingServer[wire.FromAgent, wire.ToAgent]) error {
	for {
		select {
		case message := <-s.outbox:
			if stream.Send(message) != nil {
				return s.failure
			}
		default:
			return s.failure
		}
	}
}

// drain lets the rest be handled when nothing can be sent any more.
func (s *session) drain() error {
	for {
		select {
		case <-s.outbox:
		case <-s.worked:
			return s.failure
		case <-s.ctx.Done():
			return endOf(s.ctx)
		}
	}
}

func endOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	if _, ok := status.FromError(cause); ok {
		return cause
	}
	return status.Error(codes.Unavailable, "the control plane is stopping")
}

// receive ends with the stream, which ends with its handler.
func (s *session) receive(stream grpc.BidiStreamingServer[wire.FromAgent, wire.ToAgent]) {
	defer close(s.inbox)
	for {
		message, err := stream.Recv()
		if err != nil {
			return
		}
		select {
		case s.inbox <- message:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) handleAll() {
	defer close(s.worked)
	greeted := false
	for {
		select {
		case <-s.ctx.Done():
			return
		case message, ok := <-s.inbox:
			if !ok {
				return
			}
			if err := s.handle(s.gather(message), greeted); err != nil {
				s.failure = err
				if s.ctx.Err() == nil {
					s.hub.fleet.log.Warn("a session was ended", "node", s.node, "error", err)
				}
				return
			}
			greeted = true
		}
	}
}

// maxGather bounds how many messages are handled together.
const maxGather = 128

// gather takes what has come in behind a message.
func (s *session) gather(first *wire.FromAgent) []*wire.FromAgent {
	messages := []*wire.FromAgent{first}
	for len(messages) < maxGather {
		select {
		case next, ok := <-s.inbox:
			if !ok {
				return messages // the next receive from the inbox tells
			}
			messages = append(messages, next)
		default:
			return messages
		}
	}
	return messages
}

// handle handles messages in their order, but for reports: they come last, and share a batch of the log. So what a pod has written is always kept
// before its end is on record.
func (s *session) handle(messages []*wire.FromAgent, greeted bool) error {
	var reports []*wire.PodReport
	for _, message := range messages {
		hello := message.GetHello()
		if greeted != (hello == nil) {
			return status.Error(codes.InvalidArgument, "a session begins with one Hello")
		}
		greeted = true
		var err error
		switch body := message.GetBody().(type) {
		case *wire.FromAgent_Hello:
			err = s.open(hello)
		case *wire.FromAgent_Reports:
			reports = append(reports, body.Reports.GetReports()...)
		case *wire.FromAgent_Log:
			err = s.keepLog(body.Log)
		default:
			err = status.Errorf(codes.Unimplemented, "a message of type %T", body)
		}
		if err != nil {
			return err
		}
	}
	return s.report(reports)
}

// open puts the node on record as joined, and takes what the agent knew from before.
func (s *session) open(hello *wire.Hello) error {
	effects, _, _ := s.hub.fleet.board.read()
	instance, ok := instanceOf(effects, s.node)
	if !ok {
		return offRecord(s.node)
	}
	if !instance.Joined {
		if err := s.submit(engine.JoinNode{Node: s.node}); err != nil {
			return err
		}
	}
	s.hub.fleet.log.Info("a session has begun", "node", s.node, "pods", len(hello.GetPods()))
	if err := s.report(hello.GetPods()); err != nil {
		return err
	}
	close(s.opened)
	return nil
}

func (s *session) submit(command engine.Command) error {
	return endsWith(s.hub.fleet.submit(s.ctx, command))
}

// endsWith returns the error with which the session ends, nil for a command that was obeyed or is too late.
func endsWith(err error) error {
	var rejection *engine.Rejection
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &rejection):
		return status.Error(codes.Unavailable, "the control plane is stopping")
	case rejection.Kind == engine.Stale:
		return nil
	}
	return status.Error(codes.PermissionDenied, rejection.Message)
}

func (s *session) send(message *wire.ToAgent) error {
	select {
	case s.outbox <- message:
		return nil
	case <-s.ctx.Done():
		return endOf(s.ctx)
	}
}

var phases = map[wire.PodReport_Phase]engine.ReportPhase{
	wire.PodReport_RUNNING:   engine.ReportRunning,
	wire.PodReport_SUCCEEDED: engine.ReportSucceeded,
	wire.PodReport_FAILED:    engine.ReportFailed,
}

// report puts reports on record and acknowledges them, in their order.
func (s *session) report(reports []*wire.PodReport) error {
	var commands []engine.Command
	for _, report := range reports {
		if node, elsewhere := s.assignedElsewhere(report.GetUid()); elsewhere {
			return status.Errorf(codes.PermissionDenied, "pod %s is on node %q", report.GetUid(), node)
		}
		phase, known := phases[report.GetPhase()]
		if warn := s.hub.fleet.config.Warn; warn != nil && phase == engine.ReportRunning && known && report.GetMessage() != "" {
			warn(report.GetUid(), s.node, report.GetMessage())
		}
		switch {
		case known:
			commands = append(commands, engine.ReportPod{
				Node: s.node, UID: report.GetUid(), Epoch: report.GetEpoch(), Phase: phase, Restarts: report.GetRestarts(),
				ExitCode: report.GetExitCode(), Containers: exitsOf(report.GetContainers()), Reason: report.GetReason(), Message: report.GetMessage(),
			})
		case report.GetPhase() != wire.PodReport_STARTING: // that a pod is being started says nothing new
			return status.Errorf(codes.InvalidArgument, "pod %s is in phase %s", report.GetUid(), report.GetPhase())
		}
	}
	for _, err := range s.hub.fleet.submitAll(s.ctx, commands) {
		if err := endsWith(err); err != nil {
			return err
		}
	}
	if len(reports) == 0 {
		return nil
	}
	for _, report := range reports {
		s.endSilentLogs(report)
	}
	acks := make([]*wire.ReportAck, len(reports))
	for i, report := range reports {
		acks[i] = &wire.ReportAck{
			Uid: report.GetUid(), Epoch: report.GetEpoch(), Phase: report.GetPhase(), Restarts: report.GetRestarts(), Revision: report.GetRevision(),
		}
	}
	return s.send(&wire.ToAgent{Body: &wire.ToAgent_ReportAcks{ReportAcks: &wire.ReportAcks{Acks: acks}}})
}

// assignedElsewhere names the other node that a pod is on.
func (s *session) assignedElsewhere(podUID string) (node string, elsewhere bool) {
	effects, _, _ := s.hub.fleet.board.read()
	if holds(effects.Assignments.Of(s.node), podUID) {
		return "", false
	}
	for other, assignments := range effects.Assignments.All() {
		if holds(assignments, podUID) {
			return other, true
		}
	}
	return "", false
}

func holds(assignments []engine.Assignment, podUID string) bool {
	for i := range assignments {
		if assignments[i].UID() == podUID {
			return true
		}
	}
	return false
}

// keepLog hands output to the archive and acknowledges it. What belongs to no pod any more is acknowledged too: the agent could
// only send it for ever.
func (s *session) keepLog(chunk *wire.LogChunk) error {
	uid := chunk.GetPodUid()
	owner, known, foreign := s.hub.ownerOf(s.node, uid)
	if !known && foreign == "" {
		foreign, _ = s.assignedElsewhere(uid)
	}
	switch {
	case foreign != "":
		return status.Errorf(codes.PermissionDenied, "pod %s is on node %q", uid, foreign)
	case !known && !s.discarded[uid]:
		s.discarded[uid] = true
		s.hub.fleet.log.Warn("output of a pod that is on no record is discarded", "node", s.node, "pod", uid)
	case known:
		if err := s.appendLog(owner, chunk); err != nil {
			return err
		}
	}
	return s.send(&wire.ToAgent{Body: &wire.ToAgent_LogAck{LogAck: &wire.LogAck{
		PodUid: chunk.GetPodUid(), Container: chunk.GetContainer(), Restart: chunk.GetRestart(),
		Offset: chunk.GetOffset() + int64(len(chunk.GetData())), End: chunk.GetEnd(),
	}}})
}

// endSilentLogs ends the logs of a pod that has ended, where nothing was written.
func (s *session) endSilentLogs(report *wire.PodReport) {
	if report.GetPhase() != wire.PodReport_SUCCEEDED && report.GetPhase() != wire.PodReport_FAILED {
		return
	}
	owner, known, _ := s.hub.ownerOf(s.node, report.GetUid())
	if !known {
		return
	}
	for _, container := range report.GetContainers() {
		s.hub.fleet.config.Logs.EndSilentLog(LogRun{
			Tenant: owner.tenant, JobUID: owner.jobUID, PodUID: report.GetUid(), Container: container.GetName(), Restart: container.GetRestarts(),
		})
	}
}

// appendLog waits for faults that pass. Until then the agent has it all.
func (s *session) appendLog(owner podOwner, chunk *wire.LogChunk) error {
	run := LogRun{
		Tenant: owner.tenant, JobUID: owner.jobUID, PodUID: chunk.GetPodUid(), Container: chunk.GetContainer(), Restart: chunk.GetRestart(),
	}
	for try := 1; ; try++ {
		err := s.hub.fleet.config.Logs.AppendLog(s.ctx, run, chunk.GetOffset(), chunk.GetData(), chunk.GetEnd())
		if err == nil {
			return nil
		}
		if try == appendTries || !wait(s.ctx, s.hub.fleet.config.Retry.delay(try)) {
			return status.Errorf(codes.Unavailable, "output of pod %s cannot be kept: %v", run.PodUID, err)
		}
	}
}
