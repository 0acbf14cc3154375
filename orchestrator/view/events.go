package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Who reports an event, by Kubernetes' names for the same duty.
const (
	byJobController = "job-controller"
	byScheduler     = "default-scheduler"
	byAgent         = "kubelet"
	byFleet         = "nightshift-fleet"
	byPolicy        = "nightshift-policy"
)

// subject is what an event is about.
type subject struct {
	apiVersion, kind, namespace, name, uid string
}

func aboutJob(owner *engine.Job) subject {
	return subject{"batch/v1", "Job", owner.Namespace, owner.Name.Name, owner.UID}
}

func aboutPod(pod *engine.Pod) subject {
	return subject{"v1", "Pod", pod.Namespace(), pod.Name(), pod.UID()}
}

// mustPod returns a pod that a fact names; the fact is from a log that fits the state.
func mustPod(state *engine.State, uid string) *engine.Pod {
	pod, ok := state.Pod(uid)
	if !ok {
		panic(fmt.Sprintf("view: after fact %d a pod %q is named, which does not exist", state.Seq, uid))
	}
	return pod
}

func aboutNode(node *engine.Node) subject {
	return subject{"v1", "Node", "", node.Name, uidOf("node", node.LaunchKey, node.Name)}
}

// said is an event without its subject and time.
type said struct {
	by, reason, message string
	warning             bool
}

// project makes the events of a fact, before the fact is applied.
func project(state *engine.State, fact *event.Fact) []*Record {
	about, what := projectJob(state, fact)
	if what.reason == "" {
		about, what = projectPod(state, fact)
	}
	if what.reason == "" {
		about, what = projectNode(state, fact)
	}
	if what.reason == "" {
		return nil
	}
	records := []*Record{eventRecord(state.Seq+1, fact.At(), about, what)}
	if about, what := alsoOfJob(state, fact); what.reason != "" {
		records = append(records, eventRecord(state.Seq+1, fact.At(), about, what))
	}
	return records
}

// alsoOfJob is what a fact says of a Job beside what it says of something else, or of the Job first.
func alsoOfJob(state *engine.State, fact *event.Fact) (subject, said) {
	switch body := fact.Body.(type) {
	case *event.Fact_PodStopping:
		if pod := mustPod(state, body.PodStopping.GetUid()); body.PodStopping.GetReleased() && body.PodStopping.GetReason() != "Deleted" && !body.PodStopping.GetEviction() {
			return aboutJob(pod.Job()), said{byJobController, "SuccessfulDelete", "Deleted pod: " + pod.Name(), false}
		}
	case *event.Fact_JobConditionSet:
		owner := state.Jobs[body.JobConditionSet.GetUid()]
		if completions := owner.Spec.Completions; body.JobConditionSet.GetType() == "SuccessCriteriaMet" && !owner.Spec.IsWorkQueue() && owner.Progress.Succeeded > completions {
			return aboutJob(owner), said{byJobController, "TooManySucceededPods", "Too many succeeded pods running after completion count reached", true}
		}
	}
	return subject{}, said{}
}

func projectJob(state *engine.State, fact *event.Fact) (subject, said) {
	switch body := fact.Body.(type) {
	case *event.Fact_JobAdmitted:
		message := "Policy admitted the Job"
		if tier := body.JobAdmitted.GetProfile().GetTier(); tier != "" {
			message += " to tier " + tier
		}
		return aboutJob(state.Jobs[body.JobAdmitted.GetUid()]), said{byPolicy, "Admitted", message, false}
	case *event.Fact_JobDenied:
		return aboutJob(state.Jobs[body.JobDenied.GetUid()]), said{byPolicy, "Denied", strings.Join(body.JobDenied.GetReasons(), "; "), true}
	case *event.Fact_PodCreated:
		return aboutJob(state.Jobs[body.PodCreated.GetJobUid()]), said{byJobController, "SuccessfulCreate", "Created pod: " + body.PodCreated.GetName(), false}
	case *event.Fact_JobConditionSet:
		set, about := body.JobConditionSet, aboutJob(state.Jobs[body.JobConditionSet.GetUid()])
		switch set.GetType() {
		case "Complete":
			return about, said{byJobController, "Completed", "Job completed", false}
		case "Failed":
			return about, said{byJobController, set.GetReason(), set.GetMessage(), true}
		case "Suspended":
			return about, said{byJobController, strings.TrimPrefix(set.GetReason(), "Job"), set.GetMessage(), false}
		}
	case *event.Fact_LaunchIntended:
		if owner, ok := state.Jobs[body.LaunchIntended.GetJobUid()]; ok {
			intended := body.LaunchIntended
			return aboutJob(owner), said{byFleet, "Launching", fmt.Sprintf("Buying %d of %s: %s", intended.GetCount(), intended.GetProvider(), intended.GetReason()), false}
		}
	case *event.Fact_LaunchSettled:
		launch, open := state.Launches[body.LaunchSettled.GetKey()]
		if owner, ok := state.Jobs[launchJob(launch, open)]; ok && body.LaunchSettled.GetErrorKind() != "" {
			return aboutJob(owner), said{byFleet, "LaunchFellShort", fmt.Sprintf("%d of %d instances came from %s: %s",
				len(body.LaunchSettled.GetNodes()), launch.Count, launch.Provider, body.LaunchSettled.GetError()), true}
		}
	case *event.Fact_ReceiptIssued:
		receipt := body.ReceiptIssued.GetReceipt()
		return aboutJob(state.Jobs[body.ReceiptIssued.GetUid()]), said{byFleet, "Receipt", fmt.Sprintf("Cost %s %s for %d attempts, of which %d were evicted; on demand it would have been %s",
			dollars(receipt.GetCostMicros()), receipt.GetCurrency(), receipt.GetAttempts(), receipt.GetEvictions(), dollars(receipt.GetOnDemandMicros())), false}
	}
	return subject{}, said{}
}

