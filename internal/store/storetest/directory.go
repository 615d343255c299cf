package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// fullConfig is an endpoint's configuration with every field set.
func (w *world) fullConfig() kapsel.EndpointConfig {
	secret := func(sealed string) kapsel.Secret {
		return kapsel.Secret{ID: kapsel.NewSecretID(w.now), CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour), Sealed: []byte(sealed)}
	}
	return kapsel.EndpointConfig{
		Name: "Käufe 🛒 'orders'; --", URL: "https://destination.example/hook?a=%20b", Description: "line\nline", UID: "orders-1", Metadata: map[string]string{"Käufer": "🛒\n"},
		Intake: kapsel.Intake{
			Verification: kapsel.Verification{
				Provider: "hmac", Secrets: []kapsel.Secret{secret("\x00\xff"), secret("b")}, Tolerance: 5 * time.Minute,
				Header: "X-Sig", Algorithm: "sha256", Encoding: "hex", Prefix: "sha256=",
			},
			Idempotency: kapsel.Idempotency{Strategy: kapsel.KeyFromSourceID, Header: "X-Id", Path: `$.data["id"][0]`, Window: time.Minute},
		},
		Retry: kapsel.RetryPolicy{
			Strategy: kapsel.RetrySchedule, MaxAttempts: 7, Base: 100 * time.Millisecond, Max: time.Hour,
			Schedule: []time.Duration{time.Second, 1500 * time.Millisecond},
		},
		RetryOn: []int{404, 409}, Timeout: 7 * time.Second, RateLimit: &kapsel.RateLimit{PerSecond: 0.25, Burst: 9}, Concurrency: 3,
		Circuit: kapsel.CircuitPolicy{Failures: 1, Ratio: 0.75, Window: 2, Minimum: 3, OpenFor: 4 * time.Second, Successes: 5},
		Headers: kapsel.HeaderPolicy{Set: map[string]kapsel.Secret{"X-Token": secret("t")}, Drop: []string{"X-D"}, Keep: []string{"X-K"}},
		Signing: kapsel.Signing{Enabled: true, Secrets: []kapsel.Secret{secret("s1"), secret("s2")}},
	}
}

func ptr[T any](v T) *T { return &v }

// newKey makes an API key; its hash is of its id.
func (w *world) newKey(t kapsel.Tenant) kapsel.Key {
	w.t.Helper()
	id := kapsel.NewKeyID(w.now)
	k := kapsel.Key{
		ID: id, TenantID: t.ID, Name: "ci", Scope: kapsel.ScopeWrite, Prefix: "kap_abcd",
		Hash: sha256.Sum256(id[:]), CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour),
	}
	w.must(w.store.CreateKey(w.ctx, k))
	return k
}

