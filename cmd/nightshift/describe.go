package main

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// inWordsOf says in one line what a fact means to the user; empty when it means nothing to them. The state holds the fact already.
func inWordsOf(state *engine.State, fact *event.Fact) string {
	switch body := fact.Body.(type) {
	case *event.Fact_JobCreated:
		return fmt.Sprintf("job %s created, uid %s", body.JobCreated.GetName(), body.JobCreated.GetUid())
	case *event.Fact_JobConditionSet:
		set := body.JobConditionSet
		if set.GetType() == string(batchv1.JobSuspended) {
			return describeSuspended(jobName(state, set.GetUid()), set.GetStatus() != "False")
		}
		return fmt.Sprintf("job %s: %s (%s): %s", jobName(state, set.GetUid()), set.GetType(), set.GetReason(), set.GetMessage())
	case *event.Fact_ReceiptIssued:
		return fmt.Sprintf("job %s cost $%s", jobName(state, body.ReceiptIssued.GetUid()), spot.Dollars(body.ReceiptIssued.GetReceipt().GetCostMicros()))
	case *event.Fact_PodUnplaceable:
		return fmt.Sprintf("pod %s waits: %s", podName(state, body.PodUnplaceable.GetUid()), body.PodUnplaceable.GetReason())
	case *event.Fact_PodStarted:
		pod, _ := state.Pod(body.PodStarted.GetUid())
		return fmt.Sprintf("pod %s started on %s", pod.Name(), pod.Node())
	case *event.Fact_PodRestarted:
		return fmt.Sprintf("pod %s ended with exit code %d and restarts in place (restart %d)",
			podName(state, body.PodRestarted.GetUid()), body.PodRestarted.GetExitCode(), body.PodRestarted.GetRestarts())
	case *event.Fact_PodStopping:
		return fmt.Sprintf("pod %s is told to end within %d s: %s", podName(state, body.PodStopping.GetUid()), body.PodStopping.GetGraceSeconds(), body.PodStopping.GetMessage())
	case *event.Fact_PodFinished:
		return describeFinished(state, body.PodFinished)
	default:
		return describeNode(state, fact)
	}
}

func describeSuspended(name string, suspended bool) string {
	if !suspended {
		return fmt.Sprintf("job %s is resumed", name)
	}
	return fmt.Sprintf("job %s is suspended: its pods end, and this run waits until it is resumed", name)
}

func describeNode(state *engine.State, fact *event.Fact) string {
	switch body := fact.Body.(type) {
	case *event.Fact_LaunchIntended:
		return fmt.Sprintf("buying %d x %s", body.LaunchIntended.GetCount(), body.LaunchIntended.GetReason())
	case *event.Fact_LaunchSettled:
		return describeSettled(body.LaunchSettled)
	case *event.Fact_NodeJoined:
		return fmt.Sprintf("node %s joined", body.NodeJoined.GetNode())
	case *event.Fact_NodeNoticed:
		noticed := body.NodeNoticed
		left := time.Duration(noticed.GetDeadlineUnixNano() - fact.GetTimeUnixNano()).Round(time.Second)
		return fmt.Sprintf("node %s will be taken back in %s: %s", noticed.GetNode(), left, noticed.GetCause())
	case *event.Fact_NodeReleaseIntended:
		return fmt.Sprintf("node %s is given back: %s", body.NodeReleaseIntended.GetNode(), body.NodeReleaseIntended.GetReason())
	case *event.Fact_NodeGone:
		return fmt.Sprintf("node %s is gone: %s", body.NodeGone.GetNode(), body.NodeGone.GetCause())
	case *event.Fact_FleetClosed:
		return "stopping in good order: " + body.FleetClosed.GetReason()
	}
	return ""
}

func describeSettled(settled *event.LaunchSettled) string {
	var parts []string
	for _, node := range settled.GetNodes() {
		parts = append(parts, fmt.Sprintf("node %s launched as %s", node.GetNode(), node.GetInstanceId()))
	}
	if settled.GetErrorKind() != "" {
		parts = append(parts, "a launch fell short: "+settled.GetError())
	}
	return strings.Join(parts, ", ")
}

func describeFinished(state *engine.State, finished *event.PodFinished) string {
	pod, _ := state.Pod(finished.GetUid())
	owner := pod.Job()
	switch pod.Outcome {
	case job.Succeeded:
		of := ""
		if !owner.Spec.IsWorkQueue() {
			of = fmt.Sprintf(" of %d", owner.Spec.Completions)
		}
		return fmt.Sprintf("pod %s succeeded (%d%s)", pod.Name(), owner.Progress.Succeeded, of)
	case job.Evicted:
		return fmt.Sprintf("pod %s was evicted: %s", pod.Name(), finished.GetMessage())
	case job.Stopped:
		return fmt.Sprintf("pod %s was stopped: %s", pod.Name(), finished.GetMessage())
	}
	reason := strings.TrimSpace(finished.GetReason() + " " + finished.GetMessage())
	return fmt.Sprintf("pod %s failed with exit code %d (%s), %s", pod.Name(), finished.GetExitCode(), reason, consequence(owner, pod.Index, finished))
}

// consequence says what a pod's failure means for its Job.
func consequence(owner *engine.Job, index int32, finished *event.PodFinished) string {
	switch {
	case finished.GetFailJob() != "":
		return "which fails the Job (podFailurePolicy)"
	case finished.GetIndexFailed():
		return fmt.Sprintf("index %d is given up", index)
	case finished.GetIgnored():
		return "which does not count (podFailurePolicy)"
	case owner.Spec.CountsPerIndex():
		return fmt.Sprintf("index %d may fail %d times and is tried again", index, owner.Spec.BackoffLimitPerIndex)
	}
	return fmt.Sprintf("failure %d of the Job, of which %d are borne", owner.Progress.Failed, owner.Spec.BackoffLimit)
}

// isTrouble tells whether a fact is more than the ordinary course of things.
func isTrouble(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_PodFinished:
		return body.PodFinished.GetOutcome() == event.PodFinished_FAILED || body.PodFinished.GetOutcome() == event.PodFinished_EVICTED
	case *event.Fact_JobConditionSet:
		kind := body.JobConditionSet.GetType()
		return kind == string(batchv1.JobFailureTarget) || kind == string(batchv1.JobSuspended)
	case *event.Fact_LaunchSettled:
		return body.LaunchSettled.GetErrorKind() != ""
	case *event.Fact_PodRestarted, *event.Fact_PodUnplaceable, *event.Fact_NodeNoticed:
		return true
	}
	return false
}

func jobName(state *engine.State, uid string) string {
	if owner, ok := state.Jobs[uid]; ok {
		return owner.Object.Name
	}
	return uid
}

func podName(state *engine.State, uid string) string {
	if pod, ok := state.Pod(uid); ok {
		return pod.Name()
	}
	return uid
}
