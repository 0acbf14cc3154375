package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a collector that is not ours has understood is what the trace file says, span by span, to the last attribute.
func TestACollectorGetsTheTraceThatTheFileHolds(t *testing.T) {
	t.Parallel()
	const gRPC, overHTTP = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
	const gzip, trusted = "OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_EXPORTER_OTLP_CERTIFICATE=cert.pem"
	for _, test := range []struct {
		name, server, scheme string
		env                  []string
		script               string
		status               int
		resource             []string
	}{
		{"over gRPC", "GRPC", "http", []string{gRPC}, "true", 0, []string{"service.name: Str(nightshift)"}},
		{"over HTTP, of a Job that fails", "HTTP", "http", []string{overHTTP}, "exit 7", 1, []string{"service.name: Str(nightshift)"}},
		{"over gRPC with TLS, compressed", "GRPC", "https", []string{gRPC, gzip, trusted, "OTEL_SERVICE_NAME=nights"}, "true", 0, []string{"service.name: Str(nights)"}},
		{"over HTTP with TLS, compressed, with attributes of the user's", "HTTP", "https",
			[]string{overHTTP, gzip, trusted, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=a%20test,service.name=nights"}, "true", 0,
			[]string{"service.name: Str(nights)", "deployment.environment.name: Str(a test)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			// What this machine exports to, if anything, is not the test's.
			w.env = slices.DeleteFunc(w.env, func(variable string) bool { return strings.HasPrefix(variable, "OTEL_") })
			otelcol := w.collector(test.scheme == "https")
			w.env = append(w.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+test.scheme+"://"+otelcol.address(test.server))
			w.env = append(w.env, test.env...)
			file := w.write("job.yaml", job("traced", test.script, "completionMode: Indexed", "completions: 3", "backoffLimit: 0"))
			run := w.nightshift("run", "-f", file, "--data-dir", "state", "--trace-file", "trace.jsonl", "-o", "json")
			run.mustEnd(test.status)
			checkTrace(t, w.spans("trace.jsonl"), run.result())

			want, got := w.spansAsTold("trace.jsonl"), otelcol.spansTold()
			if !slices.Equal(got, want) {
				t.Errorf("the collector got\n%s\nand the file holds\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, span := range got {
				for _, attribute := range test.resource {
					if !strings.Contains(span, "     -> "+attribute+"\n") {
						t.Errorf("the collector got a span whose resource lacks %q:\n%s", attribute, span)
					}
				}
			}
		})
	}
}

// otelcol is a real OpenTelemetry collector on free ports of the loopback, which writes what it gets to a file.
type otelcol struct{ *command }

// toldFile is where a collector writes.
const toldFile = "collected.txt"

// collector starts the otelcol on the PATH, and returns when it serves.
func (w *world) collector(withTLS bool) otelcol {
	w.t.Helper()
	path, err := exec.LookPath("otelcol")
	if err != nil {
		w.t.Fatal("no otelcol on the PATH: make test builds one, in .cache/bin")
	}
	tls := ""
	if withTLS {
		w.certify()
		tls = fmt.Sprintf(", tls: {cert_file: %q, key_file: %q}", w.path("cert.pem"), w.path("key.pem"))
	}
	config := w.write("otelcol.yaml", fmt.Sprintf(`receivers:
  otlp:
    protocols:
      grpc: {endpoint: "127.0.0.1:0"%[1]s}
      http: {endpoint: "127.0.0.1:0"%[1]s}
exporters:
  debug: {verbosity: detailed, use_internal_logger: false, output_paths: [%[2]q]}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
`, tls, w.path(toldFile)))
	c := otelcol{w.start(path, "--config", config)}
	c.awaitOutput(c.stderr, "Everything is ready")
	return c
}

var servesAt = regexp.MustCompile(`"Starting (GRPC|HTTP) server".*"endpoint":"([^"]+)"`)

// address is where the collector serves, GRPC or HTTP, by its log.
func (c otelcol) address(server string) string {
	c.w.t.Helper()
	for _, found := range servesAt.FindAllStringSubmatch(c.stderr.String(), -1) {
		if found[1] == server {
			return found[2]
		}
	}
	c.w.t.Fatalf("the collector does not say where it serves %s:\n%s", server, c.stderr)
	return ""
}

// certify makes a certificate for the loopback, which vouches for itself.
func (w *world) certify() {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	w.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// spansTold ends the collector in good order and returns what it wrote of each span, under its resource and its scope, sorted.
func (c otelcol) spansTold() (spans []string) {
	c.w.t.Helper()
	c.signal(syscall.SIGTERM)
	c.mustEnd(0)
	text, err := os.ReadFile(c.w.path(toldFile))
	if err != nil {
		c.w.t.Fatal(err)
	}
	var resource, scope, span string
	part := &resource
	end := func() {
		if span != "" {
			spans = append(spans, resource+scope+span)
		}
		span = ""
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "ResourceSpans #"):
			end()
			resource, part = "", &resource
		case strings.HasPrefix(line, "ScopeSpans #"):
			end()
			scope, part = "", &scope
		case strings.HasPrefix(line, "Span #"):
			end()
			part = &span
		case line == "\n" || strings.HasPrefix(line, "Traces\t"): // between requests
		default:
			*part += line
		}
	}
	end()
	slices.Sort(spans)
	return spans
}

// exportRequest is a line of a trace file, every field that we write.
type exportRequest struct {
	ResourceSpans []struct {
		SchemaURL  string
		Resource   struct{ Attributes attributes }
		ScopeSpans []struct {
			Scope struct{ Name, Version string }
			Spans []fullSpan
		}
	}
}

type fullSpan struct {
	TraceID, ParentSpanID, SpanID, Name string
	Kind                                int
	Flags                               int // the collector does not tell them
	StartTimeUnixNano, EndTimeUnixNano  string
	Status                              struct {
		Code    int
		Message string
	}
	Attributes attributes
	Events     []struct {
		Name, TimeUnixNano string
		Attributes         attributes
	}
}

type attributes []struct {
	Key   string
	Value struct {
		StringValue, IntValue *string
		BoolValue             *bool
	}
}

// spansAsTold reads a trace file strictly, and gives its spans in the words of the collector's debug exporter, sorted
// (go.opentelemetry.io/collector/exporter/debugexporter, internal/otlptext).
func (w *world) spansAsTold(file string) (spans []string) {
	w.t.Helper()
	text, err := os.ReadFile(w.path(file))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var request exportRequest
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&request); err != nil {
			w.t.Fatalf("a line of the trace file holds what this test does not compare: %v\n%s", err, line)
		}
		for _, resource := range request.ResourceSpans {
			about := "Resource SchemaURL: " + resource.SchemaURL + "\n" + resource.Resource.Attributes.told("", "Resource attributes")
			for _, scope := range resource.ScopeSpans {
				by := fmt.Sprintf("ScopeSpans SchemaURL: \nInstrumentationScope %s %s\n", scope.Scope.Name, scope.Scope.Version)
				for _, span := range scope.Spans {
					spans = append(spans, about+by+span.told(w.t))
				}
			}
		}
	}
	slices.Sort(spans)
	return spans
}