// directing are the promises of Directory.
var directing = []promise{
	{"a key of the instance is of no tenant", func(w *world) {
		k := kapsel.Key{ID: kapsel.NewKeyID(w.now), Name: "booker", Scope: kapsel.ScopeLedger, Prefix: "kap_abcd", Hash: [32]byte{9}, CreatedAt: w.now}
		w.must(w.store.CreateKey(w.ctx, k))
		got, err := w.store.KeyByHash(w.ctx, k.Hash)
		w.must(err)
		k.Revision = got.Revision
		w.same("by its hash", k, got)
		all, err := w.store.InstanceKeys(w.ctx, store.Page[kapsel.KeyID]{Limit: 10})
		w.must(err)
		w.same("listed", []kapsel.Key{k}, all)
		of, err := w.store.ListKeys(w.ctx, w.tenant.ID, store.Page[kapsel.KeyID]{Limit: 10})
		w.must(err)
		w.same("a tenant's", 0, len(of))
		_, err = w.store.Key(w.ctx, w.tenant.ID, k.ID)
		w.refused(err, kapsel.NotFound, "as the key of a tenant")
		w.refused(w.store.RevokeKey(w.ctx, w.tenant.ID, k.ID, w.now), kapsel.NotFound, "revoked by a tenant")
		w.must(w.store.RevokeKey(w.ctx, kapsel.TenantID{}, k.ID, w.now))
		got, err = w.store.KeyByHash(w.ctx, k.Hash)
		w.must(err)
		w.same("revoked", w.now, got.RevokedAt)
	}},

	{"tenants, keys and endpoints come back as they were made", func(w *world) {
		for _, limits := range []kapsel.Limits{
			{},
			{IngestPerSecond: ptr(0.5), IngestBurst: ptr(3), Endpoints: ptr(0), EventsPerMonth: ptr(int64(1) << 40), Retention: ptr(36 * time.Hour)},
		} {
			t := kapsel.Tenant{
				ID: kapsel.NewTenantID(w.now), Name: "Žluťoučký %_\\ '", Plan: "team", Limits: limits,
				DataKey: []byte{0, 0xff, 0xc0}, CreatedAt: w.now, UpdatedAt: w.now.Add(time.Microsecond),
			}
			w.must(w.store.CreateTenant(w.ctx, t))
			got, err := w.store.Tenant(w.ctx, t.ID)
			w.must(err)
			t.Revision = got.Revision
			w.same("tenant", t, got)

			k := w.newKey(t)
			key, err := w.store.Key(w.ctx, t.ID, k.ID)
			w.must(err)
			k.Revision = key.Revision
			w.same("key", k, key)
			key, err = w.store.KeyByHash(w.ctx, k.Hash)
			w.must(err)
			w.same("key by its hash", k, key)

			e := w.endpointOf(t)
			e.State, e.DisabledReason = kapsel.EndpointDisabled, kapsel.DisabledAdmin
			if limits.Endpoints != nil {
				e.EndpointConfig = w.fullConfig()
			}
			w.must(w.store.CreateEndpoint(w.ctx, e, 0))
			endpoint, err := w.store.Endpoint(w.ctx, t.ID, e.ID)
			w.must(err)
			e.Revision = endpoint.Revision
			w.same("endpoint", e, endpoint)
		}
	}},

	{"what is not there is NotFound", func(w *world) {
		tenant, key, endpoint := kapsel.NewTenantID(w.now), kapsel.NewKeyID(w.now), kapsel.NewEndpointID(w.now)
		_, err := w.store.Tenant(w.ctx, tenant)
		w.refused(err, kapsel.NotFound, "Tenant")
		_, err = w.store.UpdateTenant(w.ctx, tenant, func(*kapsel.Tenant) error { return nil })
		w.refused(err, kapsel.NotFound, "UpdateTenant")
		w.refused(w.store.DeleteTenant(w.ctx, tenant, w.now), kapsel.NotFound, "DeleteTenant")
		_, err = w.store.Key(w.ctx, w.tenant.ID, key)
		w.refused(err, kapsel.NotFound, "Key")
		_, err = w.store.KeyByHash(w.ctx, sha256.Sum256(nil))
		w.refused(err, kapsel.NotFound, "KeyByHash")
		w.refused(w.store.RevokeKey(w.ctx, w.tenant.ID, key, w.now), kapsel.NotFound, "RevokeKey")
		_, err = w.store.Endpoint(w.ctx, kapsel.TenantID{}, endpoint)
		w.refused(err, kapsel.NotFound, "Endpoint")
		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, endpoint, func(*kapsel.Endpoint) error { return nil })
		w.refused(err, kapsel.NotFound, "UpdateEndpoint")
		w.refused(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, endpoint, w.now), kapsel.NotFound, "DeleteEndpoint")
		_, err = w.store.Meta(w.ctx, "nothing")
		w.refused(err, kapsel.NotFound, "Meta")
	}},

	{"creating what is there already is a Conflict, also above a limit, and changes nothing", func(w *world) {
		k := w.newKey(w.tenant)
		before := w.settings(0)
		again := w.tenant
		again.Name = "another"
		w.refusedAs(w.store.CreateTenant(w.ctx, again), rules.IDTaken(), "CreateTenant")
		k.Name = "another"
		w.refusedAs(w.store.CreateKey(w.ctx, k), rules.IDTaken(), "CreateKey")
		e := w.endpoint
		e.Name = "another"
		for _, limit := range []int{0, 1, 2} {
			w.refusedAs(w.store.CreateEndpoint(w.ctx, e, limit), rules.IDTaken(), fmt.Sprintf("CreateEndpoint with limit %d", limit))
		}
		w.same("settings", before, w.settings(0))
	}},

	{"of creates of one id at the same time one is", func(w *world) {
		e := w.endpointOf(w.tenant)
		var made atomic.Int32
		w.together(8, func(int) error {
			switch err := w.store.CreateEndpoint(w.ctx, e, 100); {
			case err == nil:
				made.Add(1)
			case kapsel.CodeOf(err) != kapsel.Conflict:
				return err
			}
			return nil
		})
		w.same("made", int32(1), made.Load())
	}},

	{"B-76 another tenant's keys and endpoints look like missing ones, and stay as they are", func(w *world) {
		other := w.newTenant()
		k := w.newKey(w.tenant)
		before := w.settings(0)
		_, err := w.store.Key(w.ctx, other.ID, k.ID)
		w.refused(err, kapsel.NotFound, "Key")
		w.refused(w.store.RevokeKey(w.ctx, other.ID, k.ID, w.now), kapsel.NotFound, "RevokeKey")
		_, err = w.store.Endpoint(w.ctx, other.ID, w.endpoint.ID)
		w.refused(err, kapsel.NotFound, "Endpoint")
		_, err = w.store.UpdateEndpoint(w.ctx, other.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.Name = "mine"; return nil })
		w.refused(err, kapsel.NotFound, "UpdateEndpoint")
		w.refused(w.store.DeleteEndpoint(w.ctx, other.ID, w.endpoint.ID, w.now), kapsel.NotFound, "DeleteEndpoint")
		keys, err := w.store.ListKeys(w.ctx, other.ID, store.Page[kapsel.KeyID]{Limit: 10})
		w.must(err)
		endpoints, err := w.store.ListEndpoints(w.ctx, other.ID, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 10})
		w.must(err)
		w.same("listed", 0, len(keys)+len(endpoints))
		w.same("settings", before, w.settings(0))
	}},

	{"an endpoint is found for any tenant by none", func(w *world) {
		got, err := w.store.Endpoint(w.ctx, kapsel.TenantID{}, w.endpoint.ID)
		w.must(err)
		w.same("endpoint", w.endpoint.ID, got.ID)
		got, err = w.store.UpdateEndpoint(w.ctx, kapsel.TenantID{}, w.endpoint.ID, func(e *kapsel.Endpoint) error {
			e.State = kapsel.EndpointPaused
			return nil
		})
		w.must(err)
		w.same("state", kapsel.EndpointPaused, got.State)
		w.must(w.store.DeleteEndpoint(w.ctx, kapsel.TenantID{}, w.endpoint.ID, w.now))
	}},

	{"a change is of the current row, and comes back as it is stored", func(w *world) {
		w.pass(time.Minute)
		var current kapsel.Tenant
		tenant, err := w.store.UpdateTenant(w.ctx, w.tenant.ID, func(t *kapsel.Tenant) error {
			current = *t
			t.Name, t.Plan, t.Limits.Endpoints, t.UpdatedAt, t.DataKey = "new", "free", ptr(4), w.now, []byte("rewrapped")
			return nil
		})
		w.must(err)
		current.Revision = 0
		w.same("the row it changed", w.tenant, current)
		stored, err := w.store.Tenant(w.ctx, w.tenant.ID)
		w.must(err)
		w.same("tenant", stored, tenant)
		w.same("changed", "new", stored.Name)

		config := w.fullConfig()
		endpoint, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error {
			e.State, e.EndpointConfig, e.UpdatedAt = kapsel.EndpointPaused, config, w.now
			return nil
		})
		w.must(err)
		got, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		w.same("endpoint", got, endpoint)
		want := w.endpoint
		want.State, want.EndpointConfig, want.UpdatedAt, want.Revision = kapsel.EndpointPaused, config, w.now, got.Revision
		want.Follow(&w.endpoint)
		w.same("changed", want, got)
	}},

	{"another destination is numbered and marked, also in the settings; another query is not", func(w *world) {
		change := func(url string) kapsel.Endpoint {
			w.t.Helper()
			changed, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.URL = url; return nil })
			w.must(err)
			got, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
			w.must(err)
			w.same("stored", changed, got)
			for _, e := range w.settings(0).Endpoints {
				if e.ID == got.ID {
					w.same("in the settings", got, e)
				}
			}
			return got
		}
		first := w.endpoint.URL
		same := change(first + "?with=query")
		w.same("destination with another query", 1, same.Destination)
		w.same("mark with another query", int64(0), same.Replan)
		second := change("https://other.example/hook")
		w.same("second destination", 2, second.Destination)
		w.same("its mark", second.Revision, second.Replan)
		back := change(first)
		w.same("the first destination again", 3, back.Destination)
		w.same("its mark", back.Revision, back.Replan)
	}},

	{"an error of the change comes back as it is, and nothing changes", func(w *world) {
		before := w.settings(0)
		mine := errors.New("mine")
		_, err := w.store.UpdateTenant(w.ctx, w.tenant.ID, func(t *kapsel.Tenant) error { t.Name = "x"; return mine })
		if err != mine {
			w.t.Errorf("UpdateTenant: error is %v", err)
		}
		conflict := kapsel.Errorf(kapsel.Conflict, "mine, too")
		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.Name = "x"; return conflict })
		if err != conflict {
			w.t.Errorf("UpdateEndpoint: error is %v", err)
		}
		w.same("settings", before, w.settings(0))
	}},

	{"changes at the same time do not overwrite each other", func(w *world) {
		const changes = 20
		w.together(2*changes, func(i int) error {
			if i < changes {
				_, err := w.store.UpdateTenant(w.ctx, w.tenant.ID, func(t *kapsel.Tenant) error { t.Name += "+"; return nil })
				return err
			}
			_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.Concurrency++; return nil })
			return err
		})
		t, err := w.store.Tenant(w.ctx, w.tenant.ID)
		w.must(err)
		e, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		w.same("tenant", len(w.tenant.Name)+changes, len(t.Name))
		w.same("endpoint", w.endpoint.Concurrency+changes, e.Concurrency)
	}},

	{"an endpoint above the tenant's limit is QuotaExceeded; deleted ones do not count", func(w *world) {
		second, third := w.endpointOf(w.tenant), w.endpointOf(w.tenant)
		w.must(w.store.CreateEndpoint(w.ctx, second, 2))
		w.refusedAs(w.store.CreateEndpoint(w.ctx, third, 2), rules.EndpointRoom(2, 2), "the third of two")
		_, err := w.store.Endpoint(w.ctx, w.tenant.ID, third.ID)
		w.refused(err, kapsel.NotFound, "the third")
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.must(w.store.CreateEndpoint(w.ctx, third, 2))
		w.must(w.store.CreateEndpoint(w.ctx, w.endpointOf(w.newTenant()), 1)) // others' do not count
	}},

	{"endpoints are read together, without deleted ones and those of another tenant", func(w *world) {
		deleted, other := w.newEndpoint(w.tenant), w.newEndpoint(w.newTenant())
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, deleted.ID, w.now))
		asked := []kapsel.EndpointID{other.ID, deleted.ID, w.endpoint.ID, kapsel.NewEndpointID(w.now)}
		for tenant, want := range map[kapsel.TenantID][]kapsel.EndpointID{w.tenant.ID: {w.endpoint.ID}, {}: {w.endpoint.ID, other.ID}} {
			got, err := w.store.Endpoints(w.ctx, tenant, asked)
			w.must(err)
			w.same("how many", len(want), len(got))
			for _, e := range got {
				one, err := w.store.Endpoint(w.ctx, tenant, e.ID)
				w.must(err)
				w.same("one of them", one, e)
				if !slices.Contains(want, e.ID) {
					w.t.Errorf("it returned the endpoint %s", e.ID)
				}
			}
		}
		none, err := w.store.Endpoints(w.ctx, w.tenant.ID, nil)
		w.must(err)
		w.same("of none", 0, len(none))
	}},

	{"endpoints made at the same time keep to the limit", func(w *world) {
		var made atomic.Int64
		var all [12]kapsel.Endpoint
		for i := range all {
			all[i] = w.endpointOf(w.tenant)
		}
		w.together(len(all), func(i int) error {
			err := w.store.CreateEndpoint(w.ctx, all[i], 5)
			if kapsel.CodeOf(err) == kapsel.QuotaExceeded {
				return nil
			}
			made.Add(1)
			return err
		})
		list, err := w.store.ListEndpoints(w.ctx, w.tenant.ID, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 100})
		w.must(err)
		if made.Load() != 4 || len(list) != 5 {
			w.t.Errorf("%d made beside one, %d listed; the limit is 5", made.Load(), len(list))
		}
	}},

	{"a deleted endpoint is hidden, its events are not", func(w *world) {
		in := w.accept(w.endpoint)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		_, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.refused(err, kapsel.NotFound, "Endpoint")
		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(*kapsel.Endpoint) error { return nil })
		w.refused(err, kapsel.NotFound, "UpdateEndpoint")
		w.refused(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now), kapsel.NotFound, "DeleteEndpoint")
		list, err := w.store.ListEndpoints(w.ctx, kapsel.TenantID{}, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 100})
		w.must(err)
		w.same("listed", 0, len(list))
		w.same("its event", in.Event, w.event(in.Event.ID).Event)
	}},

	{"a tenant with endpoints is not deleted; without, its keys go with it", func(w *world) {
		k, other := w.newKey(w.tenant), w.newKey(w.newTenant())
		w.refusedAs(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now), rules.TenantUnused(1, 0, 0), "with an endpoint")
		got, err := w.store.Key(w.ctx, w.tenant.ID, k.ID)
		w.must(err)
		w.same("its key", true, got.RevokedAt.IsZero())

		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.must(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now))
		_, err = w.store.Tenant(w.ctx, w.tenant.ID)
		w.refused(err, kapsel.NotFound, "Tenant")
		list, err := w.store.ListTenants(w.ctx, store.Page[kapsel.TenantID]{Limit: 10})
		w.must(err)
		w.same("listed", []kapsel.TenantID{other.TenantID}, ids(list, func(t kapsel.Tenant) kapsel.TenantID { return t.ID }))
		got, err = w.store.KeyByHash(w.ctx, k.Hash)
		if err == nil && got.RevokedAt.IsZero() || err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			w.t.Errorf("its key is %+v, %v", got, err)
		}
		got, err = w.store.KeyByHash(w.ctx, other.Hash)
		w.must(err)
		w.same("another's key", true, got.RevokedAt.IsZero())
	}},

	{"a revoked key is found, and stays revoked as of the first time", func(w *world) {
		k := w.newKey(w.tenant)
		w.must(w.store.RevokeKey(w.ctx, w.tenant.ID, k.ID, w.now))
		at := w.now
		w.pass(time.Minute)
		if err := w.store.RevokeKey(w.ctx, w.tenant.ID, k.ID, w.now); err != nil && kapsel.CodeOf(err) == kapsel.DatabaseUnavailable {
			w.t.Error(err)
		}
		got, err := w.store.KeyByHash(w.ctx, k.Hash)
		w.must(err)
		if !got.RevokedAt.Equal(at) {
			w.t.Errorf("revoked at %v, want %v", got.RevokedAt, at)
		}
	}},

	{"without a tenant, keys are anybody's", func(w *world) {
		mine, other := w.newKey(w.tenant), w.newKey(w.newTenant())
		anybody := kapsel.TenantID{}
		got, err := w.store.Key(w.ctx, anybody, other.ID)
		w.must(err)
		w.same("read", other.ID, got.ID)
		_, err = w.store.Key(w.ctx, w.tenant.ID, other.ID)
		w.refusedAs(err, store.NotFound("key"), "another tenant's")
		w.refusedAs(w.store.RevokeKey(w.ctx, w.tenant.ID, other.ID, w.now), store.NotFound("key"), "revoke another tenant's")
		list, err := w.store.ListKeys(w.ctx, anybody, store.Page[kapsel.KeyID]{Limit: 10})
		w.must(err)
		listed := ids(list, func(k kapsel.Key) kapsel.KeyID { return k.ID })
		w.same("listed", true, len(listed) == 2 && slices.Contains(listed, mine.ID) && slices.Contains(listed, other.ID))
		w.must(w.store.RevokeKey(w.ctx, anybody, other.ID, w.now))
		got, err = w.store.Key(w.ctx, anybody, other.ID)
		w.must(err)
		w.same("revoked", w.now, got.RevokedAt)
	}},

	{"the use of keys is recorded, and is no change of settings", func(w *world) {
		a, b := w.newKey(w.tenant), w.newKey(w.tenant)
		before := w.settings(0).Revision
		w.pass(time.Minute)
		w.must(w.store.TouchKeys(w.ctx, map[kapsel.KeyID]time.Time{a.ID: w.now, kapsel.NewKeyID(w.now): w.now}))
		w.must(w.store.TouchKeys(w.ctx, nil))
		got, err := w.store.Key(w.ctx, w.tenant.ID, a.ID)
		w.must(err)
		w.same("used", w.now, got.LastUsedAt)
		got, err = w.store.Key(w.ctx, w.tenant.ID, b.ID)
		w.must(err)
		w.same("not used", time.Time{}, got.LastUsedAt)
		after := w.settings(before)
		w.same("settings", store.Settings{Revision: before}, after)
	}},

	{"lists are pages, newest first", func(w *world) {
		other := w.newTenant()
		w.newKey(other)
		w.newEndpoint(other)
		var tenants []kapsel.TenantID
		var keys []kapsel.KeyID
		var endpoints []kapsel.EndpointID
		t := w.newTenant()
		for range 7 {
			w.pass(time.Millisecond)
			tenants = append(tenants, w.newTenant().ID)
			keys = append(keys, w.newKey(t).ID)
			endpoints = append(endpoints, w.newEndpoint(t).ID)
		}
		slices.Reverse(tenants)
		slices.Reverse(keys)
		slices.Reverse(endpoints)
		w.same("tenants", tenants, pages(w, 3, len(tenants), func(p store.Page[kapsel.TenantID]) ([]kapsel.TenantID, error) {
			list, err := w.store.ListTenants(w.ctx, p)
			return ids(list, func(t kapsel.Tenant) kapsel.TenantID { return t.ID }), err
		}))
		w.same("keys", keys, pages(w, 3, len(keys), func(p store.Page[kapsel.KeyID]) ([]kapsel.KeyID, error) {
			list, err := w.store.ListKeys(w.ctx, t.ID, p)
			return ids(list, func(k kapsel.Key) kapsel.KeyID { return k.ID }), err
		}))
		w.same("endpoints", endpoints, pages(w, 3, len(endpoints), func(p store.Page[kapsel.EndpointID]) ([]kapsel.EndpointID, error) {
			list, err := w.store.ListEndpoints(w.ctx, t.ID, kapsel.AppID{}, p)
			return ids(list, func(e kapsel.Endpoint) kapsel.EndpointID { return e.ID }), err
		}))
		all, err := w.store.ListEndpoints(w.ctx, kapsel.TenantID{}, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 100})
		w.must(err)
		w.same("of every tenant", len(endpoints)+2, len(all))
		one, err := w.store.ListEndpoints(w.ctx, t.ID, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 1})
		w.must(err)
		stored, err := w.store.Endpoint(w.ctx, t.ID, one[0].ID)
		w.must(err)
		w.same("a row of a list", stored, one[0])
	}},

	{"an instance's value stays as it was first set", func(w *world) {
		value := []byte{0, 0xff, 'v'}
		got, err := w.store.SetMeta(w.ctx, "check", value)
		w.must(err)
		w.same("set", value, got)
		got, err = w.store.SetMeta(w.ctx, "check", []byte("another"))
		w.must(err)
		w.same("set again", value, got)
		got, err = w.store.Meta(w.ctx, "check")
		w.must(err)
		w.same("read", value, got)

		var all [10][]byte
		w.together(len(all), func(i int) (err error) {
			all[i], err = w.store.SetMeta(w.ctx, "race", fmt.Appendf(nil, "value %d", i))
			return err
		})
		for _, v := range all {
			w.same("set at the same time", all[0], v)
		}
	}},

	{"an instance's value is replaced by who knows it", func(w *world) {
		one, two := []byte{0, 1}, []byte{0, 2}
		w.refusedAs(w.store.ReplaceMeta(w.ctx, "check", one, two), rules.MetaMissing(), "with nothing set")
		_, err := w.store.SetMeta(w.ctx, "check", one)
		w.must(err)
		w.refusedAs(w.store.ReplaceMeta(w.ctx, "check", []byte("another"), two), rules.MetaChanged(), "with another value")
		w.must(w.store.ReplaceMeta(w.ctx, "check", one, two))
		w.must(w.store.ReplaceMeta(w.ctx, "check", one, two)) // repeated
		got, err := w.store.Meta(w.ctx, "check")
		w.must(err)
		w.same("read", two, got)
	}},
}

