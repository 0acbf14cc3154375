package fleet

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// watch listens to what happens to instances. What happened while nobody listened is found by a list: one is asked for whenever a watch
// is begun, and again with its first event, when it is open for sure.
func (s *supply) watch(ctx context.Context) {
	problem := &trouble{log: s.log, what: "watching instances"}
	for try := 1; ; try++ {
		ask(s.askList)
		silent := true
		err := s.provider.Watch(ctx, s.fleet.config.Owner, func(event providers.Event) {
			if silent {
				silent, try = false, 0
				problem.note(nil)
				ask(s.askList)
			}
			s.heard(ctx, event)
		})
		if ctx.Err() != nil {
			return
		}
		problem.note(cmp.Or(err, errors.New("it ended")))
		if !wait(ctx, s.fleet.config.Retry.delay(max(try, 1))) {
			return
		}
	}
}

// heard submits what happened to an instance. It is kept before that: if the instance is not on record yet, the command falls flat, and
// is repeated by whoever settles the launch.
func (s *supply) heard(ctx context.Context, event providers.Event) {
	log := s.log.With("instance", event.InstanceID, "cause", event.Cause)
	switch event.Kind {
	case providers.InterruptionNotice:
		log.Info("an instance is being taken back", "deadline", event.Deadline)
		command := engine.NoticeInstance{Provider: s.name, InstanceID: event.InstanceID, Deadline: event.Deadline, Cause: event.Cause}
		s.keepEarly(event.InstanceID, func(known *heard) { known.notice = &command })
		s.fleet.tell(ctx, command)
	case providers.InstanceTerminated:
		command := engine.InstanceGone{Provider: s.name, InstanceID: event.InstanceID, Cause: cmp.Or(event.Cause, "terminated")}
		if s.isReleased(event.InstanceID) {
			command.Cause = causeReleased
		}
		log.Info("an instance has ended")
		s.keepEarly(event.InstanceID, func(known *heard) { known.gone = &command })
		s.fleet.tell(ctx, command)
	case providers.InstanceRunning, providers.RebalanceRecommendation:
		log.Info("an instance has news", "kind", event.Kind)
	default:
		log.Warn("an event of a kind that is not known", "kind", event.Kind)
	}
}

func (s *supply) keepEarly(id string, change func(*heard)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.early[id]
	change(&known)
	s.early[id] = known
}

func (s *supply) repeatEarly(ctx context.Context, id string) {
	s.mu.Lock()
	known := s.early[id]
	s.mu.Unlock()
	if known.notice != nil {
		s.fleet.tell(ctx, *known.notice)
	}
	if known.gone != nil {
		s.fleet.tell(ctx, *known.gone)
	}
}

// forgetEarly is called when no launch is open: all instances that there can be news of are on record.
func (s *supply) forgetEarly() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.early)
}

// reconcileAtStart tries until it has succeeded. It returns false if the context ends first.
func (s *supply) reconcileAtStart(ctx context.Context) bool {
	problem := &trouble{log: s.log, what: "listing instances"}
	for try := 1; ; try++ {
		err := s.reconcile(ctx)
		problem.note(err)
		if err == nil {
			return true
		}
		if !wait(ctx, s.fleet.config.Retry.delay(try)) {
			return false
		}
	}
}

func (s *supply) reconcileByTime(ctx context.Context) {
	problem := &trouble{log: s.log, what: "listing instances"}
	ticker := time.NewTicker(s.fleet.config.ReconcileEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.askList:
		case <-ticker.C:
		}
		if err := s.reconcile(ctx); ctx.Err() == nil {
			problem.note(err)
		}
	}
}

// reconcile holds the provider's list against the record. What was on record before the list was asked for and is not in it, is gone. What
// is in it and is known neither before nor after, by itself or by an open launch, is nobody's and is given back: a
// launch is in the effects before it is made, and the instance is when it is no longer.
func (s *supply) reconcile(ctx context.Context) error {
	before, _, _ := s.fleet.board.read()
	listed, err := s.list(ctx)
	if err != nil {
		return err
	}
	after, _, _ := s.fleet.board.read()
	there := make(map[string]bool, len(listed))
	for _, instance := range listed {
		there[instance.ID] = true
	}
	for _, instance := range before.Instances {
		if instance.Provider == s.name && !there[instance.InstanceID] {
			command := engine.InstanceGone{Provider: s.name, InstanceID: instance.InstanceID, Cause: "the provider does not list it any more"}
			if s.isReleased(instance.InstanceID) {
				command.Cause = causeReleased
			}
			s.fleet.tell(ctx, command)
		}
	}
	strays := s.strays(listed, before, after)
	if len(strays) == 0 {
		return nil
	}
	s.log.Warn("giving back instances with our tag that no record knows", "instances", strays)
	return s.terminate(ctx, strays)
}

// strays are the listed instances that none of the effects know.
func (s *supply) strays(listed []providers.Instance, known ...engine.Effects) []string {
	ids, keys := make(map[string]bool), make(map[string]bool)
	for _, effects := range known {
		for _, instance := range effects.Instances {
			if instance.Provider == s.name {
				ids[instance.InstanceID] = true
			}
		}
		for _, launch := range effects.Launches {
			keys[launch.Key] = true
		}
	}
	var strays []string
	for _, instance := range listed {
		if !ids[instance.ID] && !keys[instance.Key] {
			strays = append(strays, instance.ID)
		}
	}
	return strays
}

// list returns our instances that are not terminated.
func (s *supply) list(ctx context.Context) ([]providers.Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all, err := s.provider.List(ctx, s.fleet.config.Owner)
	if err != nil {
		return nil, err
	}
	var alive []providers.Instance
	for _, instance := range all {
		if instance.State != providers.Terminated {
			alive = append(alive, instance)
		}
	}
	return alive, nil
}
