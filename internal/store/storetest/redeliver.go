package storetest

import (
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// redelivering are the promises of Redeliver.
var redelivering = []promise{
	{"what was given up is repeated as a new delivery due now, and nothing else is", func(w *world) {
		for _, a := range []kapsel.Answer{refusal, useless} {
			old := w.finished(w.endpoint, a).Delivery
			w.pass(time.Second)
			made := w.redeliver(old.EventID, 1)
			want := kapsel.Delivery{
				ID: made[0].ID, EventID: old.EventID, EndpointID: old.EndpointID, TenantID: old.TenantID, Status: kapsel.Pending,
				DueAt: w.now, ReplayOf: old.ID, ByDuplicate: true, Size: old.Size, CreatedAt: w.now,
			}
			old.ReplayedAs = want.ID
			w.same("made", []kapsel.Delivery{want}, made)
			w.same("both", []kapsel.Delivery{old, want}, w.event(old.EventID).Deliveries)
			w.redeliver(old.EventID, 0) // it waits
			w.complete(w.claimOne(), ok)
			w.redeliver(old.EventID, 0) // it was delivered
		}
		waiting := w.accept(w.endpoint, due(w.now.Add(time.Hour)))
		w.redeliver(waiting.Event.ID, 0)
		w.redeliver(w.accept(w.endpoint, heldBy(w.node)).Event.ID, 0)
		w.redeliver(w.finished(w.endpoint, ok).Delivery.EventID, 0)
		_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, waiting.Deliveries[0].ID, kapsel.Cancel{}, w.now)
		w.must(err)
		w.redeliver(waiting.Event.ID, 0) // a person canceled it
		w.redeliver(kapsel.NewEventID(w.now, 1), 0)

		failed := w.finished(w.endpoint, refusal).Delivery
		again := w.redeliver(failed.EventID, 1)
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, again[0].ID, kapsel.Cancel{}, w.now)
		w.must(err)
		w.pass(time.Hour)
		w.redeliver(failed.EventID, 0) // the newest was canceled
	}},

	{"duplicates make at most one delivery a minute, and ten in all; people's replays do not count", func(w *world) {
		event := w.finished(w.endpoint, refusal).Delivery.EventID
		for n := range rules.MaxRedeliveries {
			w.redeliver(event, 1)
			w.complete(w.claimOne(), refusal)
			w.pass(rules.RedeliveryPause - time.Microsecond)
			w.redeliver(event, 0)
			if n == 3 {
				_, err := w.store.Replay(w.ctx, w.tenant.ID, event, kapsel.DeliveryID{}, w.now)
				w.must(err)
				w.complete(w.claimOne(), refusal)
				w.redeliver(event, 0)
			}
			w.pass(time.Microsecond)
		}
		w.pass(100 * time.Hour)
		w.redeliver(event, 0)
		w.same("deliveries", 1+rules.MaxRedeliveries+1, len(w.event(event).Deliveries))
		w.redeliver(w.finished(w.endpoint, refusal).Delivery.EventID, 1) // another event
	}},

	{"of calls for one event at the same time one makes a delivery", func(w *world) {
		for range 5 {
			event := w.finished(w.endpoint, refusal).Delivery.EventID
			var made atomic.Int64
			w.together(20, func(int) error {
				some, err := w.store.Redeliver(w.ctx, event, w.now)
				made.Add(int64(len(some)))
				return err
			})
			w.same("made", int64(1), made.Load())
			w.same("deliveries", 2, len(w.event(event).Deliveries))
		}
	}},

	{"a deleted endpoint gets nothing again, a paused one's waits", func(w *world) {
		event := w.finished(w.endpoint, refusal).Delivery.EventID
		_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error {
			e.State = kapsel.EndpointPaused
			return nil
		})
		w.must(err)
		w.redeliver(event, 1)
		another := w.finished(w.endpoint, refusal).Delivery.EventID
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.redeliver(another, 0)
		w.same("deliveries", 1, len(w.event(another).Deliveries))
	}},

	{"what many endpoints gave up is repeated in parts, in which deleted endpoints do not count", func(w *world) {
		endpoints := w.fan(kapsel.MaxInline + 2)
		last := len(endpoints) - 2
		event := w.accept(endpoints[0], to(endpoints[1:last]...)).Event.ID
		for _, e := range endpoints[last:] {
			_, err := w.store.Deliver(w.ctx, w.tenant.ID, event, e.ID, w.now)
			w.must(err)
		}
		for _, c := range w.claim(endpoints...) {
			w.complete(c.Delivery, refusal)
		}
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, endpoints[1].ID, w.now))
		w.redeliver(event, kapsel.MaxInline)
		w.redeliver(event, 1)
		w.redeliver(event, 0)
	}},
}

// redeliver has an event delivered again, which is to make so many deliveries.
func (w *world) redeliver(event kapsel.EventID, want int) []kapsel.Delivery {
	w.t.Helper()
	made, err := w.store.Redeliver(w.ctx, event, w.now)
	w.must(err)
	w.same("made", want, len(made))
	return made
}