// settling are the promises of Settings, SaveCircuit, Circuit and DisableGone.
var settling = []promise{
	{"every change adds one to the counter, and stamps its row", func(w *world) {
		t, k := w.newTenant(), w.newKey(w.tenant)
		victim := w.newTenant()
		victimKey := w.newKey(victim)
		e, gone := w.endpointOf(t), w.newEndpoint(t)
		var c kapsel.Circuit
		for _, step := range []struct {
			name   string
			change func() error
			stamps func(s store.Settings) (rows int, stamp int64)
		}{
			{"CreateTenant", func() error {
				return w.store.CreateTenant(w.ctx, kapsel.Tenant{ID: kapsel.NewTenantID(w.now), Name: "n", Plan: "free", CreatedAt: w.now, UpdatedAt: w.now})
			}, tenants},
			{"UpdateTenant", func() error {
				_, err := w.store.UpdateTenant(w.ctx, t.ID, func(t *kapsel.Tenant) error { t.Name = "m"; return nil })
				return err
			}, tenants},
			{"CreateKey", func() error {
				return w.store.CreateKey(w.ctx, kapsel.Key{ID: kapsel.NewKeyID(w.now), TenantID: t.ID, Scope: kapsel.ScopeRead, Prefix: "kap_xxxx", Hash: [32]byte{7}, CreatedAt: w.now})
			}, keys},
			{"RevokeKey", func() error { return w.store.RevokeKey(w.ctx, w.tenant.ID, k.ID, w.now) }, keys},
			{"CreateEndpoint", func() error { return w.store.CreateEndpoint(w.ctx, e, 0) }, endpoints},
			{"UpdateEndpoint", func() error {
				_, err := w.store.UpdateEndpoint(w.ctx, t.ID, e.ID, func(e *kapsel.Endpoint) error { e.Name = "m"; return nil })
				return err
			}, endpoints},
			{"DisableGone", func() error { return w.store.DisableGone(w.ctx, gone.ID, gone.Destination, w.now) }, endpoints},
			{"DeleteEndpoint", func() error { return w.store.DeleteEndpoint(w.ctx, t.ID, e.ID, w.now) }, endpoints},
			{"SaveCircuit", func() (err error) {
				c, err = w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now})
				return err
			}, circuits},
			{"SaveCircuit again", func() error { _, err := w.store.SaveCircuit(w.ctx, c); return err }, circuits},
			{"DeleteTenant", func() error { return w.store.DeleteTenant(w.ctx, victim.ID, w.now) }, func(s store.Settings) (int, int64) {
				if len(s.Tenants) != 1 || len(s.Keys) != 1 || s.Tenants[0].DeletedAt.IsZero() || s.Keys[0].ID != victimKey.ID || s.Keys[0].RevokedAt.IsZero() {
					w.t.Errorf("DeleteTenant: changed rows are %+v", s)
					return 0, 0
				}
				return 1, min(s.Tenants[0].Revision, s.Keys[0].Revision)
			}},
		} {
			before := w.settings(0).Revision
			w.must(step.change())
			after := w.settings(before)
			rows, stamp := step.stamps(after)
			if after.Revision != before+1 || rows != 1 || stamp != after.Revision {
				w.t.Errorf("%s: the counter went from %d to %d, %d rows changed, stamped %d", step.name, before, after.Revision, rows, stamp)
			}
		}
	}},

	{"a change that fails is none", func(w *world) {
		before := w.settings(0)
		w.refused(w.store.CreateEndpoint(w.ctx, w.endpointOf(w.tenant), 1), kapsel.QuotaExceeded, "CreateEndpoint")
		w.refused(w.store.DeleteTenant(w.ctx, w.tenant.ID, w.now), kapsel.Conflict, "DeleteTenant")
		_, err := w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, Version: 4})
		w.refused(err, kapsel.Conflict, "SaveCircuit")
		w.same("settings", before, w.settings(0))
		w.same("since", store.Settings{Revision: before.Revision}, w.settings(before.Revision))
	}},

	{"all settings are the rows not deleted; settings since also tell of the deleted", func(w *world) {
		k := w.newKey(w.tenant)
		kept, deleted := w.endpoint, w.newEndpoint(w.tenant)
		first := w.settings(0)
		w.same("endpoints", 2, len(first.Endpoints))
		w.same("keys", []kapsel.KeyID{k.ID}, ids(first.Keys, func(k kapsel.Key) kapsel.KeyID { return k.ID }))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, deleted.ID, w.now))

		all := w.settings(0)
		w.same("all", []kapsel.EndpointID{kept.ID}, ids(all.Endpoints, func(e kapsel.Endpoint) kapsel.EndpointID { return e.ID }))
		since := w.settings(first.Revision)
		deleted.DeletedAt, deleted.Revision = w.now, since.Revision
		if len(since.Endpoints) == 1 { // whether a deletion is also an update is the store's
			deleted.UpdatedAt = since.Endpoints[0].UpdatedAt
		}
		w.same("since", store.Settings{Revision: since.Revision, Endpoints: []kapsel.Endpoint{deleted}}, since)
	}},

	{"who follows the settings while they change misses nothing", func(w *world) {
		const writers, each = 6, 15
		var all [writers]kapsel.Endpoint
		for i := range all {
			all[i] = w.newEndpoint(w.tenant)
		}
		seen := map[kapsel.EndpointID]kapsel.Endpoint{}
		var revision int64
		follow := func() error {
			s, err := w.store.Settings(w.ctx, revision)
			if err != nil {
				return err
			}
			if s.Revision < revision {
				return fmt.Errorf("the counter went back from %d to %d", revision, s.Revision)
			}
			revision = s.Revision
			for _, e := range s.Endpoints {
				seen[e.ID] = e
			}
			return nil
		}
		var writing sync.WaitGroup
		writing.Add(writers)
		w.together(writers+1, func(i int) error {
			if i < writers {
				defer writing.Done()
				for range each {
					if _, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, all[i].ID, func(e *kapsel.Endpoint) error { e.Concurrency++; return nil }); err != nil {
						return err
					}
				}
				return nil
			}
			done := make(chan struct{})
			go func() { writing.Wait(); close(done) }()
			for {
				if err := follow(); err != nil {
					return err
				}
				select {
				case <-done:
					return follow()
				default:
				}
			}
		})
		want := map[kapsel.EndpointID]kapsel.Endpoint{}
		for _, e := range w.settings(0).Endpoints {
			want[e.ID] = e
		}
		w.same("what it knows", want, seen)
	}},

	{"a circuit comes back as it was saved; where there is none, it is zero", func(w *world) {
		none, err := w.store.Circuit(w.ctx, w.endpoint.ID)
		w.must(err)
		w.same("none", kapsel.Circuit{EndpointID: w.endpoint.ID}, none)
		c := kapsel.Circuit{
			EndpointID: w.endpoint.ID, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now.Add(time.Second),
			HoldUntil: w.now.Add(time.Hour),
		}
		for version := int64(1); version <= 3; version++ {
			saved, err := w.store.SaveCircuit(w.ctx, c)
			w.must(err)
			c.Version, c.Revision = version, w.settings(0).Revision
			w.same("saved", c, saved)
			got, err := w.store.Circuit(w.ctx, w.endpoint.ID)
			w.must(err)
			w.same("read", c, got)
			w.same("in the settings", []kapsel.Circuit{c}, w.settings(0).Circuits)
			c.State, c.RetryAt, c.Destination, c.Probe, c.HoldUntil = kapsel.CircuitHalfOpen, time.Time{}, int(version), w.node, time.Time{}
		}
	}},

	{"a circuit without a state is saved as closed", func(w *world) {
		saved, err := w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, HoldUntil: w.now.Add(time.Minute)})
		w.must(err)
		w.same("saved", kapsel.CircuitClosed, saved.State)
		got, err := w.store.Circuit(w.ctx, w.endpoint.ID)
		w.must(err)
		w.same("read", saved, got)
	}},

	{"a circuit saved from another version is a Conflict and changes nothing", func(w *world) {
		c := kapsel.Circuit{EndpointID: w.endpoint.ID, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now}
		saved, err := w.store.SaveCircuit(w.ctx, c)
		w.must(err)
		for _, version := range []int64{0, saved.Version - 1, saved.Version + 1, 99} {
			c.Version, c.State = version, kapsel.CircuitClosed
			_, err = w.store.SaveCircuit(w.ctx, c)
			w.refusedAs(err, rules.CircuitChanged(), fmt.Sprintf("version %d", version))
		}
		got, err := w.store.Circuit(w.ctx, w.endpoint.ID)
		w.must(err)
		w.same("circuit", saved, got)
	}},

	{"of circuits saved at the same time from one version one is", func(w *world) {
		c := kapsel.Circuit{EndpointID: w.endpoint.ID, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now}
		for round := range int64(5) {
			var won atomic.Int64
			w.together(8, func(i int) error {
				mine := c
				mine.Destination = i
				_, err := w.store.SaveCircuit(w.ctx, mine)
				if kapsel.CodeOf(err) == kapsel.Conflict {
					return nil
				}
				won.Add(1)
				return err
			})
			var err error
			c, err = w.store.Circuit(w.ctx, w.endpoint.ID)
			w.must(err)
			if won.Load() != 1 || c.Version != round+1 {
				w.t.Fatalf("%d were saved from version %d, the version is %d now", won.Load(), round, c.Version)
			}
		}
	}},

	{"a 410 disables endpoints that are active or paused, no others", func(w *world) {
		for _, tt := range []struct {
			state  kapsel.EndpointState
			reason string
			want   string // the reason after it
		}{
			{kapsel.EndpointActive, "", kapsel.DisabledGone},
			{kapsel.EndpointPaused, "", kapsel.DisabledGone},
			{kapsel.EndpointDisabled, kapsel.DisabledAdmin, kapsel.DisabledAdmin},
			{kapsel.EndpointDisabled, kapsel.DisabledGone, kapsel.DisabledGone},
		} {
			e := w.endpointOf(w.tenant)
			e.State, e.DisabledReason = tt.state, tt.reason
			w.must(w.store.CreateEndpoint(w.ctx, e, 0))
			w.pass(time.Second)
			if err := w.store.DisableGone(w.ctx, e.ID, e.Destination, w.now); kapsel.CodeOf(err) == kapsel.DatabaseUnavailable {
				w.t.Error(err)
			}
			got, err := w.store.Endpoint(w.ctx, w.tenant.ID, e.ID)
			w.must(err)
			if got.State != kapsel.EndpointDisabled || got.DisabledReason != tt.want || got.UpdatedAt.Equal(w.now) != (tt.reason == "") {
				w.t.Errorf("%s (%s) became %s (%s), updated at %v", tt.state, tt.reason, got.State, got.DisabledReason, got.UpdatedAt)
			}
		}
	}},

	{"a 410 of a former destination disables nothing", func(w *world) {
		_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.URL = "https://other.example/"; return nil })
		w.must(err)
		w.must(w.store.DisableGone(w.ctx, w.endpoint.ID, 1, w.now))
		e, err := w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		w.same("state", kapsel.EndpointActive, e.State)
		w.must(w.store.DisableGone(w.ctx, w.endpoint.ID, 2, w.now))
		e, err = w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.must(err)
		w.same("state after the present one's", kapsel.EndpointDisabled, e.State)
	}},
}

