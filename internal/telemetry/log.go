// Package telemetry is how Kapsel tells its operator what it does: the log, the metrics
// listener, health checks and traces. Packages own their metrics and hand them to the
// registry; they log with log/slog and know nothing of this package.
//
// Nothing here ends or slows the process when its reader goes away: a log line that cannot
// be written is counted and dropped, a trace that cannot be exported is dropped.
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

// maxValue is how many bytes of a message or a value reach the log.
const maxValue = 1 << 10

// NewLogger makes a logger that writes to a queue: one line a record, with the time in UTC, as
// JSON or, with format "text", for people. level is debug, info, warn or error. Settings are
// checked before; here an unknown level is info and an unknown format JSON. Once the queue has
// lost lines and works again, one line says how many.
//
// Messages and values longer than 1 KiB are cut, so that what a sender or a destination said
// cannot flood the log. Secrets redact themselves: their types implement slog.LogValuer.
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

// tidy makes an attribute fit for the log: times in UTC, text of at most maxValue bytes.
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

// text is v as one string, said by v itself when it can. A panic of v's method becomes part
// of the text: logging must not end the process.
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
	// JSON rather than %+v: it leaves out unexported fields, and redacting types answer it.
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("!%T: %v", v, err)
	}
	// What JSON writes as a string is one here, too: the log quotes it itself.
	if b[0] == '"' && json.Unmarshal(b, &s) == nil {
		return s
	}
	return string(b)
}

// cut shortens s to maxValue bytes, at a rune's boundary, and says how long it was.
func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	mark := fmt.Sprintf("… (%d bytes)", len(s))
	end := maxValue - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	// Clone: the log must not keep a large body alive.
	return strings.Clone(s[:end]) + mark
}
