package engine

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/cron"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// CreateCronJob stores a CronJob that is validated and has its defaults and UID. Job is what its Jobs are made of, with the defaults of one.
type CreateCronJob struct {
	CronJob *batchv1.CronJob
	Job     *batchv1.Job
	// ZoneRules of the CronJob's time zone, TZif; not needed if it names none.
	ZoneRules []byte
	// User who asked for it.
	User string
}

// UpdateCronJob replaces a CronJob's object. The caller has validated the change. Version, if not 0, must be that of the CronJob.
type UpdateCronJob struct {
	CronJob   *batchv1.CronJob
	Job       *batchv1.Job
	ZoneRules []byte
	Version   uint64
	// Status, if not nil, is written as well.
	Status *CronJobStatus
}

// CronJobStatus is what clients may write of a CronJob's status; zero times for none. Which Jobs are active is seen, not told.
type CronJobStatus struct{ LastSchedule, LastSuccessful time.Time }

// DeleteCronJob removes a CronJob: Background and empty delete its Jobs behind it, Foreground before it, Orphan leaves them without an owner.
// UID, if not empty, must be the CronJob's.
type DeleteCronJob struct {
	Namespace, Name, UID string
	Propagation          metav1.DeletionPropagation
}

// ObserveTimeZone brings the rules of a time zone, TZif, as they are known now.
type ObserveTimeZone struct {
	Name  string
	Rules []byte
}

func (CreateCronJob) command()   {}
func (UpdateCronJob) command()   {}
func (DeleteCronJob) command()   {}
func (ObserveTimeZone) command() {}

// Reasons for which a CronJob deletes Jobs, and that of a schedule without times.
const (
	ReasonReplaced = "ReplaceConcurrent"
	ReasonHistory  = "HistoryLimit"
	reasonOwner    = "CronJobDeleted"
	reasonInvalid  = "InvalidSchedule"
)

// decideCronJob decides the commands that concern CronJobs; not known for any other.
func (d *draft) decideCronJob(command Command) (known bool, err error) {
	switch command := command.(type) {
	case CreateCronJob:
		err = d.createCronJob(command)
	case UpdateCronJob:
		err = d.updateCronJob(command)
	case DeleteCronJob:
		err = d.deleteCronJob(command)
	case ObserveTimeZone:
		err = d.observeZone(command.Name, command.Rules)
	default:
		return false, nil
	}
	return true, err
}

func (d *draft) createCronJob(command CreateCronJob) error {
	object := command.CronJob
	if _, taken := d.state.CronJobOf(object.Namespace, object.Name); taken {
		return reject(AlreadyExists, "cronjobs.batch %q already exists", object.Name)
	}
	if err := d.ofObjects(nil, d.state.Objects.CheckNamespace(object.Namespace)); err != nil {
		return err
	}
	encoded, made, err := encodeCronJob(object, command.Job)
	if err != nil {
		return err
	}
	if err := d.observeZone(zoneName(object), command.ZoneRules); err != nil {
		return err
	}
	d.add(object.Namespace, &event.CronJobCreated{Uid: string(object.UID), Name: object.Name, CronJob: encoded, Job: made, User: command.User})
	return nil
}

func encodeCronJob(object *batchv1.CronJob, job *batchv1.Job) (encoded, made []byte, err error) {
	if encoded, err = json.Marshal(object); err == nil {
		made, err = json.Marshal(job)
	}
	if err != nil {
		return nil, nil, reject(Unfit, "the CronJob cannot be written down: %v", err)
	}
	return encoded, made, nil
}

// observeZone records a zone's rules if they differ from those on record. Nil are not known.
func (d *draft) observeZone(name string, rules []byte) error {
	if name == "" || rules == nil || bytes.Equal(d.state.Zones[name], rules) {
		return nil
	}
	if _, err := cron.Zone(name, rules); err != nil {
		return reject(Unfit, "%v", err)
	}
	d.add("", &event.TimeZoneObserved{Name: name, Rules: rules})
	return nil
}

