package telemetry

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

func TestOnlyWhatTheVariablesAskForIsDialled(t *testing.T) {
	for name, variables := range map[string]map[string]string{
		"no endpoint":     {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
		"the SDK is off":  {"OTEL_SDK_DISABLED": "true"},
		"no exporter":     {"OTEL_TRACES_EXPORTER": "none"},
		"only a protocol": {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			collected := overHTTP(t)
			for variable, value := range variables {
				t.Setenv(variable, value)
			}
			file := filepath.Join(t.TempDir(), "trace.jsonl")
			tel := start(t, Options{TraceFile: file})
			if tel.sinks[1].exporter != nil {
				t.Error("there is an exporter")
			}
			observe(tel, night())
			if err := tel.Shutdown(patience(t)); err != nil {
				t.Error(err)
			}
			if sent, kept := len(collected.spans()), len(readFile(t, file)); sent != 0 || kept != 5 {
				t.Errorf("%d spans sent and %d in the file, want none and 5", sent, kept)
			}
		})
	}
}

func TestHeadersThatTheVariablesNameReachTheCollector(t *testing.T) {
	for protocol, serve := range map[string]func(*testing.T) *receiver{"grpc": overGRPC, "http/protobuf": overHTTP} {
		t.Run(protocol, func(t *testing.T) {
			collected := serve(t)
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-night")
			export(t, Options{}, night())
			if len(collected.authorization) == 0 {
				t.Error("no request had the header")
			}
			for _, got := range collected.authorization {
				if got != "Bearer of-the-night" {
					t.Errorf("authorization is %q", got)
				}
			}
		})
	}
}

// A collector that takes part of a request has taken the request, and must not get it again
// (https://opentelemetry.io/docs/specs/otlp/#partial-success).
func TestWhatACollectorTakesInPartIsToldAndNotSentAgain(t *testing.T) {
	for protocol, serve := range map[string]func(*testing.T) *receiver{"grpc": overGRPC, "http/protobuf": overHTTP} {
		for answer, partial := range map[string]*collectorpb.ExportTracePartialSuccess{
			"some spans are refused": {RejectedSpans: 2, ErrorMessage: "over quota"},
			"all taken, a warning":   {ErrorMessage: "over quota"},
		} {
			t.Run(protocol+": "+answer, func(t *testing.T) {
				collected := serve(t)
				collected.partial = partial
				dir := t.TempDir()
				var told book
				tel := start(t, Options{Cursor: CursorDir(dir), Logger: told.logger(), limits: impatient})
				for seq, fact := range night() {
					tel.Observe(uint64(seq+1), fact)
					if err := tel.Flush(patience(t)); err != nil {
						t.Fatal(err)
					}
				}
				if err := tel.Shutdown(patience(t)); err != nil {
					t.Error(err)
				}
				export(t, Options{Cursor: CursorDir(dir), Logger: told.logger()}, night())
				if got := len(collected.spans()); got != 5 {
					t.Errorf("%d spans were sent, want 5", got)
				}
				if said, failed := told.count("over quota"), told.count("cannot be exported"); said != 1 || failed != 0 {
					t.Errorf("what the collector said is logged %d times, and as a failure %d times:\n%s", said, failed, told.text.String())
				}
			})
		}
	}
}

func TestSettingsThatCannotBeObeyedAreErrorsThatNameThem(t *testing.T) {
	for _, test := range []struct{ variable, value, problem string }{
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "only grpc and http/protobuf"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon", "carrier-pigeon"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317", "must be a URL"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://localhost", "must be a URL"},
		{"OTEL_TRACES_EXPORTER", "zipkin", "only otlp and none"},
	} {
		t.Run(test.variable+"="+test.value, func(t *testing.T) {
			overGRPC(t)
			t.Setenv(test.variable, test.value)
			_, err := New(context.Background(), Options{})
			if err == nil || !strings.Contains(err.Error(), test.variable) || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNothingIsDialledBeforeThereIsSomethingToExport(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		quiet(t)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dialled := make(chan bool, 1)
		go func() {
			connection, err := listener.Accept()
			if err == nil {
				_ = connection.Close()
			}
			dialled <- err == nil
		}()
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
		tel := start(t, Options{})
		observe(tel, night()[:20])
		if err := tel.Shutdown(patience(t)); err != nil {
			t.Error(err)
		}
		_ = listener.Close()
		if <-dialled {
			t.Errorf("%s: the collector was dialled for nothing", protocol)
		}
	}
}

func TestALineThatACrashBrokeOffIsTakenOffAndItsSpansComeAgain(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	export(t, Options{TraceFile: file}, many(2))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line := whole[:bytes.IndexByte(whole, '\n')]
	for _, cut := range []int{1, 5, 40, len(line)} {
		var told book
		if err := os.WriteFile(file, slices.Concat(whole, whole, line[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		export(t, Options{TraceFile: file, Logger: told.logger()}, many(2))
		if got := len(readFile(t, file)); got != 9 || told.count("ended within a line") != 1 {
			t.Errorf("cut after %d bytes: %d spans, want 9; the log says %s", cut, got, told.text.String())
		}
	}
}

func TestAFileThatIsNoTraceFileIsNotTouched(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(file, []byte("a line\nmy notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(context.Background(), Options{TraceFile: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "a line\nmy notes" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if _, err := New(context.Background(), Options{TraceFile: filepath.Join(file, "below")}); err == nil {
		t.Error("a file below a file was opened")
	}
}

func TestACursorThatCannotBeReadIsAnErrorAndNotAStartFromZero(t *testing.T) {
	quiet(t)
	dir := t.TempDir()
	if err := CursorDir(dir).Save(destinationFile, 42); err != nil {
		t.Fatal(err)
	}
	if seq, err := CursorDir(dir).Load(destinationFile); seq != 42 || err != nil {
		t.Errorf("loaded %d, %v", seq, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "trace-file.cursor"), []byte("4x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(context.Background(), Options{Cursor: CursorDir(dir)}); err == nil || !strings.Contains(err.Error(), "trace-file.cursor") {
		t.Errorf("error %v", err)
	}
}
