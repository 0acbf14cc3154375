package process_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

func TestAPodRunsToItsEndAndItsOutputIsInOrder(t *testing.T) {
	pod := shell(`for i in $(seq 2000); do echo out $i; echo err $i >&2; done; printf 'no newline'; exit "$1"`, "sh", "3")
	end, r := runToEnd(t, pod)
	want := attempt.Status{Phase: wire.PodReport_FAILED, ExitCode: 3, Reason: "Error", Message: `container "main" exited with code 3`}
	if !same(end, want) {
		t.Errorf("end %+v, want %+v", end, want)
	}
	var log strings.Builder
	for i := 1; i <= 2000; i++ {
		fmt.Fprintf(&log, "out %d\nerr %d\n", i, i)
	}
	log.WriteString("no newline")
	if r.log() != log.String() {
		t.Errorf("the log differs from what was written: %d bytes, want %d", len(r.log()), log.Len())
	}
	for i, chunk := range r.chunks[:len(r.chunks)-1] {
		if len(chunk) > 64<<10 || !strings.HasSuffix(chunk, "\n") {
			t.Errorf("chunk %d has %d bytes and ends in %q", i, len(chunk), chunk[len(chunk)-1:])
		}
	}
	if r.ends != 1 {
		t.Errorf("the output ended %d times", r.ends)
	}
	phases := []wire.PodReport_Phase{wire.PodReport_STARTING, wire.PodReport_RUNNING, wire.PodReport_FAILED}
	for i, s := range r.statuses {
		if s.Phase != phases[i] {
			t.Errorf("status %d is %v, want %v", i, s.Phase, phases[i])
		}
	}
}

func TestSuccessIsCompleted(t *testing.T) {
	if end, _ := runToEnd(t, shell("true")); !same(end, attempt.Status{Phase: wire.PodReport_SUCCEEDED, Reason: "Completed"}) {
		t.Errorf("end %+v", end)
	}
}

func TestALineLongerThanAChunkIsCutAndAnUnfinishedOneIsKept(t *testing.T) {
	_, r := runToEnd(t, shell(`printf 'short\n'; head -c 200000 /dev/zero | tr '\0' x; echo; printf tail`))
	if want := "short\n" + strings.Repeat("x", 200000) + "\ntail"; r.log() != want {
		t.Errorf("the log has %d bytes, want %d", len(r.log()), len(want))
	}
	for _, chunk := range r.chunks {
		if len(chunk) > 64<<10 {
			t.Errorf("a chunk has %d bytes", len(chunk))
		}
	}
}

func TestALineIsPassedOnWhileThePodRuns(t *testing.T) {
	_, r := start(t, shell("echo begun; printf half; exec sleep 1000"))
	r.waitLog(t, "begun\n")
	r.note(func() {
		if r.log() != "begun\n" {
			t.Errorf("the log holds %q, want the whole line alone", r.log())
		}
	})
}

func TestStopSendsSIGTERMToTheWholeGroup(t *testing.T) {
	// The child is told by the group's signal alone: the parent does nothing but wait for it.
	running, r := start(t, shell(`
		sh -c 'trap "echo child got TERM; exit 0" TERM; echo child ready; while :; do sleep 0.05; done' &
		trap 'echo parent got TERM' TERM
		wait; wait; exit 5`))
	r.waitLog(t, "child ready")
	running.Stop(time.Minute, "eviction")
	done(t, running)
	for _, want := range []string{"child got TERM\n", "parent got TERM\n"} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("the log lacks %q: %q", want, r.log())
		}
	}
	end := r.statuses[len(r.statuses)-1]
	if end.Phase != wire.PodReport_FAILED || end.ExitCode != 5 || !strings.Contains(end.Message, "eviction") {
		t.Errorf("end %+v", end)
	}
}

func TestAfterTheGraceEverythingIsKilledAlsoWhatLeftTheGroupAndWipedItsEnvironment(t *testing.T) {
	withAndWithoutGroups(t, func(t *testing.T) {
		mark, wiped := setMark(t), "OTHER_MARK="+rand.Text()
		running, r := start(t, shell(`
			trap '' TERM
			setsid sh -c 'echo kept ready; exec sleep 1000' &
			env -i PATH="$PATH" `+wiped+` setsid sh -c 'echo wiped ready; exec sleep 1000' &
			echo ready; while :; do sleep 0.05; done`))
		r.waitLog(t, "kept ready\n")
		r.waitLog(t, "wiped ready\n")
		running.Stop(100*time.Millisecond, "")
		done(t, running)
		end := r.statuses[len(r.statuses)-1]
		if end.Phase != wire.PodReport_FAILED || end.ExitCode != 137 || end.Message != `container "main" was ended by SIGKILL` {
			t.Errorf("end %+v", end)
		}
		for _, mark := range []string{mark, wiped} {
			if left := marked(t, mark); len(left) > 0 {
				t.Errorf("%s still runs: %+v", mark, left)
			}
		}
	})
}

