package main_test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
)

const tick = `apiVersion: batch/v1
kind: CronJob
metadata:
  name: tick
spec:
  schedule: "@every 1s"
  timeZone: Asia/Kolkata
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: main
            image: none
            command: [echo, tock]
`

func (s *server) cronJob(name string) (cronJob batchv1.CronJob) {
	s.w.t.Helper()
	if err := json.Unmarshal([]byte(s.must("get", "cronjob", name, "-o", "json")), &cronJob); err != nil {
		s.w.t.Fatal(err)
	}
	return cronJob
}

func TestServeRunsACronJobAndGoesOnWithItAfterAKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	w.write("tick.yaml", tick)
	if out := s.must("apply", "-f", "tick.yaml"); out != "cronjob.batch/tick created\n" {
		t.Errorf("apply: %s", out)
	}
	w.await("its first run is Complete", func() bool { return s.cronJob("tick").Status.LastSuccessfulTime != nil })
	before := s.cronJob("tick")
	run := strings.Fields(s.must("get", "jobs", "-o", "name"))[0]
	if out := s.must("logs", run); out != "tock\n" {
		t.Errorf("its run says %q", out)
	}
	s.current.signal(syscall.SIGKILL)
	s.current.status()
	s.restart()
	after := s.cronJob("tick")
	if after.UID != before.UID || after.Status.LastSuccessfulTime == nil || after.Status.LastSuccessfulTime.Before(before.Status.LastSuccessfulTime) {
		t.Errorf("after a kill it is %+v, before %+v", after.Status, before.Status)
	}
	if out := s.must("create", "job", "now", "--from=cronjob/tick"); out != "job.batch/now created\n" {
		t.Errorf("create job: %s", out)
	}
	s.must("wait", "--for=condition=complete", "job/now", "--timeout=60s")
	if out := s.must("describe", "cronjob", "tick"); !strings.Contains(out, "SawCompletedJob") || !strings.Contains(out, "SuccessfulCreate") {
		t.Errorf("describe: %s", out)
	}
	s.must("delete", "cronjob", "tick", "--cascade=foreground", "--timeout=60s")
	w.await("its Jobs have gone with it", func() bool { return s.must("get", "jobs", "-o", "name") == "" })
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
}

func TestRunSaysWhatItDoesNotDoWithACronJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("tick.yaml", tick)
	run := w.nightshift("run", "-f", "tick.yaml")
	run.mustEnd(2)
	for _, words := range []string{"tick.yaml: document 1: a CronJob starts Jobs by its schedule", "nightshift serve", "kubectl create job NAME --from=cronjob/NAME"} {
		if said := run.stderr.String(); !strings.Contains(said, words) {
			t.Errorf("it says\n%s\nand not %q", said, words)
		}
	}
}

func TestTheNightlyExampleDoesWhatItSays(t *testing.T) {
	w := newWorld(t)
	w.copyTree()
	w.smallInput()
	blocks := w.blocks("examples/nightly/README.md")
	w.shell(blocks[0]).mustEnd(0)
	out := w.type_(blocks[1:])
	for _, words := range []string{"cronjob.batch/data-processing-nightly created", "job.batch/tonight condition met", "Time Zone:                     Europe/Berlin"} {
		if !strings.Contains(out, words) {
			t.Errorf("its commands never print %q:\n%s", words, out)
		}
	}
}
