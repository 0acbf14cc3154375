package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// evictByTime has the busiest node taken back at each tick.
func (f *Fleet) evictByTime(ctx context.Context) {
	problem := &trouble{log: f.log, what: "interrupting an instance"}
	// interrupted instances, until they are off the record: the notice takes a while to come back.
	interrupted := make(map[string]bool)
	ticker := time.NewTicker(f.config.EvictEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		effects, _, _ := f.board.read()
		victim, ok := f.busiest(effects, interrupted)
		if !ok {
			continue
		}
		err := f.interrupt(ctx, victim)
		if ctx.Err() != nil {
			return
		}
		problem.note(err)
		if err == nil {
			interrupted[victim.Node] = true
		}
		for node := range interrupted {
			if _, there := instanceOf(effects, node); !there {
				delete(interrupted, node)
			}
		}
	}
}

// busiest is the node with the most running pods among those that can be interrupted and are not going away, the first by name
// of several.
func (f *Fleet) busiest(effects engine.Effects, interrupted map[string]bool) (victim engine.Instance, ok bool) {
	released := make(map[string]bool)
	for _, release := range effects.Releases {
		released[release.Node] = true
	}
	most := 0
	for _, instance := range effects.Instances {
		supply := f.supplies[instance.Provider]
		if supply == nil || instance.Noticed || released[instance.Node] || interrupted[instance.Node] {
			continue
		}
		if _, can := supply.provider.(providers.Interrupter); !can {
			continue
		}
		running := 0
		assignments := effects.Assignments.Of(instance.Node)
		for i := range assignments {
			if assignments[i].IsRunning() {
				running++
			}
		}
		if running > most {
			victim, most = instance, running
		}
	}
	return victim, most > 0
}

func (f *Fleet) interrupt(ctx context.Context, victim engine.Instance) error {
	interrupter := f.supplies[victim.Provider].provider.(providers.Interrupter)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := interrupter.Interrupt(ctx, victim.InstanceID, f.config.EvictNotice); err != nil {
		return fmt.Errorf("instance %s of node %s: %w", victim.InstanceID, victim.Node, err)
	}
	f.log.Info("an instance was asked back to show an eviction", "node", victim.Node, "instance", victim.InstanceID, "notice", f.config.EvictNotice)
	return nil
}
