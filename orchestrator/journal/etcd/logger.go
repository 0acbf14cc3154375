package etcd

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quiet are etcd's messages at a start that mean nothing for a server without listeners, users or peers, or right themselves.
var quiet = [...]struct {
	message string
	// cause must be in the error beside the message, if there is one.
	cause string
}{
	{"Running http and grpc server on single port. This is not recommended for production.", ""},
	{"simple token is not cryptographically signed", ""},
	// A new store has no term for a moment; etcd looks again some seconds later (monitorStorageVersion in etcd's server).
	{"Failed to detect schema version", "missing term information"},
	{"failed to update storage version", "missing term information"},
	// It counts what it has applied from nothing at a start, and so finds itself overloaded until the first entry is applied.
	{"failed to publish local member to cluster through raft", "too many requests"},
}

// isQuiet tells whether a message with these fields is one of those.
func isQuiet(message string, fields []zapcore.Field) bool {
	return slices.ContainsFunc(quiet[:], func(q struct{ message, cause string }) bool {
		if q.message != message {
			return false
		}
		return q.cause == "" || slices.ContainsFunc(fields, func(field zapcore.Field) bool {
			err, ok := field.Interface.(error)
			return ok && strings.Contains(err.Error(), q.cause)
		})
	})
}

// newZap returns a zap logger that passes what etcd warns of to log. What is fatal to etcd panics and does not just exit: at a start
// that can be told in an error, and later it ends the process with more than a number.
func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(&slogCore{log: log.With("component", "etcd")}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// slogCore is a zapcore.Core over slog, from warnings up.
type slogCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c *slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, fields: slices.Concat(c.fields, fields)}
}

func (c *slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if isQuiet(entry.Message, fields) {
		return nil
	}
	level := slog.LevelError
	if entry.Level == zapcore.WarnLevel {
		level = slog.LevelWarn
	}
	encoder := zapcore.NewMapObjectEncoder()
	var attrs []slog.Attr
	for _, field := range slices.Concat(c.fields, fields) {
		field.AddTo(encoder)
		// A field without a value of its own, as a namespace, leaves no entry.
		if value, ok := encoder.Fields[field.Key]; ok {
			attrs = append(attrs, slog.Any(field.Key, value))
		}
	}
	c.log.LogAttrs(context.Background(), level, entry.Message, attrs...)
	return nil
}

func (c *slogCore) Sync() error { return nil }
