package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// replayed is a delivery with what it repeats and what repeats it.
type replayed struct {
	delivery
	ReplayOf   string `json:"replay_of"`
	ReplayedAs string `json:"replayed_as"`
}

type replay struct {
	ID        string `json:"id"`
	Status    string `json:"status"`
	Total     int    `json:"total"`
	Created   int    `json:"created"`
	Delivered int    `json:"delivered"`
	Failed    int    `json:"failed"`
}

// TestReplay_FA10_KilledOnTheWay checks that a bulk replay during which the process is killed
// twice makes exactly one new delivery of each dead letter, delivers all of them, and reports
// how many.
func TestReplay_FA10_KilledOnTheWay(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		n, rate := count(500, 50_000), count(100, 1000)
		node := w.nodes[0]
		w.sink.Record(true)
		var healed atomic.Bool
		w.sink.Script(func(harness.SinkRequest) harness.Answer {
			if healed.Load() {
				return harness.Answer{Delay: 20 * time.Millisecond}
			}
			return harness.Answer{Status: http.StatusTooManyRequests} // it opens no circuit
		})
		ep := w.endpoint("target", map[string]any{"retry": map[string]any{"max_attempts": 1}})
		began := time.Now().Add(-time.Minute)
		w.post(ep, n)
		w.quiet()
		dead := list[replayed](w, "/v1/deliveries", url.Values{"status": {"dead_letter"}, "replayed": {"false"}})
		if len(dead) != n {
			t.Fatalf("%d dead letters, want %d", len(dead), n)
		}

		healed.Store(true)
		wanted := map[string]any{"since": began.UTC().Format(time.RFC3339), "rate": rate, "dry_run": true}
		var dry struct{ Count int }
		if err := node.API(w.ctx, http.MethodPost, "/v1/replays?tenant_id="+w.tenant, wanted, &dry); err != nil || dry.Count != n {
			t.Fatalf("the dry run counts %d, want %d: %v", dry.Count, n, err)
		}
		delete(wanted, "dry_run")
		var r replay
		if err := node.API(w.ctx, http.MethodPost, "/v1/replays?tenant_id="+w.tenant, wanted, &r); err != nil {
			t.Fatal(err)
		}
		for kill := 1; kill <= 2; kill++ {
			r = w.await(r, func(r replay) bool { return r.Created >= kill*n/3 })
			if r.Created == n {
				t.Errorf("all was made before kill %d", kill)
			}
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := node.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
		r = w.await(r, func(r replay) bool { return r.Status != "running" })
		if want := (replay{r.ID, "done", n, n, n, 0}); r != want {
			t.Errorf("the report is %+v, want %+v", r, want)
		}

		again := map[string]replayed{}
		for _, d := range list[replayed](w, "/v1/deliveries", url.Values{"status": {"delivered"}}) {
			if other, twice := again[d.ReplayOf]; twice {
				t.Errorf("%s was repeated by %s and %s", d.ReplayOf, d.ID, other.ID)
			}
			again[d.ReplayOf] = d
		}
		for _, old := range list[replayed](w, "/v1/deliveries", url.Values{"status": {"dead_letter"}}) {
			if old.ReplayOf != "" {
				t.Errorf("%s, which repeats %s, ended with %s after %d attempts", old.ID, old.ReplayOf, old.Code, old.Attempts)
				continue
			}
			if d := again[old.ID]; d.ID == "" || d.ID != old.ReplayedAs || d.EventID != old.EventID {
				t.Errorf("%s was repeated by %q, and names %q", old.ID, d.ID, old.ReplayedAs)
			}
		}
		if len(again) != n {
			t.Errorf("%d new deliveries, want %d", len(again), n)
		}
		answered := map[string]int{}
		for _, r := range w.sink.Requests() {
			if r.Answered/100 == 2 {
				answered[r.EventID]++
			}
		}
		duplicates := 0
		for _, d := range dead {
			switch got := answered[d.EventID]; {
			case got == 0:
				t.Errorf("event %s never arrived", d.EventID)
			default:
				duplicates += got - 1
			}
		}
		t.Logf("%d replayed, %d duplicates of what was in flight at the kills", n, duplicates)
	})
}

// post sends n events to an endpoint.
func (w *world) post(ep harness.Endpoint, n int) {
	w.t.Helper()
	s := &sender{w: w, urls: []string{w.nodes[0].URL + "/ingest/" + ep.ID}, events: map[string]string{}}
	var wg sync.WaitGroup
	const senders = 16
	for i := range senders {
		wg.Go(func() {
			for k := i; k < n; k += senders {
				s.post(w.ctx, fmt.Sprintf("key-%d", k))
			}
		})
	}
	wg.Wait()
	if len(s.events) != n || len(s.other) > 0 {
		w.t.Fatalf("%d of %d were acknowledged; %v", len(s.events), n, s.other)
	}
}

// await reads a replay until it is as wanted.
func (w *world) await(r replay, wanted func(replay) bool) replay {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		w.get("/v1/replays/"+r.ID, &r)
		if wanted(r) {
			return r
		}
	}
	w.t.Fatalf("the replay does not go on: %+v", r)
	return r
}
