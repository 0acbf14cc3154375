package telemetry

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
)

// collectorClient returns the client of the collector that the OTEL_ variables name, nil if they name none. The client reads the others of its
// variables (headers, certificates, timeout, compression) itself. Retries are the queue's, which knows when to stop.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func collectorClient() (otlptrace.Client, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		return nil, nil
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q; only otlp and none are supported", exporter)
	}
	endpoint, value := firstSet("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	if value == "" {
		return nil, nil
	}
	// The clients would log a URL they cannot use and go to localhost.
	if parsed, err := url.Parse(value); err != nil || parsed.Host == "" || (parsed.Scheme != "http" && parsed.Scheme != "https") {
		return nil, fmt.Errorf("%s is %q; it must be a URL such as http://HOST:4318", endpoint, value)
	}
	switch variable, protocol := firstSet("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "grpc":
		return otlptracegrpc.NewClient(otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false})), nil
	case "", "http/protobuf":
		return otlptracehttp.NewClient(otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false})), nil
	default:
		return nil, fmt.Errorf("%s is %q; only grpc and http/protobuf are supported", variable, protocol)
	}
}

// partialSuccess returns what a collector said that has taken a request and refused some of its spans, or warns; nil if err is something
// else. The clients make it an error whose type nobody else can name; it is known by its methods and how its text begins.
// https://opentelemetry.io/docs/specs/otlp/#partial-success
func partialSuccess(err error) error {
	var said interface {
		error
		As(any) bool
		Is(error) bool
	}
	if errors.As(err, &said) && strings.HasPrefix(said.Error(), "OTLP partial success: ") {
		return said
	}
	return nil
}

// firstSet returns the first of the variables that is not empty; the specification takes empty for unset.
func firstSet(variables ...string) (variable, value string) {
	for _, variable := range variables {
		if value := os.Getenv(variable); value != "" {
			return variable, value
		}
	}
	return "", ""
}
