// Package writer is the only place that writes the log, and holds the only clock that decides.
//
// One goroutine takes commands, lets the engine decide them, appends the facts in one batch, and only then answers the callers, feeds the
// followers and hands out the effects. While a batch is on its way to the disk, new commands queue up and share the next one
// (group commit). The state runs ahead of the log for the length of one append and is seen by nobody meanwhile.
//
// When an append fails, the state is worthless: the writer ends with an error and answers every open command with ErrStopped. An append
// whose outcome is unknown is settled by reading the log. A deposed writer ends with journal.ErrFenced.
//
// When the log's store is nearly full, commands that create are refused, and the rest of the room is for facts that end things.
package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// ErrStopped answers commands that the writer can no longer decide. Whether they took effect is in the log.
var ErrStopped = errors.New("the control plane is stopping")

// maxGroup bounds how many commands share a batch, so that a caller waits for no more than these.
const maxGroup = 256

// settleFor bounds how long the writer tries to find out whether a batch was written, lookFor each look, and lookAgain is the time between
// two. A store of several machines needs some seconds to elect a leader anew, and one of them may not answer at all.
const (
	settleFor = 30 * time.Second
	lookFor   = 5 * time.Second
	lookAgain = 50 * time.Millisecond
)

// minTick keeps a timer that nothing follows from turning into a busy loop.
const minTick = 10 * time.Millisecond

// Follower sees every fact once in order: the past ones while the writer opens, then each batch when it is durable. It is called on the
// writer's goroutine and must not block. It does not change the facts.
type Follower interface {
	Observe(first uint64, facts []*event.Fact)
}

// Config of a writer.
type Config struct {
	Journal journal.Journal
	// Now is the clock.
	Now func() time.Time
	// Seed for a log that is still empty; names of nodes and launches derive from it. At least 16 random bytes.
	Seed []byte
	// Closed, if not empty, is why this writer's term binds no pod and launches no node.
	Closed string
	// Only, if not nil, names the Jobs for which somebody waits when the term begins; all others begin it parked.
	Only map[engine.Name]bool
	// Followers see the facts.
	Followers []Follower
	// Want is given the effects after each batch, and once before the first. It is called on the writer's goroutine and must not block.
	Want   func(engine.Effects)
	Logger *slog.Logger
}

// Writer decides commands. Submit may be called by any goroutine.
type Writer struct {
	config   Config
	state    *engine.State
	term     journal.Term
	gauge    *gauge
	requests chan request
	stopped  chan struct{}
}

type request struct {
	command engine.Command
	reply   chan reply
}

type reply struct {
	seq uint64
	err error
}

// Open campaigns for the journal, reads it to its head, feeding the followers, and begins the term. Run must follow.
func Open(ctx context.Context, config Config) (*Writer, error) {
	term, err := config.Journal.Campaign(ctx)
	if err != nil {
		return nil, fmt.Errorf("become the writer of the log: %w", err)
	}
	w := &Writer{
		config: config, state: engine.NewState(), term: term, gauge: &gauge{journal: config.Journal, logger: config.Logger},
		requests: make(chan request, maxGroup), stopped: make(chan struct{}),
	}
	if err := w.replay(ctx); err != nil {
		return nil, err
	}
	facts, err := engine.Step(w.state, engine.BeginTerm{Term: uint64(term), Seed: config.Seed, Closed: config.Closed, Only: config.Only}, config.Now())
	if err != nil {
		return nil, fmt.Errorf("begin term %d: %w", term, err)
	}
	if err := w.commit(ctx, facts); err != nil {
		return nil, fmt.Errorf("begin term %d: %w", term, err)
	}
	w.gauge.ask(ctx)
	return w, nil
}

func (w *Writer) replay(ctx context.Context) error {
	return Read(ctx, w.config.Journal, func(first uint64, facts []*event.Fact) {
		for _, fact := range facts {
			w.state.Apply(fact)
		}
		w.publish(first, facts)
	})
}

