package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// maxBatch is how many spans one request carries at most, but for the spans of a single fact.
	maxBatch = 512
	// cursorEvery is after how many facts without a span the cursor moves nevertheless, to shorten the next replay's doubt.
	cursorEvery = 4096
)

// limits of a sink's patience; fields, so that tests need not wait.
type limits struct {
	// queued is how many spans wait at most.
	queued int
	// firstPause and longestPause lie between two tries; the pause doubles.
	firstPause, longestPause time.Duration
	// giveUpAfter is how long the same spans are tried: a collector may take all but these.
	giveUpAfter time.Duration
}

var defaultLimits = limits{queued: 1 << 16, firstPause: time.Second, longestPause: 30 * time.Second, giveUpAfter: 5 * time.Minute}

// item is the spans of one fact.
type item struct {
	seq   uint64
	spans []sdktrace.ReadOnlySpan
}

// sink is one destination with its queue, its cursor, and the goroutine that serves them.
type sink struct {
	name string
	// exporter is nil for a destination that was not asked for.
	exporter *otlptrace.Exporter
	cursor   Cursor
	log      *slog.Logger
	limits   limits

	// ctx bounds the worker's exports; it ends with the patience of shutdown's caller.
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}
	// stopOnce guards stop.
	stopOnce sync.Once

	mu     sync.Mutex
	queue  []item
	queued int
	// inFlight is how many spans the worker holds.
	inFlight int
	// seen is the last fact offered, and taken the cursor: all spans up to it are exported or given up.
	seen, taken uint64
	flushing    bool
	// settled is closed and replaced when the worker has got further or has failed.
	settled chan struct{}
	// failure is why the destination does not work; nil while it does. It is logged when it changes between the two.
	failure error
	// inPart is set while the destination takes requests and refuses some of their spans.
	inPart   bool
	dropping bool
	lost     int
	// unremembered is set while the cursor cannot be saved.
	unremembered bool
}

func newSink(ctx context.Context, name string, client otlptrace.Client, options Options) (*sink, error) {
	taken, err := options.Cursor.Load(name)
	if err != nil {
		return nil, err
	}
	var exporter *otlptrace.Exporter
	if client != nil {
		if exporter, err = otlptrace.New(ctx, client); err != nil {
			return nil, err
		}
	}
	background, cancel := context.WithCancel(context.Background())
	return &sink{
		name: name, exporter: exporter, cursor: options.Cursor, log: options.Logger.With("traces_to", name), limits: options.limits,
		ctx: background, cancel: cancel, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		seen: taken, taken: taken, settled: make(chan struct{}),
	}, nil
}

// offer queues the spans of a fact, unless the destination has had them.
func (s *sink) offer(seq uint64, spans []sdktrace.ReadOnlySpan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.seen {
		return
	}
	s.seen = seq
	if s.exporter != nil && len(spans) > 0 {
		s.makeRoom(len(spans))
		s.queue = append(s.queue, item{seq, spans})
		s.queued += len(spans)
	}
	if len(s.queue) > 0 || s.seen-s.taken >= cursorEvery {
		s.rouse()
	}
}

func (s *sink) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// makeRoom drops the oldest spans: what the destination would get last says most about what is going on.
func (s *sink) makeRoom(count int) {
	for len(s.queue) > 0 && s.queued+count > s.limits.queued {
		s.lose(len(s.queue[0].spans))
		s.queued -= len(s.queue[0].spans)
		s.queue = s.queue[1:]
	}
}

func (s *sink) lose(spans int) {
	s.lost += spans
	if !s.dropping {
		s.dropping = true
		s.log.Warn("spans are being dropped, as their destination does not take them", "error", s.failure)
	}
}

// run serves the queue until shutdown.
func (s *sink) run() {
	defer close(s.done)
	for {
		batch, upTo, work := s.next()
		if work {
			if !s.export(batch) {
				return
			}
			s.commit(upTo)
			continue
		}
		select {
		case <-s.wake:
		case <-s.stop:
			// Whatever came between the look and the stop is taken, and after it nothing comes.
			if s.idle() {
				return
			}
		}
	}
}

