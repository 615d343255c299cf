package postgres

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestTakeOver_PassesOverWhatIsLocked checks that a call moves what it may, up to its limit, though
// other transactions have locked more of what dead nodes hold than that.
func TestTakeOver_PassesOverWhatIsLocked(t *testing.T) {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, now := t.Context(), time.Now().UTC()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
	part, gone := kapsel.PartOf(ep.ID), kapsel.NewNodeID(now)
	must(s.CreateTenant(ctx, tenant))
	must(s.CreateEndpoint(ctx, ep, 10))
	must(s.Join(ctx, gone, now.Add(-time.Hour), time.Second))
	const held = 7
	for range held {
		e := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: now}
		d := kapsel.Delivery{
			ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID,
			Status: kapsel.Delivering, Node: gone, Token: kapsel.NewAttemptID(now, part), Claims: 1, CreatedAt: now,
		}
		_, err := s.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}})
		must(err)
	}
	other, err := s.engine.Begin(ctx)
	must(err)
	defer other.Rollback(ctx)
	tag, err := other.Exec(ctx, "SELECT 1 FROM deliveries WHERE part = $1 ORDER BY id LIMIT 4 FOR UPDATE", int16(part))
	must(err)
	if tag.RowsAffected() != 4 {
		t.Fatalf("locked %d", tag.RowsAffected())
	}
	for _, want := range []int{2, 1, 0} { // each call may move 2
		if moved, err := s.TakeOver(ctx, now, 2); err != nil || moved != want {
			t.Errorf("moved %d, %v, want %d", moved, err, want)
		}
	}
	must(other.Rollback(ctx))
	for _, want := range []int{3, 1, 0} {
		if moved, err := s.TakeOver(ctx, now, 3); err != nil || moved != want {
			t.Errorf("moved %d, %v, want %d", moved, err, want)
		}
	}
}
