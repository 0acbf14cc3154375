package telemetry

import (
	"context"
	"crypto/sha256"

	"go.opentelemetry.io/otel/trace"
)

// TraceID returns the id of a Job's trace, 32 hex digits: the first 16 bytes of the SHA-256 of its UID.
func TraceID(jobUID string) string { return traceID(jobUID).String() }

func traceID(jobUID string) trace.TraceID {
	sum := sha256.Sum256([]byte(jobUID))
	return trace.TraceID(sum[:16])
}

// rootID takes the bytes after those of the trace's id.
func rootID(jobUID string) trace.SpanID {
	sum := sha256.Sum256([]byte(jobUID))
	return trace.SpanID(sum[16:24])
}

func attemptID(podUID string) trace.SpanID {
	sum := sha256.Sum256([]byte(podUID))
	return trace.SpanID(sum[:8])
}

// givenIDs hands the SDK the ids that the context brings, where it would draw random ones.
type givenIDs struct{}

type idsKey struct{}

type spanIDs struct {
	trace trace.TraceID
	span  trace.SpanID
}

func withIDs(ctx context.Context, ids spanIDs) context.Context {
	return context.WithValue(ctx, idsKey{}, ids)
}

func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	ids := ctx.Value(idsKey{}).(spanIDs)
	return ids.trace, ids.span
}

func (givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	return ctx.Value(idsKey{}).(spanIDs).span
}
