package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// verb carries out one line of a story: a word, names, and key=value settings.
func (s *story) verb(words []string) []string {
	var names []string
	settings := make(map[string]string)
	for _, word := range words[1:] {
		// JSON may hold the sign, so it is looked for once.
		if key, value, found := strings.Cut(word, "="); found {
			settings[key] = value
		} else {
			names = append(names, word)
		}
	}
	a := arguments{s: s, names: names, settings: settings}
	switch words[0] {
	case "park":
		return s.submit(ParkJob{UID: "uid-" + names[0], Reason: strings.Join(names[1:], " "), GraceSeconds: int64(*a.int32("grace", 30))})
	case "unpark":
		return s.submit(UnparkJob{UID: "uid-" + names[0]})
	case "after":
		s.now = s.now.Add(a.duration(names[0]))
		return s.submit(Tick{})
	case "wait":
		// No tick: the next command is the first to see the time.
		s.now = s.now.Add(a.duration(names[0]))
		return nil
	case "offer":
		return s.submit(a.offer())
	case "job":
		return s.submit(a.job())
	case "supply":
		return a.supply()
	case "update":
		return s.submit(a.update())
	case "pod":
		return s.show(s.pod(names[0]))
	case "containers":
		return s.containers(s.pod(names[0]))
	case "parallelism":
		owner, _ := s.state.JobOf("default", names[0])
		object := owner.Object.DeepCopy()
		object.Spec.Parallelism = a.int32("to", 1)
		return s.submit(UpdateJob{Job: object})
	case "admit":
		return s.submit(AdmitJob{UID: s.jobUID(names[0]), Profile: &event.Profile{Markets: a.markets(), Priority: *a.int32("priority", 0)}})
	case "deny":
		return s.submit(DenyJob{UID: s.jobUID(names[0]), Reasons: []string{strings.Join(names[1:], " ")}})
	case "delete":
		return s.submit(DeleteJob{Namespace: a.namespace(), Name: names[0]})
	case "delete-pod":
		return s.submit(DeletePod{Namespace: "default", Name: s.pod(names[0]).Name()})
	case "evict-pod":
		return s.submit(EvictPod{Namespace: "default", Name: s.pod(names[0]).Name()})
	case "settle":
		return s.submit(a.settle())
	case "join":
		return s.submit(JoinNode{Node: a.node().Name})
	case "notice":
		return s.submit(NoticeInstance{Provider: a.node().Provider, InstanceID: a.node().InstanceID, Deadline: s.now.Add(a.duration(settings["in"])), Cause: "spot"})
	case "gone":
		return s.submit(InstanceGone{Provider: a.node().Provider, InstanceID: a.node().InstanceID, Cause: settings["cause"]})
	case "running", "succeeded", "failed":
		return s.submit(a.report(words[0]))
	case "put", "replace", "remove":
		return a.object(words[0])
	case "close":
		return s.submit(CloseFleet{Reason: strings.Join(names, " ")})
	case "restart":
		begin := BeginTerm{Term: s.state.Term + 1}
		if only, ok := settings["only"]; ok {
			begin.Only = map[Name]bool{{Namespace: "default", Name: only}: true}
		}
		return s.submit(begin)
	case "status":
		return s.status(names[0])
	}
	return s.cronJobVerb(words[0], a)
}

type arguments struct {
	s        *story
	names    []string
	settings map[string]string
}

func (a arguments) duration(text string) time.Duration {
	parsed, err := time.ParseDuration(text)
	if err != nil {
		a.s.t.Fatal(err)
	}
	return parsed
}

func (a arguments) int32(key string, fallback int32) *int32 {
	text, given := a.settings[key]
	if !given {
		return &fallback
	}
	parsed, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		a.s.t.Fatal(err)
	}
	number := int32(parsed)
	return &number
}

func (a arguments) markets() []string {
	if markets, given := a.settings["markets"]; given {
		return strings.Split(markets, ",")
	}
	return []string{"spot", "on-demand"}
}

