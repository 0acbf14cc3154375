package engine

import (
	"encoding/json"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/cron"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// cronJobVerb carries out a line that is about CronJobs.
func (s *story) cronJobVerb(word string, a arguments) []string {
	switch word {
	case "cronjob":
		object := a.cronJob()
		return s.submit(CreateCronJob{CronJob: object, Job: a.made(object), ZoneRules: a.zoneRules(object), User: a.settings["user"]})
	case "update-cronjob":
		owner, _ := s.state.CronJobOf("default", a.names[0])
		object := owner.Object.DeepCopy()
		a.overlayCronJob(object)
		return s.submit(UpdateCronJob{CronJob: object, Job: a.made(object), ZoneRules: a.zoneRules(object)})
	case "delete-cronjob":
		return s.submit(DeleteCronJob{Namespace: "default", Name: a.names[0], Propagation: metav1.DeletionPropagation(a.settings["propagation"])})
	case "ran-cronjob":
		owner, _ := s.state.CronJobOf("default", a.names[0])
		return s.submit(UpdateCronJob{CronJob: owner.Object, Job: owner.Made, Status: &CronJobStatus{LastSchedule: s.now.Add(-a.duration(a.settings["ago"]))}})
	case "from":
		// As kubectl create job NAME --from=cronjob/CRONJOB.
		owner, _ := s.state.CronJobOf("default", a.settings["cronjob"])
		command := a.job()
		controls := true
		command.Job.Annotations = map[string]string{"cronjob.kubernetes.io/instantiate": "manual"}
		command.Job.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: a.settings["cronjob"], UID: types.UID(owner.UID), Controller: &controls}}
		return s.submit(command)
	case "job-object":
		owner, _ := s.state.JobOf("default", a.names[0])
		return encoded(s, owner.Object.ObjectMeta)
	case "cronjob-status":
		owner, ok := s.state.CronJobOf("default", a.names[0])
		if !ok {
			return []string{"not found"}
		}
		return encoded(s, cron.Status(owner.Namespace, &owner.Progress))
	}
	s.t.Fatalf("a story has no verb %q", word)
	return nil
}

func encoded(s *story, shown any) []string {
	text, err := json.Marshal(shown)
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{string(text)}
}

// jobUID is that of the Job with the name, or what it would be.
func (s *story) jobUID(name string) string {
	if owner, ok := s.state.JobOf("default", name); ok {
		return owner.UID
	}
	return "uid-" + name
}

// cronJob reads schedule=, in which "_" stands for a space, zone=, policy= and spec=JSON; the rest is as for a Job.
func (a arguments) cronJob() *batchv1.CronJob {
	name := a.names[0]
	object := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}}
	object.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
	object.Spec.SuccessfulJobsHistoryLimit, object.Spec.FailedJobsHistoryLimit = a.int32("successful", 3), a.int32("failed", 1)
	template := arguments{s: a.s, names: a.names, settings: map[string]string{"completions": "1", "backoff": "0"}}.job().Job
	object.Spec.JobTemplate.Spec = template.Spec
	a.overlayCronJob(object)
	return object
}

func (a arguments) overlayCronJob(object *batchv1.CronJob) {
	if schedule, given := a.settings["schedule"]; given {
		object.Spec.Schedule = strings.ReplaceAll(schedule, "_", " ")
	}
	if zone, given := a.settings["zone"]; given {
		object.Spec.TimeZone = &zone
	}
	if policy, given := a.settings["policy"]; given {
		object.Spec.ConcurrencyPolicy = batchv1.ConcurrencyPolicy(policy)
	}
	if suspend, given := a.settings["suspend"]; given {
		suspended := suspend == "true"
		object.Spec.Suspend = &suspended
	}
	if text := a.settings["spec"]; text != "" {
		if err := json.Unmarshal([]byte(text), &object.Spec); err != nil {
			a.s.t.Fatalf("%s: %v", text, err)
		}
	}
}

// made is what the CronJob's Jobs are made of.
func (a arguments) made(object *batchv1.CronJob) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Labels: object.Spec.JobTemplate.Labels, Annotations: object.Spec.JobTemplate.Annotations}, Spec: object.Spec.JobTemplate.Spec}
}

// zoneRules are those of the zone, as the edge reads them; nil if it does not know any.
func (a arguments) zoneRules(object *batchv1.CronJob) []byte {
	if object.Spec.TimeZone == nil {
		return nil
	}
	rules, err := manifest.ZoneRules(*object.Spec.TimeZone, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return nil
	}
	return rules
}
