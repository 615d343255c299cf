package settings_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// TestObeyedUnread checks that a node obeys each change that it makes when the store cannot be read
// right after the change: revoked keys open nothing, what was deleted, disabled or paused is known
// as such, and so are new secrets. Rows that the cache reads later, and that are older, change
// nothing.
func TestObeyedUnread(t *testing.T) {
	schematest.InBubble(t, func(w *schematest.World) {
		ctx := w.Context()
		now := time.Now().UTC()
		var cut atomic.Bool
		faulty := storetest.Faulty(w.Store, func(method string) storetest.Fault {
			if cut.Load() && method == "Settings" {
				return storetest.NotPersisted
			}
			return storetest.NoFault
		})
		cache := settings.NewCache(faulty)
		keys := settings.NewKeys(faulty)
		cache.OnChange(keys.Changed)
		var told []store.Settings
		cache.OnChange(func(s store.Settings) { told = append(told, s) })
		s := settings.NewObeyed(faulty, cache)

		source := kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: w.Endpoint.TenantID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
		gone := kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: w.Endpoint.TenantID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
		w.Must(w.Store.CreateSource(ctx, source))
		w.Must(w.Store.CreateSource(ctx, gone))
		deleted := w.Endpoint
		deleted.ID = kapsel.NewEndpointID(now)
		w.Must(w.Store.CreateEndpoint(ctx, deleted, 0))
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "gone", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
		w.Must(w.Store.CreateTenant(ctx, tenant))
		made := func(n byte, tenant kapsel.TenantID) kapsel.Key {
			k := kapsel.Key{ID: kapsel.NewKeyID(now), TenantID: tenant, Name: "k", Scope: kapsel.ScopeRead, Prefix: "kap_xxxx", Hash: [32]byte{n}, CreatedAt: now}
			w.Must(w.Store.CreateKey(ctx, k))
			return k
		}
		revoked, other, orphan := made(1, w.Endpoint.TenantID), made(2, w.Endpoint.TenantID), made(3, tenant.ID)
		renamed := kapsel.App{ID: kapsel.NewAppID(now), TenantID: w.Endpoint.TenantID, UID: "former", CreatedAt: now, UpdatedAt: now}
		closed := kapsel.App{ID: kapsel.NewAppID(now), TenantID: w.Endpoint.TenantID, UID: "closed", CreatedAt: now, UpdatedAt: now}
		w.Must(w.Store.CreateApp(ctx, renamed))
		w.Must(w.Store.CreateApp(ctx, closed))
		typeOf := func(name string) kapsel.EventType {
			return kapsel.EventType{ID: kapsel.NewEventTypeID(now), TenantID: w.Endpoint.TenantID, Name: name, CreatedAt: now, UpdatedAt: now}
		}
		w.Must(w.Store.CreateEventType(ctx, typeOf("changed")))
		w.Must(w.Store.CreateEventType(ctx, typeOf("ended")))
		w.Must(cache.Load(ctx))
		early, err := w.Store.Settings(ctx, 0) // another reading that has not come in yet
		w.Must(err)

		cut.Store(true)
		w.Must(s.RevokeKey(ctx, revoked.TenantID, revoked.ID, now))
		w.Must(s.DeleteTenant(ctx, tenant.ID, now))
		w.Must(s.DeleteEndpoint(ctx, deleted.TenantID, deleted.ID, now))
		w.Must(s.DeleteSource(ctx, gone.TenantID, gone.ID, now))
		_, err = s.UpdateSource(ctx, source.TenantID, source.ID, func(src *kapsel.Source) error {
			src.State, src.Verification.Secrets = kapsel.SourceDisabled, []kapsel.Secret{{ID: kapsel.NewSecretID(now), CreatedAt: now}}
			return nil
		})
		w.Must(err)
		_, err = s.UpdateEndpoint(ctx, w.Endpoint.TenantID, w.Endpoint.ID, func(e *kapsel.Endpoint) error {
			e.State, e.Verification.Secrets = kapsel.EndpointPaused, []kapsel.Secret{{ID: kapsel.NewSecretID(now), CreatedAt: now}}
			return nil
		})
		w.Must(err)
		_, err = s.UpdateTenant(ctx, w.Endpoint.TenantID, func(t *kapsel.Tenant) error { t.Name = "new"; return nil })
		w.Must(err)
		_, err = s.SaveCircuit(ctx, kapsel.Circuit{EndpointID: w.Endpoint.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: now, RetryAt: now})
		w.Must(err)
		subscriber := w.Endpoint
		subscriber.ID, subscriber.NoIngest = kapsel.NewEndpointID(now), true
		subscriber.Subscriptions = []kapsel.Subscription{{Source: source.ID.String()}}
		w.Must(s.CreateEndpoint(ctx, subscriber, 0))
		_, err = s.UpdateApp(ctx, renamed.TenantID, renamed.ID, func(a *kapsel.App) error { a.UID = "new"; return nil })
		w.Must(err)
		w.Must(s.DeleteApp(ctx, closed.TenantID, closed.ID, now))
		w.Must(s.CreateEventType(ctx, typeOf("made")))
		_, err = s.UpdateEventType(ctx, renamed.TenantID, "changed", func(t *kapsel.EventType) error { t.Group = "new"; return nil })
		w.Must(err)
		w.Must(s.DeleteEventType(ctx, renamed.TenantID, "ended", now))
		if len(told) != 15 { // one by Load
			t.Errorf("%d changes were told of, want 15", len(told))
		}

		check := func(when string) {
			t.Helper()
			for _, k := range []kapsel.Key{revoked, orphan} {
				if found, err := keys.KeyByHash(ctx, k.Hash); err != nil || found.RevokedAt.IsZero() {
					t.Errorf("%s: a revoked key is found as %+v, %v", when, found, err)
				}
			}
			if found, err := keys.KeyByHash(ctx, other.Hash); err != nil || !found.RevokedAt.IsZero() {
				t.Errorf("%s: another key is found as %+v, %v", when, found, err)
			}
			if _, err := cache.Endpoint(ctx, deleted.ID); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("%s: of a deleted endpoint: %v", when, err)
			}
			if _, err := cache.Source(ctx, gone.ID); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("%s: of a deleted source: %v", when, err)
			}
			src, err := cache.Source(ctx, source.ID)
			if err != nil || src.State != kapsel.SourceDisabled || len(src.Verification.Secrets) != 1 {
				t.Errorf("%s: a disabled source with a new secret is %+v, %v", when, src, err)
			}
			e, err := cache.Endpoint(ctx, w.Endpoint.ID)
			if err != nil || e.State != kapsel.EndpointPaused || len(e.Verification.Secrets) != 1 {
				t.Errorf("%s: a paused endpoint with a new secret is %+v, %v", when, e, err)
			}
			if got, err := cache.Tenant(ctx, w.Endpoint.TenantID); err != nil || got.Name != "new" {
				t.Errorf("%s: the tenant is %+v, %v", when, got, err)
			}
			if len(cache.Tenants()) != 1 {
				t.Errorf("%s: %d tenants, want 1", when, len(cache.Tenants()))
			}
			if got := cache.Circuit(w.Endpoint.ID).State; got != kapsel.CircuitOpened {
				t.Errorf("%s: the circuit is %q", when, got)
			}
			if got := cache.Subscribers(kapsel.OriginID(source.ID), "", nil); len(got) != 1 || got[0].ID != subscriber.ID {
				t.Errorf("%s: the source's subscribers are %v", when, got)
			}
			if got, err := cache.App(ctx, renamed.TenantID, "new"); err != nil || got.ID != renamed.ID {
				t.Errorf("%s: an app with a new uid is %+v, %v", when, got, err)
			}
			if got, err := cache.App(ctx, closed.TenantID, closed.ID.String()); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("%s: a deleted app is %+v, %v", when, got, err)
			}
			if cache.EventType(renamed.TenantID, "made") == nil || cache.EventType(renamed.TenantID, "ended") != nil {
				t.Errorf("%s: of two event types the deleted one is there", when)
			}
			if got := cache.EventType(renamed.TenantID, "changed"); got == nil || got.Group != "new" {
				t.Errorf("%s: a changed event type is %+v", when, got)
			}
		}
		check("unread")
		cache.Apply(early)
		check("after an early reading")
		cut.Store(false)
		w.Must(cache.Load(ctx))
		check("read")
	})
}

