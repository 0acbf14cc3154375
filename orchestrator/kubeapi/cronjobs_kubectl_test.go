package kubeapi_test

import (
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

const report = `apiVersion: batch/v1
kind: CronJob
metadata:
  name: report
spec:
  schedule: "0 0 29 2 *"
  timeZone: Europe/Berlin
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: report
            image: data-processor:v1
            command: ["true"]
`

func TestKubectlDrivesACronJob(t *testing.T) {
	p := newPlane(t)
	watching := p.start("get", "cronjobs", "-w", "--output-watch-events")
	p.matches("apply", p.kubectl(report, "apply", "-f", "-"), `cronjob.batch/report created`)
	p.matches("the second apply", p.kubectl(report, "apply", "-f", "-"), `cronjob.batch/report unchanged`)
	p.matches("diff", p.kubectl(report, "diff", "-f", "-"), `^$`)
	p.matches("a bad zone", p.refused(strings.Replace(report, "Europe/Berlin", "Mars/Olympus", 1), "apply", "-f", "-"),
		`The CronJob "report" is invalid: spec.timeZone: Invalid value: "Mars/Olympus": unknown time zone Mars/Olympus`)
	p.matches("a zone in the schedule", p.refused(strings.Replace(report, `"0 0 29`, `"TZ=UTC 0 0 29`, 1), "apply", "-f", "-"), `cannot use TZ or CRON_TZ in schedule`)
	p.matches("an unknown field", p.refused(strings.Replace(report, "  timeZone", "  timezone", 1), "create", "-f", "-"), `strict decoding error: unknown field "spec.timezone"`)
	p.matches("get", p.kubectl("", "get", "cj"), `NAME +SCHEDULE +TIMEZONE +SUSPEND +ACTIVE +LAST SCHEDULE +AGE\n`, `report +0 0 29 2 \* +Europe/Berlin +False +0 +<none> +\d+s\n`)
	p.matches("get -o wide", p.kubectl("", "get", "cronjob", "-o", "wide"), `AGE +CONTAINERS +IMAGES +SELECTOR\n`, `report +data-processor:v1 +<none>\n`)

	p.matches("a run by hand", p.kubectl("", "create", "job", "by-hand", "--from=cronjob/report"), `job.batch/by-hand created`)
	p.matches("its Job", p.kubectl("", "get", "job", "by-hand", "-o", "yaml"), `cronjob.kubernetes.io/instantiate: manual`, `kind: CronJob\n    name: report\n`, `backoffLimit: 0`)
	p.finish("by-hand")
	p.matches("describe after a run by hand", p.kubectl("", "describe", "cronjob", "report"), `Name: +report`, `Schedule: +0 0 29 2 \*`, `Time Zone: +Europe/Berlin`,
		`Concurrency Policy: +Forbid`, `Warning +UnexpectedJob +\S+ +cronjob-controller +Saw a job that the controller did not create or forgot: by-hand`)

	p.matches("patch", p.kubectl("", "patch", "cronjob", "report", "-p", `{"spec":{"timeZone":null}}`), `cronjob.batch/report patched`)
	p.runAt("report", 3)
	run := p.active("report", 1)[0]
	p.matches("get with a run", p.kubectl("", "get", "cronjobs"), `report +\d+ \d+ \* \* \* +<none> +False +1 +\d+m\w* +\d+`)
	p.until("policy has decided", func(s *engine.State) bool { found, _ := s.JobOf("default", run); return found.Attempts() > 0 })
	p.finish(run)
	p.matches("describe after a run", p.kubectl("", "describe", "cronjob", "report"), `Last Schedule Time: +\w+`, `Active Jobs: +<none>`,
		`Normal +SuccessfulCreate +\S+ +cronjob-controller +Created job `+run, `Normal +SawCompletedJob +\S+ +cronjob-controller +Saw completed job: `+run+`, condition: Complete`)
	p.matches("events", p.kubectl("", "events", "--for", "cronjob/report"), `SuccessfulCreate +CronJob/report +Created job `+run)
	p.matches("suspend", p.kubectl("", "patch", "cronjob", "report", "-p", `{"spec":{"suspend":true}}`), `cronjob.batch/report patched`)
	p.matches("get suspended", p.kubectl("", "get", "cronjob", "report", "-o", "jsonpath={.spec.suspend} {.metadata.generation}"), `^true 4$`)
	p.matches("explain", p.kubectl("", "explain", "cronjob.spec.startingDeadlineSeconds"), `FIELD: startingDeadlineSeconds <integer>`)
	p.matches("api-resources", p.kubectl("", "api-resources", "--no-headers", "-o", "wide"), `cronjobs +cj +batch/v1 +true +CronJob +create,delete,deletecollection,get,list,patch,update,watch +all`)
	p.matches("create cronjob", p.kubectl("", "create", "cronjob", "hello", "--image=data-processor:v1", "--schedule=*/5 * * * *", "--", "true"), `cronjob.batch/hello created`)
	p.matches("delete", p.kubectl("", "delete", "cronjob", "report", "--timeout=60s"), `cronjob.batch "report" deleted`)
	watching.sees(`ADDED +report +0 0 29 2 \*(.|\n)*MODIFIED +report(.|\n)*DELETED +report`)
	watching.stop()
	p.until("its Jobs have gone with it", func(s *engine.State) bool { return len(s.Jobs) == 0 })
	p.matches("get after delete", p.refused("", "get", "cronjob", "report"), `Error from server \(NotFound\): cronjobs.batch "report" not found`)
	p.matches("a run of one that is not there", p.refused("", "create", "job", "late", "--from=cronjob/report"), `cronjobs.batch "report" not found`)
}
