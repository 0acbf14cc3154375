package main_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// job is a manifest with one container that runs a shell script; more are lines of its spec.
func job(name, script string, more ...string) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata:
  name: %s
spec:
  %s
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: none
        command: [sh, -c, %q]
`, name, strings.Join(append(more, "suspend: false"), "\n  "), script)
}

func TestARunEndsWithOneObjectLogsAndNothingLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := w.write("job.yaml", job("greet", `echo "hello $JOB_COMPLETION_INDEX from $GREETER$GOGC"`, "completionMode: Indexed", "completions: 5", "parallelism: 3"))
	w.env = append(w.env, "GREETER=the run's environment")
	began := time.Now()
	run := w.nightshift("run", "-f", file, "-n", "tenant-a", "--data-dir", "state", "-o", "json")
	run.mustEnd(0)
	got := run.result()
	want := result{
		Name: "greet", Namespace: "tenant-a", UID: got.UID, Status: "Complete", Reason: "CompletionsReached", Message: "Reached expected number of succeeded pods",
		Succeeded: 5, CompletedIndexes: "0-4", StartTime: got.StartTime, CompletionTime: got.CompletionTime, TraceID: got.TraceID, Cost: got.Cost,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, text := range []string{got.StartTime, got.CompletionTime} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || at.Location() != time.UTC || at.Before(began.Truncate(time.Second)) || at.After(time.Now()) {
			t.Errorf("the time %q is not of this run, in RFC 3339 and UTC", text)
		}
	}
	var micros, onDemand int64
	if _, err := fmt.Sscanf(strings.Replace(got.Cost.Spot+" "+got.Cost.OnDemand, "0.", "", 2), "%06d %06d", &micros, &onDemand); err != nil || micros <= 0 || onDemand <= micros {
		t.Errorf("the cost %+v is not two amounts of six places, spot below on demand (%v)", got.Cost, err)
	}
	if got.Cost.Currency != "USD" || len(got.TraceID) != 32 {
		t.Errorf("currency %q, trace %q", got.Cost.Currency, got.TraceID)
	}
	logs := slices.Sorted(maps.Values(w.podLogs(w.path("state"), "tenant-a", got.UID)))
	for index := range 5 {
		if want := fmt.Sprintf("hello %d from the run's environment\n", index); len(logs) != 5 || logs[index] != want {
			t.Fatalf("the archive holds the logs %q, want %q among them", logs, want)
		}
	}
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestEachEndHasItsExitStatusAndSaysWhy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		manifest string
		args     []string
		status   int
		says     []string
	}{
		{"a pod that fails with no retries left fails the Job", job("x", "exit 7", "backoffLimit: 0"), nil, 1,
			[]string{"BackoffLimitExceeded", "Job has reached the specified backoff limit", "exit code 7"}},
		{"a deadline fails the Job", job("x", "sleep 600", "activeDeadlineSeconds: 1"), nil, 1,
			[]string{"DeadlineExceeded", "Job was active longer than specified deadline"}},
		{"an invalid value is refused in Kubernetes' words", job("x", "true", "completions: -1"), nil, 2,
			[]string{`Job.batch "x" is invalid: spec.completions: Invalid value: -1: must be greater than or equal to 0`}},
		{"an unknown field is refused by name", job("x", "true", "completionz: 1"), nil, 2,
			[]string{`strict decoding error: unknown field "spec.completionz"`}},
		{"what does not work yet is refused by name", strings.Replace(job("x", "true"), "restartPolicy", "hostNetwork: true\n      restartPolicy", 1), nil, 2,
			[]string{"spec.template.spec.hostNetwork", "not supported by this version of Nightshift"}},
		{"a suspended Job is refused, as run would wait for ever", strings.Replace(job("x", "true"), "suspend: false", "suspend: true", 1), nil, 2,
			[]string{"the Job x is suspended (spec.suspend)"}},
		{"a Job that somebody else manages is refused", job("x", "true", "managedBy: example.com/other"), nil, 2,
			[]string{"managed by example.com/other (spec.managedBy)"}},
		{"an index that is given up fails the Job when all others have ended",
			job("x", "[ $JOB_COMPLETION_INDEX != 1 ]", "completionMode: Indexed", "completions: 3", "parallelism: 3", "backoffLimitPerIndex: 0"), nil, 1,
			[]string{"FailedIndexes", "Job has failed indexes", "index 1 is given up"}},
		{"an image that names no command is refused and the way out told",
			strings.Replace(job("x", "true"), `command: [sh, -c, "true"]`, "args: [a]", 1), nil, 2,
			[]string{"spec.template.spec.containers[0].command", "--image none=EXECUTABLE"}},
		{"a Job over its tenant's vCPU is denied with the rule's reason",
			strings.Replace(job("x", "true", "completions: 4", "parallelism: 4"), "image: none", `image: none
        resources: {requests: {cpu: "1"}}`, 1),
			[]string{"--policy-data", "limits.yaml"}, 2, []string{"denied by policy", "default", "vCPU"}},
		{"a Job over its tenant's price is denied with the rule's reason", job("x", "true"), []string{"--policy-data", "prices.json"}, 2,
			[]string{"denied by policy", "default", "0.000001"}},
		{"policy data that is not understood is refused by path", job("x", "true"), []string{"--policy-data", "wrong.yaml"}, 2, []string{"wrong.yaml", "vcpus"}},
		{"an unknown flag is wrong usage", job("x", "true"), []string{"--nodez", "3"}, 2, []string{"unknown flag: --nodez"}},
		{"a provider that is not known is wrong usage", job("x", "true"), []string{"--provider", "gcp"}, 2, []string{"--provider gcp", "local", "aws=CONFIG.yaml"}},
		{"a namespace against the manifest's is wrong usage", strings.Replace(job("x", "true"), "name: x", "name: x\n  namespace: a", 1), []string{"-n", "b"}, 2,
			[]string{`the namespace of the manifest, "a", is not that of -n, "b"`}},
		{"a data directory that cannot be had breaks the machinery", job("x", "true"), []string{"--data-dir", "job.yaml/state"}, 3, []string{"make the data directory", "job.yaml"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write("job.yaml", test.manifest)
			w.write("limits.yaml", "tenants:\n  default:\n    vcpu: 2\n")
			w.write("prices.json", `{"tenants": {"default": {"maxPricePerHour": 0.000001}}}`)
			w.write("wrong.yaml", "tenants:\n  default:\n    vcpus: 2\n")
			run := w.nightshift(append([]string{"run", "-f", "job.yaml", "-o", "json"}, test.args...)...)
			run.mustEnd(test.status)
			for _, words := range test.says {
				if !strings.Contains(run.stderr.String(), words) {
					t.Errorf("standard error does not say %q", words)
				}
			}
			switch {
			case strings.Contains(test.manifest, "backoffLimitPerIndex") && (run.result().CompletedIndexes != "0,2" || run.result().FailedIndexes != "1"):
				t.Errorf("the object says %+v", run.result())
			case test.status == 1 && run.result().Status != "Failed":
				t.Errorf("the object says %+v", run.result())
			case test.status != 1 && run.stdout.String() != "":
				t.Errorf("standard output holds %q", run.stdout)
			}
		})
	}
}

func TestAnInterruptedRunStopsItsPodsGracefullyAndIsResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Each pod waits to be told, and says what it was told.
	file := w.write("job.yaml", job("wait", `trap "echo told to stop; exit 1" TERM; echo ready; while [ ! -e go ]; do sleep 0.05; done`, "completions: 2", "parallelism: 2"))
	first := w.nightshift("run", "-f", file, "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	uid := w.uidOf(first)
	w.await("both pods are ready", func() bool { return w.said("state", uid, "ready\n") == 2 })
	first.signal(syscall.SIGINT)
	first.mustEnd(130)
	if n := w.said("state", uid, "told to stop\n"); n != 2 {
		t.Errorf("%d of 2 pods were told to stop", n)
	}
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	other := w.nightshift("run", "--data-dir", "state", "-f", w.write("other.yaml", job("wait", "true", "completions: 2", "parallelism: 2")))
	other.mustEnd(2)
	if said := other.stderr.String(); !strings.Contains(said, `the Job "wait", unfinished in `) || !strings.Contains(said, "spec.template.spec.containers[0].command[2] is ") {
		t.Errorf("another spec: %s", said)
	}
	w.write("go", "")
	second := w.nightshift("run", "-f", file, "--data-dir", "state", "-o", "json")
	second.mustEnd(0)
	if got := second.result(); got.UID != uid || got.Succeeded != 2 || got.Failed != 0 || got.Evicted != 2 {
		t.Errorf("resumed as %+v, want the same UID %s, 2 evictions and no failure", got, uid)
	}
	third := w.nightshift("run", "-f", file, "--data-dir", "state", "-o", "json")
	third.mustEnd(0)
	if got := third.result(); got.UID == uid || got.Succeeded != 2 {
		t.Errorf("after a finished one came %+v, want a new UID", got)
	}
	if report, err := os.ReadFile(w.path("state", "archive", "documents", "jobs", "default", "wait", uid+".json")); err != nil || !strings.Contains(string(report), `"evicted":2`) {
		t.Errorf("the finished Job's report: %v\n%s", err, report)
	}
}

func TestAnUnfinishedJobWaitsWhileAnotherOneIsRunInItsDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// It runs only with the image that its own run gives.
	mine := strings.Replace(job("mine", `echo ready; while [ ! -e go ]; do sleep 0.05; done`, "backoffLimit: 0"), "command: [sh, -c,", "args: [-c,", 1)
	first := w.nightshift("run", "-f", w.write("mine.yaml", mine), "--image", "none=/bin/sh", "--data-dir", "state")
	first.awaitOutput(first.stdout, "started on")
	uid := w.uidOf(first)
	first.signal(syscall.SIGINT)
	first.mustEnd(130)
	w.nightshift("run", "-f", w.write("other.yaml", job("other", "true")), "--data-dir", "state").mustEnd(0)
	w.write("go", "")
	again := w.nightshift("run", "-f", "mine.yaml", "--image", "none=/bin/sh", "--data-dir", "state", "-o", "json")
	again.mustEnd(0)
	if got := again.result(); got.UID != uid || got.Failed != 0 || got.Evicted != 1 {
		t.Errorf("the Job that was left came to %+v, want %s with one eviction and no failure", got, uid)
	}
}

func TestASecondInterruptEndsARunAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.nightshift("run", "-f", w.write("job.yaml", job("deaf", `trap "" TERM; echo ready; while :; do sleep 0.05; done`)), "--data-dir", "state")
	run.awaitOutput(run.stdout, "started on")
	uid := w.uidOf(run)
	w.await("the pod is ready", func() bool { return w.said("state", uid, "ready") == 1 })
	run.signal(syscall.SIGINT)
	run.awaitOutput(run.stdout, "interrupt again to end at once")
	run.signal(syscall.SIGINT)
	run.mustEnd(130)
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestNothingOutlivesARunThatIsKilledAndTheJobGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The pod leaves its session, its parent and its process group, and ignores SIGTERM.
	file := w.write("job.yaml", job("stray", `[ -e go ] && exit 0; setsid sh -c "trap : TERM; (while :; do sleep 1; done) & while :; do sleep 1; done" & echo away; wait`))
	run := w.nightshift("run", "-f", file, "--data-dir", "state", "--nodes", "1")
	run.awaitOutput(run.stdout, "started on")
	uid := w.uidOf(run)
	w.await("the stray process is there", func() bool {
		return w.said("state", uid, "away\n") == 1 && strings.Count(strings.Join(slices.Collect(maps.Values(w.marked())), "\n"), "while :") >= 2
	})
	run.signal(syscall.SIGKILL)
	run.mustEnd(128 + int(syscall.SIGKILL))
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Fatalf("outlived a killed run by %s: %q", outlive, left)
	}
	w.write("go", "")
	again := w.nightshift("run", "-f", file, "--data-dir", "state", "--nodes", "1", "-o", "json")
	again.mustEnd(0)
	if got := again.result(); got.UID != uid || got.Succeeded != 1 || got.Failed != 0 || got.Evicted != 1 {
		t.Errorf("after the kill: %+v, want the same UID %s and the lost attempt as an eviction", got, uid)
	}
}

func TestAJobThatIsDeletedAsSoonAsItHasEndedHasItsResultAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.nightshift("run", "-f", w.write("job.yaml", job("brief", "true", "ttlSecondsAfterFinished: 0")), "--data-dir", "state", "-o", "json")
	run.mustEnd(0)
	got := run.result()
	if got.Status != "Complete" || got.Succeeded != 1 {
		t.Errorf("the run came to %+v", got)
	}
	if _, err := os.Stat(w.path("state", "archive", "documents", "jobs", "default", "brief", got.UID+".json")); err != nil {
		t.Errorf("the report is not kept: %v", err)
	}
	look := w.nightshift("get", "jobs", "--data-dir", "state")
	look.mustEnd(0)
	if out := look.stderr.String(); !strings.Contains(out, "No resources found") {
		t.Errorf("after its time to live there is %s%s", look.stdout, out)
	}
}

func TestAWorkQueueEndsWhenItsPodsAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.nightshift("run", "-f", w.write("job.yaml", job("queue", `while [ ! -e all ]; do [ $(ls | grep -c ^here) = 3 ] && touch all; : > here.$(cut -d" " -f4 /proc/self/stat); sleep 0.05; done`, "parallelism: 3")), "--data-dir", "state")
	run.mustEnd(0)
	if out := run.stdout.String(); !strings.Contains(out, "Complete after") || !strings.Contains(out, ": 3 succeeded, 0 failed") || !strings.Contains(out, " succeeded (3)") {
		t.Errorf("the work queue ends with\n%s", tail(out))
	}
}

func TestHelpShowsExamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, command := range []string{"run", "serve", "get", "describe", "logs", "delete"} {
		help := w.nightshift(command, "--help")
		help.mustEnd(0)
		if text := help.stdout.String(); !strings.Contains(text, "Examples:") || !strings.Contains(text, "nightshift "+command) {
			t.Errorf("%s --help has no example:\n%s", command, text)
		}
	}
}

// uidOf reads the UID of the Job from the lines of progress.
func (w *world) uidOf(run *command) string {
	w.t.Helper()
	_, after, found := strings.Cut(run.stdout.String(), "created, uid ")
	if !found || len(after) < 36 {
		w.t.Fatalf("no UID in %s", run.stdout)
	}
	return after[:36]
}

// said counts the pods of a Job in the default namespace whose log holds the text.
func (w *world) said(dataDir, jobUID, text string) (pods int) {
	for _, log := range w.podLogs(filepath.Join(w.dir, dataDir), "default", jobUID) {
		if strings.Contains(log, text) {
			pods++
		}
	}
	return pods
}
