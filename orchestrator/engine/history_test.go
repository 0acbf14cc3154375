package engine

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

var seed = flag.Uint64("history-seed", 0, "play the one random history of this seed and tell each step")

// TestRandomHistoriesGoAsThePlainModelSays plays random Jobs through random histories and holds the engine against the model (model_test.go)
// after each command.
func TestRandomHistoriesGoAsThePlainModelSays(t *testing.T) {
	if *seed != 0 {
		newHistory(t, *seed).play(t.Logf)
		return
	}
	histories := uint64(1500)
	if os.Getenv("NIGHTSHIFT_SOAK") != "" {
		histories = 200_000
	}
	for seed := range histories {
		if newHistory(t, seed+1).play(func(string, ...any) {}); t.Failed() {
			t.Fatalf("play it alone: go test ./orchestrator/engine -run RandomHistories -v -history-seed=%d", seed+1)
		}
	}
}

type history struct {
	t      *testing.T
	random *rand.Rand
	state  *State
	model  *model
	log    [][]byte
	now    time.Time
}

func pick[T any](random *rand.Rand, choices ...T) T { return choices[random.IntN(len(choices))] }

func pointer[T any](value T) *T { return &value }

func newHistory(t *testing.T, seed uint64) *history {
	random := rand.New(rand.NewPCG(seed, 42))
	h := &history{t: t, random: random, state: NewState(), now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)}
	object := randomJob(random)
	h.model = &model{
		spec: *object.Spec.DeepCopy(), strict: object.Annotations[job.AnnotationStrictUpstream] == "true", succeeded: make(map[int32]bool),
		given: make(map[int32]bool), perIndex: make(map[int32]*modelRetry),
	}
	h.do(BeginTerm{Term: 1, Seed: []byte("a seed of sixteen bytes")})
	h.do(ObserveOffers{Provider: "cloud", Offers: []*event.Offer{{
		Id: "big", InstanceType: "big", Zone: "z", Market: "spot", Arch: "amd64", Resources: map[string]int64{"cpu": 64000, "pods": 110}, Available: -1,
	}}})
	h.do(CreateJob{Job: object})
	h.do(AdmitJob{UID: "uid", Profile: &event.Profile{Markets: []string{"spot"}}})
	h.settle()
	return h
}

func randomJob(random *rand.Rand) *batchv1.Job {
	object := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "default", UID: "uid"}}
	spec := &object.Spec
	spec.Parallelism, spec.Completions = pointer(random.Int32N(4)+1), pointer(random.Int32N(5)+1)
	spec.CompletionMode, spec.Suspend = pointer(batchv1.NonIndexedCompletion), pointer(random.IntN(6) == 0)
	spec.BackoffLimit = pointer(pick[int32](random, 0, 1, 3, 100, 100))
	spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	switch random.IntN(4) {
	case 0:
		spec.Completions = nil
	case 1, 2:
		spec.CompletionMode = pointer(batchv1.IndexedCompletion)
		randomIndexed(random, spec)
	}
	if random.IntN(3) == 0 {
		spec.PodReplacementPolicy = pointer(pick(random, batchv1.Failed, batchv1.TerminatingOrFailed))
	}
	if random.IntN(3) == 0 {
		spec.PodReplacementPolicy, spec.PodFailurePolicy = pointer(batchv1.Failed), randomPolicy(random, spec.BackoffLimitPerIndex != nil)
	} else if spec.BackoffLimitPerIndex == nil && random.IntN(3) == 0 {
		spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	}
	if random.IntN(5) == 0 {
		spec.ActiveDeadlineSeconds = pointer(pick[int64](random, 15, 60))
	}
	if random.IntN(3) == 0 {
		object.Annotations = map[string]string{job.AnnotationStrictUpstream: "true"}
	}
	return object
}

func randomIndexed(random *rand.Rand, spec *batchv1.JobSpec) {
	if random.IntN(2) == 0 {
		spec.BackoffLimitPerIndex = pointer(random.Int32N(3))
		if random.IntN(2) == 0 {
			spec.MaxFailedIndexes = pointer(random.Int32N(2))
		}
	}
	if random.IntN(3) == 0 {
		rule := batchv1.SuccessPolicyRule{}
		if choice := random.IntN(3); choice != 0 {
			rule.SucceededIndexes = pointer(pick(random, "0", "0,2", "1,3"))
		}
		if rule.SucceededIndexes == nil || random.IntN(2) == 0 {
			rule.SucceededCount = pointer(int32(1))
		}
		spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
	}
}

