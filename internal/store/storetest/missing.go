package storetest

import (
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// ofMissing makes a replay one of what an endpoint never got.
func ofMissing(e kapsel.Endpoint) func(*kapsel.Replay) {
	return func(r *kapsel.Replay) { r.EndpointID, r.Missing, r.Statuses = e.ID, true, nil }
}

// ofWaiting makes a replay one of what waits.
func ofWaiting(r *kapsel.Replay) { r.Statuses = []kapsel.DeliveryStatus{kapsel.Pending} }

// missing are the promises about replays that repeat nothing: of what endpoints never got, and of
// what waits.
var missing = []promise{
	{"a replay of what is missing delivers what the subscriptions match and the endpoint never got, once", func(w *world) {
		s := w.newSource()
		other := w.newTenant()
		foreign := w.newEndpoint(other)
		late := w.named(s.ID.String(), w.endpoint.ID.String(), kapsel.Publish)
		late.Subscriptions[0].EventTypes = []string{"a.*"}
		late.Subscriptions[2].Channels = []string{"eu"}

		w.arrived(s, typed("a.early"))
		w.pass(time.Hour)
		since := w.now
		var want []kapsel.EventID
		lacking := func(in store.Acceptance) { want = append(want, in.Event.ID) }
		for i := range 3 {
			lacking(w.arrived(s, typed(fmt.Sprint("a.", i))))
			w.arrived(s, typed("b"))
			lacking(w.accept(w.endpoint))
			w.accept(foreign)
			w.pass(time.Second)
			lacking(w.arrived(published, typed("x", "us", "eu"), to(w.endpoint)))
			w.arrived(published, typed("x", "us"))
			w.arrived(published, typed("x"))
			w.pass(time.Second)
		}
		w.must(w.store.CreateEndpoint(w.ctx, late, 0))
		had := w.accept(w.endpoint, to(late))
		until := w.now.Add(time.Second)
		w.pass(time.Second)
		w.accept(w.endpoint) // too late
		paused := w.named(s.ID.String())
		paused.State = kapsel.EndpointPaused
		w.must(w.store.CreateEndpoint(w.ctx, paused, 0))
		deleted := w.named(s.ID.String())
		w.must(w.store.CreateEndpoint(w.ctx, deleted, 0))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, deleted.ID, w.now))
		w.pass(time.Second)
		within := func(r *kapsel.Replay) { r.Since, r.Until = since, until }

		preview := w.replay(ofMissing(late), within, func(r *kapsel.Replay) { r.ID = kapsel.ReplayID{} })
		count, some, err := w.store.CountReplay(w.ctx, preview, 1000, 2)
		w.must(err)
		w.same("count", len(want), count)
		w.same("sample", 2, len(some))
		for _, d := range some {
			w.same("an element", kapsel.Delivery{EventID: d.EventID, EndpointID: late.ID, TenantID: w.tenant.ID, Size: len(`{"hello":"kapsel"}`)}, d)
		}
		for _, r := range []kapsel.Replay{
			w.replay(ofMissing(deleted), within),
			w.replay(ofMissing(late), func(r *kapsel.Replay) { r.TenantID = other.ID }),
			w.replay(ofMissing(w.endpoint)),
			w.replay(ofMissing(late), func(r *kapsel.Replay) { r.Since = w.now }),
		} {
			count, _, err := w.store.CountReplay(w.ctx, r, 1000, 0)
			w.must(err)
			w.same("of an endpoint that lacks nothing", 0, count)
		}

		r := w.newReplay(ofMissing(late), within, func(r *kapsel.Replay) { r.Total = count })
		w.same("read", r, w.readReplay(r.ID))
		w.arrived(s, typed("a.later"))
		w.pass(time.Second)
		w.same("made", len(want), w.walkOut(r.ID, 2))
		for _, id := range want {
			all := w.event(id).Deliveries
			d := all[len(all)-1]
			w.same("the delivery", kapsel.Delivery{
				ID: d.ID, EventID: id, EndpointID: late.ID, TenantID: w.tenant.ID, Status: kapsel.Pending, DueAt: w.now, Size: d.Size, CreatedAt: w.now,
			}, d)
			w.same("part", id.Part(), d.ID.Part())
			_, err := w.store.Deliver(w.ctx, w.tenant.ID, id, late.ID, w.now)
			w.refused(err, kapsel.Conflict, "delivering it once more")
		}
		w.same("listed", len(want)+1, len(w.listed(store.EventFilter{EndpointID: late.ID}, 3)))
		w.same("what it had", 2, len(w.event(had.Event.ID).Deliveries))

		// All endpoints of the tenant: the paused one lacks all of the source's.
		all := w.newReplay(ofMissing(kapsel.Endpoint{}), func(r *kapsel.Replay) { r.Since, r.Until = since, until })
		w.same("made for all", 6, w.walkOut(all.ID, 4))
		w.same("for the paused one", 6, len(w.deliveries(paused)))
		w.same("again", 0, w.walkOut(w.newReplay(ofMissing(late), within).ID, 10))

		// How they ended is counted, also where retention has deleted them.
		answers := []kapsel.Answer{ok, refusal, useless}
		for i, c := range w.claim(late) {
			w.step(r.ID, 1)
			w.same("status", kapsel.ReplayRunning, w.readReplay(r.ID).Status)
			w.complete(c.Delivery, answers[i%3])
		}
		w.pass(time.Second)
		w.step(r.ID, 1)
		got := w.readReplay(r.ID)
		// One of those claimed was there before.
		w.same("done", kapsel.ReplayDone, got.Status)
		w.same("created", len(want), got.Created)
		w.same("ended", len(want), got.Delivered+got.Failed)
	}},

	{"an app's endpoints lack what was published to the app, and others what was published to none", func(w *world) {
		app, other := w.newApp("acme"), w.newApp("other")
		want := map[kapsel.EndpointID]kapsel.EventID{}
		of, none := w.ofApp(app), w.named(kapsel.Publish)
		want[of.ID] = w.arrived(published, publishedTo(app)).Event.ID
		want[none.ID] = w.arrived(published).Event.ID
		w.arrived(published, publishedTo(other))
		w.must(w.store.CreateEndpoint(w.ctx, of, 0))
		w.must(w.store.CreateEndpoint(w.ctx, none, 0))
		w.pass(time.Second)
		w.same("made", 2, w.walkOut(w.newReplay(ofMissing(kapsel.Endpoint{})).ID, 10))
		for _, e := range []kapsel.Endpoint{of, none} {
			w.same("listed", []kapsel.EventID{want[e.ID]}, w.listed(store.EventFilter{EndpointID: e.ID}, 10))
		}
	}},

	{"a walk goes on over many events that were delivered, whatever the size of the steps", func(w *world) {
		s := w.newSource()
		late := w.named(s.ID.String())
		w.must(w.store.CreateEndpoint(w.ctx, late, 0))
		const n = 600
		w.together(n, func(i int) error {
			in := w.arrival(s)
			if i%100 != 99 {
				to(late)(&in)
			}
			_, err := w.store.Accept(w.ctx, in)
			return err
		})
		w.pass(time.Second)
		count, _, err := w.store.CountReplay(w.ctx, w.replay(ofMissing(late)), 1000, 0)
		w.must(err)
		w.same("count", n/100, count)
		w.same("made", n/100, w.walkOut(w.newReplay(ofMissing(late)).ID, 1))
		w.same("deliveries", n, len(w.deliveries(late)))
	}},

	{"F-A10 replays of what is missing and single ones at the same time deliver each event once", func(w *world) {
		s := w.newSource()
		const n = 40
		var events []kapsel.EventID
		for range n {
			events = append(events, w.arrived(s).Event.ID)
		}
		late := w.named(s.ID.String())
		w.must(w.store.CreateEndpoint(w.ctx, late, 0))
		w.pass(time.Second)
		made := w.madeTogether(w.newReplay(ofMissing(late)), w.newReplay(ofMissing(late)), events, func(id kapsel.EventID) error {
			_, err := w.store.Deliver(w.ctx, w.tenant.ID, id, late.ID, w.now)
			return err
		})
		w.same("made", n, made)
		w.same("deliveries", n, len(w.deliveries(late)))
	}},

	{"a replay's counts hold what retention has deleted since", func(w *world) {
		s := w.newSource()
		late := w.named(s.ID.String())
		w.must(w.store.CreateEndpoint(w.ctx, late, 0))
		for _, tt := range []struct {
			of   kapsel.Endpoint
			make func()
			as   func(*kapsel.Replay)
		}{
			{late, func() { w.arrived(s) }, ofMissing(late)},
			{w.endpoint, func() { w.finished(w.endpoint, refusal) }, func(r *kapsel.Replay) { r.EndpointID = w.endpoint.ID }},
		} {
			for range 3 {
				tt.make()
			}
			w.pass(time.Second)
			r := w.newReplay(tt.as)
			w.same("made", 3, w.walkOut(r.ID, 10))
			held := w.claim(tt.of)
			w.complete(held[0].Delivery, ok)
			w.complete(held[1].Delivery, refusal)
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 100)
			w.must(err)
			w.same("deleted", 2, n)
			got := w.readReplay(r.ID)
			w.same("with one open", [4]any{kapsel.ReplayRunning, 3, 1, 1}, [4]any{got.Status, got.Created, got.Delivered, got.Failed})
			w.complete(held[2].Delivery, ok)
			w.step(r.ID, 1)
			got = w.readReplay(r.ID)
			w.same("done", [4]any{kapsel.ReplayDone, 3, 2, 1}, [4]any{got.Status, got.Created, got.Delivered, got.Failed})
			_, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 100)
			w.must(err)
			w.same("after retention", got, w.readReplay(r.ID))
			page, err := w.store.ListReplays(w.ctx, w.tenant.ID, store.Page[kapsel.ReplayID]{Limit: 10})
			w.must(err)
			for _, listed := range page {
				if listed.ID == got.ID {
					w.same("listed", got, listed)
				}
			}
		}
	}},

	{"a replay of what waits makes it due now, once, and makes no delivery", func(w *world) {
		second := w.newEndpoint(w.tenant)
		early := w.accept(w.endpoint, heldBy(w.node))
		w.complete(early.Deliveries[0], again)
		w.pass(time.Second)
		since := w.now
		waits := map[kapsel.DeliveryID]bool{}
		for range 5 { // their due times are the same
			in := w.accept(w.endpoint, heldBy(w.node))
			w.complete(in.Deliveries[0], again)
			waits[in.Deliveries[0].ID] = true
		}
		in := w.accept(second, heldBy(w.node))
		longer := again
		longer.Delay = time.Hour
		w.complete(in.Deliveries[0], longer)
		waits[in.Deliveries[0].ID] = true

		scheduled := w.accept(w.endpoint, due(w.now.Add(time.Hour)))
		fresh, running := w.accept(second), w.accept(second, heldBy(w.node))
		tried := w.accept(w.endpoint, heldBy(w.node))
		w.complete(tried.Deliveries[0], again)
		w.finished(w.endpoint, refusal)
		w.pass(time.Second)
		others := []kapsel.DeliveryID{early.Deliveries[0].ID, scheduled.Deliveries[0].ID, fresh.Deliveries[0].ID, running.Deliveries[0].ID}
		r := w.newReplay(ofWaiting, func(r *kapsel.Replay) { r.Since = since })

		count, some, err := w.store.CountReplay(w.ctx, r, 1000, 3)
		w.must(err)
		w.same("count", len(waits)+1, count)
		w.same("sample", 3, len(some))

		// One is tried meanwhile, and waits again.
		w.pass(time.Second)
		id := tried.Deliveries[0].ID
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, id, kapsel.Retry{}, w.now)
		w.must(err)
		w.complete(w.claimOne(), again)
		others = append(others, id)
		before := map[kapsel.DeliveryID]kapsel.Delivery{}
		for _, id := range others {
			before[id] = w.delivery(id)
		}

		w.same("moved", len(waits), w.walkOut(r.ID, 2))
		for id := range waits {
			if d := w.delivery(id); d.Status != kapsel.Pending || d.DueAt != w.now || d.Attempts != 1 {
				w.t.Errorf("it is %+v", d)
			}
		}
		for id, d := range before {
			w.same("another", d, w.delivery(id))
		}
		w.same("deliveries", 9, len(w.deliveries(w.endpoint)))
		got := w.readReplay(r.ID)
		w.same("created", len(waits), got.Created)
		w.same("due", 5, len(w.claim(w.endpoint)))
		w.step(r.ID, 2)
		got = w.readReplay(r.ID)
		w.same("done", [3]any{kapsel.ReplayDone, 0, 0}, [3]any{got.Status, got.Delivered, got.Failed})
	}},
}
