package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// follower knows how far some Jobs are. One goroutine works on it; watches feed it.
type follower struct {
	server *Server
	show   screen.Display
	logs   *logs
	began  time.Time
	jobs   []*followed
	byName map[string]*followed
	// owner and node of each pod that the events have named.
	owner map[string]*followed
	node  map[string]string
	seen  chan watch.Event
	// watched are the namespaces whose events are watched.
	watched map[string]bool
}

// followed is one Job.
type followed struct {
	job     *batchv1.Job
	told    map[batchv1.JobConditionType]bool
	evicted int32
	receipt *receipt
	deleted bool
}

func newFollower(server *Server, show screen.Display, follow bool) *follower {
	f := &follower{
		server: server, show: show, began: time.Now(), byName: make(map[string]*followed), owner: make(map[string]*followed),
		node: make(map[string]string), seen: make(chan watch.Event), watched: make(map[string]bool),
	}
	if follow {
		f.logs = &logs{server: server, show: show}
	}
	return f
}

// add begins to follow a Job.
func (f *follower) add(ctx context.Context, job *batchv1.Job) error {
	one := &followed{job: job, told: make(map[batchv1.JobConditionType]bool)}
	f.jobs = append(f.jobs, one)
	f.byName[job.Namespace+"/"+job.Name] = one
	jobs := f.server.client.BatchV1().Jobs(job.Namespace)
	selector := fields.OneTermEqualSelector("metadata.name", job.Name).String()
	err := f.feed(ctx, nil, job.ResourceVersion, func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.FieldSelector = selector
		return jobs.Watch(ctx, options)
	})
	if err != nil || f.watched[job.Namespace] {
		return err
	}
	f.watched[job.Namespace] = true
	events := f.server.client.CoreV1().Events(job.Namespace)
	// What went before a Job was found tells which pods are its own, and how many were evicted.
	list, err := events.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	// They are listed by name; their versions have the order in which they happened, and grow in length alone.
	slices.SortFunc(list.Items, func(a, b corev1.Event) int {
		return cmp.Or(cmp.Compare(len(a.ResourceVersion), len(b.ResourceVersion)), cmp.Compare(a.ResourceVersion, b.ResourceVersion))
	})
	return f.feed(ctx, list.Items, list.ResourceVersion, events.Watch)
}

// errGone: the server has forgotten what happened since.
var errGone = errors.New("the server does not keep what happened since the last thing that it told; run again to go on following")

// feed sends what went before, and then what a watch brings, to the follower.
func (f *follower) feed(ctx context.Context, before []corev1.Event, version string, begin func(context.Context, metav1.ListOptions) (watch.Interface, error)) error {
	watching, err := watchFrom(ctx, version, begin)
	if err != nil {
		return err
	}
	go func() {
		defer watching.Stop()
		for i := range before {
			f.send(ctx, watch.Event{Type: watch.Added, Object: &before[i]})
		}
		for event := range watching.ResultChan() {
			f.send(ctx, event)
		}
	}()
	return nil
}

func (f *follower) send(ctx context.Context, event watch.Event) {
	select {
	case f.seen <- event:
	case <-ctx.Done():
	}
}

// run shows what happens until all Jobs have ended.
func (f *follower) run(ctx context.Context) (concluded []screen.Conclusion, err error) {
	defer func() { f.logs.wait(err == nil) }()
	for _, one := range f.jobs {
		f.look(one, one.job)
	}
	for !f.done() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case event := <-f.seen:
			if event.Type == watch.Error {
				err := apierrors.FromObject(event.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					err = errGone
				}
				return nil, err
			}
			f.take(ctx, event)
		}
	}
	var deleted []string
	for _, one := range f.jobs {
		if one.deleted {
			deleted = append(deleted, one.job.Name)
			continue
		}
		concluded = append(concluded, f.conclude(one))
	}
	if len(deleted) > 0 {
		return concluded, &DeletedError{deleted}
	}
	return concluded, nil
}

func (f *follower) done() bool {
	for _, one := range f.jobs {
		if !one.deleted && (ended(one.job) == nil || one.receipt == nil) {
			return false
		}
	}
	return true
}

func (f *follower) take(ctx context.Context, event watch.Event) {
	switch object := event.Object.(type) {
	case *batchv1.Job:
		if one := f.byName[object.Namespace+"/"+object.Name]; one != nil && one.job.UID == object.UID {
			// One that was deleted before its end has a receipt as well, which may be heard of first.
			one.deleted = event.Type == watch.Deleted && (one.receipt == nil || ended(object) == nil)
			f.look(one, object)
		}
	case *corev1.Event:
		if event.Type == watch.Added {
			f.hear(ctx, object)
		}
	}
}

// look takes in what a Job has become.
func (f *follower) look(one *followed, job *batchv1.Job) {
	one.job = job
	for _, condition := range job.Status.Conditions {
		if condition.Status == corev1.ConditionTrue && !one.told[condition.Type] {
			one.told[condition.Type] = true
			f.tell(condition.LastTransitionTime.Time, condition.Type == batchv1.JobFailureTarget,
				"job %s: %s (%s): %s", job.Name, condition.Type, condition.Reason, condition.Message)
		}
	}
	f.count()
}

