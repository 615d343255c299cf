package api

import (
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestWhatIsDueIsTold: the engine hears of every delivery that a person made or moved, and of
// every replay that may go on, and of nothing else.
func TestWhatIsDueIsTold(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	told := func(what string, woken int, ids ...string) {
		t.Helper()
		got := make([]string, 0, len(w.due))
		for _, id := range w.due {
			got = append(got, id.String())
		}
		if !slices.Equal(got, ids) || w.woken != woken {
			t.Errorf("%s: told of %v and %d replays, want %v and %d", what, got, w.woken, ids, woken)
		}
		w.due, w.woken = nil, 0
	}

	event := w.want(200, "POST", "/v1/endpoints/"+h.endpoint+"/test", h.write, nil).text("id")
	first := w.want(200, "GET", "/v1/events/"+event, h.read, nil).list("deliveries")[0].text("id")
	told("a test", 0, first)
	w.want(200, "POST", "/v1/deliveries/"+first+"/retry", h.write, nil)
	told("a retry", 0, first)
	w.attempt(h.endpoint, kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError, MaxAttempts: 1}, nil)
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/deliveries/"+first+"/retry", h.write, nil)
	told("a retry of what has ended", 0)
	second := w.want(200, "POST", "/v1/events/"+event+"/replay", h.write, nil).text("id")
	told("a replay of one event", 0, second)
	w.want(200, "POST", "/v1/deliveries/"+second+"/cancel", h.write, nil)
	told("a cancel", 0)

	since := `{"since":"` + w.now.Add(-time.Hour).Format(time.RFC3339) + `","statuses":["canceled"]`
	w.want(200, "POST", "/v1/replays", h.write, since+`,"dry_run":true}`)
	told("a dry run", 0)
	id := w.want(202, "POST", "/v1/replays", h.write, since+"}").text("id")
	told("a replay", 1)
	w.want(200, "POST", "/v1/replays/"+id+"/pause", h.write, nil)
	w.woken = 0 // which nobody minds
	w.want(200, "POST", "/v1/replays/"+id+"/resume", h.write, nil)
	told("a replay that goes on", 1)
}
