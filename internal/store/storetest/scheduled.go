package storetest

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// publishedFor is for an event that was published to be delivered at a time.
func publishedFor(at time.Time) func(*store.Acceptance) {
	return func(in *store.Acceptance) {
		in.Event.EndpointID, in.Event.DeliverAt = kapsel.EndpointID{}, at
		for i := range in.Deliveries {
			in.Deliveries[i].DueAt = in.Event.FirstDue(in.Event.ReceivedAt)
		}
	}
}

var scheduling = []promise{
	{"an event keeps when it is to be delivered, also in the past", func(w *world) {
		for _, at := range []time.Time{w.now.Add(30 * 24 * time.Hour), w.now.Add(-time.Hour), w.now.Add(time.Microsecond)} {
			in := w.accept(w.endpoint, publishedFor(at))
			r := w.event(in.Event.ID)
			w.same("event", in.Event, r.Event)
			w.same("deliveries", in.Deliveries, r.Deliveries)
			list, _, err := w.store.ListEvents(w.ctx, w.tenant.ID, store.EventFilter{}, store.Page[kapsel.EventID]{Limit: 1})
			w.must(err)
			w.same("listed", at, list[0].Event.DeliverAt)
			w.pass(time.Millisecond) // the next one is the newest
		}
	}},

	{"what is scheduled is claimed when it is due, and not before", func(w *world) {
		at := w.now.Add(24 * time.Hour)
		in := w.accept(w.endpoint, publishedFor(at))
		now := w.accept(w.endpoint)
		backlog, err := w.store.Backlog(w.ctx)
		w.must(err)
		w.same("backlog", []store.Waiting{{EndpointID: w.endpoint.ID, DueAt: w.now}}, backlog)
		w.same("the other is due", now.Deliveries[0].ID, w.claimOne().ID)
		backlog, err = w.store.Backlog(w.ctx)
		w.must(err)
		w.same("backlog", []store.Waiting{{EndpointID: w.endpoint.ID, DueAt: at}}, backlog)
		w.pass(24*time.Hour - time.Microsecond)
		if got := w.claim(w.endpoint); len(got) > 0 {
			w.t.Fatalf("claimed %v", got)
		}
		w.pass(time.Microsecond)
		got := w.claim(w.endpoint)
		if len(got) != 1 || got[0].Delivery.ID != in.Deliveries[0].ID || !got[0].DueSince.Equal(at) {
			w.t.Fatalf("claimed %v", got)
		}
		w.same("event", in.Event, got[0].Event)
	}},

	{"what is scheduled and was never due is in no count", func(w *world) {
		counts := func(pending, due int, oldest time.Time) {
			w.t.Helper()
			depth, err := w.store.QueueDepth(w.ctx, w.now, 100)
			w.must(err)
			if depth.Pending != pending || depth.Due != due || due > 0 && !depth.Oldest.Equal(oldest) || due == 0 && !depth.Oldest.IsZero() {
				w.t.Fatalf("the depth is %+v; want %d pending, %d due since %v", depth, pending, due, oldest)
			}
			count, first, err := w.store.BacklogOf(w.ctx, w.endpoint.ID, w.now, 100)
			w.must(err)
			if count != pending || !first.Equal(oldest) {
				w.t.Fatalf("the backlog is %d since %v; want %d since %v", count, first, pending, oldest)
			}
		}
		at := w.now.Add(time.Hour)
		w.accept(w.endpoint, publishedFor(at))
		w.accept(w.endpoint, publishedFor(at.Add(time.Hour)))
		counts(0, 0, time.Time{})
		tried := w.complete(w.accept(w.endpoint, heldBy(w.node)).Deliveries[0], kapsel.Answer{
			Status: 503, Code: kapsel.HTTPServerError, Retry: true, Delay: 90 * time.Minute, MaxAttempts: 20,
		})
		counts(1, 0, tried.Delivery.DueAt) // between the scheduled ones
		w.pass(time.Hour)
		counts(2, 1, at)
		held := w.claimOne()
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{func() kapsel.Delivery { held.DueAt = at; return held }()}))
		counts(2, 1, at)
		w.pass(time.Hour)
		counts(3, 3, at)
		count, first, err := w.store.BacklogOf(w.ctx, w.endpoint.ID, w.now, 2)
		w.must(err)
		if count != 2 || !first.Equal(at) {
			w.t.Errorf("at most 2: %d since %v", count, first)
		}
	}},

	{"what a node took and gives back to wait is not scheduled", func(w *world) {
		held := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		held.DueAt = w.now.Add(time.Second)
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{held}))
		d := w.delivery(held.ID)
		w.same("scheduled", false, d.Scheduled(w.now))
		count, first, err := w.store.BacklogOf(w.ctx, w.endpoint.ID, w.now, 10)
		w.must(err)
		if count != 1 || !first.Equal(held.DueAt) {
			w.t.Errorf("%d since %v", count, first)
		}
		depth, err := w.store.QueueDepth(w.ctx, w.now, 10)
		w.must(err)
		w.same("depth", store.QueueDepth{Pending: 1}, depth)
	}},

	{"counting what was tried and is due later stops, too", func(w *world) {
		w.accept(w.endpoint, publishedFor(w.now.Add(time.Second)))
		for range 3 {
			w.complete(w.accept(w.endpoint, heldBy(w.node)).Deliveries[0], again)
		}
		count, first, err := w.store.BacklogOf(w.ctx, w.endpoint.ID, w.now, 2)
		w.must(err)
		if count != 2 || !first.Equal(w.now.Add(time.Minute)) {
			w.t.Errorf("%d since %v", count, first)
		}
		depth, err := w.store.QueueDepth(w.ctx, w.now, 2)
		w.must(err)
		w.same("depth", store.QueueDepth{Pending: 2}, depth)
	}},

	{"retention leaves an event that waits for its time", func(w *world) {
		in := w.accept(w.endpoint, publishedFor(w.now.Add(30*24*time.Hour)))
		w.pass(20 * 24 * time.Hour)
		deleted, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
		w.must(err)
		w.same("deleted", 0, deleted)
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, in.Deliveries[0].ID, kapsel.Cancel{}, w.now)
		w.must(err)
		deleted, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
		w.must(err)
		w.same("deleted", 1, deleted)
	}},

	{"a changed plan or destination does not move what is scheduled", func(w *world) {
		in := w.accept(w.endpoint, publishedFor(w.now.Add(24*time.Hour)))
		_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error {
			e.Retry.Base, e.Retry.Max, e.URL = time.Second, time.Second, "https://other.example/hook"
			return nil
		})
		w.must(err)
		_, more, err := w.store.Replan(w.ctx, w.endpoint.ID, w.now, store.Due{}, 100)
		w.must(err)
		w.same("more", false, more)
		w.same("delivery", in.Deliveries[0], w.delivery(in.Deliveries[0].ID))
	}},

	{"a duplicate of what is scheduled makes no delivery, and a person's retry makes it due", func(w *world) {
		in := w.accept(w.endpoint, publishedFor(w.now.Add(time.Hour)), key("k"))
		w.duplicate(in.Event.ID, w.acceptance(w.endpoint, publishedFor(w.now), key("k")))
		made, err := w.store.Redeliver(w.ctx, in.Event.ID, w.now)
		w.must(err)
		w.same("made", 0, len(made))
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, in.Deliveries[0].ID, kapsel.Retry{}, w.now)
		w.must(err)
		w.same("due", in.Deliveries[0].ID, w.claimOne().ID)
	}},
}
