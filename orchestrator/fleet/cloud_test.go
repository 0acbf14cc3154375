package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// cloud is a provider with knobs. The zero knobs make it one that does as it is told.
type cloud struct {
	mu        sync.Mutex
	instances map[string]*lent
	made      int
	requests  []providers.LaunchRequest
	watchers  map[chan providers.Event]string
	// ended ids, in order of their first Terminate.
	ended []string
	// asked counts the calls of Offers.
	asked int

	// launched receives each launch that brought instances.
	launched chan launched
	// interrupted receives the ids of Interrupt.
	interrupted chan string

	// Knobs, guarded by mu through set.
	offers []providers.Offer
	// refuse answers a call of Launch, the first being number 1, before anything is made.
	refuse func(call int) error
	// afterLaunch may change what Launch says when the instances are there.
	afterLaunch func(ctx context.Context, instances []providers.Instance) ([]providers.Instance, error)
	// refuseEnd answers a Terminate.
	refuseEnd func(ids []string) error
	listError error
	// breakWatch ends the watches that are open.
	breakWatch chan struct{}
	// silent keeps the notice of an interruption back.
	silent bool
	// refuseOffers answers Offers.
	refuseOffers error
}

type lent struct {
	providers.Instance
	owner string
}

type launched struct {
	request   providers.LaunchRequest
	instances []providers.Instance
}

func newCloud() *cloud {
	return &cloud{
		instances: make(map[string]*lent), watchers: make(map[chan providers.Event]string),
		launched: make(chan launched, 100), interrupted: make(chan string, 100), breakWatch: make(chan struct{}),
		offers: []providers.Offer{{
			ID: "zone-a/small/spot", InstanceType: "small", Zone: "zone-a", Market: providers.Spot, Arch: "amd64",
			Resources:          providers.Resources{"cpu": 2000, "memory": 8 << 30},
			PriceMicrosPerHour: 30_000, OnDemandPriceMicrosPerHour: 100_000, Available: -1, InterruptionsPerMillionHours: -1,
		}},
	}
}

func (c *cloud) set(change func(*cloud)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *cloud) Offers(context.Context) ([]providers.Offer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.offers, c.refuseOffers
}

func (c *cloud) Launch(ctx context.Context, request providers.LaunchRequest) (providers.LaunchResult, error) {
	instances, after, err := c.make(request)
	if err != nil {
		return providers.LaunchResult{}, err
	}
	if after != nil {
		instances, err = after(ctx, instances)
	}
	return providers.LaunchResult{Instances: instances}, err
}

func (c *cloud) make(request providers.LaunchRequest) ([]providers.Instance, func(context.Context, []providers.Instance) ([]providers.Instance, error), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, request)
	if c.refuse != nil {
		if err := c.refuse(len(c.requests)); err != nil {
			return nil, nil, err
		}
	}
	var instances []providers.Instance
	for _, known := range c.instances {
		if known.Key == request.Key {
			instances = append(instances, known.Instance)
		}
	}
	if len(instances) > 0 {
		return instances, c.afterLaunch, nil
	}
	for range request.Count {
		instances = append(instances, c.lend(request.Owner, request.Key, request.OfferIDs[0]))
	}
	c.launched <- launched{request, instances}
	return instances, c.afterLaunch, nil
}

func (c *cloud) lend(owner, key, offer string) providers.Instance {
	c.made++
	instance := providers.Instance{ID: fmt.Sprintf("i-%d", c.made), Key: key, OfferID: offer, State: providers.Running}
	c.instances[instance.ID] = &lent{instance, owner}
	c.tell(providers.Event{Kind: providers.InstanceRunning, InstanceID: instance.ID})
	return instance
}

// tell sends to the watchers; mu is held.
func (c *cloud) tell(event providers.Event) {
	for watcher, owner := range c.watchers {
		if c.instances[event.InstanceID].owner == owner {
			watcher <- event
		}
	}
}

func (c *cloud) Terminate(_ context.Context, ids []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuseEnd != nil {
		if err := c.refuseEnd(ids); err != nil {
			return err
		}
	}
	c.ended = append(c.ended, ids...)
	for _, id := range ids {
		c.end(id, "we were asked to")
	}
	return nil
}

// end ends an instance with an event; mu is held.
func (c *cloud) end(id, cause string) {
	if known := c.instances[id]; known != nil && known.State != providers.Terminated {
		known.State = providers.Terminated
		c.tell(providers.Event{Kind: providers.InstanceTerminated, InstanceID: id, Cause: cause})
	}
}

func (c *cloud) List(_ context.Context, owner string) ([]providers.Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var instances []providers.Instance
	for _, known := range c.instances {
		if known.owner == owner && known.State != providers.Terminated {
			instances = append(instances, known.Instance)
		}
	}
	return instances, c.listError
}

func (c *cloud) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	events := make(chan providers.Event, 1000)
	c.mu.Lock()
	c.watchers[events] = owner
	for id, known := range c.instances {
		if known.owner == owner && known.State == providers.Running {
			events <- providers.Event{Kind: providers.InstanceRunning, InstanceID: id}
		}
	}
	breaks := c.breakWatch
	c.mu.Unlock()
	defer c.set(func(c *cloud) { delete(c.watchers, events) })
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-breaks:
			return &providers.Error{Kind: providers.KindTransient, Op: "watch", Err: errors.New("the stream broke")}
		case event := <-events:
			sink(event)
		}
	}
}

func (c *cloud) Interrupt(_ context.Context, id string, notice time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.silent {
		c.tell(providers.Event{Kind: providers.InterruptionNotice, InstanceID: id, Deadline: time.Now().Add(notice), Cause: "spot"})
	}
	c.interrupted <- id
	return nil
}

func refusal(kind providers.ErrorKind, text string) error {
	return &providers.Error{Kind: kind, Op: "launch", Err: errors.New(text)}
}
