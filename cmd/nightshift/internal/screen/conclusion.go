package screen

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// Report is what a run ends with: the object that `-o json` prints.
type Report struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
	// Status is "Complete" or "Failed", with the condition's reason and message; Deleted if the Job was deleted before either.
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Succeeded and Failed count pods as Kubernetes does, Evicted the attempts that were taken away.
	Succeeded int32 `json:"succeeded"`
	Failed    int32 `json:"failed"`
	Evicted   int32 `json:"evicted"`
	// CompletedIndexes is empty for a Job that is not Indexed.
	CompletedIndexes string `json:"completedIndexes"`
	// FailedIndexes are those that were given up, with backoffLimitPerIndex; else it is empty.
	FailedIndexes string `json:"failedIndexes"`
	// StartTime and CompletionTime, the time at which the Job ended either way, in RFC 3339, UTC; empty if it did not come to that.
	StartTime      string `json:"startTime"`
	CompletionTime string `json:"completionTime"`
	TraceID        string `json:"traceId"`
	Cost           Cost   `json:"cost"`
}

// Cost is in decimal dollars with six places.
type Cost struct {
	// Spot is what was paid, OnDemand what the same work would have cost on demand.
	Spot     string `json:"spot"`
	OnDemand string `json:"onDemand"`
	Currency string `json:"currency"`
}

// Conclusion is all that is told of a Job that has ended: the report, and what people want to know beside it.
type Conclusion struct {
	Report Report `json:"report"`
	// Completions wanted, negative for a work queue, and Attempts made.
	Completions int32 `json:"completions"`
	Attempts    int64 `json:"attempts"`
	// Took is from the start to the end.
	Took time.Duration `json:"took"`
	// EvictedMicros and IdleMicros are parts of what was paid, micro-dollars.
	EvictedMicros int64 `json:"evictedMicros"`
	IdleMicros    int64 `json:"idleMicros"`
	// Saved is how much less was paid than on demand, in percent; negative if nothing was.
	Saved int64 `json:"saved"`
	// Logs is the directory of the pods' logs.
	Logs string `json:"logs"`
	// Server, if not empty, is where the Job ran: of its cost no parts are known then, and its logs are there.
	Server string `json:"server"`
}

// Deleted is the status of a Job that was deleted before it had ended.
const Deleted = "Deleted"

// Gone tells of a Job that was deleted, or denied, and of which no more is known.
func Gone(namespace, name, uid string) Conclusion {
	nothing := spot.Dollars(0)
	return Conclusion{Saved: -1, Report: Report{
		Name: name, Namespace: namespace, UID: uid, Status: Deleted, Reason: Deleted, Message: "the Job is gone", TraceID: telemetry.TraceID(uid),
		Cost: Cost{Spot: nothing, OnDemand: nothing, Currency: "USD"},
	}}
}

// Conclude tells of a Job that has its receipt: it has ended, or was deleted. Its logs are in a folder of the data directory.
func Conclude(owner *engine.Job, dataDir string) Conclusion {
	at, ended := owner.Progress.Ended()
	if !ended {
		at = owner.DeletionRequested
	}
	receipt := owner.Receipt
	c := Conclusion{
		Report: ReportOf(owner), Completions: owner.Spec.Completions, Attempts: receipt.GetAttempts(),
		EvictedMicros: receipt.GetEvictedMicros(), IdleMicros: receipt.GetIdleMicros(), Saved: -1,
		Logs: filepath.Join(dataDir, "archive", "logs", owner.Namespace, owner.UID),
	}
	if started := owner.Progress.Started; !started.IsZero() {
		c.Took = at.Sub(started)
	}
	if paid, onDemand := receipt.GetCostMicros(), receipt.GetOnDemandMicros(); onDemand > 0 && paid <= onDemand {
		c.Saved = (onDemand - paid) * 100 / onDemand
	}
	return c
}

// ReportOf describes a Job that has its receipt.
func ReportOf(owner *engine.Job) Report {
	ended := Report{
		Name: owner.Object.Name, Namespace: owner.Namespace, UID: owner.UID,
		Succeeded: owner.Progress.Succeeded, Failed: owner.Progress.Failed, Evicted: owner.Progress.Evicted,
		StartTime: timeOf(owner.Progress.Started), TraceID: telemetry.TraceID(owner.UID),
		Status: Deleted, Reason: Deleted, Message: "the Job was deleted before it had ended",
		Cost: Cost{
			Spot: spot.Dollars(owner.Receipt.GetCostMicros()), OnDemand: spot.Dollars(owner.Receipt.GetOnDemandMicros()), Currency: owner.Receipt.GetCurrency(),
		},
	}
	if owner.Spec.Indexed {
		ended.CompletedIndexes = owner.Progress.Completed.String()
		ended.FailedIndexes = owner.Progress.FailedIndexes.String()
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if condition, ok := owner.Progress.Condition(kind); ok {
			ended.Status, ended.Reason, ended.Message = string(kind), condition.Reason, condition.Message
			ended.CompletionTime = timeOf(condition.At)
		}
	}
	return ended
}

func timeOf(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// WriteReports writes the report of one Job, or those of several as {"jobs": [...]}.
func WriteReports(out io.Writer, ended []Conclusion) error {
	reports := make([]Report, len(ended))
	for i := range ended {
		reports[i] = ended[i].Report
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if len(reports) == 1 {
		return encoder.Encode(reports[0])
	}
	return encoder.Encode(map[string][]Report{"jobs": reports})
}

// Summarize writes what a person wants to know at the end.
func (c *Conclusion) Summarize(out io.Writer) error {
	r := &c.Report
	saved := ""
	if c.Saved >= 0 {
		saved = fmt.Sprintf(" (%d%% saved)", c.Saved)
	}
	succeeded := fmt.Sprint(r.Succeeded)
	if c.Completions >= 0 {
		succeeded = fmt.Sprintf("%d of %d", r.Succeeded, c.Completions)
	}
	receipt := fmt.Sprintf("$%s paid, of it $%s for evicted work and $%s for idle nodes; on demand the same work costs $%s%s",
		r.Cost.Spot, spot.Dollars(c.EvictedMicros), spot.Dollars(c.IdleMicros), r.Cost.OnDemand, saved)
	logs := c.Logs
	if c.Server != "" {
		receipt = fmt.Sprintf("$%s paid; on demand the same work costs $%s", r.Cost.Spot, r.Cost.OnDemand)
		logs = fmt.Sprintf("kubectl logs --namespace %s --selector job-name=%s, on %s", r.Namespace, r.Name, c.Server)
	}
	_, err := fmt.Fprintf(out, "\njob %s/%s %s after %s: %s succeeded, %d failed, %d evicted, %d attempts in all\n"+
		"reason:   %s (%s)\n"+
		"receipt:  %s\n"+
		"trace:    %s\n"+
		"logs:     %s\n",
		r.Namespace, r.Name, r.Status, c.Took.Round(time.Millisecond), succeeded, r.Failed, r.Evicted, c.Attempts,
		r.Message, r.Reason, receipt, r.TraceID, logs)
	return err
}
