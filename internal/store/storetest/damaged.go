package storetest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// RunDamaged checks that an event which the store cannot read holds up its own deliveries and nothing else.
// Each function of damage does to a stored event what its name says.
func RunDamaged(t *testing.T, s store.Store, damage map[string]func(kapsel.Event)) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	node := kapsel.NewNodeID(now)
	must(s.Join(ctx, node, now, time.Hour))
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	must(s.CreateTenant(ctx, tenant))
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
	must(s.CreateEndpoint(ctx, ep, 10))
	part := kapsel.PartOf(ep.ID)
	accept := func() kapsel.Event {
		t.Helper()
		e := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: now, Body: make([]byte, 40_000), Size: 40_000}
		rand.Read(e.Body)
		d := kapsel.Delivery{
			ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID, Status: kapsel.Pending, DueAt: now, CreatedAt: now, Size: e.Size,
		}
		_, err := s.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}})
		must(err)
		return e
	}
	claim := func(now time.Time) []store.Claimed {
		t.Helper()
		claimed, _, err := s.Claim(ctx, node, now, []store.Want{{EndpointID: ep.ID, Limit: 10}}, 1<<20)
		must(err)
		return claimed
	}
	for name, do := range damage {
		t.Log(name)
		first, bad, last := accept(), accept(), accept()
		do(bad)
		good := map[kapsel.EventID]string{first.ID: string(first.Body), last.ID: string(last.Body)}
		claimed := claim(now)
		for _, c := range claimed {
			if body, ok := good[c.Delivery.EventID]; !ok || string(c.Event.Body) != body || c.Event.ID != c.Delivery.EventID {
				t.Errorf("claimed a delivery of %s with %d bytes of %s", c.Delivery.EventID, len(c.Event.Body), c.Event.ID)
			}
			must(s.Complete(ctx, store.Completion{
				Attempt:  kapsel.Attempt{ID: c.Delivery.Token, DeliveryID: c.Delivery.ID, EventID: c.Delivery.EventID, EndpointID: ep.ID, TenantID: tenant.ID, Number: 1, StartedAt: now, StatusCode: 200},
				Delivery: after(t, c.Delivery, kapsel.Answer{Status: 200, MaxAttempts: 1}, now),
			}))
		}
		if len(claimed) != len(good) {
			t.Fatalf("claimed %d deliveries, want %d", len(claimed), len(good))
		}
		if held, err := s.Held(ctx, node); err != nil || len(held) != 0 {
			t.Errorf("the node holds %v, %v", held, err)
		}
		later := now.Add(time.Second)
		for what, r := range map[string]kapsel.Replay{
			"what was delivered": {Statuses: []kapsel.DeliveryStatus{kapsel.Delivered}},
			"what is missing":    {Missing: true},
		} {
			want := 0
			if !r.Missing {
				want = len(good)
			}
			r.ID, r.TenantID, r.EndpointID, r.Since, r.Until, r.CreatedAt, r.Rate = kapsel.NewReplayID(later), tenant.ID, ep.ID, now, later, later, 100
			if n, _, err := s.CountReplay(ctx, r, 100, 0); err != nil || n != want {
				t.Errorf("a replay of %s has %d deliveries, %v; want %d", what, n, err, want)
			}
		}
		if claimed := claim(now.Add(store.UnreadWait - time.Millisecond)); len(claimed) != 0 {
			t.Errorf("claimed too early: %v", claimed)
		}
		backlog, err := s.Backlog(ctx)
		if err != nil || len(backlog) != 1 || !backlog[0].DueAt.Equal(now.Add(store.UnreadWait)) {
			t.Errorf("what waits is %v, %v", backlog, err)
		}
		now = now.Add(store.UnreadWait)
		next := accept()
		if claimed := claim(now); len(claimed) != 1 || claimed[0].Event.ID != next.ID {
			t.Errorf("a minute later: claimed %d", len(claimed))
		} else {
			claimed[0].Delivery.DueAt = now
			must(s.GiveBack(ctx, []kapsel.Delivery{claimed[0].Delivery}))
		}
		if canceled, err := s.CancelWaiting(ctx, ep.ID, now, 10); err != nil || canceled != 2 { // somebody gives up
			t.Errorf("canceled %d, %v", canceled, err)
		}
		if _, err := s.DeleteFinished(ctx, tenant.ID, now.Add(time.Hour), 100); err != nil {
			t.Errorf("retention: %v", err)
		}
		for _, e := range []kapsel.Event{first, last, next} {
			if _, err := s.EventHead(ctx, tenant.ID, e.ID); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("retention kept an event that can be read: %v", err)
			}
		}
	}
}

func after(t *testing.T, d kapsel.Delivery, by kapsel.Transition, now time.Time) kapsel.Delivery {
	t.Helper()
	d, err := d.After(by, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