// offer adds one to those of provider "cloud".
func (a arguments) offer() ObserveOffers {
	market := "spot"
	if a.settings["market"] != "" {
		market = a.settings["market"]
	}
	added := &event.Offer{
		Id: a.names[0] + "/" + market, InstanceType: a.names[0], Zone: "z", Market: market, Arch: "amd64",
		Resources: map[string]int64{
			"cpu": int64(*a.int32("cpu", 2000)), "memory": int64(*a.int32("gib", 4)) << 30, "pods": 110, "nvidia.com/gpu": int64(*a.int32("gpu", 0)),
		},
		PriceMicrosPerHour: int64(*a.int32("price", 36000)), OnDemandPriceMicrosPerHour: int64(*a.int32("ondemand", 108000)), Available: int64(*a.int32("available", -1)),
	}
	offers := []*event.Offer{added}
	for _, known := range a.s.state.Offers["cloud"] {
		if known.GetId() != added.GetId() {
			offers = append(offers, known)
		}
	}
	return ObserveOffers{Provider: "cloud", Offers: offers}
}

func (a arguments) job() CreateJob {
	name := a.names[0]
	mode, policy := batchv1.NonIndexedCompletion, corev1.RestartPolicyNever
	for _, word := range a.names[1:] {
		switch word {
		case "indexed":
			mode = batchv1.IndexedCompletion
		case "onfailure":
			policy = corev1.RestartPolicyOnFailure
		}
	}
	queue := slices.Contains(a.names[1:], "queue")
	requests := corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(int64(*a.int32("cpu", 1000)), resource.DecimalSI)}
	if a.settings["gpu"] != "" {
		requests["nvidia.com/gpu"] = resource.MustParse(a.settings["gpu"])
	}
	object := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: a.namespace(), UID: types.UID("uid-" + name + a.settings["uid"])}}
	object.Spec.Completions, object.Spec.Parallelism, object.Spec.BackoffLimit = a.int32("completions", 1), a.int32("parallelism", 1), a.int32("backoff", 6)
	object.Spec.CompletionMode = &mode
	if queue {
		object.Spec.Completions = nil
	}
	if a.settings["deadline"] != "" {
		seconds := int64(*a.int32("deadline", 0))
		object.Spec.ActiveDeadlineSeconds = &seconds
	}
	object.Spec.Template.Spec.RestartPolicy = policy
	if arch := a.settings["arch"]; arch != "" {
		object.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelArchStable: arch}
	}
	object.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: requests}}}
	a.overlay(object)
	return CreateJob{Job: object, ReplaceEnded: a.settings["replace"] == "true"}
}

// overlay changes an object: spec=JSON is laid over its spec, note=KEY:VALUE becomes an annotation nightshift.dev/KEY.
func (a arguments) overlay(object *batchv1.Job) {
	if text := a.settings["spec"]; text != "" {
		if err := json.Unmarshal([]byte(text), &object.Spec); err != nil {
			a.s.t.Fatalf("%s: %v", text, err)
		}
	}
	if key, value, given := strings.Cut(a.settings["note"], ":"); given {
		object.Annotations = map[string]string{"nightshift.dev/" + key: value}
	}
}

func (a arguments) update() UpdateJob {
	owner, _ := a.s.state.JobOf("default", a.names[0])
	object := owner.Object.DeepCopy()
	a.overlay(object)
	return UpdateJob{Job: object}
}

// supply settles the launches that are open and lets their nodes join, in the order in which they were intended.
func (a arguments) supply() (lines []string) {
	for at, key := range a.s.keys {
		if _, open := a.s.state.Launches[key]; open {
			settled := arguments{s: a.s, names: []string{fmt.Sprintf("L%d", at)}}.settle()
			lines = append(lines, a.s.submit(settled)...)
		}
	}
	for _, name := range a.s.nodes {
		if node, ok := a.s.state.Nodes[name]; ok && node.Joined.IsZero() {
			lines = append(lines, a.s.submit(JoinNode{Node: name})...)
		}
	}
	return lines
}

// show prints what a client sees of a pod that its Job gave it.
func (s *story) show(pod *Pod) []string {
	object := job.PodObject(pod.Template().Object, pod.Render(), pod.Version)
	shown := map[string]any{"annotations": object.Annotations, "finalizers": object.Finalizers, "phase": object.Status.Phase}
	if object.DeletionTimestamp != nil {
		shown["deletion"] = object.DeletionTimestamp
	}
	encoded, err := json.Marshal(shown)
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{string(encoded)}
}

