package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// refuse makes an event's delivery that failed.
func (w *world) refuse(endpoint string) {
	w.t.Helper()
	w.receive(endpoint, nil)
	w.attempt(endpoint, kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError}, nil)
}

func TestReplays(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	other := w.newHouse("b")
	w.refuse(other.endpoint)
	since := w.now.Format(time.RFC3339)
	for range 15 {
		w.refuse(h.endpoint)
		w.now = w.now.Add(time.Second)
	}

	dry := w.want(200, "POST", "/v1/replays", h.write, object{"since": since, "dry_run": true})
	if dry["count"] != 15.0 || len(dry.list("sample")) != 10 || len(dry) != 2 {
		t.Errorf("dry run: %v", dry)
	}
	if got := len(w.want(200, "GET", "/v1/replays", h.write, nil).list("data")); got != 0 {
		t.Errorf("a dry run made %d replays", got)
	}
	until := w.now.Add(-10 * time.Second).Format(time.RFC3339)
	w.now = w.now.Add(time.Minute)
	r := w.want(202, "POST", "/v1/replays", h.write, object{"endpoint_id": h.endpoint, "since": since, "until": until, "rate": 3, "statuses": []string{"failed", "canceled", "failed"}})
	id := r.text("id")
	want := object{
		"id": id, "tenant_id": h.tenant, "endpoint_id": h.endpoint, "since": r["since"], "until": r["until"], "statuses": []any{"failed", "canceled"}, "missing": false, "rate": 3.0,
		"status": "running", "total": 5.0, "created": 0.0, "delivered": 0.0, "failed": 0.0, "created_at": "2026-03-01T12:01:15.000Z", "finished_at": nil,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("replay (-want +got):\n%s", diff)
	}
	var stored kapsel.ReplayID
	if err := stored.UnmarshalText([]byte(id)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.store.StepReplay(t.Context(), stored, w.now, 2); err != nil {
		t.Fatal(err)
	}
	if got := w.want(200, "GET", "/v1/replays/"+id, h.read, nil); got["created"] != 2.0 {
		t.Errorf("after a step: %v", got)
	}
	for _, move := range []struct{ verb, status string }{{"pause", "paused"}, {"pause", "paused"}, {"resume", "running"}, {"cancel", "canceled"}, {"cancel", "canceled"}} {
		got := w.want(200, "POST", "/v1/replays/"+id+"/"+move.verb, h.write, nil)
		if got.text("status") != move.status || (got["finished_at"] == nil) != (move.status != "canceled") {
			t.Errorf("%s: %v", move.verb, got)
		}
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/replays/"+id+"/resume", h.write, nil)

	w.now = w.now.Add(time.Second)
	all := w.want(202, "POST", "/v1/replays?tenant_id="+h.tenant, adminKey, object{"since": since})
	if all["total"] != 13.0 || all["rate"] != 50.0 || fmt.Sprint(all["statuses"]) != "[failed dead_letter]" || all["endpoint_id"] != nil || all["until"] != nil {
		t.Errorf("with the defaults, what was replayed left out: %v", all)
	}
	var ids []string
	for _, r := range w.want(200, "GET", "/v1/replays", h.read, nil).list("data") {
		ids = append(ids, r.text("id"))
	}
	if diff := cmp.Diff([]string{all.text("id"), id}, ids); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestReplaysAreRefused(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("a"), w.newHouse("b")
	const since = "2026-01-01T00:00:00Z"
	for body, fields := range map[string][]string{
		`{}`: {"since"}, `{"since":null}`: {"since"}, `{"since":"` + since + `","until":"` + since + `"}`: {"until"},
		`{"since":"` + since + `","rate":0}`: {"rate"}, `{"since":"` + since + `","rate":1001}`: {"rate"},
		`{"since":"` + since + `","statuses":[]}`: {"statuses"}, `{"since":"` + since + `","statuses":["pending","failed"]}`: {"statuses"}, `{"since":"` + since + `","missing":true,"statuses":["failed"]}`: {"statuses"}, `{"since":"` + since + `","statuses":["delivering"]}`: {"statuses"}, `{"since":"` + since + `","statuses":["lost"]}`: {"statuses"},
		`{"since":"` + since + `","endpoint_id":"` + other.endpoint + `"}`: {"endpoint_id"},
	} {
		w.refused(kapsel.InvalidRequest, 422, fields, "POST", "/v1/replays", h.write, body)
	}
	for body, field := range map[string]string{
		`{"since":"yesterday"}`: "since", `{"since":"` + since + `","rate":1.5}`: "rate", `{"since":"` + since + `","status":"failed"}`: "status", `{"since":"` + since + `","endpoint_id":"x"}`: "endpoint_id",
	} {
		w.refused(kapsel.InvalidRequest, 400, []string{field}, "POST", "/v1/replays", h.write, body)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/replays", adminKey, `{"since":"`+since+`"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/replays?tenant_id="+h.tenant, h.write, `{"since":"`+since+`"}`)
}

// TestReplays_Missing checks that a replay delivers to an endpoint what it missed because it was made
// too late, and that a dry run shows which events those are.
func TestReplays_Missing(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	since := w.now.Format(time.RFC3339)
	var events []string
	for range 3 {
		e, _ := w.receive(h.endpoint, nil)
		events = append(events, e.ID.String())
		w.now = w.now.Add(time.Second)
	}
	late := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"late","url":"https://example.com","subscriptions":[{"source":"`+h.endpoint+`"}]}`).text("id")
	input := object{"since": since, "endpoint_id": late, "missing": true, "dry_run": true}
	dry := w.want(200, "POST", "/v1/replays", h.write, input)
	want := object{"count": 3.0, "sample": []any{}, "missing": []any{}}
	for _, id := range events {
		want["missing"] = append(want["missing"].([]any), map[string]any{"event_id": id, "endpoint_id": late})
	}
	if diff := cmp.Diff(want, dry); diff != "" {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}
	w.now = w.now.Add(time.Second)
	input["dry_run"] = false
	r := w.want(202, "POST", "/v1/replays", h.write, input)
	if r["total"] != 3.0 || r["missing"] != true || len(r["statuses"].([]any)) != 0 {
		t.Errorf("replay: %v", r)
	}
	w.replayed(r.text("id"))
	for _, id := range events {
		if got := w.want(200, "GET", "/v1/events/"+id, h.read, nil).list("deliveries"); len(got) != 2 || got[1].text("endpoint_id") != late || got[1]["replay_of"] != nil {
			t.Errorf("the event's deliveries: %v", got)
		}
	}
	if got := w.want(200, "GET", "/v1/replays/"+r.text("id"), h.read, nil); got["created"] != 3.0 {
		t.Errorf("after it: %v", got)
	}
	if dry := w.want(200, "POST", "/v1/replays", h.write, object{"since": since, "missing": true, "dry_run": true}); dry["count"] != 0.0 {
		t.Errorf("what is left: %v", dry)
	}
}

// TestReplays_Pending checks that a replay makes what waits for its next attempt due now.
func TestReplays_Pending(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	since := w.now.Format(time.RFC3339)
	w.receive(h.endpoint, nil)
	w.attempt(h.endpoint, kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, Retry: true, Delay: time.Hour, MaxAttempts: 20}, nil)
	w.now = w.now.Add(time.Minute)
	input := object{"since": since, "statuses": []string{"pending"}, "dry_run": true}
	if dry := w.want(200, "POST", "/v1/replays", h.write, input); dry["count"] != 1.0 || dry.list("sample")[0].text("status") != "pending" {
		t.Errorf("dry run: %v", dry)
	}
	input["dry_run"] = false
	r := w.want(202, "POST", "/v1/replays", h.write, input)
	if r["total"] != 1.0 || fmt.Sprint(r["statuses"]) != "[pending]" {
		t.Errorf("replay: %v", r)
	}
	w.replayed(r.text("id"))
	got := w.want(200, "GET", "/v1/deliveries", h.read, nil).list("data")
	if len(got) != 1 || got[0].text("next_attempt_at") != "2026-03-01T12:01:00.000Z" || got[0]["attempts"] != 1.0 {
		t.Errorf("deliveries: %v", got)
	}
	if got := w.want(200, "GET", "/v1/replays/"+r.text("id"), h.read, nil); got["created"] != 1.0 || got.text("status") != "done" {
		t.Errorf("after it: %v", got)
	}
}

// replayed makes all that a replay makes.
func (w *world) replayed(id string) {
	w.t.Helper()
	var replay kapsel.ReplayID
	err := replay.UnmarshalText([]byte(id))
	for more := true; err == nil && more; {
		_, more, err = w.store.StepReplay(w.t.Context(), replay, w.now, 2)
	}
	if err == nil {
		_, _, err = w.store.StepReplay(w.t.Context(), replay, w.now, 2)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestReplaysAreMadeOnce: a repeated POST with an Idempotency-Key makes no second replay.
func TestReplaysAreMadeOnce(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	const body = `{"since":"2026-01-01T00:00:00Z"}`
	first := w.want(202, "POST", "/v1/replays", h.write, body, key("k"))
	again := w.want(202, "POST", "/v1/replays", h.write, body, key("k"))
	if first.text("id") != again.text("id") || !strings.HasPrefix(first.text("id"), "rpl_") {
		t.Errorf("%v, then %v", first, again)
	}
}
