package telemetry

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const sample = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestContinueKeepsTheTrace(t *testing.T) {
	for in, flags := range map[string]string{
		sample:                                 "01",
		sample[:53] + "00":                     "00",
		sample[:53] + "ff":                     "01", // unknown flags are sent as zero
		sample[:53] + "02":                     "00",
		"cc" + sample[2:]:                      "01", // a later version, read as far as ours goes
		"cc" + sample[2:] + "-what-comes-then": "01",
	} {
		got := Continue(in)
		if !validTraceparent(got) || got[:36] != sample[:36] || got[53:] != flags {
			t.Errorf("Continue(%s) = %s, want flags %s in the same trace", in, got, flags)
		}
		if got[36:52] == in[36:52] {
			t.Errorf("Continue(%s) has the parent's span id", in)
		}
	}
}

func TestContinueBeginsANewTrace(t *testing.T) {
	for _, in := range []string{
		"", "00", sample[:54], sample + "0", sample + "-more",
		"ff" + sample[2:],
		"0g" + sample[2:],
		"cc" + sample[2:] + ".more",
		strings.ToUpper(sample),
		"00-" + strings.Repeat("0", 32) + sample[35:],
		sample[:36] + strings.Repeat("0", 16) + sample[52:],
		sample[:53] + "0x",
		strings.Replace(sample, "-", "_", 1),
		strings.Repeat("é", 30),
	} {
		got := Continue(in)
		if !validTraceparent(got) || got[3:35] == sample[3:35] || got[53:] != "00" {
			t.Errorf("Continue(%q) = %s, want a new trace, not sampled", in, got)
		}
	}
}

func TestContinueIsAlwaysValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.StringMatching(`[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?`)).Draw(t, "traceparent")
		got := Continue(in)
		if !validTraceparent(got) || got[:3] != "00-" {
			t.Fatalf("Continue(%q) = %q", in, got)
		}
		if validTraceparent(in) != (len(in) > 35 && got[3:35] == in[3:35]) {
			t.Fatalf("Continue(%q) = %q", in, got)
		}
	})
}

func BenchmarkContinue(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Continue(sample)
	}
}

// collector returns an OTLP destination that keeps the requests that it receives.
func collector(t *testing.T) (url string, got chan []byte) {
	got = make(chan []byte, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" && r.URL.Path != "/v1/metrics" {
			t.Errorf("export to %s: %v", r.URL.Path, err)
		}
		got <- body
	}))
	t.Cleanup(server.Close)
	return server.URL, got
}

func TestTracingExportsSpans(t *testing.T) {
	url, got := collector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	t.Setenv("OTEL_SERVICE_NAME", "my-kapsel")
	shutdown, err := StartTracing(t.Context(), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	child, end := Span(sample, "deliver")
	end(errors.New("refused"), slog.String("endpoint_id", "ep_1"), slog.Int("number", 3), slog.Any("secret", redacted{"hunter2"}))
	if child[:36] != sample[:36] || !validTraceparent(child) || child[53:] != "01" {
		t.Errorf("child %s of %s", child, sample)
	}
	if unsampled, end := Span(sample[:53]+"00", "quiet"); unsampled[53:] != "00" {
		t.Errorf("child %s of an unsampled trace", unsampled)
	} else {
		end(nil)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := <-got
	span, err := hex.DecodeString(child[36:52])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]byte{span, []byte("deliver"), []byte("refused"), []byte("my-kapsel"), []byte("1.2.3"), []byte("ep_1"), []byte("***")} {
		if !bytes.Contains(body, want) {
			t.Errorf("export lacks %q", want)
		}
	}
	for _, unwanted := range []string{"quiet", "hunter2"} {
		if bytes.Contains(body, []byte(unwanted)) {
			t.Errorf("export has %q", unwanted)
		}
	}
	if after, _ := Span(sample, "after"); after[53:] != "01" || after[:36] != sample[:36] {
		t.Errorf("after shutdown: child %s", after)
	}
}

func TestTracingIsOffByDefault(t *testing.T) {
	url, got := collector(t)
	for _, env := range []map[string]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SDK_DISABLED": "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SDK_DISABLED": "", "OTEL_TRACES_EXPORTER": "none"},
	} {
		for k, v := range env {
			t.Setenv(k, v)
		}
		shutdown, err := StartTracing(t.Context(), "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		_, end := Span("", "nothing")
		end(nil)
		if err := shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 0 {
		t.Error("spans were exported")
	}
}
