// Package local lends pieces of this machine: an instance is a child process, an agent of its own, at a simulated price and with
// a simulated time to boot.
//
// It owns the directory of its configuration, and in it one directory for each instance. It promises what every provider promises,
// and rests "the instance is gone" on the kernel instead of on its own records: the agent's guardian process inherits an open file
// on which the provider took a lock (flock(2)) before the start, and keeps it open as long as anything of the instance lives. The
// instance has ended when that lock can be taken again, and no sooner: Terminate returns then, and Watch tells then.
//
// An instance ends with its provider, however that dies: each agent holds the read end of a pipe, its lifeline, whose write end
// the provider alone holds; at its end of file the agent kills its pods and ends. So after a crash nothing is taken over: New
// waits for what the last provider on the same directory left to go, kills what does not, and starts with no instance running.
// The keys of launches outlive it, so a launch that is repeated brings the instances of the first call, which have ended.
//
// Offers of one type, spot and on demand, share the type's Max. Interruptions come on request alone (providers.Interrupter).
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

const (
	// zone is the one zone there is.
	zone = "local"
	// podsPerInstance is Kubernetes' default bound for a node (KubeletConfiguration, maxPods).
	podsPerInstance = 110
	// keepGone is how many ended instances keep their directory, for a look at the agent's log, and are told to new watchers.
	keepGone = 100
	// keepKeys is how long the key of a launch is known. EC2 promises as much for its client tokens (EC2 API, "Ensuring
	// idempotency").
	keepKeys = 24 * time.Hour
	// killAfter is how long an instance without a lifeline may take to go before it is killed.
	killAfter = 5 * time.Second
	// killAfterClose is killAfter when the provider itself ends, which has to be over in the plugin's 4 seconds.
	killAfterClose = 2 * time.Second
	// closeWithin is how long Close waits.
	closeWithin = killAfterClose + 1500*time.Millisecond
	// previousWithin is how long New waits for another provider on the same directory to end.
	previousWithin = 10 * time.Second
)

// Provider lends pieces of this machine. It is safe for concurrent use.
type Provider struct {
	config Config
	agent  string // AgentCommand[0], looked up
	logger *slog.Logger
	dir    *os.File      // its lock says that this provider is the directory's only one
	closed chan struct{} // closes when Close begins

	// ahead is the start of the spare, while it goes on.
	ahead sync.WaitGroup

	mu        sync.Mutex
	instances map[string]*instance
	gone      []string // ids of ended instances that are still in instances, the oldest first
	launches  map[string]launch
	watchers  map[*watcher]struct{}
	sequence  int64
	spare     *instance // its agent waits to be launched; nil if none does
}

var (
	_ providers.Provider    = (*Provider)(nil)
	_ providers.Interrupter = (*Provider)(nil)
)

// New makes a provider on config.Dir. It waits for what an earlier provider left there to go: up to 10 seconds for the provider
// and 10 for its instances. Errors: KindBadConfig for a configuration that names something which does not exist or fit,
// KindTransient when the directory is in use.
func New(config Config, logger *slog.Logger) (*Provider, error) {
	const op = "open"
	if logger == nil {
		return nil, fail(op, providers.KindBadConfig, errors.New("no logger"))
	}
	config, agent, err := config.checked()
	if err != nil {
		return nil, fail(op, providers.KindBadConfig, err)
	}
	for _, name := range []string{"instances", "launches"} {
		if err := os.MkdirAll(filepath.Join(config.Dir, name), 0o700); err != nil {
			return nil, fail(op, providers.KindBadConfig, err)
		}
	}
	path := filepath.Join(config.Dir, "lock")
	dir, err := lockWithin(path, previousWithin)
	if err != nil {
		return nil, fail(op, providers.KindTransient, fmt.Errorf("another provider uses %s: %w", config.Dir, err))
	}
	p := &Provider{
		config: config, agent: agent, logger: logger, dir: dir, closed: make(chan struct{}),
		instances: map[string]*instance{}, launches: map[string]launch{}, watchers: map[*watcher]struct{}{},
	}
	if err := errors.Join(p.settleInstances(), p.loadLaunches(time.Now())); err != nil {
		return nil, fail(op, providers.KindTransient, errors.Join(err, dir.Close()))
	}
	if config.StartAhead {
		p.ahead.Go(p.startSpare)
	}
	return p, nil
}

// Close ends all instances at once and returns when they are gone; an error names those that are not after 3.5 seconds. Calls
// and watches fail from then on.
func (p *Provider) Close() error {
	p.mu.Lock()
	if p.isClosed() {
		p.mu.Unlock()
		return nil
	}
	close(p.closed)
	var living []*instance
	for _, i := range p.instances {
		if i.state != providers.Terminated {
			living = append(living, i)
			i.end(&i.cut, "the provider has ended")
		}
	}
	if p.spare != nil {
		p.endSpare(p.spare)
		p.spare = nil
	}
	p.mu.Unlock()
	p.ahead.Wait() // It sees that the provider is closed.
	deadline := time.After(closeWithin)
	var errs []error
	for _, i := range living {
		select {
		case <-i.gone:
		case <-deadline:
			deadline = closedChannel()
			errs = append(errs, fmt.Errorf("instance %s is not gone", i.ID))
		}
	}
	return errors.Join(append(errs, p.dir.Close())...)
}

