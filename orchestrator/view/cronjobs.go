package view

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nightshift-batch/nightshift/orchestrator/cron"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// CronJobs, by the plural name that the API uses.
const CronJobs Resource = "cronjobs"

const byCronJobController = "cronjob-controller"

// cronJobContent is a CronJob with the status that it had.
type cronJobContent struct {
	stored  *batchv1.CronJob // never changed
	status  batchv1.CronJobStatus
	deleted time.Time
}

func cronJobRecord(owner *engine.CronJob) *Record {
	return &Record{key: Key(owner.Name), id: owner.UID, version: owner.Version, content: &cronJobContent{
		stored: owner.Object, status: cron.Status(owner.Namespace, &owner.Progress), deleted: owner.DeletionRequested,
	}}
}

func (c *cronJobContent) labels() labels.Labels { return labels.Set(c.stored.Labels) }
func (c *cronJobContent) fields() fields.Set    { return nil }

func (c *cronJobContent) object() runtime.Object {
	object := c.stored.DeepCopy()
	object.TypeMeta = metav1.TypeMeta{APIVersion: cron.Kind.GroupVersion().String(), Kind: cron.Kind.Kind}
	c.status.DeepCopyInto(&object.Status)
	showDeletion(&object.ObjectMeta, c.deleted)
	return object
}

// concerned returns the CronJob whose appearance or whose users a fact may concern, before the fact is applied; nil for none. One that the
// fact creates is not there yet.
func concerned(state *engine.State, fact *event.Fact) *engine.CronJob {
	uid, child := "", ""
	switch body := fact.Body.(type) {
	case *event.Fact_CronJobUpdated:
		uid = body.CronJobUpdated.GetUid()
	case *event.Fact_CronJobStatusSet:
		uid = body.CronJobStatusSet.GetUid()
	case *event.Fact_CronJobScheduled:
		uid = body.CronJobScheduled.GetUid()
	case *event.Fact_CronJobSkipped:
		uid = body.CronJobSkipped.GetUid()
	case *event.Fact_CronJobDeletionRequested:
		uid = body.CronJobDeletionRequested.GetUid()
	case *event.Fact_CronJobDeleted:
		uid = body.CronJobDeleted.GetUid()
	case *event.Fact_JobConditionSet:
		child = body.JobConditionSet.GetUid()
	case *event.Fact_JobUpdated:
		child = body.JobUpdated.GetUid()
	case *event.Fact_JobDeletionRequested:
		child = body.JobDeletionRequested.GetUid()
	case *event.Fact_JobDeleted:
		child = body.JobDeleted.GetUid()
	case *event.Fact_JobDenied:
		child = body.JobDenied.GetUid()
	}
	if owner, ok := state.Jobs[child]; ok {
		return owner.CronJob()
	}
	return state.CronJobs[uid]
}

// applyWithCronJobs brings the state to what holds after the fact, touches the CronJob of which it has changed something, and makes the events
// that CronJobs have of it.
func (b *batch) applyWithCronJobs(fact *event.Fact) {
	state := b.view.state
	owner := concerned(state, fact)
	if owner != nil {
		b.tell(fact, owner, ofCronJob(state, fact, owner))
		if _, gone := fact.Body.(*event.Fact_CronJobDeleted); gone {
			b.remove(CronJobs, owner.UID)
		}
	}
	state.Apply(fact)
	switch body := fact.Body.(type) {
	case *event.Fact_CronJobCreated:
		b.touch(CronJobs, body.CronJobCreated.GetUid())
	case *event.Fact_JobCreated:
		if child := state.Jobs[body.JobCreated.GetUid()]; child.CronJob() != nil {
			b.tell(fact, child.CronJob(), ofNewJob(child))
		}
	default:
		if owner != nil && owner.Version == state.Seq {
			b.touch(CronJobs, owner.UID)
		}
	}
}

func (b *batch) tell(fact *event.Fact, owner *engine.CronJob, what said) {
	if what.reason == "" {
		return
	}
	seq := b.view.state.Seq
	if _, applied := fact.Body.(*event.Fact_JobCreated); !applied {
		seq++
	}
	about := subject{cron.Kind.GroupVersion().String(), cron.Kind.Kind, owner.Namespace, owner.Name.Name, owner.UID}
	b.events = append(b.events, eventRecord(seq, fact.At(), about, what))
}

// ofNewJob is what a CronJob's users hear of a Job that was created for it.
func ofNewJob(child *engine.Job) said {
	if child.CronJob().Progress.IsActive(child.UID) {
		return said{byCronJobController, "SuccessfulCreate", "Created job " + child.Name.Name, false}
	}
	return said{byCronJobController, "UnexpectedJob", "Saw a job that the controller did not create or forgot: " + child.Name.Name, true}
}

// ofCronJob is what a CronJob's users hear of a fact, in the words of pkg/controller/cronjob/cronjob_controllerv2.go, before it is applied.
func ofCronJob(state *engine.State, fact *event.Fact, owner *engine.CronJob) said {
	name := func(uid string) string { return state.Jobs[uid].Name.Name }
	switch body := fact.Body.(type) {
	case *event.Fact_CronJobSkipped:
		skipped := body.CronJobSkipped
		return said{byCronJobController, skipped.GetReason(), skipped.GetMessage(), skipped.GetReason() != "JobAlreadyActive"}
	case *event.Fact_JobConditionSet:
		set := body.JobConditionSet
		ended := set.GetType() == string(batchv1.JobComplete) || set.GetType() == string(batchv1.JobFailed)
		if ended && owner.Progress.IsActive(set.GetUid()) {
			return said{byCronJobController, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %s", name(set.GetUid()), set.GetType()), false}
		}
	case *event.Fact_JobDeletionRequested:
		requested := body.JobDeletionRequested
		if reason := requested.GetReason(); reason == engine.ReasonReplaced || reason == engine.ReasonHistory {
			return said{byCronJobController, "SuccessfulDelete", "Deleted job " + name(requested.GetUid()), false}
		}
	case *event.Fact_JobDeleted:
		if uid := body.JobDeleted.GetUid(); owner.Progress.IsActive(uid) {
			return said{byCronJobController, "MissingJob", "Active job went missing: " + name(uid), false}
		}
	case *event.Fact_JobDenied:
		denied := body.JobDenied
		return said{byCronJobController, "FailedCreate", fmt.Sprintf("Error creating job: %s was denied by policy: %s", name(denied.GetUid()), strings.Join(denied.GetReasons(), "; ")), true}
	}
	return said{}
}
