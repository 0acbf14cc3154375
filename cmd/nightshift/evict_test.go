package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// exampleFiles is how many files the examples work on.
const exampleFiles = 100

// expected holds what the example publishes, made by its executable alone, with no Nightshift about it.
var expected = sync.OnceValues(func() (map[string]string, error) {
	dir, err := os.MkdirTemp("", "nightshift-expected")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// Two at a time, until nothing is left to do.
	var workers sync.WaitGroup
	failures := make(chan error, 2)
	for range 2 {
		workers.Go(func() {
			for {
				worker := exec.Command(built.processor)
				worker.Env = append(os.Environ(), "DATA_PROCESSOR_OUTPUT="+dir)
				out, err := worker.CombinedOutput()
				if err != nil || strings.Contains(string(out), "nothing left") {
					failures <- err
					return
				}
			}
		})
	}
	workers.Wait()
	for range 2 {
		if err := <-failures; err != nil {
			return nil, err
		}
	}
	return readReports(dir)
})

// checkReports holds published reports against what they must be, byte for byte.
func (w *world) checkReports(dir string) {
	w.t.Helper()
	want, err := expected()
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := readReports(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(want) != exampleFiles || len(got) != exampleFiles {
		w.t.Errorf("%d reports were published, %d expected, want %d", len(got), len(want), exampleFiles)
	}
	for name, text := range want {
		if got[name] != text {
			w.t.Errorf("the report %s is not what the executable publishes by itself", name)
		}
	}
}

var (
	interrupted = regexp.MustCompile(`(?m)^interrupted in the middle of (\S+) after `)
	published   = regexp.MustCompile(`(?m)^published (\S+) in `)
)

// The example with its manifest unchanged: nodes are taken away under it, and one trace shows everything.
func TestEvictedAttemptsAreFinishedElsewhereAndTheOutputIsTheSame(t *testing.T) {
	w := newWorld(t)
	run := w.nightshift("run", "-f", w.example("data-processing"), "--image", "data-processor:v1="+built.processor, "--data-dir", "state",
		"--nodes", "3", "--evict-every", "8s", "--trace-file", "trace.jsonl", "-o", "json")
	run.mustEnd(0)
	got := run.result()
	if got.Status != "Complete" || got.Succeeded != exampleFiles || got.Failed != 0 || got.Evicted < 5 {
		t.Errorf("the run came to %+v, want all complete, none failed, and evictions", got)
	}
	w.checkReports(w.path("out"))

	spans := w.spans("trace.jsonl")
	nodes := checkTrace(t, spans, got)
	logs := w.podLogs(w.path("state"), "default", got.UID)
	publishedOn := make(map[string]string) // file -> node
	for pod, log := range logs {
		for _, found := range published.FindAllStringSubmatch(log, -1) {
			publishedOn[found[1]] = nodes[pod]
		}
	}
	count := 0
	for pod, log := range logs {
		found := interrupted.FindStringSubmatch(log)
		if found == nil {
			continue
		}
		count++
		if by := publishedOn[found[1]]; by == "" || by == nodes[pod] {
			t.Errorf("%s was interrupted on %s and finished on %q, want another node", found[1], nodes[pod], by)
		}
	}
	if count < 5 {
		t.Errorf("%d attempts got SIGTERM in the middle of a file, want at least 5", count)
	}
	t.Logf("note: %d of %d evicted attempts were in the middle of a file; each was finished on another node", count, got.Evicted)
}

// example is the path of an example's manifest.
func (w *world) example(name string) string {
	w.t.Helper()
	path, err := filepath.Abs("../../examples/" + name + "/job.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// span is what this test reads of one.
type span struct {
	TraceID, SpanID, ParentSpanID, Name string
	Attributes                          []struct {
		Key   string
		Value struct {
			StringValue, IntValue *string
			BoolValue             *bool
		}
	}
}

// attribute gives a span's attribute as text, "" if it has none.
func (s *span) attribute(key string) string {
	for _, attribute := range s.Attributes {
		if attribute.Key != key {
			continue
		}
		switch value := attribute.Value; {
		case value.StringValue != nil:
			return *value.StringValue
		case value.IntValue != nil:
			return *value.IntValue
		case value.BoolValue != nil && *value.BoolValue:
			return "true"
		}
		return "false"
	}
	return ""
}

// spans reads a trace file: each line is one export request.
func (w *world) spans(file string) (spans []span) {
	w.t.Helper()
	text, err := os.ReadFile(w.path(file))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var request struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
		}
		if err := json.Unmarshal([]byte(line), &request); err != nil {
			w.t.Fatalf("a line of the trace file is not an export request: %v\n%s", err, line)
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}
	return spans
}

// checkTrace holds the spans of one run against its result, and returns the node of each pod.
func checkTrace(t *testing.T, spans []span, got result) (nodes map[string]string) {
	t.Helper()
	nodes = make(map[string]string)
	ids := make(map[string]bool)
	root, evicted, succeeded := "", 0, 0
	for _, s := range spans {
		if ids[s.SpanID] {
			t.Errorf("span %s is there twice", s.SpanID)
		}
		ids[s.SpanID] = true
		if s.TraceID != got.TraceID {
			t.Errorf("span %s is of trace %s, not of the run's, %s", s.Name, s.TraceID, got.TraceID)
		}
		switch s.Name {
		case "job":
			root = s.SpanID
		case "attempt":
			nodes[s.attribute("nightshift.pod.uid")] = s.attribute("nightshift.node")
			if s.attribute("nightshift.node") == "" || s.attribute("nightshift.cost_micros") == "" {
				t.Errorf("attempt %s has no node or no cost", s.attribute("nightshift.pod.name"))
			}
			if s.attribute("nightshift.evicted") == "true" {
				evicted++
			} else if s.attribute("nightshift.outcome") == "succeeded" {
				succeeded++
			}
		}
	}
	for _, s := range spans {
		if (s.Name == "attempt" && s.ParentSpanID != root) || (s.ParentSpanID != "" && !ids[s.ParentSpanID]) {
			t.Errorf("the parent of span %s, %q, does not resolve", s.SpanID, s.ParentSpanID)
		}
	}
	if root == "" || evicted != got.Evicted || succeeded != got.Succeeded {
		t.Errorf("the trace shows root %q, %d evicted and %d succeeded attempts; the run had %d and %d", root, evicted, succeeded, got.Evicted, got.Succeeded)
	}
	return nodes
}
