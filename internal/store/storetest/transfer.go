package storetest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// RunTransfer checks that a store answers as the one that it is a copy of. from is a
// new, empty store; move closes it, copies it and opens the copy.
func RunTransfer(t *testing.T, from store.Store, move func() store.Store) {
	w := newWorld(t, from)
	w.oneOfEverything()
	w.must(w.store.Leave(w.ctx, w.node))
	was := w.answers()
	middle := was.stream[len(was.stream)/2]

	w.store = move()
	is := w.answers()
	w.same("everything", was.everything, is.everything)
	w.same("the rest", was.rest, is.rest)
	w.same("the order of the stream", streamedIDs(was.stream), streamedIDs(is.stream))

	behind, end := w.follow(store.StreamFilter{}, middle.At, 3)
	for _, e := range was.stream[len(was.stream)/2+1:] {
		if !slices.Contains(streamedIDs(behind), e.Event.ID) {
			t.Errorf("event %s is not behind the position that the source gave before it", e.Event.ID)
		}
	}
	behind, _ = w.follow(store.StreamFilter{}, was.end, 3)
	w.same("behind the source's end", 0, len(behind))

	w.node = w.join(24 * time.Hour)
	held := 0
	for _, e := range was.Events {
		for _, d := range e.Deliveries {
			if d.Status == kapsel.Delivering {
				held++
			}
		}
	}
	moved, err := w.store.TakeOver(w.ctx, w.now, 1000)
	w.must(err)
	w.same("deliveries taken over", held, moved)

	w.duplicate(was.keyed, w.acceptance(w.endpoint, key("remembered")))
	w.duplicate(was.guarded, w.acceptance(w.endpoint, guard("guard")))
	w.duplicate(was.ordered, w.arrival(published, key("ordered"), ordering("o")))
	next := w.accept(w.endpoint, key("forgotten")) // and what it was was found, in answers
	w.atEnd(next)
	behind, _ = w.follow(store.StreamFilter{}, was.end, 3)
	w.same("behind the source's end", []kapsel.EventID{next.Event.ID}, streamedIDs(behind))
	behind, _ = w.follow(store.StreamFilter{}, end, 3)
	w.same("behind the copy's end", []kapsel.EventID{next.Event.ID}, streamedIDs(behind))
	revision := w.settings(0).Revision
	w.newTenant()
	w.same("the settings counter goes on", revision+1, w.settings(0).Revision)
	for _, r := range was.rest.Replays {
		if r.Status == kapsel.ReplayRunning {
			w.same("made by the replay on both", 3, r.Created+w.walkOut(r.ID, 1))
		}
	}
}

// Fill stores one of everything in a new, empty store, for tests that move it.
func Fill(t *testing.T, s store.Store) {
	w := newWorld(t, s)
	w.oneOfEverything()
	w.must(s.Leave(w.ctx, w.node))
}

// answers are what a store says of all that is in it.
type answers struct {
	everything
	rest           rest
	stream         []store.Streamed
	end            store.Position
	keyed, guarded kapsel.EventID
	ordered        kapsel.EventID
}

type rest struct {
	Keys      []kapsel.Key
	Unmatched []kapsel.EventID
	Stats     map[kapsel.EndpointID][]store.StatsOfHour
	Usage     map[kapsel.TenantID][]store.UsageOfDay
	Replays   []kapsel.Replay
	Reserved  []store.Reservation
	ByKey     []kapsel.EventID
	Replanned []kapsel.EndpointID
	Audit     []audited
	Changes   []kapsel.Change
	Logos     []kapsel.PortalLogo
	Facts     []kapsel.Fact
	Accounts  []store.OwnerAccount
	Conflicts []store.BookConflict
}

