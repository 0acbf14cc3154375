package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// patience bounds what must happen in a test.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var impatient = limits{queued: 1 << 16, firstPause: time.Millisecond, longestPause: 4 * time.Millisecond, giveUpAfter: time.Hour}

func start(t *testing.T, options Options) *Telemetry {
	t.Helper()
	tel, err := New(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func observe(tel *Telemetry, facts []*event.Fact) {
	for i, fact := range facts {
		tel.Observe(uint64(i+1), fact)
	}
}

// export observes all facts and shuts down.
func export(t *testing.T, options Options, facts []*event.Fact) {
	t.Helper()
	tel := start(t, options)
	observe(tel, facts)
	if err := tel.Shutdown(patience(t)); err != nil {
		t.Fatal(err)
	}
}

func attributesOf(span *tracepb.Span) map[string]any {
	got := map[string]any{}
	for _, attribute := range span.GetAttributes() {
		switch value := attribute.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			got[attribute.GetKey()] = value.StringValue
		case *commonpb.AnyValue_IntValue:
			got[attribute.GetKey()] = value.IntValue
		case *commonpb.AnyValue_BoolValue:
			got[attribute.GetKey()] = value.BoolValue
		default:
			got[attribute.GetKey()] = fmt.Sprint(value)
		}
	}
	return got
}

func eventsOf(span *tracepb.Span) []string {
	var names []string
	for _, e := range span.GetEvents() {
		names = append(names, e.GetName())
	}
	return names
}

func byPod(spans []*tracepb.Span) map[string]*tracepb.Span {
	found := map[string]*tracepb.Span{}
	for _, span := range spans {
		uid, _ := attributesOf(span)["nightshift.pod.uid"].(string)
		found[uid] = span
	}
	return found
}

func TestAJobIsOneTraceWhoseParentsAllResolve(t *testing.T) {
	collected := overGRPC(t)
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	costs := prices{"pod-0a": 200, "pod-1a": 300, "pod-0b": 250, "pod-1b": 350}
	export(t, Options{TraceFile: file, ServiceVersion: "v0.1.0", Costs: costs}, night())

	spans := collected.spans()
	if len(spans) != 5 {
		t.Fatalf("%d spans, want 4 attempts and 1 job", len(spans))
	}
	ids := map[string]bool{}
	for _, span := range spans {
		ids[string(span.GetSpanId())] = true
		if got := hex.EncodeToString(span.GetTraceId()); got != TraceID("job-1") {
			t.Errorf("span %s is in trace %s", span.GetName(), got)
		}
	}
	for _, span := range spans {
		if root := span.GetName() == "job"; root != (len(span.GetParentSpanId()) == 0) || !root && !ids[string(span.GetParentSpanId())] {
			t.Errorf("span %s has the parent %x, which is not there", span.GetName(), span.GetParentSpanId())
		}
	}
	if sum := sha256.Sum256([]byte("job-1")); TraceID("job-1") != hex.EncodeToString(sum[:16]) {
		t.Errorf("trace id %s", TraceID("job-1"))
	}
	inFile := readFile(t, file)
	if !slices.EqualFunc(spans, inFile, func(a, b *tracepb.Span) bool { return proto.Equal(a, b) }) {
		t.Errorf("the file has %v\nand the collector %v", inFile, spans)
	}
	checkNight(t, byPod(spans))
}

// checkNight compares the spans of night with what its facts say.
func checkNight(t *testing.T, spans map[string]*tracepb.Span) {
	t.Helper()
	for pod, want := range map[string]map[string]any{
		"pod-0a": {"nightshift.job.uid": "job-1", "nightshift.tenant": "team-a", "nightshift.node": "node-1", "nightshift.instance_type": "sim.large",
			"nightshift.zone": "z2", "nightshift.market": "spot", "nightshift.index": int64(0), "nightshift.attempt": int64(0),
			"nightshift.evicted": true, "nightshift.outcome": "evicted", "nightshift.cost_micros": int64(200)},
		"pod-1a": {"nightshift.node": "node-2", "nightshift.market": "on-demand", "nightshift.evicted": false, "nightshift.outcome": "failed",
			"nightshift.exit_code": int64(7), "nightshift.restarts": int64(1), "nightshift.cost_micros": int64(300)},
		"pod-0b": {"nightshift.node": "node-2", "nightshift.index": int64(0), "nightshift.attempt": int64(1), "nightshift.outcome": "succeeded"},
		"pod-1b": {"nightshift.index": int64(1), "nightshift.cost_micros": int64(350)},
		"": {"nightshift.job.uid": "job-1", "nightshift.job.name": "night", "nightshift.tenant": "team-a", "nightshift.outcome": "Complete",
			"nightshift.cost_micros": int64(1200), "nightshift.on_demand_micros": int64(4000), "nightshift.evicted_micros": int64(200),
			"nightshift.attempts": int64(4), "nightshift.evictions": int64(1), "nightshift.currency": "USD"},
	} {
		got := attributesOf(spans[pod])
		for key, value := range want {
			if got[key] != value {
				t.Errorf("span of %q: %s is %v, want %v", pod, key, got[key], value)
			}
		}
	}
	for pod, want := range map[string][]string{
		"pod-0a": {"started", "interruption notice"}, "pod-1a": {"started", "restarted"}, "pod-0b": {"started"}, "": {"admitted", "started"},
	} {
		if got := eventsOf(spans[pod]); !slices.Equal(got, want) {
			t.Errorf("span of %q: events %q, want %q", pod, got, want)
		}
	}
	for pod, span := range spans {
		failed := span.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR
		if failed != (pod == "pod-1a") || failed && span.GetStatus().GetMessage() != "Error: exit status 7" {
			t.Errorf("span of %q: status %v", pod, span.GetStatus())
		}
	}
	// Bound as fact 17 and finished as fact 29; the root from fact 2 to the condition.
	if first := spans["pod-0a"]; first.GetStartTimeUnixNano() != nanos(17) || first.GetEndTimeUnixNano() != nanos(29) {
		t.Errorf("pod-0a from %d to %d", first.GetStartTimeUnixNano(), first.GetEndTimeUnixNano())
	}
	if second := spans["pod-0b"]; second.GetEndTimeUnixNano() != nanos(37)+5e8 {
		t.Errorf("pod-0b ends at %d, not at the time that its fact names", second.GetEndTimeUnixNano())
	}
	if root := spans[""]; root.GetStartTimeUnixNano() != nanos(2) || root.GetEndTimeUnixNano() != nanos(41) {
		t.Errorf("job from %d to %d", root.GetStartTimeUnixNano(), root.GetEndTimeUnixNano())
	}
}

func nanos(seconds int) uint64 {
	return uint64(dusk.Add(time.Duration(seconds) * time.Second).UnixNano())
}

func TestTheCollectorCanBeReachedByHTTPAndHasTheResource(t *testing.T) {
	collected := overHTTP(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=night")
	export(t, Options{ServiceVersion: "v0.1.0"}, night())
	if got := len(collected.spans()); got != 5 {
		t.Fatalf("%d spans, want 5", got)
	}
	got := map[string]string{}
	for _, attribute := range collected.requests[0].GetResourceSpans()[0].GetResource().GetAttributes() {
		got[attribute.GetKey()] = attribute.GetValue().GetStringValue()
	}
	for key, want := range map[string]string{"service.name": "nightshift", "service.version": "v0.1.0", "deployment.environment": "night"} {
		if got[key] != want {
			t.Errorf("resource %s is %q, want %q", key, got[key], want)
		}
	}
}

// Spans that other versions exported, and receipts that name a trace, must still be found.
func TestIDsAreTheSameInEveryVersion(t *testing.T) {
	got := []string{TraceID("job-1"), rootID("job-1").String(), attemptID("pod-0a").String()}
	want := []string{"026ab639c21df8aa80e5789370a9db1b", "8b524b776fd8a0c2", "299570dffe631cb4"}
	if !slices.Equal(got, want) {
		t.Errorf("ids %q, want %q", got, want)
	}
}

func TestTheSameFactsGiveTheSameBytes(t *testing.T) {
	quiet(t)
	var contents [2][]byte
	for i := range contents {
		file := filepath.Join(t.TempDir(), "trace.jsonl")
		tel := start(t, Options{TraceFile: file})
		for seq, fact := range night() {
			tel.Observe(uint64(seq+1), fact)
			// One line a fact, so that both runs cut their batches alike.
			if err := tel.Flush(patience(t)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tel.Shutdown(patience(t)); err != nil {
			t.Fatal(err)
		}
		var err error
		if contents[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if len(contents[0]) == 0 || string(contents[0]) != string(contents[1]) {
		t.Errorf("two files of the same facts differ:\n%s\n%s", contents[0], contents[1])
	}
}

func spanIDsOf(spans []*tracepb.Span) []string {
	var ids []string
	for _, span := range spans {
		ids = append(ids, hex.EncodeToString(span.GetTraceId())+"/"+hex.EncodeToString(span.GetSpanId())+"/"+hex.EncodeToString(span.GetParentSpanId()))
	}
	slices.Sort(ids)
	return ids
}

func TestAReplayAfterARestartAtAnyFactExportsTheRestAndNothingTwice(t *testing.T) {
	quiet(t)
	whole := filepath.Join(t.TempDir(), "trace.jsonl")
	facts := night()
	export(t, Options{TraceFile: whole}, facts)
	want := spanIDsOf(readFile(t, whole))
	for cut := range facts {
		dir := t.TempDir()
		file := filepath.Join(dir, "trace.jsonl")
		export(t, Options{TraceFile: file, Cursor: CursorDir(dir)}, facts[:cut])
		export(t, Options{TraceFile: file, Cursor: CursorDir(dir)}, facts)
		if got := spanIDsOf(readFile(t, file)); !slices.Equal(got, want) {
			t.Errorf("restarted after %d facts: spans\n%q\nwant\n%q", cut, got, want)
		}
	}
}

// lossy is a Cursor whose saves are lost, as by a crash between the export and the save.
type lossy struct{ Cursor }

func (lossy) Save(string, uint64) error { return errors.New("crashed before it was saved") }

func TestACrashBeforeTheCursorIsSavedRepeatsSpansWithTheSameIDs(t *testing.T) {
	quiet(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "trace.jsonl")
	var told book
	export(t, Options{TraceFile: file, Cursor: lossy{CursorDir(dir)}, Logger: told.logger()}, night())
	first := spanIDsOf(readFile(t, file))
	export(t, Options{TraceFile: file, Cursor: CursorDir(dir)}, night())
	export(t, Options{TraceFile: file, Cursor: CursorDir(dir)}, night())
	if got := spanIDsOf(readFile(t, file)); !slices.Equal(slices.Compact(slices.Clone(got)), first) || len(got) != 2*len(first) {
		t.Errorf("%d spans, want each of %d twice with its ids", len(got), len(first))
	}
	// Once for each destination, also the one that was not asked for.
	if got := told.count("cannot be remembered"); got != 2 {
		t.Errorf("the lost cursor was logged %d times", got)
	}
}

func TestADestinationThatIsAskedForLaterGetsNoHistory(t *testing.T) {
	quiet(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "trace.jsonl")
	first := night()
	export(t, Options{Cursor: CursorDir(dir)}, first)
	export(t, Options{Cursor: CursorDir(dir), TraceFile: file}, append(first, many(3)...))
	for _, span := range readFile(t, file) {
		if got := hex.EncodeToString(span.GetTraceId()); got != TraceID("job-n") {
			t.Errorf("a span of trace %s, which was over", got)
		}
	}
	if got := len(readFile(t, file)); got != 4 {
		t.Errorf("%d spans, want 4", got)
	}
}

func TestWhatTheLogDoesNotEndIsNotExported(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	facts := night()
	export(t, Options{TraceFile: file}, facts[:slices.IndexFunc(facts, func(f *event.Fact) bool { return f.GetReceiptIssued() != nil })])
	spans := readFile(t, file)
	if len(spans) != 4 {
		t.Errorf("%d spans, want the 4 attempts that ended", len(spans))
	}
	for _, span := range spans {
		if span.GetName() != "attempt" || attributesOf(span)["nightshift.job.uid"] != "job-1" {
			t.Errorf("span %v", span)
		}
	}
}

func TestStateOfWhatHasEndedIsForgotten(t *testing.T) {
	quiet(t)
	tel := start(t, Options{TraceFile: filepath.Join(t.TempDir(), "trace.jsonl")})
	observe(tel, night())
	if err := tel.Shutdown(patience(t)); err != nil {
		t.Fatal(err)
	}
	s := tel.state
	jobs, attempts, nodes := slices.Collect(maps.Keys(s.jobs)), slices.Collect(maps.Keys(s.attempts)), slices.Collect(maps.Keys(s.nodes))
	if !slices.Equal(jobs, []string{"job-3"}) || !slices.Equal(attempts, []string{"pod-x"}) || !slices.Equal(nodes, []string{"node-2"}) || len(s.launches) != 0 {
		t.Errorf("held are %q, %q, %q and %d launches", jobs, attempts, nodes, len(s.launches))
	}
	if held := len(s.nodes["node-2"].attempts); held != 1 {
		t.Errorf("node-2 holds %d attempts", held)
	}
}

func TestAFailingCollectorHoldsUpNobodyAndIsLoggedOnceEachWay(t *testing.T) {
	collected := overGRPC(t)
	collected.refuse(true)
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	var told book
	tel := start(t, Options{TraceFile: file, Logger: told.logger(), limits: impatient})
	observe(tel, night())
	for range 5 {
		<-collected.refused
	}
	if err := tel.sinks[0].flush(patience(t)); err != nil || len(readFile(t, file)) != 5 {
		t.Errorf("the file waits for the collector: %v", err)
	}
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tel.Flush(expired); err == nil || !strings.Contains(err.Error(), "5 spans are not exported") || !strings.Contains(err.Error(), "the collector is away") {
		t.Errorf("flush: %v", err)
	}
	collected.refuse(false)
	if err := tel.Flush(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := len(collected.spans()); got != 5 {
		t.Errorf("%d spans arrived, want 5", got)
	}
	if failed, again := told.count("cannot be exported"), told.count("exported again"); failed != 1 || again != 1 {
		t.Errorf("logged %d times that it fails and %d times that it works again", failed, again)
	}
	if err := tel.Shutdown(patience(t)); err != nil {
		t.Error(err)
	}
}

func TestWhatShutdownCannotExportIsReportedAndExportedAfterTheNextStart(t *testing.T) {
	collected := overGRPC(t)
	collected.refuse(true)
	dir := t.TempDir()
	tel := start(t, Options{Cursor: CursorDir(dir), limits: impatient, Logger: new(book).logger()})
	observe(tel, night())
	if err := tel.Shutdown(patience(t)); err == nil || !strings.Contains(err.Error(), "5 spans are not exported") {
		t.Errorf("shutdown: %v", err)
	}
	collected.refuse(false)
	export(t, Options{Cursor: CursorDir(dir)}, night())
	export(t, Options{Cursor: CursorDir(dir)}, night())
	if got := len(collected.spans()); got != 5 {
		t.Errorf("%d spans arrived, want 5", got)
	}
}

func TestShutdownEndsWithItsContextThoughTheCollectorHangs(t *testing.T) {
	quiet(t)
	// It takes connections and never answers.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	tel := start(t, Options{Logger: new(book).logger()})
	observe(tel, night())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := tel.Shutdown(ctx); err == nil {
		t.Error("nothing was exported and no error returned")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("shutdown took %s", took)
	}
}

func TestAFullQueueDropsTheOldestSpansAndSaysSo(t *testing.T) {
	collected := overGRPC(t)
	collected.refuse(true)
	var told book
	few := impatient
	few.queued = 10
	tel := start(t, Options{Logger: told.logger(), limits: few})
	facts := many(40)
	tel.Observe(1, facts[0])
	observe(tel, facts[:8])
	// The worker holds the first attempt from here on.
	<-collected.refused
	observe(tel, facts)
	collected.refuse(false)
	if err := tel.Flush(patience(t)); err != nil {
		t.Fatal(err)
	}
	spans := collected.spans()
	if len(spans) != 11 {
		t.Errorf("%d spans arrived, want the one in flight and the last 10", len(spans))
	}
	if last := spans[len(spans)-1]; last.GetName() != "job" || last.GetStatus().GetMessage() != "BackoffLimitExceeded: too many" {
		t.Errorf("the last one is %v, want the failed job", last)
	}
	if told.count("being dropped") != 1 || told.count("spans_lost=30") != 1 {
		t.Errorf("the log says %s", told.text.String())
	}
	if err := tel.Shutdown(patience(t)); err != nil {
		t.Error(err)
	}
}

func TestSpansThatAreRefusedForLongAreGivenUp(t *testing.T) {
	collected := overGRPC(t)
	collected.refuse(true)
	var told book
	short := impatient
	short.giveUpAfter = 20 * time.Millisecond
	tel := start(t, Options{Logger: told.logger(), limits: short})
	observe(tel, night())
	if err := tel.Flush(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := len(collected.spans()); got != 0 || told.count("being dropped") != 1 {
		t.Errorf("%d spans arrived; the log says %s", got, told.text.String())
	}
	if err := tel.Shutdown(patience(t)); err != nil {
		t.Error(err)
	}
}
