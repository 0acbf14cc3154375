package engine

import (
	"encoding/json"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/cron"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// CronJob is a batch/v1 CronJob and how far it has come.
type CronJob struct {
	UID string
	Name
	// Object as stored: defaults filled in, no status. Replaced as a whole, never changed, as is Made, of which its Jobs are made.
	Object *batchv1.CronJob
	Made   *batchv1.Job
	// User who asked for it, and so for its Jobs.
	User     string
	Spec     cron.Spec
	Progress cron.Progress
	// Version is the sequence number of the last fact that changed what clients see of it.
	Version uint64
	Created time.Time
	// DeletionRequested: it goes once the Jobs that hold it up have gone. Zero if not.
	DeletionRequested time.Time

	// jobs that it controls, whoever made them.
	jobs map[*Job]bool
	// wake is when its timer rings.
	wake time.Time
}

// CronJob that controls the Job; nil for none that is there.
func (j *Job) CronJob() *CronJob { return j.cronJob }

// CronJobOf returns the CronJob that holds a name.
func (s *State) CronJobOf(namespace, name string) (*CronJob, bool) {
	found, ok := s.CronJobs[s.CronJobNames[Name{namespace, name}]]
	return found, ok
}

func (s *State) applyToCronJob(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_CronJobCreated:
		s.createCronJob(body.CronJobCreated)
	case *event.Fact_CronJobUpdated:
		s.updateCronJob(body.CronJobUpdated)
	case *event.Fact_CronJobStatusSet:
		progress := &s.touchCronJob(body.CronJobStatusSet.GetUid()).Progress
		progress.LastSchedule = timeOf(body.CronJobStatusSet.GetLastScheduleUnixNano())
		progress.LastSuccessful = timeOf(body.CronJobStatusSet.GetLastSuccessfulUnixNano())
		progress.Rescheduled = time.Time{} // Who says when the last run was says what is due.
	case *event.Fact_CronJobScheduled:
		run := body.CronJobScheduled
		s.touchCronJob(run.GetUid()).Progress.Start(cron.Ref{UID: run.GetJobUid(), Name: run.GetJobName()}, timeOf(run.GetScheduledUnixNano()))
	case *event.Fact_CronJobSkipped:
		skipped := body.CronJobSkipped
		s.mustCronJob(skipped.GetUid()).Progress.Told = cron.Note{
			Reason: skipped.GetReason(), Message: skipped.GetMessage(), Scheduled: timeOf(skipped.GetScheduledUnixNano()),
		}
	case *event.Fact_CronJobDeletionRequested:
		s.touchCronJob(body.CronJobDeletionRequested.GetUid()).DeletionRequested = s.Now
	case *event.Fact_CronJobDeleted:
		s.removeCronJob(s.mustCronJob(body.CronJobDeleted.GetUid()))
	case *event.Fact_TimeZoneObserved:
		s.observeZone(body.TimeZoneObserved)
	default:
		return false
	}
	return true
}

func (s *State) createCronJob(created *event.CronJobCreated) {
	owner := &CronJob{
		UID: created.GetUid(), User: created.GetUser(), Created: s.Now, jobs: make(map[*Job]bool), Progress: cron.Progress{Created: s.Now},
	}
	s.readCronJob(owner, created.GetCronJob(), created.GetJob())
	owner.Name = Name{owner.Object.Namespace, created.GetName()}
	s.CronJobs[owner.UID] = owner
	s.CronJobNames[owner.Name] = owner.UID
	s.enterNamespace(owner.Namespace)
	s.touchCronJob(owner.UID)
}

// updateCronJob replaces the object. Times of a new schedule are due from now on.
func (s *State) updateCronJob(updated *event.CronJobUpdated) {
	owner := s.touchCronJob(updated.GetUid())
	before := owner.Object
	s.readCronJob(owner, updated.GetCronJob(), updated.GetJob())
	if owner.Object.Spec.Schedule != before.Spec.Schedule || zoneName(owner.Object) != zoneName(before) {
		owner.Progress.Rescheduled = s.Now
	}
	owner.Progress.Told = cron.Note{}
}

func (s *State) readCronJob(owner *CronJob, object, made []byte) {
	owner.Object = new(batchv1.CronJob)
	if err := json.Unmarshal(object, owner.Object); err != nil {
		panic(fmt.Sprintf("engine: the CronJob in fact %d cannot be read: %v", s.Seq, err))
	}
	owner.Made = decodeJob(made, s.Seq)
	s.specify(owner)
}

// specify reads the spec, with the zone's rules on record.
func (s *State) specify(owner *CronJob) {
	var zone *time.Location
	if rules, known := s.Zones[zoneName(owner.Object)]; known {
		var err error
		if zone, err = cron.Zone(zoneName(owner.Object), rules); err != nil {
			panic(fmt.Sprintf("engine: at fact %d: %v", s.Seq, err))
		}
	}
	owner.Spec = cron.SpecOf(owner.Object, zone)
}

// zoneName is empty if the CronJob names none.
func zoneName(object *batchv1.CronJob) string {
	if object.Spec.TimeZone == nil {
		return ""
	}
	return *object.Spec.TimeZone
}