func (s fullSpan) told(t *testing.T) string {
	t.Helper()
	var told strings.Builder
	for _, field := range [][2]string{
		{"Trace ID", s.TraceID}, {"Parent ID", s.ParentSpanID}, {"ID", s.SpanID}, {"Name", s.Name},
		{"Kind", map[int]string{1: "Internal"}[s.Kind]},
		{"Start time", moment(t, s.StartTimeUnixNano)}, {"End time", moment(t, s.EndTimeUnixNano)},
		{"Status code", []string{"Unset", "Ok", "Error"}[s.Status.Code]}, {"Status message", s.Status.Message},
		{"DroppedAttributesCount", "0"}, {"DroppedEventsCount", "0"}, {"DroppedLinksCount", "0"},
	} {
		fmt.Fprintf(&told, "    %-15s: %s\n", field[0], field[1])
	}
	told.WriteString(s.Attributes.told("", "Attributes"))
	for i, event := range s.Events {
		if i == 0 {
			told.WriteString("Events:\n")
		}
		fmt.Fprintf(&told, "SpanEvent #%d\n     -> Name: %s\n     -> Timestamp: %s\n     -> DroppedAttributesCount: 0\n", i, event.Name, moment(t, event.TimeUnixNano))
		told.WriteString(event.Attributes.told("     ", "-> Attributes:"))
	}
	return told.String()
}

func moment(t *testing.T, unixNano string) string {
	t.Helper()
	at, err := strconv.ParseInt(unixNano, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, at).UTC().String()
}

func (a attributes) told(indent, header string) string {
	var told strings.Builder
	for i, attribute := range a {
		if i == 0 {
			fmt.Fprintf(&told, "%s%s:\n", indent, header)
		}
		value := "Empty()"
		switch v := attribute.Value; {
		case v.StringValue != nil:
			value = "Str(" + *v.StringValue + ")"
		case v.IntValue != nil:
			value = "Int(" + *v.IntValue + ")"
		case v.BoolValue != nil:
			value = fmt.Sprintf("Bool(%t)", *v.BoolValue)
		}
		fmt.Fprintf(&told, "%s     -> %s: %s\n", indent, attribute.Key, value)
	}
	return told.String()
}
