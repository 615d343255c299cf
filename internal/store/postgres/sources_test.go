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

	// A binary that knows sources, but neither those that were an endpoint's ingest nor replays of
	// what is missing and of what waits.
	known := kapsel.NewNodeID(now)
	_, err = s.engine.Exec(ctx, "INSERT INTO nodes (id, lease_until, schema) VALUES ($1, $2, $3)", id(known), now.Add(time.Hour), keptSchema-1)
	must(err)
	must(s.CreateSource(ctx, source()))
	keep := func() error {
		_, err := s.KeepIngest(ctx, tenant.ID, ingest.ID, now, func(*kapsel.Source) error { return nil })
		return err
	}
	replay := func(missing bool, statuses ...kapsel.DeliveryStatus) error {
		return s.CreateReplay(ctx, kapsel.Replay{
			ID: kapsel.NewReplayID(now), TenantID: tenant.ID, Since: now, Missing: missing, Statuses: statuses, Rate: 1, Status: kapsel.ReplayRunning, CreatedAt: now,
		})
	}
	refused("keeping an ingest", keep())
	refused("a replay of what is missing", replay(true))
	refused("a replay of what waits", replay(false, kapsel.Pending))
	must(replay(false, kapsel.Failed))
	must(s.Leave(ctx, known))
	must(replay(true))
	must(replay(false, kapsel.Pending))
	must(keep())

	// Binaries that know no apps, and no event types.
	app := func() error {
		return s.CreateApp(ctx, kapsel.App{ID: kapsel.NewAppID(now), TenantID: tenant.ID, CreatedAt: now, UpdatedAt: now})
	}
	eventType := func() error {
		id := kapsel.NewEventTypeID(now)
		return s.CreateEventType(ctx, kapsel.EventType{ID: id, TenantID: tenant.ID, Name: id.String(), CreatedAt: now, UpdatedAt: now})
	}
	for schema, appToo := range map[int]bool{appsSchema - 1: true, typesSchema - 1: false} {
		node := kapsel.NewNodeID(now)
		_, err = s.engine.Exec(ctx, "INSERT INTO nodes (id, lease_until, schema) VALUES ($1, $2, $3)", id(node), now.Add(time.Hour), schema)
		must(err)
		refused("an event type", eventType())
		if appToo {
			refused("an app", app())
		} else {
			must(app())
		}
		must(s.Leave(ctx, node))
	}
	must(app())
	must(eventType())
}
