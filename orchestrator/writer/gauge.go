package writer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// createShare is the part of the store's quota up to which commands that create are decided. The rest is for facts that end things, for
// snapshots, and for what it takes to make room.
const createShare = 0.8

// gaugeEvery is how often the store is asked how much it holds. What is appended in between is added.
const gaugeEvery = time.Second

// gauge knows about how full the log's store is, without the writer having to wait for an answer. Safe for concurrent use.
type gauge struct {
	journal journal.Journal
	logger  *slog.Logger

	mu    sync.Mutex
	asked journal.Space
	// written counts all bytes that were appended, and then those of them that were before the store was asked.
	written, then int64
	// silent: the store did not answer the last time, which is told once.
	silent bool
}

// ask asks the store.
func (g *gauge) ask(ctx context.Context) {
	g.mu.Lock()
	then := g.written
	g.mu.Unlock()
	space, err := g.journal.Space(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.asked, g.then, g.silent = space, then, false
		return
	}
	if !g.silent && ctx.Err() == nil && !errors.Is(err, journal.ErrClosed) {
		g.logger.Warn("the log's store does not tell how much it holds; going on with what it held", "error", err)
	}
	g.silent = true
}

// run asks until the context ends.
func (g *gauge) run(ctx context.Context) {
	tick := time.NewTicker(gaugeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.ask(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// add counts what was appended.
func (g *gauge) add(batch [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, fact := range batch {
		g.written += int64(len(fact))
	}
}

// admit refuses a command that creates when the store is nearly full, with an *engine.StoreFullError.
func (g *gauge) admit(command engine.Command) error {
	if !engine.Creates(command) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.asked
	now.Used += g.written - g.then
	if now.Share() < createShare {
		return nil
	}
	return &engine.StoreFullError{Used: now.Used, Quota: now.Quota}
}
