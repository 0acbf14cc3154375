package process_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

const (
	never     = corev1.RestartPolicyNever
	onFailure = corev1.RestartPolicyOnFailure
)

type containers = []corev1.Container

func TestInitContainersRunInOrderAndThenAllAppContainersAtOnce(t *testing.T) {
	// Each fails if what should have been before was not, or what should come later has been.
	pod := podOf(never,
		containers{
			run("first", `[ ! -e second ] && [ ! -e a ] && : > first`),
			run("second", `[ -e first ] && [ ! -e a ] && echo from second && : > second`),
		},
		containers{
			run("a", `[ -e second ] && : > a; `+until("b")+`echo from a`),
			run("b", `[ -e second ] && : > b; `+until("a")+`echo from b`),
		})
	end, r := runToEnd(t, pod)
	if end.Phase != wire.PodReport_SUCCEEDED || states(end) != "first Completed(0), second Completed(0), a Completed(0), b Completed(0)" {
		t.Errorf("end %v %s", end, states(end))
	}
	if r.runs["second/0"] != "from second\n" || r.runs["a/0"] != "from a\n" || r.runs["b/0"] != "from b\n" {
		t.Errorf("outputs %q", r.runs)
	}
	if first := r.statuses[0]; first.Phase != wire.PodReport_STARTING || states(first) != "first PodInitializing, second PodInitializing, a PodInitializing, b PodInitializing" {
		t.Errorf("first status %v %s", first.Phase, states(first))
	}
	if second := r.statuses[1]; second.Phase != wire.PodReport_RUNNING || states(second) != "first running, second PodInitializing, a PodInitializing, b PodInitializing" {
		t.Errorf("second status %v %s", second.Phase, states(second))
	}
	for _, c := range end.Containers {
		if done := c.GetTerminated(); done.GetStartedUnixNano() == 0 || done.GetFinishedUnixNano() < done.GetStartedUnixNano() {
			t.Errorf("container %s ran from %d to %d", c.GetName(), done.GetStartedUnixNano(), done.GetFinishedUnixNano())
		}
		if init := c.GetName() == "first" || c.GetName() == "second"; c.GetInit() != init {
			t.Errorf("container %s is an init container: %v", c.GetName(), c.GetInit())
		}
	}
}

func TestEachContainerHasAProcessGroupOfItsOwn(t *testing.T) {
	leads := `me=$$$$; set -- $(cat /proc/$me/stat); [ $5 = $me ]`
	end, _ := runToEnd(t, podOf(never, containers{run("i", leads), beside(run("s", leads+" && exec sleep 1000"))}, containers{run("a", leads), run("b", leads)}))
	if end.Phase != wire.PodReport_SUCCEEDED || end.Restarts != 0 {
		t.Errorf("end %v %s", end, states(end))
	}
}

func TestAFailedInitContainerFailsThePodUnlessItIsRestarted(t *testing.T) {
	t.Run("under Never the pod fails and its sidecar is stopped", func(t *testing.T) {
		end, r := runToEnd(t, podOf(never,
			containers{beside(run("proxy", `trap 'echo bye; exit 0' TERM; : > up; while :; do sleep 0.02; done`)), run("setup", until("up")+"exit 6"), run("later", "true")},
			containers{run("main", "echo must not run")}))
		want := attempt.Status{Phase: wire.PodReport_FAILED, ExitCode: 6, Reason: "Error", Message: `init container "setup" exited with code 6`}
		if !same(end, want) || states(end) != "proxy Completed(0), setup Error(6), later PodInitializing, main PodInitializing" {
			t.Errorf("end %v %s", end, states(end))
		}
		if !strings.HasSuffix(r.runs["proxy/0"], "bye\n") {
			t.Errorf("the sidecar was not stopped gracefully: %q", r.runs)
		}
	})
	t.Run("under OnFailure it runs again until it succeeds, the one before it does not", func(t *testing.T) {
		end, r := runToEnd(t, podOf(onFailure,
			containers{run("once", `[ ! -e once ] && : > once`), run("flaky", `echo run >> runs; [ $(wc -l < runs) -ge 3 ] || exit 7`)},
			containers{run("main", "true")}))
		if !same(end, attempt.Status{Phase: wire.PodReport_SUCCEEDED, Reason: "Completed", Restarts: 2}) ||
			states(end) != "once Completed(0), flaky Completed(0) x2, main Completed(0)" {
			t.Errorf("end %v %s", end, states(end))
		}
		if last := container(t, end, "flaky").GetLast(); last.GetExitCode() != 7 || last.GetReason() != "Error" {
			t.Errorf("the run before the last: %v", last)
		}
		// What counts against the Job's backoffLimit is told while it initializes.
		if !slices.ContainsFunc(r.statuses, func(s attempt.Status) bool {
			return s.Phase == wire.PodReport_RUNNING && s.Restarts == 2 && s.ExitCode == 7
		}) {
			t.Errorf("statuses %v", r.statuses)
		}
	})
}

