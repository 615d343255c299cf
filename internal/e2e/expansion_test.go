package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// manyTo makes n endpoints. All but the first subscribe to the ingest URL of the first. All are
// paused, because the tests check which deliveries are made.
func manyTo(w *world, n int) (source harness.Endpoint) {
	w.t.Helper()
	source = w.endpoint("source", nil)
	all := append(fan(w, source, n-1), source)
	for _, ep := range all {
		if err := w.nodes[0].API(w.ctx, http.MethodPost, "/v1/endpoints/"+ep.ID+"/pause", nil, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	return source
}

// expanded is an event with its deliveries.
type expanded struct {
	Expanding  bool       `json:"expanding"`
	Deliveries []delivery `json:"deliveries"`
}

// whole reports whether an event has one delivery to each of n endpoints and no expansion under way. It fails
// the test if the event has fewer deliveries than are stored together with an event.
func (e expanded) whole(w *world, id string, n int) bool {
	w.t.Helper()
	to := map[string]bool{}
	for _, d := range e.Deliveries {
		to[d.EndpointID] = true
	}
	switch {
	case len(to) != len(e.Deliveries), len(to) > n, len(to) < min(n, 256), !e.Expanding && len(to) < n:
		w.t.Fatalf("event %s has %d deliveries to %d of %d endpoints, expanding %t", id, len(e.Deliveries), len(to), n, e.Expanding)
	}
	return !e.Expanding && len(to) == n
}

// wholeAll waits until all events are whole, and returns how many there are.
func (w *world) wholeAll(n int) int {
	w.t.Helper()
	events := list[struct {
		ID string `json:"id"`
	}](w, "/v1/events", url.Values{"tenant_id": {w.tenant}})
	for _, e := range events {
		eventually(w.t, "all deliveries of an event are made", patience, func() bool {
			var got expanded
			w.get("/v1/events/"+e.ID, &got)
			return got.whole(w, e.ID, n)
		})
	}
	return len(events)
}

// TestSubscribers_EveryBoundary kills the node at each boundary of the wire protocol between it and
// PostgreSQL while it accepts an event for 1, 3 and 300 endpoints, and while it makes the deliveries
// beyond the first 256: an event has all of its deliveries, or the first 256 and then all, or is not
// there. See TestAccept_CutAnywhere of package sqlite for the same on SQLite.
func TestSubscribers_EveryBoundary(t *testing.T) {
	for _, n := range []int{1, 3, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			database := schematest.Postgres(t)
			db, err := pgx.Connect(t.Context(), pgtest.Superuser(database)) // not over the proxy, whose boundaries count
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close(context.Background())
			p := newProxy(t, database)
			w := newWorld(t, p.URL)
			node := w.nodes[0]
			s := w.send(0, manyTo(w, n), 0)
			kills := 0
			// round accepts an event and reports whether the i-th boundary was in it.
			round := func(at side, i int) (reached bool) {
				key := fmt.Sprintf("%s-%d", at, i)
				scenario := func(<-chan struct{}) {
					s.post(w.ctx, key)
					for open := true; open && w.ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
						if err := db.QueryRow(w.ctx, "SELECT EXISTS (SELECT 1 FROM expansions)").Scan(&open); err != nil {
							t.Error(err)
							return
						}
					}
				}
				return p.CutDuring(scenario, i, at, func() {
					if err := node.Kill(); err != nil {
						t.Error(err)
					}
				}, func() {
					kills++
					start(w, node)
					for _, id := range eventsOf(w, key) { // before the sender's retry, or after it
						var got expanded
						w.get("/v1/events/"+id, &got)
						got.whole(w, id, n)
					}
				})
			}
			step := 1
			if !full() {
				step = 2 + n/20
			}
			for _, at := range []side{before, after} {
				for i := 1; round(at, i); i += step {
				}
			}
			if events := w.wholeAll(n); events != s.acked() {
				t.Errorf("%d events are stored, and %d keys were acknowledged", events, s.acked())
			}
			for _, o := range s.other {
				t.Error(o)
			}
			if kills < 2 {
				t.Errorf("only %d boundaries were reached", kills)
			}
			t.Logf("%d kills, %d events", kills, s.acked())
		})
	}
}

// TestExpansion_KillUnderLoad kills the process again and again while each event that it accepts
// goes to 300 endpoints. In the end each has one delivery of each event, and of nothing else.
func TestExpansion_KillUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const n = 300
		s := w.send(1, manyTo(w, n), 200*time.Millisecond)
		w.killAgain(count(2, 20))
		s.end()
		if events := w.wholeAll(n); events != s.acked() {
			t.Errorf("%d events are stored, and %d keys were acknowledged", events, s.acked())
		}
		t.Logf("%d events, each to %d endpoints", s.acked(), n)
	})
}

// TestExpansion_Delivers: an event to 300 endpoints arrives at each of them.
func TestExpansion_Delivers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const n = 300
		w.sink.Record(true)
		source := w.endpoint("source", nil)
		fan(w, source, n-1)
		status, code, event := post(t, source.IngestURL, nil, nil)
		if status != 200 {
			t.Fatalf("answered %d %s", status, code)
		}
		eventually(t, "all deliveries of the event are made", patience, func() bool {
			var got expanded
			w.get("/v1/events/"+event, &got)
			return got.whole(w, event, n)
		})
		w.quiet()
		arrived := map[string]bool{}
		for _, r := range w.sink.Requests() {
			arrived[r.To.String()] = true
		}
		if len(arrived) != n || len(w.sink.Requests()) != n {
			t.Errorf("%d requests at %d of %d addresses", len(w.sink.Requests()), len(arrived), n)
		}
	})
}
