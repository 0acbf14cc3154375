package screen

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// pipe shows lines on a pipe, which is read when read is called.
func pipe(t *testing.T) (show Display, read func() []string) {
	out, in := io.Pipe()
	t.Cleanup(func() { _ = in.Close() })
	show = Behind(Lines(in))
	return show, func() []string {
		text := make(chan string)
		go func() {
			all, _ := io.ReadAll(out)
			text <- string(all)
		}()
		show.Close()
		_ = in.Close()
		return strings.Split(strings.TrimSuffix(<-text, "\n"), "\n")
	}
}

func TestWhoTellsDoesNotWaitForWhoReads(t *testing.T) {
	show, read := pipe(t)
	const told = 3 * maxChanges
	for i := range told {
		show.Tell(Say("change %d", i))
	}
	lines := read()
	if lines[0] != "change 0" {
		t.Errorf("the first line is %q", lines[0])
	}
	var left int
	last := lines[len(lines)-1]
	if _, err := fmt.Sscanf(last, "(%d changes are left out here", &left); err != nil || len(lines)-1+left != told {
		t.Errorf("of %d changes %d lines are shown, and the last is %q", told, len(lines), last)
	}
}

func TestWhoBringsAPodsLinesWaitsForRoomOrUntilNobodyWantsThem(t *testing.T) {
	show, read := pipe(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			show.Log(ctx, "p", fmt.Sprint("line ", i))
		}
	}()
	b := show.(*behind)
	for len(b.room) < cap(b.room) {
		select {
		case <-ended:
			t.Fatal("it ended by itself")
		default:
			runtime.Gosched()
		}
	}
	stop()
	<-ended
	lines := read()
	for i, line := range lines {
		if line != fmt.Sprintf("[p] line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if len(lines) < maxLogLines || len(lines) > maxLogLines+2 {
		t.Errorf("%d lines waited, want about %d", len(lines), maxLogLines)
	}
}