func (s *State) observeZone(observed *event.TimeZoneObserved) {
	s.Zones[observed.GetName()] = observed.GetRules()
	for _, owner := range s.CronJobs {
		if zoneName(owner.Object) == observed.GetName() {
			s.specify(owner)
			s.work.cronJobs[owner] = true
		}
	}
}

func (s *State) removeCronJob(owner *CronJob) {
	for child := range owner.jobs {
		child.cronJob = nil
	}
	delete(s.CronJobs, owner.UID)
	delete(s.CronJobNames, owner.Name)
	delete(s.work.cronJobs, owner)
	s.wakeCronJob(owner, time.Time{})
	s.leaveNamespace(owner.Namespace)
	s.Objects.OwnerChanged(owner.UID)
}

func (s *State) mustCronJob(uid string) *CronJob {
	owner, ok := s.CronJobs[uid]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names CronJob %q, which does not exist", s.Seq, uid))
	}
	return owner
}

func (s *State) touchCronJob(uid string) *CronJob {
	owner := s.mustCronJob(uid)
	owner.Version = s.Seq
	s.work.cronJobs[owner] = true
	return owner
}

// joinCronJob ties a Job to the CronJob that its object names as its controller.
func (s *State) joinCronJob(child *Job) {
	var controller *CronJob
	if len(child.Object.OwnerReferences) > 0 {
		controller = s.CronJobs[cron.Controller(child.Object)]
	}
	if child.cronJob == controller {
		return
	}
	s.leaveCronJob(child)
	if child.cronJob = controller; controller != nil {
		controller.jobs[child] = true
		s.work.cronJobs[controller] = true
	}
}

// leaveCronJob unties a Job that is gone, or has another controller.
func (s *State) leaveCronJob(child *Job) {
	if child.cronJob != nil {
		s.noLongerActive(child)
		s.work.cronJobs[child.cronJob] = true
		delete(child.cronJob.jobs, child)
		child.cronJob = nil
	}
}

// jobEnded notes the end of a Job for its CronJob.
func (s *State) jobEnded(child *Job) {
	if child.cronJob == nil {
		return
	}
	s.noLongerActive(child)
	s.work.cronJobs[child.cronJob] = true
	if child.Progress.Has(batchv1.JobComplete) && s.Now.After(child.cronJob.Progress.LastSuccessful) {
		child.cronJob.Progress.LastSuccessful, child.cronJob.Version = s.Now, s.Seq
	}
}

// jobGoes notes that a Job is deleted: one that its CronJob replaces is active no more, others are until they are gone.
func (s *State) jobGoes(child *Job, reason string) {
	if child.cronJob != nil && reason == ReasonReplaced {
		s.noLongerActive(child)
	}
}

func (s *State) noLongerActive(child *Job) {
	if child.cronJob.Progress.Leave(child.UID) {
		child.cronJob.Version = s.Seq
	}
}

// cronJobs holds what is counted of CronJobs against their Jobs.
func (c *checker) cronJobs() {
	controlled := 0
	for _, uid := range sortedKeys(c.state.CronJobs) {
		owner := c.state.CronJobs[uid]
		name := owner.Name.Name
		named, ok := c.state.CronJobOf(owner.Namespace, name)
		c.holds(ok && named == owner, "cronjob %s does not hold its name", name)
		for _, ref := range owner.Progress.Active {
			active, ok := c.state.Jobs[ref.UID]
			c.holds(ok && active.cronJob == owner && !active.Ended(), "cronjob %s counts Job %s as active, which has ended, is gone or is another's", name, ref.Name)
		}
		ended := map[bool]int32{}
		for child := range owner.jobs {
			controlled++
			c.holds(c.state.Jobs[child.UID] == child && child.cronJob == owner, "cronjob %s holds Job %s, which is gone or another's", name, child.Name.Name)
			if child.Ended() && child.DeletionRequested.IsZero() {
				ended[child.Progress.Has(batchv1.JobFailed)]++
			}
		}
		if c.state.work.cronJobs[owner] {
			continue // It is still to be looked at.
		}
		if c.state.Closed != "" || c.state.CronJobsHeld || !owner.DeletionRequested.IsZero() {
			c.holds(owner.wake.IsZero(), "cronjob %s starts nothing, and wakes at %s", name, owner.wake)
			continue
		}
		for failed, keep := range map[bool]int32{false: owner.Spec.KeepSuccessful, true: owner.Spec.KeepFailed} {
			c.holds(keep == cron.Unlimited || ended[failed] <= keep, "cronjob %s keeps %d finished Jobs, of which it is to keep %d", name, ended[failed], keep)
		}
		silent := owner.Spec.Suspended || owner.Spec.Problem != nil || owner.Progress.Told.Reason == reasonInvalid
		c.holds(silent == owner.wake.IsZero(), "cronjob %s, suspended %v, wakes at %s", name, owner.Spec.Suspended, owner.wake)
	}
	for _, child := range c.state.Jobs {
		if child.cronJob != nil {
			controlled--
		}
	}
	c.holds(controlled == 0, "%d more Jobs are held by CronJobs than are controlled by them", controlled)
}
