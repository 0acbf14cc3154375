package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// text is n lines of differing lengths.
func text(random *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d %s\n", i, strings.Repeat("x", random.IntN(120)))
	}
	return b.String()
}

// appendAll appends content in pieces of random sizes, many of them twice or with an overlap, as an agent does that reconnects.
func appendAll(a *Archive, run LogRun, random *rand.Rand, content string) error {
	for done := 0; done < len(content); {
		from := max(0, done-random.IntN(200))
		done = min(len(content), done+1+random.IntN(600))
		if err := a.AppendLog(context.Background(), run, int64(from), []byte(content[from:done]), false); err != nil {
			return err
		}
	}
	return a.AppendLog(context.Background(), run, int64(len(content)), nil, true)
}

func TestFollowersOfManyLogsSeeEveryByteOnceWhileTheLogsGrowAndEnd(t *testing.T) {
	const seed = 7
	dir := t.TempDir()
	a := openDir(t, dir)
	var all sync.WaitGroup
	for pod := range 4 {
		run := night
		run.PodUID = fmt.Sprintf("pod-%d", pod)
		random := rand.New(rand.NewPCG(seed, uint64(pod)))
		content := text(random, 400)
		half := make(chan struct{})
		for follower := range 4 {
			all.Go(func() {
				if follower > 1 {
					<-half
				}
				r, err := a.OpenLog(context.Background(), run, LogOptions{Follow: true})
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(r)
				if err = errors.Join(err, r.Close()); err != nil || string(got) != content {
					t.Errorf("pod %d, follower %d: %d bytes, want %d; %v", pod, follower, len(got), len(content), err)
				}
			})
		}
		all.Go(func() {
			middle := len(content) / 2
			if err := a.AppendLog(context.Background(), run, 0, []byte(content[:middle]), false); err != nil {
				t.Error(err)
			}
			close(half)
			if err := appendAll(a, run, random, content); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if held := openFiles(t, dir); held != 0 || len(a.logs) != 0 {
		t.Errorf("%d files are still open and %d logs in memory", held, len(a.logs))
	}
}

func TestAReaderThatWasOpenedBeforeTheChunksBecameAWholeReadsOn(t *testing.T) {
	a := openDir(t, t.TempDir())
	mustAppend(t, a, night, 0, "one\n", false)
	mustAppend(t, a, night, 4, "two\n", false)
	r, err := a.OpenLog(context.Background(), night, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	first := make([]byte, 2)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, a, night, 8, "late\n", true)
	rest, err := io.ReadAll(iotest.OneByteReader(r))
	if got := string(first) + string(rest); err != nil || got != "one\ntwo\n" {
		t.Errorf("read %q and %v, want what was there at the opening", got, err)
	}
}

func TestWhatAFollowerWaitsForCanBeEndedFromOutside(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(t *testing.T, a *Archive, cancel func(), r io.Closer)
		want error
	}{
		"the context":    {func(_ *testing.T, _ *Archive, cancel func(), _ io.Closer) { cancel() }, context.Canceled},
		"the reader":     {func(_ *testing.T, _ *Archive, _ func(), r io.Closer) { _ = r.Close() }, os.ErrClosed},
		"the archive":    {func(_ *testing.T, a *Archive, _ func(), _ io.Closer) { _ = a.Close() }, ErrClosed},
		"the log itself": {func(t *testing.T, a *Archive, _ func(), _ io.Closer) { mustAppend(t, a, night, 4, "", true) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a := openDir(t, dir)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			r, err := a.OpenLog(ctx, night, LogOptions{Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			firstRead := make(chan struct{})
			result := make(chan error, 1)
			go func() {
				line := make([]byte, 4)
				_, err := io.ReadFull(r, line)
				close(firstRead)
				if err == nil {
					_, err = io.ReadAll(r)
				}
				result <- err
			}()
			mustAppend(t, a, night, 0, "one\n", false)
			<-firstRead
			test.end(t, a, cancel, r)
			if err := <-result; !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if held := openFiles(t, dir); held != 0 {
				t.Errorf("%d files are still open", held)
			}
		})
	}
}

func TestALogOfWhichNothingIsKeptIsNamedSoUnlessItIsFollowed(t *testing.T) {
	a := openDir(t, t.TempDir())
	if _, err := a.OpenLog(context.Background(), night, LogOptions{}); !errors.Is(err, ErrNoLog) {
		t.Errorf("error %v", err)
	}
	if len(a.logs) != 0 {
		t.Error("a log that is not there is held in memory")
	}
	r, err := a.OpenLog(context.Background(), night, LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.EndLog(context.Background(), night); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.OpenLog(context.Background(), night, LogOptions{}); !errors.Is(err, ErrNoLog) {
		t.Errorf("after an end without a byte: %v", err)
	}
}

func lastLines(content string, n int) string {
	lines := strings.SplitAfter(content, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

func TestTailLinesStartsSoManyLinesBeforeTheEnd(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 1))
	for name, content := range map[string]string{
		"many lines":            text(random, 4000),
		"no last end":           text(random, 50) + "last",
		"one line":              "one\n",
		"no line end at all":    "one",
		"empty lines":           "\n\n\n",
		"longer than one block": strings.Repeat("x", 200_000) + "\n" + strings.Repeat("y", 70_000) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := openDir(t, t.TempDir())
			for offset := 0; offset < len(content); {
				end := min(len(content), offset+1+random.IntN(20_000))
				mustAppend(t, a, night, int64(offset), content[offset:end], false)
				offset = end
			}
			for _, ended := range []bool{false, true} {
				if ended {
					mustAppend(t, a, night, int64(len(content)), "", true)
				}
				for _, n := range []int64{0, 1, 2, 3, 49, 50, 51, 3999, 4000, 5000} {
					want := lastLines(content, int(n))
					if got := readLog(t, a, night, LogOptions{TailLines: &n}); got != want {
						t.Errorf("ended %t, %d lines: %d bytes, want %d", ended, n, len(got), len(want))
					}
				}
			}
		})
	}
}

func TestTailAndLimitAndFollowGoTogether(t *testing.T) {
	a := openDir(t, t.TempDir())
	mustAppend(t, a, night, 0, "one\ntwo\n", false)
	one, none, six, negative, zero := int64(1), int64(0), int64(6), int64(-1), int64(0)
	tailed, err := a.OpenLog(context.Background(), night, LogOptions{Follow: true, TailLines: &one, LimitBytes: &six})
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := a.OpenLog(context.Background(), night, LogOptions{Follow: true, TailLines: &none})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, a, night, 8, "three\n", true)
	for want, r := range map[string]io.ReadCloser{"two\nth": tailed, "three\n": fresh} {
		got, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || string(got) != want {
			t.Errorf("%q and %v, want %q", got, err, want)
		}
	}
	for _, options := range []LogOptions{{TailLines: &negative}, {LimitBytes: &zero}} {
		if _, err := a.OpenLog(context.Background(), night, options); err == nil {
			t.Errorf("%+v was taken", options)
		}
	}
}

func TestTheEndOfASilentRunIsToldToThoseWhoFollowIt(t *testing.T) {
	a := openDir(t, t.TempDir())
	a.EndSilentLog(night) // Nobody follows it.
	if len(a.logs) != 0 {
		t.Error("a log that nobody asks for is held in memory")
	}
	r, err := a.OpenLog(context.Background(), night, LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	a.EndSilentLog(night)
	if got, err := io.ReadAll(r); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := a.AppendLog(context.Background(), night, 0, []byte("one\n"), false); err != nil {
		t.Fatal(err)
	}
	a.EndSilentLog(night)
	if err := a.AppendLog(context.Background(), night, 4, []byte("two\n"), true); err != nil {
		t.Errorf("a log with something in it was ended: %v", err)
	}
}
