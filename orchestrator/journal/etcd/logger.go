package etcd

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quiet are etcd's warnings at every start that mean nothing for a server without listeners, users or peers.
var quiet = [...]string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
}

// newZap returns a zap logger that passes what etcd warns of to log.
func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(&slogCore{log: log.With("component", "etcd")})
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
	if c.Enabled(entry.Level) && !slices.Contains(quiet[:], entry.Message) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
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