func TestTheEndOfTheMainProcessEndsTheRunThoughAnotherHoldsThePipe(t *testing.T) {
	withAndWithoutGroups(t, func(t *testing.T) {
		// Another pod runs meanwhile, so that only its own mark gives the stray away.
		other, otherRecord := start(t, shell("echo up; exec sleep 1000"))
		otherRecord.waitLog(t, "up")
		mark, wiped := setMark(t), "WIPED_MARK="+rand.Text()
		end, r := runToEnd(t, shell(`setsid sh -c 'trap "" HUP TERM; : > up1; exec sleep 1000' &
			env -i PATH="$PATH" `+wiped+` sh -c 'trap "" HUP TERM; : > up2; exec sleep 1000' &
			while [ ! -e up1 ] || [ ! -e up2 ]; do sleep 0.01; done; echo last words`))
		if end.Phase != wire.PodReport_SUCCEEDED {
			t.Errorf("end %+v", end)
		}
		if !strings.Contains(r.log(), "last words\n") {
			t.Errorf("log %q", r.log())
		}
		for _, mark := range []string{mark, wiped} {
			if left := marked(t, mark); len(left) > 0 {
				t.Errorf("%s still runs: %+v", mark, left)
			}
		}
		select {
		case <-other.Done():
			t.Errorf("the other pod was ended too: %+v", otherRecord.statuses)
		default:
		}
	})
}

func TestOnFailureRestartsInPlaceAndCounts(t *testing.T) {
	withAndWithoutGroups(t, func(t *testing.T) {
		pod := shell(`echo run >> runs; [ "$(wc -l < runs)" -ge 4 ] || exit 9`)
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		end, r := runToEnd(t, pod)
		if !same(end, attempt.Status{Phase: wire.PodReport_SUCCEEDED, Restarts: 3, Reason: "Completed"}) {
			t.Errorf("end %+v", end)
		}
		var seen []string
		for _, s := range r.statuses {
			seen = append(seen, fmt.Sprint(s.Phase, s.Restarts, s.ExitCode))
		}
		// Before a restart that has to wait the pod is told once as waiting; which ones have to depends on the machine's speed.
		seen = slices.DeleteFunc(slices.Compact(seen), func(s string) bool { return s == "RUNNING 0 9" })
		if want := "STARTING 0 0,RUNNING 0 0,RUNNING 1 9,RUNNING 2 9,RUNNING 3 9,SUCCEEDED 3 0"; strings.Join(seen, ",") != want {
			t.Errorf("statuses %v, want %v", seen, want)
		}
		if r.ends != 4 {
			t.Errorf("%d outputs ended, want one for each of 4 runs", r.ends)
		}
	})
}

func TestAStopEndsTheWaitForARestart(t *testing.T) {
	pod := shell("exit 4")
	pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	r := newRecord()
	running := newRuntime(t, func(c *process.Config) { c.Backoff = process.KubeletBackoff() }).Start(attempt.Attempt{UID: "u", Pod: pod}, r)
	// The kubelet's first restart is immediate, the second 10 s after.
	r.wait(t, "the second run's end", func() bool { return r.ends == 2 })
	running.Stop(time.Hour, "suspended")
	done(t, running)
	end := r.statuses[len(r.statuses)-1]
	if end.Phase != wire.PodReport_FAILED || end.ExitCode != 4 || end.Restarts != 1 {
		t.Errorf("end %+v", end)
	}
}

func TestAnEarlierDeadlineReplacesALaterOne(t *testing.T) {
	running, r := start(t, shell(`trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.05; done`))
	r.waitLog(t, "ready")
	running.Stop(time.Hour, "first")
	r.waitLog(t, "got TERM")
	running.Stop(0, "second")
	done(t, running)
	if end := r.statuses[len(r.statuses)-1]; end.ExitCode != 137 || !strings.Contains(end.Message, "first") {
		t.Errorf("end %+v", end)
	}
}

func TestWhatCannotRunIsAStartErrorThatSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"no command":     {func(p *corev1.Pod) { p.Spec.Containers[0].Command = nil }, "--image shell:v1=EXECUTABLE"},
		"no executable":  {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"no-such-thing"} }, `"no-such-thing" is not in`},
		"not executable": {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/etc/passwd"} }, "permission denied"},
		"no directory":   {func(p *corev1.Pod) { p.Spec.Containers[0].WorkingDir = "/no/such" }, "working directory /no/such"},
		"volumes":        {func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v"}} }, "volumes is not supported"},
		"no containers":  {func(p *corev1.Pod) { p.Spec.Containers = nil }, "no containers"},
		"the same name":  {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }, `two containers are named "main"`},
		"restart always": {func(p *corev1.Pod) { p.Spec.RestartPolicy = "Always" }, `restartPolicy "Always" is not supported`},
		"another resource": {setEnv(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.ephemeral-storage"}}),
			`resourceFieldRef "limits.ephemeral-storage" is not`},
		"another field":    {setEnv(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.phase"}}), `"status.phase" is not`},
		"secret":           {setEnv(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}), "secretKeyRef is not"},
		"envFrom":          {func(p *corev1.Pod) { p.Spec.Containers[0].EnvFrom = make([]corev1.EnvFromSource, 1) }, "envFrom is not"},
		"security context": {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64)} }, "securityContext is not"},
		"a liveness probe": {func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe = &corev1.Probe{} }, "livenessProbe is not"},
		"an init container's probe": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", StartupProbe: &corev1.Probe{}}}
		}, "initContainers[0].startupProbe is not"},
		"another message path": {func(p *corev1.Pod) { p.Spec.Containers[0].TerminationMessagePath = "/tmp/m" }, "containers[0].terminationMessagePath is not"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := shell("true")
			c.change(pod)
			end, _ := runToEnd(t, pod)
			if end.Phase != wire.PodReport_FAILED || end.ExitCode != 128 || end.Reason != "StartError" || !strings.Contains(end.Message, c.want) {
				t.Errorf("end %+v, want a StartError with %q", end, c.want)
			}
		})
	}
}

