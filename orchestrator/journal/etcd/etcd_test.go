package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// openWriter opens the directory and campaigns; the journal is closed with the test.
func openWriter(t testing.TB, options Options) (*Journal, journal.Term) {
	t.Helper()
	if options.Logger == nil {
		options.Logger = testLogger(t)
	}
	j, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	term, err := j.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return j, term
}

// manyFacts makes n facts of the given size whose bytes depend on their number.
func manyFacts(first journal.Seq, n, size int) [][]byte {
	facts := make([][]byte, n)
	for i := range facts {
		facts[i] = bytes.Repeat(fmt.Appendf(nil, "%d,", first+journal.Seq(i)), size)[:size]
	}
	return facts
}

// mustAppend appends batches of two facts up to the head.
func mustAppend(t *testing.T, j *Journal, term journal.Term, batches int) journal.Seq {
	t.Helper()
	head, err := j.Head(t.Context())
	for range batches {
		if err == nil {
			head, err = j.Append(t.Context(), term, head, manyFacts(head+1, 2, 20))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return head
}

func count(n *journal.Seq) func(journal.Batch) error {
	return func(b journal.Batch) error {
		*n += journal.Seq(len(b.Facts))
		return nil
	}
}

func revision(t *testing.T, j *Journal) int64 {
	t.Helper()
	response, err := j.client.Get(t.Context(), j.keys.head)
	if err != nil {
		t.Fatal(err)
	}
	return response.Header.Revision
}

func TestFiveHundredFactsAreOneTransaction(t *testing.T) {
	j, term := openWriter(t, Options{Dir: t.TempDir()})
	before := revision(t, j)
	if _, err := j.Append(t.Context(), term, 0, manyFacts(1, 500, 150)); err != nil {
		t.Fatal(err)
	}
	if after := revision(t, j); after != before+1 {
		t.Errorf("500 facts took etcd from revision %d to %d", before, after)
	}
	if want := (journal.Stats{Appends: 1, Facts: 500, Bytes: 75_000}); j.Stats() != want {
		t.Errorf("stats %+v, want %+v", j.Stats(), want)
	}
	// What is refused is neither written nor counted.
	if _, err := j.Append(t.Context(), term, 0, manyFacts(1, 5, 150)); !errors.Is(err, journal.ErrHeadMoved) {
		t.Fatal(err)
	}
	if after := revision(t, j); after != before+1 || j.Stats().Appends != 1 {
		t.Errorf("a refused append left revision %d and %+v", after, j.Stats())
	}
}

func TestASecondOpenOfADirectoryInUseFailsFastAndNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	j, _ := openWriter(t, Options{Dir: dir})
	_, err := Open(t.Context(), Options{Dir: dir})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the second Open: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	openWriter(t, Options{Dir: dir})
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*Journal, error){
		"no directory":     func() (*Journal, error) { return Open(t.Context(), Options{}) },
		"a file":           func() (*Journal, error) { return Open(t.Context(), Options{Dir: file}) },
		"a negative bound": func() (*Journal, error) { return Open(t.Context(), Options{Dir: t.TempDir(), MaxBytes: -1}) },
	} {
		if j, err := open(); err == nil {
			t.Errorf("Open succeeded with %s", name)
			_ = j.Close()
		}
	}
}

func TestAnInterruptedFirstStartDoesNotSpoilTheDirectory(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	// Each stops somewhere else. Without the marker about one in ten leaves a log without a member, which never starts again.
	for range 15 {
		dir := t.TempDir()
		if j, err := Open(ended, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
			t.Fatalf("Open under an ended context: %v, %v", j, err)
		}
		j, term := openWriter(t, Options{Dir: dir})
		mustAppend(t, j, term, 1)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyAnUnfinishedFirstStartIsRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := beginFirst(dir); err != nil {
		t.Fatal(err)
	}
	// A log file with nothing in it is what a kill right at the start leaves; etcd itself cannot start from it.
	wal := filepath.Join(dir, etcdName, "member", "wal", "0000000000000000-0000000000000000.wal")
	if err := errors.Join(os.MkdirAll(filepath.Dir(wal), 0o700), os.WriteFile(wal, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	j, term := openWriter(t, Options{Dir: dir})
	head := mustAppend(t, j, term, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, firstName)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the marker of a first start that has succeeded: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ended, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	j, _ = openWriter(t, Options{Dir: dir})
	if now, err := j.Head(t.Context()); err != nil || now != head {
		t.Errorf("an interrupted later start left head %d of %d (%v)", now, head, err)
	}
}

func TestAStartIsQuiet(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	for range 2 {
		j, term := openWriter(t, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		mustAppend(t, j, term, 3)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "took too long") && !strings.Contains(line, "slow fdatasync") { // a busy machine's, and true
			t.Errorf("etcd said at a plain start: %s", line)
		}
	}
}

func TestEtcdsWarningsReachTheLogger(t *testing.T) {
	var log bytes.Buffer
	zap := newZap(slog.New(slog.NewTextHandler(&log, nil))).Sugar().With("member", 7)
	zap.Infow("chatter")
	zap.Warnw("the disk is slow", "took", "3s")
	zap.Errorw("broken", "error", errors.New("cause"))
	got := log.String()
	for _, want := range []string{
		`level=WARN msg="the disk is slow" component=etcd member=7 took=3s`,
		`level=ERROR msg=broken component=etcd member=7 error=cause`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "chatter") {
		t.Errorf("the log has etcd's chatter:\n%s", got)
	}
}