func randomPolicy(random *rand.Rand, perIndex bool) *batchv1.PodFailurePolicy {
	actions := []batchv1.PodFailurePolicyAction{"Ignore", "Ignore", "Count", "FailJob"}
	if perIndex {
		actions = append(actions, "FailIndex", "FailIndex")
	}
	policy := new(batchv1.PodFailurePolicy)
	for range random.IntN(3) + 1 {
		rule := batchv1.PodFailurePolicyRule{Action: pick(random, actions...)}
		if random.IntN(2) == 0 {
			rule.OnPodConditions = []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		} else {
			rule.OnExitCodes = &batchv1.PodFailurePolicyOnExitCodesRequirement{
				Operator: pick(random, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn),
				Values:   []int32{pick[int32](random, 1, 7, 42)},
			}
		}
		policy.Rules = append(policy.Rules, rule)
	}
	return policy
}

func (h *history) do(command Command) {
	facts, err := Step(h.state, command, h.now)
	if err != nil {
		h.t.Fatalf("%+v: %v", command, err)
	}
	for _, fact := range facts {
		encoded, err := event.Encode(fact)
		if err != nil {
			h.t.Fatal(err)
		}
		h.log = append(h.log, encoded)
	}
}

// settle gives the engine the nodes that it asks for, and lets the model go on.
func (h *history) settle() {
	for busy := true; busy; {
		busy = false
		for _, key := range sortedKeys(h.state.Launches) {
			launch, busyNow := h.state.Launches[key], true
			settled := SettleLaunch{Key: key}
			for i := range launch.Count {
				settled.Instances = append(settled.Instances, LaunchedInstance{ID: fmt.Sprintf("i-%d-%d", h.state.Launched, i), OfferID: "big"})
			}
			h.do(settled)
			busy = busyNow
		}
		for _, name := range sortedKeys(h.state.Nodes) {
			if node := h.state.Nodes[name]; node.Joined.IsZero() && node.Open() {
				h.do(JoinNode{Node: name})
				busy = true
			}
		}
	}
	h.model.now = h.now
	h.model.settle()
}

// play takes random steps and compares after each.
func (h *history) play(tell func(string, ...any)) {
	text, _ := json.Marshal(h.model.spec)
	tell("strict %v, %s", h.model.strict, text)
	h.compare("it began")
	for range 60 {
		h.model.now = h.now
		what := h.step()
		h.settle()
		tell("%s %s: %s", h.now.Format("15:04:05"), what, h.model)
		if h.compare(what); h.t.Failed() {
			return
		}
	}
	again := NewState()
	for _, encoded := range h.log {
		fact, err := event.Decode(encoded)
		if err != nil {
			h.t.Fatal(err)
		}
		again.Apply(fact)
	}
	if got, want := outline(again), outline(h.state); got != want {
		h.t.Errorf("the log does not replay to the same state:\n%s", firstDifference(want, got))
	}
}

func (h *history) compare(what string) {
	if got, want := h.status(), h.model.String(); got != want {
		h.t.Errorf("after %q the engine says\n%s\nthe model\n%s", what, got, want)
	}
	for _, broken := range h.state.Check() {
		h.t.Errorf("after %q: %v", what, broken)
	}
}

// status is what a client sees of the engine's Job, in the form of the model's.
func (h *history) status() string {
	owner := h.state.Jobs["uid"]
	status := job.Status(&owner.Spec, &owner.Progress, &owner.Counts)
	started, suspended := "-", false
	if status.StartTime != nil {
		started = status.StartTime.Format("15:04:05")
	}
	text := fmt.Sprintf("start %s active %d ready %d terminating %d succeeded %d failed %d", started, status.Active, *status.Ready, *status.Terminating, status.Succeeded, status.Failed)
	indexes := func(set *job.IndexSet) []int32 {
		listed := []int32{}
		for index := range int32(10) {
			if set.Has(index) {
				listed = append(listed, index)
			}
		}
		return listed
	}
	if owner.Spec.Indexed {
		text += fmt.Sprintf(" completed %v", indexes(&owner.Progress.Completed))
	}
	if status.FailedIndexes != nil {
		text += fmt.Sprintf(" given up %v", indexes(&owner.Progress.FailedIndexes))
	}
	var conditions []string
	for _, condition := range status.Conditions {
		if condition.Type == batchv1.JobSuspended {
			suspended = condition.Status == corev1.ConditionTrue
		} else {
			conditions = append(conditions, string(condition.Type))
		}
	}
	text += fmt.Sprintf(" suspended %v %v pods", suspended, conditions)
	for _, pod := range owner.pods {
		text += fmt.Sprintf(" %d", pod.Index)
		if !pod.IsLive() {
			text += "."
		} else if pod.IsStopping() {
			text += "!"
		}
	}
	return text
}
