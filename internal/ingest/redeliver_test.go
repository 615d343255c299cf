package ingest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// ended waits until the newest delivery of an event is in a state, and returns how many the
// event has.
func (w *world) ended(id kapsel.EventID, status kapsel.DeliveryStatus) int {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		all := w.event(id).Deliveries
		if newest := all[len(all)-1]; newest.Status == status {
			return len(all)
		} else if time.Now().After(deadline) {
			w.t.Fatalf("the newest of %d deliveries is %s, want %s", len(all), newest.Status, status)
		}
	}
}

// TestRedelivery checks that a duplicate of an event whose delivery was given up has the event
// delivered again, and is answered like any duplicate.
func TestRedelivery(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(func(ep *kapsel.Endpoint) {
		w.signedBy("github", "s")(ep)
		active(ep)
	})
	header := []string{"X-Hub-Signature-256: sha256=" + sign("s", "{}"), "X-GitHub-Delivery: guid"}
	w.wire.status.Store(http.StatusBadRequest)
	first := w.post(ep, "{}", header...)
	w.ended(first.event(), kapsel.Failed)

	// Who cannot sign learns nothing and moves nothing.
	w.refused(401, kapsel.InvalidSignature, ep, "{}", "X-GitHub-Delivery: guid")
	if n := w.ended(first.event(), kapsel.Failed); n != 1 {
		t.Fatalf("%d deliveries after an unsigned duplicate", n)
	}

	// A store that fails is 503, whether the delivery was made or not.
	w.wire.status.Store(http.StatusOK)
	for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
		w.fault(failing(fault, "Redeliver"))
		w.is(w.post(ep, "{}", header...), 503, kapsel.DatabaseUnavailable)
		w.fault(nil)
	}
	again := w.post(ep, "{}", header...)
	if again.status != 200 || again.body != first.body || again.event() != first.event() || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the duplicate is answered %v, the first was answered %v", again, first)
	}
	if n := w.ended(first.event(), kapsel.Delivered); n != 2 {
		t.Errorf("the event has %d deliveries, want the one given up and a new one", n)
	}
	all := w.event(first.event()).Deliveries
	if all[1].ReplayOf != all[0].ID || all[0].ReplayedAs != all[1].ID {
		t.Errorf("the new delivery does not repeat the old one: %+v", all)
	}
	for range 3 { // it was delivered
		w.post(ep, "{}", header...)
	}
	if n := w.ended(first.event(), kapsel.Delivered); n != 2 {
		t.Errorf("a duplicate of a delivered event made a delivery: there are %d", n)
	}
}

// TestRedelivery_Waits checks that the new delivery waits while the endpoint is paused.
func TestRedelivery_Waits(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(active)
	w.wire.status.Store(http.StatusBadRequest)
	id := w.post(ep, "{}", "Idempotency-Key: k").event()
	w.ended(id, kapsel.Failed)
	_, err := w.db.UpdateEndpoint(t.Context(), ep.TenantID, ep.ID, func(e *kapsel.Endpoint) error {
		e.State = kapsel.EndpointPaused
		return nil
	})
	w.must(err)
	w.must(w.settings.Load(t.Context()))
	for range 3 {
		if a := w.post(ep, "{}", "Idempotency-Key: k"); a.status != 200 || a.event() != id {
			t.Fatalf("answered %v", a)
		}
	}
	if n := w.ended(id, kapsel.Pending); n != 2 {
		t.Errorf("%d deliveries, want one that failed and one that waits", n)
	}
}
