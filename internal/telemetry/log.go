// Package telemetry reports to the operator what Kapsel does: with the log, the metrics listener,
// health checks and traces. Other packages own their metrics, which their caller registers; they
// log with log/slog and do not import this package.
//
// A missing reader never stops or slows the process: a log line that cannot be written is counted
// and dropped, a trace that cannot be exported is dropped.
package telemetry

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"
)

// maxValue is the longest message or value in the log, in bytes.
const maxValue = 1 << 10

// NewLogger returns a logger that writes to a queue, one line per record, with times in UTC: JSON
// or, if format is "text", text for people. level is debug, info, warn or error. Callers must have
// validated both; an unknown level means info, an unknown format JSON. After the queue has lost
// lines, a line says how many.
//
// Messages and values longer than 1 KiB are cut, so that bytes from a sender or destination cannot
// flood the log. Secrets redact themselves: their types implement slog.LogValuer.
func NewLogger(q *Queue, level, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: tidy}
	var l slog.Level
	if l.UnmarshalText([]byte(level)) == nil {
		opts.Level = l
	}
	logger := func(w io.Writer) *slog.Logger {
		if format == "text" {
			return slog.New(slog.NewTextHandler(w, opts))
		}
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	q.mu.Lock()
	q.report = func(n uint64) []byte {
		var line bytes.Buffer
		logger(&line).Warn("lines of this log were lost here: its reader was too slow or gone, or its disk full", "lines", n)
		return line.Bytes()
	}
	q.mu.Unlock()
	return logger(q)
}

// tidy converts an attribute for the log: times to UTC, durations to text, texts to at most
// maxValue bytes.
func tidy(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindTime:
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	case slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	case slog.KindString:
		a.Value = slog.StringValue(cut(a.Value.String()))
	case slog.KindAny:
		if _, level := a.Value.Any().(slog.Level); !level {
			a.Value = slog.StringValue(cut(text(a.Value.Any())))
		}
	}
	return a
}

// text returns v as a string, by v's own method if it has one. If that panics, the string says so:
// logging must not end the process.
func text(v any) (s string) {
	defer func() {
		if r := recover(); r != nil {
			s = fmt.Sprintf("!PANIC: %v", r)
		}
	}()
	switch v := v.(type) {
	case nil:
		return "null"
	case error:
		return v.Error()
	case encoding.TextMarshaler:
		if b, err := v.MarshalText(); err == nil {
			return string(b)
		}
	case fmt.Stringer:
		return v.String()
	}
	// JSON rather than %+v: it omits unexported fields and calls the methods that redact.
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("!%T: %v", v, err)
	}
	// Undo the quotes of a JSON string: the log adds its own.
	if b[0] == '"' && json.Unmarshal(b, &s) == nil {
		return s
	}
	return string(b)
}

// cut shortens s to maxValue bytes, at the boundary of a rune, and appends the original length.
func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	mark := fmt.Sprintf("… (%d bytes)", len(s))
	end := maxValue - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	// Clone, so that the log does not keep a large body in memory.
	return strings.Clone(s[:end]) + mark
}
