package api

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// TestWhy: each endpoint that an event concerns is listed, with what its delivery waits for or why
// it has none.
func TestWhy(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now().Add(-time.Hour) // published events have the store's time
	h := w.newHouse("acme")
	waits := w.subscriber(h, object{"event_types": []string{"a"}})
	gone := w.subscriber(h, object{})
	other := w.subscriber(h, object{"event_types": []string{"b"}, "channels": []string{"x"}})
	channel := w.subscriber(h, object{"event_types": []string{"a"}, "channels": []string{"x"}})
	e := w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1}`)
	w.now = time.Now().Add(time.Hour)
	late := w.subscriber(h, object{})
	w.want(200, "PATCH", "/v1/endpoints/"+channel, h.write, object{"subscriptions": []object{{"source": "publish"}}})
	w.want(204, "DELETE", "/v1/endpoints/"+gone, h.write, nil)
	w.why = "paused"

	got := map[string]object{}
	for path := "/v1/events/" + e.text("id") + "/why?limit=2"; ; {
		page := w.want(200, "GET", path, h.read, nil)
		for _, r := range page.list("data") {
			got[r.text("endpoint_id")] = r
		}
		if page["next_cursor"] == nil {
			break
		}
		path = "/v1/events/" + e.text("id") + "/why?limit=2&cursor=" + page.text("next_cursor")
	}
	words := map[string]string{}
	for id, r := range got {
		words[id] = r.text("status") + "; " + r.text("waiting_for") + "; " + r.text("reason")
		if r["settings_changed"] != (id == late || id == channel) {
			t.Errorf("%v", r)
		}
	}
	const deliver = "; POST /replay with its id delivers the event to it"
	want := map[string]string{
		waits:   "pending; paused; the endpoint is paused; /resume makes it active",
		gone:    "pending; ; the endpoint is deleted, and the delivery will be canceled",
		other:   "; ; no delivery: its subscriptions name other types",
		channel: "; ; no delivery: its subscriptions let the event through now, but were changed after it came in" + deliver,
		late:    "; ; no delivery: the endpoint was made after the event came in" + deliver,
	}
	if diff := cmp.Diff(want, words); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	w.want(200, "PATCH", "/v1/endpoints/"+channel, h.write, object{"subscriptions": []object{{"source": "publish", "channels": []string{"y"}}}})
	for _, r := range w.want(200, "GET", "/v1/events/"+e.text("id")+"/why", h.read, nil).list("data") {
		if r["endpoint_id"] == channel && r["reason"] != "no delivery: its subscriptions name other channels" {
			t.Errorf("%v", r)
		}
	}

	// At an ingest the endpoint itself is one of them.
	ev, d := w.receive(h.endpoint, nil)
	for _, waiting := range []string{"scheduled", "retry", "circuit", "paused", "disabled", "throttled", "rate", "concurrency", "worker", ""} {
		w.why = waiting
		list := w.want(200, "GET", "/v1/events/"+ev.ID.String()+"/why", h.read, nil).list("data")
		if len(list) != 1 || list[0]["delivery_id"] != d.ID.String() || list[0].text("reason") == "" {
			t.Errorf("%s: %v", waiting, list)
		}
	}
	w.attempt(h.endpoint, kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError, MaxAttempts: 1}, nil)
	list := w.want(200, "GET", "/v1/events/"+ev.ID.String()+"/why", h.read, nil).list("data")
	if len(list) != 1 || list[0]["status"] != "failed" || list[0]["waiting_for"] != nil || list[0]["reason"] != "the destination refused it; a replay delivers it again" {
		t.Errorf("ended: %v", list)
	}
}

// TestWhy_CanceledNamesOneCause checks that why tells what a person canceled from what ended with its endpoint.
func TestWhy_CanceledNamesOneCause(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	reason := func(ev string) any {
		return w.want(200, "GET", "/v1/events/"+ev+"/why", h.read, nil).list("data")[0]["reason"]
	}
	ev, d := w.receive(h.endpoint, nil)
	w.want(200, "POST", "/v1/deliveries/"+d.ID.String()+"/cancel", h.write, nil)
	if got := reason(ev.ID.String()); got != "a person canceled it; POST /replay with its id delivers the event again" {
		t.Errorf("canceled by hand: %v", got)
	}
	gone := w.subscriber(h, object{})
	published := w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1}`).text("id")
	w.want(204, "DELETE", "/v1/endpoints/"+gone, h.write, nil)
	id, err := kapsel.ParseEventID(published)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.store.CancelEvent(t.Context(), kapsel.TenantID{}, id, kapsel.EndpointID{}, w.now); err != nil { // as the janitor does
		t.Fatal(err)
	}
	if got := reason(published); got != "its endpoint is deleted, which cancels what waits" {
		t.Errorf("canceled with its endpoint: %v", got)
	}
}

// TestCancelEvent cancels what waits of an event, all of it or that to one endpoint.
func TestCancelEvent(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	one, two := w.subscriber(h, object{}), w.subscriber(h, object{})
	w.subscriber(h, object{})
	path := "/v1/events/" + w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1}`).text("id") + "/cancel"
	count := func(e object) (n int) {
		for _, d := range e.list("deliveries") {
			if d["status"] == "canceled" {
				n++
			}
		}
		return n
	}
	e := w.want(200, "POST", path, h.write, object{"endpoint_id": two})
	if count(e) != 1 || e["status"] != "pending" {
		t.Errorf("%d are canceled: %v", count(e), e)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path, h.write, object{"endpoint_id": two})
	w.refused(kapsel.Conflict, 409, nil, "POST", path, h.write, object{"endpoint_id": h.endpoint})
	w.now = time.Now().Add(time.Hour) // published events have the store's time
	w.attempt(one, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	e = w.want(200, "POST", path, h.write, nil)
	if count(e) != 2 || e["status"] != "canceled" {
		t.Errorf("%d are canceled: %v", count(e), e)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path, h.write, nil)
	w.refused(kapsel.Forbidden, 403, nil, "POST", path, h.read, nil)
}