func closedChannel() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

func (p *Provider) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// usable is the check at the beginning of each call.
func (p *Provider) usable(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fail(op, providers.KindTransient, err)
	}
	if p.isClosed() {
		return fail(op, providers.KindTransient, errors.New("the local provider has ended"))
	}
	return nil
}

// Offers implements providers.Provider.
func (p *Provider) Offers(ctx context.Context) ([]providers.Offer, error) {
	if err := p.usable(ctx, "offers"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var offers []providers.Offer
	for _, t := range p.config.Types {
		resources := providers.Resources{"cpu": t.CPUMillis, "memory": t.MemoryBytes, "pods": podsPerInstance}
		maps.Copy(resources, t.Extended)
		for _, market := range []providers.Market{providers.Spot, providers.OnDemand} {
			offer := providers.Offer{
				ID: offerID(t.Name, market), InstanceType: t.Name, Zone: zone, Market: market, Arch: runtime.GOARCH,
				Resources: maps.Clone(resources), PriceMicrosPerHour: t.OnDemandPriceMicrosPerHour, OnDemandPriceMicrosPerHour: t.OnDemandPriceMicrosPerHour,
				Available: p.available(t),
			}
			if market == providers.Spot {
				offer.PriceMicrosPerHour, offer.InterruptionsPerMillionHours = t.PriceMicrosPerHour, -1
			}
			offers = append(offers, offer)
		}
	}
	return offers, nil
}

func offerID(typeName string, market providers.Market) string {
	return "local/" + typeName + "/" + string(market)
}

// available is how many more instances of a type there can be. The caller holds p.mu.
func (p *Provider) available(t Type) int64 {
	free := int64(t.Max)
	for _, i := range p.instances {
		if i.typ.Name == t.Name && i.state != providers.Terminated {
			free--
		}
	}
	return free
}

// List implements providers.Provider.
func (p *Provider) List(ctx context.Context, owner string) ([]providers.Instance, error) {
	if err := p.usable(ctx, "list"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var listed []providers.Instance
	for _, i := range p.inOrder() {
		if i.Owner == owner && i.state != providers.Terminated {
			listed = append(listed, i.told())
		}
	}
	return listed, nil
}

// inOrder returns the instances in the order of their launch. The caller holds p.mu.
func (p *Provider) inOrder() []*instance {
	return slices.SortedFunc(maps.Values(p.instances), func(a, b *instance) int { return int(a.sequence - b.sequence) })
}

// Terminate implements providers.Provider. The agent gets SIGTERM and TerminateGraceSeconds; then its lifeline is closed.
func (p *Provider) Terminate(ctx context.Context, instanceIDs []string) error {
	const op = "terminate"
	if err := p.usable(ctx, op); err != nil {
		return err
	}
	p.mu.Lock()
	var ending []*instance
	for _, id := range instanceIDs {
		if i := p.instances[id]; i != nil && i.state != providers.Terminated {
			i.end(&i.stop, "terminated on request")
			ending = append(ending, i)
		}
	}
	p.mu.Unlock()
	for _, i := range ending {
		select {
		case <-i.gone:
		case <-ctx.Done():
			return fail(op, providers.KindTransient, fmt.Errorf("instance %s is ending: %w", i.ID, ctx.Err()))
		}
	}
	return nil
}

// Interrupt implements providers.Interrupter, for instances of either market. At the deadline the instance's lifeline is cut. A
// second interruption of an instance can only bring its deadline forward.
func (p *Provider) Interrupt(ctx context.Context, instanceID string, notice time.Duration) error {
	const op = "interrupt"
	if err := p.usable(ctx, op); err != nil {
		return err
	}
	if notice < 0 {
		return fail(op, providers.KindBadRequest, fmt.Errorf("a notice of %v is less than nothing", notice))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.instances[instanceID]
	if i == nil || i.state == providers.Terminated {
		return fail(op, providers.KindBadRequest, fmt.Errorf("no instance %q is pending or running", instanceID))
	}
	deadline := time.Now().Add(notice)
	if i.notice == nil || deadline.Before(i.notice.Deadline) {
		i.notice = &providers.Event{
			Kind: providers.InterruptionNotice, InstanceID: i.ID, Deadline: deadline, Cause: "interrupted on request",
		}
		if i.reclaim != nil {
			i.reclaim.Stop()
		}
		i.reclaim = time.AfterFunc(notice, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			i.end(&i.cut, "interrupted: the notice has run out")
		})
	}
	p.tell(i.Owner, *i.notice)
	return nil
}

func fail(op string, kind providers.ErrorKind, err error) error {
	return &providers.Error{Kind: kind, Op: op, Err: err}
}