func launchJob(launch *engine.Launch, open bool) string {
	if !open {
		return ""
	}
	return launch.JobUID
}

func dollars(micros int64) string { return fmt.Sprintf("%d.%06d", micros/1e6, micros%1e6) }

func projectPod(state *engine.State, fact *event.Fact) (subject, said) {
	switch body := fact.Body.(type) {
	case *event.Fact_PodBound:
		pod := mustPod(state, body.PodBound.GetUid())
		message := fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace(), pod.Name(), body.PodBound.GetNode())
		if reason := body.PodBound.GetReason(); reason != "" {
			message += ": " + reason
		}
		return aboutPod(pod), said{byScheduler, "Scheduled", message, false}
	case *event.Fact_PodUnplaceable:
		return aboutPod(mustPod(state, body.PodUnplaceable.GetUid())), said{byScheduler, "FailedScheduling", body.PodUnplaceable.GetReason(), true}
	case *event.Fact_PodStarted:
		return aboutPod(mustPod(state, body.PodStarted.GetUid())), said{byAgent, "Started", "Started the pod's container", false}
	case *event.Fact_PodRestarted:
		return aboutPod(mustPod(state, body.PodRestarted.GetUid())), said{byAgent, "Restarted",
			fmt.Sprintf("The container ended with exit code %d and is started again in place", body.PodRestarted.GetExitCode()), true}
	case *event.Fact_PodBackedOff:
		return aboutPod(mustPod(state, body.PodBackedOff.GetUid())), said{byAgent, "BackOff",
			fmt.Sprintf("A container ended with exit code %d and waits to be started again", body.PodBackedOff.GetExitCode()), true}
	case *event.Fact_PodStopping:
		stopping := body.PodStopping
		return aboutPod(mustPod(state, stopping.GetUid())), said{byAgent, "Killing",
			fmt.Sprintf("Stopping the pod within %d s: %s", stopping.GetGraceSeconds(), stopping.GetMessage()), stopping.GetEviction()}
	case *event.Fact_PodFinished:
		finished, about := body.PodFinished, aboutPod(mustPod(state, body.PodFinished.GetUid()))
		switch finished.GetOutcome() {
		case event.PodFinished_EVICTED:
			return about, said{byAgent, "Evicted", finished.GetMessage(), true}
		case event.PodFinished_FAILED:
			return about, said{byAgent, "Failed", strings.TrimSpace(fmt.Sprintf("The pod ended with exit code %d. %s", finished.GetExitCode(), finished.GetMessage())), true}
		case event.PodFinished_SUCCEEDED:
			return about, said{byAgent, "Succeeded", "The pod ended with exit code 0", false}
		}
	}
	return subject{}, said{}
}

