package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// appOf is an app to create.
func (w *world) appOf(t kapsel.Tenant, uid string) kapsel.App {
	return kapsel.App{
		ID: kapsel.NewAppID(w.now), TenantID: t.ID, UID: uid, CreatedAt: w.now, UpdatedAt: w.now, AppConfig: kapsel.AppConfig{Name: "Acme"},
	}
}

// newApp makes an app of the world's tenant.
func (w *world) newApp(uid string) kapsel.App {
	w.t.Helper()
	a := w.appOf(w.tenant, uid)
	w.must(w.store.CreateApp(w.ctx, a))
	return a
}

// ofApp is an endpoint to create that gets what is published to an app.
func (w *world) ofApp(a kapsel.App) kapsel.Endpoint {
	e := w.named(kapsel.Publish)
	e.AppID = a.ID
	return e
}

// publishedTo makes an arrival one that is published to an app.
func publishedTo(a kapsel.App) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Event.AppID = a.ID }
}

// grouping are the promises about apps.
var grouping = []promise{
	{"an app comes back as it was made, and as it was changed", func(w *world) {
		a := w.appOf(w.tenant, "acme")
		a.AppConfig = kapsel.AppConfig{Name: "Käufer 🛒", Metadata: map[string]string{"plan": "gold"}, RateLimit: &kapsel.RateLimit{PerSecond: 2.5, Burst: 7}}
		before := w.settings(0).Revision
		w.must(w.store.CreateApp(w.ctx, a))
		a.Revision = before + 1
		for _, read := range []func() (kapsel.App, error){
			func() (kapsel.App, error) { return w.store.App(w.ctx, w.tenant.ID, a.ID) },
			func() (kapsel.App, error) { return w.store.App(w.ctx, kapsel.TenantID{}, a.ID) },
			func() (kapsel.App, error) { return w.store.AppByUID(w.ctx, w.tenant.ID, "acme") },
			func() (kapsel.App, error) { return store.FindApp(w.ctx, w.store, w.tenant.ID, "acme") },
			func() (kapsel.App, error) { return store.FindApp(w.ctx, w.store, w.tenant.ID, a.ID.String()) },
		} {
			got, err := read()
			w.must(err)
			w.same("made", a, got)
		}
		w.same("in the settings", []kapsel.App{a}, w.settings(before).Apps)
		w.refusedAs(w.store.CreateApp(w.ctx, a), rules.IDTaken(), "made again")

		w.pass(time.Second)
		changed, err := w.store.UpdateApp(w.ctx, w.tenant.ID, a.ID, func(a *kapsel.App) error {
			a.UID, a.AppConfig, a.UpdatedAt = "", kapsel.AppConfig{Name: "other"}, w.now
			return nil
		})
		w.must(err)
		a.UID, a.AppConfig, a.UpdatedAt, a.Revision = "", kapsel.AppConfig{Name: "other"}, w.now, before+2
		w.same("changed", a, changed)
		_, err = w.store.AppByUID(w.ctx, w.tenant.ID, "acme")
		w.refused(err, kapsel.NotFound, "its former uid")

		refusal := kapsel.Errorf(kapsel.Conflict, "no")
		_, err = w.store.UpdateApp(w.ctx, w.tenant.ID, a.ID, func(a *kapsel.App) error { a.Name = "x"; return refusal })
		w.refusedAs(err, refusal, "a change that fails")
		got, err := w.store.App(w.ctx, w.tenant.ID, a.ID)
		w.must(err)
		w.same("after it", a, got)

		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, a.ID, w.now))
		_, err = w.store.App(w.ctx, w.tenant.ID, a.ID)
		w.refused(err, kapsel.NotFound, "a deleted one")
		w.refused(w.store.DeleteApp(w.ctx, w.tenant.ID, a.ID, w.now), kapsel.NotFound, "deleting it again")
		w.refusedAs(w.store.CreateApp(w.ctx, a), rules.IDTaken(), "the id of a deleted one")
		a.DeletedAt, a.Revision = w.now, before+3
		w.same("deleted, in the settings", []kapsel.App{a}, w.settings(before+2).Apps)
		w.same("deleted, for who begins", 0, len(w.settings(0).Apps))
	}},

	{"the uid of an app is its tenant's only one, until the app is deleted", func(w *world) {
		one, other := w.newApp("acme"), w.newApp("other")
		w.refusedAs(w.store.CreateApp(w.ctx, w.appOf(w.tenant, "acme")), rules.UIDTaken(), "the same uid")
		_, err := w.store.UpdateApp(w.ctx, w.tenant.ID, other.ID, func(a *kapsel.App) error { a.UID = "acme"; return nil })
		w.refusedAs(err, rules.UIDTaken(), "taking it")
		w.must(w.store.CreateApp(w.ctx, w.appOf(w.newTenant(), "acme")))
		w.newApp("")
		w.newApp("") // none is no uid
		w.newApp("Acme")
		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, one.ID, w.now))
		again := w.newApp("acme")
		got, err := w.store.AppByUID(w.ctx, w.tenant.ID, "acme")
		w.must(err)
		w.same("who has it", again.ID, got.ID)

		errs := make([]error, 6)
		w.together(len(errs), func(i int) error {
			errs[i] = w.store.CreateApp(w.ctx, w.appOf(w.tenant, "at once"))
			return nil
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				w.refusedAs(err, rules.UIDTaken(), "at the same time")
			}
		}
		w.same("made at the same time", 1, made)
	}},

	{"a tenant's apps are listed, and another's are as missing ones", func(w *world) {
		foreign := w.appOf(w.newTenant(), "theirs")
		w.must(w.store.CreateApp(w.ctx, foreign))
		var want []kapsel.AppID
		for i := range 5 {
			w.pass(time.Millisecond)
			want = append(want, w.newApp(fmt.Sprint("u", i)).ID)
		}
		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, want[2], w.now))
		want = slices.Delete(want, 2, 3)
		slices.Reverse(want)
		var got []kapsel.AppID
		for p := (store.Page[kapsel.AppID]{Limit: 3}); ; p.Before = got[len(got)-1] {
			page, err := w.store.ListApps(w.ctx, w.tenant.ID, p)
			w.must(err)
			for _, a := range page {
				got = append(got, a.ID)
			}
			if len(page) < p.Limit {
				break
			}
		}
		w.same("listed", want, got)
		all, err := w.store.ListApps(w.ctx, kapsel.TenantID{}, store.Page[kapsel.AppID]{Limit: 100})
		w.must(err)
		w.same("of all tenants", 5, len(all))

		_, missing := w.store.App(w.ctx, w.tenant.ID, kapsel.NewAppID(w.now))
		w.refused(missing, kapsel.NotFound, "reading a missing one")
		_, err = w.store.App(w.ctx, w.tenant.ID, foreign.ID)
		w.refusedAs(err, missing, "reading another's")
		_, err = w.store.AppByUID(w.ctx, w.tenant.ID, "theirs")
		w.refusedAs(err, missing, "reading another's by its uid")
		_, err = w.store.UpdateApp(w.ctx, w.tenant.ID, foreign.ID, func(*kapsel.App) error { return nil })
		w.refusedAs(err, missing, "changing another's")
		w.refusedAs(w.store.DeleteApp(w.ctx, w.tenant.ID, foreign.ID, w.now), missing, "deleting another's")
		w.refused(w.store.CreateApp(w.ctx, w.appOf(kapsel.Tenant{ID: kapsel.NewTenantID(w.now)}, "")), kapsel.NotFound, "of a tenant that is missing")
	}},

	{"a tenant that has apps and an app that has endpoints are not deleted", func(w *world) {
		a := w.newApp("acme")
		e := w.ofApp(a)
		w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		w.refusedAs(w.store.DeleteApp(w.ctx, w.tenant.ID, a.ID, w.now), rules.AppUnused(1), "an app with an endpoint")
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, e.ID, w.now))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.refusedAs(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now), rules.TenantUnused(0, 0, 1), "a tenant with an app")
		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, a.ID, w.now))
		w.must(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now))
	}},

	{"an endpoint belongs to an app of its tenant, and is listed by it", func(w *world) {
		a, other := w.newApp("acme"), w.newApp("other")
		var want []kapsel.EndpointID
		for _, of := range []kapsel.App{a, other, a} {
			w.pass(time.Millisecond)
			e := w.ofApp(of)
			w.must(w.store.CreateEndpoint(w.ctx, e, 0))
			got, err := w.store.Endpoint(w.ctx, w.tenant.ID, e.ID)
			w.must(err)
			w.same("its app", of.ID, got.AppID)
			if of.ID == a.ID {
				want = append(want, e.ID)
			}
			changed, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error { e.Name = "changed"; return nil })
			w.must(err)
			w.same("its app, after a change", of.ID, changed.AppID)
		}
		slices.Reverse(want)
		for _, tenant := range []kapsel.TenantID{w.tenant.ID, {}} {
			list, err := w.store.ListEndpoints(w.ctx, tenant, a.ID, store.Page[kapsel.EndpointID]{Limit: 10})
			w.must(err)
			var got []kapsel.EndpointID
			for _, e := range list {
				got = append(got, e.ID)
			}
			w.same("listed", want, got)
		}

		missing := w.ofApp(w.appOf(w.tenant, ""))
		refused := w.store.CreateEndpoint(w.ctx, missing, 0)
		w.refused(refused, kapsel.InvalidRequest, "of a missing app")
		foreign := w.appOf(w.newTenant(), "")
		w.must(w.store.CreateApp(w.ctx, foreign))
		w.same("of another tenant's app", refused, w.store.CreateEndpoint(w.ctx, w.ofApp(foreign), 0))
		gone := w.newApp("")
		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, gone.ID, w.now))
		w.same("of a deleted app", refused, w.store.CreateEndpoint(w.ctx, w.ofApp(gone), 0))
	}},

	{"the uid of an endpoint is the only one in its app, or among endpoints without one, until the endpoint is deleted", func(w *world) {
		a, other := w.newApp("acme"), w.newApp("other")
		ofApp := func(a kapsel.App, uid string) kapsel.Endpoint { e := w.ofApp(a); e.UID = uid; return e }
		alone := func(uid string) kapsel.Endpoint { e := w.named(kapsel.Publish); e.UID = uid; return e }
		one, without := ofApp(a, "main"), alone("main")
		one.Metadata = map[string]string{"Käufer": "🛒", "empty": ""}
		for _, e := range []kapsel.Endpoint{one, without, ofApp(other, "main"), ofApp(a, "Main"), ofApp(a, ""), ofApp(a, ""), alone("")} {
			w.must(w.store.CreateEndpoint(w.ctx, e, 0))
			got, err := w.store.Endpoint(w.ctx, w.tenant.ID, e.ID)
			w.must(err)
			w.same("uid", e.UID, got.UID)
			w.same("metadata", e.Metadata, got.Metadata)
		}
		w.refusedAs(w.store.CreateEndpoint(w.ctx, ofApp(a, "main"), 0), rules.EndpointUIDTaken(), "the same uid in the app")
		w.refusedAs(w.store.CreateEndpoint(w.ctx, alone("main"), 0), rules.EndpointUIDTaken(), "the same uid without an app")
		got, err := w.store.Endpoint(w.ctx, w.tenant.ID, one.ID)
		w.must(err)
		w.same("who has it, after that", one.UID, got.UID)

		rename := func(e kapsel.Endpoint, uid string) error {
			_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error { e.UID = uid; return nil })
			return err
		}
		second := ofApp(a, "second")
		w.must(w.store.CreateEndpoint(w.ctx, second, 0))
		w.refusedAs(rename(second, "main"), rules.EndpointUIDTaken(), "taking it")
		w.must(rename(one, "main")) // its own
		w.must(rename(second, "third"))
		w.must(rename(one, ""))
		w.must(rename(second, "main"))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, second.ID, w.now))
		w.must(rename(one, "main"))
		changed := w.settings(0).Endpoints
		i := slices.IndexFunc(changed, func(e kapsel.Endpoint) bool { return e.ID == one.ID })
		w.same("in the settings", "main", changed[i].UID)

		errs := make([]error, 6)
		w.together(len(errs), func(i int) error {
			errs[i] = w.store.CreateEndpoint(w.ctx, ofApp(a, "at-once"), 0)
			return nil
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				w.refusedAs(err, rules.EndpointUIDTaken(), "at the same time")
			}
		}
		w.same("made at the same time", 1, made)
	}},

	{"events of an app are read, claimed and listed as that", func(w *world) {
		a, other := w.newApp("acme"), w.newApp("other")
		e := w.ofApp(a)
		w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		var all, sent, unmatched []kapsel.EventID
		for i := range 9 {
			in := [](func() store.Acceptance){
				func() store.Acceptance { return w.arrived(published, publishedTo(a), to(e), typed("t", "c")) },
				func() store.Acceptance {
					return w.arrived(published, publishedTo(a), key(fmt.Sprint("k", i)), ordering("o"))
				},
				func() store.Acceptance { return w.arrived(published, publishedTo(other)) },
			}[i%3]()
			w.same("event", in.Event, w.event(in.Event.ID).Event)
			if i%3 < 2 {
				all = append(all, in.Event.ID)
			}
			if i%3 == 0 {
				w.same("claimed", in.Event, w.claimEvent(in.Deliveries[0]).Event)
				sent = append(sent, in.Event.ID)
			} else if i%3 == 1 {
				unmatched = append(unmatched, in.Event.ID)
			}
			w.pass(time.Millisecond)
		}
		w.arrived(published)
		w.accept(w.endpoint)
		for _, list := range [][]kapsel.EventID{all, sent, unmatched} {
			slices.Reverse(list)
		}
		for _, length := range []int{1, 4, 100} {
			w.same("of the app", all, w.listed(store.EventFilter{AppID: a.ID}, length))
			w.same("of the app and its endpoint", sent, w.listed(store.EventFilter{AppID: a.ID, EndpointID: e.ID}, length))
			w.same("unmatched", unmatched, w.listed(store.EventFilter{AppID: a.ID, Status: kapsel.EventUnmatched}, length))
			w.same("received", sent, w.listed(store.EventFilter{AppID: a.ID, Status: kapsel.EventReceived}, length))
			w.same("received, of the endpoint", sent, w.listed(store.EventFilter{AppID: a.ID, EndpointID: e.ID, Status: kapsel.EventReceived}, length))
			w.same("by key", unmatched[1:2], w.listed(store.EventFilter{AppID: a.ID, IdempotencyKey: []byte("k4")}, length))
			w.same("another app's, by key", 0, len(w.listed(store.EventFilter{AppID: other.ID, IdempotencyKey: []byte("k4")}, length)))
			w.same("another app's, of the endpoint", 0, len(w.listed(store.EventFilter{AppID: other.ID, EndpointID: e.ID}, length)))
		}
		since := store.EventFilter{AppID: a.ID, Since: w.now.Add(-3 * time.Millisecond)}
		w.same("since", all[:2], w.listed(since, 4))
		w.same("another tenant's", 0, len(w.listEvents(w.newTenant().ID, store.EventFilter{AppID: a.ID}, 10)))
		w.same("of all tenants", len(all), len(w.listEvents(kapsel.TenantID{}, store.EventFilter{AppID: a.ID}, 10)))
	}},

	{"the key of a published event is its app's", func(w *world) {
		one, two := w.newApp("one"), w.newApp("two")
		for _, change := range []func(*store.Acceptance){publishedTo(one), publishedTo(two), ordering("o"), func(*store.Acceptance) {}} {
			in := w.arrived(published, change, key("k"))
			w.duplicate(in.Event.ID, w.arrival(published, change, key("k")))
		}
		in := w.arrived(published, publishedTo(one), ordering("o"), key("k"))
		w.duplicate(in.Event.ID, w.arrival(published, publishedTo(one), ordering("o"), key("k")))
		w.same("by key", 5, len(w.listed(store.EventFilter{IdempotencyKey: []byte("k")}, 2)))
	}},

	{"an event is delivered to endpoints of its own app alone", func(w *world) {
		a, other := w.newApp("acme"), w.newApp("other")
		mine, theirs, plain := w.ofApp(a), w.ofApp(other), w.named(kapsel.Publish)
		for _, e := range []kapsel.Endpoint{mine, theirs, plain} {
			w.must(w.store.CreateEndpoint(w.ctx, e, 0))
		}
		in := w.arrived(published, publishedTo(a))
		deliver := func(event kapsel.EventID, e kapsel.Endpoint) error {
			_, err := w.store.Deliver(w.ctx, w.tenant.ID, event, e.ID, w.now)
			return err
		}
		w.refused(deliver(in.Event.ID, theirs), kapsel.InvalidRequest, "to another app's endpoint")
		w.refused(deliver(in.Event.ID, plain), kapsel.InvalidRequest, "to an endpoint without an app")
		w.refused(deliver(w.accept(w.endpoint).Event.ID, mine), kapsel.InvalidRequest, "a webhook to an app's endpoint")
		w.refused(deliver(w.arrived(published).Event.ID, mine), kapsel.InvalidRequest, "an event without an app to an app's endpoint")
		w.must(deliver(in.Event.ID, mine))
		w.same("deliveries", 1, len(w.event(in.Event.ID).Deliveries))
	}},
}