func (f *follower) count() {
	var now screen.Tally
	for _, one := range f.jobs {
		status := &one.job.Status
		wanted := max(1, status.Succeeded+status.Active) // a work queue
		if one.job.Spec.Completions != nil {
			wanted = *one.job.Spec.Completions
		}
		now.Wanted += wanted
		now.Succeeded += status.Succeeded
		now.Failed += status.Failed
		now.Evicted += one.evicted
		if status.Ready != nil {
			now.Running += *status.Ready
		}
	}
	now.Pace(time.Since(f.began))
	f.show.Count(now)
}

func (f *follower) tell(at time.Time, trouble bool, format string, arguments ...any) {
	f.show.Tell(screen.Change{At: at, Trouble: trouble, Text: fmt.Sprintf(format, arguments...)})
}

// hear takes in an event: what is not about these Jobs or their pods is not shown.
func (f *follower) hear(ctx context.Context, event *corev1.Event) {
	about := &event.InvolvedObject
	at := event.LastTimestamp.Time
	switch about.Kind {
	case "Job":
		if one := f.byName[about.Namespace+"/"+about.Name]; one != nil && one.job.UID == about.UID {
			f.hearOfJob(one, event)
		}
	case "Pod":
		pod := about.Namespace + "/" + about.Name
		one := f.owner[pod]
		if one == nil {
			return
		}
		trouble := event.Type == corev1.EventTypeWarning
		switch event.Reason {
		case "Scheduled":
			_, place, _ := strings.Cut(event.Message, " to ")
			f.node[pod], _, _ = strings.Cut(place, ":")
		case "Started":
			f.tell(at, false, "pod %s started on %s", about.Name, f.node[pod])
			f.logs.begin(ctx, one.job, about.Name)
		case "FailedScheduling":
			f.tell(at, trouble, "pod %s waits: %s", about.Name, event.Message)
		case "Succeeded":
			f.tell(at, false, "pod %s succeeded", about.Name)
		case "Evicted":
			one.evicted++
			f.count()
			f.tell(at, trouble, "pod %s was evicted: %s", about.Name, event.Message)
		default:
			f.tell(at, trouble, "pod %s: %s", about.Name, event.Message)
		}
	}
}

func (f *follower) hearOfJob(one *followed, event *corev1.Event) {
	switch event.Reason {
	case "SuccessfulCreate":
		if pod, ok := strings.CutPrefix(event.Message, "Created pod: "); ok {
			f.owner[one.job.Namespace+"/"+pod] = one
		}
	case "Receipt":
		one.receipt = readReceipt(event.Message)
		f.tell(event.LastTimestamp.Time, false, "job %s: %s", one.job.Name, event.Message)
	case "Launching", "LaunchFellShort":
		f.tell(event.LastTimestamp.Time, event.Type == corev1.EventTypeWarning, "job %s: %s", one.job.Name, event.Message)
	}
}

// receipt is what the event that tells of it says.
type receipt struct {
	paid, currency, onDemand string
	attempts                 int64
	evicted                  int32
}

// readReceipt leaves empty what a server of another version words otherwise.
func readReceipt(message string) *receipt {
	read := &receipt{}
	if n, err := fmt.Sscanf(message, "Cost %s %s for %d attempts, of which %d were evicted; on demand it would have been %s",
		&read.paid, &read.currency, &read.attempts, &read.evicted, &read.onDemand); err != nil || n != 5 {
		return &receipt{}
	}
	return read
}

// conclude is what a Job came to.
func (f *follower) conclude(one *followed) screen.Conclusion {
	job, receipt, end := one.job, one.receipt, ended(one.job)
	concluded := screen.Conclusion{
		Report: screen.Report{
			Name: job.Name, Namespace: job.Namespace, UID: string(job.UID), Status: string(end.Type), Reason: end.Reason, Message: end.Message,
			Succeeded: job.Status.Succeeded, Failed: job.Status.Failed, Evicted: receipt.evicted, CompletedIndexes: job.Status.CompletedIndexes,
			CompletionTime: end.LastTransitionTime.UTC().Format(time.RFC3339), TraceID: telemetry.TraceID(string(job.UID)),
			Cost: screen.Cost{Spot: receipt.paid, OnDemand: receipt.onDemand, Currency: receipt.currency},
		},
		Completions: -1, Attempts: receipt.attempts, Saved: -1, Took: took(job, end.LastTransitionTime.Time), Server: f.server.URL,
	}
	if job.Spec.Completions != nil {
		concluded.Completions = *job.Spec.Completions
	}
	if job.Status.FailedIndexes != nil {
		concluded.Report.FailedIndexes = *job.Status.FailedIndexes
	}
	if job.Status.StartTime != nil {
		concluded.Report.StartTime = job.Status.StartTime.UTC().Format(time.RFC3339)
	}
	return concluded
}
