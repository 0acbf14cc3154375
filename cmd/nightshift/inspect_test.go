package main_test

import (
	"strings"
	"syscall"
	"testing"
)

func TestWhatRunsHaveLeftIsSeenAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	done := strings.Replace(job("done", "echo the output", "backoffLimit: 3"), "containers:", `initContainers:
      - {name: prepare, image: none, command: [echo, prepared]}
      containers:`, 1)
	w.nightshift("run", "-f", w.write("done.yaml", done), "--data-dir", "state").mustEnd(0)
	left := w.nightshift("run", "-f", w.write("left.yaml", job("left", "echo ready; while :; do sleep 0.05; done")), "--data-dir", "state")
	left.awaitOutput(left.stdout, "started on")
	left.signal(syscall.SIGKILL)
	left.mustEnd(128 + int(syscall.SIGKILL))
	if outlived := w.awaitNothingLeft(); len(outlived) > 0 {
		t.Fatalf("outlived a killed run: %q", outlived)
	}
	for _, test := range []struct {
		args  []string
		shows []string
	}{
		{[]string{"get", "jobs"}, []string{"done", "Complete", "1/1", "left", "Running", "0/1"}},
		{[]string{"get", "job", "done", "-o", "jsonpath={.status.succeeded} {.spec.backoffLimit}"}, []string{"1 3"}},
		{[]string{"describe", "job", "done"}, []string{"1 Succeeded / 0 Failed", "Receipt", "Job completed"}},
		{[]string{"logs", "job/done"}, []string{"the output\n"}},
		{[]string{"logs", "job/done", "-c", "prepare"}, []string{"prepared\n"}},
		{[]string{"delete", "job", "left"}, []string{`job.batch "left" deleted`}},
		{[]string{"delete", "jobs", "--all"}, []string{`job.batch "done" deleted`}},
	} {
		command := w.nightshift(append(test.args, "--data-dir", "state")...)
		command.mustEnd(0)
		for _, words := range test.shows {
			if !strings.Contains(command.stdout.String(), words) {
				t.Errorf("nightshift %s does not show %q:\n%s", strings.Join(test.args, " "), words, command.stdout)
			}
		}
	}
	for _, test := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"get", "jobs", "--data-dir", "state"}, 0, "No resources found in default namespace."},
		{[]string{"get", "job", "done", "--data-dir", "state"}, 1, `jobs.batch "done" not found`},
		{[]string{"get", "jobs", "--data-dir", "nowhere"}, 2, "no run has left anything here"},
	} {
		command := w.nightshift(test.args...)
		command.mustEnd(test.status)
		if !strings.Contains(command.stderr.String(), test.says) {
			t.Errorf("nightshift %s says %s, want %q", strings.Join(test.args, " "), command.stderr, test.says)
		}
	}
	// Deleted while nobody ran it, it has not run.
	if outlived := w.awaitNothingLeft(); len(outlived) > 0 {
		t.Errorf("left over: %q", outlived)
	}
}
