package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// hostile are texts that a sender or a destination can get into the log.
var hostile = []string{
	"\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\n",
	"carriage\rreturn",
	"\x1b[2J\x1b[31mred",
	"line\u2028separator\u2029",
	"\x00nul",
	"not utf-8 \xff\xfe",
	strings.Repeat("ü", 1<<20),
}

// logged returns what a logger wrote in f.
func logged(level, format string, f func(*slog.Logger)) string {
	var out bytes.Buffer
	logTo(&out, level, format, f)
	return out.String()
}

// logTo runs f with a logger that writes to w, and waits until all is written.
func logTo(w io.Writer, level, format string, f func(*slog.Logger)) {
	q := NewQueue(w)
	f(NewLogger(q, level, format))
	q.Close(context.Background())
}

// TestLog_B122_OneLineARecord checks that a record of the log is one line without control
// characters, whatever its values hold.
func TestLog_B122_OneLineARecord(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		for i, value := range hostile {
			t.Run(fmt.Sprintf("%s/%d", format, i), func(t *testing.T) {
				out := logged("info", format, func(log *slog.Logger) {
					log.Info(value, "text", value, "error", errors.New(value), "slice", []string{value}, slog.Group("g", "inner", value))
				})
				if n := strings.Count(out, "\n"); n != 1 || !strings.HasSuffix(out, "\n") {
					t.Fatalf("%d lines: %q", n, out)
				}
				for _, r := range strings.TrimSuffix(out, "\n") {
					if r < ' ' || r == '\u2028' || r == '\u2029' {
						t.Errorf("control character %q in the line", r)
					}
				}
				if format == "json" {
					checkFields(t, []byte(out))
				}
			})
		}
	}
}

// checkFields fails when a line is not one JSON object whose texts are at most maxValue
// long. Bytes that are no UTF-8 count once, though they are written as U+FFFD, three bytes long.
func checkFields(t *testing.T, line []byte) {
	t.Helper()
	var record map[string]any
	if err := json.Unmarshal(line, &record); err != nil {
		t.Fatalf("not JSON: %v: %q", err, line)
	}
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(key+"."+k, inner)
			}
		case string:
			if n := len(v) - 2*strings.Count(v, "\uFFFD"); n > maxValue {
				t.Errorf("%s has %d bytes", key, n)
			}
		}
	}
	walk("", record)
}

func TestCut(t *testing.T) {
	for n := maxValue - 5; n < maxValue+50; n++ {
		in := strings.Repeat("a", n%3) + strings.Repeat("ü", n)
		got := cut(in)
		if len(got) > maxValue || !utf8.ValidString(got) {
			t.Fatalf("cut of %d bytes: %d bytes, valid %t", len(in), len(got), utf8.ValidString(got))
		}
	}
	if got := cut("short"); got != "short" {
		t.Errorf("cut(short) = %q", got)
	}
}

type redacted struct{ v string }

func (redacted) LogValue() slog.Value         { return slog.StringValue("***") }
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }

type named string

// hiding redacts itself to JSON only.
type hiding struct{ v string }

func (hiding) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }

type panicking struct{}

func (*panicking) Error() string { panic("no text") }

// TestLog_S23_Values checks that values of the log are redacted by their type, times are UTC,
// and a value that panics does not end the process.
func TestLog_S23_Values(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	out := logged("debug", "json", func(log *slog.Logger) {
		log.Debug("values",
			"secret", redacted{"hunter2"}, "hidden by JSON", hiding{"hunter2"}, "code", named("E1007"), "pointed at", new(named), "inside", struct{ S redacted }{redacted{"hunter2"}}, "hidden", struct{ s string }{"hunter2"},
			"at", at, "took", 1500*time.Millisecond, "panic", error((*panicking)(nil)), "nil", nil, "n", 7)
	})
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "hunter2") {
		t.Errorf("a secret is in the log: %s", out)
	}
	want := map[string]any{"secret": "***", "hidden by JSON": "***", "code": "E1007", "pointed at": "", "inside": `{"S":"***"}`, "at": "2026-03-01T11:00:00Z", "took": "1.5s", "panic": "!PANIC: no text", "nil": "null", "n": 7.0, "level": "DEBUG"}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s = %v, want %v", k, got[k], w)
		}
	}
}

func TestLogLevel(t *testing.T) {
	for _, tc := range []struct {
		level string
		want  slog.Level
	}{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}, {"?", slog.LevelInfo}} {
		logTo(io.Discard, tc.level, "json", func(log *slog.Logger) {
			if !log.Enabled(t.Context(), tc.want) || log.Enabled(t.Context(), tc.want-1) {
				t.Errorf("level %q does not begin at %v", tc.level, tc.want)
			}
		})
	}
}