func TestSidecarsStartInTheirTurnAndStopAfterTheAppContainersTheLastFirst(t *testing.T) {
	side := func(name, needs string) corev1.Container {
		// It notes its end, and fails if anything that it serves still runs.
		return beside(run(name, needs+` && : > `+name+`; trap 'echo `+name+` >> ends; exit 9' TERM; while :; do sleep 0.02; done`))
	}
	pod := podOf(never,
		containers{side("outer", "[ ! -e inner ]"), run("between", until("outer")+"[ ! -e inner ]"), side("inner", "[ -e outer ]")},
		containers{
			run("main", until("inner")+`trap 'echo "asked to stop" >> ends' TERM; sleep 0.1; echo main >> ends`),
			run("check", until("ends")+"cat ends"),
		})
	dir := t.TempDir()
	end, r := runIn(t, dir, pod)
	if end.Phase != wire.PodReport_SUCCEEDED || end.ExitCode != 0 {
		t.Errorf("the exit of sidecars counts: %v", end)
	}
	if states(end) != "outer Error(9), between Completed(0), inner Error(9), main Completed(0), check Completed(0)" {
		t.Errorf("states %s", states(end))
	}
	if got := read(t, dir, "ends"); got != "main\ninner\nouter\n" {
		t.Errorf("the containers ended in the order %q", got)
	}
	if r.runs["check/0"] != "main\n" {
		t.Errorf("a sidecar ended before the last app container: %q", r.runs["check/0"])
	}
}

func TestASidecarIsRestartedWhateverThePodsPolicyAndHoweverItEnded(t *testing.T) {
	end, _ := runToEnd(t, podOf(never,
		containers{beside(run("s", `echo run >> runs; case $(wc -l < runs) in 1) exit 0;; 2) exit 3;; esac; : > third; exec sleep 1000`))},
		containers{run("main", until("third"))}))
	if end.Phase != wire.PodReport_SUCCEEDED || end.Restarts != 2 || states(end) != "s Error(143) x2, main Completed(0)" {
		t.Errorf("end %v %s", end, states(end))
	}
	if s := container(t, end, "s").GetTerminated(); s.GetSignal() != 15 {
		t.Errorf("the sidecar was ended by signal %d, want SIGTERM", s.GetSignal())
	}
}

func TestAFailedContainerFailsThePodWhenTheOthersHaveEnded(t *testing.T) {
	end, r := runToEnd(t, podOf(never, nil, containers{
		run("good", until("worse")+"echo went on"),
		run("bad", "echo $$$$ > pid; mv pid bad; exit 3"),
		// It fails when the other is gone for good.
		run("worse", until("bad")+": > worse; pid=$(cat bad); while kill -0 $pid; do sleep 0.01; done 2> /dev/null; kill -9 $$$$"),
	}))
	want := attempt.Status{
		Phase: wire.PodReport_FAILED, ExitCode: 3, Reason: "Error", Message: `container "bad" exited with code 3; container "worse" was ended by SIGKILL`,
	}
	if !same(end, want) || states(end) != "good Completed(0), bad Error(3), worse Error(137)" {
		t.Errorf("end %v %s", end, states(end))
	}
	if r.runs["good/0"] != "went on\n" {
		t.Errorf("outputs %q", r.runs)
	}
}

func TestOnFailureRestartsTheFailedContainerAlone(t *testing.T) {
	end, r := runToEnd(t, podOf(onFailure, nil, containers{
		run("steady", until("third")+"echo steady"),
		run("flaky", `echo run >> runs; n=$(wc -l < runs); echo run $n; [ $n -ge 3 ] || exit 4; : > third`),
	}))
	if end.Phase != wire.PodReport_SUCCEEDED || end.Restarts != 2 || states(end) != "steady Completed(0), flaky Completed(0) x2" {
		t.Errorf("end %v %s", end, states(end))
	}
	for key, want := range map[string]string{"steady/0": "steady\n", "flaky/0": "run 1\n", "flaky/1": "run 2\n", "flaky/2": "run 3\n"} {
		if r.runs[key] != want {
			t.Errorf("output of %s: %q, want %q", key, r.runs[key], want)
		}
	}
}

