package main_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// waiter is a Job whose pod says that it is ready and waits for a file, or for SIGTERM, of which it speaks.
func waiter(name, file string) string {
	return job(name, fmt.Sprintf(`trap "echo told to stop; exit 1" TERM; echo "ready in $PWD for $WHO"; while [ ! -e %s ]; do sleep 0.05; done; echo done`, file))
}

// attached starts a run of a Job beside a first one, and waits until both have a pod that is ready.
func attached(t *testing.T) (w *world, first, second *command, firstUID, secondUID string) {
	t.Helper()
	w = newWorld(t)
	first = w.nightshift("run", "-f", w.write("first.yaml", waiter("first", w.path("go-first"))), "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	other := w.in("elsewhere", "WHO=the second, for $5 and $(HOME)")
	manifest := strings.Replace(waiter("second", w.path("go-second")), "command: [sh, -c,", "args: [-c,", 1)
	second = other.nightshift("run", "-f", other.write("second.yaml", manifest), "--image", "none=/bin/sh", "--data-dir", w.path("state"))
	second.awaitOutput(second.stdout, "another nightshift works on this data directory")
	second.awaitOutput(second.stdout, "pod second-")
	second.awaitOutput(second.stdout, "started on")
	firstUID, secondUID = w.uidOf(first), w.uidOf(second)
	w.await("both pods are ready", func() bool {
		return w.said("state", firstUID, "ready in "+w.dir) == 1 && w.said("state", secondUID, "ready") == 1
	})
	return w, first, second, firstUID, secondUID
}

func TestASecondRunJoinsTheFirstWithAllThatIsItsOwn(t *testing.T) {
	t.Parallel()
	w, first, second, _, secondUID := attached(t)
	if want := "ready in " + w.path("elsewhere") + " for the second, for $5 and $(HOME)\n"; w.said("state", secondUID, want) != 1 {
		t.Errorf("the second run's pod said %q, want %q: its directory, its environment", w.podLogs(w.path("state"), "default", secondUID), want)
	}
	if strings.Contains(first.stdout.String(), "second") || strings.Contains(second.stdout.String(), "first") {
		t.Error("a run tells of the other one's Job")
	}
	w.write("go-second", "")
	second.mustEnd(0)
	if out := second.stdout.String(); !strings.Contains(out, "job default/second Complete after") {
		t.Errorf("the second run ends with\n%s", out)
	}
	look := w.nightshift("get", "jobs", "--data-dir", "state", "--no-headers")
	look.mustEnd(0)
	if out := look.stdout.String(); !strings.Contains(out, "first") || !strings.Contains(out, "Running") || !strings.Contains(out, "Complete") {
		t.Errorf("beside the first run, get shows\n%s", out)
	}
	w.write("go-first", "")
	first.mustEnd(0)
}

func TestAfterCtrlCInTheFirstRunItsControlPlaneLivesForTheSecond(t *testing.T) {
	t.Parallel()
	w, first, second, firstUID, secondUID := attached(t)
	first.signal(syscall.SIGINT)
	first.awaitOutput(first.stdout, "1 more are attached")
	w.await("the first run's pod was told to stop", func() bool { return w.said("state", firstUID, "told to stop") == 1 })
	w.write("go-second", "")
	second.mustEnd(0)
	first.mustEnd(130)
	if w.said("state", secondUID, "told to stop") != 0 {
		t.Error("the second run's pod was told to stop")
	}
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	w.write("go-first", "")
	again := w.nightshift("run", "-f", "first.yaml", "--data-dir", "state", "-o", "json")
	again.mustEnd(0)
	if got := again.result(); got.UID != firstUID || got.Evicted != 1 || got.Failed != 0 {
		t.Errorf("resumed as %+v", got)
	}
}

func TestASecondRunThatIsInterruptedOrKilledTakesItsPodsAlongAndNoOthers(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		status int
		told   int
	}{{"interrupted", syscall.SIGINT, 130, 1}, {"killed", syscall.SIGKILL, 128 + int(syscall.SIGKILL), 1}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w, first, second, firstUID, secondUID := attached(t)
			second.signal(test.signal)
			second.mustEnd(test.status)
			w.await("the second run's pod was told to stop and has ended", func() bool {
				return w.said("state", secondUID, "told to stop") == test.told && !strings.Contains(fmt.Sprint(w.marked()), "go-second")
			})
			w.write("go-second", "")
			other := w.in("elsewhere")
			resumed := other.nightshift("run", "-f", "second.yaml", "--image", "none=/bin/sh", "--data-dir", w.path("state"), "-o", "json")
			resumed.mustEnd(0)
			if got := resumed.result(); got.UID != secondUID || got.Evicted != 1 || got.Failed != 0 {
				t.Errorf("the second run was resumed as %+v", got)
			}
			w.write("go-first", "")
			first.mustEnd(0)
			if w.said("state", firstUID, "told to stop") != 0 {
				t.Error("the first run's pod was told to stop")
			}
		})
	}
}

func TestTwoRunsMayWaitForTheSameJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("job.yaml", waiter("shared", w.path("go")))
	first := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	uid := w.uidOf(first)
	second := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state")
	second.awaitOutput(second.stdout, "job shared goes on, uid "+uid)
	second.signal(syscall.SIGINT)
	second.mustEnd(130)
	third := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state", "-o", "json")
	third.awaitOutput(third.stderr, "goes on")
	w.write("go", "")
	first.mustEnd(0)
	third.mustEnd(0)
	if got := third.result(); got.UID != uid || got.Evicted != 0 {
		t.Errorf("the Job came to %+v, want no eviction of %s", got, uid)
	}
}

func TestWhoJoinsAJobFollowsThePodsThatRunAlreadyFromTheirBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("job.yaml", waiter("shared", w.path("go")))
	first := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	uid := w.uidOf(first)
	w.await("its pod is ready", func() bool { return w.said("state", uid, "ready in") == 1 })
	second := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state", "--follow")
	second.awaitOutput(second.stdout, "] ready in "+w.dir)
	w.write("go", "")
	first.mustEnd(0)
	second.mustEnd(0)
	for _, line := range []string{"] ready in ", "] done\n"} {
		if n := strings.Count(second.stdout.String(), line); n != 1 {
			t.Errorf("%q is shown %d times in\n%s", line, n, second.stdout)
		}
	}
}

func TestWhatAJoiningRunBringsAndItsPodsWriteMayBeAnyBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.nightshift("run", "-f", w.write("first.yaml", waiter("first", w.path("go"))), "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	other := w.in("else\xffwhere", "LATIN=caf\xe9")
	second := other.nightshift("run", "-f", other.write("second.yaml", job("second", `echo "$LATIN in $PWD"`)), "--data-dir", w.path("state"), "--follow")
	second.mustEnd(0)
	if want := "] caf\xe9 in " + other.dir + "\n"; !strings.Contains(second.stdout.String(), want) {
		t.Errorf("it does not show %q in\n%q", want, second.stdout)
	}
	w.write("go", "")
	first.mustEnd(0)
}
