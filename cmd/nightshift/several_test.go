package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestSeveralJobsRunTogetherAndEachHasItsReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("nightly"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("nightly/b.yaml", job("b-one", "echo one")+"---\n"+job("b-two", "exit 4", "backoffLimit: 0"))
	w.write("nightly/a.json", `{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {"spec": {
		"restartPolicy": "Never", "containers": [{"name": "c", "image": "none", "command": ["true"]}]}}}}`)
	w.write("nightly/notes.txt", "no manifest")
	run := w.startReading(job("piped", "true"), built.nightshift, "run", "-f", "nightly", "-f", "-", "--data-dir", "state", "-o", "json")
	run.mustEnd(1)
	var got struct{ Jobs []result }
	if err := json.Unmarshal([]byte(run.stdout.String()), &got); err != nil {
		t.Fatalf("%v\n%s", err, run.stdout)
	}
	var ends []string
	for _, job := range got.Jobs {
		ends = append(ends, job.Name+" "+job.Status)
	}
	if want := []string{"a Complete", "b-one Complete", "b-two Failed", "piped Complete"}; !slices.Equal(ends, want) {
		t.Errorf("the Jobs ended as %q, want %q", ends, want)
	}
}

func TestOneWrongJobAmongSeveralKeepsAllFromRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, test := range []struct{ manifests, says string }{
		{job("fine", "touch ran") + "---\n" + job("wrong", "true", "completions: -1"), `Job.batch "wrong" is invalid`},
		{job("fine", "touch ran") + "---\n" + job("fine", "true"), "the Job default/fine is there twice"},
		{job("fine", "touch ran") + "---\nkind: Pod\napiVersion: v1\n", "document 2: kind Pod of v1 is not supported"},
		{"---\n", "no Job in it"},
	} {
		run := w.nightshift("run", "-f", w.write("jobs.yaml", test.manifests), "--data-dir", "state")
		run.mustEnd(2)
		if !strings.Contains(run.stderr.String(), test.says) {
			t.Errorf("standard error does not say %q: %s", test.says, run.stderr)
		}
	}
	// Policy is asked one by one: what it has let in before its no does not stay.
	w.write("limits.yaml", "tenants:\n  default:\n    vcpu: 1\n")
	big := strings.Replace(job("big", "true"), "image: none", "image: none\n        resources: {requests: {cpu: 2}}", 1)
	run := w.nightshift("run", "-f", w.write("jobs.yaml", job("fine", "while [ ! -e never ]; do sleep 0.05; done; touch ran")+"---\n"+big), "--data-dir", "state", "--policy-data", "limits.yaml")
	run.mustEnd(2)
	if !strings.Contains(run.stderr.String(), `jobs.batch "big" is forbidden`) {
		t.Errorf("standard error: %s", run.stderr)
	}
	if _, err := os.Stat(w.path("ran")); err == nil {
		t.Error("a Job beside a wrong one ran")
	}
	empty := w.nightshift("run", "--data-dir", "state")
	empty.mustEnd(2)
	if !strings.Contains(empty.stderr.String(), "give a manifest with -f FILE") {
		t.Errorf("without -f: %s", empty.stderr)
	}
}

func TestFollowedLogsAreLedByTheirPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	script := `echo "first $JOB_COMPLETION_INDEX"; [ -e again ] || { touch again; exit 3; }; echo last; printf "no end of line"`
	manifest := strings.Replace(job("talk", script, "completionMode: Indexed", "completions: 1"), "restartPolicy: Never", "restartPolicy: OnFailure", 1)
	run := w.nightshift("run", "-f", w.write("job.yaml", manifest), "--data-dir", "state", "--follow")
	run.mustEnd(0)
	var lines []string
	for _, found := range regexp.MustCompile(`(?m)^\[talk-0-[a-z0-9]{5}\] (.*)$`).FindAllStringSubmatch(run.stdout.String(), -1) {
		lines = append(lines, found[1])
	}
	slices.Sort(lines) // two runs of a container are followed beside each other
	if want := []string{"first 0", "first 0", "last", "no end of line"}; !slices.Equal(lines, want) {
		t.Errorf("followed %q, want %q", lines, want)
	}
}

// script(1) gives the program a terminal.
func TestATerminalGetsABarAndWhatGoesWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("job.yaml", strings.Replace(job("bar", `[ -e again ] || { touch again; exit 3; }`, "completions: 2", "parallelism: 1"), "restartPolicy: Never", "restartPolicy: OnFailure", 1))
	run := w.start("script", "--quiet", "--return", "--flush", "--command",
		"stty cols 100 rows 30; exec "+built.nightshift+" run -f job.yaml --data-dir state", "/dev/null")
	run.mustEnd(0)
	out := run.stdout.String()
	for _, words := range []string{"2 of 2 done, 0 running, $0.0", "ended with exit code 3 and restarts in place", "job default/bar Complete after", "receipt:", "logs:"} {
		if !strings.Contains(out, words) {
			t.Errorf("the terminal never shows %q", words)
		}
	}
	if strings.Contains(out, "started on") {
		t.Error("the terminal shows what is ordinary line by line")
	}
}

// In a mount namespace of its own the run finds no control groups.
func TestWhereLimitsAreNotEnforcedARunWarnsOnce(t *testing.T) {
	t.Parallel()
	const isolated = "mount -t tmpfs none /sys/fs/cgroup && exec "
	w := newWorld(t)
	unshare := []string{"--user", "--map-root-user", "--mount", "sh", "-c"}
	if out, err := exec.Command("unshare", append(unshare, isolated+"true")...).CombinedOutput(); err != nil {
		t.Skipf("no mount namespace can be had here: %v: %s", err, out)
	}
	limited := strings.Replace(job("limited", `while [ ! -e go ]; do sleep 0.05; done`, "completions: 2", "parallelism: 2"), "image: none",
		"image: none\n        resources: {limits: {cpu: 2, memory: 64Mi}}", 1)
	w.write("job.yaml", limited)
	run := w.start("unshare", append(unshare, isolated+built.nightshift+" run -f job.yaml --data-dir state --nodes 2")...)
	const warning = "cpu and memory limits are not enforced on this node"
	run.awaitOutput(run.stdout, warning)
	w.await("both run", func() bool { return strings.Count(run.stdout.String(), "started on") == 2 })
	w.write("go", "")
	run.mustEnd(0)
	if out := run.stdout.String(); strings.Count(out, warning) != 1 || !strings.Contains(out, "\nwarning: node local-") {
		t.Errorf("it does not warn once:\n%s", out)
	}
}
