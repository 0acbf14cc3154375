package etcd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// crashDir, in the environment, makes this test binary the child that TestAKilledWriterLosesNothing kills.
const crashDir = "NIGHTSHIFT_JOURNAL_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, appendForever(dir))
		os.Exit(1)
	}
	if config := os.Getenv(memberConfig); config != "" {
		fmt.Fprintln(os.Stderr, serveMember(config))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// appendForever appends batches to the journal in dir and writes a line for each that was acknowledged, until it is killed.
func appendForever(dir string) error {
	ctx := context.Background()
	j, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		return err
	}
	term, err := j.Campaign(ctx)
	if err != nil {
		return err
	}
	head, err := j.Head(ctx)
	if err != nil {
		return err
	}
	for {
		head, err = j.Append(ctx, term, head, crashFacts(head))
		if err != nil {
			return err
		}
		if _, err := fmt.Println(uint64(head)); err != nil {
			return err
		}
	}
}

// crashFacts is the one batch that may follow head.
func crashFacts(head journal.Seq) [][]byte { return manyFacts(head+1, 1+int(head%37), 150) }

// restartBound is what "started again at once" means: opening after a kill, up to the new term. It is about ten times what
// it takes on an idle machine with the race detector.
const restartBound = 2 * time.Second

func TestAKilledWriterLosesNothing(t *testing.T) {
	dir := t.TempDir()
	lastTerm := journal.Term(0)
	for round := range 4 {
		// The last rounds pass etcd's own snapshots too.
		acked := killAfter(t, dir, 20+round*400)

		began := time.Now()
		j, term := openWriter(t, Options{Dir: dir})
		took := time.Since(began)
		t.Logf("round %d: fact %d acknowledged, opened and elected in %v", round, acked, took)
		if took > restartBound {
			t.Errorf("opening after a kill took %v", took)
		}
		if term <= lastTerm {
			t.Errorf("term %d follows term %d", term, lastTerm)
		}
		lastTerm = term

		head, err := j.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// One append can have been on its way to be acknowledged.
		if most := acked + journal.Seq(len(crashFacts(acked))); head != acked && head != most {
			t.Errorf("the head is %d, acknowledged were %d", head, acked)
		}
		wantCrashFacts(t, j, head)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter starts the child, kills it with SIGKILL when it has acknowledged so many batches, and returns the last fact that it
// acknowledged.
func killAfter(t *testing.T, dir string, batches int) journal.Seq {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir)
	var stderr bytes.Buffer
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acked journal.Seq
	lines := 0
	for reader := bufio.NewReader(out); ; lines++ {
		line, err := reader.ReadString('\n')
		if err != nil {
			// A line that the kill cut off is no acknowledgement.
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		if _, err := fmt.Sscan(line, &acked); err != nil {
			t.Fatalf("the child wrote %q: %v", line, err)
		}
		if lines == batches {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); lines <= batches || child.ProcessState.Exited() {
		t.Fatalf("the child ended by itself after %d batches: %v\n%s", lines, err, stderr.String())
	}
	return acked
}

// wantCrashFacts checks that the log is exactly the batches of crashFacts up to head.
func wantCrashFacts(t *testing.T, j *Journal, head journal.Seq) {
	t.Helper()
	last := journal.Seq(0)
	err := j.Read(t.Context(), 1, func(b journal.Batch) error {
		want := crashFacts(last)
		if b.First != last+1 || len(b.Facts) != len(want) {
			return fmt.Errorf("after fact %d come facts %d to %d, want %d", last, b.First, b.Last(), len(want))
		}
		for i := range want {
			if !bytes.Equal(b.Facts[i], want[i]) {
				return fmt.Errorf("fact %d is %q", b.First+journal.Seq(i), b.Facts[i])
			}
		}
		last = b.Last()
		return nil
	})
	if err != nil || last != head {
		t.Errorf("reading up to fact %d ended after %d: %v", head, last, err)
	}
}
