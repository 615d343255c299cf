package schematest

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// World is a SQLite store with one tenant, its endpoint and a node, in a bubble.
type World struct {
	*testing.T
	Store    store.Store
	Node     kapsel.NodeID
	Endpoint kapsel.Endpoint
}

// InBubble runs a test in a bubble with a world.
func InBubble(t *testing.T, test func(w *World)) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), SQLite(t), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		now := time.Now().UTC()
		w := &World{T: t, Store: s, Node: kapsel.NewNodeID(now)}
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "acme", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
		w.Must(s.CreateTenant(t.Context(), tenant))
		w.Endpoint = kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, Destination: 1}
		w.Endpoint.Part = kapsel.PartOf(w.Endpoint.ID)
		w.Must(s.CreateEndpoint(t.Context(), w.Endpoint, 0))
		w.Must(s.Join(t.Context(), w.Node, now, 24*time.Hour))
		test(w)
	})
}

// Must ends the test if err is not nil.
func (w *World) Must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Answer ends all deliveries that are due by the same answer, and returns how many there were.
func (w *World) Answer(a kapsel.Answer) int {
	w.Helper()
	now := time.Now().UTC()
	due, _, err := w.Store.Claim(w.Context(), w.Node, now, []store.Want{{EndpointID: w.Endpoint.ID, Limit: 1000}}, 1<<20)
	w.Must(err)
	for _, c := range due {
		d := c.Delivery
		after, err := d.After(a, now)
		w.Must(err)
		w.Must(w.Store.Complete(w.Context(), store.Completion{Delivery: after, Attempt: kapsel.Attempt{
			ID: d.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, Number: after.Attempts, StartedAt: now,
		}}))
	}
	return len(due)
}

// Accept stores n events of the world's endpoint, all at once.
func (w *World) Accept(n int) {
	w.Helper()
	now := time.Now().UTC()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			e := kapsel.Event{ID: kapsel.NewEventID(now, w.Endpoint.Part), TenantID: w.Endpoint.TenantID, EndpointID: w.Endpoint.ID, ReceivedAt: now}
			d := kapsel.Delivery{
				ID: kapsel.NewDeliveryID(now, w.Endpoint.Part), EventID: e.ID, EndpointID: e.EndpointID, TenantID: e.TenantID, DueAt: now, CreatedAt: now,
			}
			if _, err := w.Store.Accept(context.Background(), store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Hour}); err != nil {
				w.Error(err)
			}
		})
	}
	all.Wait()
}

// Pass lets a time pass, and everything that happens in it.
func (w *World) Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
