package storetest

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// follow reads the stream behind a position to its end, some events at a time.
func (w *world) follow(f store.StreamFilter, after store.Position, limit int) (all []store.Streamed, end store.Position) {
	w.t.Helper()
	for {
		events, next, more, err := w.store.StreamEvents(w.ctx, f, after, w.now, limit)
		w.must(err)
		if next.Compare(after) < 0 {
			w.t.Fatalf("the stream went back from %v to %v", after, next)
		}
		for _, e := range events {
			if e.At.Compare(after) <= 0 || e.At.Compare(next) > 0 {
				w.t.Fatalf("an event at %v is not behind %v and up to %v", e.At, after, next)
			}
			after = e.At
		}
		all, after = append(all, events...), next
		if !more {
			return all, after
		}
	}
}

// atEnd is the end of the stream once it is behind all that was accepted. What was committed
// is visible when the transactions beside it have ended.
func (w *world) atEnd(last store.Acceptance) store.Position {
	w.t.Helper()
	at, err := w.store.StreamPosition(w.ctx, kapsel.TenantID{}, last.Event.ID)
	w.must(err)
	for {
		end, err := w.store.StreamEnd(w.ctx, w.now)
		w.must(err)
		if end.Compare(at) >= 0 {
			return end
		}
	}
}

func streamedIDs(events []store.Streamed) (ids []kapsel.EventID) {
	for _, e := range events {
		ids = append(ids, e.Event.ID)
	}
	return ids
}