func TestAContainerThatWaitsForItsRestartIsToldAsTheKubeletDoes(t *testing.T) {
	r := newRecord()
	pod := podOf(onFailure, nil, containers{run("main", "exit 4"), run("other", "exec sleep 1000")})
	running := newRuntime(t, func(c *process.Config) { c.Backoff = process.KubeletBackoff() }).Start(attempt.Attempt{UID: "u", Pod: pod}, r)
	var waiting attempt.Status
	r.wait(t, "the wait for the second restart", func() bool {
		if len(r.statuses) > 0 {
			waiting = r.statuses[len(r.statuses)-1]
		}
		return states(waiting) == "main CrashLoopBackOff x1, other running"
	})
	main := container(t, waiting, "main")
	if got := main.GetWaiting().GetMessage(); got != "back-off 10s restarting failed container=main pod=crunch-0_night(uid-1)" {
		t.Errorf("message %q", got)
	}
	if main.GetLast().GetExitCode() != 4 || waiting.ExitCode != 4 || waiting.Phase != wire.PodReport_RUNNING {
		t.Errorf("status %v", waiting)
	}
	running.Stop(time.Minute, "suspended")
	done(t, running)
	end := r.statuses[len(r.statuses)-1]
	if states(end) != "main Error(4) x1, other Error(143)" || end.ExitCode != 4 {
		t.Errorf("end %v %s", end, states(end))
	}
}

func TestAStopReachesAllContainersAtOnceAndSidecarsAfterThem(t *testing.T) {
	// Each app container ends only when the other has been told too; the sidecar only notes that it was told.
	app := func(name, other string) corev1.Container {
		return run(name, `trap ': > `+name+`.told; `+until(other+".told")+`echo `+name+` >> ends; exit 0' TERM; : > `+name+`; while :; do sleep 0.02; done`)
	}
	pod := podOf(never, containers{beside(run("s", `trap 'echo s >> ends; exit 0' TERM; while :; do sleep 0.02; done`))}, containers{app("a", "b"), app("b", "a")})
	dir := t.TempDir()
	running, r := startIn(t, dir, pod)
	waitFor(t, dir, "a", "b")
	running.Stop(time.Minute, "eviction")
	done(t, running)
	if got := read(t, dir, "ends"); got != "a\nb\ns\n" && got != "b\na\ns\n" {
		t.Errorf("ends %q", got)
	}
	if end := r.statuses[len(r.statuses)-1]; end.Phase != wire.PodReport_SUCCEEDED {
		t.Errorf("end %v %s", end, states(end))
	}
}

func TestAfterTheGraceAllIsKilledAndASidecarStillGetsItsOwnTime(t *testing.T) {
	pod := podOf(never,
		containers{beside(run("polite", `trap 'echo polite left >> ends; exit 0' TERM; while :; do sleep 0.02; done`)), beside(run("deaf", `trap "" TERM; while :; do sleep 0.02; done`))},
		containers{run("a", `trap "" TERM; : > a; while :; do sleep 0.02; done`), run("b", `trap "" TERM; : > b; while :; do sleep 0.02; done`)})
	dir := t.TempDir()
	running, r := startIn(t, dir, pod)
	waitFor(t, dir, "a", "b")
	began := time.Now()
	running.Stop(100*time.Millisecond, "eviction")
	done(t, running)
	end := r.statuses[len(r.statuses)-1]
	if end.Phase != wire.PodReport_FAILED || states(end) != "polite Completed(0), deaf Error(137), a Error(137), b Error(137)" {
		t.Errorf("end %v %s", end, states(end))
	}
	if read(t, dir, "ends") != "polite left\n" {
		t.Error("the sidecar was not told")
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("the sidecar was killed after %v", took)
	}
}

func TestAStopWithoutGraceKillsAllAtOnce(t *testing.T) {
	deaf := func(name string) corev1.Container {
		return run(name, `trap "echo told" TERM; : > `+name+`; while :; do sleep 0.02; done`)
	}
	dir := t.TempDir()
	running, r := startIn(t, dir, podOf(never, containers{beside(deaf("s"))}, containers{deaf("a"), deaf("b")}))
	waitFor(t, dir, "s", "a", "b")
	running.Stop(0, "not wanted")
	done(t, running)
	if end := r.statuses[len(r.statuses)-1]; states(end) != "s Error(137), a Error(137), b Error(137)" || strings.Contains(r.log(), "told") {
		t.Errorf("end %v %s, log %q", end, states(end), r.log())
	}
}

func TestAStopWhileAnInitContainerRunsEndsThePodWithoutItsAppContainers(t *testing.T) {
	dir := t.TempDir()
	running, r := startIn(t, dir, podOf(never, containers{run("i", `trap 'exit 0' TERM; : > up; while :; do sleep 0.02; done`)}, containers{run("main", "echo must not run")}))
	waitFor(t, dir, "up")
	running.Stop(time.Minute, "eviction")
	done(t, running)
	end := r.statuses[len(r.statuses)-1]
	if end.Phase != wire.PodReport_FAILED || end.ExitCode != 143 || !strings.Contains(end.Message, "eviction") || states(end) != "i Completed(0), main PodInitializing" {
		t.Errorf("end %v %s", end, states(end))
	}
}
