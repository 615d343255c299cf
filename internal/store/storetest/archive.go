package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// varied fills the world's tenant with events in every state, at two endpoints, a minute
// apart, and another tenant with one. It returns the first's records, newest first, as a
// list shows them.
func (w *world) varied() (mine []store.EventRecord, other store.EventRecord) {
	w.t.Helper()
	second := w.newEndpoint(w.tenant)
	for round := range 2 {
		for i, e := range []kapsel.Endpoint{w.endpoint, second} {
			typed := func(in *store.Acceptance) { in.Event.Type = fmt.Sprintf("type.%d", round) }
			received := w.accept(e, key(fmt.Sprintf("key %d", round)), typed)
			running := w.accept(e, heldBy(w.node), typed)
			waiting := w.accept(e, heldBy(w.node))
			w.complete(waiting.Deliveries[0], again)
			w.pass(time.Minute)
			events := []kapsel.EventID{received.Event.ID, running.Event.ID, waiting.Event.ID}
			for _, a := range []kapsel.Answer{ok, refusal, useless} {
				events = append(events, w.finished(e, a).Delivery.EventID)
				w.pass(time.Minute)
			}
			canceled := w.accept(e)
			_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, canceled.Deliveries[0].ID, kapsel.Cancel{}, w.now)
			w.must(err)
			replayed := w.finished(e, refusal)
			_, err = w.store.Replay(w.ctx, w.tenant.ID, replayed.Delivery.EventID, kapsel.DeliveryID{}, w.now)
			w.must(err)
			if i == 1 {
				w.pass(time.Minute)
			}
			for _, id := range append(events, canceled.Event.ID, replayed.Delivery.EventID) {
				r := w.event(id)
				r.Event.Body, r.Event.Header, r.Event.Query = nil, nil, ""
				mine = append(mine, r)
			}
		}
	}
	slices.SortFunc(mine, func(a, b store.EventRecord) int { return bytes.Compare(b.Event.ID[:], a.Event.ID[:]) })
	done := w.finished(w.newEndpoint(w.newTenant()), refusal)
	return mine, w.event(done.Delivery.EventID)
}

