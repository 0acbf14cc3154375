// Package swarm lends instances that are agents without a machine: each joins, keeps a session and reports as the real agent does, since it
// is the real agent (package agent), but its pods begin and end at once and run nothing. It shows what a control plane takes, and is
// for that alone.
//
// All agents live in the provider's process, so that what they use can be told from what the control plane uses, and end with it.
package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/nightshift-batch/nightshift/orchestrator/agent"
	"github.com/nightshift-batch/nightshift/providers"
)

// Config of a swarm, JSON.
type Config struct {
	// Agents is how many there are at most.
	Agents int `json:"agents"`
	// PodsPerAgent is how many pods one holds at a time.
	PodsPerAgent int64 `json:"podsPerAgent"`
}

const (
	offerID = "agent"
	// priceMicrosPerHour is there because everything has a price.
	priceMicrosPerHour = 1000
	// podBytes and podMillis are what one pod has of an agent at most.
	podBytes  = 64 << 20
	podMillis = 1000
)

// Swarm implements providers.Provider.
type Swarm struct {
	config Config
	log    *slog.Logger
	dir    string
	ctx    context.Context
	end    context.CancelFunc
	agents sync.WaitGroup

	mu       sync.Mutex
	launched map[string][]*instance // By key.
	byID     map[string]*instance
	living   int
	// events that happened, from the first; changed is closed and replaced with each.
	events  []event
	changed chan struct{}
}

type instance struct {
	id, key, owner string
	end            context.CancelFunc
	gone           chan struct{}
}

type event struct {
	owner string
	providers.Event
}

// Open makes a swarm; Close ends it.
func Open(config []byte, log *slog.Logger) (providers.Provider, error) {
	s := &Swarm{log: log, launched: map[string][]*instance{}, byID: map[string]*instance{}, changed: make(chan struct{})}
	if err := json.Unmarshal(config, &s.config); err != nil {
		return nil, fmt.Errorf("configuration of the swarm: %w", err)
	}
	if s.config.Agents <= 0 || s.config.PodsPerAgent <= 0 {
		return nil, errors.New("a swarm has at least one agent, and an agent at least one pod")
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "nightshift-swarm-"); err != nil {
		return nil, err
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Close ends all agents.
func (s *Swarm) Close() error {
	s.end()
	s.agents.Wait()
	return os.RemoveAll(s.dir)
}

// Offers implements providers.Provider.
func (s *Swarm) Offers(context.Context) ([]providers.Offer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := s.config.PodsPerAgent
	return []providers.Offer{{
		ID: offerID, InstanceType: offerID, Zone: "nowhere", Market: providers.Spot, Arch: runtime.GOARCH,
		Resources:          providers.Resources{"cpu": pods * podMillis, "memory": pods * podBytes, "pods": pods},
		PriceMicrosPerHour: priceMicrosPerHour, OnDemandPriceMicrosPerHour: priceMicrosPerHour, Available: int64(s.config.Agents - s.living),
	}}, nil
}

// Launch implements providers.Provider.
func (s *Swarm) Launch(_ context.Context, request providers.LaunchRequest) (providers.LaunchResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, repeated := s.launched[request.Key]; !repeated {
		dir := filepath.Join(s.dir, request.Key)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return providers.LaunchResult{}, err
		}
		err := errors.Join(os.WriteFile(filepath.Join(dir, "token"), []byte(request.Bootstrap.Token), 0o600),
			os.WriteFile(filepath.Join(dir, "ca.pem"), request.Bootstrap.CACertificate, 0o600))
		if err != nil {
			return providers.LaunchResult{}, err
		}
		for range min(request.Count, s.config.Agents-s.living) {
			s.begin(request, dir)
		}
	}
	var result providers.LaunchResult
	for _, i := range s.launched[request.Key] {
		result.Instances = append(result.Instances, providers.Instance{ID: i.id, Key: i.key, OfferID: offerID, State: i.state()})
	}
	return result, nil
}

// begin starts one agent; mu is held.
func (s *Swarm) begin(request providers.LaunchRequest, dir string) {
	ctx, end := context.WithCancel(s.ctx)
	i := &instance{id: fmt.Sprintf("%s-%d", request.Key, len(s.launched[request.Key])), key: request.Key, owner: request.Owner, end: end, gone: make(chan struct{})}
	s.launched[i.key] = append(s.launched[i.key], i)
	s.byID[i.id] = i
	s.living++
	s.agents.Go(func() {
		err := agent.Run(ctx, agent.Config{
			ControlPlane: request.Bootstrap.Address, CAFile: filepath.Join(dir, "ca.pem"), TokenFile: filepath.Join(dir, "token"),
			InstanceID: i.id, StateDir: filepath.Join(dir, i.id), Runtime: instant{}, Log: slog.New(warnings{s.log.Handler()}).With("instance", i.id),
		})
		cause := "terminated"
		if err != nil {
			cause = err.Error()
		}
		end()
		s.mu.Lock()
		defer s.mu.Unlock()
		close(i.gone)
		s.living--
		s.tell(i, providers.Event{Kind: providers.InstanceTerminated, InstanceID: i.id, Cause: cause})
	})
	s.tell(i, providers.Event{Kind: providers.InstanceRunning, InstanceID: i.id})
}

// warnings drops what is no warning: agents tell of each pod.
type warnings struct{ slog.Handler }

// Enabled implements slog.Handler.
func (warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// WithAttrs implements slog.Handler.
func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}

// tell puts an event where watchers find it; mu is held.
func (s *Swarm) tell(i *instance, e providers.Event) {
	s.events = append(s.events, event{i.owner, e})
	close(s.changed)
	s.changed = make(chan struct{})
}

func (i *instance) state() providers.InstanceState {
	select {
	case <-i.gone:
		return providers.Terminated
	default:
		return providers.Running
	}
}

// Terminate implements providers.Provider.
func (s *Swarm) Terminate(ctx context.Context, instanceIDs []string) error {
	for _, id := range instanceIDs {
		s.mu.Lock()
		i := s.byID[id]
		s.mu.Unlock()
		if i == nil {
			continue
		}
		i.end()
		select {
		case <-i.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// List implements providers.Provider.
func (s *Swarm) List(_ context.Context, owner string) ([]providers.Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []providers.Instance
	for _, i := range s.byID {
		if i.owner == owner && i.state() == providers.Running {
			found = append(found, providers.Instance{ID: i.id, Key: i.key, OfferID: offerID, State: providers.Running})
		}
	}
	return found, nil
}

// Watch implements providers.Provider.
func (s *Swarm) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	for seen := 0; ; {
		s.mu.Lock()
		events, changed := s.events[seen:], s.changed
		s.mu.Unlock()
		for _, e := range events {
			if e.owner == owner {
				sink(e.Event)
			}
		}
		if seen += len(events); len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
