package e2e

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// span is a span as the collector of traces received it.
type span struct{ name, id, parent, trace string }

// TestTrace_FromSenderToDestination checks that a sender's trace goes on through ingest, its commit
// and the attempt, each a span that the process exports, and out to the destination.
func TestTrace_FromSenderToDestination(t *testing.T) {
	var mu sync.Mutex
	spans := map[string]span{} // by name
	otlp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var got collector.ExportTraceServiceRequest
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = proto.Unmarshal(body, &got)
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range got.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, s := range scope.Spans {
					spans[s.Name] = span{s.Name, hex.EncodeToString(s.SpanId), hex.EncodeToString(s.ParentSpanId), hex.EncodeToString(s.TraceId)}
				}
			}
		}
	}))
	defer otlp.Close()
	sent := make(chan string, 1)
	destination := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		sent <- r.Header.Get("Traceparent")
	}))
	defer destination.Close()

	w := newWorld(t, "", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8", "OTEL_EXPORTER_OTLP_ENDPOINT="+otlp.URL)
	ep := w.endpoint("traced", map[string]any{"url": destination.URL})
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	if status, code, _ := post(t, ep.IngestURL, map[string]string{"Traceparent": "00-" + trace + "-" + parent + "-01"}, strings.NewReader("x")); status != 200 {
		t.Fatalf("answered %d %s", status, code)
	}
	out := <-sent
	w.quiet()
	// A slow bucket of a histogram leads to a trace.
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, w.nodes[0].Metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kapsel_ingest_duration_seconds", "kapsel_delivery_attempt_duration_seconds", "kapsel_delivery_first_attempt_delay_seconds"} {
		if exemplar := regexp.MustCompile(name + `_bucket\{.*# \{trace_id="` + trace + `"\}`); !exemplar.Match(metrics) {
			t.Errorf("%s has no exemplar of the trace", name)
		}
	}
	if err := w.nodes[0].Term(); err != nil { // sends what it has not exported yet
		t.Fatal(err)
	}

	mu.Lock()
	defer mu.Unlock()
	ingest, commit, attempt := spans["ingest"], spans["commit"], spans["attempt"]
	for _, s := range []span{ingest, commit, attempt} {
		if s.trace != trace {
			t.Errorf("%+v is not of the sender's trace; all: %+v", s, spans)
		}
	}
	if ingest.parent != parent || commit.parent != ingest.id || attempt.parent != ingest.id {
		t.Errorf("the spans do not follow from each other: %+v", spans)
	}
	if want := "00-" + trace + "-" + attempt.id + "-01"; out != want {
		t.Errorf("the destination was sent %q, want %q", out, want)
	}
}
