package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestExpanding: an event for more endpoints than are stored with it says so until all of its
// deliveries are made, and how many there will be; canceling it makes no more.
func TestExpanding(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now().Add(-time.Hour) // published events have the store's time
	h := w.newHouse("acme")
	id, err := kapsel.ParseEndpointID(h.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	like, err := w.store.Endpoint(t.Context(), kapsel.TenantID{}, id)
	if err != nil {
		t.Fatal(err)
	}
	const n = kapsel.MaxInline + 2
	for range n {
		e := like
		e.ID, e.NoIngest, e.Subscriptions = kapsel.NewEndpointID(w.now), true, []kapsel.Subscription{{Source: kapsel.Publish}}
		if err := w.store.CreateEndpoint(t.Context(), e, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.uses.Changed()
	w.now = time.Now()

	const body = `{"type":"a","data":1,"id":"once"}`
	if e := w.want(200, "POST", "/v1/events", h.write, `{"type":"a","data":1,"dry_run":true}`); e["deliveries"] != float64(n) || e["expanding"] != false {
		t.Errorf("a dry run goes to %v, expanding %v", e["deliveries"], e["expanding"])
	}
	e := w.want(201, "POST", "/v1/events", h.write, body)
	if e["deliveries"] != float64(n) || e["expanding"] != true || e["status"] != "received" {
		t.Errorf("published: %v", e)
	}
	if again := w.want(200, "POST", "/v1/events", h.write, body); again["deliveries"] != float64(n) || again["expanding"] != true || again["id"] != e["id"] {
		t.Errorf("published again: %v", again)
	}
	path := "/v1/events/" + e.text("id")
	detail := func(deliveries int, expanding bool) {
		t.Helper()
		d := w.want(200, "GET", path, h.read, nil)
		if len(d.list("deliveries")) != deliveries || d["expanding"] != expanding {
			t.Errorf("it has %d deliveries, expanding %v; want %d, %t", len(d.list("deliveries")), d["expanding"], deliveries, expanding)
		}
		for _, one := range d.list("deliveries") {
			if one["max_attempts"] == nil || one["waiting_for"] != "worker" && one["status"] == "pending" {
				t.Errorf("a delivery is shown as %v", one)
				break
			}
		}
		if listed := w.want(200, "GET", "/v1/events?limit=1", h.read, nil).list("data")[0]; listed["expanding"] != expanding {
			t.Errorf("listed as %v", listed)
		}
	}
	detail(kapsel.MaxInline, true)
	reasons := map[string]int{}
	for next := path + "/why?limit=200"; next != ""; {
		page := w.want(200, "GET", next, h.read, nil)
		for _, r := range page.list("data") {
			reasons[r.text("status")+"; "+r.text("reason")]++
		}
		if next = ""; page["next_cursor"] != nil {
			next = path + "/why?limit=200&cursor=" + page.text("next_cursor")
		}
	}
	const later = "; no delivery yet: the event goes to so many endpoints that some deliveries are still being made"
	if len(reasons) != 2 || reasons[later] != 2 {
		t.Errorf("why: %v", reasons)
	}

	event, err := kapsel.ParseEventID(e.text("id"))
	if err != nil {
		t.Fatal(err)
	}
	if made, more, err := w.store.Expand(t.Context(), event, w.now, 1); made != 1 || !more || err != nil {
		t.Fatalf("a step made %d, more %t, %v", made, more, err)
	}
	detail(kapsel.MaxInline+1, true)
	canceled := w.want(200, "POST", path+"/cancel", h.write, nil)
	if canceled["status"] != "canceled" || canceled["expanding"] != false {
		t.Errorf("canceled it is %v, expanding %v", canceled["status"], canceled["expanding"])
	}
	detail(kapsel.MaxInline+1, false)
	if made, more, err := w.store.Expand(t.Context(), event, w.now, 1); made != 0 || more || err != nil {
		t.Errorf("a step after that made %d, more %t, %v", made, more, err)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/cancel", h.write, nil)
	if again := w.want(200, "POST", "/v1/events", h.write, body); again["deliveries"] != float64(kapsel.MaxInline+1) {
		t.Errorf("published again once it is canceled: %v", fmt.Sprint(again["deliveries"]))
	}
}
