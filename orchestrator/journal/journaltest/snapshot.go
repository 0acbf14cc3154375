package journaltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// chunksOf are n chunks that tell their number, in one buffer. between is called before each but the first.
func chunksOf(what string, n int, between func(i int) error) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		buffer := make([]byte, 0, 64)
		for i := range n {
			if i > 0 && between != nil {
				if err := between(i); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(fmt.Appendf(buffer, "%s %d", what, i), nil) {
				return
			}
		}
	}
}

// wantSnapshot wants the newest snapshot to be that one, of chunksOf.
func (l *log) wantSnapshot(t *testing.T, j journal.Journal, at journal.Seq, what string, n int) {
	t.Helper()
	i := 0
	got, err := j.ReadSnapshot(l.ctx, func(chunk []byte) error {
		if want := fmt.Sprintf("%s %d", what, i); string(chunk) != want {
			t.Errorf("chunk %d is %q, want %q", i, chunk, want)
		}
		i++
		return nil
	})
	if err != nil || got != at || i != n {
		t.Fatalf("the newest snapshot is of %d chunks after fact %d (%v), want %d after %d", i, got, err, n, at)
	}
}

func snapshot(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.wantSnapshot(t, j, 0, "", 0)
	l.append(t, j, term, 3, 2)
	err := j.Snapshot(l.ctx, term, 5, chunksOf("first", 4, func(i int) error {
		l.append(t, j, term, i)
		l.wantSnapshot(t, j, 0, "", 0) // not before it is whole
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	l.wantSnapshot(t, j, 5, "first", 4)
	// A reader goes on after it.
	next := journal.Seq(6)
	for _, b := range l.read(t, j, next) {
		next = wantBatch(t, b, next)
	}
	if next != 12 {
		t.Errorf("after the snapshot, the log goes to fact %d", next-1)
	}
	enough := errors.New("enough")
	if _, err := j.ReadSnapshot(l.ctx, func([]byte) error { return enough }); err != enough { //nolint:errorlint // the contract: returned as it is
		t.Errorf("ReadSnapshot with an error of yield returned %v", err)
	}
	err = j.Snapshot(l.ctx, term, 11, chunksOf("second", 2, func(int) error {
		l.wantSnapshot(t, j, 5, "first", 4)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	l.wantSnapshot(t, l.handle(t), 11, "second", 2)
}

func snapshotSizes(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 1, 1)
	one := func(chunk []byte) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) { yield(chunk, nil) }
	}
	for _, size := range []int{0, journal.MaxChunkBytes + 1} {
		if err := j.Snapshot(l.ctx, term, 1, one(make([]byte, size))); !errors.Is(err, journal.ErrTooLarge) {
			t.Errorf("a chunk of %d bytes: %v", size, err)
		}
	}
	l.wantSnapshot(t, j, 0, "", 0)
	largest := bytes.Repeat([]byte{7}, journal.MaxChunkBytes)
	if err := j.Snapshot(l.ctx, term, 1, one(largest)); err != nil {
		t.Fatal(err)
	}
	at, err := j.ReadSnapshot(l.ctx, func(chunk []byte) error {
		if !bytes.Equal(chunk, largest) {
			t.Error("the largest chunk is not what was written")
		}
		return nil
	})
	if err != nil || at != 1 {
		t.Errorf("the snapshot of the largest chunk is after fact %d: %v", at, err)
	}
	// A state may be empty.
	if err := j.Snapshot(l.ctx, term, 2, chunksOf("", 0, nil)); err != nil {
		t.Fatal(err)
	}
	l.wantSnapshot(t, j, 2, "", 0)
}

func snapshotPlaces(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 2, 2)
	if err := j.Snapshot(l.ctx, term, 5, chunksOf("s", 1, nil)); err != nil {
		t.Fatal(err)
	}
	for at, why := range map[journal.Seq]string{0: "before the first", 3: "earlier than the newest", 5: "the newest again", 6: "within a batch", 8: "to come"} {
		if err := j.Snapshot(l.ctx, term, at, chunksOf("s", 1, nil)); err == nil {
			t.Errorf("a snapshot was taken after fact %d, which is %s", at, why)
		}
	}
	l.wantSnapshot(t, j, 5, "s", 1)
}

func snapshotBrokenOff(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 2)
	if err := j.Snapshot(l.ctx, term, 3, chunksOf("whole", 3, nil)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	fail := func(i int) error {
		if i == 2 {
			return broken
		}
		return nil
	}
	if err := j.Snapshot(l.ctx, term, 5, chunksOf("half", 4, fail)); err != broken { //nolint:errorlint // the contract: returned as it is
		t.Errorf("a snapshot whose chunks end with an error: %v", err)
	}
	l.wantSnapshot(t, j, 3, "whole", 3)
	// Another term takes over in the middle.
	other := l.handle(t)
	var next journal.Term
	err := j.Snapshot(l.ctx, term, 5, chunksOf("deposed", 4, func(i int) error {
		if i == 2 {
			next = l.campaign(t, other)
		}
		return nil
	}))
	if !errors.Is(err, journal.ErrFenced) {
		t.Errorf("a snapshot in the middle of which another term began: %v", err)
	}
	l.wantSnapshot(t, j, 3, "whole", 3)
	if err := other.Snapshot(l.ctx, next, 5, chunksOf("next", 2, nil)); err != nil {
		t.Fatal(err)
	}
	l.wantSnapshot(t, j, 5, "next", 2)
}

func snapshotReplaced(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 2)
	if err := j.Snapshot(l.ctx, term, 3, chunksOf("old", 20, nil)); err != nil {
		t.Fatal(err)
	}
	calls := 0
	_, err := j.ReadSnapshot(l.ctx, func([]byte) error {
		if calls++; calls == 2 {
			return j.Snapshot(l.ctx, term, 5, chunksOf("new", 1, nil))
		}
		return nil
	})
	if !errors.Is(err, journal.ErrReplaced) {
		t.Errorf("a snapshot in place of which a newer one came was read with %v", err)
	}
	l.wantSnapshot(t, j, 5, "new", 1)
}

// archive keeps segments for tests, and checks that they follow each other.
type archive struct {
	t     *testing.T
	chain *journal.Chain
	calls int
	// before is called before a segment is kept, if it is not nil; its error is Keep's.
	before func() error
}

func newArchive(t *testing.T) *archive {
	return &archive{t: t, chain: journal.ChainAfter(0, journal.Digest{})}
}

// Keep implements journal.Archiver.
func (a *archive) Keep(_ context.Context, first, last uint64, segment []byte) error {
	a.t.Helper()
	if a.before != nil {
		if err := a.before(); err != nil {
			return err
		}
	}
	a.calls++
	if next := a.chain.Next(); journal.Seq(first) != next {
		a.t.Errorf("the segment of facts %d to %d comes where fact %d should", first, last, next)
	}
	next := a.chain.Next()
	err := journal.ReadSegment(segment, a.chain, func(b journal.Batch) error {
		next = wantBatch(a.t, b, next)
		return nil
	})
	if err != nil || journal.Seq(last) != next-1 {
		a.t.Errorf("the segment of facts %d to %d goes to fact %d: %v", first, last, next-1, err)
	}
	return nil
}

func compact(t *testing.T, l *log) {
	j, term := l.writer(t)
	kept := newArchive(t)
	l.append(t, j, term, 3, 2, 4, 1, 5) // 1-3, 4-5, 6-9, 10, 11-15
	for _, upTo := range []journal.Seq{1, 9, 15} {
		if err := j.Compact(l.ctx, term, upTo, kept); !errors.Is(err, journal.ErrNoSnapshot) {
			t.Errorf("compacting up to fact %d without a snapshot: %v", upTo, err)
		}
	}
	if err := j.Snapshot(l.ctx, term, 9, chunksOf("s", 2, nil)); err != nil {
		t.Fatal(err)
	}
	if err := j.Compact(l.ctx, term, 10, kept); !errors.Is(err, journal.ErrNoSnapshot) {
		t.Errorf("compacting up to fact 10 with a snapshot after fact 9: %v", err)
	}
	l.wantSizes(t, j, 3, 2, 4, 1, 5)
	// Facts 6 to 9 are one batch, which stays whole.
	if err := j.Compact(l.ctx, term, 8, kept); err != nil {
		t.Fatal(err)
	}
	l.wantCompacted(t, j, 6, 16)
	if err := j.Compact(l.ctx, term, 9, kept); err != nil {
		t.Fatal(err)
	}
	l.wantCompacted(t, j, 10, 16)
	l.wantSnapshot(t, j, 9, "s", 2)
	// The last batch stays, though the snapshot holds it.
	if err := j.Snapshot(l.ctx, term, 15, chunksOf("t", 2, nil)); err != nil {
		t.Fatal(err)
	}
	if err := j.Compact(l.ctx, term, 15, kept); err != nil {
		t.Fatal(err)
	}
	l.wantCompacted(t, j, 11, 16)
	if next := kept.chain.Next(); next != 11 {
		t.Errorf("kept were the facts before number %d, want 11", next)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, term = l.writer(t)
	l.append(t, j, term, 2)
	l.wantCompacted(t, j, 11, 18)
	l.wantSnapshot(t, j, 15, "t", 2)
}

// wantCompacted wants the log to begin with the fact numbered first, and to end before end.
func (l *log) wantCompacted(t *testing.T, j journal.Journal, first, end journal.Seq) {
	t.Helper()
	for _, from := range []journal.Seq{0, 1, first - 1} {
		none := func(b journal.Batch) error { return fmt.Errorf("yielded facts from %d", b.First) }
		for name, err := range map[string]error{"Read": j.Read(l.ctx, from, none), "Follow": j.Follow(l.ctx, from, none)} {
			var compacted *journal.CompactedError
			if !errors.As(err, &compacted) || compacted.First != first {
				t.Errorf("%s from fact %d of a log that begins with %d: %v", name, from, first, err)
			}
		}
	}
	next := first
	for _, b := range l.read(t, j, first) {
		next = wantBatch(t, b, next)
	}
	if next != end {
		t.Errorf("the log goes to fact %d, want %d", next-1, end-1)
	}
}

func compactInterrupted(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 2, 4)
	if err := j.Snapshot(l.ctx, term, 5, chunksOf("s", 1, nil)); err != nil {
		t.Fatal(err)
	}
	kept := newArchive(t)
	offline := errors.New("the archive is offline")
	kept.before = func() error { return offline }
	if err := j.Compact(l.ctx, term, 5, kept); !errors.Is(err, offline) {
		t.Errorf("compacting with an archive that fails: %v", err)
	}
	l.wantSizes(t, j, 3, 2, 4)
	// What is deposed while the archive is at work removes nothing.
	kept.before = func() error { l.under.Lapse(t); return nil }
	if err := j.Compact(l.ctx, term, 5, kept); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("compacting in a term that lapsed meanwhile: %v", err)
	}
	l.wantSizes(t, j, 3, 2, 4)
	// The segment comes again.
	again := newArchive(t)
	if err := j.Compact(l.ctx, l.campaign(t, j), 5, again); err != nil || again.calls != 1 {
		t.Errorf("compacting at last: %v, after %d segments", err, again.calls)
	}
	l.wantCompacted(t, j, 6, 10)
}

