package store_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// directory has one endpoint; while it is stuck no read of it ends.
type directory struct {
	store.Directory

	mu       sync.Mutex
	endpoint kapsel.Endpoint
	stuck    bool
}

func (d *directory) set(change func(*directory)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
	d.endpoint.Revision++
}

func (d *directory) Settings(ctx context.Context, after int64) (store.Settings, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stuck {
		d.mu.Unlock()
		<-ctx.Done()
		d.mu.Lock()
		return store.Settings{}, ctx.Err()
	}
	s := store.Settings{Revision: d.endpoint.Revision}
	if s.Revision > after {
		s.Endpoints = []kapsel.Endpoint{d.endpoint}
	}
	return s, nil
}

// TestObey: a change is in the cache when Obey returns; with a store that does not answer it
// returns all the same, and the change is in the cache soon after the store is back.
func TestObey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{endpoint: kapsel.Endpoint{ID: kapsel.NewEndpointID(time.Now()), Revision: 1}}
		c := store.NewCache(d)
		state := func() kapsel.EndpointState {
			e, err := c.AnyEndpoint(t.Context(), d.endpoint.ID)
			if err != nil {
				t.Fatal(err)
			}
			return e.State
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		if err := c.Load(ctx); err != nil {
			t.Fatal(err)
		}
		go c.Run(ctx, slog.New(slog.DiscardHandler))

		d.set(func(d *directory) { d.endpoint.State = kapsel.EndpointPaused })
		began := time.Now()
		if c.Obey(); state() != kapsel.EndpointPaused || time.Since(began) != 0 {
			t.Errorf("after a change the endpoint is %q, %v later", state(), time.Since(began))
		}

		d.set(func(d *directory) { d.endpoint.State, d.stuck = kapsel.EndpointActive, true })
		began = time.Now()
		if c.Obey(); time.Since(began) != store.Refresh {
			t.Errorf("with a store that does not answer it took %v", time.Since(began))
		}
		d.set(func(d *directory) { d.stuck = false })
		stop() // the read that is stuck
		synctest.Wait()
		go c.Run(t.Context(), slog.New(slog.DiscardHandler))
		time.Sleep(store.Refresh)
		synctest.Wait()
		if state() != kapsel.EndpointActive {
			t.Errorf("after the store is back the endpoint is %q", state())
		}
	})
}

// slow is a store whose answer of an endpoint is on its way for a minute.
type slow struct{ store.Store }

func (s slow) Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error) {
	e, err := s.Store.Endpoint(ctx, tenant, id)
	time.Sleep(time.Minute)
	return e, err
}

// TestCacheForgets: deleted endpoints and tenants are known as deleted for some minutes, so that
// an old answer of the store does not bring them back, and then they are let go.
func TestCacheForgets(t *testing.T) {
	inBubble(t, 0, func(w *replays) {
		ctx := w.Context()
		c := store.NewCache(slow{w.store})
		w.must(c.Load(ctx))
		stop, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { c.Run(stop, slog.New(slog.DiscardHandler)); close(ended) }()
		defer func() { cancel(); <-ended }()

		kept := w.endpoint
		fresh := w.endpoint // made on another node a moment ago
		fresh.ID = kapsel.NewEndpointID(time.Now())
		w.must(w.store.CreateEndpoint(ctx, fresh, 0))
		late := make(chan *kapsel.Endpoint)
		go func() {
			e, err := c.AnyEndpoint(ctx, fresh.ID)
			if err != nil {
				w.Error(err)
			}
			late <- e
		}()
		_, err := w.store.SaveCircuit(ctx, kapsel.Circuit{EndpointID: fresh.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: time.Now(), RetryAt: time.Now()})
		w.must(err)
		pass(2 * time.Second)
		if got := c.Circuit(fresh.ID).State; got != kapsel.CircuitOpened {
			t.Errorf("the circuit is %q", got)
		}
		w.must(w.store.DeleteEndpoint(ctx, kapsel.TenantID{}, fresh.ID, time.Now()))
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(time.Now()), Name: "gone", Plan: kapsel.DefaultPlan, CreatedAt: time.Now(), UpdatedAt: time.Now()}
		w.must(w.store.CreateTenant(ctx, tenant))
		w.must(w.store.DeleteTenant(ctx, tenant.ID, time.Now()))
		pass(2 * time.Second)
		if got := c.Circuit(fresh.ID).State; got != "" {
			t.Errorf("of a deleted endpoint the circuit is %q", got)
		}
		if e := <-late; e.DeletedAt.IsZero() {
			t.Error("an old answer of the store brought a deleted endpoint back")
		}
		if _, err := c.Endpoint(ctx, fresh.ID); kapsel.CodeOf(err) != kapsel.NotFound {
			t.Errorf("of a deleted endpoint: %v", err)
		}
		// Another node saves the circuit of an endpoint that it does not know to be deleted.
		_, err = w.store.SaveCircuit(ctx, kapsel.Circuit{EndpointID: fresh.ID, Version: 1, State: kapsel.CircuitHalfOpen, ChangedAt: time.Now()})
		w.must(err)
		if endpoints, tenants, _ := c.Kept(); endpoints != 2 || tenants != 2 {
			t.Errorf("%d endpoints and %d tenants are kept, want 2 of each", endpoints, tenants)
		}
		pass(11 * time.Minute)
		if endpoints, tenants, circuits := c.Kept(); endpoints != 1 || tenants != 1 || circuits != 0 {
			t.Errorf("after some minutes %d endpoints, %d tenants and %d circuits are kept, want 1, 1 and 0", endpoints, tenants, circuits)
		}
		if !c.Knows(kept.ID) {
			t.Error("an endpoint that is not deleted is not known")
		}
	})
}
