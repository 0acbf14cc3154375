package plugin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
)

// tailLines is how many of a plugin's last plain lines are kept for an error message.
const tailLines = 10

// pluginLog passes on what a plugin writes to stderr. A line of slog's JSON, which is what Serve's logger writes, keeps its level
// and attributes; go-plugin's own lines ("@level", "@message") do too; any other line is a warning, and one of a panic an error.
type pluginLog struct {
	logger *slog.Logger

	mu   sync.Mutex
	last []string
}

func newPluginLog(logger *slog.Logger) *pluginLog { return &pluginLog{logger: logger} }

// newPluginLogger makes the logger of a plugin process, whose lines pluginLog reads. The host decides what it shows.
func newPluginLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// read passes lines on until the end of r.
func (l *pluginLog) read(r io.Reader) {
	reader := bufio.NewReaderSize(r, 64<<10)
	panicking := false
	for {
		line, err := reader.ReadSlice('\n')
		// A line longer than the buffer comes in pieces.
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			panicking = panicking || bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: "))
			l.line(line, panicking)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				l.logger.Error("cannot read the plugin's stderr", "error", err)
			}
			return
		}
	}
}

func (l *pluginLog) line(line []byte, panicking bool) {
	level, message, attrs, ok := parseLine(line)
	if !ok {
		level, message = slog.LevelWarn, string(line)
		if panicking {
			level = slog.LevelError
		}
	}
	if level >= slog.LevelWarn {
		l.keep(message, attrs)
	}
	l.logger.LogAttrs(context.Background(), level, message, attrs...)
}

// parseLine reads a JSON line of slog or hclog.
func parseLine(line []byte) (slog.Level, string, []slog.Attr, bool) {
	var fields map[string]any
	if line[0] != '{' || json.Unmarshal(line, &fields) != nil {
		return 0, "", nil, false
	}
	take := func(names ...string) string {
		for _, name := range names {
			if value, ok := fields[name].(string); ok {
				delete(fields, name)
				return value
			}
		}
		return ""
	}
	message := take(slog.MessageKey, "@message")
	if message == "" {
		return 0, "", nil, false
	}
	var level slog.Level
	if level.UnmarshalText([]byte(take(slog.LevelKey, "@level"))) != nil {
		level = slog.LevelInfo
	}
	take(slog.TimeKey, "@timestamp")
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	attrs := make([]slog.Attr, 0, len(names))
	for _, name := range names {
		attrs = append(attrs, slog.Any(name, fields[name]))
	}
	return level, message, attrs, true
}

func (l *pluginLog) keep(message string, attrs []slog.Attr) {
	for _, attr := range attrs {
		message += " " + attr.String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, message)
	if len(l.last) > tailLines {
		l.last = l.last[1:]
	}
}

// tail returns the last lines that were no mere information, as one.
func (l *pluginLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "; ")
}

// printed is where what a plugin's code prints after the handshake arrives; go-plugin carries it over the connection.
func (l *pluginLog) printed(stream string) io.Writer { return &printed{log: l, stream: stream} }

type printed struct {
	log    *pluginLog
	stream string
}

func (p *printed) Write(data []byte) (int, error) {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			p.log.logger.Warn(line, "stream", p.stream)
		}
	}
	return len(data), nil
}