func compactUnderReader(t *testing.T, l *log) {
	j, term := l.writer(t)
	var sizes []int
	for range 300 {
		sizes = append(sizes, 1)
	}
	l.append(t, j, term, sizes...)
	if err := j.Snapshot(l.ctx, term, 300, chunksOf("s", 1, nil)); err != nil {
		t.Fatal(err)
	}
	next := journal.Seq(1)
	err := j.Read(l.ctx, 1, func(b journal.Batch) error {
		if next = wantBatch(t, b, next); next == 3 {
			return j.Compact(l.ctx, term, 290, newArchive(t))
		}
		return nil
	})
	// It may have had the rest already.
	var compacted *journal.CompactedError
	if (err != nil || next != 301) && (!errors.As(err, &compacted) || compacted.First != 291) {
		t.Errorf("Read of a log that was compacted meanwhile ended after fact %d: %v", next-1, err)
	}
	l.wantCompacted(t, j, 291, 301)
}

// zeroArchive keeps nothing of what it is given.
type zeroArchive struct{}

func (zeroArchive) Keep(context.Context, uint64, uint64, []byte) error { return nil }

func compactFull(t *testing.T, l *log) {
	// A store may take some more than its bound before it notices: what is removed has to be more than that.
	const bound, batch = 4 * fullBytes, 256 << 10
	l.under.Limit(t, bound)
	j, term := l.writer(t)
	large := [][]byte{make([]byte, batch)}
	var head journal.Seq
	for range bound / batch * 3 / 4 {
		next, err := j.Append(l.ctx, term, head, large)
		if err != nil {
			t.Fatal(err)
		}
		head = next
	}
	if err := j.Snapshot(l.ctx, term, head, chunksOf("s", 1, nil)); err != nil {
		t.Fatal(err)
	}
	covered := head
	var err error
	for err == nil {
		var next journal.Seq
		if next, err = j.Append(l.ctx, term, head, large); err == nil {
			head = next
		}
	}
	space, serr := j.Space(l.ctx)
	if !errors.Is(err, journal.ErrFull) || serr != nil || space.Quota != bound || space.Share() < 0.8 || space.Share() > 2 {
		t.Fatalf("a full store: %v; it holds %+v (%v)", err, space, serr)
	}
	if err := j.Compact(l.ctx, term, covered, zeroArchive{}); err != nil {
		after, serr := j.Space(l.ctx)
		t.Fatalf("compacting a full store: %v; it held %+v and holds %+v (%v)", err, space, after, serr)
	}
	if after, err := j.Space(l.ctx); err != nil || after.Used > space.Used-bound/2 {
		t.Errorf("compacting a full store took it from %+v to %+v (%v)", space, after, err)
	}
	if _, err := j.Append(l.ctx, term, head, large); err != nil {
		t.Errorf("an append to a store that was compacted: %v", err)
	}
}