// streaming are the promises of Stream.
var streaming = []promise{
	{"events come in the order of their acceptance, as lists show them", func(w *world) {
		var want []store.EventRecord
		var last store.Acceptance
		for i := range 7 {
			switch i % 3 {
			case 0:
				last = w.accept(w.endpoint)
			case 1:
				last = w.accept(w.endpoint, heldBy(w.node), key(fmt.Sprint(i)))
				w.complete(last.Deliveries[0], refusal)
			case 2:
				last = w.accept(w.newEndpoint(w.newTenant()), body([]byte("another's")))
			}
			w.pass(-time.Minute) // what ids and receipts say is not what counts
			r := w.event(last.Event.ID)
			r.Event.Body, r.Event.Header, r.Event.Query = nil, nil, ""
			want = append(want, r)
		}
		w.atEnd(last)
		for _, limit := range []int{1, 2, 7, 100} {
			got, _ := w.follow(store.StreamFilter{}, store.Position{}, limit)
			var records []store.EventRecord
			for _, e := range got {
				records = append(records, e.EventRecord)
			}
			w.same(fmt.Sprintf("by %d", limit), want, records)
		}
	}},

	{"the stream goes on behind any position, also one that a node gave before", func(w *world) {
		var want []kapsel.EventID
		var last store.Acceptance
		for range 5 {
			last = w.accept(w.endpoint)
			want = append(want, last.Event.ID)
		}
		end := w.atEnd(last)
		all, _ := w.follow(store.StreamFilter{}, store.Position{}, 100)
		w.same("all", want, streamedIDs(all))
		for i, e := range all {
			rest, _ := w.follow(store.StreamFilter{}, e.At, 2)
			w.same("behind an event", want[i+1:], streamedIDs(rest))
			at, err := w.store.StreamPosition(w.ctx, w.tenant.ID, e.Event.ID)
			w.must(err)
			w.same("the position of an event", e.At, at)
		}
		rest, _ := w.follow(store.StreamFilter{}, end, 100)
		w.same("behind the end", 0, len(rest))
		last = w.accept(w.endpoint)
		w.atEnd(last)
		rest, _ = w.follow(store.StreamFilter{}, end, 100)
		w.same("behind what was the end", []kapsel.EventID{last.Event.ID}, streamedIDs(rest))
	}},

	{"B-79 a filter lets only the events of its tenant or endpoint through, and its position passes the others", func(w *world) {
		other := w.newTenant()
		endpoints := []kapsel.Endpoint{w.endpoint, w.newEndpoint(w.tenant), w.newEndpoint(other)}
		by := map[kapsel.EndpointID][]kapsel.EventID{}
		var all []kapsel.EventID
		var last store.Acceptance
		for i := range 12 {
			last = w.accept(endpoints[i%len(endpoints)])
			by[last.Event.EndpointID] = append(by[last.Event.EndpointID], last.Event.ID)
			all = append(all, last.Event.ID)
		}
		w.atEnd(last)
		var mine []kapsel.EventID
		for _, id := range all {
			if !slices.Contains(by[endpoints[2].ID], id) {
				mine = append(mine, id)
			}
		}
		for name, tt := range map[string]struct {
			f    store.StreamFilter
			want []kapsel.EventID
		}{
			"all":                     {store.StreamFilter{}, all},
			"a tenant":                {store.StreamFilter{Tenants: []kapsel.TenantID{w.tenant.ID}}, mine},
			"two tenants":             {store.StreamFilter{Tenants: []kapsel.TenantID{other.ID, w.tenant.ID}}, all},
			"no such tenant":          {store.StreamFilter{Tenants: []kapsel.TenantID{kapsel.NewTenantID(w.now)}}, nil},
			"an endpoint":             {store.StreamFilter{EndpointID: endpoints[1].ID}, by[endpoints[1].ID]},
			"a tenant's endpoint":     {store.StreamFilter{Tenants: []kapsel.TenantID{w.tenant.ID}, EndpointID: endpoints[1].ID}, by[endpoints[1].ID]},
			"another's endpoint":      {store.StreamFilter{Tenants: []kapsel.TenantID{w.tenant.ID}, EndpointID: endpoints[2].ID}, nil},
			"an endpoint of no one's": {store.StreamFilter{EndpointID: kapsel.NewEndpointID(w.now)}, nil},
		} {
			for _, limit := range []int{1, 100} {
				got, _ := w.follow(tt.f, store.Position{}, limit)
				w.same(name, tt.want, streamedIDs(got))
			}
		}
		_, err := w.store.StreamPosition(w.ctx, other.ID, mine[0])
		w.refused(err, kapsel.NotFound, "the position of another tenant's event")
		_, err = w.store.StreamPosition(w.ctx, w.tenant.ID, kapsel.NewEventID(w.now, 1))
		w.refused(err, kapsel.NotFound, "the position of no event")
	}},

	{"the newest of each tenant may be asked for, and say how many were left out before them", func(w *world) {
		other := w.newEndpoint(w.newTenant())
		var mine []kapsel.EventID
		var quiet, last store.Acceptance
		for i := range 8 {
			if i == 2 {
				quiet = w.accept(other)
			}
			last = w.accept(w.endpoint)
			mine = append(mine, last.Event.ID)
		}
		w.atEnd(last)
		one := func(id kapsel.EventID, left int) string { return fmt.Sprint(id, " after ", left) }
		read := func(f store.StreamFilter, limit int) (got []string) {
			events, end := w.follow(f, store.Position{}, limit)
			for _, e := range events {
				got = append(got, one(e.Event.ID, e.Left))
			}
			rest, _ := w.follow(store.StreamFilter{}, end, limit)
			w.same("behind the last", 0, len(rest))
			return got
		}
		w.same("of all", []string{one(quiet.Event.ID, 0), one(mine[6], 6), one(mine[7], 0)}, read(store.StreamFilter{Newest: 2}, 100))
		w.same("by three", []string{one(mine[1], 1), one(quiet.Event.ID, 0), one(mine[4], 2), one(mine[7], 2)}, read(store.StreamFilter{Newest: 1}, 3))
		w.same("of a tenant", []string{one(quiet.Event.ID, 0)}, read(store.StreamFilter{Newest: 1, Tenants: []kapsel.TenantID{other.TenantID}}, 100))
		w.same("of an endpoint", []string{one(mine[5], 5), one(mine[6], 0), one(mine[7], 0)}, read(store.StreamFilter{Newest: 3, EndpointID: w.endpoint.ID}, 100))
		w.same("more than there are", 9, len(read(store.StreamFilter{Newest: 8}, 100)))
	}},

	{"what retention deletes is passed over, and positions of it stay", func(w *world) {
		old := []kapsel.EventID{w.finished(w.endpoint, ok).Delivery.EventID, w.finished(w.endpoint, ok).Delivery.EventID}
		w.pass(time.Hour)
		kept := w.accept(w.endpoint)
		w.atEnd(kept)
		all, _ := w.follow(store.StreamFilter{}, store.Position{}, 100)
		w.same("all", append(slices.Clone(old), kept.Event.ID), streamedIDs(all))
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
		w.must(err)
		w.same("deleted", 2, n)
		for _, at := range []store.Position{{}, all[0].At, all[1].At} {
			rest, _ := w.follow(store.StreamFilter{}, at, 100)
			w.same("behind what is deleted", []kapsel.EventID{kept.Event.ID}, streamedIDs(rest))
		}
		_, err = w.store.StreamPosition(w.ctx, w.tenant.ID, old[0])
		w.refused(err, kapsel.NotFound, "the position of a deleted event")
	}},

	{"also when the newest event is deleted, what comes later is behind its position", func(w *world) {
		for range 3 {
			in := w.finished(w.endpoint, ok)
			at, err := w.store.StreamPosition(w.ctx, w.tenant.ID, in.Delivery.EventID)
			w.must(err)
			w.pass(time.Hour)
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
			w.must(err)
			w.same("deleted", 1, n)
			next := w.accept(w.endpoint)
			w.atEnd(next)
			rest, _ := w.follow(store.StreamFilter{}, at, 100)
			w.same("behind it", []kapsel.EventID{next.Event.ID}, streamedIDs(rest))
			w.complete(w.claimOne(), ok)
			n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Second), 100)
			w.must(err)
			w.same("deleted", 1, n)
		}
	}},

	{"a position ahead of all that was ever stored is refused", func(w *world) {
		last := w.accept(w.endpoint)
		end := w.atEnd(last)
		end.Seq += 1 << 40
		_, _, _, err := w.store.StreamEvents(w.ctx, store.StreamFilter{}, end, w.now, 10)
		w.refusedAs(err, rules.StreamAhead(), "ahead")
	}},

	{"a reader beside many writers gets each event once", func(w *world) {
		const writers, each = 8, 40
		endpoints := make([]kapsel.Endpoint, writers)
		for i := range endpoints {
			endpoints[i] = w.newEndpoint(w.tenant)
		}
		marker := w.acceptance(w.endpoint) // accepted when all others are
		accepted := make([][]kapsel.EventID, writers)
		seen := map[kapsel.EventID]int{}
		var writing atomic.Int32
		writing.Store(writers)
		w.together(writers+1, func(i int) (err error) {
			if i < writers {
				for range each {
					in := w.acceptance(endpoints[i])
					if _, err := w.store.Accept(w.ctx, in); err != nil {
						return err
					}
					accepted[i] = append(accepted[i], in.Event.ID)
				}
				if writing.Add(-1) == 0 {
					_, err = w.store.Accept(w.ctx, marker)
				}
				return err
			}
			var events []store.Streamed
			var after store.Position
			for seen[marker.Event.ID] == 0 {
				if events, after, _, err = w.store.StreamEvents(w.ctx, store.StreamFilter{}, after, w.now, 7); err != nil {
					return err
				}
				for _, e := range events {
					seen[e.Event.ID]++
				}
			}
			return nil
		})
		for _, id := range slices.Concat(accepted...) {
			w.same("how often an event came", 1, seen[id])
		}
		w.same("events", writers*each+1, len(seen))
	}},
}
