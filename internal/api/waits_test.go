package api

import (
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestSendsNow: /test and /retry do what they are asked, or are refused with what keeps the
// endpoint from sending and change nothing.
func TestSendsNow(t *testing.T) {
	circuit := func(c kapsel.Circuit) func(*testing.T, *world, house) {
		return func(t *testing.T, w *world, h house) {
			c.EndpointID = w.stored(h.endpoint).ID
			c.Destination = max(c.Destination, 1)
			if !c.RetryAt.IsZero() {
				c.RetryAt = w.now.Add(c.RetryAt.Sub(time.Unix(0, 0)))
			}
			if !c.HoldUntil.IsZero() {
				c.HoldUntil = w.now.Add(c.HoldUntil.Sub(time.Unix(0, 0)))
			}
			if _, err := w.store.SaveCircuit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	patch := func(body string) func(*testing.T, *world, house) {
		return func(_ *testing.T, w *world, h house) {
			w.want(200, "PATCH", "/v1/endpoints/"+h.endpoint, adminKey, body)
		}
	}
	all := func(steps ...func(*testing.T, *world, house)) func(*testing.T, *world, house) {
		return func(t *testing.T, w *world, h house) {
			for _, step := range steps {
				step(t, w, h)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *world, house)
		waits   []string // words of the refusal; none: it sends
	}{
		{"active", func(*testing.T, *world, house) {}, nil},
		{"paused", patch(`{"state":"paused"}`), []string{"paused", "/resume"}},
		{"disabled", patch(`{"state":"disabled"}`), []string{"disabled", "admin key"}},
		{"gone", func(t *testing.T, w *world, h house) {
			if err := w.store.DisableGone(t.Context(), w.stored(h.endpoint).ID, 1, w.now); err != nil {
				t.Fatal(err)
			}
		}, []string{"410", "/resume"}},
		{"open", circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(time.Minute)}), []string{"circuit is open", "2026-03-01T12:01:00Z", "/circuit/reset"}},
		{"open, may probe", circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(-time.Minute)}), nil},
		{"open, may probe with what is due", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(-time.Minute)}),
			func(_ *testing.T, w *world, h house) { w.receive(h.endpoint, nil) },
		), []string{"older deliveries are due", "/circuit/reset"}},
		{"half-open", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitHalfOpen, Probe: kapsel.NodeID{1}}),
			func(_ *testing.T, w *world, _ house) { w.why = "circuit" },
		), []string{"being probed", "/circuit/reset"}},
		{"half-open, with room for a probe", circuit(kapsel.Circuit{State: kapsel.CircuitHalfOpen, Probe: kapsel.NodeID{1}}), nil},
		{"open, not enabled", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(time.Minute)}),
			patch(`{"circuit":{"enabled":false}}`),
		), nil},
		{"held", circuit(kapsel.Circuit{State: kapsel.CircuitClosed, HoldUntil: after(time.Hour)}), []string{"429", "2026-03-01T13:00:00Z", "/circuit/reset"}},
		{"held, not enabled", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitClosed, HoldUntil: after(time.Hour)}),
			patch(`{"circuit":{"enabled":false}}`),
		), []string{"429", "2026-03-01T13:00:00Z"}},
		{"no longer held", circuit(kapsel.Circuit{State: kapsel.CircuitClosed, HoldUntil: after(-time.Second)}), nil},
		{"open and held, at a former destination", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(time.Minute), HoldUntil: after(time.Hour)}),
			patch(`{"url":"https://example.com/other"}`),
		), nil},
		{"open, with another query", all(
			circuit(kapsel.Circuit{State: kapsel.CircuitOpened, RetryAt: after(time.Minute)}),
			patch(`{"url":"https://EXAMPLE.com:443/a?with=query"}`),
		), []string{"circuit is open"}},
		{"rate", func(_ *testing.T, w *world, _ house) { w.rate = w.now.Add(time.Minute) }, []string{"rate_limit", "2026-03-01T12:01:00Z"}},
		{"rate, soon", func(_ *testing.T, w *world, _ house) { w.rate = w.now.Add(time.Second) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			h := w.newHouse("a")
			_, d := w.receive(h.endpoint, nil)
			w.attempt(h.endpoint, kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, MaxAttempts: 20, Retry: true, Delay: time.Hour}, nil)
			tt.prepare(t, w, h)
			before := w.want(200, "GET", "/v1/deliveries/"+d.ID.String(), h.read, nil)
			events := len(w.want(200, "GET", "/v1/events", h.read, nil).list("data"))
			for _, path := range []string{"/v1/deliveries/" + d.ID.String() + "/retry", "/v1/endpoints/" + h.endpoint + "/test"} {
				if tt.waits == nil {
					w.want(200, "POST", path, h.write, nil)
					if strings.HasSuffix(path, "/retry") { // its delivery would be due before the test's
						w.want(200, "POST", "/v1/deliveries/"+d.ID.String()+"/cancel", h.write, nil)
					}
					continue
				}
				detail := w.want(409, "POST", path, h.write, nil)
				if detail.text("code") != string(kapsel.Conflict) {
					t.Errorf("%s: %v", path, detail)
				}
				for _, word := range tt.waits {
					if !strings.Contains(detail.text("detail"), word) {
						t.Errorf("%s: %q does not say %q", path, detail.text("detail"), word)
					}
				}
			}
			if tt.waits == nil {
				return
			}
			if got := w.want(200, "GET", "/v1/deliveries/"+d.ID.String(), h.read, nil); got.text("next_attempt_at") != before.text("next_attempt_at") {
				t.Errorf("a retry that was refused moved the delivery to %s", got.text("next_attempt_at"))
			}
			if n := len(w.want(200, "GET", "/v1/events", h.read, nil).list("data")); n != events {
				t.Errorf("a test that was refused made an event")
			}
		})
	}
}

// TestRetry_DeletedEndpoint: what waits for a deleted endpoint is about to be canceled.
func TestRetry_DeletedEndpoint(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	_, d := w.receive(h.endpoint, nil)
	w.want(204, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/deliveries/"+d.ID.String()+"/retry", h.write, nil)
}

// TestThrottledUntil: GET shows for how long the present destination asked for quiet.
func TestThrottledUntil(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint
	until := func() any { return w.want(200, "GET", path, h.read, nil)["throttled_until"] }
	if got := until(); got != nil {
		t.Errorf("at first %v", got)
	}
	held := kapsel.Circuit{EndpointID: w.stored(h.endpoint).ID, Destination: 1, State: kapsel.CircuitClosed, HoldUntil: w.now.Add(time.Minute)}
	if _, err := w.store.SaveCircuit(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if got := until(); got != "2026-03-01T12:01:00.000Z" {
		t.Errorf("held: %v", got)
	}
	w.now = w.now.Add(time.Minute)
	if got := until(); got != nil {
		t.Errorf("after the hold: %v", got)
	}
	w.now = w.now.Add(-time.Second)
	if got := w.want(200, "PATCH", path, h.write, `{"url":"https://example.com/other"}`)["throttled_until"]; got != nil {
		t.Errorf("at another destination: %v", got)
	}
}
