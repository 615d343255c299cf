package e2e

import (
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// TestDuplicate_B62_B63_AtOnce checks that one of 100 simultaneous posts with one idempotency
// key makes an event and the others get its answer, also from two nodes, while the same key at
// another endpoint makes another event.
func TestDuplicate_B62_B63_AtOnce(t *testing.T) {
	at := func(t *testing.T, w *world, nodes int) {
		for len(w.nodes) < nodes {
			w.node()
		}
		seen := map[string]bool{}
		for _, name := range []string{"one", "another"} {
			ep := w.endpoint(name, nil)
			var mu sync.Mutex
			events := map[string]int{}
			var all sync.WaitGroup
			for i := range 100 {
				to := w.nodes[i%nodes].URL + "/ingest/" + ep.ID
				all.Go(func() {
					status, code, event := post(t, to, map[string]string{"Idempotency-Key": "the same"}, strings.NewReader("{}"))
					if status != 200 {
						t.Errorf("answered %d %s", status, code)
					}
					mu.Lock()
					defer mu.Unlock()
					events[event]++
				})
			}
			all.Wait()
			if len(events) != 1 {
				t.Errorf("100 posts at once were answered with %d events: %v", len(events), events)
			}
			for id := range events {
				if seen[id] {
					t.Errorf("event %s is of two endpoints", id)
				}
				seen[id] = true
			}
			if stored := list[struct{}](w, "/v1/events", url.Values{"endpoint_id": {ep.ID}}); len(stored) != 1 {
				t.Errorf("%d events are stored for endpoint %s", len(stored), name)
			}
		}
		w.quiet()
		if n := len(w.sink.Requests()); n != 2 {
			t.Errorf("%d requests reached the destination, want 2", n)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		w := newWorld(t, "")
		w.sink.Record(true)
		at(t, w, 1)
	})
	t.Run("postgres", func(t *testing.T) {
		w := newWorld(t, schematest.Postgres(t))
		w.sink.Record(true)
		at(t, w, 2)
	})
}