// TestObeyedLookUp checks that a key which is revoked while the store is asked for it is found as
// revoked and not kept, also when its tenant is deleted.
func TestObeyedLookUp(t *testing.T) {
	now := time.Now()
	d := &oneKey{key: kapsel.Key{ID: kapsel.NewKeyID(now), TenantID: kapsel.NewTenantID(now), Hash: [32]byte{1}}}
	for name, ends := range map[string]store.Settings{
		"revoked": {Keys: []kapsel.Key{{ID: d.key.ID, RevokedAt: now}}},
		"deleted": {Tenants: []kapsel.Tenant{{ID: d.key.TenantID, DeletedAt: now}}},
	} {
		keys := settings.NewKeys(d)
		d.during = func() { keys.Changed(ends) }
		for range 2 {
			key, err := keys.KeyByHash(context.Background(), d.key.Hash)
			if err != nil || key.RevokedAt.IsZero() {
				t.Errorf("%s: %+v, %v", name, key, err)
			}
		}
		// A reading of the settings from before the end.
		keys.Changed(store.Settings{Keys: []kapsel.Key{d.key}})
		if key, err := keys.KeyByHash(context.Background(), d.key.Hash); err != nil || key.RevokedAt.IsZero() {
			t.Errorf("%s, then read from before: %+v, %v", name, key, err)
		}
	}
}
