package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// fan makes n more endpoints of the world's tenant.
func (w *world) fan(n int) []kapsel.Endpoint {
	w.t.Helper()
	var all []kapsel.Endpoint
	for range n {
		all = append(all, w.newEndpoint(w.tenant))
	}
	return all
}

// deliveryTo is an event's newest delivery to an endpoint.
func (w *world) deliveryTo(event kapsel.EventID, e kapsel.Endpoint) kapsel.Delivery {
	w.t.Helper()
	r := w.event(event)
	for _, d := range r.Newest() {
		if d.EndpointID == e.ID {
			return d
		}
	}
	w.t.Fatalf("event %v has no delivery to %v", event, e.ID)
	return kapsel.Delivery{}
}

// listed are the events of a list, over all pages of a length, which look at few rows more.
func (w *world) listed(f store.EventFilter, length int) (all []kapsel.EventID) {
	w.t.Helper()
	for _, r := range w.listEvents(w.tenant.ID, f, length, 2*length) {
		all = append(all, r.Event.ID)
	}
	return all
}

// subscriber is an endpoint to create that subscribes to others.
func (w *world) subscriber(sources ...kapsel.EndpointID) kapsel.Endpoint {
	e := w.endpointOf(w.tenant)
	for _, id := range sources {
		e.Subscriptions = append(e.Subscriptions, kapsel.Subscription{Source: id.String()})
	}
	e.NoIngest = true
	return e
}

