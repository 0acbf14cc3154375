package fleet_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

func TestAJobGoesFromLaunchToRelease(t *testing.T) {
	w := newWorld(t, func(c *fleet.Config) {
		c.Images = func(pod *corev1.Pod) error {
			pod.Spec.Containers[0].Command = []string{"/bin/true"}
			return nil
		}
	})
	jobUID := w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	w.control.await(t, "the node joined", func(s *engine.State) bool { return !s.Nodes[node.node].Joined.IsZero() })

	wanted := c.pod()
	var pod corev1.Pod
	if err := pod.Unmarshal(wanted.GetPod()); err != nil {
		t.Fatal(err)
	}
	if pod.Spec.NodeName != node.node || string(pod.UID) != wanted.GetUid() || pod.Spec.Containers[0].Command[0] != "/bin/true" {
		t.Errorf("the pod is %+v", pod)
	}
	c.report(wanted.GetUid(), wanted.GetEpoch(), wire.PodReport_STARTING)
	if started := w.control.pod(wanted.GetUid()).Started; !started.IsZero() {
		t.Errorf("a pod that is being started counts as running since %s", started)
	}
	c.report(wanted.GetUid(), wanted.GetEpoch(), wire.PodReport_RUNNING)
	if w.control.pod(wanted.GetUid()).Started.IsZero() {
		t.Error("an acknowledged report is not on record")
	}
	c.log(wanted.GetUid(), 0, "hello\n")
	c.log(wanted.GetUid(), 6, "world\n")
	c.send(reports(&wire.PodReport{
		Uid: wanted.GetUid(), Epoch: wanted.GetEpoch(), Phase: wire.PodReport_SUCCEEDED, Containers: []*wire.ContainerStatus{{Name: "work"}, {Name: "quiet"}},
	}))
	c.acknowledged(wanted.GetUid(), wanted.GetEpoch(), wire.PodReport_SUCCEEDED)
	c.log(wanted.GetUid(), 12, "and more\n")
	run := fleet.LogRun{Tenant: "default", JobUID: jobUID, PodUID: wanted.GetUid(), Container: "work"}
	quiet := run
	if quiet.Container = "quiet"; !slices.Equal(w.logs.silent, []fleet.LogRun{run, quiet}) {
		t.Errorf("told to end if nothing was written: %v", w.logs.silent)
	}
	if got := w.logs.content(run); got != "hello\nworld\nand more\n" {
		t.Errorf("the log is %q", got)
	}
	receive(t, "an idle fleet", w.fleet.Idle())
	if !w.fleet.Empty() {
		t.Error("an idle fleet is not empty")
	}
	if cause := w.control.gone()[node.node]; cause != "released" {
		t.Errorf("the node went by %q", cause)
	}
	w.control.await(t, "the Job's end", func(s *engine.State) bool { return s.Jobs[jobUID].Ended() && s.Jobs[jobUID].Receipt != nil })
	c.refused(codes.PermissionDenied)
}

func TestARepeatedReportIsAcknowledgedAndOnRecordOnce(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	pod := c.pod()
	for range 3 {
		c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
	}
	// What an agent has no acknowledgement for it says again in its next session.
	c = node.session(&wire.PodReport{Uid: pod.GetUid(), Epoch: pod.GetEpoch(), Phase: wire.PodReport_SUCCEEDED})
	c.acknowledged(pod.GetUid(), pod.GetEpoch(), wire.PodReport_SUCCEEDED)
	c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_SUCCEEDED)
	if started, finished := w.control.count("pod_started"), w.control.count("pod_finished"); started != 1 || finished != 1 {
		t.Errorf("%d starts and %d ends are on record, want one of each", started, finished)
	}
}

