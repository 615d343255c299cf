package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// sourceOf is a source to create.
func (w *world) sourceOf(t kapsel.Tenant) kapsel.Source {
	s := kapsel.Source{
		ID: kapsel.NewSourceID(w.now), TenantID: t.ID, State: kapsel.SourceActive,
		CreatedAt: w.now, UpdatedAt: w.now, SourceConfig: kapsel.DefaultSource(),
	}
	s.Name = "shop"
	return s
}

// newSource makes a source of the world's tenant.
func (w *world) newSource() kapsel.Source {
	w.t.Helper()
	s := w.sourceOf(w.tenant)
	w.must(w.store.CreateSource(w.ctx, s))
	return s
}

// fullSource is a source's configuration with every field set.
func (w *world) fullSource() kapsel.SourceConfig {
	c := kapsel.SourceConfig{Name: "Käufe 🛒", Intake: w.fullConfig().Intake, Type: kapsel.TypeRule{From: kapsel.TypeConst, Value: "orders/create"}}
	c.Challenge, c.Probe = &kapsel.Challenge{From: "query:c", To: "body"}, true
	c.Response = &kapsel.Response{Status: 202, ContentType: "text/plain", Body: "ok"}
	return c
}

// arrival is an event of the world's tenant to accept that came in at a source, or was published
// where the source is zero. It goes nowhere unless a change says so.
func (w *world) arrival(s kapsel.Source, changes ...func(*store.Acceptance)) store.Acceptance {
	first := func(in *store.Acceptance) { in.Event.SourceID, in.Deliveries = s.ID, nil }
	return w.acceptance(kapsel.Endpoint{TenantID: w.tenant.ID, Part: kapsel.PartOf(s.ID)}, append([]func(*store.Acceptance){first}, changes...)...)
}

// arrived stores an arrival.
func (w *world) arrived(s kapsel.Source, changes ...func(*store.Acceptance)) store.Acceptance {
	w.t.Helper()
	in := w.arrival(s, changes...)
	got, err := w.store.Accept(w.ctx, in)
	w.must(err)
	w.same("accepted", store.Accepted{EventID: in.Event.ID}, got)
	return in
}

// published is arrival's source for events that are published.
var published kapsel.Source

// Of what an arrival can have.

func typed(eventType string, channels ...string) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Event.Type, in.Event.Channels = eventType, channels }
}

func ordering(key string) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Event.OrderingKey = key }
}

// named is an endpoint to create that subscribes to what texts name.
func (w *world) named(sources ...string) kapsel.Endpoint {
	e := w.subscriber()
	for _, s := range sources {
		e.Subscriptions = append(e.Subscriptions, kapsel.Subscription{Source: s})
	}
	return e
}