// The rows of one kind that changed, and the stamp of the first, when none of another kind did.

func tenants(s store.Settings) (int, int64) {
	if len(s.Tenants) == 0 || len(s.Keys)+len(s.Endpoints)+len(s.Circuits) > 0 {
		return 0, 0
	}
	return len(s.Tenants), s.Tenants[0].Revision
}

func keys(s store.Settings) (int, int64) {
	if len(s.Keys) == 0 || len(s.Tenants)+len(s.Endpoints)+len(s.Circuits) > 0 {
		return 0, 0
	}
	return len(s.Keys), s.Keys[0].Revision
}

func endpoints(s store.Settings) (int, int64) {
	if len(s.Endpoints) == 0 || len(s.Tenants)+len(s.Keys)+len(s.Circuits) > 0 {
		return 0, 0
	}
	return len(s.Endpoints), s.Endpoints[0].Revision
}

func circuits(s store.Settings) (int, int64) {
	if len(s.Circuits) == 0 || len(s.Tenants)+len(s.Keys)+len(s.Endpoints) > 0 {
		return 0, 0
	}
	return len(s.Circuits), s.Circuits[0].Revision
}

// ids are the ids of rows.
func ids[Row, ID any](rows []Row, id func(Row) ID) []ID {
	var all []ID
	for _, r := range rows {
		all = append(all, id(r))
	}
	return all
}

// pages reads the first n ids of a list, newest first, in pages of size.
func pages[ID any](w *world, size, n int, list func(store.Page[ID]) ([]ID, error)) (all []ID) {
	w.t.Helper()
	p := store.Page[ID]{Limit: size}
	for len(all) < n {
		p.Limit = min(size, n-len(all))
		page, err := list(p)
		w.must(err)
		if len(page) > p.Limit || len(page) == 0 {
			w.t.Fatalf("a page of %d after %d of %d; asked for %d", len(page), len(all), n, p.Limit)
		}
		all = append(all, page...)
		p.Before = all[len(all)-1]
	}
	return all
}
