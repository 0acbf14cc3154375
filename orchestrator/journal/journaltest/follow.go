package journaltest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// following is a Follow that runs beside the test.
type following struct {
	batches chan journal.Batch
	ended   chan error
	cancel  context.CancelFunc
}

func (l *log) follow(j journal.Journal, from journal.Seq) *following {
	ctx, cancel := context.WithCancel(l.ctx)
	f := &following{batches: make(chan journal.Batch), ended: make(chan error, 1), cancel: cancel}
	go func() {
		f.ended <- j.Follow(ctx, from, func(b journal.Batch) error {
			select {
			case f.batches <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return f
}

// want receives batches until the fact before end has been seen, checks them, and returns their number.
func (f *following) want(t *testing.T, next, end journal.Seq) int {
	t.Helper()
	count := 0
	for next < end {
		select {
		case b := <-f.batches:
			next = wantBatch(t, b, next)
			count++
		case err := <-f.ended:
			t.Fatalf("Follow ended before fact %d: %v", next, err)
		}
	}
	if next != end {
		t.Fatalf("Follow went on to fact %d, want %d", next-1, end-1)
	}
	return count
}

func follow(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 2)
	f := l.follow(l.handle(t), 1)
	f.want(t, 1, 6)
	l.append(t, j, term, 4)
	f.want(t, 6, 10)
	l.append(t, j, term, 1, 1, 1, 1, 1)
	if n := f.want(t, 10, 15); n != 5 {
		t.Errorf("Follow yielded five batches as %d", n)
	}
	// Another writer's batches as well.
	b, second := l.writer(t)
	l.append(t, b, second, 2)
	f.want(t, 15, 17)

	f.cancel()
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v, want its context's error", err)
	}
}

func followFromTheFuture(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	f := l.follow(j, 7)
	middle := l.follow(j, 2)
	middle.want(t, 1, 4)
	l.append(t, j, term, 2, 3, 1) // 4-5, 6-8, 9
	f.want(t, 6, 10)
	middle.want(t, 4, 10)
	f.cancel()
	middle.cancel()
	<-f.ended
	<-middle.ended
}

func manyFollowers(t *testing.T, l *log) {
	j, term := l.writer(t)
	others := []journal.Journal{j, l.handle(t), l.handle(t)}
	var followers []*following
	for i := range 6 {
		followers = append(followers, l.follow(others[i%3], 0))
	}
	var sizes []int
	for i := range 60 {
		sizes = append(sizes, 1+i%4)
	}
	written := make(chan journal.Seq, 1)
	go func() {
		defer close(written)
		head := journal.Seq(0)
		for _, n := range sizes {
			var err error
			if head, err = j.Append(l.ctx, term, head, factsFrom(head+1, n)); err != nil {
				t.Errorf("Append: %v", err)
				return
			}
		}
		written <- head
	}()
	for _, f := range followers {
		if n := f.want(t, 1, 151); n != len(sizes) {
			t.Errorf("a follower got %d batches of %d", n, len(sizes))
		}
		f.cancel()
		<-f.ended
	}
	if head := <-written; head != 150 {
		t.Errorf("the head is %d, want 150", head)
	}
}

func slowFollower(t *testing.T, l *log) {
	j, term := l.writer(t)
	slow, quick := l.follow(j, 1), l.follow(j, 1)
	l.append(t, j, term, 1)
	quick.want(t, 1, 2)
	// slow sits in its yield all the while.
	for head := journal.Seq(1); head < 40; head++ {
		l.append(t, j, term, 1)
		quick.want(t, head+1, head+2)
	}
	slow.want(t, 1, 41)
	slow.cancel()
	quick.cancel()
	<-slow.ended
	<-quick.ended
}

func closed(t *testing.T, l *log) {
	other := l.handle(t) // keeps the log open
	j := l.open(t)
	term := l.campaign(t, j)
	l.append(t, j, term, 1)
	f := l.follow(j, 1)
	f.want(t, 1, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-f.ended; !errors.Is(err, journal.ErrClosed) {
		t.Errorf("the Follow of a closed handle ended with %v", err)
	}
	none := func(journal.Batch) error { return errors.New("yielded") }
	_, campaigned := j.Campaign(l.ctx)
	_, appended := j.Append(l.ctx, term, 1, factsFrom(2, 1))
	_, looked := j.Head(l.ctx)
	for name, err := range map[string]error{
		"Campaign": campaigned, "Append": appended, "Head": looked,
		"Read": j.Read(l.ctx, 1, none), "Follow": j.Follow(l.ctx, 1, none),
	} {
		if !errors.Is(err, journal.ErrClosed) {
			t.Errorf("%s of a closed handle: %v", name, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	l.wantSizes(t, other, 1)
}

// closeUnderLoad closes the only handle, and with it the store, while requests of every kind are under way.
func closeUnderLoad(t *testing.T, l *log) {
	j := l.open(t)
	term := l.campaign(t, j)
	l.append(t, j, term, 5, 5, 5)
	seen := make(chan struct{})
	var once sync.Once
	yield := func(b journal.Batch) error {
		if b.First > 100 {
			once.Do(func() { close(seen) })
		}
		return nil
	}
	var group sync.WaitGroup
	until := func(do func() error) {
		group.Go(func() {
			for {
				if err := do(); errors.Is(err, journal.ErrClosed) {
					return
				} else if err != nil {
					t.Errorf("a request that was under way at Close: %v", err)
					return
				}
			}
		})
	}
	for range 4 {
		until(func() error { return j.Follow(l.ctx, 1, yield) })
		until(func() error { return j.Read(l.ctx, 1, yield) })
		until(func() error { _, err := j.Head(l.ctx); return err })
	}
	acked := journal.Seq(15)
	until(func() error {
		next, err := j.Append(l.ctx, term, acked, factsFrom(acked+1, 5))
		if err == nil {
			acked = next
		}
		return err
	})
	<-seen
	if err := j.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	group.Wait()

	again := l.handle(t)
	if head := l.head(t, again); head != acked && head != acked+5 {
		t.Errorf("after Close the head is %d, acknowledged were %d", head, acked)
	}
}
