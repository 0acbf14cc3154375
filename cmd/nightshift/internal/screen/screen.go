// Package screen is what people and scripts see of a run: while it goes on, lines or a bar; at its end a summary, or an object.
//
// A terminal may be stopped and a pipe not be read. So what is shown is shown behind those who tell of it.
package screen

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Change is one change in words.
type Change struct {
	// At is zero for what is said by the command itself.
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	// Trouble is what a person wants to see also where they are shown counts alone.
	Trouble bool `json:"trouble"`
}

// Say is a Change that the command itself tells.
func Say(format string, arguments ...any) Change {
	return Change{Text: fmt.Sprintf(format, arguments...)}
}

// String is the line for a Change, with the time of day.
func (c Change) String() string {
	if c.At.IsZero() {
		return c.Text
	}
	return c.At.Local().Format("15:04:05 ") + c.Text
}

// Display shows a run while it goes on. Its methods are safe for concurrent use.
type Display interface {
	// Tell shows a change.
	Tell(Change)
	// Log shows a line that a pod has written. It may wait until there is room for it, or until the context ends.
	Log(ctx context.Context, pod, line string)
	// Count shows how far the run is.
	Count(Tally)
	// Close leaves the terminal as it was. What is told later is shown there in lines.
	Close()
}

// New returns a progress bar on a terminal, and lines elsewhere. Whoever tells it something does not wait for either; Close does.
func New(out io.Writer) Display {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return Behind(newBar(out))
	}
	return Behind(Lines(out))
}

// Lines returns a display that shows one line a change.
func Lines(out io.Writer) Display { return &lines{out: out} }

type lines struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *lines) Tell(change Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, change)
}

func (l *lines) Log(_ context.Context, pod, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%s] %s\n", pod, line)
}

func (l *lines) Count(Tally) {}
func (l *lines) Close()      {}
