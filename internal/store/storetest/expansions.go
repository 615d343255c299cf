package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// subscribersTo makes endpoints that subscribe to an origin, in the order of their IDs.
func (w *world) subscribersTo(source string, n int, change ...func(*kapsel.Endpoint)) []kapsel.Endpoint {
	w.t.Helper()
	all := make([]kapsel.Endpoint, n)
	for i := range all {
		e := w.endpointOf(w.tenant)
		e.NoIngest, e.Subscriptions = true, []kapsel.Subscription{{Source: source}}
		for _, c := range change {
			c(&e)
		}
		w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		all[i] = e
	}
	slices.SortFunc(all, func(a, b kapsel.Endpoint) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

// expanding is for a published event whose first deliveries go to some endpoints, and an
// expansion makes the others.
func expanding(firsts ...kapsel.Endpoint) func(*store.Acceptance) {
	return func(in *store.Acceptance) {
		in.Event.EndpointID, in.Deliveries = kapsel.EndpointID{}, nil
		to(firsts...)(in)
		in.ExpandAfter = firsts[len(firsts)-1].ID
	}
}

// expand makes up to limit deliveries of an expansion. A step may end early where it takes long: then
// expand makes another.
func (w *world) expand(id kapsel.EventID, limit, made int, more bool) {
	w.t.Helper()
	gotMade, gotMore := 0, true
	for gotMore && gotMade < limit {
		n, open, err := w.store.Expand(w.ctx, id, w.now, limit-gotMade)
		w.must(err)
		gotMade, gotMore = gotMade+n, open
	}
	if gotMade != made || gotMore != more {
		w.t.Fatalf("the steps made %d, more %t; want %d, %t", gotMade, gotMore, made, more)
	}
}

// destinationsOf returns to whom an event has deliveries, one entry for each, in order.
func (w *world) destinationsOf(id kapsel.EventID) (ids []string) {
	w.t.Helper()
	for _, d := range w.event(id).Deliveries {
		ids = append(ids, d.EndpointID.String())
	}
	slices.Sort(ids)
	return ids
}

func idsOf(endpoints ...kapsel.Endpoint) (ids []string) {
	for _, e := range endpoints {
		ids = append(ids, e.ID.String())
	}
	slices.Sort(ids)
	return ids
}

// opened checks which expansions are open.
func (w *world) opened(want ...kapsel.EventID) {
	w.t.Helper()
	got, err := w.store.OpenExpansions(w.ctx, 100)
	w.must(err)
	w.same("open", want, got)
}

var expansions = []promise{
	{"an expansion makes the deliveries that the event lacks, in steps", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 9)
		w.pass(time.Minute)
		in := w.accept(w.endpoint, expanding(all[:2]...))
		w.opened(in.Event.ID)
		if r := w.event(in.Event.ID); !r.Expanding || len(r.Deliveries) != 2 || r.Status() != kapsel.EventReceived {
			w.t.Fatalf("the event is %s, expanding %t, with %d deliveries", r.Status(), r.Expanding, len(r.Deliveries))
		}
		w.pass(time.Second)
		w.expand(in.Event.ID, 3, 3, true)
		w.same("after a step", idsOf(all[:5]...), w.destinationsOf(in.Event.ID))
		w.expand(in.Event.ID, 3, 3, true)
		w.expand(in.Event.ID, 3, 1, false)
		w.opened()
		r := w.event(in.Event.ID)
		w.same("in the end", idsOf(all...), w.destinationsOf(in.Event.ID))
		if r.Expanding {
			w.t.Error("it is still expanding")
		}
		for _, d := range r.Deliveries[2:] {
			w.same("delivery", kapsel.Delivery{
				ID: d.ID, EventID: in.Event.ID, EndpointID: d.EndpointID, TenantID: w.tenant.ID, Status: kapsel.Pending,
				DueAt: w.now, CreatedAt: w.now, Size: in.Event.Size,
			}, d)
			if d.ID.Part() != in.Event.ID.Part() {
				w.t.Errorf("the part is %d, the event's is %d", d.ID.Part(), in.Event.ID.Part())
			}
		}
		w.same("claimed", 7, len(w.claim(all[2:]...)))
		w.expand(in.Event.ID, 3, 0, false)
	}},

	{"an expansion matches by the settings of its steps", func(w *world) {
		gets := w.subscribersTo(kapsel.Publish, 3)
		paused := w.subscribersTo(kapsel.Publish, 1, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })[0]
		deleted := w.subscribersTo(kapsel.Publish, 1)[0]
		left := w.subscribersTo(kapsel.Publish, 1)[0]
		w.subscribersTo(kapsel.Publish, 1, func(e *kapsel.Endpoint) { e.Subscriptions[0].EventTypes = []string{"b"} })
		w.subscribersTo(kapsel.Publish, 1, func(e *kapsel.Endpoint) { e.Subscriptions[0].Channels = []string{"x"} })
		joined := w.newEndpoint(w.tenant)
		other := w.endpointOf(w.newTenant())
		other.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish}}
		w.must(w.store.CreateEndpoint(w.ctx, other, 0))
		in := w.accept(w.endpoint, expanding(w.endpoint), func(in *store.Acceptance) {
			in.Event.Type, in.Deliveries, in.ExpandAfter = "a", nil, kapsel.EndpointID{15: 1}
		})
		w.pass(time.Second)
		late := w.subscribersTo(kapsel.Publish, 1)[0]
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, deleted.ID, w.now))
		for id, subscriptions := range map[kapsel.EndpointID][]kapsel.Subscription{left.ID: nil, joined.ID: {{Source: kapsel.Publish}}} {
			_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, id, func(e *kapsel.Endpoint) error {
				e.Subscriptions = subscriptions
				return nil
			})
			w.must(err)
		}
		w.expand(in.Event.ID, 100, 5, false)
		want := idsOf(append(gets, paused, joined)...)
		w.same("to", want, w.destinationsOf(in.Event.ID))
		if slices.Contains(want, late.ID.String()) {
			w.t.Error("the endpoint that was made later has a delivery")
		}
	}},

	{"what came in at an endpoint's ingest has one delivery to that endpoint", func(w *world) {
		all := w.subscribersTo(w.endpoint.ID.String(), 4)
		for i, kind := range []func(*store.Acceptance){func(*store.Acceptance) {}, key("k"), guard("g")} {
			w.pass(time.Second)
			in := w.accept(w.endpoint, kind, to(all[0]), func(in *store.Acceptance) { in.ExpandAfter = all[0].ID })
			w.expand(in.Event.ID, 2, 2, true)
			w.expand(in.Event.ID, 2, 1, false)
			w.same("to", idsOf(append(all, w.endpoint)...), w.destinationsOf(in.Event.ID))
			if i > 0 {
				w.duplicate(in.Event.ID, w.acceptance(w.endpoint, kind, to(all[0]), func(in *store.Acceptance) { in.ExpandAfter = all[0].ID }))
				w.opened()
			}
		}
	}},

	{"an expansion keeps apps apart", func(w *world) {
		mine, other := w.newApp("mine"), w.newApp("other")
		of := func(a kapsel.App) func(*kapsel.Endpoint) { return func(e *kapsel.Endpoint) { e.AppID = a.ID } }
		own, others, none := w.subscribersTo(kapsel.Publish, 3, of(mine)), w.subscribersTo(kapsel.Publish, 2, of(other)), w.subscribersTo(kapsel.Publish, 2)
		for _, tt := range []struct {
			app  kapsel.App
			want []kapsel.Endpoint
		}{{mine, own}, {other, others}, {kapsel.App{}, none}} {
			w.pass(time.Second)
			in := w.accept(w.endpoint, expanding(w.endpoint), publishedTo(tt.app), func(in *store.Acceptance) {
				in.Deliveries, in.ExpandAfter = nil, kapsel.EndpointID{15: 1}
			})
			w.expand(in.Event.ID, 10, len(tt.want), false)
			w.same("to", idsOf(tt.want...), w.destinationsOf(in.Event.ID))
		}
	}},

	{"an expansion passes over an endpoint that has the event already", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 4)
		in := w.accept(w.endpoint, expanding(all[0]))
		_, err := w.store.Deliver(w.ctx, w.tenant.ID, in.Event.ID, all[2].ID, w.now)
		w.must(err)
		w.expand(in.Event.ID, 100, 2, false)
		w.same("to", idsOf(all...), w.destinationsOf(in.Event.ID))
	}},

	{"a call that is repeated does not open an expansion again", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 3)
		in := w.accept(w.endpoint, expanding(all[0]))
		w.expand(in.Event.ID, 100, 2, false)
		_, err := w.store.Accept(w.ctx, in)
		w.must(err)
		w.opened()
		w.same("to", idsOf(all...), w.destinationsOf(in.Event.ID))
	}},

	{"steps at the same time make each delivery once", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 20)
		in := w.accept(w.endpoint, expanding(all[0]))
		w.together(4, func(int) error {
			for more := true; more; {
				var err error
				if _, more, err = w.store.Expand(w.ctx, in.Event.ID, w.now, 3); err != nil {
					return err
				}
			}
			return nil
		})
		w.same("to", idsOf(all...), w.destinationsOf(in.Event.ID))
	}},

	{"whoever reads an event sees all of its deliveries, or that others are being made", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 8)
		for range 10 {
			in := w.accept(w.endpoint, expanding(all[0]))
			w.together(2, func(i int) error {
				for more := true; more; {
					if i == 0 {
						var err error
						if _, more, err = w.store.Expand(w.ctx, in.Event.ID, w.now, 4); err != nil {
							return err
						}
						continue
					}
					r, err := w.store.Event(w.ctx, kapsel.TenantID{}, in.Event.ID)
					if err != nil {
						return err
					}
					list, _, err := w.store.ListEvents(w.ctx, kapsel.TenantID{}, store.EventFilter{}, store.Page[kapsel.EventID]{Limit: 1})
					if err != nil {
						return err
					}
					for _, seen := range append(list, r) {
						if more = seen.Expanding; !more && len(seen.Deliveries) != len(all) {
							return fmt.Errorf("it has %d of %d deliveries and makes no more", len(seen.Deliveries), len(all))
						}
					}
				}
				return nil
			})
			w.pass(time.Millisecond) // the next one is the newest
		}
	}},

	{"what an expansion makes of a scheduled event is due when the event is", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 2)
		at := w.now.Add(time.Hour)
		in := w.accept(w.endpoint, expanding(all[0]), publishedFor(at))
		w.pass(time.Second)
		w.expand(in.Event.ID, 100, 1, false)
		for _, d := range w.event(in.Event.ID).Deliveries {
			w.same("due", at, d.DueAt)
		}
	}},

	{"a replay of what is missing passes over an event whose expansion is open", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 3)
		in := w.accept(w.endpoint, expanding(all[0]))
		w.pass(time.Second)
		open := w.newReplay(ofMissing(all[2]))
		w.walkOut(open.ID, 10)
		w.same("created while it is open", 0, w.readReplay(open.ID).Created)
		w.expand(in.Event.ID, 1, 1, true)
		_, _, err := w.store.CancelEvent(w.ctx, w.tenant.ID, in.Event.ID, kapsel.EndpointID{}, w.now)
		w.must(err)
		w.pass(time.Second)
		ended := w.newReplay(ofMissing(all[2]))
		w.walkOut(ended.ID, 10)
		w.same("created once it has ended", 1, w.readReplay(ended.ID).Created)
		w.same("to", idsOf(all...), w.destinationsOf(in.Event.ID))
	}},

	{"an event is not deleted while its expansion is open", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 2)
		in := w.accept(w.endpoint, expanding(all[0]))
		w.complete(w.claim(all[0])[0].Delivery, ok)
		w.pass(24 * time.Hour)
		finished := func(want int) {
			w.t.Helper()
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
			w.must(err)
			w.same("deleted", want, n)
		}
		finished(0)
		w.expand(in.Event.ID, 100, 1, false)
		finished(0)
		w.complete(w.claim(all[1])[0].Delivery, ok)
		finished(1)
	}},

	{"an event is received or delivering while its expansion is open", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 3)
		tried := w.accept(w.endpoint, expanding(all[0]))
		w.complete(w.claim(all[0])[0].Delivery, ok)
		w.pass(time.Millisecond)
		failing := w.accept(w.endpoint, expanding(all[0]))
		w.complete(w.claim(all[0])[0].Delivery, refusal)
		w.pass(time.Millisecond)
		retried := w.accept(w.endpoint, expanding(all[0]))
		w.complete(w.claim(all[0])[0].Delivery, again)
		w.pass(time.Millisecond)
		fresh := w.accept(w.endpoint, expanding(all[0]))
		statuses := func(want map[kapsel.EventStatus][]kapsel.EventID) {
			w.t.Helper()
			for _, f := range []store.EventFilter{{}, {EndpointID: all[0].ID}, {EndpointID: all[0].ID, Shared: true}, {Since: w.now.Add(-time.Hour), Until: w.now.Add(time.Hour)}} {
				for _, status := range []kapsel.EventStatus{"received", "delivering", "pending", "dead_letter", "failed", "canceled", "delivered", "unmatched"} {
					for _, tenant := range []kapsel.TenantID{w.tenant.ID, {}} {
						f.Status = status
						var got []kapsel.EventID
						p := store.Page[kapsel.EventID]{Limit: 2}
						for {
							list, _, err := w.store.ListEvents(w.ctx, tenant, f, p)
							w.must(err)
							for _, r := range list {
								got = append(got, r.Event.ID)
								w.same("status", status, r.Status())
							}
							if len(list) < p.Limit {
								break
							}
							p.Before = list[len(list)-1].Event.ID
						}
						w.same(string("events that are "+status), want[status], got)
					}
				}
			}
		}
		statuses(map[kapsel.EventStatus][]kapsel.EventID{
			"received": {fresh.Event.ID}, "delivering": {retried.Event.ID, failing.Event.ID, tried.Event.ID},
		})
		streamed, _, _, err := w.store.StreamEvents(w.ctx, store.StreamFilter{}, store.Position{}, w.now, 100)
		w.must(err)
		for _, e := range streamed {
			w.same("expanding in the stream", true, e.Expanding)
		}
		stranger := w.newTenant()
		list, _, err := w.store.ListEvents(w.ctx, stranger.ID, store.EventFilter{Status: "delivering"}, store.Page[kapsel.EventID]{Limit: 10})
		w.must(err)
		w.same("another tenant's", 0, len(list))
		for _, in := range []store.Acceptance{tried, failing, retried, fresh} {
			w.expand(in.Event.ID, 100, 2, false)
		}
		for _, c := range w.claim(all[1:]...) {
			w.complete(c.Delivery, ok)
		}
		statuses(map[kapsel.EventStatus][]kapsel.EventID{
			"received": nil, "delivered": {tried.Event.ID}, "failed": {failing.Event.ID}, "pending": {fresh.Event.ID, retried.Event.ID},
		})
	}},

	{"the stream of an endpoint has the events whose expansion has not come to it", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 3)
		in := w.accept(w.endpoint, expanding(all[1]))
		streamed := func(e kapsel.Endpoint, want ...kapsel.EventID) {
			w.t.Helper()
			w.atEnd(in)
			got, _ := w.follow(store.StreamFilter{EndpointID: e.ID}, store.Position{}, 100)
			w.same("streamed", want, streamedIDs(got))
		}
		streamed(all[0])
		streamed(all[1], in.Event.ID)
		streamed(all[2], in.Event.ID)
		w.expand(in.Event.ID, 10, 1, false)
		streamed(all[2], in.Event.ID)
	}},

	{"canceling an event ends its expansion and cancels what is pending", func(w *world) {
		all := w.subscribersTo(kapsel.Publish, 7)
		in := w.accept(w.endpoint, expanding(all[:3]...))
		held := w.claim(all[0])[0].Delivery
		w.expand(in.Event.ID, 2, 2, true)
		cancel := func(to kapsel.EndpointID, canceled int, ended bool) {
			w.t.Helper()
			gotCanceled, gotEnded, err := w.store.CancelEvent(w.ctx, w.tenant.ID, in.Event.ID, to, w.now)
			w.must(err)
			if gotCanceled != canceled || gotEnded != ended {
				w.t.Fatalf("canceled %d, ended %t; want %d, %t", gotCanceled, gotEnded, canceled, ended)
			}
		}
		cancel(all[1].ID, 1, false)
		cancel(all[1].ID, 0, false)
		cancel(all[0].ID, 0, false) // it is under way
		w.opened(in.Event.ID)
		before, err := w.store.Usage(w.ctx, w.tenant.ID, w.now.Add(-24*time.Hour), w.now.Add(24*time.Hour))
		w.must(err)
		cancel(kapsel.EndpointID{}, 3, true)
		w.opened()
		cancel(kapsel.EndpointID{}, 0, false)
		after, err := w.store.Usage(w.ctx, w.tenant.ID, w.now.Add(-24*time.Hour), w.now.Add(24*time.Hour))
		w.must(err)
		w.same("counted", before[0].Deliveries+3, after[0].Deliveries)
		w.expand(in.Event.ID, 100, 0, false)
		w.same("to", idsOf(all[:5]...), w.destinationsOf(in.Event.ID))
		w.complete(held, ok)
		w.same("status", kapsel.EventStatus("canceled"), func() kapsel.EventStatus { r := w.event(in.Event.ID); return r.Status() }())
		_, _, err = w.store.CancelEvent(w.ctx, w.newTenant().ID, in.Event.ID, kapsel.EndpointID{}, w.now)
		w.refusedAs(err, store.NotFound("event"), "another tenant's event")
	}},

	{"an origin's subscribers are counted before there are too many", func(w *world) {
		source := w.newSource()
		some := w.subscribersTo(source.ID.String(), 3)
		w.subscribersTo(kapsel.Publish, 1)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, some[0].ID, w.now))
		w.refusedAs(w.store.DeleteSource(w.ctx, w.tenant.ID, source.ID, w.now), rules.SourceUnused(subscribers(2), source.ID), "delete")
	}},
}

// subscribers is a rules.Origins whose origins have so many subscribers.
type subscribers int

func (n subscribers) Subscribers(kapsel.OriginID) (int, error) { return int(n), nil }
func (n subscribers) Mentions(kapsel.OriginID) (int, error)    { return int(n), nil }
func (subscribers) Share(*kapsel.Endpoint) error               { return nil }
func (subscribers) Current() error                             { return nil }
func (subscribers) Endpoint(kapsel.EndpointID) (kapsel.Endpoint, error) {
	return kapsel.Endpoint{}, nil
}
func (subscribers) App(kapsel.AppID) (kapsel.App, error)          { return kapsel.App{}, nil }
func (subscribers) Source(kapsel.SourceID) (kapsel.Source, error) { return kapsel.Source{}, nil }
