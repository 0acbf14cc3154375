package view_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

var all = []view.Resource{view.Jobs, view.CronJobs, view.Pods, view.Nodes, view.Namespaces, view.Events}

// shown are the objects of a list by name, and its version.
func shown(v *view.View, resource view.Resource, selection view.Selection) (map[string]metav1.Object, uint64) {
	records, version := v.List(resource, selection)
	objects := make(map[string]metav1.Object, len(records))
	for _, record := range records {
		object := record.Object().(metav1.Object)
		objects[object.GetNamespace()+"/"+object.GetName()] = object
	}
	return objects, version
}

func TestAWatchFromAnyVersionLeadsToWhatAListShows(t *testing.T) {
	w := newWorld(t, view.Options{})
	type begun struct {
		objects map[view.Resource]map[string]metav1.Object
		version uint64
	}
	var lists []begun
	list := func() {
		b := begun{objects: map[view.Resource]map[string]metav1.Object{}}
		for _, resource := range all {
			b.objects[resource], b.version = shown(w.view, resource, view.Selection{})
		}
		lists = append(lists, b)
	}
	list()
	night(w)
	cronNight(w)
	// The same night is fed to a second view batch by batch, with a list after each.
	first := w.view
	w.view = view.New(view.Options{})
	seq := uint64(1)
	for _, batch := range w.log {
		w.view.Observe(seq, batch)
		seq += uint64(len(batch))
		list()
	}
	for _, resource := range all {
		want, version := shown(first, resource, view.Selection{})
		again, _ := shown(w.view, resource, view.Selection{})
		if !apiequality.Semantic.DeepEqual(again, want) {
			t.Errorf("%s: the same facts show something else", resource)
		}
		for _, from := range lists {
			ctx, cancel := context.WithCancel(context.Background())
			watching, err := first.Watch(ctx, resource, view.Selection{}, view.WatchOptions{
				After: from.version, BookmarkEvery: time.Millisecond, New: newObject(resource),
			})
			if err != nil {
				t.Fatal(err)
			}
			f := newFollower()
			for name, object := range from.objects[resource] {
				f.objects[name] = object
			}
			for f.version != strconv.FormatUint(version, 10) {
				e, open := next(t, watching)
				if !open {
					t.Fatal("the watch ended")
				}
				f.take(t, e)
			}
			cancel()
			for _, objects := range []map[string]metav1.Object{f.objects, want} {
				for _, object := range objects {
					object.SetResourceVersion("") // of several objects of one fact, all but the last are told with the one before
				}
			}
			if !apiequality.Semantic.DeepEqual(f.objects, want) {
				t.Errorf("%s: a watch after %d leads to %d objects, a list shows %d", resource, from.version, len(f.objects), len(want))
			}
		}
	}
}

