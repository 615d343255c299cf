package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// TestSettle_EveryNodeWorksByAChange checks that what is answered at one node holds at the other:
// an event that comes in there at once goes to an endpoint that was made to subscribe, and not to
// one that has ended its subscription or was deleted.
func TestSettle_EveryNodeWorksByAChange(t *testing.T) {
	w := newWorld(t, schematest.Postgres(t))
	w.node()
	origin := w.endpoint("origin", nil)
	// goesTo posts an event to the other node and reports whether it has a delivery to an endpoint.
	goesTo := func(id string) bool {
		t.Helper()
		resp, err := client.Post(w.nodes[1].URL+"/ingest/"+origin.ID, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var accepted struct {
			ID string `json:"event_id"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&accepted); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("answered %d, %v", resp.StatusCode, err)
		}
		var e struct {
			Deliveries []delivery `json:"deliveries"`
		}
		w.get("/v1/events/"+accepted.ID, &e)
		return slices.ContainsFunc(e.Deliveries, func(d delivery) bool { return d.EndpointID == id })
	}
	change := func(method, path string, in any) {
		t.Helper()
		if err := w.nodes[0].API(w.ctx, method, path, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	// after makes a change, and checks whether an event goes to an endpoint from then on. An answer
	// that took SettleTime promises nothing: the other node, on a busy machine, may follow later.
	after := func(what string, want bool, makes func() (id string)) {
		t.Helper()
		began := time.Now()
		id := makes()
		if time.Since(began) >= settings.SettleTime {
			eventually(t, "after "+what, patience, func() bool { return goesTo(id) == want })
		} else if goesTo(id) != want {
			t.Errorf("after %s an event goes to the endpoint: %v", what, !want)
		}
	}
	to := map[string]any{"subscriptions": []any{map[string]any{"source": origin.ID}}}
	for range 10 {
		var id string
		patch := func(in map[string]any) func() string {
			return func() string { change(http.MethodPatch, "/v1/endpoints/"+id, in); return id }
		}
		after("an endpoint was made to subscribe", true, func() string { id = w.endpoint("subscriber", to).ID; return id })
		after("its subscription has ended", false, patch(map[string]any{"subscriptions": []any{}}))
		after("it subscribes anew", true, patch(to))
		after("it was deleted", false, func() string { change(http.MethodDelete, "/v1/endpoints/"+id, nil); return id })
	}

	// A frozen node whose lease is not over delays the answer by SettleTime at most.
	if err := w.nodes[1].Freeze(); err != nil {
		t.Fatal(err)
	}
	ep := w.endpoint("while one stands still", to)
	change(http.MethodDelete, "/v1/endpoints/"+ep.ID, nil)
	if err := w.nodes[1].Thaw(); err != nil {
		t.Fatal(err)
	}
}
