package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// TestDestination_Change checks that a time that a destination asked for with Retry-After keeps
// retries and tests from being sent, and that the API says so; that all waiting deliveries go out
// once the endpoint has another destination, also at another node; and that a shorter retry policy
// brings waiting deliveries forward.
func TestDestination_Change(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		asks := strings.TrimSuffix(strings.TrimPrefix(w.sink.URL(1), "http://"), "/hook")
		fails := strings.TrimSuffix(strings.TrimPrefix(w.sink.URL(2), "http://"), "/hook")
		w.sink.Script(func(r harness.SinkRequest) harness.Answer {
			switch r.To.String() {
			case asks:
				return harness.Answer{Status: 429, Header: []string{"Retry-After: 3600"}}
			case fails:
				return harness.Answer{Status: 500}
			}
			return harness.Answer{}
		})
		ep := w.endpoint("changes", map[string]any{"url": w.sink.URL(1)})
		if !w.sqlite {
			w.node()
		}
		s := w.send(0, ep, 0)
		for i := range 5 {
			s.post(w.ctx, fmt.Sprint("k-", i))
		}
		var shown struct {
			ThrottledUntil *string `json:"throttled_until"`
		}
		eventually(t, "the endpoint shows the hold", patience, func() bool {
			w.get("/v1/endpoints/"+ep.ID, &shown)
			return shown.ThrottledUntil != nil
		})
		var one delivery
		for _, d := range list[delivery](w, "/v1/deliveries", url.Values{"status": {"pending"}}) {
			one = d
		}
		for _, path := range []string{"/v1/deliveries/" + one.ID + "/retry", "/v1/endpoints/" + ep.ID + "/test"} {
			if err := w.nodes[0].API(w.ctx, http.MethodPost, path, nil, nil); err == nil || !strings.Contains(err.Error(), "E1010") {
				t.Errorf("%s: %v, want E1010", path, err)
			}
		}
		patch := func(fields map[string]any) {
			t.Helper()
			node := w.nodes[len(w.nodes)-1]
			if err := node.API(w.ctx, http.MethodPatch, "/v1/endpoints/"+ep.ID, fields, &shown); err != nil {
				t.Fatal(err)
			}
		}
		patch(map[string]any{"url": w.sink.URL(3)})
		if shown.ThrottledUntil != nil {
			t.Errorf("with another destination the endpoint is throttled until %s", *shown.ThrottledUntil)
		}
		w.quiet()

		patch(map[string]any{"url": w.sink.URL(2), "retry": map[string]any{"base": "1h", "max": "1h"}, "circuit": map[string]any{"enabled": false}})
		for i := range 5 {
			s.post(w.ctx, fmt.Sprint("m-", i))
		}
		eventually(t, "each was tried", patience, func() bool {
			return !slices.ContainsFunc(list[delivery](w, "/v1/deliveries", url.Values{"endpoint_id": {ep.ID}}), func(d delivery) bool { return d.Attempts == 0 })
		})
		patch(map[string]any{"url": w.sink.URL(3), "retry": map[string]any{"base": "200ms", "max": "200ms"}})
		w.quiet()
		if duplicates := s.judge(ep); duplicates != 0 {
			t.Errorf("%d deliveries were sent twice", duplicates)
		}
	})
}
