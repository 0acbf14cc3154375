package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// JoinToken is what proves that an agent belongs to the launch: hex HMAC-SHA256 of the launch's key under the secret.
func JoinToken(secret []byte, launchKey string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(launchKey))
	return hex.EncodeToString(mac.Sum(nil))
}

// launches makes each open launch, one call at a time for a key. Those found open at the start are looked for first.
func (s *supply) launches(ctx context.Context, found map[string]bool) {
	var work sync.WaitGroup
	defer work.Wait()
	// begun holds a key from its first sight until it is settled and the effects show so; true when it was settled.
	begun := make(map[string]*atomic.Bool)
	s.fleet.board.each(ctx, func(effects engine.Effects) {
		open := make(map[string]bool)
		for _, launch := range effects.Launches {
			if launch.Provider == s.name {
				open[launch.Key] = true
			}
		}
		for key, settled := range begun {
			if settled.Load() && !open[key] {
				delete(begun, key)
			}
		}
		if len(open) == 0 && len(begun) == 0 {
			s.forgetEarly()
		}
		for _, launch := range effects.Launches {
			if launch.Provider != s.name || begun[launch.Key] != nil {
				continue
			}
			settled := new(atomic.Bool)
			begun[launch.Key] = settled
			work.Go(func() {
				s.launch(ctx, launch, found[launch.Key])
				settled.Store(true)
			})
		}
	})
}

// launch brings one launch to its outcome. It returns without one only when the context ends.
func (s *supply) launch(ctx context.Context, launch engine.Launch, look bool) {
	log := s.log.With("launch", launch.Key)
	problem := &trouble{log: log, what: "launch"}
	request := s.request(launch)
	for look {
		instances, err := s.find(ctx, launch.Key)
		problem.note(err)
		if err == nil && len(instances) > 0 {
			log.Info("a launch whose outcome was lost is settled by its instances", "instances", len(instances))
			s.settle(ctx, launch, instances, errors.New("the outcome of the call was lost"))
			return
		}
		look = err != nil
		if look && !wait(ctx, s.fleet.config.Retry.delay(1)) {
			return
		}
	}
	for try := 1; ; try++ {
		instances, err := s.call(ctx, request)
		if ctx.Err() != nil {
			return
		}
		kind := providers.KindOf(err)
		passing := len(instances) == 0 && (kind == providers.KindTransient || kind == providers.KindThrottled)
		if passing && try < s.fleet.config.LaunchTries {
			problem.note(err)
			if !wait(ctx, s.fleet.config.Retry.delay(try)) {
				return
			}
			continue
		}
		if passing && kind == providers.KindTransient {
			// One of the calls may have had an effect all the same.
			if late, lookErr := s.find(ctx, launch.Key); lookErr == nil {
				instances = late
			}
		}
		s.settle(ctx, launch, instances, err)
		return
	}
}

// request is the same for the same launch, whenever it is made.
func (s *supply) request(launch engine.Launch) providers.LaunchRequest {
	config := &s.fleet.config
	request := providers.LaunchRequest{
		Key: launch.Key, Owner: config.Owner, Count: int(launch.Count),
		Bootstrap: providers.Bootstrap{
			Address: config.AgentAddress, CACertificate: config.Authority.CAPEM(), Token: JoinToken(config.Authority.Secret(), launch.Key),
		},
	}
	for _, offer := range launch.Offers {
		request.OfferIDs = append(request.OfferIDs, offer.GetId())
	}
	return request
}

func (s *supply) call(ctx context.Context, request providers.LaunchRequest) ([]providers.Instance, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result, err := s.provider.Launch(ctx, request)
	return result.Instances, err
}

// find lists the instances of a launch.
func (s *supply) find(ctx context.Context, key string) ([]providers.Instance, error) {
	listed, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var instances []providers.Instance
	for _, instance := range listed {
		if instance.Key == key {
			instances = append(instances, instance)
		}
	}
	return instances, nil
}

// settle records the outcome, then repeats what was heard of the instances before they were on record. A fault that took nothing away
// is none.
func (s *supply) settle(ctx context.Context, launch engine.Launch, instances []providers.Instance, cause error) {
	command := engine.SettleLaunch{Key: launch.Key}
	listed := make(map[string]bool)
	for _, instance := range instances {
		if instance.State != providers.Terminated && !listed[instance.ID] {
			listed[instance.ID] = true
			command.Instances = append(command.Instances, engine.LaunchedInstance{ID: instance.ID, OfferID: instance.OfferID})
		}
	}
	missing := int(launch.Count) - len(command.Instances)
	if missing > 0 && cause != nil {
		command.ErrorKind, command.Error = string(providers.KindOf(cause)), cause.Error()
	}
	if missing > 0 {
		s.log.Warn("a launch brought less than was asked for", "launch", launch.Key, "asked", launch.Count, "missing", missing, "error", cause)
	}
	s.fleet.tell(ctx, command)
	for _, instance := range command.Instances {
		s.repeatEarly(ctx, instance.ID)
	}
	ask(s.askOffers)
}

// settleUnknownProviders refuses what is to be bought from providers that are on record and not configured any more.
func (f *Fleet) settleUnknownProviders(ctx context.Context) {
	told, settled := make(map[string]bool), make(map[string]bool)
	refuse := func(provider string) bool {
		if f.supplies[provider] != nil {
			return false
		}
		if !told[provider] {
			told[provider] = true
			f.log.Error("a provider is on record and not configured: nothing is launched there, and its instances cannot be given back", "provider", provider)
			f.tell(ctx, engine.ObserveOffers{Provider: provider})
		}
		return true
	}
	f.board.each(ctx, func(effects engine.Effects) {
		for _, instance := range effects.Instances {
			refuse(instance.Provider)
		}
		for _, launch := range effects.Launches {
			if refuse(launch.Provider) && !settled[launch.Key] {
				settled[launch.Key] = true
				f.tell(ctx, engine.SettleLaunch{
					Key: launch.Key, ErrorKind: string(providers.KindBadConfig), Error: fmt.Sprintf("provider %q is not configured", launch.Provider),
				})
			}
		}
	})
}