// originating are the promises about sources, published events, and events that nobody wanted.
var originating = []promise{
	{"a source comes back as it was made, and as it was changed", func(w *world) {
		s := w.sourceOf(w.tenant)
		s.SourceConfig = w.fullSource()
		before := w.settings(0).Revision
		w.must(w.store.CreateSource(w.ctx, s))
		got, err := w.store.Source(w.ctx, w.tenant.ID, s.ID)
		w.must(err)
		s.Revision = before + 1
		w.same("made", s, got)
		w.same("in the settings", []kapsel.Source{s}, w.settings(before).Sources)
		w.refusedAs(w.store.CreateSource(w.ctx, s), rules.IDTaken(), "made again")

		w.pass(time.Second)
		changed, err := w.store.UpdateSource(w.ctx, w.tenant.ID, s.ID, func(s *kapsel.Source) error {
			s.State, s.Name, s.UpdatedAt = kapsel.SourceDisabled, "other", w.now
			return nil
		})
		w.must(err)
		s.State, s.Name, s.UpdatedAt, s.Revision = kapsel.SourceDisabled, "other", w.now, before+2
		w.same("changed", s, changed)
		got, err = w.store.Source(w.ctx, kapsel.TenantID{}, s.ID)
		w.must(err)
		w.same("read", s, got)

		refusal := kapsel.Errorf(kapsel.Conflict, "no")
		_, err = w.store.UpdateSource(w.ctx, w.tenant.ID, s.ID, func(s *kapsel.Source) error { s.Name = "x"; return refusal })
		w.refusedAs(err, refusal, "a change that fails")
		got, err = w.store.Source(w.ctx, w.tenant.ID, s.ID)
		w.must(err)
		w.same("after it", s, got)

		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now))
		_, err = w.store.Source(w.ctx, w.tenant.ID, s.ID)
		w.refused(err, kapsel.NotFound, "a deleted one")
		w.refused(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now), kapsel.NotFound, "deleting it again")
		w.refusedAs(w.store.CreateSource(w.ctx, s), rules.IDTaken(), "the id of a deleted one")
		s.DeletedAt, s.Revision = w.now, before+3
		w.same("deleted, in the settings", []kapsel.Source{s}, w.settings(before+2).Sources)
		w.same("deleted, for who begins", 0, len(w.settings(0).Sources))
	}},

	{"a tenant's sources are listed, and another's are as missing ones", func(w *world) {
		other := w.newTenant()
		foreign := w.sourceOf(other)
		w.must(w.store.CreateSource(w.ctx, foreign))
		var want []kapsel.SourceID
		for range 5 {
			w.pass(time.Millisecond)
			want = append(want, w.newSource().ID)
		}
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, want[2], w.now))
		want = slices.Delete(want, 2, 3)
		slices.Reverse(want)
		var got []kapsel.SourceID
		for p := (store.Page[kapsel.SourceID]{Limit: 3}); ; p.Before = got[len(got)-1] {
			page, err := w.store.ListSources(w.ctx, w.tenant.ID, p)
			w.must(err)
			for _, s := range page {
				got = append(got, s.ID)
			}
			if len(page) < p.Limit {
				break
			}
		}
		w.same("listed", want, got)
		all, err := w.store.ListSources(w.ctx, kapsel.TenantID{}, store.Page[kapsel.SourceID]{Limit: 100})
		w.must(err)
		w.same("of all tenants", 5, len(all))

		_, missing := w.store.Source(w.ctx, w.tenant.ID, kapsel.NewSourceID(w.now))
		_, err = w.store.Source(w.ctx, w.tenant.ID, foreign.ID)
		w.refusedAs(err, missing, "reading another's")
		_, err = w.store.UpdateSource(w.ctx, w.tenant.ID, foreign.ID, func(*kapsel.Source) error { return nil })
		w.refusedAs(err, missing, "changing another's")
		w.refusedAs(w.store.DeleteSource(w.ctx, w.tenant.ID, foreign.ID, w.now), missing, "deleting another's")
		s := w.sourceOf(kapsel.Tenant{ID: kapsel.NewTenantID(w.now)})
		w.refused(w.store.CreateSource(w.ctx, s), kapsel.NotFound, "of a tenant that is missing")
	}},

	{"a tenant that has sources is not deleted", func(w *world) {
		tenant := w.newTenant()
		s := w.sourceOf(tenant)
		w.must(w.store.CreateSource(w.ctx, s))
		w.refusedAs(w.store.DeleteTenant(w.ctx, tenant.ID, w.now), rules.TenantUnused(0, 1, 0), "with a source")
		w.must(w.store.DeleteSource(w.ctx, tenant.ID, s.ID, w.now))
		w.must(w.store.DeleteTenant(w.ctx, tenant.ID, w.now))
	}},

	{"an endpoint subscribes to a source, which stays while it does", func(w *world) {
		s := w.newSource()
		e := w.named(s.ID.String())
		e.Subscriptions[0].EventTypes, e.Subscriptions[0].Channels = []string{"a.*"}, []string{"c"}
		w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		stored, err := w.store.Endpoint(w.ctx, w.tenant.ID, e.ID)
		w.must(err)
		w.same("subscriptions", e.Subscriptions, stored.Subscriptions)
		w.refused(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now), kapsel.Conflict, "deleting it")
		to := func(sources ...string) error {
			_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error {
				e.Subscriptions = w.named(sources...).Subscriptions
				return nil
			})
			return err
		}
		w.must(to(kapsel.Publish))
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now))
		w.refused(to(s.ID.String()), kapsel.InvalidRequest, "subscribing to what is deleted")
	}},

	{"a subscription to another tenant's source is refused as one to a missing one, and changes nothing", func(w *world) {
		foreign := w.sourceOf(w.newTenant())
		w.must(w.store.CreateSource(w.ctx, foreign))
		own := w.newSource().ID.String()
		before := w.settings(0).Revision
		missing := w.store.CreateEndpoint(w.ctx, w.named(own, kapsel.NewSourceID(w.now).String()), 0)
		w.refused(missing, kapsel.InvalidRequest, "subscribing to nothing")
		w.same("refusal", missing, w.store.CreateEndpoint(w.ctx, w.named(own, foreign.ID.String()), 0))
		// The ids of an endpoint and of a source are no ids of the other.
		w.same("refusal", missing, w.store.CreateEndpoint(w.ctx, w.named(own, kapsel.SourceID(w.endpoint.ID).String()), 0))
		w.same("what changed", store.Settings{Revision: before}, w.settings(before))
	}},

	{"an event is read with where it came in and what was said of it", func(w *world) {
		s := w.newSource()
		endpoints := w.fan(2)
		for _, in := range []store.Acceptance{
			w.arrival(s, typed("orders/create"), to(endpoints...)),
			w.arrival(s, to(endpoints[0])),
			w.arrival(s),
			w.arrival(published, typed("a.b", "x", "y z"), ordering("o ✓"), to(endpoints...)),
			w.arrival(published),
		} {
			_, err := w.store.Accept(w.ctx, in)
			w.must(err)
			got := w.event(in.Event.ID)
			w.same("event", in.Event, got.Event)
			w.same("deliveries", len(in.Deliveries), len(got.Deliveries))
			for _, d := range in.Deliveries {
				c := w.claimEvent(d)
				w.same("claimed", in.Event, c.Event)
			}
			w.pass(time.Millisecond)
		}
	}},

	{"events of sources and published ones are listed and streamed as others", func(w *world) {
		s, deleted := w.newSource(), w.newSource()
		endpoints := w.fan(2)
		var all, first []kapsel.EventID
		for i := range 12 {
			in := [](func() store.Acceptance){
				func() store.Acceptance { return w.arrived(s, to(endpoints[0])) },
				func() store.Acceptance { return w.arrived(published, to(endpoints...)) },
				func() store.Acceptance { return w.arrived(deleted, to(endpoints[1])) },
				func() store.Acceptance { return w.accept(w.endpoint) },
			}[i%4]()
			all = append(all, in.Event.ID)
			if i%4 < 2 {
				first = append(first, in.Event.ID)
			}
			w.atEnd(in)
			w.pass(time.Millisecond)
		}
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, deleted.ID, w.now))
		got, _ := w.follow(store.StreamFilter{EndpointID: endpoints[0].ID}, store.Position{}, 5)
		w.same("streamed", first, streamedIDs(got))
		slices.Reverse(all)
		slices.Reverse(first)
		for _, length := range []int{1, 5, 100} {
			w.same("all", all, w.listed(store.EventFilter{}, length))
			w.same("received", all, w.listed(store.EventFilter{Status: kapsel.EventReceived}, length))
			w.same("of an endpoint", first, w.listed(store.EventFilter{EndpointID: endpoints[0].ID}, length))
			w.same("received, of an endpoint", first, w.listed(store.EventFilter{EndpointID: endpoints[0].ID, Status: kapsel.EventReceived}, length))
		}
		for _, c := range w.claim(endpoints...) {
			w.complete(c.Delivery, ok)
		}
		w.same("delivered", 9, len(w.listed(store.EventFilter{Status: kapsel.EventStatus(kapsel.Delivered.String())}, 2)))
		w.same("another tenant's", 0, len(w.listEvents(w.newTenant().ID, store.EventFilter{}, 10)))
	}},

	{"lists and the stream show what came in at one source, whatever else they ask for", func(w *world) {
		s, other := w.newSource(), w.newSource()
		gets := w.fan(2)
		kept := w.newEndpoint(w.tenant)
		want, last := map[string][]kapsel.EventID{}, store.Acceptance{}
		shown := func(in store.Acceptance, of ...string) {
			last = in
			w.pass(time.Millisecond)
			for _, name := range append(of, "all") {
				want[name] = append([]kapsel.EventID{in.Event.ID}, want[name]...)
			}
		}
		start := w.now
		before := w.accept(kept) // at the endpoint, before its ingest is a source
		for i := range 3 {
			k := key(fmt.Sprint("k", i))
			shown(w.arrived(s, to(gets[0]), k), "received", "first", fmt.Sprint("key ", i))
			shown(w.arrived(s), "unmatched")
			failed := w.arrived(s, to(gets...), heldBy(w.node))
			w.complete(failed.Deliveries[0], refusal)
			w.complete(w.claimThis(failed.Deliveries[1]), ok)
			shown(failed, "failed", "first", "second")
			w.arrived(other, to(gets[0]), k)
			w.arrived(other)
			w.arrived(published, to(gets[0]), k)
			w.arrived(published)
			w.finished(w.endpoint, refusal)
			if w.pass(time.Second); i == 0 {
				want["early"] = slices.Clone(want["all"])
			}
		}
		of := func(change func(*store.EventFilter)) store.EventFilter {
			f := store.EventFilter{SourceID: s.ID}
			change(&f)
			return f
		}
		status := func(status kapsel.EventStatus) store.EventFilter {
			return of(func(f *store.EventFilter) { f.Status = status })
		}
		for _, length := range []int{1, 4, 100} {
			for name, f := range map[string]store.EventFilter{
				"all":       of(func(*store.EventFilter) {}),
				"received":  status(kapsel.EventReceived),
				"unmatched": status(kapsel.EventUnmatched),
				"failed":    status(kapsel.EventStatus(kapsel.Failed.String())),
				"delivered": status(kapsel.EventStatus(kapsel.Delivered.String())),
				"first":     of(func(f *store.EventFilter) { f.EndpointID = gets[0].ID }),
				"second":    of(func(f *store.EventFilter) { f.EndpointID = gets[1].ID }),
				"another":   of(func(f *store.EventFilter) { f.EndpointID = w.endpoint.ID }),
				"key 1":     of(func(f *store.EventFilter) { f.IdempotencyKey = []byte("k1") }),
				"early":     of(func(f *store.EventFilter) { f.Until = start.Add(time.Second) }),
				"missing":   {SourceID: kapsel.NewSourceID(w.now)},
				"endpoint":  {SourceID: kapsel.SourceID(w.endpoint.ID)},
				"tenant":    {SourceID: kapsel.SourceID(w.tenant.ID)},
			} {
				w.same(fmt.Sprint(name, ", by ", length), want[name], w.listed(f, length))
			}
			w.same("of all tenants", len(want["all"]), len(w.listEvents(kapsel.TenantID{}, of(func(*store.EventFilter) {}), length)))
			w.same("of another tenant", 0, len(w.listEvents(w.newTenant().ID, of(func(*store.EventFilter) {}), length)))
		}
		w.atEnd(last)
		for _, name := range []string{"all", "first"} {
			f := store.StreamFilter{SourceID: s.ID}
			if name == "first" {
				f.EndpointID = gets[0].ID
			}
			got, _ := w.follow(f, store.Position{}, 2)
			ids := streamedIDs(got)
			slices.Reverse(ids)
			w.same("streamed, "+name, want[name], ids)
		}

		// What came in at an endpoint is not its source's.
		src, err := w.store.KeepIngest(w.ctx, w.tenant.ID, kept.ID, w.now, func(*kapsel.Source) error { return nil })
		w.must(err)
		w.same("the same UUID, before", 0, len(w.listed(store.EventFilter{SourceID: src.ID}, 10)))
		after := w.arrived(src)
		w.same("the same UUID", []kapsel.EventID{after.Event.ID}, w.listed(store.EventFilter{SourceID: src.ID}, 10))
		w.same("of the endpoint", []kapsel.EventID{before.Event.ID}, w.listed(store.EventFilter{EndpointID: kept.ID}, 10))
		w.atEnd(after)
		got, _ := w.follow(store.StreamFilter{SourceID: src.ID}, store.Position{}, 3)
		w.same("streamed, the same UUID", []kapsel.EventID{after.Event.ID}, streamedIDs(got))
	}},

	{"an event that goes nowhere is unmatched, kept, and listed as that", func(w *world) {
		s := w.newSource()
		var want []kapsel.EventID
		for i := range 9 {
			switch i % 3 {
			case 0:
				want = append(want, w.arrived(s).Event.ID)
			case 1:
				want = append(want, w.arrived(published, key(fmt.Sprint("k", i))).Event.ID)
			case 2:
				w.arrived(s, to(w.endpoint))
			}
			w.pass(time.Millisecond)
		}
		slices.Reverse(want)
		unmatched := store.EventFilter{Status: kapsel.EventUnmatched}
		for _, length := range []int{1, 4, 100} {
			w.same("unmatched", want, w.listed(unmatched, length))
		}
		all := w.listEvents(kapsel.TenantID{}, unmatched, 4)
		w.same("of all tenants", len(want), len(all))
		w.same("another tenant's", 0, len(w.listEvents(w.newTenant().ID, unmatched, 4)))
		w.same("of an endpoint", 0, len(w.listed(store.EventFilter{Status: kapsel.EventUnmatched, EndpointID: w.endpoint.ID}, 4)))
		since := unmatched
		since.Since = w.now.Add(-4 * time.Millisecond)
		w.same("since", 2, len(w.listed(since, 4)))
		byKey := unmatched
		byKey.IdempotencyKey = []byte("k4")
		w.same("by key", want[2:3], w.listed(byKey, 4))

		d, err := w.store.Deliver(w.ctx, w.tenant.ID, want[0], w.endpoint.ID, w.now)
		w.must(err)
		w.same("after a delivery", want[1:], w.listed(unmatched, 4))
		w.same("the delivery", []kapsel.Delivery{d}, w.event(want[0]).Deliveries)
	}},

	{"an event is delivered once to an endpoint that had nothing of it", func(w *world) {
		others := w.fan(3)
		foreign := w.newEndpoint(w.newTenant())
		in := w.accept(w.endpoint, to(others[0]))
		w.pass(time.Minute)
		deliver := func(e kapsel.Endpoint) (kapsel.Delivery, error) {
			return w.store.Deliver(w.ctx, w.tenant.ID, in.Event.ID, e.ID, w.now)
		}
		d, err := deliver(others[1])
		w.must(err)
		want, err := rules.NewDelivery(&in.Event, nil, &others[1], w.now)
		w.must(err)
		want.ID = d.ID
		w.same("delivery", want, d)
		w.same("stored", d, w.delivery(d.ID))
		w.same("listed", []kapsel.Delivery{d}, w.deliveries(others[1]))
		w.same("its event", []kapsel.EventID{in.Event.ID}, w.listed(store.EventFilter{EndpointID: others[1].ID}, 10))
		origin, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		w.same("the origin is shared", true, origin.Shared)

		for _, e := range []kapsel.Endpoint{w.endpoint, others[0], others[1]} {
			_, err := deliver(e)
			w.refused(err, kapsel.Conflict, "to one that has it")
		}
		missing := w.endpointOf(w.tenant)
		_, none := deliver(missing)
		w.refused(none, kapsel.NotFound, "to a missing endpoint")
		_, err = deliver(foreign)
		w.refusedAs(err, none, "to another tenant's")
		_, err = w.store.Deliver(w.ctx, foreign.TenantID, in.Event.ID, foreign.ID, w.now)
		w.refused(err, kapsel.NotFound, "another tenant's event")

		errs := make([]error, 8)
		w.together(len(errs), func(i int) error {
			_, errs[i] = deliver(others[2])
			return nil
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				w.refused(err, kapsel.Conflict, "at the same time")
			}
		}
		w.same("made at the same time", 1, made)
		w.same("deliveries", 4, len(w.event(in.Event.ID).Deliveries))
		again, err := w.store.Replay(w.ctx, w.tenant.ID, in.Event.ID, w.complete(w.claimThis(d), refusal).Delivery.ID, w.now)
		w.must(err)
		w.same("a replay of it", again, w.delivery(again.ID))
	}},

	{"a key is remembered for its source, and of published events for the tenant and the ordering key", func(w *world) {
		one, two := w.newSource(), w.newSource()
		firsts := map[kapsel.EventID]bool{}
		for _, first := range []func(...func(*store.Acceptance)) store.Acceptance{
			func(c ...func(*store.Acceptance)) store.Acceptance { return w.arrival(one, c...) },
			func(c ...func(*store.Acceptance)) store.Acceptance { return w.arrival(two, c...) },
			func(c ...func(*store.Acceptance)) store.Acceptance { return w.arrival(published, c...) },
			func(c ...func(*store.Acceptance)) store.Acceptance {
				return w.arrival(published, append(c, ordering("o"))...)
			},
			func(c ...func(*store.Acceptance)) store.Acceptance {
				return w.arrival(published, append(c, ordering("p"))...)
			},
			func(c ...func(*store.Acceptance)) store.Acceptance { return w.acceptance(w.endpoint, c...) },
		} {
			in := first(key("k"))
			got, err := w.store.Accept(w.ctx, in)
			w.must(err)
			w.same("accepted", store.Accepted{EventID: in.Event.ID}, got)
			firsts[in.Event.ID] = true
			w.duplicate(in.Event.ID, first(key("k")))
			got, err = w.store.Accept(w.ctx, in)
			w.must(err)
			w.same("the same call again", store.Accepted{EventID: in.Event.ID}, got)
			ins := make([]store.Acceptance, 6)
			all := make([]store.Accepted, len(ins))
			for i := range ins {
				ins[i] = first(key("at the same time"))
			}
			w.together(len(ins), func(i int) (err error) {
				all[i], err = w.store.Accept(w.ctx, ins[i])
				return err
			})
			stored := 0
			for _, a := range all {
				w.same("the event", all[0].EventID, a.EventID)
				if !a.Duplicate {
					stored++
				}
			}
			w.same("stored", 1, stored)
		}
		found := w.listed(store.EventFilter{IdempotencyKey: []byte("k")}, 4)
		w.same("by key", len(firsts), len(found))
		for _, id := range found {
			if !firsts[id] {
				w.t.Errorf("%v has the key", id)
			}
		}

		w.pass(25 * time.Hour)
		for {
			n, err := w.store.DeleteExpiredKeys(w.ctx, w.now, 4)
			w.must(err)
			if n == 0 {
				break
			}
		}
		w.same("by key, forgotten", len(firsts), len(w.listed(store.EventFilter{IdempotencyKey: []byte("k")}, 4)))
		in := w.arrived(published, key("k"), ordering("o"))
		w.duplicate(in.Event.ID, w.arrival(published, key("k"), ordering("o")))
	}},

	{"the ingest of a deleted endpoint goes on as a source with its UUID", func(w *world) {
		one, two := w.subscriber(w.endpoint.ID), w.subscriber(w.endpoint.ID)
		w.must(w.store.CreateEndpoint(w.ctx, one, 0))
		before := w.accept(w.endpoint, key("k"), guard("g"), to(one))
		refusal := w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now)
		w.refused(refusal, kapsel.Conflict, "deleting it with its ingest")
		if !strings.Contains(refusal.Error(), "keep_ingest=true") {
			w.t.Errorf("the refusal does not name the way out: %v", refusal)
		}
		w.pass(time.Second)
		revision := w.settings(0).Revision
		stop := kapsel.Errorf(kapsel.Conflict, "no")
		keep := func(tenant kapsel.TenantID, id kapsel.EndpointID, err error) (kapsel.Source, error) {
			return w.store.KeepIngest(w.ctx, tenant, id, w.now, func(src *kapsel.Source) error { src.Name = "kept"; return err })
		}
		_, err := keep(w.tenant.ID, w.endpoint.ID, stop)
		w.refusedAs(err, stop, "a change that fails")
		_, err = keep(w.newTenant().ID, w.endpoint.ID, nil)
		w.refused(err, kapsel.NotFound, "of another tenant")
		_, err = keep(w.tenant.ID, one.ID, nil)
		w.refused(err, kapsel.InvalidRequest, "of an endpoint without an ingest")
		w.same("endpoints that changed", 0, len(w.settings(revision).Endpoints))

		src, err := keep(w.tenant.ID, w.endpoint.ID, nil)
		w.must(err)
		want := kapsel.Source{
			ID: kapsel.SourceID(w.endpoint.ID), TenantID: w.tenant.ID, State: kapsel.SourceActive, CreatedAt: w.now, UpdatedAt: w.now, Revision: src.Revision,
			SourceConfig: kapsel.SourceConfig{Name: "kept", Intake: w.endpoint.Intake, Kept: true},
		}
		w.same("the source", want, src)
		got, err := w.store.Source(w.ctx, w.tenant.ID, src.ID)
		w.must(err)
		w.same("the source, read", want, got)
		changed := w.settings(revision)
		if len(changed.Endpoints) != 1 || changed.Endpoints[0].DeletedAt != w.now || len(changed.Sources) != 1 || changed.Revision < src.Revision {
			w.t.Errorf("in the settings: %+v", changed)
		}
		_, err = w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.refused(err, kapsel.NotFound, "the endpoint")
		_, err = keep(w.tenant.ID, w.endpoint.ID, nil)
		w.refused(err, kapsel.NotFound, "keeping it again")

		// Its own deliveries end, the subscriber's go on, and the keys and guards hold.
		n, err := w.store.CancelWaiting(w.ctx, w.endpoint.ID, w.now, 10)
		w.must(err)
		w.same("canceled", 1, n)
		w.complete(w.claimEvent(before.Deliveries[1]).Delivery, ok)
		w.duplicate(before.Event.ID, w.arrival(src, key("k")))
		w.duplicate(before.Event.ID, w.arrival(src, guard("g")))
		w.pass(time.Second)
		after := w.arrived(src, key("new"), to(one))
		w.same("part", before.Event.ID.Part(), after.Event.ID.Part())

		// Subscriptions name either.
		two.Subscriptions = append(two.Subscriptions, kapsel.Subscription{Source: src.ID.String()})
		w.must(w.store.CreateEndpoint(w.ctx, two, 0))
		plain := w.newSource()
		w.refused(w.store.CreateEndpoint(w.ctx, w.named(kapsel.EndpointID(plain.ID).String()), 0), kapsel.InvalidRequest, "a source that was no endpoint, as one")
		refusal = w.store.DeleteSource(w.ctx, w.tenant.ID, src.ID, w.now)
		w.refused(refusal, kapsel.Conflict, "deleting the source")
		if strings.Contains(refusal.Error(), "keep_ingest") {
			w.t.Errorf("the refusal is an endpoint's: %v", refusal)
		}

		// The events of before are still the endpoint's, and each is listed once.
		all := []kapsel.EventID{after.Event.ID, before.Event.ID}
		w.same("all", all, w.listed(store.EventFilter{}, 1))
		w.same("of the endpoint", all[1:], w.listed(store.EventFilter{EndpointID: w.endpoint.ID}, 1))
		w.same("of the endpoint, canceled", 0, len(w.listed(store.EventFilter{EndpointID: w.endpoint.ID, Status: kapsel.EventReceived, Shared: true}, 1)))
		w.same("of the subscriber", all, w.listed(store.EventFilter{EndpointID: one.ID}, 1))
		r := w.event(before.Event.ID)
		w.same("origin of before", w.endpoint.ID, r.Event.EndpointID)
		w.same("origin of after", src.ID, w.event(after.Event.ID).Event.SourceID)
		streamed, _, _, err := w.store.StreamEvents(w.ctx, store.StreamFilter{EndpointID: w.endpoint.ID}, store.Position{}, w.now, 10)
		w.must(err)
		if len(streamed) > 1 || len(streamed) == 1 && streamed[0].Event.ID != before.Event.ID {
			w.t.Errorf("the stream of the endpoint has %d events", len(streamed))
		}

		// Retention ends both.
		w.complete(w.claimEvent(after.Deliveries[0]).Delivery, ok)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, one.ID, w.now))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, two.ID, w.now))
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, src.ID, w.now))
		n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 10)
		w.must(err)
		w.same("deleted", 2, n)
	}},

	{"a guard is remembered for its source", func(w *world) {
		one, two := w.newSource(), w.newSource()
		first := w.arrived(one, guard("g"))
		w.duplicate(first.Event.ID, w.arrival(one, guard("g"), key("k")))
		other := w.arrived(two, guard("g"), key("k"))
		w.duplicate(other.Event.ID, w.arrival(two, key("k")))
	}},

	{"retention ends the events of sources, published ones, and those that went nowhere", func(w *world) {
		s := w.newSource()
		open := w.arrived(s, to(w.endpoint))
		gone := []store.Acceptance{
			w.arrived(s, typed("t"), key("k")), w.arrived(published, key("k")), w.arrived(published, key("k"), ordering("o")),
			w.arrived(s, to(w.endpoint), heldBy(w.node)),
		}
		w.complete(gone[3].Deliveries[0], ok)
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now))
		for range gone {
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 1)
			w.must(err)
			w.same("deleted", 1, n)
		}
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 10)
		w.must(err)
		w.same("more", 0, n)
		for _, in := range gone {
			_, err := w.store.Event(w.ctx, w.tenant.ID, in.Event.ID)
			w.refused(err, kapsel.NotFound, "an ended event")
		}
		w.same("what is open", []kapsel.EventID{open.Event.ID}, w.listed(store.EventFilter{}, 10))
		w.same("unmatched", 0, len(w.listed(store.EventFilter{Status: kapsel.EventUnmatched}, 10)))
	}},

	{"a deleted tenant is known while it has events of sources or published ones", func(w *world) {
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		s := w.newSource()
		w.arrived(s)
		w.arrived(published)
		w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, s.ID, w.now))
		w.must(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now))
		for _, want := range []int{1, 1, 0} {
			deleted, err := w.store.DeletedTenants(w.ctx, kapsel.TenantID{}, 10)
			w.must(err)
			w.same("deleted tenants with events", want, len(deleted))
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 1)
			w.must(err)
			w.same("deleted", want, n)
		}
	}},

	{"a bulk replay repeats deliveries of events of sources and published ones", func(w *world) {
		s := w.newSource()
		for range 3 {
			w.arrived(s, to(w.endpoint))
			w.arrived(published, to(w.endpoint))
			w.pass(time.Millisecond)
		}
		for i, c := range w.claim(w.endpoint) {
			w.complete(c.Delivery, []kapsel.Answer{refusal, ok}[i%2])
		}
		w.pass(time.Second)
		for _, with := range []kapsel.DeliveryStatus{kapsel.Failed, kapsel.Delivered} {
			r := w.newReplay(func(r *kapsel.Replay) { r.Statuses = []kapsel.DeliveryStatus{with} })
			w.pass(time.Millisecond)
			w.same("made", 3, w.walkOut(r.ID, 2))
		}
	}},
}

// claimEvent claims a delivery that is the only one due at its endpoint, with its event.
func (w *world) claimEvent(d kapsel.Delivery) store.Claimed {
	w.t.Helper()
	got, _, err := w.store.Claim(w.ctx, w.node, w.now, []store.Want{{EndpointID: d.EndpointID, Limit: 2}}, 1<<20)
	w.must(err)
	if len(got) != 1 || got[0].Delivery.ID != d.ID {
		w.t.Fatalf("claimed %d deliveries, want %v", len(got), d.ID)
	}
	return got[0]
}
