package sim_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/sim"
)

var seed = flag.Uint64("sim-seed", 0, "play the one run of this seed")

// jobs draws Jobs of all modes.
func jobs(random *rand.Rand) (jobs []*batchv1.Job) {
	for _, name := range []string{"one", "many", "indexed", "queue", "careful"} {
		spec := batchv1.JobSpec{
			Parallelism: ptr(random.Int32N(5) + 1), Completions: ptr(random.Int32N(12) + 1), BackoffLimit: ptr(int32(random.IntN(4) * 3)),
			CompletionMode: ptr(batchv1.NonIndexedCompletion), Suspend: ptr(false),
		}
		switch name {
		case "one":
			spec.Parallelism, spec.Completions = ptr(int32(1)), ptr(int32(1))
		case "indexed":
			spec.CompletionMode, spec.BackoffLimit, spec.BackoffLimitPerIndex = ptr(batchv1.IndexedCompletion), ptr(int32(100)), ptr(int32(1))
		case "queue":
			spec.Completions = nil
		case "careful":
			spec.PodReplacementPolicy, spec.ActiveDeadlineSeconds = ptr(batchv1.Failed), ptr(int64(3600))
			spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{3}}},
				{Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{2}}},
			}}
		}
		spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse([]string{"500m", "1", "3"}[random.IntN(3)])}}}}
		annotations := map[string]string{}
		if random.IntN(4) == 0 {
			annotations["nightshift.dev/strict-upstream"] = "true"
		}
		jobs = append(jobs, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Annotations: annotations}, Spec: spec})
	}
	return jobs
}

func ptr[T any](value T) *T { return &value }

func config(seed uint64) sim.Config {
	return sim.Config{
		Seed: seed, Jobs: jobs(rand.New(rand.NewPCG(seed, 1))), Horizon: 48 * time.Hour, CrashesPerThousand: int(seed % 4 * 10), MeanLife: time.Duration(seed%5) * 3 * time.Minute, Meddling: time.Duration(seed%3) * 10 * time.Minute,
	}
}

func TestJobsEndWhateverTheCloudAndTheControlPlaneDo(t *testing.T) {
	if *seed != 0 {
		result, err := sim.Run(config(*seed))
		t.Logf("%d facts in %s, %d crashes, %d evictions", result.Facts, result.Took, result.Crashes, result.Evictions)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	runs := uint64(200)
	if os.Getenv("NIGHTSHIFT_SOAK") != "" {
		runs = 20_000
	}
	var facts, crashes, evictions int
	for seed := range runs {
		result, err := sim.Run(config(seed + 1))
		if err != nil {
			t.Fatalf("%v\nplay it alone: go test ./orchestrator/sim -run JobsEnd -v -sim-seed=%d", err, seed+1)
		}
		facts, crashes, evictions = facts+result.Facts, crashes+result.Crashes, evictions+result.Evictions
	}
	if crashes == 0 || evictions == 0 {
		t.Errorf("%d crashes and %d evictions in %d runs: the faults are not there", crashes, evictions, runs)
	}
	t.Logf("%d runs: %d facts, %d crashes, %d evictions", runs, facts, crashes, evictions)
}

func TestARunIsTheSameForTheSameSeed(t *testing.T) {
	first, err := sim.Run(config(7))
	if err != nil {
		t.Fatal(err)
	}
	second, err := sim.Run(config(7))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(first.Log, second.Log, slices.Equal) || first.Took != second.Took {
		t.Errorf("two runs of one seed differ: %d facts in %s, %d in %s", first.Facts, first.Took, second.Facts, second.Took)
	}
}