// cronJob returns the one with the UID, if it has the version.
func (d *draft) cronJob(uid, name string, version uint64) (*CronJob, error) {
	owner, ok := d.state.CronJobs[uid]
	if !ok {
		return nil, reject(NotFound, "cronjobs.batch %q not found", name)
	}
	if version != 0 && version != owner.Version {
		return nil, reject(Conflict, "the CronJob has been modified; please apply your changes to the latest version and try again")
	}
	return owner, nil
}

func (d *draft) updateCronJob(command UpdateCronJob) error {
	owner, err := d.cronJob(string(command.CronJob.UID), command.CronJob.Name, command.Version)
	if err != nil {
		return err
	}
	encoded, made, err := encodeCronJob(command.CronJob, command.Job)
	if err != nil {
		return err
	}
	if err := d.observeZone(zoneName(command.CronJob), command.ZoneRules); err != nil {
		return err
	}
	if command.Status == nil || !apiequality.Semantic.DeepEqual(command.CronJob, owner.Object) {
		d.add(owner.Namespace, &event.CronJobUpdated{Uid: owner.UID, CronJob: encoded, Job: made})
	}
	if status := command.Status; status != nil {
		set := &event.CronJobStatusSet{Uid: owner.UID}
		if !status.LastSchedule.IsZero() {
			set.LastScheduleUnixNano = status.LastSchedule.UnixNano()
		}
		if !status.LastSuccessful.IsZero() {
			set.LastSuccessfulUnixNano = status.LastSuccessful.UnixNano()
		}
		d.add(owner.Namespace, set)
	}
	return nil
}

func (d *draft) deleteCronJob(command DeleteCronJob) error {
	owner, ok := d.state.CronJobOf(command.Namespace, command.Name)
	if !ok {
		return reject(NotFound, "cronjobs.batch %q not found", command.Name)
	}
	if command.UID != "" && command.UID != owner.UID {
		return reject(Conflict, "the UID in the precondition (%s) is not that of the CronJob (%s)", command.UID, owner.UID)
	}
	switch command.Propagation {
	case metav1.DeletePropagationForeground:
		if owner.DeletionRequested.IsZero() {
			d.add(owner.Namespace, &event.CronJobDeletionRequested{Uid: owner.UID})
		}
		d.deleteJobs(owner.byAge(), reasonOwner)
		return nil
	case metav1.DeletePropagationOrphan:
		for _, child := range owner.byAge() {
			object := child.Object.DeepCopy()
			object.OwnerReferences = slices.DeleteFunc(object.OwnerReferences, func(ref metav1.OwnerReference) bool { return string(ref.UID) == owner.UID })
			encoded, err := json.Marshal(object)
			if err != nil {
				return reject(Unfit, "the Job %s cannot be written down: %v", child.Name.Name, err)
			}
			d.add(child.Tenant(), &event.JobUpdated{Uid: child.UID, Job: encoded, SpecDigest: child.Digest, Generation: object.Generation})
		}
	default:
		d.deleteJobs(owner.byAge(), reasonOwner)
	}
	d.add(owner.Namespace, &event.CronJobDeleted{Uid: owner.UID})
	return nil
}

// byAge are the CronJob's Jobs, the oldest first.
func (c *CronJob) byAge() []*Job { return slices.SortedFunc(maps.Keys(c.jobs), compareAge) }

func (d *draft) deleteJobs(jobs []*Job, reason string) {
	for _, child := range jobs {
		if child.DeletionRequested.IsZero() {
			d.add(child.Tenant(), &event.JobDeletionRequested{Uid: child.UID, Reason: reason})
		}
	}
}

// checkController refuses a new Job whose CronJob is not there: it would be collected as garbage at once.
func (s *State) checkController(object *batchv1.Job) error {
	uid := cron.Controller(object)
	if owner, ok := s.CronJobs[uid]; uid != "" && (!ok || owner.Namespace != object.Namespace || !owner.DeletionRequested.IsZero()) {
		return reject(Unfit, "the CronJob with UID %q, which metadata.ownerReferences names as its controller, does not exist or is being deleted", uid)
	}
	return nil
}

