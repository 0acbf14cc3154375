package screen

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bar shows counts in one line that is painted anew, and above it what goes wrong.
type bar struct {
	out      io.Writer
	progress *mpb.Progress
	bar      *mpb.Bar

	closing sync.Once

	mu  sync.Mutex
	now Tally
}

func newBar(out io.Writer) *bar {
	b := &bar{out: out, progress: mpb.New(mpb.WithOutput(out), mpb.WithWidth(32), mpb.WithRefreshRate(200*time.Millisecond))}
	b.bar = b.progress.AddBar(0, mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.now.String()
	})))
	return b
}

func (b *bar) Tell(change Change) {
	if change.Trouble || change.At.IsZero() {
		b.above(change.String())
	}
}

func (b *bar) Log(_ context.Context, pod, line string) { b.above("[" + pod + "] " + line) }

func (b *bar) above(line string) {
	if _, err := io.WriteString(b.progress, line+"\n"); err != nil {
		// The bar is closed, and there is nothing to be above of.
		fmt.Fprintln(b.out, line)
	}
}

func (b *bar) Count(now Tally) {
	b.mu.Lock()
	b.now = now
	b.mu.Unlock()
	b.bar.SetTotal(int64(now.Wanted), false)
	b.bar.SetCurrent(int64(now.Succeeded))
}

func (b *bar) Close() {
	b.closing.Do(func() {
		b.bar.Abort(false)
		b.progress.Wait()
	})
}