// Read gives all facts of a log in order, the first of each call numbered first. It needs no term and writes nothing.
func Read(ctx context.Context, log journal.Journal, observe func(first uint64, facts []*event.Fact)) error {
	return log.Read(ctx, 1, func(batch journal.Batch) error {
		facts := make([]*event.Fact, len(batch.Facts))
		for i, encoded := range batch.Facts {
			fact, err := event.Decode(encoded)
			if err != nil {
				return fmt.Errorf("fact %d: %w", batch.First+journal.Seq(i), err)
			}
			facts[i] = fact
		}
		observe(uint64(batch.First), facts)
		return nil
	})
}

// Seed returns the seed of the log, which names the control plane.
func (w *Writer) Seed() []byte { return w.state.Seed }

// Submit has a command decided and returns when its facts are durable: the sequence number of the log's head then. An *engine.Rejection
// means that nothing has changed, as does an *engine.StoreFullError for a command that creates.
func (w *Writer) Submit(ctx context.Context, command engine.Command) (uint64, error) {
	asked, err := w.ask(ctx, command)
	if err != nil {
		return 0, err
	}
	answer := w.await(ctx, asked)
	return answer.seq, answer.err
}

// SubmitAll has commands decided in their order and returns when the facts of all are durable, with an error for each that Submit would return.
// They share a batch where they can.
func (w *Writer) SubmitAll(ctx context.Context, commands []engine.Command) []error {
	errs := make([]error, len(commands))
	asked := make([]request, len(commands))
	for i, command := range commands {
		asked[i], errs[i] = w.ask(ctx, command)
	}
	for i := range asked {
		if errs[i] == nil {
			errs[i] = w.await(ctx, asked[i]).err
		}
	}
	return errs
}

// ask queues a command.
func (w *Writer) ask(ctx context.Context, command engine.Command) (request, error) {
	asked := request{command: command, reply: make(chan reply, 1)}
	select {
	case w.requests <- asked:
		return asked, nil
	case <-w.stopped:
		return request{}, ErrStopped
	case <-ctx.Done():
		return request{}, ctx.Err()
	}
}

// await returns the answer to what was asked.
func (w *Writer) await(ctx context.Context, asked request) reply {
	select {
	case answer := <-asked.reply:
		return answer
	case <-w.stopped:
		// The reply may have come just before the end.
		select {
		case answer := <-asked.reply:
			return answer
		default:
			return reply{err: ErrStopped}
		}
	case <-ctx.Done():
		return reply{err: ctx.Err()}
	}
}

// Run decides until the context ends, which is no error, or the log cannot be written.
func (w *Writer) Run(ctx context.Context) error {
	defer close(w.stopped)
	defer w.watchSpace()()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		effects := w.state.Effects()
		if w.config.Want != nil {
			w.config.Want(effects)
		}
		w.arm(timer, effects.Wake)
		var group []request
		select {
		case <-ctx.Done():
			return nil
		case first := <-w.requests:
			group = w.gather(first)
		case <-timer.C:
			group = []request{{command: engine.Tick{}, reply: make(chan reply, 1)}}
		}
		if err := w.decide(ctx, group); err != nil {
			return err
		}
	}
}

// watchSpace keeps the gauge up to date until what it returns is called.
func (w *Writer) watchSpace() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.gauge.run(ctx)
	}()
	return func() { cancel(); <-ended }
}

func (w *Writer) arm(timer *time.Timer, wake time.Time) {
	timer.Stop()
	if !wake.IsZero() {
		timer.Reset(max(wake.Sub(w.config.Now()), minTick))
	}
}

