package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// report is what a run ends with: the object that `-o json` prints.
type report struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
	// Status is "Complete" or "Failed", with the condition's reason and message.
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Succeeded and Failed count pods as Kubernetes does, Evicted the attempts that were taken away.
	Succeeded int32 `json:"succeeded"`
	Failed    int32 `json:"failed"`
	Evicted   int32 `json:"evicted"`
	// CompletedIndexes is empty for a Job that is not Indexed.
	CompletedIndexes string `json:"completedIndexes"`
	// StartTime and CompletionTime, the time at which the Job ended either way, in RFC 3339, UTC.
	StartTime      string `json:"startTime"`
	CompletionTime string `json:"completionTime"`
	TraceID        string `json:"traceId"`
	Cost           cost   `json:"cost"`
}

// cost is in decimal dollars with six places.
type cost struct {
	// Spot is what was paid, OnDemand what the same work would have cost on demand.
	Spot     string `json:"spot"`
	OnDemand string `json:"onDemand"`
	Currency string `json:"currency"`
}

// reportOf describes a Job that has ended and has its receipt.
func reportOf(owner *engine.Job) report {
	ended := report{
		Name: owner.Object.Name, Namespace: owner.Namespace, UID: owner.UID,
		Succeeded: owner.Progress.Succeeded, Failed: owner.Progress.Failed, Evicted: owner.Progress.Evicted,
		StartTime: owner.Progress.Started.UTC().Format(time.RFC3339), TraceID: telemetry.TraceID(owner.UID),
		Cost: cost{
			Spot: spot.Dollars(owner.Receipt.GetCostMicros()), OnDemand: spot.Dollars(owner.Receipt.GetOnDemandMicros()), Currency: owner.Receipt.GetCurrency(),
		},
	}
	if owner.Spec.Indexed {
		ended.CompletedIndexes = owner.Progress.Completed.String()
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if condition, ok := owner.Progress.Condition(kind); ok {
			ended.Status, ended.Reason, ended.Message = string(kind), condition.Reason, condition.Message
			ended.CompletionTime = condition.At.UTC().Format(time.RFC3339)
		}
	}
	return ended
}

func (r report) writeJSON(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// summarize writes what a person wants to know at the end.
func summarize(out io.Writer, owner *engine.Job, logs string) {
	ended := reportOf(owner)
	at, _ := owner.Progress.Ended()
	fmt.Fprintf(out, "\njob %s/%s %s after %s: %d of %d succeeded, %d failed, %d evicted, %d attempts in all\n", ended.Namespace, ended.Name,
		ended.Status, at.Sub(owner.Progress.Started).Round(time.Millisecond), ended.Succeeded, owner.Spec.Completions, ended.Failed, ended.Evicted, owner.Attempts())
	fmt.Fprintf(out, "reason:   %s (%s)\n", ended.Message, ended.Reason)
	receipt := owner.Receipt
	fmt.Fprintf(out, "receipt:  $%s paid, of it $%s for evicted work and $%s for idle nodes; on demand the same work costs $%s%s\n", ended.Cost.Spot,
		spot.Dollars(receipt.GetEvictedMicros()), spot.Dollars(receipt.GetIdleMicros()), ended.Cost.OnDemand, saved(receipt.GetCostMicros(), receipt.GetOnDemandMicros()))
	fmt.Fprintf(out, "trace:    %s\n", ended.TraceID)
	fmt.Fprintf(out, "logs:     %s\n", logs)
}

func saved(paid, onDemand int64) string {
	if onDemand <= 0 || paid > onDemand {
		return ""
	}
	return fmt.Sprintf(" (%d%% saved)", (onDemand-paid)*100/onDemand)
}