// archiving are the promises of Archive.
var archiving = []promise{
	{"B-76 another tenant's rows look like missing ones, and stay as they are", func(w *world) {
		other := w.newTenant().ID
		waiting := w.accept(w.endpoint)
		failed := w.finished(w.endpoint, refusal)
		for _, tt := range []struct {
			name string
			call func(tenant kapsel.TenantID) error
		}{
			{"Event", func(t kapsel.TenantID) error {
				_, err := w.store.Event(w.ctx, t, waiting.Event.ID)
				return err
			}},
			{"EventHead", func(t kapsel.TenantID) error {
				_, err := w.store.EventHead(w.ctx, t, waiting.Event.ID)
				return err
			}},
			{"Delivery", func(t kapsel.TenantID) error {
				_, err := w.store.Delivery(w.ctx, t, waiting.Deliveries[0].ID)
				return err
			}},
			{"Attempt", func(t kapsel.TenantID) error {
				_, err := w.store.Attempt(w.ctx, t, failed.Attempt.ID)
				return err
			}},
			{"MoveDelivery", func(t kapsel.TenantID) error {
				_, err := w.store.MoveDelivery(w.ctx, t, waiting.Deliveries[0].ID, kapsel.Retry{}, w.now)
				return err
			}},
			{"Replay", func(t kapsel.TenantID) error {
				_, err := w.store.Replay(w.ctx, t, failed.Delivery.EventID, kapsel.DeliveryID{}, w.now)
				return err
			}},
			{"ListAttempts", func(t kapsel.TenantID) error {
				list, err := w.store.ListAttempts(w.ctx, t, failed.Delivery.ID, 0, 10)
				if err == nil && len(list) == 0 { // left out
					return store.NotFound("attempt")
				}
				return err
			}},
			{"ListEvents", func(t kapsel.TenantID) error {
				list, _, err := w.store.ListEvents(w.ctx, t, store.EventFilter{EndpointID: w.endpoint.ID}, store.Page[kapsel.EventID]{Limit: 10})
				if err == nil && len(list) == 0 {
					return store.NotFound("event")
				}
				return err
			}},
			{"ListDeliveries", func(t kapsel.TenantID) error {
				list, err := w.store.ListDeliveries(w.ctx, t, store.DeliveryFilter{EndpointID: w.endpoint.ID}, store.Page[kapsel.DeliveryID]{Limit: 10})
				if err == nil && len(list) == 0 {
					return store.NotFound("delivery")
				}
				return err
			}},
		} {
			before := w.deliveries(w.endpoint)
			w.refused(tt.call(other), kapsel.NotFound, tt.name+" by another tenant")
			w.same(tt.name+" by another tenant: deliveries", before, w.deliveries(w.endpoint))
			w.must(tt.call(w.tenant.ID))
		}
		w.same("the event by no tenant", waiting.Event, w.event(waiting.Event.ID).Event)
	}},

	{"EventHead is Event without the body", func(w *world) {
		in := w.accept(w.endpoint)
		want := w.event(in.Event.ID)
		if len(want.Event.Body) == 0 {
			w.t.Fatal("the event has no body")
		}
		want.Event.Body = nil
		got, err := w.store.EventHead(w.ctx, w.tenant.ID, in.Event.ID)
		w.must(err)
		w.same("the head", want, got)
	}},

	{"what is not there is NotFound", func(w *world) {
		in := w.acceptance(w.endpoint, heldBy(w.node))
		for _, tenant := range []kapsel.TenantID{{}, w.tenant.ID} {
			_, err := w.store.Event(w.ctx, tenant, in.Event.ID)
			w.refused(err, kapsel.NotFound, "Event")
			_, err = w.store.EventHead(w.ctx, tenant, in.Event.ID)
			w.refused(err, kapsel.NotFound, "EventHead")
			_, err = w.store.Delivery(w.ctx, tenant, in.Deliveries[0].ID)
			w.refused(err, kapsel.NotFound, "Delivery")
			_, err = w.store.Attempt(w.ctx, tenant, in.Deliveries[0].Token)
			w.refused(err, kapsel.NotFound, "Attempt")
			_, err = w.store.MoveDelivery(w.ctx, tenant, in.Deliveries[0].ID, kapsel.Cancel{}, w.now)
			w.refused(err, kapsel.NotFound, "MoveDelivery")
			_, err = w.store.Replay(w.ctx, tenant, in.Event.ID, kapsel.DeliveryID{}, w.now)
			w.refused(err, kapsel.NotFound, "Replay")
		}
	}},

	{"an event comes with its deliveries, oldest first", func(w *world) {
		done := w.finished(w.endpoint, refusal)
		for range 3 {
			w.pass(time.Millisecond)
			_, err := w.store.Replay(w.ctx, w.tenant.ID, done.Delivery.EventID, kapsel.DeliveryID{}, w.now)
			w.must(err)
			w.complete(w.claimOne(), refusal)
		}
		got := w.event(done.Delivery.EventID).Deliveries
		w.same("deliveries", 4, len(got))
		w.same("the first", done.Delivery.ID, got[0].ID)
		for i, d := range got[1:] {
			w.same("what it repeats", got[i].ID, d.ReplayOf)
			w.same("what repeats that", d.ID, got[i].ReplayedAs)
		}
	}},

	{"events are listed newest first, filtered, without what is large", func(w *world) {
		mine, other := w.varied()
		other.Event.Body, other.Event.Header, other.Event.Query = nil, nil, ""
		everyone := append([]store.EventRecord{other}, mine...)
		slices.SortFunc(everyone, func(a, b store.EventRecord) int { return bytes.Compare(b.Event.ID[:], a.Event.ID[:]) })
		middle := mine[len(mine)/2].Event.ReceivedAt

		filters := map[string]store.EventFilter{
			"all": {}, "of an endpoint": {EndpointID: w.endpoint.ID}, "of no endpoint": {EndpointID: kapsel.NewEndpointID(w.now)},
			"with a key": {IdempotencyKey: []byte("key 1")}, "with no such key": {IdempotencyKey: []byte("key")},
			"of a type": {Type: "type.0"}, "of no such type": {Type: "type"}, "of a type, and its endpoint": {Type: "type.1", EndpointID: w.endpoint.ID},
			"of a type, with a key": {Type: "type.1", IdempotencyKey: []byte("key 1")}, "of a type, since": {Type: "type.0", Since: noon.Add(2 * time.Minute)},
			"since": {Since: middle}, "until": {Until: middle}, "between": {Since: noon.Add(2 * time.Minute), Until: middle},
			"all at once": {EndpointID: w.endpoint.ID, Status: kapsel.EventReceived, Since: noon, Until: w.now, IdempotencyKey: []byte("key 1")},
		}
		for _, status := range []kapsel.EventStatus{"received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled", "unmatched"} {
			filters[string(status)] = store.EventFilter{Status: status}
			filters[string(status)+" of a type"] = store.EventFilter{Status: status, Type: "type.1"}
			filters[string(status)+" of a type, of an endpoint"] = store.EventFilter{Status: status, Type: "type.1", EndpointID: w.endpoint.ID}
			filters[string(status)+" of an endpoint since"] = store.EventFilter{Status: status, EndpointID: w.endpoint.ID, Since: noon.Add(5 * time.Minute)}
		}
		for name, f := range filters {
			for tenant, all := range map[kapsel.TenantID][]store.EventRecord{w.tenant.ID: mine, {}: everyone} {
				var want []store.EventRecord
				for _, r := range all {
					if passes(r, f) {
						want = append(want, r)
					}
				}
				for _, size := range []int{200, 3} {
					w.same(fmt.Sprintf("%s, in pages of %d", name, size), want, w.listEvents(tenant, f, size))
					w.same(fmt.Sprintf("%s, in pages of %d that look at two rows", name, size), want, w.listEvents(tenant, f, size, 2))
				}
			}
		}
	}},

	{"deliveries are listed newest first, filtered", func(w *world) {
		events, _ := w.varied()
		var all []kapsel.Delivery
		for _, r := range events {
			all = append(all, r.Deliveries...)
		}
		slices.SortFunc(all, func(a, b kapsel.Delivery) int { return bytes.Compare(b.ID[:], a.ID[:]) })
		var filters []store.DeliveryFilter
		for _, endpoint := range []kapsel.EndpointID{{}, w.endpoint.ID} {
			for _, replayed := range []*bool{nil, ptr(false), ptr(true)} {
				for status := kapsel.Pending; status <= kapsel.Canceled; status++ {
					filters = append(filters, store.DeliveryFilter{EndpointID: endpoint, Status: ptr(status), Replayed: replayed})
				}
				filters = append(filters, store.DeliveryFilter{EndpointID: endpoint, Replayed: replayed})
			}
		}
		for _, f := range filters {
			var want []kapsel.Delivery
			for _, d := range all {
				if (f.EndpointID.IsZero() || d.EndpointID == f.EndpointID) && (f.Status == nil || d.Status == *f.Status) &&
					(f.Replayed == nil || *f.Replayed == !d.ReplayedAs.IsZero()) {
					want = append(want, d)
				}
			}
			for _, size := range []int{200, 2} {
				var got []kapsel.Delivery
				p := store.Page[kapsel.DeliveryID]{Limit: size}
				for page := make([]kapsel.Delivery, size); len(page) == size; {
					var err error
					page, err = w.store.ListDeliveries(w.ctx, w.tenant.ID, f, p)
					w.must(err)
					if got = append(got, page...); len(got) > 0 {
						p.Before = got[len(got)-1].ID
					}
				}
				w.same(fmt.Sprintf("%+v, in pages of %d", f, size), want, got)
			}
		}
	}},

	{"a person's retry makes a waiting delivery due, a cancel ends it", func(w *world) {
		waiting := w.complete(w.accept(w.endpoint, heldBy(w.node)).Deliveries[0], again).Delivery
		w.pass(time.Second)
		for _, h := range []kapsel.Transition{kapsel.Retry{}, kapsel.Cancel{}} {
			want, err := waiting.After(h, w.now)
			w.must(err)
			got, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, waiting.ID, h, w.now)
			w.must(err)
			w.same("moved", want, got)
			w.same("delivery", want, w.delivery(waiting.ID))
			w.pass(time.Second)
		}
		another := w.complete(w.accept(w.endpoint, heldBy(w.node)).Deliveries[0], again).Delivery
		_, err := w.store.MoveDelivery(w.ctx, kapsel.TenantID{}, another.ID, kapsel.Retry{}, w.now)
		w.must(err)
		w.same("due now", another.ID, w.claimOne().ID)
	}},

	{"what is delivering or has ended cannot be retried or canceled", func(w *world) {
		running := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		ended := []kapsel.Delivery{running}
		for _, a := range []kapsel.Answer{ok, refusal, useless} {
			ended = append(ended, w.finished(w.endpoint, a).Delivery)
		}
		for _, d := range ended {
			for _, h := range []kapsel.Transition{kapsel.Retry{}, kapsel.Cancel{}} {
				_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, d.ID, h, w.now)
				w.refused(err, kapsel.Conflict, fmt.Sprintf("%T while %s", h, d.Status))
				w.same("delivery", d, w.delivery(d.ID))
			}
		}
	}},

	{"a claim and a cancel at the same time: one of them wins", func(w *world) {
		for range 20 {
			in := w.accept(w.endpoint)
			var claimed []store.Claimed
			var canceled error
			w.together(2, func(i int) (err error) {
				if i == 0 {
					_, canceled = w.store.MoveDelivery(w.ctx, w.tenant.ID, in.Deliveries[0].ID, kapsel.Cancel{}, w.now)
					return nil
				}
				claimed, _, err = w.store.Claim(w.ctx, w.node, w.now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 1}}, 1)
				return err
			})
			got := w.delivery(in.Deliveries[0].ID)
			switch {
			case canceled == nil && len(claimed) == 0:
				w.same("status", kapsel.Canceled, got.Status)
			case len(claimed) == 1 && kapsel.CodeOf(canceled) == kapsel.Conflict:
				w.same("delivery", claimed[0].Delivery, got)
				w.complete(got, ok)
			default:
				// A claim may pass over what is being changed; a cancel may not fail for that.
				w.t.Fatalf("%d claimed, and the cancel's error is %v; it is %s", len(claimed), canceled, got.Status)
			}
		}
	}},

	{"a replay repeats a delivery that ended, as a new one due now", func(w *world) {
		for _, a := range []kapsel.Answer{ok, refusal, useless} {
			done := w.finished(w.endpoint, a)
			w.pass(time.Second)
			got, err := w.store.Replay(w.ctx, w.tenant.ID, done.Delivery.EventID, kapsel.DeliveryID{}, w.now)
			w.must(err)
			if got.ID.IsZero() || got.ID == done.Delivery.ID || got.ID.Part() != done.Delivery.ID.Part() {
				w.t.Errorf("the id of the replay is %v, of part %d", got.ID, got.ID.Part())
			}
			old := done.Delivery
			w.same("the new one", kapsel.Delivery{
				ID: got.ID, EventID: old.EventID, EndpointID: old.EndpointID, TenantID: old.TenantID, Status: kapsel.Pending,
				DueAt: w.now, ReplayOf: old.ID, Size: old.Size, CreatedAt: w.now,
			}, got)
			old.ReplayedAs = got.ID
			w.same("both", []kapsel.Delivery{old, got}, w.event(old.EventID).Deliveries)
			w.same("claimed", got.ID, w.claimOne().ID)
		}
		canceled := w.accept(w.endpoint, due(w.now.Add(time.Hour)))
		_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, canceled.Deliveries[0].ID, kapsel.Cancel{}, w.now)
		w.must(err)
		_, err = w.store.Replay(w.ctx, kapsel.TenantID{}, canceled.Event.ID, canceled.Deliveries[0].ID, w.now)
		w.must(err)
	}},

	{"what has not ended or was replayed already cannot be replayed", func(w *world) {
		replay := func(event kapsel.EventID, of kapsel.DeliveryID) error {
			_, err := w.store.Replay(w.ctx, w.tenant.ID, event, of, w.now)
			return err
		}
		waiting := w.accept(w.endpoint, due(w.now.Add(time.Hour)))
		w.refusedAs(replay(waiting.Event.ID, kapsel.DeliveryID{}), unreplayable(waiting.Deliveries[0]), "while pending")
		running := w.accept(w.endpoint, heldBy(w.node))
		w.refusedAs(replay(running.Event.ID, running.Deliveries[0].ID), unreplayable(running.Deliveries[0]), "while delivering")

		done := w.finished(w.endpoint, refusal).Delivery
		w.must(replay(done.EventID, done.ID))
		w.refusedAs(replay(done.EventID, done.ID), unreplayable(w.delivery(done.ID)), "a second time")
		w.refused(replay(done.EventID, kapsel.DeliveryID{}), kapsel.Conflict, "the newest, while pending")
		w.complete(w.claimOne(), refusal)
		w.refused(replay(done.EventID, done.ID), kapsel.Conflict, "a second time, when the first has ended")
		w.must(replay(done.EventID, kapsel.DeliveryID{}))
		w.same("deliveries", 3, len(w.event(done.EventID).Deliveries))

		another := w.finished(w.endpoint, refusal).Delivery
		w.refused(replay(done.EventID, another.ID), kapsel.NotFound, "another event's delivery")
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.refusedAs(replay(another.EventID, another.ID), rules.EndpointDeleted(), "to a deleted endpoint")
		w.same("delivery", another, w.delivery(another.ID))
	}},

	{"a replay in the delivery's own millisecond sorts after it, and so does the replay of that", func(w *world) {
		for range 20 {
			last := w.finished(w.endpoint, refusal).Delivery
			for range 3 {
				got, err := w.store.Replay(w.ctx, w.tenant.ID, last.EventID, kapsel.DeliveryID{}, w.now)
				w.must(err)
				if bytes.Compare(got.ID[:], last.ID[:]) <= 0 {
					w.t.Fatalf("the replay %v sorts before %v, which it repeats", got.ID, last.ID)
				}
				last = w.complete(w.claimOne(), refusal).Delivery
			}
			w.same("the newest", last.ID, w.event(last.EventID).Deliveries[3].ID)
		}
	}},

	{"of replays at the same time one is", func(w *world) {
		done := w.finished(w.endpoint, useless).Delivery
		var made atomic.Int64
		w.together(10, func(int) error {
			_, err := w.store.Replay(w.ctx, w.tenant.ID, done.EventID, done.ID, w.now)
			if kapsel.CodeOf(err) == kapsel.Conflict {
				return nil
			}
			made.Add(1)
			return err
		})
		if n := len(w.event(done.EventID).Deliveries); made.Load() != 1 || n != 2 {
			w.t.Errorf("%d replays were made, there are %d deliveries", made.Load(), n)
		}
	}},

	{"attempts are listed by number", func(w *world) {
		d := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		var want []kapsel.Attempt
		for range 5 {
			done := w.complete(d, again)
			want = append(want, done.Attempt)
			w.pass(again.Delay)
			d = w.claimOne()
		}
		for _, tt := range []struct{ after, limit, from, to int }{{0, 10, 0, 5}, {0, 2, 0, 2}, {2, 2, 2, 4}, {4, 2, 4, 5}, {5, 2, 5, 5}} {
			got, err := w.store.ListAttempts(w.ctx, w.tenant.ID, d.ID, tt.after, tt.limit)
			w.must(err)
			w.same(fmt.Sprintf("%d after %d", tt.limit, tt.after), want[tt.from:tt.to], got)
		}
	}},

	{"what is read is the reader's own", func(w *world) {
		in := w.accept(w.endpoint)
		for range 2 {
			got := w.event(in.Event.ID)
			w.same("event", in.Event, got.Event)
			clear(got.Event.Body)
			clear(got.Event.Header)
		}
		claimed := w.claim(w.endpoint)
		w.same("claimed", in.Event, claimed[0].Event)
	}},
}

