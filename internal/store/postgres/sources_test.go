package postgres

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// TestSources_OlderNodes: while a node of a release without sources is alive, none is made, and
// nobody subscribes to anything: that node would know neither.
func TestSources_OlderNodes(t *testing.T) {
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
	refused := func(what string, err error) {
		t.Helper()
		if want := rules.OlderNodes(1); kapsel.CodeOf(err) != kapsel.Conflict || err.Error() != want.Error() {
			t.Fatalf("%s: %v", what, err)
		}
	}
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	must(s.CreateTenant(ctx, tenant))
	must(s.Join(ctx, kapsel.NewNodeID(now), now, time.Hour))
	source := func() kapsel.Source {
		return kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: tenant.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
	}
	endpoint := func(subscriptions ...kapsel.Subscription) kapsel.Endpoint {
		e := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
		e.Subscriptions = subscriptions
		return e
	}
	made := source()
	must(s.CreateSource(ctx, made))
	old := kapsel.NewNodeID(now)
	// As a binary of the schema before does.
	_, err = s.engine.Exec(ctx, "INSERT INTO nodes (id, lease_until) VALUES ($1, $2)", id(old), now.Add(time.Hour))
	must(err)
	refused("a source", s.CreateSource(ctx, source()))
	refused("an event", s.Current(ctx, now))
	ingest := endpoint()
	must(s.CreateEndpoint(ctx, ingest, 0))
	for _, to := range []string{made.ID.String(), ingest.ID.String(), kapsel.Publish} {
		refused("a subscription to "+to, s.CreateEndpoint(ctx, endpoint(kapsel.Subscription{Source: to}), 0))
	}

	must(s.Leave(ctx, old))
	must(s.Current(ctx, now))
	must(s.CreateSource(ctx, source()))
	must(s.CreateEndpoint(ctx, endpoint(kapsel.Subscription{Source: made.ID.String()}), 0))
}