func TestAWatchThatEndsBetweenTwoObjectsOfOneFactMissesNone(t *testing.T) {
	w := newWorld(t, view.Options{})
	w.create("a", 4, nil)
	w.supply()
	var done []engine.Command
	for _, pod := range w.livePods() {
		done = append(done, w.report(pod, engine.ReportSucceeded, 0))
	}
	w.do(done...)
	for _, node := range w.state.Nodes {
		w.do(engine.InstanceGone{Provider: "local", InstanceID: node.InstanceID, Cause: "released"})
	}
	_, before := w.view.List(view.Pods, view.Selection{})
	w.do(engine.DeleteJob{Namespace: "default", Name: "a"})
	deleted := map[string]bool{}
	for version := before; len(deleted) < 4; {
		watching, err := w.view.Watch(context.Background(), view.Pods, view.Selection{}, view.WatchOptions{After: version, New: newObject(view.Pods)})
		if err != nil {
			t.Fatal(err)
		}
		// Of each watch, one event more than is known is read; then the connection breaks.
		for range len(deleted) + 1 {
			e, open := next(t, watching)
			if !open || e.Type != watch.Deleted {
				t.Fatalf("%v, %v", e, open)
			}
			pod := e.Object.(*corev1.Pod)
			deleted[pod.Name] = true
			if version, err = strconv.ParseUint(pod.ResourceVersion, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		watching.Stop()
	}
}

func TestSelectorsChooseAndAWatchTellsWhenAnObjectEntersOrLeavesThem(t *testing.T) {
	w := newWorld(t, view.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pending := view.Selection{Namespace: "default", Fields: fields.ParseSelectorOrDie("status.phase=Pending")}
	watching, err := w.view.Watch(ctx, view.Pods, pending, view.WatchOptions{After: w.view.Seq(), New: newObject(view.Pods)})
	if err != nil {
		t.Fatal(err)
	}
	w.create("a", 2, map[string]string{"team": "red"})
	w.create("b", 1, map[string]string{"team": "blue"})
	w.supply()
	for _, pod := range w.livePods() {
		w.do(w.report(pod, engine.ReportRunning, 0))
	}
	f := newFollower()
	for f.counts[watch.Deleted] < 3 {
		e, _ := next(t, watching)
		f.take(t, e)
	}
	if f.counts[watch.Added] != 3 || len(f.objects) != 0 {
		t.Errorf("events %v, left %d", f.counts, len(f.objects))
	}
	for selector, want := range map[string]int{"team=red": 1, "team in (red,blue)": 2, "!team": 0, "team!=red": 1} {
		chosen, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := w.view.List(view.Jobs, view.Selection{Labels: chosen}); len(got) != want {
			t.Errorf("jobs %s: %d, want %d", selector, len(got), want)
		}
	}
	for selector, want := range map[string]int{"job=a": 2, "job=a,batch.kubernetes.io/job-completion-index=1": 1, "batch.kubernetes.io/job-completion-index": 3} {
		chosen, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := w.view.List(view.Pods, view.Selection{Labels: chosen}); len(got) != want {
			t.Errorf("pods %s: %d, want %d", selector, len(got), want)
		}
	}
	for _, c := range []struct {
		resource view.Resource
		selector string
		want     int
	}{
		{view.Jobs, "metadata.name=a", 1}, {view.Jobs, "metadata.name!=a", 1}, {view.Jobs, "metadata.name=a,metadata.namespace=other", 0},
		{view.Pods, "status.phase=Running", 3}, {view.Pods, "spec.nodeName=none", 0}, {view.Nodes, "metadata.name=none", 0},
		{view.Events, "involvedObject.kind=Job,involvedObject.name=a,reason=SuccessfulCreate", 2}, {view.Namespaces, "metadata.name=default", 1},
	} {
		if got, _ := w.view.List(c.resource, view.Selection{Fields: fields.ParseSelectorOrDie(c.selector)}); len(got) != c.want {
			t.Errorf("%s %s: %d, want %d", c.resource, c.selector, len(got), c.want)
		}
	}
}

func TestWhoAsksForWhatTheWindowHasForgottenIsToldExpired(t *testing.T) {
	w := newWorld(t, view.Options{Window: 8, MaxEvents: 5})
	start := w.view.Seq()
	slow, err := w.view.Watch(context.Background(), view.Pods, view.Selection{}, view.WatchOptions{After: start, New: newObject(view.Pods)})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Stop()
	night(w)
	if _, err := w.view.Watch(context.Background(), view.Pods, view.Selection{}, view.WatchOptions{After: start}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch after %d: %v", start, err)
	}
	// The slow one reads what it took before, then is cut off.
	for {
		e, open := next(t, slow)
		if !open {
			t.Fatal("the slow watch ended without an error")
		}
		if e.Type == watch.Error {
			if status := e.Object.(*metav1.Status); status.Code != 410 || status.Reason != metav1.StatusReasonExpired {
				t.Errorf("cut off with %v", status)
			}
			break
		}
	}
	if _, open := next(t, slow); open {
		t.Error("the slow watch goes on after its error")
	}
	if events, _ := w.view.List(view.Events, view.Selection{}); len(events) != 5 {
		t.Errorf("%d events are kept, want 5", len(events))
	}
}

func TestAWatchListEndsItsBeginningWithABookmark(t *testing.T) {
	w := newWorld(t, view.Options{})
	w.create("a", 2, nil)
	watching, err := w.view.Watch(context.Background(), view.Pods, view.Selection{}, view.WatchOptions{Initial: true, InitialEnd: true, New: newObject(view.Pods)})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	var types []watch.EventType
	for range 3 {
		e, _ := next(t, watching)
		types = append(types, e.Type)
		if e.Type == watch.Bookmark {
			pod := e.Object.(*corev1.Pod)
			if pod.Annotations[metav1.InitialEventsAnnotationKey] != "true" || pod.ResourceVersion != strconv.FormatUint(w.view.Seq(), 10) {
				t.Errorf("bookmark %v", pod.ObjectMeta)
			}
		}
	}
	if !slices.Equal(types, []watch.EventType{watch.Added, watch.Added, watch.Bookmark}) {
		t.Errorf("events %v", types)
	}
	w.supply()
	if e, _ := next(t, watching); e.Type != watch.Modified {
		t.Errorf("after the beginning comes %v", e)
	}
}

func TestWatchersReadWhileFactsArrive(t *testing.T) {
	w := newWorld(t, view.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wait sync.WaitGroup
	for i := range 8 {
		watching, err := w.view.Watch(ctx, all[i%len(all)], view.Selection{}, view.WatchOptions{Initial: true, New: newObject(all[i%len(all)])})
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			for range watching.ResultChan() {
				w.view.List(view.Pods, view.Selection{Fields: fields.ParseSelectorOrDie("status.phase=Running")})
			}
		})
	}
	reached := make(chan error, 1)
	go func() { reached <- w.view.WaitFor(ctx, 60) }()
	night(w)
	if err := <-reached; err != nil {
		t.Error(err)
	}
	cancel()
	wait.Wait()
	if err := w.view.WaitFor(ctx, w.view.Seq()+1); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for a fact that never came: %v", err)
	}
}

func TestJobsPodsNodesAndEventsShowWhatHappened(t *testing.T) {
	w := newWorld(t, view.Options{})
	night(w)
	var reasons []string
	records, _ := w.view.List(view.Events, view.Selection{})
	for _, record := range records {
		e := record.Object().(*corev1.Event)
		reasons = append(reasons, e.InvolvedObject.Kind+" "+e.Type+" "+e.Reason)
		if e.Message == "" || e.FirstTimestamp.IsZero() || e.UID == "" {
			t.Errorf("event without message, time or UID: %v", e)
		}
	}
	for _, want := range []string{
		"Job Normal Admitted", "Job Normal SuccessfulCreate", "Job Normal Launching", "Job Normal Completed", "Job Normal Receipt",
		"Pod Normal Scheduled", "Pod Normal Started", "Pod Warning Failed", "Pod Warning Evicted", "Pod Warning Killing", "Pod Normal Succeeded",
		"Node Normal NodeReady", "Node Warning Interruption", "Node Normal Gone",
	} {
		if !slices.Contains(reasons, want) {
			t.Errorf("no event %q in\n%s", want, strings.Join(reasons, "\n"))
		}
	}
	record, ok := w.view.Get(view.Jobs, view.Key{Namespace: "default", Name: "a"})
	if !ok {
		t.Fatal("Job a is not shown")
	}
	if got := record.Object().(*batchv1.Job); got.Status.Succeeded != 0 || *got.Spec.Completions != 1 {
		t.Errorf("the second Job a shows %v", got.Status)
	}
	if _, ok := w.view.Get(view.Jobs, view.Key{Namespace: "default", Name: "b"}); ok {
		t.Error("Job b is shown though deleted")
	}
	if there, _ := w.view.List(view.Jobs, view.Selection{Namespace: "default"}); len(there) != 1 {
		t.Errorf("%d Jobs in default", len(there))
	}
	w.supply()
	nodes, _ := w.view.List(view.Nodes, view.Selection{})
	if len(nodes) != 1 {
		t.Fatalf("%d nodes", len(nodes))
	}
	node := nodes[0].Object().(*corev1.Node)
	cpu, memory := node.Status.Allocatable.Cpu().String(), node.Status.Allocatable.Memory().String()
	if got := fmt.Sprint(node.Labels["kubernetes.io/arch"], node.Labels[view.LabelMarket], cpu, memory, node.Status.Conditions[0].Status); got != "amd64spot24GiTrue" {
		t.Errorf("node shows %s", got)
	}
	w.do(engine.NoticeInstance{Provider: "local", InstanceID: node.Status.NodeInfo.MachineID, Deadline: w.now.Add(time.Minute), Cause: "test"})
	record, _ = w.view.Get(view.Nodes, view.Key{Name: node.Name})
	if node := record.Object().(*corev1.Node); !node.Spec.Unschedulable || len(node.Spec.Taints) != 2 {
		t.Errorf("a noticed node shows %v", node.Spec)
	}
}

// said are the events of a Job, in order, with type and message.
func (w *world) said(job string) (events []string) {
	records, _ := w.view.List(view.Events, view.Selection{})
	for _, record := range records {
		if e := record.Object().(*corev1.Event); e.InvolvedObject.Kind == "Job" && e.InvolvedObject.Name == job && e.Source.Component == "job-controller" {
			events = append(events, e.Type+" "+e.Reason+" "+e.Message)
		}
	}
	return events
}

// The reasons are those of pkg/controller/job/job_controller.go and pkg/controller/controller_utils.go.
func TestTheEventsOfAJobAreThoseOfItsController(t *testing.T) {
	w := newWorld(t, view.Options{})
	change := func(uid string, what func(*batchv1.Job)) {
		object := w.state.Jobs[uid].Object.DeepCopy()
		what(object)
		w.do(engine.UpdateJob{Job: object})
	}
	uid := w.create("turns", 2, nil)
	w.supply()
	names := []string{w.livePods()[0].Name(), w.livePods()[1].Name()}
	change(uid, func(job *batchv1.Job) { job.Spec.Parallelism = ptr(int32(1)) })
	change(uid, func(job *batchv1.Job) { job.Spec.Suspend = ptr(true) })
	change(uid, func(job *batchv1.Job) { job.Spec.Suspend, job.Spec.Parallelism = ptr(false), ptr(int32(0)) })
	change(uid, func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = ptr(int64(0)) })
	want := []string{
		"Normal SuccessfulCreate Created pod: " + names[0], "Normal SuccessfulCreate Created pod: " + names[1], "Normal SuccessfulDelete Deleted pod: " + names[1],
		"Normal Suspended Job suspended", "Normal SuccessfulDelete Deleted pod: " + names[0], "Normal Resumed Job resumed",
	}
	if got := w.said("turns"); !slices.Equal(got, want) {
		t.Errorf("the events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, pod := range w.livePods() {
		w.do(w.report(pod, engine.ReportFailed, 143))
	}
	if got, want := w.said("turns"), "Warning DeadlineExceeded Job was active longer than specified deadline"; got[len(got)-1] != want {
		t.Errorf("the last event is %q, want %q", got[len(got)-1], want)
	}

	uid = w.create("small", 3, nil)
	w.supply()
	pods := w.livePods()
	w.do(w.report(pods[0], engine.ReportSucceeded, 0), w.report(pods[1], engine.ReportSucceeded, 0))
	change(uid, func(job *batchv1.Job) { job.Spec.Completions, job.Spec.Parallelism = ptr(int32(2)), ptr(int32(2)) })
	for _, pod := range w.livePods() {
		w.do(w.report(pod, engine.ReportFailed, 143))
	}
	if got := w.said("small"); got[len(got)-1] != "Normal Completed Job completed" || slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, "TooMany") }) {
		t.Errorf("the events are\n%s", strings.Join(got, "\n"))
	}
}