// passes reports whether a record passes a filter.
func passes(r store.EventRecord, f store.EventFilter) bool {
	newest := map[kapsel.EndpointID]kapsel.Delivery{}
	for _, d := range r.Deliveries { // oldest first
		newest[d.EndpointID] = d
	}
	var states []kapsel.Delivery
	for _, d := range newest {
		states = append(states, d)
	}
	at := r.Event.ReceivedAt
	return (f.EndpointID.IsZero() || r.Event.EndpointID == f.EndpointID) &&
		(f.Type == "" || r.Event.Type == f.Type) &&
		(f.Status == "" || kapsel.StatusOfEvent(states, false) == f.Status) &&
		(f.Since.IsZero() || !at.Before(f.Since)) && (f.Until.IsZero() || at.Before(f.Until)) &&
		(f.IdempotencyKey == nil || bytes.Equal(r.Event.IdempotencyKey, f.IdempotencyKey))
}

// listEvents reads a list to its end, in pages of size that look at as many rows as usual, or as look says.
func (w *world) listEvents(tenant kapsel.TenantID, f store.EventFilter, size int, look ...int) (all []store.EventRecord) {
	w.t.Helper()
	p := store.Page[kapsel.EventID]{Limit: size}
	if look != nil {
		p.Look = look[0]
	}
	for {
		page, reached, err := w.store.ListEvents(w.ctx, tenant, f, p)
		w.must(err)
		if len(page) > size || len(page) == size && !reached.IsZero() {
			w.must(errors.New("a page is longer than its limit, or is full and says that it ended early"))
		}
		all = append(all, page...)
		switch {
		case len(page) == size:
			reached = page[size-1].Event.ID
		case reached.IsZero():
			return all
		case !p.Before.IsZero() && bytes.Compare(reached[:], p.Before[:]) >= 0 || len(page) > 0 && bytes.Compare(page[len(page)-1].Event.ID[:], reached[:]) < 0:
			w.must(errors.New("a page reached no further than the one before, or has events from behind the end"))
		}
		p.Before = reached
	}
}

// unreplayable is why a delivery cannot be replayed.
func unreplayable(d kapsel.Delivery) error {
	_, err := rules.Replayable([]kapsel.Delivery{d}, d.ID, nil)
	return err
}
