package telemetry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// traceFile is an otlptrace.Client that appends each export request as one line of OTLP JSON to a file
// (https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/). A line is there whole and durable, or an error is returned.
type traceFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	file *os.File
}

// requestStart is how every line begins.
const requestStart = `{"resourceSpans":`

// Start opens the file, which is made if it is not there, and takes off a line that a crash broke off.
func (f *traceFile) Start(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the trace file: %w", err)
	}
	if err := f.mend(file); err != nil {
		return fmt.Errorf("trace file %s: %w", f.path, errors.Join(err, file.Close()))
	}
	f.file = file
	return nil
}

func (f *traceFile) mend(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return err
	}
	whole, err := endOfLastLine(file, info.Size())
	if err != nil || whole == info.Size() {
		return err
	}
	start := make([]byte, min(int64(len(requestStart)), info.Size()-whole))
	if _, err := file.ReadAt(start, whole); err != nil {
		return err
	}
	if !strings.HasPrefix(requestStart, string(start)) {
		return errors.New("its last line has no end and is no export request; name another file")
	}
	f.log.Warn("the trace file ended within a line, which is taken off; its spans are exported again", "file", f.path, "bytes", info.Size()-whole)
	return file.Truncate(whole)
}

// endOfLastLine returns the offset after the last line end, 0 if there is none.
func endOfLastLine(file *os.File, size int64) (int64, error) {
	const block = 64 << 10
	buffer := make([]byte, block)
	for end := size; end > 0; {
		from := max(0, end-block)
		part := buffer[:end-from]
		if _, err := file.ReadAt(part, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// Stop closes the file.
func (f *traceFile) Stop(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

// UploadTraces appends one line. After an error the file is as it was.
func (f *traceFile) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	line, err := encodeLine(&collectorpb.ExportTraceServiceRequest{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("trace file %s: %w", f.path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return fmt.Errorf("trace file %s: %w", f.path, os.ErrClosed)
	}
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("trace file: %w", err)
	}
	_, err = f.file.Write(line)
	if info.Mode().IsRegular() {
		if err == nil {
			err = f.file.Sync()
		}
		if err != nil {
			err = errors.Join(err, f.file.Truncate(info.Size()))
		}
	}
	if err != nil {
		return fmt.Errorf("trace file: %w", err)
	}
	return nil
}

// encodeLine writes OTLP JSON, which is proto3 JSON but for ids, which are hex, and enums, which are numbers
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). The same request gives the same bytes.
func encodeLine(request *collectorpb.ExportTraceServiceRequest) ([]byte, error) {
	encoded, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(request)
	if err != nil {
		return nil, err
	}
	// Numbers stay as they are written.
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	for _, resource := range each(document, "resourceSpans") {
		for _, scope := range each(resource, "scopeSpans") {
			for _, span := range each(scope, "spans") {
				for _, holder := range append(each(span, "links"), span) {
					if err := idsToHex(holder); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		return nil, err
	}
	return line.Bytes(), nil
}

// each returns the objects in the list at key.
func each(object map[string]any, key string) []map[string]any {
	list, _ := object[key].([]any)
	objects := make([]map[string]any, 0, len(list))
	for _, item := range list {
		if object, ok := item.(map[string]any); ok {
			objects = append(objects, object)
		}
	}
	return objects
}

func idsToHex(object map[string]any) error {
	for _, key := range []string{"traceId", "spanId", "parentSpanId"} {
		id, ok := object[key].(string)
		if !ok {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(id)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		object[key] = hex.EncodeToString(raw)
	}
	return nil
}
