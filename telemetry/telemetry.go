// Package telemetry makes OpenTelemetry traces from facts.
//
// A Job is one trace: a root span `job` and, below it, a span `attempt` for each pod, with what it ran on and what it cost. Nothing is measured
// here. Every time, id and attribute comes from recorded facts, ids from the UIDs of Job and pods, so the same log gives the same trace
// whenever and by whichever replica it is read, and a span that is exported again is the same span again.
//
// An attempt is exported when it ends and the root when the Job has its receipt; what the log does not end is not exported. There are two
// destinations, a file (OTLP JSON, one export request a line) and a collector (OTLP over gRPC or HTTP), each with a goroutine, a bounded queue
// and a cursor of its own: the number of the last fact whose spans it has taken. After a restart the log is observed from its start to rebuild what
// is in flight, and what lies before a cursor is not exported again. The cursor is saved after the export, so a crash between the two repeats
// spans, with the same ids. A destination that has not been asked for moves its cursor too: what happened meanwhile is history to it.
//
// A destination that fails holds up neither the caller nor the other one. It is tried again; when its queue is full, or it has refused the
// same spans for minutes, spans are dropped, oldest first. What a collector refuses of a request that it takes is not sent again. That a
// destination fails, drops, refuses, and works again is logged once each.
//
// Of the OTEL_ variables all that the OTLP exporters and the resource know are honoured, with OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER, which turn
// off the collector and not a file that was asked for by name. Sampling is not: a trace here is a receipt, and is whole.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Destinations, as a Cursor names them.
const (
	destinationFile      = "file"
	destinationCollector = "collector"
)

// Options choose where traces go. The zero value exports nothing but where the OTEL_ variables name a collector.
type Options struct {
	// TraceFile is a file that export requests are appended to; empty for none.
	TraceFile string
	// ServiceVersion becomes the resource's service.version; empty for none.
	ServiceVersion string
	// Cursor remembers what was exported; nil forgets it with the process, so that a replay exports all again.
	Cursor Cursor
	// Costs tells what an attempt cost; nil leaves the attribute out.
	Costs Costs
	// Logger is told when a destination fails and works again; nil means slog.Default.
	Logger *slog.Logger

	// limits are the defaults but in tests.
	limits limits
}

// Costs tells what an attempt has cost. Observe asks it in the course of the PodFinished fact, on the same goroutine, so it must know
// that fact already and nothing later.
type Costs interface {
	// CostOf returns micro-dollars; false if the pod is not known.
	CostOf(podUID string) (micros int64, known bool)
}

// Telemetry is the projection of a log onto traces. Facts are observed by one goroutine; all else is safe for concurrent use.
type Telemetry struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	sinks    []*sink

	// mu guards the projection, which Observe owns, against a second caller.
	mu    sync.Mutex
	state *projection
	seen  uint64
	// ended collects the spans that the SDK ends in the course of one fact.
	ended *collector
	// exports: there is a destination. Without one no span is made.
	exports bool
}

// New opens the trace file and prepares the collector's client, which dials when there is something to export. Wrong settings and a file
// that cannot be written are errors here.
func New(ctx context.Context, options Options) (*Telemetry, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Cursor == nil {
		options.Cursor = forgetful{}
	}
	if options.limits == (limits{}) {
		options.limits = defaultLimits
	}
	described, err := describe(ctx, options.ServiceVersion)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	network, err := collectorClient()
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	var file otlptrace.Client
	if options.TraceFile != "" {
		file = &traceFile{path: options.TraceFile, log: options.Logger}
	}
	ended := &collector{}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(described),
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithSpanProcessor(ended),
	)
	t := &Telemetry{
		provider: provider, ended: ended,
		tracer: provider.Tracer("github.com/nightshift-batch/nightshift/telemetry", trace.WithInstrumentationVersion(options.ServiceVersion)),
	}
	t.state = newProjection(t.tracer, options.Costs)
	for _, destination := range []struct {
		name   string
		client otlptrace.Client
	}{{destinationFile, file}, {destinationCollector, network}} {
		s, err := newSink(ctx, destination.name, destination.client, options)
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", errors.Join(err, t.Shutdown(ctx)))
		}
		t.sinks = append(t.sinks, s)
		t.exports = t.exports || destination.client != nil
		go s.run()
	}
	return t, nil
}

// describe is the resource that all spans carry: ours, and over it what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
func describe(ctx context.Context, version string) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{attribute.String("service.name", "nightshift")}
	if version != "" {
		attributes = append(attributes, attribute.String("service.version", version))
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(attributes...), resource.WithFromEnv())
}

// Observe takes the fact numbered seq into account. Facts come in the order of the log, from its first one on; one that was observed already is
// passed over. It never waits for a destination.
func (t *Telemetry) Observe(seq uint64, fact *event.Fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq <= t.seen {
		return
	}
	t.seen = seq
	var spans []sdktrace.ReadOnlySpan
	if t.exports {
		t.state.apply(fact)
		spans = t.ended.take()
	}
	for _, s := range t.sinks {
		s.offer(seq, spans)
	}
}

// Flush returns when all that was observed is exported and remembered as such, or with the reason why it is not when ctx ends.
func (t *Telemetry) Flush(ctx context.Context) error {
	var failures []error
	for _, s := range t.sinks {
		failures = append(failures, s.flush(ctx))
	}
	return errors.Join(failures...)
}

// Shutdown exports what is queued, trying each destination once more, and closes them. What ctx leaves no time for is reported, and
// exported after the next start, as the cursor is before it. Nothing is observed after Shutdown.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	failures := make([]error, len(t.sinks))
	var all sync.WaitGroup
	for i, s := range t.sinks {
		all.Go(func() { failures[i] = s.shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(append(failures, t.provider.Shutdown(ctx))...)
}

// collector is the SDK's last station: it holds the spans that ended until Observe takes them.
type collector struct{ spans []sdktrace.ReadOnlySpan }

func (*collector) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c *collector) OnEnd(span sdktrace.ReadOnlySpan)              { c.spans = append(c.spans, span) }
func (*collector) Shutdown(context.Context) error                  { return nil }
func (*collector) ForceFlush(context.Context) error                { return nil }

func (c *collector) take() []sdktrace.ReadOnlySpan {
	spans := c.spans
	c.spans = nil
	return spans
}
