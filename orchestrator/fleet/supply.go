package fleet

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// How long one call of a provider may take. Terminate returns when an instance can no longer be billed, which clouds take minutes for.
const (
	callTimeout      = 2 * time.Minute
	terminateTimeout = 10 * time.Minute
)

// maxLaunchCalls bounds the launches that are called at one time at one provider.
const maxLaunchCalls = 8

// supply is one provider and what is under way there.
type supply struct {
	fleet    *Fleet
	name     string
	provider providers.Provider
	log      *slog.Logger
	// calls holds a token for each launch that is being called.
	calls chan struct{}
	// askOffers and askList hold a token when offers or a list are to be asked for soon.
	askOffers, askList chan struct{}

	mu sync.Mutex
	// early is what was heard of instances, by id, while any launch is open: it may come before the instance is on record.
	early map[string]heard
}

// heard is what a watch told of one instance.
type heard struct {
	notice *engine.NoticeInstance
	gone   *engine.InstanceGone
}

func newSupply(fleet *Fleet, name string, provider providers.Provider) *supply {
	return &supply{
		fleet: fleet, name: name, provider: provider, log: fleet.log.With("provider", name),
		calls: make(chan struct{}, maxLaunchCalls), askOffers: make(chan struct{}, 1), askList: make(chan struct{}, 1),
		early: make(map[string]heard),
	}
}

// run works on one provider until the context ends. Nothing is launched before it is known what is there.
func (s *supply) run(ctx context.Context) {
	effects, err := s.fleet.board.first(ctx)
	if err != nil {
		return
	}
	found := make(map[string]bool)
	for _, launch := range effects.Launches {
		found[launch.Key] = true
	}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.releases(ctx) })
	work.Go(func() { s.offers(ctx) })
	if !s.reconcileAtStart(ctx) {
		return
	}
	work.Go(func() { s.launches(ctx, found) })
	work.Go(func() { s.watch(ctx) })
	work.Go(func() { s.reconcileByTime(ctx) })
}

// ask puts a token into the channel unless there is one.
func ask(tokens chan struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}

// delay before the try after the given number of tries, at least 1.
func (b Backoff) delay(tries int) time.Duration {
	length := b.First
	for range tries - 1 {
		if length *= 2; length >= b.Last {
			length = b.Last
			break
		}
	}
	return length - time.Duration(rand.Int64N(int64(length)/2+1))
}

// wait returns false if the context ends first.
func wait(ctx context.Context, length time.Duration) bool {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// trouble logs an error that repeats once, and its end.
type trouble struct {
	log  *slog.Logger
	what string
	last string
}

func (t *trouble) note(err error) {
	switch {
	case err == nil && t.last != "":
		t.last = ""
		t.log.Info(t.what + ": works again")
	case err != nil && err.Error() != t.last:
		t.last = err.Error()
		t.log.Warn(t.what+" failed", "error", err)
	}
}