func (s *sink) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// next takes a batch from the queue. Without one there is still work if the cursor should move.
func (s *sink) next() (batch []sdktrace.ReadOnlySpan, upTo uint64, work bool) {
	stopping := s.stopping()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && (len(batch) == 0 || len(batch)+len(s.queue[0].spans) <= maxBatch) {
		upTo = s.queue[0].seq
		batch = append(batch, s.queue[0].spans...)
		s.queue = s.queue[1:]
	}
	s.queued -= len(batch)
	s.inFlight = len(batch)
	if len(s.queue) == 0 {
		upTo = s.seen
	}
	due := s.flushing || stopping || s.seen-s.taken >= cursorEvery
	return batch, upTo, len(batch) > 0 || due && s.seen > s.taken
}

func (s *sink) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0 && s.taken == s.seen
}

// export tries until the batch is taken or given up. It returns false if shutdown found it untaken.
func (s *sink) export(batch []sdktrace.ReadOnlySpan) bool {
	if len(batch) == 0 {
		return true
	}
	began, pause := time.Now(), s.limits.firstPause
	for {
		last := s.stopping()
		err := s.exporter.ExportSpans(s.ctx, batch)
		refused := partialSuccess(err)
		if refused != nil {
			err = nil // to send it again is forbidden, and would double what was taken
		}
		s.report(err, refused)
		if err == nil {
			return true
		}
		if last || s.ctx.Err() != nil {
			return false
		}
		if time.Since(began) >= s.limits.giveUpAfter {
			s.mu.Lock()
			s.lose(len(batch))
			s.mu.Unlock()
			return true
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.stop:
		}
		timer.Stop()
		pause = min(2*pause, s.limits.longestPause)
	}
}

// report notes whether the destination works, and whether it refuses some spans of what it takes. It logs each if that has changed.
func (s *sink) report(err, refused error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused != nil && !s.inPart {
		s.log.Warn("the destination of traces refuses spans, or warns; what it refuses is not sent again", "error", refused)
	}
	if err == nil {
		s.inPart = refused != nil
	}
	switch {
	case err != nil && s.failure == nil:
		s.log.Warn("traces cannot be exported; they are kept and tried again", "error", err)
	case err == nil && s.failure != nil:
		s.log.Info("traces are exported again", "spans_lost", s.lost)
		s.dropping, s.lost = false, 0
	}
	s.failure = err
}

// commit moves the cursor behind what was exported.
func (s *sink) commit(upTo uint64) {
	err := s.cursor.Save(s.name, upTo)
	s.mu.Lock()
	defer s.mu.Unlock()
	// The spans are out; at worst they go out again after a restart.
	if err != nil && !s.unremembered {
		s.log.Warn("what was exported cannot be remembered; it will be exported again after a restart", "error", err)
	}
	s.unremembered = err != nil
	s.taken, s.inFlight = upTo, 0
	close(s.settled)
	s.settled = make(chan struct{})
}

func (s *sink) flush(ctx context.Context) error {
	defer func() {
		s.mu.Lock()
		s.flushing = false
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		s.flushing = s.seen > s.taken
		settled, flushing := s.settled, s.flushing
		s.mu.Unlock()
		if !flushing {
			return nil
		}
		s.rouse()
		select {
		case <-settled:
		case <-s.done:
			return s.unfinished(errors.New("it is shut down"))
		case <-ctx.Done():
			return s.unfinished(ctx.Err())
		}
	}
}

// unfinished says what is still to be exported, and why.
func (s *sink) unfinished(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		cause = s.failure
	}
	return fmt.Errorf("traces to %s: %d spans are not exported: %w", s.name, s.queued+s.inFlight, cause)
}

// shutdown lets the worker export what is queued, for as long as ctx lasts, and closes the destination.
func (s *sink) shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stop) })
	release := context.AfterFunc(ctx, s.cancel)
	<-s.done
	release()
	s.cancel()
	var err error
	s.mu.Lock()
	left := s.queued + s.inFlight
	s.mu.Unlock()
	if left > 0 {
		err = s.unfinished(ctx.Err())
	}
	if s.exporter != nil {
		err = errors.Join(err, s.exporter.Shutdown(ctx))
	}
	return err
}
