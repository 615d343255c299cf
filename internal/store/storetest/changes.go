package storetest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// author is who changes things in these tests.
func (w *world) author(verb string) store.Author {
	return store.Author{
		Actor: kapsel.Actor{Kind: kapsel.ActorKey, KeyID: kapsel.KeyID(w.tenant.ID), Prefix: "kap_abcd", Client: netip.MustParseAddr("2001:db8::1")},
		Verb:  verb, At: w.now, Show: shown,
	}
}

// by is the store for what the author changes.
func (w *world) by(verb string) store.Store { return w.store.By(w.author(verb)) }

// shown is the Show of the author: a few fields of each object.
func shown(object any, _ time.Time) any {
	switch o := object.(type) {
	case *kapsel.Tenant:
		return map[string]any{"name": o.Name, "updated_at": o.UpdatedAt}
	case *kapsel.Key:
		return map[string]any{"name": o.Name, "revoked": !o.RevokedAt.IsZero()}
	case *kapsel.Endpoint:
		return map[string]any{"name": o.Name, "state": o.State, "retry": map[string]any{"strategy": o.Retry.Strategy, "max": o.Retry.MaxAttempts}, "updated_at": o.UpdatedAt}
	case *kapsel.Source:
		return map[string]any{"name": o.Name}
	case *kapsel.App:
		return map[string]any{"name": o.Name, "uid": o.UID}
	case *kapsel.EventType:
		return map[string]any{"group": o.Group}
	case *kapsel.Delivery:
		return map[string]any{"status": o.Status.String(), "endpoint_id": o.EndpointID}
	case *kapsel.Replay:
		return map[string]any{"status": o.Status}
	case *kapsel.PortalLogo:
		return map[string]any{"alt": o.Alt, "size": o.Size, "sha256": o.Hash}
	case *kapsel.Session:
		return map[string]any{"address": o.Address}
	}
	panic(fmt.Sprintf("shown %T", object))
}

// changes returns the rows of changes of a tenant, or of all for the zero one, the newest first.
func (w *world) changes(tenant kapsel.TenantID, f store.ChangeFilter) (all []kapsel.Change) {
	w.t.Helper()
	for p := (store.Page[kapsel.ChangeID]{Limit: 2}); ; {
		some, err := w.store.ListChanges(w.ctx, tenant, f, p)
		w.must(err)
		all = append(all, some...)
		if len(some) < p.Limit {
			return all
		}
		p.Before = some[len(some)-1].ID
	}
}

