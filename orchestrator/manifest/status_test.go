package manifest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchinternal "k8s.io/kubernetes/pkg/apis/batch/v1"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/sim"
)

// simulated are Jobs of many kinds, as a user writes them.
func simulated(t *testing.T) (jobs []*batchv1.Job) {
	for i, text := range []string{
		with(t, "completions: 3", "completions: 8\n  parallelism: 3"),
		with(t, "completions: 3", "parallelism: 3"),
		never(t, "completionMode: Indexed\nparallelism: 3\nbackoffLimitPerIndex: 1"),
		never(t, "completionMode: Indexed\nparallelism: 2\nbackoffLimitPerIndex: 0\nmaxFailedIndexes: 0"),
		never(t, "completionMode: Indexed\nparallelism: 3\nsuccessPolicy:\n  rules: [{succeededCount: 2}]"),
		never(t, "parallelism: 3\nbackoffLimit: 1\npodFailurePolicy:\n  rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}, {action: FailJob, onExitCodes: {operator: In, values: [3]}}]"),
		never(t, "parallelism: 2\nactiveDeadlineSeconds: 200"),
	} {
		written := decodeOne(t, text)
		written.Name = fmt.Sprintf("job-%d", i)
		admitted, errs := manifest.Admit(written, manifest.Options{UID: types.UID(fmt.Sprintf("5ca2fde1-7e5f-4a1c-8a54-6a01fc9e7d%02d", i)), Created: metav1.Unix(1, 0)})
		if len(errs) > 0 {
			t.Fatal(errs.ToAggregate())
		}
		jobs = append(jobs, admitted)
	}
	return jobs
}

// Kubernetes validates what its own controller writes to a status (pkg/registry/batch/job/strategy.go: getStatusValidationOptions). What the
// engine shows after each fact passes the same rules, in runs with evictions, crashes and a user who meddles.
func TestEveryStatusPassesKubernetesOwnValidation(t *testing.T) {
	statuses := 0
	for seed := range uint64(25) {
		result, err := sim.Run(sim.Config{
			Seed: seed + 1, Jobs: simulated(t), Horizon: 48 * time.Hour, CrashesPerThousand: 10, MeanLife: 5 * time.Minute, Meddling: 10 * time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		statuses += validateLog(t, result.Log)
	}
	if statuses < 1000 {
		t.Errorf("%d changes of a status were validated", statuses)
	}
}

func validateLog(t *testing.T, log [][]byte) (changes int) {
	state := engine.NewState()
	before := make(map[string]*batch.Job)
	for at, encoded := range log {
		fact, err := event.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		state.Apply(fact)
		for uid, owner := range state.Jobs {
			if owner.Version != state.Seq {
				continue
			}
			after := withStatus(t, owner)
			if old := before[uid]; old != nil {
				old.Spec, old.ObjectMeta = after.Spec, after.ObjectMeta
				if errs := batchvalidation.ValidateJobUpdateStatus(after, old, strictly(owner)); len(errs) > 0 {
					t.Fatalf("after fact %d, %s: %v\nwas %+v\nis  %+v", at+1, fact, errs.ToAggregate(), old.Status, after.Status)
				}
				changes++
			}
			before[uid] = after
		}
	}
	return changes
}

func withStatus(t *testing.T, owner *engine.Job) *batch.Job {
	object := owner.Object.DeepCopy()
	object.ResourceVersion = "1"
	object.Status = job.Status(&owner.Spec, &owner.Progress, &owner.Counts)
	internal := new(batch.Job)
	if err := batchinternal.Convert_v1_Job_To_batch_Job(object, internal, nil); err != nil {
		t.Fatal(err)
	}
	return internal
}

// strictly is every rule there is. Kubernetes looks at some of them only when their field has changed; here they hold always. A suspended Job that
// wants no completions ends without a start time, as it may there.
func strictly(owner *engine.Job) batchvalidation.JobStatusValidationOptions {
	return batchvalidation.JobStatusValidationOptions{
		RejectDecreasingSucceededCounter: !owner.Spec.Indexed || owner.Spec.Completions != owner.Spec.Parallelism,
		RejectDecreasingFailedCounter:    true, RejectDisablingTerminalCondition: true, RejectInvalidCompletedIndexes: true, RejectInvalidFailedIndexes: true,
		RejectFailedIndexesOverlappingCompleted: true, RejectCompletedIndexesForNonIndexedJob: true, RejectFailedIndexesForNoBackoffLimitPerIndex: true,
		RejectFailedJobWithoutFailureTarget: true, RejectCompleteJobWithoutSuccessCriteriaMet: true, RejectFinishedJobWithActivePods: true,
		RejectFinishedJobWithoutStartTime: !owner.Spec.Suspended || owner.Spec.Completions != 0, RejectFinishedJobWithUncountedTerminatedPods: true,
		RejectStartTimeUpdateForUnsuspendedJob: true, RejectCompletionTimeBeforeStartTime: true, RejectMutatingCompletionTime: true,
		RejectCompleteJobWithoutCompletionTime: true, RejectNotCompleteJobWithCompletionTime: true, RejectCompleteJobWithFailedCondition: true,
		RejectCompleteJobWithFailureTargetCondition: true, RejectMoreReadyThanActivePods: true, RejectFinishedJobWithTerminatingPods: true,
	}
}

func TestTheStatusOfAnotherControllersJobIsEmpty(t *testing.T) {
	written := decodeOne(t, strings.Replace(base, "completions: 3", "completions: 3\n  managedBy: example.com/other", 1))
	spec := job.SpecOf(written)
	if status := job.Status(&spec, new(job.Progress), new(job.Pods)); status.Ready != nil || status.Terminating != nil || status.UncountedTerminatedPods != nil {
		t.Errorf("the status is %+v", status)
	}
}
