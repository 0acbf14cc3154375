// Package screen is what people and scripts see of a run: while it goes on, lines or a bar; at its end a summary, or an object.
//
// A Display may be slow, as a pipe that nobody reads: it is never called while anything is held that others wait for.
package screen

import (
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
	// Log shows a line that a pod has written.
	Log(pod, line string)
	// Count shows how far the run is.
	Count(Tally)
	// Close leaves the terminal as it was; what is shown later is not seen there.
	Close()
}

// New returns a progress bar on a terminal, and lines elsewhere.
func New(out io.Writer) Display {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return newBar(out)
	}
	return Lines(out)
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

func (l *lines) Log(pod, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%s] %s\n", pod, line)
}

func (l *lines) Count(Tally) {}
func (l *lines) Close()      {}
