package telemetry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP trace collector on the loopback, over gRPC or HTTP.
type receiver struct {
	collectorpb.UnimplementedTraceServiceServer

	mu       sync.Mutex
	requests []*collectorpb.ExportTraceServiceRequest
	// refusing makes it answer Unavailable; refused tells of each time, if it is not nil.
	refusing bool
	refused  chan struct{}
	// partial is answered with each success; nil says that all was taken.
	partial *collectorpb.ExportTracePartialSuccess
	// authorization is what the requests' header of this name said.
	authorization []string
}

func (r *receiver) Export(ctx context.Context, request *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusing {
		select {
		case r.refused <- struct{}{}:
		default:
		}
		return nil, status.Error(codes.Unavailable, "the collector is away")
	}
	r.requests = append(r.requests, request)
	r.authorization = append(r.authorization, metadata.ValueFromIncomingContext(ctx, "authorization")...)
	return &collectorpb.ExportTraceServiceResponse{PartialSuccess: r.partial}, nil
}

func (r *receiver) refuse(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusing = yes
}

func (r *receiver) spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return spansOf(r.requests...)
}

func spansOf(requests ...*collectorpb.ExportTraceServiceRequest) []*tracepb.Span {
	var spans []*tracepb.Span
	for _, request := range requests {
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				spans = append(spans, scope.GetSpans()...)
			}
		}
	}
	return spans
}

// quiet clears the variables that the machine may have set.
func quiet(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func overGRPC(t *testing.T) *receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, server := &receiver{refused: make(chan struct{}, 1)}, grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, r)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		// A test that ends at once can stop it before it serves.
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	quiet(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	return r
}

func overHTTP(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		message := new(collectorpb.ExportTraceServiceRequest)
		if err == nil {
			err = proto.Unmarshal(body, message)
		}
		if err != nil || request.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", request.URL.Path, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		ctx := metadata.NewIncomingContext(request.Context(), metadata.Pairs("authorization", request.Header.Get("Authorization")))
		response, err := r.Export(ctx, message)
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		answer, err := proto.Marshal(response)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		if _, err := w.Write(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	quiet(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return r
}

var hexID = regexp.MustCompile(`"(?:traceId|spanId|parentSpanId)":"([^"]*)"`)

// readFile reads a trace file back: hex ids to the base64 of proto3 JSON, then strictly.
func readFile(t *testing.T, path string) []*tracepb.Span {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) {
		t.Errorf("%s does not end with a line end", path)
	}
	var requests []*collectorpb.ExportTraceServiceRequest
	for line := range strings.Lines(string(content)) {
		line = hexID.ReplaceAllStringFunc(line, func(field string) string {
			name, id, _ := strings.Cut(field, ":")
			raw, err := hex.DecodeString(strings.Trim(id, `"`))
			if err != nil || len(raw) != 8 && len(raw) != 16 {
				t.Errorf("%s is no hex id", field)
			}
			return name + `:"` + base64.StdEncoding.EncodeToString(raw) + `"`
		})
		request := new(collectorpb.ExportTraceServiceRequest)
		if err := protojson.Unmarshal([]byte(line), request); err != nil {
			t.Fatalf("line %s: %v", line, err)
		}
		requests = append(requests, request)
	}
	return spansOf(requests...)
}

// book is a logger that keeps what it is told.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *book) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), part)
}