// gather takes what has queued up behind the first request.
func (w *Writer) gather(first request) []request {
	group := []request{first}
	for len(group) < maxGroup {
		select {
		case next := <-w.requests:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

// decide lets the engine decide a group of commands, appends what follows, and answers.
func (w *Writer) decide(ctx context.Context, group []request) error {
	replies := make([]reply, len(group))
	var facts []*event.Fact
	for i, asked := range group {
		if err := w.gauge.admit(asked.command); err != nil {
			replies[i] = reply{seq: w.state.Seq, err: err}
			continue
		}
		decided, err := engine.Step(w.state, asked.command, w.config.Now())
		facts = append(facts, decided...)
		replies[i] = reply{seq: w.state.Seq, err: err}
	}
	if len(facts) > 0 {
		if err := w.commit(ctx, facts); err != nil {
			return err
		}
	}
	for i, asked := range group {
		asked.reply <- replies[i]
	}
	return nil
}

// commit makes the facts, which the state holds already, durable and shows them to the followers.
func (w *Writer) commit(ctx context.Context, facts []*event.Fact) error {
	// What was decided is written even while the writer is being stopped, so that nobody who waits is left in doubt.
	ctx = context.WithoutCancel(ctx)
	head := journal.Seq(w.state.Seq) - journal.Seq(len(facts))
	for len(facts) > 0 {
		batch, err := w.pack(facts)
		if err != nil {
			return err
		}
		if err := w.append(ctx, head, batch); err != nil {
			return fmt.Errorf("write the log after fact %d: %w", head, err)
		}
		w.gauge.add(batch)
		w.publish(uint64(head)+1, facts[:len(batch)])
		head += journal.Seq(len(batch))
		facts = facts[len(batch):]
	}
	return nil
}

// pack encodes as many facts as one batch holds, at least one.
func (w *Writer) pack(facts []*event.Fact) ([][]byte, error) {
	var batch [][]byte
	size := 0
	for _, fact := range facts {
		encoded, err := event.Encode(fact)
		if err != nil {
			return nil, err
		}
		if size += len(encoded); size > journal.MaxBatchBytes && len(batch) > 0 {
			break
		}
		batch = append(batch, encoded)
	}
	return batch, nil
}

// append writes one batch and settles an unknown outcome by looking. A batch that was held up on its way can land after the look: then the
// second try finds the head moved, and what moved it is this very batch. What cannot be settled in time ends the writer.
func (w *Writer) append(ctx context.Context, head journal.Seq, batch [][]byte) error {
	_, err := w.config.Journal.Append(ctx, w.term, head, batch)
	if !errors.Is(err, journal.ErrUnknownOutcome) {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, settleFor, fmt.Errorf("it took more than %v", settleFor))
	defer cancel()
	for {
		w.config.Logger.Warn("the log did not say whether it took a batch; looking", "after", head, "error", err)
		written, looked := w.wrote(ctx, head, batch)
		if looked != nil || written {
			return looked
		}
		_, err = w.config.Journal.Append(ctx, w.term, head, batch)
		if !errors.Is(err, journal.ErrUnknownOutcome) && !errors.Is(err, journal.ErrHeadMoved) {
			return err
		}
	}
}

// wrote tells whether the log goes on after head with this batch. It fails with journal.ErrFenced when it goes on with another one.
// A store that does not answer, as one of several machines whose leader has just died, is asked until the context ends.
func (w *Writer) wrote(ctx context.Context, head journal.Seq, batch [][]byte) (bool, error) {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, lookFor)
		found, err := w.look(once, head, batch)
		cancel()
		if err == nil || errors.Is(err, journal.ErrFenced) {
			return found, err
		}
		err = fmt.Errorf("find out whether a batch was written: %w", err)
		if errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrClosed) {
			return false, err
		}
		w.config.Logger.Warn("the log does not answer; looking again", "after", head, "error", err)
		select {
		case <-again.C:
		case <-ctx.Done():
			return false, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// look is one look at the log's head, and at what comes after the one that is given.
func (w *Writer) look(ctx context.Context, head journal.Seq, batch [][]byte) (bool, error) {
	now, err := w.config.Journal.Head(ctx)
	if err != nil || now == head {
		return false, err
	}
	ours, seen := false, errors.New("seen")
	err = w.config.Journal.Read(ctx, head+1, func(found journal.Batch) error {
		ours = found.First == head+1 && found.Term == w.term && slices.EqualFunc(found.Facts, batch, bytes.Equal)
		return seen
	})
	switch {
	case err != nil && !errors.Is(err, seen):
		return false, err
	case !ours:
		return false, journal.ErrFenced
	}
	return true, nil
}

func (w *Writer) publish(first uint64, facts []*event.Fact) {
	for _, follower := range w.config.Followers {
		follower.Observe(first, facts)
	}
}