func projectNode(state *engine.State, fact *event.Fact) (subject, said) {
	switch body := fact.Body.(type) {
	case *event.Fact_NodeJoined:
		return aboutNode(state.Nodes[body.NodeJoined.GetNode()]), said{byAgent, "NodeReady", "The node's agent has joined", false}
	case *event.Fact_NodeNoticed:
		deadline := time.Unix(0, body.NodeNoticed.GetDeadlineUnixNano()).UTC().Format(time.RFC3339)
		return aboutNode(state.Nodes[body.NodeNoticed.GetNode()]), said{byFleet, "Interruption",
			fmt.Sprintf("The instance is taken back at %s: %s", deadline, body.NodeNoticed.GetCause()), true}
	case *event.Fact_NodeReleaseIntended:
		return aboutNode(state.Nodes[body.NodeReleaseIntended.GetNode()]), said{byFleet, "Released", "The instance is given back: " + body.NodeReleaseIntended.GetReason(), false}
	case *event.Fact_NodeGone:
		return aboutNode(state.Nodes[body.NodeGone.GetNode()]), said{byFleet, "Gone", "The instance no longer exists: " + body.NodeGone.GetCause(), false}
	}
	return subject{}, said{}
}

// eventRecord makes the event of the fact with that number. Its name and UID derive from the number, so that they are the
// same after a restart.
func eventRecord(seq uint64, at time.Time, about subject, what said) *Record {
	namespace := about.namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // as for the events of Kubernetes' nodes
	}
	name := make([]byte, 0, len(about.name)+1+16)
	name = append(append(name, about.name...), '.')
	for shift := 60; shift >= 0; shift -= 4 {
		name = append(name, "0123456789abcdef"[seq>>shift&0xf])
	}
	key := Key{namespace, string(name)}
	return &Record{key: key, id: key.id(), version: seq, content: &eventContent{key, seq, at, about, what}}
}

// eventContent is an event as it was told. Most are never looked at, so the object is made when somebody asks.
type eventContent struct {
	key   Key
	seq   uint64
	at    time.Time
	about subject
	what  said
}

func (c *eventContent) labels() labels.Labels  { return labels.Set(nil) }
func (c *eventContent) fields() fields.Set     { return eventFields(c.event()) }
func (c *eventContent) object() runtime.Object { return c.event() }

func (c *eventContent) event() *corev1.Event {
	kind := corev1.EventTypeNormal
	if c.what.warning {
		kind = corev1.EventTypeWarning
	}
	when := metav1.NewTime(c.at)
	return &corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{
			Name: c.key.Name, Namespace: c.key.Namespace, UID: types.UID(uidOf("event", c.seq, c.about.uid)), CreationTimestamp: when,
		},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: c.about.apiVersion, Kind: c.about.kind, Namespace: c.about.namespace, Name: c.about.name, UID: types.UID(c.about.uid),
		},
		Reason: c.what.reason, Message: c.what.message, Type: kind, Count: 1, FirstTimestamp: when, LastTimestamp: when,
		Source: corev1.EventSource{Component: c.what.by}, ReportingController: c.what.by,
	}
}

// eventFields are those of pkg/registry/core/event/strategy.go: ToSelectableFields.
func eventFields(shown *corev1.Event) fields.Set {
	return fields.Set{
		"involvedObject.kind": shown.InvolvedObject.Kind, "involvedObject.namespace": shown.InvolvedObject.Namespace,
		"involvedObject.name": shown.InvolvedObject.Name, "involvedObject.uid": string(shown.InvolvedObject.UID),
		"involvedObject.apiVersion": shown.InvolvedObject.APIVersion, "involvedObject.resourceVersion": "", "involvedObject.fieldPath": "",
		"reason": shown.Reason, "reportingComponent": shown.ReportingController, "source": shown.Source.Component, "type": shown.Type,
	}
}

// eventsLast is how long an event is kept, as by kube-apiserver (--event-ttl).
const eventsLast = time.Hour

// dropEvents adds the new events to those that are kept and returns the ones that go: for them, for their age, or with their namespace. New ones may
// go at once.
func (v *View) dropEvents(added []*Record, now time.Time) (dropped []*Record) {
	for _, record := range added {
		v.events[record.key.Namespace] = append(v.events[record.key.Namespace], record)
	}
	for _, namespace := range slices.Sorted(maps.Keys(v.events)) {
		events := v.events[namespace]
		surplus := max(0, len(events)-v.maxEvents)
		if _, there := v.objects[touch{Namespaces, Key{"", namespace}.id()}]; !there {
			surplus = len(events) // they go with it
		}
		for surplus < len(events) && now.Sub(events[surplus].content.(*eventContent).at) >= eventsLast {
			surplus++
		}
		dropped = append(dropped, events[:surplus]...)
		if v.events[namespace] = events[surplus:]; surplus == len(events) {
			delete(v.events, namespace)
		}
	}
	return dropped
}
