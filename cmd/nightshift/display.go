package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// display shows a run while it goes on. Its methods are safe for concurrent use.
type display interface {
	// tell shows a change.
	tell(told)
	// log shows what a pod has written.
	log(pod, line string)
	// count shows how far the run is.
	count(tally)
	// close leaves the terminal as it was.
	close()
}

// newDisplay returns a progress bar on a terminal, and lines elsewhere.
func newDisplay(out io.Writer) display {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return newBar(out)
	}
	return &lines{out: out}
}

// lines shows one line a change.
type lines struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *lines) tell(change told) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, stamped(change))
}

func (l *lines) log(pod, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%s] %s\n", pod, line)
}

func (l *lines) count(tally) {}
func (l *lines) close()      {}

func stamped(change told) string {
	if change.at.IsZero() {
		return change.text
	}
	return change.at.Local().Format("15:04:05 ") + change.text
}

// bar shows counts in one line that is painted anew, and above it what goes wrong.
type bar struct {
	progress *mpb.Progress
	bar      *mpb.Bar

	mu  sync.Mutex
	now tally
}

func newBar(out io.Writer) *bar {
	b := &bar{progress: mpb.New(mpb.WithOutput(out), mpb.WithWidth(32), mpb.WithRefreshRate(200*time.Millisecond))}
	b.bar = b.progress.AddBar(0, mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.now.String()
	})))
	return b
}

func (b *bar) tell(change told) {
	if change.trouble || change.at.IsZero() {
		b.above(stamped(change))
	}
}

func (b *bar) log(pod, line string) { b.above("[" + pod + "] " + line) }

func (b *bar) above(line string) {
	// Once the bar is closed there is nothing to be above of.
	_, _ = io.WriteString(b.progress, line+"\n")
}

func (b *bar) count(now tally) {
	b.mu.Lock()
	b.now = now
	b.mu.Unlock()
	b.bar.SetTotal(int64(now.wanted), false)
	b.bar.SetCurrent(int64(now.succeeded))
}

func (b *bar) close() {
	b.bar.Abort(false)
	b.progress.Wait()
}

// tally is how far a run's Jobs are together.
type tally struct {
	wanted, succeeded, running, failed, evicted int32
	// paidMicros so far, micro-dollars.
	paidMicros int64
	// left is the time to the end at the pace so far; 0 when there is none to tell by.
	left time.Duration
}

func (t tally) String() string {
	parts := []string{fmt.Sprintf("%d of %d done", t.succeeded, t.wanted), fmt.Sprintf("%d running", t.running)}
	if t.failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", t.failed))
	}
	if t.evicted > 0 {
		parts = append(parts, fmt.Sprintf("%d evicted", t.evicted))
	}
	parts = append(parts, "$"+spot.Dollars(t.paidMicros))
	if t.left > 0 {
		parts = append(parts, t.left.Round(time.Second).String()+" left")
	}
	return " " + strings.Join(parts, ", ")
}

// add counts a Job in.
func (t *tally) add(state *engine.State, owner *engine.Job) {
	t.wanted += owner.Spec.Completions
	t.succeeded += owner.Progress.Succeeded
	t.failed += owner.Progress.Failed
	t.evicted += owner.Progress.Evicted
	t.paidMicros += owner.Account.Paid.Micros()
	for _, uid := range owner.LivePods {
		pod := state.Pods[uid]
		t.paidMicros += pod.Charge.Paid.Micros()
		if !pod.Started.IsZero() && pod.Outcome == job.Live {
			t.running++
		}
	}
}

// pace tells the time to the end from how long what is done has taken.
func (t *tally) pace(since time.Duration) {
	if t.succeeded > 0 && t.succeeded < t.wanted {
		t.left = since / time.Duration(t.succeeded) * time.Duration(t.wanted-t.succeeded)
	}
}
