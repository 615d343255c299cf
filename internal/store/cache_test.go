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
