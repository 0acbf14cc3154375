package fleet

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// causeReleased is the cause of an instance's end that we asked for.
const causeReleased = "released"

// releases gives back the instances that are to be released: those that become due together in one call, beside calls under way.
func (s *supply) releases(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	// begun holds an instance from its first sight until it was given back and the effects show so.
	begun := make(map[string]*atomic.Bool)
	s.fleet.board.each(ctx, func(effects engine.Effects) {
		due := make(map[string]bool)
		var batch []string
		for _, release := range effects.Releases {
			if release.Provider != s.name {
				continue
			}
			due[release.InstanceID] = true
			if begun[release.InstanceID] == nil {
				begun[release.InstanceID] = new(atomic.Bool)
				batch = append(batch, release.InstanceID)
			}
		}
		for id, done := range begun {
			if done.Load() && !due[id] {
				delete(begun, id)
			}
		}
		if len(batch) == 0 {
			return
		}
		flags := make([]*atomic.Bool, len(batch))
		for i, id := range batch {
			flags[i] = begun[id]
		}
		work.Go(func() {
			s.releaseBatch(ctx, batch)
			for _, done := range flags {
				done.Store(true)
			}
		})
	})
}

// releaseBatch returns when the instances are gone or the context has ended. What cannot be given back together is tried one by one,
// so that one bad id keeps none of the others.
func (s *supply) releaseBatch(ctx context.Context, batch []string) {
	if err := s.terminate(ctx, batch); err == nil {
		for _, id := range batch {
			s.fleet.tell(ctx, engine.InstanceGone{Provider: s.name, InstanceID: id, Cause: causeReleased})
		}
		return
	}
	var work sync.WaitGroup
	defer work.Wait()
	for _, id := range batch {
		work.Go(func() { s.releaseOne(ctx, id) })
	}
}

func (s *supply) releaseOne(ctx context.Context, id string) {
	problem := &trouble{log: s.log.With("instance", id), what: "giving an instance back"}
	for try := 1; s.isReleased(id); try++ {
		err := s.terminate(ctx, []string{id})
		if ctx.Err() != nil {
			return
		}
		problem.note(err)
		if err == nil {
			s.fleet.tell(ctx, engine.InstanceGone{Provider: s.name, InstanceID: id, Cause: causeReleased})
			return
		}
		if !wait(ctx, s.fleet.config.Retry.delay(try)) {
			return
		}
	}
}

// isReleased tells whether the effects want the instance given back.
func (s *supply) isReleased(id string) bool {
	effects, _, _ := s.fleet.board.read()
	for _, release := range effects.Releases {
		if release.Provider == s.name && release.InstanceID == id {
			return true
		}
	}
	return false
}

func (s *supply) terminate(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, terminateTimeout)
	defer cancel()
	return s.provider.Terminate(ctx, ids)
}