// containers prints what a client sees of a pod's containers: what each does, how often it was restarted, and how it ended before.
func (s *story) containers(pod *Pod) (lines []string) {
	status := job.PodObject(pod.Template().Object, pod.Render(), pod.Version).Status
	for _, condition := range status.Conditions {
		if condition.Type == corev1.PodInitialized || condition.Type == corev1.PodReady {
			lines = append(lines, fmt.Sprintf("%s %s", condition.Type, condition.Status))
		}
	}
	state := func(state corev1.ContainerState) string {
		switch {
		case state.Waiting != nil:
			return state.Waiting.Reason
		case state.Running != nil:
			return "Running since " + state.Running.StartedAt.UTC().Format("15:04:05")
		case state.Terminated != nil:
			return fmt.Sprintf("%s(%d) at %s", state.Terminated.Reason, state.Terminated.ExitCode, state.Terminated.FinishedAt.UTC().Format("15:04:05"))
		}
		return "none"
	}
	for _, each := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
		lines = append(lines, fmt.Sprintf("%s %s, ready %v, restarts %d, before %s", each.Name, state(each.State), each.Ready, each.RestartCount, state(each.LastTerminationState)))
	}
	return append([]string{string(status.Phase)}, lines...)
}

// exitStateWords are the words of a story for what a container does after it has ended.
var exitStateWords = map[string]job.ExitState{"ended": job.ExitEnded, "running": job.ExitRunning, "waiting": job.ExitBackingOff}

// exits reads NAME:CODE:RESTARTS:STATE,... of containers, of which the last two may be missing; init/NAME is one of init.
func (a arguments) exits() (exits []job.Exit) {
	for part := range strings.SplitSeq(a.settings["exits"], ",") {
		words := strings.Split(part, ":")
		if len(words) < 2 {
			continue
		}
		var exit job.Exit
		exit.Container, exit.Init = strings.CutPrefix(words[0], "init/")
		for i, into := range []*int32{&exit.Code, &exit.Restarts} {
			if len(words) <= i+1 {
				break
			}
			number, err := strconv.ParseInt(words[i+1], 10, 32)
			if err != nil {
				a.s.t.Fatal(err)
			}
			*into = int32(number)
		}
		if len(words) > 3 {
			exit.State = exitStateWords[words[3]]
		}
		exits = append(exits, exit)
	}
	return exits
}

func (a arguments) settle() SettleLaunch {
	var at int
	if _, err := fmt.Sscanf(a.names[0], "L%d", &at); err != nil {
		a.s.t.Fatal(err)
	}
	key := a.s.keys[at]
	settled := SettleLaunch{Key: key, ErrorKind: a.settings["error"], Error: a.settings["error"]}
	launch, open := a.s.state.Launches[key]
	if !open {
		return settled
	}
	for i := range *a.int32("count", launch.Count) {
		settled.Instances = append(settled.Instances, LaunchedInstance{ID: fmt.Sprintf("i-%d-%d", at, i), OfferID: launch.Offers[0].GetId()})
	}
	return settled
}

func (a arguments) node() *Node {
	var at int
	if _, err := fmt.Sscanf(a.names[0], "n%d", &at); err != nil {
		a.s.t.Fatal(err)
	}
	if node, ok := a.s.state.Nodes[a.s.nodes[at]]; ok {
		return node
	}
	return &Node{Name: a.s.nodes[at], Provider: "cloud", InstanceID: "gone"}
}

func (a arguments) report(word string) ReportPod {
	pod := a.s.pod(a.names[0])
	phase := map[string]ReportPhase{"running": ReportRunning, "succeeded": ReportSucceeded, "failed": ReportFailed}[word]
	epoch := pod.Epoch
	if a.settings["epoch"] == "old" {
		epoch--
	}
	reported := ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: epoch, Phase: phase, Restarts: *a.int32("restarts", pod.Restarts), Reason: "Completed"}
	if word != "succeeded" {
		reported.ExitCode, reported.Reason = *a.int32("exit", 0), "Error"
	}
	reported.Containers = a.exits()
	return reported
}

// status prints a Job's status as a client sees it.
func (s *story) status(name string) []string {
	owner, ok := s.state.JobOf("default", name)
	if !ok {
		return []string{"not found"}
	}
	rendered := job.Status(&owner.Spec, &owner.Progress, &owner.Counts)
	for i := range rendered.Conditions {
		rendered.Conditions[i].LastProbeTime = metav1.Time{}
	}
	encoded, err := json.Marshal(rendered)
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{string(encoded)}
}