// left checks which rows a call leaves, each as "kind id verb before after", and that the call succeeds.
func (w *world) left(what string, call func(store.Store) error, want ...string) {
	w.t.Helper()
	w.pass(time.Second)
	w.must(call(w.by(what)))
	var got []string
	for _, c := range w.changes(kapsel.TenantID{}, store.ChangeFilter{Since: w.now, Until: w.now.Add(time.Millisecond)}) {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", c.Subject.Kind, c.Subject.ID, c.Verb, c.Before, c.After))
	}
	slices.Sort(got) // those of one moment are in no order
	w.same("rows of "+what, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
}

// noting are the promises of Changes.
var noting = []promise{
	{"each change that an author makes leaves a row with who, when, what, before and after", func(w *world) {
		row := func(kind string, id fmt.Stringer, verb, before, after string) string {
			return fmt.Sprintf("%s %s %s %s %s", kind, id, verb, before, after)
		}
		t := kapsel.Tenant{ID: kapsel.NewTenantID(w.now), Name: "acme", Plan: kapsel.DefaultPlan, CreatedAt: w.now, UpdatedAt: w.now}
		w.left("create", func(s store.Store) error { return s.CreateTenant(w.ctx, t) }, row("tenant", t.ID, "create", "", `{"name":"acme"}`))
		w.left("update", func(s store.Store) error {
			_, err := s.UpdateTenant(w.ctx, t.ID, func(t *kapsel.Tenant) error { t.Name = "Acme"; return nil })
			return err
		}, row("tenant", t.ID, "update", `{"name":"acme"}`, `{"name":"Acme"}`))
		k := kapsel.Key{ID: kapsel.NewKeyID(w.now), TenantID: t.ID, Name: "ci", Scope: kapsel.ScopeRead, CreatedAt: w.now}
		w.left("create", func(s store.Store) error { return s.CreateKey(w.ctx, k) }, row("key", k.ID, "create", "", `{"name":"ci","revoked":false}`))
		w.left("revoke", func(s store.Store) error { return s.RevokeKey(w.ctx, t.ID, k.ID, w.now) }, row("key", k.ID, "revoke", `{"revoked":false}`, `{"revoked":true}`))
		w.left("revoke", func(s store.Store) error { return s.RevokeKey(w.ctx, t.ID, k.ID, w.now) })
		w.left("delete", func(s store.Store) error { return s.DeleteTenant(w.ctx, t.ID, w.now) }, row("tenant", t.ID, "delete", `{"name":"Acme"}`, ""))

		e := w.endpointOf(w.tenant)
		e.Name = "orders"
		all := `{"name":"orders","retry":{"max":20,"strategy":"exponential"},"state":"active"}`
		w.left("create", func(s store.Store) error { return s.CreateEndpoint(w.ctx, e, 0) }, row("endpoint", e.ID, "create", "", all))
		w.left("update", func(s store.Store) error {
			_, err := s.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error {
				e.State, e.Retry.MaxAttempts = kapsel.EndpointPaused, 3
				return nil
			})
			return err
		}, row("endpoint", e.ID, "update", `{"retry":{"max":20},"state":"active"}`, `{"retry":{"max":3},"state":"paused"}`))
		w.left("nothing", func(s store.Store) error {
			_, err := s.UpdateEndpoint(w.ctx, w.tenant.ID, e.ID, func(e *kapsel.Endpoint) error { e.UpdatedAt = w.now; return nil })
			return err
		})
		circuit := kapsel.Circuit{EndpointID: e.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: w.now}
		opened, err := w.store.SaveCircuit(w.ctx, circuit)
		w.must(err)
		opened.State = kapsel.CircuitClosed
		w.left("reset_circuit", func(s store.Store) error { opened, err = s.SaveCircuit(w.ctx, opened); return err },
			row("endpoint", e.ID, "reset_circuit", `{"circuit":{"state":"open"}}`, `{"circuit":{"state":"closed"}}`))
		w.left("reset_circuit", func(s store.Store) error { _, err = s.SaveCircuit(w.ctx, opened); return err })

		gone := `{"name":"orders","retry":{"max":3,"strategy":"exponential"},"state":"paused"}`
		w.left("keep_ingest", func(s store.Store) error {
			_, err := s.KeepIngest(w.ctx, w.tenant.ID, e.ID, w.now, func(*kapsel.Source) error { return nil })
			return err
		}, row("endpoint", e.ID, "keep_ingest", gone, ""), row("source", kapsel.SourceID(e.ID), "keep_ingest", "", `{"name":"orders"}`))
		e = w.newEndpoint(w.tenant)
		w.left("delete", func(s store.Store) error { return s.DeleteEndpoint(w.ctx, w.tenant.ID, e.ID, w.now) },
			row("endpoint", e.ID, "delete", `{"name":"`+e.Name+`","retry":{"max":20,"strategy":"exponential"},"state":"active"}`, ""))

		src := w.sourceOf(w.tenant)
		src.Name = "shop"
		w.left("create", func(s store.Store) error { return s.CreateSource(w.ctx, src) }, row("source", src.ID, "create", "", `{"name":"shop"}`))
		w.left("update", func(s store.Store) error {
			_, err := s.UpdateSource(w.ctx, w.tenant.ID, src.ID, func(s *kapsel.Source) error { s.Name = "shops"; return nil })
			return err
		}, row("source", src.ID, "update", `{"name":"shop"}`, `{"name":"shops"}`))
		w.left("delete", func(s store.Store) error { return s.DeleteSource(w.ctx, w.tenant.ID, src.ID, w.now) }, row("source", src.ID, "delete", `{"name":"shops"}`, ""))

		app := w.appOf(w.tenant, "a")
		w.left("create", func(s store.Store) error { return s.CreateApp(w.ctx, app) }, row("app", app.ID, "create", "", `{"name":"`+app.Name+`","uid":"a"}`))
		w.left("update", func(s store.Store) error {
			_, err := s.UpdateApp(w.ctx, w.tenant.ID, app.ID, func(a *kapsel.App) error { a.UID = "b"; return nil })
			return err
		}, row("app", app.ID, "update", `{"uid":"a"}`, `{"uid":"b"}`))
		w.left("delete", func(s store.Store) error { return s.DeleteApp(w.ctx, w.tenant.ID, app.ID, w.now) }, row("app", app.ID, "delete", `{"name":"`+app.Name+`","uid":"b"}`, ""))

		kind := w.typeOf(w.tenant, "a.b")
		w.left("create", func(s store.Store) error { return s.CreateEventType(w.ctx, kind) }, row("event_type", kind.ID, "create", "", `{"group":""}`))
		w.left("update", func(s store.Store) error {
			_, err := s.UpdateEventType(w.ctx, w.tenant.ID, "a.b", func(e *kapsel.EventType) error { e.Group = "g"; return nil })
			return err
		}, row("event_type", kind.ID, "update", `{"group":""}`, `{"group":"g"}`))
		w.left("delete", func(s store.Store) error { return s.DeleteEventType(w.ctx, w.tenant.ID, "a.b", w.now) }, row("event_type", kind.ID, "delete", `{"group":"g"}`, ""))
	}},

	{"what an author does to events, deliveries and replays leaves rows", func(w *world) {
		d := w.accept(w.endpoint).Deliveries[0]
		to := `"endpoint_id":"` + w.endpoint.ID.String() + `"`
		w.left("cancel", func(s store.Store) error {
			_, err := s.MoveDelivery(w.ctx, w.tenant.ID, d.ID, kapsel.Cancel{}, w.now)
			return err
		}, fmt.Sprintf(`delivery %s cancel {"status":"pending"} {"status":"canceled"}`, d.ID))
		w.left("replay", func(s store.Store) error {
			_, err := s.Replay(w.ctx, w.tenant.ID, d.EventID, kapsel.DeliveryID{}, w.now)
			return err
		}, fmt.Sprintf(`event %s replay  {%s,"status":"pending"}`, d.EventID, to))
		w.left("cancel", func(s store.Store) error {
			_, _, err := s.CancelEvent(w.ctx, w.tenant.ID, d.EventID, kapsel.EndpointID{}, w.now)
			return err
		}, fmt.Sprintf(`event %s cancel  {"canceled":1,"canceled_expansion":false}`, d.EventID))
		w.left("cancel", func(s store.Store) error {
			_, _, err := s.CancelEvent(w.ctx, w.tenant.ID, d.EventID, kapsel.EndpointID{}, w.now)
			return err
		})
		other := w.newEndpoint(w.tenant)
		w.left("replay", func(s store.Store) error {
			_, err := s.Deliver(w.ctx, w.tenant.ID, d.EventID, other.ID, w.now)
			return err
		}, fmt.Sprintf(`event %s replay  {"endpoint_id":"%s","status":"pending"}`, d.EventID, other.ID))

		r := w.replay()
		w.left("create", func(s store.Store) error { return s.CreateReplay(w.ctx, r) }, fmt.Sprintf(`replay %s create  {"status":"running"}`, r.ID))
		pause := func(s store.Store) error {
			_, err := s.MoveReplay(w.ctx, w.tenant.ID, r.ID, kapsel.ReplayPaused, w.now)
			return err
		}
		w.left("pause", pause, fmt.Sprintf(`replay %s pause {"status":"running"} {"status":"paused"}`, r.ID))

		author := w.author("test")
		change, _ := author.Change(store.Seen{}, author.Made(w.tenant.ID, kapsel.KindEndpoint, w.endpoint.ID, "orders", map[string]any{"n": 1}))
		in := w.acceptance(w.endpoint, func(in *store.Acceptance) { in.Change = &change })
		for range 2 { // a repeated call writes nothing more
			_, err := w.store.Accept(w.ctx, in)
			w.must(err)
		}
		w.accept(w.endpoint)
		w.same("rows of a test event", []kapsel.Change{change}, w.changes(w.tenant.ID, store.ChangeFilter{Verb: "test"}))
	}},

	{"sign-ins leave rows, and so do the ends of sessions that somebody ends", func(w *world) {
		at := `{"address":"192.0.2.1"}`
		row := func(s *kapsel.Session, verb, before, after string) string {
			return fmt.Sprintf("session %s %s %s %s", s.ID, verb, before, after)
		}
		key := kapsel.NewKeyID(w.now)
		begin := func(s kapsel.Session) kapsel.Session {
			w.t.Helper()
			s.ID = kapsel.NewSessionID(w.now.Add(time.Second)) // left goes on by as much
			s.Hash = sha256.Sum256(s.ID[:])
			w.left("sign_in", func(st store.Store) error { return st.CreateSession(w.ctx, s) }, row(&s, "sign_in", "", at))
			return s
		}
		held := kapsel.Session{TenantID: w.tenant.ID, KeyID: key, KeyHash: sha256.Sum256(key[:]), Address: "192.0.2.1", CreatedAt: w.now, SeenAt: w.now}
		person := kapsel.Session{Subject: "sub-ann", Name: "Ann", KeyHash: held.KeyHash, Address: "192.0.2.1", CreatedAt: w.now, SeenAt: w.now}
		first, second, third := begin(held), begin(held), begin(held)
		w.left("sign_in", func(s store.Store) error { return s.CreateSession(w.ctx, first) }) // again
		w.left("touch", func(s store.Store) error { return s.TouchSession(w.ctx, first.ID, w.now) })
		w.left("end", func(s store.Store) error { return s.DeleteSession(w.ctx, w.tenant.ID, first.ID) }, row(&first, "end", at, ""))
		w.refused(w.by("end").DeleteSession(w.ctx, w.tenant.ID, first.ID), kapsel.NotFound, "one that has ended")
		w.left("sign_out", func(s store.Store) error { return s.DeleteSessions(w.ctx, w.tenant.ID, key) }, row(&second, "sign_out", at, ""), row(&third, "sign_out", at, ""))
		ann := begin(person)
		w.left("sign_out", func(s store.Store) error { return s.DeleteSessionsOf(w.ctx, "sub-ann") }, row(&ann, "sign_out", at, ""))
		w.left("sign_out", func(s store.Store) error { return s.DeleteSessionsOf(w.ctx, "sub-ann") })
		w.same("rows of the tenant", 6, len(w.changes(w.tenant.ID, store.ChangeFilter{Kind: kapsel.KindSession})))
		named := w.changes(kapsel.TenantID{}, store.ChangeFilter{Subject: ann.ID.String()})
		w.same("rows of the person", 2, len(named))
		w.same("the person's name", "Ann", named[0].Subject.Name)
	}},

	{"a value of the instance that an author replaces leaves a row that does not show it", func(w *world) {
		_, err := w.store.SetMeta(w.ctx, "check", []byte("old value"))
		w.must(err)
		replace := func(s store.Store) error {
			return s.ReplaceMeta(w.ctx, "check", []byte("old value"), []byte("new value"))
		}
		w.left("rotate_key", replace, `instance  rotate_key  {"replaced":"check"}`)
		w.left("rotate_key", replace) // a repeated call
		w.refused(w.by("rotate_key").ReplaceMeta(w.ctx, "check", []byte("old value"), []byte("another")), kapsel.Conflict, "another value")
		w.same("rows", 1, len(w.changes(kapsel.TenantID{}, store.ChangeFilter{})))
	}},

	{"a change that fails leaves no row, and neither does one without an author", func(w *world) {
		refusal := errors.New("no")
		_, err := w.by("update").UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.Name = "x"; return refusal })
		w.refusedAs(err, refusal, "a change that its function refuses")
		w.refused(w.by("create").CreateEndpoint(w.ctx, w.endpoint, 0), kapsel.Conflict, "a taken id")
		w.refused(w.by("delete").DeleteTenant(w.ctx, w.tenant.ID, w.now), kapsel.Conflict, "a tenant with endpoints")
		w.refused(w.by("delete").DeleteSource(w.ctx, w.tenant.ID, kapsel.NewSourceID(w.now), w.now), kapsel.NotFound, "a source that there is not")
		_, err = w.by("reset_circuit").SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, Destination: 1, State: kapsel.CircuitOpened, Version: 7})
		w.refused(err, kapsel.Conflict, "another version of the circuit")
		d := w.accept(w.endpoint).Deliveries[0]
		_, err = w.by("replay").Replay(w.ctx, w.tenant.ID, d.EventID, kapsel.DeliveryID{}, w.now)
		w.refused(err, kapsel.Conflict, "a replay of what has not ended")
		w.newApp("a")
		app := w.appOf(w.tenant, "a")
		w.refused(w.by("create").CreateApp(w.ctx, app), kapsel.Conflict, "a taken uid")
		w.same("rows", 0, len(w.changes(kapsel.TenantID{}, store.ChangeFilter{})))
	}},

	{"rows are listed by tenant, object, kind, verb, key and time, and come back as they were written", func(w *world) {
		other := w.newTenant()
		mine, err := json.Marshal(map[string]string{"name": "Käufe 🛒"})
		w.must(err)
		var all []kapsel.Change
		add := func(tenant kapsel.TenantID, change func(*kapsel.Change)) kapsel.Change {
			w.t.Helper()
			w.pass(time.Second)
			c := kapsel.Change{ID: kapsel.NewChangeID(w.now), TenantID: tenant, At: w.now, Actor: w.author("").Actor, Verb: "update", After: mine,
				Subject: kapsel.Subject{Kind: kapsel.KindEndpoint, ID: "ep_1", Name: "Käufe"}}
			change(&c)
			w.must(w.store.AddChange(w.ctx, c))
			all = append([]kapsel.Change{c}, all...)
			return c
		}
		first := add(w.tenant.ID, func(*kapsel.Change) {})
		paused := add(w.tenant.ID, func(c *kapsel.Change) { c.Verb, c.Before = "pause", mine })
		theirs := add(other.ID, func(c *kapsel.Change) { c.Subject.ID, c.Actor = "ep_2", kapsel.Actor{Kind: kapsel.ActorAdmin} })
		rotated := add(kapsel.TenantID{}, func(c *kapsel.Change) {
			c.Verb, c.Actor, c.Subject = "rotate_key", kapsel.Actor{Kind: kapsel.ActorCLI}, kapsel.Subject{Kind: kapsel.KindInstance}
		})
		w.same("all", all, w.changes(kapsel.TenantID{}, store.ChangeFilter{}))
		w.same("a tenant's", []kapsel.Change{paused, first}, w.changes(w.tenant.ID, store.ChangeFilter{}))
		w.same("another's", []kapsel.Change{theirs}, w.changes(other.ID, store.ChangeFilter{}))
		w.same("another's object", 0, len(w.changes(w.tenant.ID, store.ChangeFilter{Subject: "ep_2"})))
		for what, f := range map[string]store.ChangeFilter{
			"object": {Subject: "ep_2"}, "kind": {Kind: kapsel.KindInstance}, "verb": {Verb: "pause"},
			"times": {Since: first.At, Until: paused.At}, "key": {KeyID: first.Actor.KeyID},
		} {
			want := map[string][]kapsel.Change{"object": {theirs}, "kind": {rotated}, "verb": {paused}, "times": {first}, "key": {paused, first}}[what]
			w.same("by "+what, want, w.changes(kapsel.TenantID{}, f))
		}
	}},

	{"rows older than a year are deleted, some at a time", func(w *world) {
		for range 3 {
			w.pass(time.Minute)
			w.must(w.store.AddChange(w.ctx, kapsel.Change{ID: kapsel.NewChangeID(w.now), At: w.now, Verb: "x"}))
		}
		w.now = w.now.Add(kapsel.ChangesKept - time.Second)
		for _, want := range []int{1, 1, 0} {
			n, err := w.store.DeleteOldChanges(w.ctx, w.now, 1)
			w.must(err)
			w.same("deleted", want, n)
		}
		w.same("left", 1, len(w.changes(kapsel.TenantID{}, store.ChangeFilter{})))
	}},
}
