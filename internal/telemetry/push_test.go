package telemetry

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestPushMetrics checks that metrics are exported under their names where the environment asks for it, and
// nowhere else; and that a failure is logged without what the collector answered.
func TestPushMetrics(t *testing.T) {
	registry := NewRegistry()
	counted := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kapsel_test_total", Help: "Tests."}, []string{"outcome"})
	counted.WithLabelValues("good").Add(7)
	registry.MustRegister(counted)
	push := func(t *testing.T, env map[string]string) {
		t.Helper()
		for name, value := range env {
			t.Setenv(name, value)
		}
		if err := CheckEnvironment(); err != nil {
			t.Fatal(err)
		}
		shutdown, err := PushMetrics(t.Context(), "1.2.3", registry)
		if err != nil {
			t.Fatal(err)
		}
		if err := shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, env := range map[string]map[string]string{
		"its own endpoint":          {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ""},
		"the endpoint for all":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_METRICS_EXPORTER": "otlp"},
		"its own endpoint, of otlp": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "", "OTEL_METRICS_EXPORTER": "otlp"},
	} {
		t.Run(name, func(t *testing.T) {
			url, got := collector(t)
			for name, value := range env {
				if value == "" && strings.Contains(name, "METRICS") {
					env[name] = url + "/v1/metrics"
				} else if value == "" {
					env[name] = url
				}
			}
			push(t, env)
			body := <-got
			for _, want := range []string{"kapsel_test_total", "outcome", "good", "kapsel_log_lines_lost_total", "kapsel", "1.2.3"} {
				if !bytes.Contains(body, []byte(want)) {
					t.Errorf("the export lacks %q", want)
				}
			}
		})
	}
	for name, env := range map[string]map[string]string{
		"traces alone": {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
		"none":         {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "", "OTEL_METRICS_EXPORTER": "none"},
		"disabled":     {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "", "OTEL_SDK_DISABLED": "true"},
	} {
		t.Run("not for "+name, func(t *testing.T) {
			url, got := collector(t)
			for name, value := range env {
				if value == "" {
					env[name] = url
				}
			}
			push(t, env)
			if len(got) > 0 {
				t.Error("metrics are exported")
			}
		})
	}
	t.Run("a collector that refuses", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "your key is hunter2", http.StatusUnauthorized)
		}))
		defer server.Close()
		log := logged("info", "json", func(to *slog.Logger) {
			defer AdoptLibraries(to)()
			push(t, map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": server.URL})
		})
		if want := `"msg":"cannot export metrics","error":"the collector answered 401"`; !strings.Contains(log, want) || strings.Contains(log, "hunter2") {
			t.Errorf("the log lacks %s or has the answer:\n%s", want, log)
		}
	})
}