func TestAReportOfAnotherEpochChangesNothingAndIsAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	c := w.boot()[0].session()
	pod := c.pod()
	for _, epoch := range []uint64{pod.GetEpoch() - 1, pod.GetEpoch() + 1} {
		c.report(pod.GetUid(), epoch, wire.PodReport_SUCCEEDED)
	}
	if got := w.control.pod(pod.GetUid()); got.Outcome != job.Live || !got.Started.IsZero() {
		t.Errorf("the pod is %+v", got)
	}
}

func TestAnInterruptedNodeStopsItsPodsWhichGoElsewhere(t *testing.T) {
	w := newWorld(t)
	jobUID := w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	pod := c.pod()
	c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
	if err := w.cloud.Interrupt(t.Context(), node.instanceID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	stop := c.desired("a pod to stop", func(pods []*wire.DesiredPod) bool { return len(pods) == 1 && pods[0].GetStop() != nil })[0].GetStop()
	if grace := stop.GetGraceSeconds(); grace < 8 || grace > 10 {
		t.Errorf("the pod has %d s to end, want what the notice leaves", grace)
	}
	c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_FAILED)
	if got := w.control.pod(pod.GetUid()); got.Outcome != job.Evicted {
		t.Errorf("the pod's outcome is %v", got.Outcome)
	}
	second := w.boot()[0]
	again := second.session().pod()
	if second.node == node.node || again.GetUid() == pod.GetUid() {
		t.Errorf("pod %s on %s after pod %s on %s", again.GetUid(), second.node, pod.GetUid(), node.node)
	}
	w.control.await(t, "the first node gone", func(s *engine.State) bool { return s.Nodes[node.node] == nil })
	w.control.await(t, "no failure", func(s *engine.State) bool { return s.Jobs[jobUID].Progress.Failed == 0 })
}

func TestANodeIsNotHeardAboutAnotherNodesPods(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "two", 2)
	agents := w.boot()
	mine, other := agents[0], agents[1]
	otherSession := other.session()
	pod := otherSession.pod()
	for what, message := range map[string]*wire.FromAgent{
		"report": reports(&wire.PodReport{Uid: pod.GetUid(), Epoch: pod.GetEpoch(), Phase: wire.PodReport_SUCCEEDED}),
		"output": logOf(pod.GetUid(), 0, "not mine"),
	} {
		t.Run(what, func(t *testing.T) {
			c := mine.session()
			c.send(message)
			c.refused(codes.PermissionDenied)
		})
	}
	if got := w.control.pod(pod.GetUid()); got.Outcome != job.Live || !got.Started.IsZero() {
		t.Errorf("the pod is %+v", got)
	}
	if len(w.logs.kept) != 0 {
		t.Errorf("kept: %v", w.logs.kept)
	}
	otherSession.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
}

func TestANewSessionTakesThePlaceOfTheOld(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	old := node.session()
	pod := old.pod()
	next := node.session()
	old.refused(codes.Aborted)
	if again := next.pod(); again.GetEpoch() != pod.GetEpoch() {
		t.Errorf("epoch %d in the first session, %d in the second", pod.GetEpoch(), again.GetEpoch())
	}
	next.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
	if joins := w.control.count("node_joined"); joins != 1 {
		t.Errorf("the node joined %d times", joins)
	}
}

func TestANodeWhoseOutputIsStuckHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "two", 2)
	agents := w.boot()
	stuck, well := agents[0].session(), agents[1].session()
	stuckPod, wellPod := stuck.pod(), well.pod()
	w.logs.mu.Lock()
	w.logs.hold = func(ctx context.Context, run fleet.LogRun) error {
		if run.PodUID != stuckPod.GetUid() {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	w.logs.mu.Unlock()
	for i := range int64(200) {
		stuck.send(logOf(stuckPod.GetUid(), i, "x"))
	}
	well.report(wellPod.GetUid(), wellPod.GetEpoch(), wire.PodReport_RUNNING)
	well.log(wellPod.GetUid(), 0, "fine")
	well.report(wellPod.GetUid(), wellPod.GetEpoch(), wire.PodReport_SUCCEEDED)
	// A new session of the stuck node is not held up either.
	agents[0].session(&wire.PodReport{Uid: stuckPod.GetUid(), Epoch: stuckPod.GetEpoch(), Phase: wire.PodReport_SUCCEEDED}).
		acknowledged(stuckPod.GetUid(), stuckPod.GetEpoch(), wire.PodReport_SUCCEEDED)
}

func TestOutputIsAcknowledgedOnlyWhenItIsKept(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	pod := c.pod()
	w.logs.mu.Lock()
	w.logs.hold = func(context.Context, fleet.LogRun) error { return errors.New("the disk is full") }
	w.logs.mu.Unlock()
	c.send(logOf(pod.GetUid(), 0, "precious"))
	c.refused(codes.Unavailable)
	failures := 0
	w.logs.mu.Lock()
	w.logs.hold = func(context.Context, fleet.LogRun) error {
		if failures++; failures < 3 {
			return errors.New("the disk is slow")
		}
		return nil
	}
	w.logs.mu.Unlock()
	node.session().log(pod.GetUid(), 0, "precious")
	if failures != 3 {
		t.Errorf("%d appends, want 3", failures)
	}
}

func TestWhatANodeSendsWhenItIsGoneIsKeptForAWhile(t *testing.T) {
	w := newWorld(t)
	jobUID := w.control.createJob(t, "two", 2)
	agents := w.boot()
	parting, other := agents[0].session(), agents[1].session()
	pod := parting.pod()
	other.pod()
	w.cloud.set(func(c *cloud) { c.end(agents[0].instanceID, "reclaimed") })
	parting.desired("no pod", func(pods []*wire.DesiredPod) bool { return len(pods) == 0 })
	agents[1].session().pod()
	other.refused(codes.Aborted)
	parting.log(pod.GetUid(), 0, "last words")
	run := fleet.LogRun{Tenant: "default", JobUID: jobUID, PodUID: pod.GetUid(), Container: "work"}
	if got := w.logs.content(run); got != "last words" {
		t.Errorf("the log is %q", got)
	}
	parting.refused(codes.PermissionDenied)
}

// ended knows one pod that ended before the fleet started.
type ended struct{ uid, node string }

func (e ended) PodOwner(uid string) (node, tenant, jobUID string, ok bool) {
	return e.node, "default", "its-job", uid == e.uid
}

func TestTheLastOutputOfAPodThatEndedBeforeTheRestartIsKept(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	pod := node.session().pod()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.start(func(c *fleet.Config) {
		node.bootstrap.Address = c.Listener.Addr().String()
		c.Pods = ended{uid: "ended-pod", node: node.node}
	})
	c := node.session()
	if again := c.pod(); again.GetUid() != pod.GetUid() || again.GetEpoch() != pod.GetEpoch() {
		t.Errorf("after the restart the node is to hold %v, before it %v", again, pod)
	}
	c.log("ended-pod", 0, "last words")
	run := fleet.LogRun{Tenant: "default", JobUID: "its-job", PodUID: "ended-pod", Container: "work"}
	if got := w.logs.content(run); got != "last words" {
		t.Errorf("the log is %q", got)
	}
	// Output that belongs to nothing any more must not keep the agent busy for ever.
	c.log("pod-of-a-deleted-job", 0, "nobody reads this")
	if len(w.logs.kept) != 1 {
		t.Errorf("kept: %v", w.logs.kept)
	}
}

func TestAPodThatNoNodeCanRunFails(t *testing.T) {
	w := newWorld(t, func(c *fleet.Config) {
		c.Images = func(*corev1.Pod) error { return errors.New(`no executable is given for image "worker:v1"`) }
	})
	jobUID := w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	w.control.await(t, "a failed pod", func(s *engine.State) bool { return s.Jobs[jobUID].Progress.Failed == 1 })
	c.desired("no pod", func(pods []*wire.DesiredPod) bool { return len(pods) == 0 })
}
