package manifest_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

const hello = `apiVersion: batch/v1
kind: CronJob
metadata:
  name: hello
spec:
  schedule: "*/5 * * * *"
  jobTemplate:
    metadata:
      labels: {night: "1"}
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - name: main
            image: busybox
            command: [echo, hello]
`

func readCronJob(t *testing.T, text string) *batchv1.CronJob {
	t.Helper()
	cronJob := &batchv1.CronJob{}
	if err := yaml.UnmarshalStrict([]byte(text), cronJob); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return cronJob
}

func TestACronJobIsStoredWithKubernetesDefaultsAndItsJobsWithTheirs(t *testing.T) {
	given := readCronJob(t, hello)
	cronJob, made, errs := manifest.AdmitCronJob(given, manifest.Options{UID: "u"})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	spec := &cronJob.Spec
	if spec.ConcurrencyPolicy != batchv1.AllowConcurrent || *spec.Suspend || *spec.SuccessfulJobsHistoryLimit != 3 || *spec.FailedJobsHistoryLimit != 1 ||
		spec.JobTemplate.Spec.Completions != nil || *spec.JobTemplate.Spec.Template.Spec.TerminationGracePeriodSeconds != 30 {
		t.Errorf("it is stored as %+v", spec)
	}
	if cronJob.Generation != 1 || cronJob.UID != "u" || cronJob.Namespace != "default" || given.Namespace != "" {
		t.Errorf("its metadata is %+v", cronJob.ObjectMeta)
	}
	if made.Name != "" || *made.Spec.Completions != 1 || *made.Spec.BackoffLimit != 6 || made.Labels["night"] != "1" || len(made.Labels) != 1 || made.Spec.Selector != nil {
		t.Errorf("its Jobs are made of %+v", made)
	}
	cronJob.ResourceVersion = "7"
	changed := cronJob.DeepCopy()
	changed.Labels = map[string]string{"a": "b"}
	if again, _, errs := manifest.AdmitCronJobUpdate(changed, cronJob, nil); len(errs) > 0 || again.Generation != 1 {
		t.Errorf("with another label it is of generation %d, %v", again.Generation, errs)
	}
	changed.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Command = []string{"echo", "bye"}
	if again, made, errs := manifest.AdmitCronJobUpdate(changed, cronJob, nil); len(errs) > 0 || again.Generation != 2 || made.Spec.Template.Spec.Containers[0].Command[1] != "bye" {
		t.Errorf("with another command it is of generation %d, %v", again.Generation, errs)
	}
}

func TestACronJobIsRefusedInKubernetesWords(t *testing.T) {
	in := func(old, replaced string) string {
		if !strings.Contains(hello, old) {
			t.Fatalf("there is no %q", old)
		}
		return strings.Replace(hello, old, replaced, 1)
	}
	schedule := func(text string) string { return in(`"*/5 * * * *"`, text) }
	for _, c := range []struct{ text, want string }{
		{schedule(`""`), "spec.schedule: Required value"},
		{schedule(`"* * * *"`), "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4"},
		{schedule(`"TZ=0"`), "spec.schedule: Invalid value: \"TZ=0\": invalid schedule format: runtime error"},
		{schedule(`"TZ=UTC 0 * * * *"`), "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"},
		{schedule("\"* * * * *\"\n  timeZone: Mars/Olympus"), "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"},
		{schedule("\"* * * * *\"\n  timeZone: Local"), "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"},
		{schedule("\"* * * * *\"\n  timeZone: \"\""), "timeZone must be nil or non-empty string"},
		{schedule("\"* * * * *\"\n  concurrencyPolicy: Never"), "spec.concurrencyPolicy: Unsupported value: \"Never\""},
		{schedule("\"* * * * *\"\n  startingDeadlineSeconds: -1"), "spec.startingDeadlineSeconds: Invalid value: -1"},
		{schedule("\"* * * * *\"\n  failedJobsHistoryLimit: -1"), "spec.failedJobsHistoryLimit: Invalid value: -1"},
		{in("name: hello", "name: "+strings.Repeat("a", 53)), "metadata.name: Invalid value: \"" + strings.Repeat("a", 53) + "\": must be no more than 52 characters"},
		{in("    spec:\n      template", "    spec:\n      manualSelector: true\n      template"), "spec.jobTemplate.spec.manualSelector: Unsupported value: true"},
		{in("    spec:\n      template", "    spec:\n      selector: {matchLabels: {a: b}}\n      template"), "spec.jobTemplate.spec.selector: Invalid value"},
		{in("restartPolicy: OnFailure", "restartPolicy: Always"), "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""},
		// What its Jobs would meet is told at once.
		{in("restartPolicy: OnFailure", "restartPolicy: OnFailure\n          hostNetwork: true"), "spec.jobTemplate.spec.template.spec.hostNetwork: Forbidden: not supported by this version of Nightshift"},
		{in("            command: [echo, hello]\n", ""), "spec.jobTemplate.spec.template.spec.containers[0].command: Required value: images are not pulled"},
		{in("      labels: {night: \"1\"}", "      annotations: {nightshift.dev/capacity: cheap}"), "spec.jobTemplate.metadata.annotations[nightshift.dev/capacity]: Unsupported value: \"cheap\""},
		{in("  name: hello", "  name: hello\n  annotations: {nightshift.dev/capacity: spot}"), "metadata.annotations[nightshift.dev/capacity]: Forbidden: belongs to the Jobs"},
		{in("  name: hello", "  name: hello\n  finalizers: [example.com/hold]"), "metadata.finalizers: Forbidden: not supported by this version of Nightshift"},
		{in("[echo, hello]", "[echo, "+strings.Repeat("x", 257<<10)+"]"), "spec: Too long"},
	} {
		t.Run(strings.SplitN(c.want, ":", 2)[0], func(t *testing.T) {
			_, _, errs := manifest.AdmitCronJob(readCronJob(t, c.text), manifest.Options{UID: "u"})
			if refusal := manifest.InvalidCronJob("hello", errs).Error(); len(errs) == 0 || !strings.Contains(refusal, c.want) {
				t.Errorf("it is refused with %.300s", refusal)
			}
		})
	}
}

func TestACronJobIsNotRunToItsEnd(t *testing.T) {
	_, err := manifest.DecodeAll(strings.NewReader(hello), "hello.yaml")
	if err == nil || !strings.Contains(err.Error(), "hello.yaml: document 1: a CronJob starts Jobs by its schedule") || !strings.Contains(err.Error(), "kubectl create job NAME --from=cronjob/NAME") {
		t.Errorf("it is refused with %v", err)
	}
}
