package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// fan makes n endpoints that subscribe to the ingest of another.
func fan(w *world, source harness.Endpoint, n int) (all []harness.Endpoint) {
	for i := range n {
		fields := map[string]any{"url": w.sink.URL(1000 + i), "subscriptions": []any{map[string]any{"source": source.ID}}}
		for name, value := range gentle {
			fields[name] = value
		}
		all = append(all, w.endpoint(fmt.Sprintf("subscriber %d", i), fields))
	}
	return all
}

// killAgain kills the first node several times, each time a moment after it has started.
func (w *world) killAgain(times int) {
	w.t.Helper()
	for range times {
		time.Sleep(300*time.Millisecond + time.Duration(rand.Int64N(int64(time.Second))))
		if err := w.nodes[0].Kill(); err != nil {
			w.t.Fatal(err)
		}
		if err := w.nodes[0].Start(w.ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

// deliveredTo counts the deliveries of the world's tenant that are delivered, by event and
// endpoint.
func (w *world) deliveredTo() map[string]map[string]int {
	w.t.Helper()
	counts := map[string]map[string]int{}
	for _, d := range list[delivery](w, "/v1/deliveries", url.Values{"tenant_id": {w.tenant}, "status": {"delivered"}}) {
		if counts[d.EventID] == nil {
			counts[d.EventID] = map[string]int{}
		}
		counts[d.EventID][d.EndpointID]++
	}
	return counts
}

// TestSubscribers_KillUnderLoad kills the process again and again while each event that it
// accepts goes to ten endpoints. All deliveries of an event are there or none, and of what
// was acknowledged each endpoint gets each event at least once.
func TestSubscribers_KillUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		w.sink.Script(flaky)
		source := w.endpoint("source", gentle)
		all := append(fan(w, source, 9), source)
		s := w.send(count(2, 8), source, 20*time.Millisecond)
		w.killAgain(count(2, 20))
		s.end()
		w.quiet()
		arrived := map[string]map[string]bool{} // at which address, by event
		for _, r := range w.sink.Requests() {
			if arrived[r.EventID] == nil {
				arrived[r.EventID] = map[string]bool{}
			}
			arrived[r.EventID][r.To.String()] = true
		}
		delivered := w.deliveredTo()
		for event, by := range delivered {
			if len(by) != len(all) {
				t.Errorf("event %s was delivered to %d of %d endpoints", event, len(by), len(all))
			}
		}
		for key, event := range s.events {
			if delivered[event] == nil {
				t.Errorf("event %s (key %s) was acknowledged and is not delivered", event, key)
			}
			if len(arrived[event]) != len(all) {
				t.Errorf("event %s (key %s) was acknowledged and arrived at %d of %d endpoints", event, key, len(arrived[event]), len(all))
			}
		}
		t.Logf("%d acknowledged, each to %d endpoints; %d requests", s.acked(), len(all), len(w.sink.Requests()))
	})
}

// TestSubscribers_Loop checks that an event that returns to an ingest URL that it has passed is
// refused there, however many endpoints it has passed: here ten on each side.
func TestSubscribers_Loop(t *testing.T) {
	// The way back leads over a proxy, as through a load balancer: a node's own address is blocked.
	var node *url.URL
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(node) }})
	defer proxy.Close()
	w := newWorld(t, "", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8:"+proxy.URL[strings.LastIndexByte(proxy.URL, ':')+1:])
	var err error
	if node, err = url.Parse(w.nodes[0].URL); err != nil {
		t.Fatal(err)
	}
	first := w.endpoint("first", map[string]any{"url": proxy.URL})
	second := w.endpoint("second", map[string]any{"url": proxy.URL})
	patch := func(ep harness.Endpoint, fields map[string]any) {
		t.Helper()
		if err := w.nodes[0].API(w.ctx, http.MethodPatch, "/v1/endpoints/"+ep.ID, fields, nil); err != nil {
			t.Fatal(err)
		}
	}
	back := func(ep harness.Endpoint) string { return proxy.URL + "/ingest/" + ep.ID }
	patch(first, map[string]any{"url": back(second)})
	patch(second, map[string]any{"url": back(first)})
	for i, source := range []harness.Endpoint{first, second} {
		for n := range 9 {
			w.endpoint(fmt.Sprintf("loop %d %d", i, n), map[string]any{
				"url": back([]harness.Endpoint{second, first}[i]), "subscriptions": []any{map[string]any{"source": source.ID}},
			})
		}
	}
	resp, err := client.Post(first.IngestURL, "application/json", strings.NewReader(`{}`))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	w.quiet()
	// One at the first, ten at the second; each of those goes back ten times and is refused.
	events := list[struct {
		EndpointID string `json:"endpoint_id"`
	}](w, "/v1/events", url.Values{"tenant_id": {w.tenant}})
	if len(events) != 11 {
		t.Errorf("%d events, want 11", len(events))
	}
	if failed := list[delivery](w, "/v1/deliveries", url.Values{"tenant_id": {w.tenant}, "status": {"failed"}}); len(failed) != 100 {
		t.Errorf("%d deliveries are refused, want 100", len(failed))
	}
}
