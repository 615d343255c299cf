package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
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

func TestLog_B122_OneLineARecord(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		for i, value := range hostile {
			t.Run(fmt.Sprintf("%s/%d", format, i), func(t *testing.T) {
				var out bytes.Buffer
				log := NewLogger(&out, "info", format)
				log.Info(value, "text", value, "error", errors.New(value), "slice", []string{value}, slog.Group("g", "inner", value))
				if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 || !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
					t.Fatalf("%d lines: %q", n, out.String())
				}
				for _, r := range strings.TrimSuffix(out.String(), "\n") {
					if r < ' ' || r == '\u2028' || r == '\u2029' {
						t.Errorf("control character %q in the line", r)
					}
				}
				if format == "json" {
					checkFields(t, out.Bytes())
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

type panicking struct{}

func (*panicking) Error() string { panic("no text") }

func TestLog_S23_Values(t *testing.T) {
	var out bytes.Buffer
	log := NewLogger(&out, "debug", "json")
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	log.Debug("values",
		"secret", redacted{"hunter2"}, "inside", struct{ S redacted }{redacted{"hunter2"}}, "hidden", struct{ s string }{"hunter2"},
		"at", at, "took", 1500*time.Millisecond, "panic", error((*panicking)(nil)), "nil", nil, "n", 7)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("a secret is in the log: %s", out.String())
	}
	want := map[string]any{"secret": "***", "inside": `{"S":"***"}`, "at": "2026-03-01T11:00:00Z", "took": "1.5s", "panic": "!PANIC: no text", "nil": "null", "n": 7.0, "level": "DEBUG"}
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
		log := NewLogger(io.Discard, tc.level, "json")
		if !log.Enabled(t.Context(), tc.want) || log.Enabled(t.Context(), tc.want-1) {
			t.Errorf("level %q does not begin at %v", tc.level, tc.want)
		}
	}
}

// TestMain lets this binary be a process whose standard output has lost its reader.
func TestMain(m *testing.M) {
	if os.Getenv("KAPSEL_TEST_LOG_TO_STDOUT") != "" {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has closed the reader
		log := NewLogger(os.Stdout, "info", "json")
		log.Info("one")
		log.Info("two")
		if linesLost.Load() != 2 {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLog_FG6_ReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KAPSEL_TEST_LOG_TO_STDOUT=1")
	cmd.Stdout = w
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process that lost its log's reader: %v", err)
	}
}

func TestLog_FG6_DiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	before := linesLost.Load()
	NewLogger(full, "info", "json").Info("lost")
	if got := linesLost.Load() - before; got != 1 {
		t.Errorf("%d lines lost, want 1", got)
	}
}

// shortWriter takes room bytes, then fails as a full disk does.
type shortWriter struct {
	bytes.Buffer
	room int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n, _ := w.Buffer.Write(p[:min(len(p), w.room)])
	w.room -= n
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

func TestLog_FG6_TornLine(t *testing.T) {
	w := &shortWriter{room: 20}
	log := NewLogger(w, "info", "json")
	log.Info("torn")
	log.Info("lost")
	w.room = 1 << 20
	log.Info("whole")
	lines := strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
	if len(lines) != 2 || len(lines[0]) != 20 {
		t.Fatalf("lines %q", lines)
	}
	checkFields(t, []byte(lines[1]))
}
