package settings_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// directory has one endpoint; while it is stuck no read of it ends.
type directory struct {
	store.Directory

	mu       sync.Mutex
	endpoint kapsel.Endpoint
	stuck    bool
	behind   func(revision int64) int // returns how many other nodes are behind
	asked    int                      // number of calls of Behind
	told     []int64
}

func (d *directory) Follow(_ context.Context, _ kapsel.NodeID, revision int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, revision)
	return nil
}

func (d *directory) Behind(_ context.Context, _ kapsel.NodeID, _ time.Time, revision int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	return d.behind(revision), nil
}

func (d *directory) Time(context.Context) (time.Time, error) { return time.Now(), nil }

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

// TestObey checks that a change is in the cache when Obey returns, that Obey returns even if the
// store does not answer, and that the change is then cached soon after the store is back.
func TestObey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{endpoint: kapsel.Endpoint{ID: kapsel.NewEndpointID(time.Now()), Revision: 1}}
		c := settings.NewCache(d)
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
		if c.Obey(); time.Since(began) != settings.Refresh {
			t.Errorf("with a store that does not answer it took %v", time.Since(began))
		}
		d.set(func(d *directory) { d.stuck = false })
		stop() // the read that is stuck
		synctest.Wait()
		go c.Run(t.Context(), slog.New(slog.DiscardHandler))
		time.Sleep(settings.Refresh)
		synctest.Wait()
		if state() != kapsel.EndpointActive {
			t.Errorf("after the store is back the endpoint is %q", state())
		}
	})
}

// TestSettle checks that Settle waits until all other nodes have told that they have the change,
// once, and that a node that does not answer delays this change by SettleTime and no other change.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d := &directory{endpoint: kapsel.Endpoint{ID: kapsel.NewEndpointID(now), Revision: 1}}
		c := settings.NewCache(d)
		clock, err := clock.New(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		if err := c.Load(ctx); err != nil {
			t.Fatal(err)
		}
		c.Joined(kapsel.NewNodeID(now), clock)
		go c.Run(ctx, slog.New(slog.DiscardHandler))
		synctest.Wait()
		if len(d.told) != 1 || d.told[0] != 1 {
			t.Errorf("after it has joined the node told %v", d.told)
		}

		settle := func(change bool, until time.Time) (took time.Duration, asked int) {
			d.set(func(d *directory) {
				d.asked = 0
				d.behind = func(int64) int {
					if time.Now().Before(until) {
						return 1
					}
					return 0
				}
				if !change {
					d.endpoint.Revision-- // what set adds
				}
			})
			began := time.Now()
			c.Settle()
			return time.Since(began), d.asked
		}
		if took, asked := settle(true, time.Now()); took != 0 || asked != 1 {
			t.Errorf("nobody is behind: %v, asked %d times", took, asked)
		}
		if took, asked := settle(false, time.Now().Add(time.Hour)); took != 0 || asked != 0 {
			t.Errorf("nothing that is matched has changed: %v, asked %d times", took, asked)
		}
		if took, _ := settle(true, time.Now().Add(settings.Refresh)); took < settings.Refresh || took >= settings.SettleTime {
			t.Errorf("another node follows after %v: answered after %v", settings.Refresh, took)
		}
		if took, _ := settle(true, time.Now().Add(time.Hour)); took != settings.SettleTime {
			t.Errorf("another node does not follow: answered after %v", took)
		}
		if took, _ := settle(false, time.Now().Add(time.Hour)); took != 0 {
			t.Errorf("a change of something else waits for %v", took)
		}
		time.Sleep(settings.Refresh)
		synctest.Wait()
		if last := d.told[len(d.told)-1]; last != d.endpoint.Revision {
			t.Errorf("the node told %v, the last revision is %d", d.told, d.endpoint.Revision)
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

// TestCacheForgets checks that the cache knows deleted endpoints and tenants as deleted for some
// minutes, so that an old answer of the store does not bring them back, and then drops them.
func TestCacheForgets(t *testing.T) {
	schematest.InBubble(t, func(w *schematest.World) {
		ctx := w.Context()
		c := settings.NewCache(slow{w.Store})
		w.Must(c.Load(ctx))
		stop, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { c.Run(stop, slog.New(slog.DiscardHandler)); close(ended) }()
		defer func() { cancel(); <-ended }()

		kept := w.Endpoint
		fresh := w.Endpoint // made on another node a moment ago
		fresh.ID = kapsel.NewEndpointID(time.Now())
		w.Must(w.Store.CreateEndpoint(ctx, fresh, 0))
		late := make(chan *kapsel.Endpoint)
		go func() {
			e, err := c.AnyEndpoint(ctx, fresh.ID)
			if err != nil {
				w.Error(err)
			}
			late <- e
		}()
		_, err := w.Store.SaveCircuit(ctx, kapsel.Circuit{EndpointID: fresh.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: time.Now(), RetryAt: time.Now()})
		w.Must(err)
		w.Pass(2 * time.Second)
		if got := c.Circuit(fresh.ID).State; got != kapsel.CircuitOpened {
			t.Errorf("the circuit is %q", got)
		}
		w.Must(w.Store.DeleteEndpoint(ctx, kapsel.TenantID{}, fresh.ID, time.Now()))
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(time.Now()), Name: "gone", Plan: kapsel.DefaultPlan, CreatedAt: time.Now(), UpdatedAt: time.Now()}
		w.Must(w.Store.CreateTenant(ctx, tenant))
		w.Must(w.Store.DeleteTenant(ctx, tenant.ID, time.Now()))
		w.Pass(2 * time.Second)
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
		_, err = w.Store.SaveCircuit(ctx, kapsel.Circuit{EndpointID: fresh.ID, Version: 1, State: kapsel.CircuitHalfOpen, ChangedAt: time.Now()})
		w.Must(err)
		if endpoints, tenants, _ := c.Kept(); endpoints != 2 || tenants != 2 {
			t.Errorf("%d endpoints and %d tenants are kept, want 2 of each", endpoints, tenants)
		}
		w.Pass(11 * time.Minute)
		if endpoints, tenants, circuits := c.Kept(); endpoints != 1 || tenants != 1 || circuits != 0 {
			t.Errorf("after some minutes %d endpoints, %d tenants and %d circuits are kept, want 1, 1 and 0", endpoints, tenants, circuits)
		}
		if !c.Knows(kept.ID) {
			t.Error("an endpoint that is not deleted is not known")
		}
	})
}
