// Package fleet does what the engine wants done outside, and brings back what came of it as commands.
//
// Authority: it decides nothing. Want hands it the engine's effects after each durable append; it keeps the latest alone, compares
// it with what is there, and acts on the difference. So a restart is nothing special, and nothing is done before it is on record.
//
//	effects.Launches     ──► Launch, one call at a time for a key       ──► SettleLaunch
//	effects.Releases     ──► Terminate, until it succeeds               ──► InstanceGone
//	effects.Instances    ◄─► List: what is missing is gone, what nobody knows is given back
//	Watch, Offers        ──► NoticeInstance, InstanceGone, ObserveOffers
//	effects.Assignments  ──► Desired, on each node's session            ──► JoinNode, ReportPod; logs to the archive
//
// A launch that was open when the fleet started may have been made already: it is settled by looking for its key before the
// provider is called. Instances are given back only if they carry our owner's tag and neither a record nor an open launch knows them.
//
// What providers refuse is retried with a jittered backoff and logged once for each message. A report is acknowledged when its
// facts are durable; one that the engine finds stale is handled too. When commands cannot be submitted any more (the writer was
// deposed, or its log failed), Run ends with that error.
//
// Agents come over gRPC with TLS 1.3. Join needs the token of a launch and gives the node a certificate; Session needs that
// certificate, and a node is heard only about the pods that are its own. Every session has goroutines of its own: one that is slow
// or dead holds up nobody.
package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// Submitter has a command decided. It returns when the command's facts are durable. An *engine.Rejection says that nothing has
// changed; any other error, that no more commands are taken.
type Submitter interface {
	Submit(ctx context.Context, command engine.Command) (seq uint64, err error)
	// SubmitAll has commands decided in their order, and returns an error for each, as Submit does.
	SubmitAll(ctx context.Context, commands []engine.Command) []error
}

// Authority signs the certificates of nodes and of the agents' endpoint.
type Authority interface {
	// CAPEM is the certificate that signs, PEM.
	CAPEM() []byte
	// Secret from which join tokens derive; the same for as long as the control plane has launches and nodes.
	Secret() []byte
	ServerCertificate(hosts ...string) (tls.Certificate, error)
	// SignNode makes a client certificate for the URI over the key of a PKCS#10 request, both DER.
	SignNode(csrDER []byte, uri string) ([]byte, error)
}

// LogRun names the output of one run of a container.
type LogRun struct {
	Tenant, JobUID, PodUID, Container string
	// Restart is how many runs of the container in this pod came before.
	Restart int32
}

// LogSink keeps the output of containers. AppendLog returns when the data is kept; the same append again is no error. The sink
// does not keep data after it returns.
type LogSink interface {
	AppendLog(ctx context.Context, run LogRun, offset int64, data []byte, end bool) error
	// EndSilentLog says that a run has ended, so that nobody waits for output that there is none of. It does nothing to a log that holds some.
	EndSilentLog(run LogRun)
}

// PodLookup finds pods that are not assigned to a node any more: the last of an ended pod's output may come after the fact of its
// end, and after a restart the fleet has not seen that pod.
type PodLookup interface {
	// PodOwner tells where a pod ran and whose it is.
	PodOwner(podUID string) (node, tenant, jobUID string, ok bool)
}

// Backoff is how long to wait between tries: First, doubled each time up to Last, less up to half of it by chance.
type Backoff struct{ First, Last time.Duration }

// Defaults of Config.
const (
	DefaultOffersEvery    = 30 * time.Second
	DefaultReconcileEvery = 30 * time.Second
	DefaultLaunchTries    = 5
	DefaultFirstRetry     = 500 * time.Millisecond
	DefaultLastRetry      = 30 * time.Second
)

// Config of a fleet. Fields without a default are required, but for Pods: without it, output that is left of pods which ended before the
// fleet started is discarded.
type Config struct {
	Submit    Submitter
	Providers map[string]providers.Provider
	Authority Authority
	Logs      LogSink
	Pods      PodLookup
	// Owner is the control plane's id: instances that carry it as their tag are its own.
	Owner string
	// Listener for agents; the fleet closes it when Run ends.
	Listener net.Listener
	// AgentAddress is where instances reach the listener, host:port; its own address by default.
	AgentAddress string
	// Images changes a rendered pod so that nodes can run its images, or says why not; none by default.
	Images func(*corev1.Pod) error
	// Warn is told what of a running pod is not as it asks for, before it is on record that it runs, and again when its node says so again; nobody by
	// default.
	Warn   func(podUID, node, warning string)
	Logger *slog.Logger
	// OffersEvery is how often providers are asked for offers, ReconcileEvery how often for a list of all instances.
	OffersEvery, ReconcileEvery time.Duration
	Retry                       Backoff
	// LaunchTries is how often a launch is called under one key while the faults are passing ones.
	LaunchTries int
	// EvictEvery, if not 0, has the busiest node taken back that often, with EvictNotice of warning, where its provider can.
	EvictEvery, EvictNotice time.Duration
}