func (w *world) answers() (a answers) {
	w.t.Helper()
	a.everything = w.everything()
	// What is revoked is read below; stores list these in orders of their own.
	slices.SortFunc(a.Held, func(a, b kapsel.Delivery) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	a.Settings.Keys = slices.DeleteFunc(a.Settings.Keys, func(k kapsel.Key) bool { return !k.RevokedAt.IsZero() })
	slices.SortFunc(a.Settings.Tenants, func(a, b kapsel.Tenant) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(a.Settings.Keys, func(a, b kapsel.Key) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(a.Settings.Endpoints, func(a, b kapsel.Endpoint) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(a.Settings.Sources, func(a, b kapsel.Source) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(a.Settings.Circuits, func(a, b kapsel.Circuit) int { return bytes.Compare(a.EndpointID[:], b.EndpointID[:]) })
	a.rest.Stats, a.rest.Usage = map[kapsel.EndpointID][]store.StatsOfHour{}, map[kapsel.TenantID][]store.UsageOfDay{}
	for _, e := range a.Settings.Endpoints {
		a.rest.Stats[e.ID] = w.stats(e.ID)
	}
	for _, t := range a.Settings.Tenants {
		a.rest.Usage[t.ID] = w.usage(t.ID)
		logo, err := w.store.PortalLogo(w.ctx, t.ID)
		if err == nil {
			a.rest.Logos = append(a.rest.Logos, logo)
		} else if kapsel.CodeOf(err) != kapsel.NotFound {
			w.must(err)
		}
	}
	var err error
	a.rest.Changes = w.changes(kapsel.TenantID{}, store.ChangeFilter{})
	a.rest.Keys, err = w.store.ListKeys(w.ctx, kapsel.TenantID{}, store.Page[kapsel.KeyID]{Limit: 100})
	w.must(err)
	a.rest.Replays, err = w.store.ListReplays(w.ctx, kapsel.TenantID{}, store.Page[kapsel.ReplayID]{Limit: 100})
	w.must(err)
	replanning, err := w.store.Replanning(w.ctx, 100)
	w.must(err)
	for _, e := range replanning {
		a.rest.Replanned = append(a.rest.Replanned, e.ID)
	}
	for _, owner := range []kapsel.TenantID{{}, w.tenant.ID} {
		for _, key := range []string{"plain", "sealed"} {
			a.rest.Reserved = append(a.rest.Reserved, w.reserve(w.reservation(owner, key)))
		}
	}
	a.rest.Unmatched = w.listed(store.EventFilter{Status: kapsel.EventUnmatched}, 3)
	for _, key := range []string{"remembered", "forgotten", "ordered"} {
		for _, r := range w.listEvents(w.tenant.ID, store.EventFilter{IdempotencyKey: []byte(key)}, 10) {
			a.rest.ByKey = append(a.rest.ByKey, r.Event.ID)
			switch key {
			case "remembered":
				a.keyed = r.Event.ID
			case "ordered":
				a.ordered = r.Event.ID
			}
		}
	}
	a.rest.Audit = w.audit()
	a.rest.Facts = w.facts()
	slices.SortFunc(a.rest.Facts, func(a, b kapsel.Fact) int {
		return cmp.Or(bytes.Compare(a.DeliveryID[:], b.DeliveryID[:]), cmp.Compare(a.Kind, b.Kind))
	})
	a.rest.Accounts, err = w.store.Accounts(w.ctx, kapsel.TenantID{}, store.Owner{}, 1000)
	w.must(err)
	a.rest.Conflicts, err = w.store.BookConflicts(w.ctx, kapsel.TenantID{}, 0, 100)
	w.must(err)
	a.stream, a.end = w.follow(store.StreamFilter{}, store.Position{}, 5)
	for _, e := range a.stream {
		if e.Event.ContentType == "guarded" {
			a.guarded = e.Event.ID
		}
	}
	return a
}

// oneOfEverything stores something in every table and every column.
func (w *world) oneOfEverything() {
	w.t.Helper()
	content := func(kind string) func(*store.Acceptance) {
		return func(in *store.Acceptance) { in.Event.ContentType = kind }
	}
	w.varied()
	revoked := w.newKey(w.tenant)
	w.must(w.store.RevokeKey(w.ctx, w.tenant.ID, revoked.ID, w.now))
	w.must(w.store.TouchKeys(w.ctx, map[kapsel.KeyID]time.Time{w.newKey(w.tenant).ID: w.now}))
	w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.newEndpoint(w.tenant).ID, w.now))
	w.must(w.store.DeleteTenant(w.ctx, w.newTenant().ID, w.now))
	w.must(w.store.SetPortalLogo(w.ctx, w.logoOf(w.tenant.ID, "\x89PNG\x00\xff")))
	_, err := w.store.SetMeta(w.ctx, "check", []byte("\x00value"))
	w.must(err)
	_, err = w.by("pause").UpdateEndpoint(w.ctx, w.tenant.ID, w.newEndpoint(w.tenant).ID, func(e *kapsel.Endpoint) error { e.State = kapsel.EndpointPaused; return nil })
	w.must(err)
	disabled := w.endpointOf(w.tenant)
	disabled.State, disabled.DisabledReason = kapsel.EndpointDisabled, kapsel.DisabledAdmin
	w.must(w.store.CreateEndpoint(w.ctx, disabled, 0))

	probing, other := w.newEndpoint(w.tenant), w.newEndpoint(w.tenant)
	_, err = w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, Destination: 1, State: kapsel.CircuitOpened,
		ChangedAt: w.now, RetryAt: w.now.Add(time.Minute), HoldUntil: w.now.Add(time.Hour)})
	w.must(err)
	_, err = w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: probing.ID, Destination: 2, State: kapsel.CircuitHalfOpen, ChangedAt: w.now, Probe: w.node})
	w.must(err)
	_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, other.ID, func(e *kapsel.Endpoint) error { e.EndpointConfig = w.fullConfig(); return nil })
	w.must(err)

	// Keys and guards: forgotten ones whose events are there, taken again, and remembered.
	w.accept(w.endpoint, key("forgotten"), content("forgotten"))
	w.pass(25 * time.Hour)
	w.accept(w.endpoint, key("forgotten"), content("over, and not cleared away"))
	_, err = w.store.DeleteExpiredKeys(w.ctx, w.now, 100)
	w.must(err)
	w.pass(24 * time.Hour)
	w.accept(w.endpoint, key("forgotten"), content("again"))
	w.pass(24 * time.Hour)
	w.accept(w.endpoint, key("remembered"), func(in *store.Acceptance) {
		in.Event.Signature = kapsel.SignatureVerdict{Scheme: "stripe", Valid: true, KeyID: "sec_1", Skew: -1500 * time.Millisecond}
		in.Event.TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		in.Event.Body = []byte("\x00\xff'\"\\")
		in.Event.Salt = kapsel.NewSalt()
	})
	w.accept(w.endpoint, guard("guard"), content("guarded"))
	w.logSome()
	w.bookSome()
	w.accept(w.endpoint, nowhere)
	w.accept(w.endpoint, to(probing, other), func(in *store.Acceptance) { in.Event.ReceivedAt = w.now.Add(-time.Minute) })
	w.accept(w.endpoint, func(in *store.Acceptance) { in.Deliveries = nil; to(other)(in) })
	w.accept(w.endpoint, to(other), func(in *store.Acceptance) { in.ExpandAfter = other.ID })

	// What came in at sources, and was published.
	src := w.newSource()
	_, err = w.store.UpdateSource(w.ctx, w.tenant.ID, src.ID, func(s *kapsel.Source) error {
		s.State, s.SourceConfig = kapsel.SourceDisabled, w.fullSource()
		return nil
	})
	w.must(err)
	w.must(w.store.DeleteSource(w.ctx, w.tenant.ID, w.newSource().ID, w.now))
	w.arrived(src, typed("orders/create"), to(other))
	w.arrived(src, key("k"))
	w.arrived(published, key("ordered"), typed("a.b", "x", "y"), ordering("o"))

	// What belongs to apps.
	app := w.appOf(w.tenant, "käufer")
	app.AppConfig = kapsel.AppConfig{Name: "Käufer 🛒", Metadata: map[string]string{"plan": "gold"}, RateLimit: &kapsel.RateLimit{PerSecond: 2.5, Burst: 7}}
	w.must(w.store.CreateApp(w.ctx, app))
	w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, w.newApp("").ID, w.now))
	invoice := w.typeOf(w.tenant, "invoice.paid")
	invoice.Schemas = map[string]json.RawMessage{"1": json.RawMessage(`{"const":"✓"}`)}
	w.must(w.store.CreateEventType(w.ctx, invoice))
	w.newType("gone")
	w.must(w.store.DeleteEventType(w.ctx, w.tenant.ID, "gone", w.now))
	customers := w.ofApp(app)
	w.must(w.store.CreateEndpoint(w.ctx, customers, 0))
	w.arrived(published, publishedTo(app), key("the app's"), ordering("o"), to(customers))

	// What was given up is delivered again by a duplicate, and by replays.
	given := w.finished(other, useless)
	_, err = w.store.Redeliver(w.ctx, given.Delivery.EventID, w.now)
	w.must(err)
	w.pass(time.Minute)
	for range 3 {
		w.finished(other, refusal)
	}
	w.pass(time.Minute)
	only := func(e kapsel.Endpoint) func(*kapsel.Replay) {
		return func(r *kapsel.Replay) { r.EndpointID, r.Until = e.ID, w.now.Add(time.Hour) }
	}
	running := w.newReplay(only(other))
	w.step(running.ID, 1)
	done := w.newReplay(only(disabled))
	w.walkOut(done.ID, 10)
	w.walkOut(done.ID, 10)
	paused := w.newReplay()
	_, err = w.store.MoveReplay(w.ctx, w.tenant.ID, paused.ID, kapsel.ReplayPaused, w.now)
	w.must(err)
	canceled := w.newReplay(func(r *kapsel.Replay) { r.Total = 7 })
	_, err = w.store.MoveReplay(w.ctx, w.tenant.ID, canceled.ID, kapsel.ReplayCanceled, w.now)
	w.must(err)

	for i, owner := range []kapsel.TenantID{{}, w.tenant.ID} {
		w.reserve(w.reservation(owner, "plain"))
		w.settled(w.reservation(owner, "sealed"), fmt.Sprintf("\x00\xff%d", i), true)
	}
	w.must(w.store.CountArrivals(w.ctx, map[store.StatsKey]store.Arrivals{{Endpoint: w.endpoint.ID, Hour: kapsel.StatsHour(w.now).UnixMicro()}: {Refused: 9, Unkeyed: 8}}))
}
