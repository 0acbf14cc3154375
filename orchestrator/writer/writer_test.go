package writer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
)

// recorder is a follower that keeps what it sees.
type recorder struct {
	mu    sync.Mutex
	kinds []string
	next  uint64
	gap   error
	// hold, if not nil, keeps the writer from going on for as long as it is open.
	hold chan struct{}
}

func (r *recorder) Observe(first uint64, facts []*event.Fact) {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first != r.next+1 {
		r.gap = fmt.Errorf("facts from %d follow fact %d", first, r.next)
	}
	for _, fact := range facts {
		r.kinds = append(r.kinds, fact.GetKind())
	}
	r.next = first + uint64(len(facts)) - 1
}

func (r *recorder) seen(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gap != nil {
		t.Error(r.gap)
	}
	return append([]string(nil), r.kinds...)
}

// running is a writer at work.
type running struct {
	*writer.Writer
	follower *recorder
	ended    chan error
	stop     context.CancelFunc
}

func start(t *testing.T, log journal.Journal) *running {
	t.Helper()
	return startWith(t, log, &recorder{})
}

func startWith(t *testing.T, log journal.Journal, follower *recorder) *running {
	t.Helper()
	w, err := writer.Open(t.Context(), writer.Config{
		Journal: log, Now: time.Now, Seed: []byte("a seed of sixteen bytes"), Followers: []writer.Follower{follower}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Writer: w, follower: follower, ended: make(chan error, 1), stop: stop}
	go func() { r.ended <- w.Run(ctx) }()
	t.Cleanup(stop)
	return r
}

func put(i int) engine.Command {
	return engine.PutObject{Put: object.Put{Key: object.Key{Resource: "configmaps", Namespace: "default", Name: fmt.Sprint(i)}, Create: true}}
}

func TestCommandsThatWaitShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := journal.NewMemory()
		follower := &recorder{}
		r := startWith(t, log.Open(), follower)
		synctest.Wait() // the writer is at work
		follower.hold = make(chan struct{})
		const callers = 500
		var group sync.WaitGroup
		for i := range callers {
			group.Go(func() {
				if _, err := r.Submit(t.Context(), put(i)); err != nil {
					t.Error(err)
				}
			})
		}
		// The batch of the first is held up on its way, and all others wait.
		synctest.Wait()
		close(follower.hold)
		group.Wait()
		batches, facts := 0, 0
		err := log.Open().Read(t.Context(), 1, func(batch journal.Batch) error {
			batches, facts = batches+1, facts+len(batch.Facts)
			return nil
		})
		if err != nil || facts != callers+1 {
			t.Fatalf("the log holds %d facts: %v", facts, err)
		}
		// The term's, the first command's, and the rest in groups of at most 256.
		if batches > 5 {
			t.Errorf("%d facts took %d batches: they were not grouped", facts, batches)
		}
		if seen := r.follower.seen(t); len(seen) != callers+1 {
			t.Errorf("the follower saw %d facts", len(seen))
		}
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}

func TestCommandsOfOneCallAreDecidedInOrderAndEachHasItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := journal.NewMemory()
		r := start(t, log.Open())
		synctest.Wait()
		errs := r.SubmitAll(t.Context(), []engine.Command{put(1), put(1), put(2), engine.DeleteObject{Key: put(1).(engine.PutObject).Put.Key}, put(1)})
		var rejection *engine.Rejection
		if !errors.As(errs[1], &rejection) || rejection.Kind != engine.AlreadyExists {
			t.Errorf("the second of the same name: %v", errs[1])
		}
		for i, err := range errs {
			if i != 1 && err != nil {
				t.Errorf("command %d: %v", i, err)
			}
		}
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		for i, err := range r.SubmitAll(context.Background(), []engine.Command{put(3), put(4)}) {
			if !errors.Is(err, writer.ErrStopped) {
				t.Errorf("command %d after the end: %v", i, err)
			}
		}
	})
}

func TestARestartGoesOnWhereItWas(t *testing.T) {
	log := journal.NewMemory()
	first := start(t, log.Open())
	if _, err := first.Submit(t.Context(), put(1)); err != nil {
		t.Fatal(err)
	}
	first.stop()
	if err := <-first.ended; err != nil {
		t.Fatal(err)
	}
	if _, err := first.Submit(t.Context(), put(2)); !errors.Is(err, writer.ErrStopped) {
		t.Errorf("a writer that has stopped answers %v", err)
	}
	second := start(t, log.Open())
	var rejection *engine.Rejection
	if _, err := second.Submit(t.Context(), put(1)); !errors.As(err, &rejection) || rejection.Kind != engine.AlreadyExists {
		t.Errorf("the object of the first term is put again: %v", err)
	}
	if seen := second.follower.seen(t); fmt.Sprint(seen) != "[term_began object_put term_began]" {
		t.Errorf("the follower of the second term saw %v", seen)
	}
}

func TestADeposedWriterStops(t *testing.T) {
	log := journal.NewMemory()
	first := start(t, log.Open())
	second := start(t, log.Open())
	if _, err := first.Submit(t.Context(), put(1)); !errors.Is(err, writer.ErrStopped) {
		t.Errorf("the deposed writer answers %v", err)
	}
	if err := <-first.ended; !errors.Is(err, journal.ErrFenced) {
		t.Errorf("the deposed writer ends with %v", err)
	}
	if _, err := second.Submit(t.Context(), put(1)); err != nil {
		t.Error(err)
	}
}

func TestAnUnknownOutcomeIsSettledByLooking(t *testing.T) {
	for name, fault := range map[string]journal.Fault{"written": journal.FaultWritten, "lost": journal.FaultLost, "late": journal.FaultLate} {
		t.Run(name, func(t *testing.T) {
			log := journal.NewMemory()
			r := start(t, log.Open())
			log.FailAppends(func(n uint64) journal.Fault {
				if n == 2 {
					return fault
				}
				return journal.FaultNone
			})
			for i := range 3 {
				if _, err := r.Submit(t.Context(), put(i)); err != nil {
					t.Fatalf("command %d: %v", i, err)
				}
			}
			if seen := r.follower.seen(t); fmt.Sprint(seen) != "[term_began object_put object_put object_put]" {
				t.Errorf("the follower saw %v", seen)
			}
			again := start(t, log.Open())
			if seen := again.follower.seen(t); len(seen) != 5 {
				t.Errorf("the log holds %v", seen)
			}
		})
	}
}

func TestALogOfNewerCodeIsRefusedByName(t *testing.T) {
	log := journal.NewMemory()
	handle := log.Open()
	term, err := handle.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newer, err := event.Encode(&event.Fact{Kind: "job_teleported"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handle.Append(t.Context(), term, 0, [][]byte{newer}); err != nil {
		t.Fatal(err)
	}
	_, err = writer.Open(t.Context(), writer.Config{Journal: log.Open(), Now: time.Now, Seed: []byte("s"), Logger: slog.New(slog.DiscardHandler)})
	var unknown *event.UnknownKindError
	if !errors.As(err, &unknown) || unknown.Kind != "job_teleported" {
		t.Errorf("the log is opened with %v", err)
	}
}