func TestAContainerThatWaitsForItsRestartIsAnEvent(t *testing.T) {
	w := newWorld(t, view.Options{})
	w.create("a", 1, nil)
	w.supply()
	pod := w.livePods()[0]
	told := w.report(pod, engine.ReportRunning, 3).(engine.ReportPod)
	told.Containers = []job.Exit{{Container: "main", Code: 3, State: job.ExitBackingOff}}
	w.do(told, told)
	told.Restarts, told.Containers = 1, []job.Exit{{Container: "main", Code: 3, Restarts: 1, State: job.ExitRunning}}
	w.do(told, told)
	var reasons []string
	records, _ := w.view.List(view.Events, view.Selection{})
	for _, record := range records {
		if e := record.Object().(*corev1.Event); e.InvolvedObject.Kind == "Pod" {
			reasons = append(reasons, e.Reason)
		}
	}
	if got := strings.Join(reasons, " "); got != "Scheduled Started BackOff Restarted" {
		t.Errorf("the events are %s", got)
	}
	w.do(w.report(pod, engine.ReportSucceeded, 0), engine.DeletePod{Namespace: "default", Name: pod.Name()})
	if _, ok := w.view.Get(view.Pods, view.Key{Namespace: "default", Name: pod.Name()}); ok {
		t.Error("a pod that was deleted after its end is shown")
	}
}