// Fleet carries out effects. New gives one; Want, Empty and Idle may be called by any goroutine.
type Fleet struct {
	config   Config
	log      *slog.Logger
	board    *board
	supplies map[string]*supply
	// stop ends Run with an error.
	stop context.CancelCauseFunc
}

// New checks the configuration and returns a fleet that does nothing until Run.
func New(config Config) (*Fleet, error) {
	switch {
	case config.Submit == nil || config.Authority == nil || config.Logs == nil:
		return nil, errors.New("fleet: Submit, Authority and Logs are required")
	case config.Listener == nil:
		return nil, errors.New("fleet: no listener for agents")
	case config.Owner == "":
		return nil, errors.New("fleet: no owner: instances could not be told from those of others")
	}
	config.AgentAddress = cmp.Or(config.AgentAddress, config.Listener.Addr().String())
	config.OffersEvery = cmp.Or(config.OffersEvery, DefaultOffersEvery)
	config.ReconcileEvery = cmp.Or(config.ReconcileEvery, DefaultReconcileEvery)
	config.Retry = cmp.Or(config.Retry, Backoff{First: DefaultFirstRetry, Last: DefaultLastRetry})
	config.LaunchTries = cmp.Or(config.LaunchTries, DefaultLaunchTries)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Images == nil {
		config.Images = func(*corev1.Pod) error { return nil }
	}
	f := &Fleet{config: config, log: config.Logger, board: newBoard(), supplies: make(map[string]*supply)}
	for name, provider := range config.Providers {
		f.supplies[name] = newSupply(f, name, provider)
	}
	return f, nil
}

// Want takes the engine's effects, the newest last. It does not block.
func (f *Fleet) Want(effects engine.Effects) { f.board.post(effects) }

// Empty tells whether the engine has spoken and there is neither an instance nor an open launch.
func (f *Fleet) Empty() bool {
	effects, _, ok := f.board.read()
	return ok && isEmpty(effects)
}

// Idle returns a channel that is closed as soon as Empty holds, now or later.
func (f *Fleet) Idle() <-chan struct{} { return f.board.idle() }

// Run works until the context ends, which is no error, or until commands cannot be submitted any more. All that it started has ended
// when it returns. It is called once.
func (f *Fleet) Run(parent context.Context) error {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	f.stop = stop
	agents, err := newHub(ctx, f)
	if err != nil {
		return errors.Join(fmt.Errorf("the agents' endpoint: %w", err), f.config.Listener.Close())
	}
	var work sync.WaitGroup
	for _, supply := range f.supplies {
		work.Go(func() { supply.run(ctx) })
	}
	work.Go(func() { f.settleUnknownProviders(ctx) })
	if f.config.EvictEvery > 0 {
		work.Go(func() { f.evictByTime(ctx) })
	}
	work.Go(func() {
		if err := agents.serve(); err != nil {
			stop(fmt.Errorf("the agents' endpoint: %w", err))
		}
	})
	<-ctx.Done()
	agents.close()
	work.Wait()
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// submit has a command decided. A rejection is returned for the caller to judge; any other error ends the fleet, but for the end of
// the context.
func (f *Fleet) submit(ctx context.Context, command engine.Command) error {
	_, err := f.config.Submit.Submit(ctx, command)
	f.mind(ctx, command, err)
	return err
}

// submitAll is submit for several commands.
func (f *Fleet) submitAll(ctx context.Context, commands []engine.Command) []error {
	errs := f.config.Submit.SubmitAll(ctx, commands)
	for i, err := range errs {
		f.mind(ctx, commands[i], err)
	}
	return errs
}

// mind ends the fleet when commands cannot be submitted any more.
func (f *Fleet) mind(ctx context.Context, command engine.Command, err error) {
	var rejection *engine.Rejection
	if err != nil && !errors.As(err, &rejection) && ctx.Err() == nil {
		f.stop(fmt.Errorf("submit %T: %w", command, err))
	}
}

// tell submits what was seen outside. A rejection is worth a line in the log, unless it says that the news is old.
func (f *Fleet) tell(ctx context.Context, command engine.Command) {
	var rejection *engine.Rejection
	if err := f.submit(ctx, command); errors.As(err, &rejection) && rejection.Kind != engine.Stale {
		f.log.Warn("an observation was refused", "command", fmt.Sprintf("%T", command), "reason", rejection.Message)
	}
}