// settleCronJobs starts the runs that are due, and removes the Jobs of former ones that are not kept.
func (d *draft) settleCronJobs() {
	s := d.state
	if len(s.work.cronJobs) == 0 {
		return
	}
	marked := slices.SortedFunc(maps.Keys(s.work.cronJobs), func(a, b *CronJob) int { return strings.Compare(a.UID, b.UID) })
	clear(s.work.cronJobs)
	for _, owner := range marked {
		switch {
		case !owner.DeletionRequested.IsZero():
			s.wakeCronJob(owner, time.Time{})
			d.settleDeletion(owner)
		case s.Closed != "" || s.CronJobsHeld:
			s.wakeCronJob(owner, time.Time{})
		default:
			d.clean(owner)
			d.schedule(owner)
		}
	}
}

// settleDeletion removes a CronJob that no Job holds up any more.
func (d *draft) settleDeletion(owner *CronJob) {
	for child := range owner.jobs {
		if controller := metav1.GetControllerOfNoCopy(child.Object); controller.BlockOwnerDeletion != nil && *controller.BlockOwnerDeletion {
			return
		}
	}
	d.add(owner.Namespace, &event.CronJobDeleted{Uid: owner.UID})
}

// clean deletes the finished Jobs that are not kept.
func (d *draft) clean(owner *CronJob) {
	var finished []cron.Finished
	for _, child := range owner.byAge() {
		if child.Ended() && child.DeletionRequested.IsZero() {
			finished = append(finished, cron.Finished{
				Ref: cron.Ref{UID: child.UID, Name: child.Name.Name}, Started: child.Progress.Started, Failed: child.Progress.Has(batchv1.JobFailed),
			})
		}
	}
	for _, ref := range cron.Surplus(&owner.Spec, finished) {
		d.deleteJobs([]*Job{d.state.Jobs[ref.UID]}, ReasonHistory)
	}
}

// schedule starts the run that is due, or says why it does not.
func (d *draft) schedule(owner *CronJob) {
	verdict := cron.Next(&owner.Spec, &owner.Progress, d.now)
	for _, note := range verdict.Notes {
		d.skip(owner, note)
	}
	if !verdict.Start.IsZero() && d.start(owner, verdict) {
		return // Its fact has it looked at again.
	}
	d.state.wakeCronJob(owner, verdict.Wake)
}

// start makes the Job of a run; not where its name is taken, by a Job of the same minute or one that is none of its CronJob's.
func (d *draft) start(owner *CronJob, verdict cron.Verdict) bool {
	name := cron.JobName(owner.Name.Name, verdict.Start)
	failed := func(why string) bool {
		note := cron.Note{Reason: "FailedCreate", Message: "Error creating job: " + why, Scheduled: verdict.Start}
		if told := owner.Progress.Told; told.Reason != note.Reason || !told.Scheduled.Equal(note.Scheduled) {
			d.skip(owner, note)
		}
		return false
	}
	if holder, taken := d.state.JobOf(owner.Namespace, name); taken {
		if holder.cronJob == owner {
			return false
		}
		return failed("jobs.batch \"" + name + "\" already exists")
	}
	if verdict.Replace {
		for _, ref := range owner.Progress.Active {
			// Also one that somebody has deleted and that has not gone yet: it is active no more.
			d.add(owner.Namespace, &event.JobDeletionRequested{Uid: ref.UID, Reason: ReasonReplaced})
		}
	}
	uid := cron.JobUID(owner.UID, d.state.Seq+uint64(len(d.facts))+1)
	object := cron.JobOf(owner.Object, owner.Made, uid, verdict.Start, d.now, owner.Spec.Zone)
	encoded, err := json.Marshal(object)
	if err != nil {
		return failed(err.Error())
	}
	d.add(owner.Namespace, &event.CronJobScheduled{Uid: owner.UID, JobUid: uid, JobName: name, ScheduledUnixNano: verdict.Start.UnixNano()})
	d.add(owner.Namespace, &event.JobCreated{Uid: uid, Name: name, Job: encoded, User: owner.User})
	return true
}

func (d *draft) skip(owner *CronJob, note cron.Note) {
	skipped := &event.CronJobSkipped{Uid: owner.UID, Reason: note.Reason, Message: note.Message}
	if !note.Scheduled.IsZero() {
		skipped.ScheduledUnixNano = note.Scheduled.UnixNano()
	}
	d.add(owner.Namespace, skipped)
}
