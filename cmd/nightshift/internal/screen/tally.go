package screen

import (
	"fmt"
	"strings"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// Tally is how far a run's Jobs are together.
type Tally struct {
	Wanted    int32 `json:"wanted"`
	Succeeded int32 `json:"succeeded"`
	Running   int32 `json:"running"`
	Failed    int32 `json:"failed"`
	Evicted   int32 `json:"evicted"`
	// PaidMicros so far, micro-dollars.
	PaidMicros int64 `json:"paidMicros"`
	// Left is the time to the end at the pace so far; 0 when there is none to tell by.
	Left time.Duration `json:"left"`
}

// String tells it in a line.
func (t Tally) String() string {
	parts := []string{fmt.Sprintf("%d of %d done", t.Succeeded, t.Wanted), fmt.Sprintf("%d running", t.Running)}
	if t.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", t.Failed))
	}
	if t.Evicted > 0 {
		parts = append(parts, fmt.Sprintf("%d evicted", t.Evicted))
	}
	parts = append(parts, "$"+spot.Dollars(t.PaidMicros))
	if t.Left > 0 {
		parts = append(parts, t.Left.Round(time.Second).String()+" left")
	}
	return " " + strings.Join(parts, ", ")
}

// Add counts a Job in.
func (t *Tally) Add(owner *engine.Job) {
	// A work queue wants one success, and then those that are under way.
	wanted := owner.Spec.Completions
	if owner.Spec.IsWorkQueue() {
		wanted = max(1, owner.Progress.Succeeded+owner.Counts.Active)
	}
	t.Wanted += wanted
	t.Succeeded += owner.Progress.Succeeded
	t.Failed += owner.Progress.Failed
	t.Evicted += owner.Progress.Evicted
	t.PaidMicros += owner.Account.Paid.Micros()
	for pod := range owner.Live() {
		t.PaidMicros += pod.Charge().Paid.Micros()
	}
	t.Running += owner.Counts.Ready
}

// Pace tells the time to the end from how long what is done has taken.
func (t *Tally) Pace(since time.Duration) {
	if t.Succeeded > 0 && t.Succeeded < t.Wanted {
		t.Left = since / time.Duration(t.Succeeded) * time.Duration(t.Wanted-t.Succeeded)
	}
}