func setEnv(source corev1.EnvVarSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &source}} }
}

func TestAnImageOfNoCommandRunsItsExecutableWithTheArguments(t *testing.T) {
	pod := shell("")
	pod.Spec.Containers[0].Command, pod.Spec.Containers[0].Args = nil, []string{"-n", "from $(WHO)"}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHO", Value: "args"}}
	r := newRecord()
	running := newRuntime(t, func(c *process.Config) { c.Images = map[string]string{"shell:v1": "echo"} }).Start(attempt.Attempt{UID: "u", Pod: pod}, r)
	done(t, running)
	if r.log() != "from args" {
		t.Errorf("log %q, statuses %+v", r.log(), r.statuses)
	}
}

func TestTheEnvironmentIsThePodsOverTheAgents(t *testing.T) {
	t.Setenv("INHERITED", "yes")
	t.Setenv("REPLACED", "agent's")
	pod := shell(`env; pwd; ls -l /proc/self/fd | wc -l; kill -l "$1"`, "sh", "$(SIGNAL)")
	pod.UID = types.UID("the-uid")
	pod.Annotations = map[string]string{"a.b/c": "note"}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "REPLACED", Value: "pod's"},
		{Name: "FIRST", Value: "1"},
		{Name: "CHAIN", Value: "$(FIRST)-$(LATER)-$(INHERITED)-$$(FIRST)"},
		{Name: "LATER", Value: "2"},
		{Name: "SIGNAL", Value: "15"},
		field("NAME", "metadata.name"), field("NS", "metadata.namespace"), field("UID_", "metadata.uid"),
		field("NODE", "spec.nodeName"), field("JOB_COMPLETION_INDEX", "metadata.labels['batch.kubernetes.io/job-completion-index']"),
		field("NOTE", "metadata.annotations['a.b/c']"), field("NONE", "metadata.labels['none']"),
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.Containers[0].WorkingDir = dir
	end, r := runToEnd(t, pod)
	if end.Phase != wire.PodReport_SUCCEEDED {
		t.Fatalf("end %+v, log %q", end, r.log())
	}
	lines := strings.Split(r.log(), "\n")
	for _, want := range []string{
		"INHERITED=yes", "REPLACED=pod's", "CHAIN=1-$(LATER)-$(INHERITED)-$(FIRST)", "NAME=crunch-0", "NS=night", "UID_=the-uid",
		"NODE=node-a", "JOB_COMPLETION_INDEX=7", "NOTE=note", "NONE=", dir, "TERM",
		"5", // "total", then 0, 1, 2 and the directory itself: nothing of the agent's is open.
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("the pod's output lacks the line %q:\n%s", want, r.log())
		}
	}
	if strings.Contains(r.log(), "NIGHTSHIFT_SECRET") {
		t.Error("a variable of Nightshift's own reached the pod")
	}
}

func TestASlowReaderHoldsThePodBackAndNothingIsLost(t *testing.T) {
	r := newRecord()
	r.gate = make(chan struct{})
	pod := shell(`i=0; while [ $i -lt 30000 ]; do echo "line $i ............................."; i=$((i+1)); done; : > finished`)
	dir := t.TempDir()
	pod.Spec.Containers[0].WorkingDir = dir
	running := newRuntime(t).Start(attempt.Attempt{UID: "u", Pod: pod}, r)
	// A full pipe is the sign that the pod is held back; only the kernel knows.
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !pipeIsFull(t) {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("the pipe never filled")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "finished")); err == nil {
		t.Error("the pod ran to its end though nobody took its output")
	}
	close(r.gate)
	done(t, running)
	if lines := strings.Count(r.log(), "\n"); lines != 30000 {
		t.Errorf("%d lines arrived, want 30000", lines)
	}
}

// pipeIsFull says that one of this process's pipes of 64 KiB holds all that it takes in short lines: the page that was begun to be
// read, and the ends of the others, are lost to it.
func pipeIsFull(t *testing.T) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "pipe:") {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			continue
		}
		if waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && waiting >= 56<<10 {
			return true
		}
	}
	return false
}