// fanningOut are the promises about events that go to many endpoints, or to none.
var fanningOut = []promise{
	{"an endpoint subscribes to what has an ingest, which is shared and stays until it has no subscriber", func(w *world) {
		before, err := w.store.Settings(w.ctx, 0)
		w.must(err)
		e := w.subscriber(w.endpoint.ID)
		w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		stored, err := w.store.Endpoint(w.ctx, w.tenant.ID, e.ID)
		w.must(err)
		w.same("subscriptions", e.Subscriptions, stored.Subscriptions)
		source, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		if !source.Shared || source.Revision <= before.Revision || source.UpdatedAt != w.endpoint.UpdatedAt {
			w.t.Fatalf("the source is shared: %v, of revision %d after %d", source.Shared, source.Revision, before.Revision)
		}
		w.refused(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, source.ID, w.now), kapsel.Conflict, "deleting a source")

		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error {
			e.Subscriptions = nil
			return nil
		})
		w.must(err)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, source.ID, w.now))
		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error {
			e.Subscriptions = []kapsel.Subscription{{Source: source.ID.String()}}
			return nil
		})
		w.refused(err, kapsel.InvalidRequest, "subscribing to what is deleted")
	}},

	{"a subscription to another tenant's endpoint is refused as one to a missing one, and changes nothing", func(w *world) {
		foreign, deaf := w.newEndpoint(w.newTenant()), w.subscriber()
		w.must(w.store.CreateEndpoint(w.ctx, deaf, 0))
		before, err := w.store.Settings(w.ctx, 0)
		w.must(err)
		missing := w.store.CreateEndpoint(w.ctx, w.subscriber(w.endpoint.ID, kapsel.NewEndpointID(w.now)), 0)
		w.refused(missing, kapsel.InvalidRequest, "subscribing to nothing")
		for _, id := range []kapsel.EndpointID{foreign.ID, deaf.ID} {
			w.same("refusal", missing, w.store.CreateEndpoint(w.ctx, w.subscriber(w.endpoint.ID, id), 0))
		}
		own := w.subscriber()
		own.Subscriptions = []kapsel.Subscription{{Source: own.ID.String()}}
		w.refused(w.store.CreateEndpoint(w.ctx, own, 0), kapsel.InvalidRequest, "subscribing to itself")
		after, err := w.store.Settings(w.ctx, before.Revision)
		w.must(err)
		w.same("what changed", store.Settings{Revision: before.Revision}, after)
	}},

	{"the stream of an endpoint has the events of other ingests that go to it", func(w *world) {
		others := w.fan(2)
		in := w.accept(w.endpoint, to(others[0]))
		w.atEnd(w.accept(others[1]))
		for _, e := range []kapsel.Endpoint{w.endpoint, others[0]} {
			got, _ := w.follow(store.StreamFilter{EndpointID: e.ID}, store.Position{}, 100)
			w.same("events", []kapsel.EventID{in.Event.ID}, streamedIDs(got))
		}
	}},

	{"an event and its deliveries come back as they were stored, however many there are", func(w *world) {
		for _, n := range []int{0, 1, 2, 9, 300} {
			endpoints := w.fan(n)
			in := w.accept(w.endpoint, nowhere, to(endpoints...))
			got := w.event(in.Event.ID)
			want := slices.SortedFunc(slices.Values(in.Deliveries), func(a, b kapsel.Delivery) int { return slices.Compare(a.ID[:], b.ID[:]) })
			w.same(fmt.Sprintf("%d deliveries", n), want, got.Deliveries)
			if n > 0 {
				held := w.acceptance(w.endpoint, to(endpoints...), heldBy(w.node))
				_, err := w.store.Accept(w.ctx, held)
				w.must(err)
				w.same("with the origin's own, held", n+1, len(w.event(held.Event.ID).Deliveries))
				w.same("held", held.Deliveries[0], w.delivery(held.Deliveries[0].ID))
			}
		}
	}},

	{"the same call again, and a duplicate of its key, store nothing more", func(w *world) {
		endpoints := w.fan(3)
		for name, changes := range map[string][]func(*store.Acceptance){
			"plain": nil, "key": {key("k")}, "guard": {guard("g")}, "both": {key("k2"), guard("g2")},
		} {
			in := w.accept(w.endpoint, append(changes, to(endpoints...))...)
			before := w.event(in.Event.ID)
			got, err := w.store.Accept(w.ctx, in)
			w.must(err)
			w.same(name+", again", store.Accepted{EventID: in.Event.ID}, got)
			if len(changes) > 0 {
				w.duplicate(in.Event.ID, w.acceptance(w.endpoint, append(changes, to(endpoints...))...))
			}
			w.same(name, before, w.event(in.Event.ID))
		}
	}},

	{"of calls with one key at the same time, one stores its deliveries", func(w *world) {
		endpoints := w.fan(5)
		ins := make([]store.Acceptance, 20)
		got := make([]store.Accepted, len(ins))
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key("k"), to(endpoints...))
		}
		w.together(len(ins), func(i int) (err error) {
			got[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		for i := range got {
			w.same("the event", got[0].EventID, got[i].EventID)
			if !got[i].Duplicate {
				w.same("its deliveries", 6, len(w.event(ins[i].Event.ID).Deliveries))
			}
		}
		all := 0
		for _, e := range append(endpoints, w.endpoint) {
			all += len(w.deliveries(e))
		}
		w.same("deliveries in all", 6, all)
	}},

	{"a delivery that cannot be stored fails its whole call, and no other", func(w *world) {
		endpoints := w.fan(3)
		ins := make([]store.Acceptance, 10)
		errs := make([]error, len(ins))
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, to(endpoints...))
		}
		bad := &ins[5].Deliveries[2]
		bad.Status, bad.DueAt = kapsel.Delivering, time.Time{} // held by nobody
		w.together(len(ins), func(i int) error {
			_, errs[i] = w.store.Accept(w.ctx, ins[i])
			return nil
		})
		for i, err := range errs {
			if (err != nil) != (i == 5) {
				w.t.Errorf("call %d: %v", i, err)
			}
			if i == 5 {
				_, err := w.store.Event(w.ctx, w.tenant.ID, ins[i].Event.ID)
				w.refused(err, kapsel.NotFound, "its event")
				_, err = w.store.Delivery(w.ctx, w.tenant.ID, ins[i].Deliveries[0].ID)
				w.refused(err, kapsel.NotFound, "its first delivery")
				continue
			}
			w.same("deliveries", 4, len(w.event(ins[i].Event.ID).Deliveries))
		}
	}},

	{"an event's status is that of its newest delivery to each endpoint", func(w *world) {
		endpoints := w.fan(2)
		all := append(slices.Clone(endpoints), w.endpoint)
		hold := func(in store.Acceptance) []kapsel.Delivery {
			var held []kapsel.Delivery
			for _, c := range w.claim(all...) {
				held = append(held, c.Delivery)
			}
			w.same("claimed", len(in.Deliveries), len(held))
			return held
		}
		finish := func(answers ...kapsel.Answer) kapsel.EventID {
			in := w.accept(w.endpoint, to(endpoints...))
			for i, d := range hold(in) {
				w.complete(d, answers[i])
			}
			w.pass(time.Millisecond)
			return in.Event.ID
		}
		later := again
		later.Delay = time.Hour
		events := map[kapsel.EventStatus][]kapsel.EventID{}
		add := func(status string, id kapsel.EventID) {
			events[kapsel.EventStatus(status)] = append(events[kapsel.EventStatus(status)], id)
		}
		add("delivered", finish(ok, ok, ok))
		add("failed", finish(ok, refusal, ok))
		add("failed", finish(refusal, refusal, refusal))
		add("dead_letter", finish(ok, refusal, useless))
		add("dead_letter", finish(useless, useless, ok))
		add("pending", finish(ok, useless, later))
		add("pending", finish(later, later, later))
		// A replay that is delivered mends one endpoint, and not the others.
		mended := finish(ok, refusal, ok)
		bad := w.event(mended)
		for _, d := range bad.Newest() {
			if d.Status == kapsel.Failed {
				again, err := w.store.Replay(w.ctx, w.tenant.ID, mended, d.ID, w.now)
				w.must(err)
				held := w.claimThis(again)
				w.complete(held, ok)
			}
		}
		add("delivered", mended)

		in := w.accept(w.endpoint, to(endpoints...))
		w.complete(hold(in)[0], ok)
		add("delivering", in.Event.ID)
		w.pass(time.Millisecond)
		add("received", w.accept(w.endpoint, to(endpoints...)).Event.ID)
		w.pass(time.Millisecond)
		add("received", w.accept(w.endpoint, to(endpoints...), heldBy(w.node)).Event.ID)

		for status, want := range events {
			for _, length := range []int{1, 2, 100} {
				got := w.listed(store.EventFilter{Status: status}, length)
				slices.Reverse(want)
				w.same(fmt.Sprintf("%s, %d a page", status, length), want, got)
				slices.Reverse(want)
			}
			for _, e := range all {
				got := w.listed(store.EventFilter{Status: status, EndpointID: e.ID, Shared: e.ID == w.endpoint.ID}, 100)
				w.same(fmt.Sprintf("%s at an endpoint", status), len(want), len(got))
			}
		}
	}},

	{"an endpoint lists the events and deliveries that it got, wherever they came in", func(w *world) {
		endpoints := w.fan(3)
		var want []kapsel.EventID
		for i := range 40 {
			changes := []func(*store.Acceptance){key(fmt.Sprint("k", i))}
			if i%3 == 0 {
				changes = append(changes, to(endpoints[0]))
			}
			if i%4 == 0 {
				changes = append(changes, to(endpoints[1]))
			}
			in := w.accept(w.endpoint, changes...)
			if i%3 == 0 {
				want = append(want, in.Event.ID)
			}
			if i%10 == 0 { // its own ingest
				w.pass(time.Millisecond)
				want = append(want, w.accept(endpoints[0]).Event.ID)
			}
			w.pass(time.Millisecond)
		}
		slices.Reverse(want)
		for _, length := range []int{1, 5, 100} {
			w.same("events", want, w.listed(store.EventFilter{EndpointID: endpoints[0].ID}, length))
		}
		w.same("of one that got none", 0, len(w.listed(store.EventFilter{EndpointID: endpoints[2].ID}, 100)))
		w.same("all", 44, len(w.listed(store.EventFilter{}, 7)))
		byKey := w.listed(store.EventFilter{EndpointID: endpoints[0].ID, IdempotencyKey: []byte("k3")}, 100)
		w.same("by key", 1, len(byKey))
		w.same("by key, where it did not go", 0, len(w.listed(store.EventFilter{EndpointID: endpoints[0].ID, IdempotencyKey: []byte("k4")}, 100)))
	}},

	{"each delivery is claimed with its event", func(w *world) {
		endpoints := w.fan(4)
		in := w.accept(w.endpoint, to(endpoints...), body(make([]byte, 10_000)))
		w.accept(w.endpoint)
		got := w.claim(append(endpoints, w.endpoint)...)
		w.same("claimed", 6, len(got))
		for _, c := range got {
			w.same("its event", c.Delivery.EventID, c.Event.ID)
			if c.Event.ID == in.Event.ID {
				w.same("the body", 10_000, len(c.Event.Body))
			}
		}
	}},

	{"retention waits for an event's last delivery, and deletes all of them", func(w *world) {
		endpoints := w.fan(2)
		in := w.accept(w.endpoint, to(endpoints...))
		gone := w.accept(w.endpoint, nowhere)
		claimed := w.claim(append(endpoints, w.endpoint)...)
		w.complete(claimed[0].Delivery, ok)
		w.complete(claimed[1].Delivery, refusal)
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 100)
		w.must(err)
		w.same("deleted: the event that went nowhere", 1, n)
		_, err = w.store.Event(w.ctx, w.tenant.ID, gone.Event.ID)
		w.refused(err, kapsel.NotFound, "the event that went nowhere")
		w.same("deliveries", 3, len(w.event(in.Event.ID).Deliveries))
		w.complete(claimed[2].Delivery, ok)
		n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 100)
		w.must(err)
		w.same("deleted", 1, n)
		for _, c := range claimed {
			_, err := w.store.Delivery(w.ctx, w.tenant.ID, c.Delivery.ID)
			w.refused(err, kapsel.NotFound, "a delivery")
			_, err = w.store.Attempt(w.ctx, w.tenant.ID, c.Delivery.Token)
			w.refused(err, kapsel.NotFound, "an attempt")
		}
	}},

	{"a bulk replay repeats each endpoint's deliveries, and only those of its endpoint", func(w *world) {
		endpoints := w.fan(3)
		all := append(slices.Clone(endpoints), w.endpoint)
		const events = 25
		for range events {
			w.accept(w.endpoint, to(endpoints...))
			w.pass(time.Millisecond)
		}
		for _, c := range w.claim(all...) {
			answer := refusal
			if c.Delivery.EndpointID == endpoints[1].ID {
				answer = ok
			}
			w.complete(c.Delivery, answer)
		}
		w.pass(time.Second)
		run := func(changes ...func(*kapsel.Replay)) (made int) {
			r := w.newReplay(changes...)
			w.pass(time.Millisecond)
			for more := true; more; {
				n, goOn, err := w.store.StepReplay(w.ctx, r.ID, w.now, 7)
				w.must(err)
				made, more = made+n, goOn
			}
			return made
		}
		count, _, err := w.store.CountReplay(w.ctx, w.replay(), 1000, 0)
		w.must(err)
		w.same("counted", 3*events, count)
		w.same("of one endpoint", events, run(func(r *kapsel.Replay) { r.EndpointID = endpoints[0].ID }))
		w.same("of all that are left", 2*events, run())
		w.same("what was delivered", events, run(func(r *kapsel.Replay) {
			r.EndpointID, r.Statuses = endpoints[1].ID, []kapsel.DeliveryStatus{kapsel.Delivered}
		}))
		for _, e := range all {
			w.same("deliveries", 2*events, len(w.deliveries(e)))
		}
	}},

	{"an event counts once, each of its deliveries when it ends", func(w *world) {
		endpoints := w.fan(2)
		w.accept(w.endpoint, to(endpoints...), body([]byte("12345")))
		for i, c := range w.claim(append(endpoints, w.endpoint)...) {
			w.complete(c.Delivery, []kapsel.Answer{ok, refusal, ok}[i])
		}
		day := kapsel.UsageDay(w.now)
		usage := w.usage(w.tenant.ID)
		w.same("usage", []store.UsageOfDay{{Day: day, Usage: kapsel.Usage{Events: 1, Bytes: 5, Attempts: 3, Deliveries: 3, Delivered: 2}}}, usage)
	}},

	{"what waits for a deleted endpoint is canceled, and not what waits for others", func(w *world) {
		endpoints := w.fan(2)
		in := w.accept(w.endpoint, to(endpoints...))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, endpoints[0].ID, w.now))
		n, err := w.store.CancelWaiting(w.ctx, endpoints[0].ID, w.now, 100)
		w.must(err)
		w.same("canceled", 1, n)
		w.same("its delivery", kapsel.Canceled, w.deliveryTo(in.Event.ID, endpoints[0]).Status)
		w.same("another's", kapsel.Pending, w.deliveryTo(in.Event.ID, endpoints[1]).Status)
	}},

	{"a dead node's deliveries of one event are taken over, each for itself", func(w *world) {
		endpoints := w.fan(3)
		w.accept(w.endpoint, to(endpoints...))
		claimed := w.claim(append(endpoints, w.endpoint)...)
		w.complete(claimed[0].Delivery, ok)
		w.must(w.store.Leave(w.ctx, w.node))
		w.node = w.join(lease)
		moved, err := w.store.TakeOver(w.ctx, w.now, 100)
		w.must(err)
		w.same("moved", 3, moved)
		w.same("due again", 3, len(w.claim(append(endpoints, w.endpoint)...)))
	}},
}

// claimThis claims a delivery that is the only one due at its endpoint.
func (w *world) claimThis(d kapsel.Delivery) kapsel.Delivery {
	w.t.Helper()
	return w.claimEvent(d).Delivery
}
