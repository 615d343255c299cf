package upkeep_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// TestJanitorDeletesTheEventsOfDeletedTenants checks that a janitor that starts after a tenant was
// deleted, so that its cache never had the tenant, deletes the tenant's events when the tenant's
// retention ends.
func TestJanitorDeletesTheEventsOfDeletedTenants(t *testing.T) {
	ctx := t.Context()
	postgresStore, err := postgres.Open(ctx, schematest.Postgres(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { postgresStore.Close() })
	sqliteStore, err := sqlite.Open(ctx, schematest.SQLite(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sqliteStore.Close() })
	for name, s := range map[string]store.Store{"sqlite": sqliteStore, "postgres": postgresStore} {
		t.Run(name, func(t *testing.T) {
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			clock, err := clock.New(ctx, s)
			must(err)
			now := clock.Now()
			node := kapsel.NewNodeID(now)
			must(s.Join(ctx, node, now, time.Hour))
			// Three tenants whose events are all two hours old; two keep them for an hour.
			var events []kapsel.EventID
			for i, retention := range []time.Duration{time.Hour, 24 * time.Hour, time.Hour} {
				at := now.Add(-2 * time.Hour)
				tenant := kapsel.Tenant{ID: kapsel.NewTenantID(at), Name: "gone", Plan: kapsel.DefaultPlan, CreatedAt: at, UpdatedAt: at}
				tenant.Limits.Retention = &retention
				must(s.CreateTenant(ctx, tenant))
				ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(at), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: at, UpdatedAt: at}
				ep.Part = kapsel.PartOf(ep.ID)
				must(s.CreateEndpoint(ctx, ep, 0))
				e := kapsel.Event{ID: kapsel.NewEventID(at, ep.Part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: at, Signature: kapsel.SignatureVerdict{Scheme: "none"}}
				d := kapsel.Delivery{ID: kapsel.NewDeliveryID(at, ep.Part), EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID, DueAt: at, CreatedAt: at}
				_, err := s.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Hour})
				must(err)
				must(s.DeleteEndpoint(ctx, tenant.ID, ep.ID, now))
				n, err := s.CancelWaiting(ctx, ep.ID, now, 10)
				must(err)
				if n != 1 {
					t.Fatalf("tenant %d: %d deliveries canceled, want 1", i, n)
				}
				must(s.DeleteTenant(ctx, tenant.ID, now))
				events = append(events, e.ID)
			}
			settings := settings.NewCache(s)
			must(settings.Load(ctx))
			faulty := storetest.Faulty(s, storetest.Nth("DeleteFinished", 1, storetest.NotPersisted))
			j := &upkeep.Janitor{Store: faulty, Settings: settings, Clock: clock, Node: node, Every: time.Minute, Log: slog.New(slog.DiscardHandler)}
			if err := j.Sweep(ctx); !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("the sweep in which one deletion fails returns %v", err)
			}
			gone := 0
			for _, id := range []kapsel.EventID{events[0], events[2]} {
				if _, err := s.Event(ctx, kapsel.TenantID{}, id); kapsel.CodeOf(err) == kapsel.NotFound {
					gone++
				}
			}
			if gone == 0 { // it is one, or both if the failure was of the third tenant, whose events stay
				t.Error("a failure for one tenant kept the events of all others")
			}
			must(j.Sweep(ctx))
			if _, err := s.Event(ctx, kapsel.TenantID{}, events[0]); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("an event past the retention of its deleted tenant is still there: %v", err)
			}
			if _, err := s.Event(ctx, kapsel.TenantID{}, events[1]); err != nil {
				t.Errorf("an event within the retention of its deleted tenant: %v", err)
			}
		})
	}
}

// TestJanitorRuns checks that expired rows are deleted without a request.
func TestJanitorRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		clock, err := clock.New(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		answer := store.Reservation{Key: "k", CreatedAt: clock.Now(), ExpiresAt: clock.Now().Add(time.Hour)}
		if _, err := s.Reserve(t.Context(), answer, clock.Now()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		j := &upkeep.Janitor{Store: s, Settings: settings.NewCache(s), Clock: clock, Node: kapsel.NewNodeID(clock.Now()), Every: time.Minute, Log: slog.New(slog.DiscardHandler)}
		go func() { j.Run(ctx); close(done) }()
		time.Sleep(time.Hour + 2*time.Minute)
		synctest.Wait()
		n, err := s.DeleteExpiredAnswers(t.Context(), clock.Now(), 10)
		if err != nil || n != 0 {
			t.Errorf("%d answers have expired and are still there, %v", n, err)
		}
		cancel()
		<-done
	})
}

// jumpy is a store whose time is ahead by an offset.
type jumpy struct {
	store.Store
	ahead time.Duration
}

func (s *jumpy) Time(context.Context) (time.Time, error) { return time.Now().Add(s.ahead), nil }

// TestJanitor_AfterAJump checks that a clock that jumps does not end retentions: nothing is deleted for an hour.
func TestJanitor_AfterAJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		times := &jumpy{Store: s}
		clock, err := clock.New(t.Context(), times)
		if err != nil {
			t.Fatal(err)
		}
		start := clock.Now()
		answer := store.Reservation{Key: "k", CreatedAt: start, ExpiresAt: start.Add(24 * time.Hour)}
		if _, err := s.Reserve(t.Context(), answer, start); err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		j := &upkeep.Janitor{Store: s, Settings: settings.NewCache(s), Clock: clock, Node: kapsel.NewNodeID(start), Every: time.Minute, Log: slog.New(slog.NewTextHandler(&log, nil))}
		sweep := func() {
			t.Helper()
			if err := clock.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := j.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		kept := func(want bool) {
			t.Helper()
			another := answer
			another.Seed[0] = 1
			there, err := s.Reserve(t.Context(), another, start)
			if err != nil || (there.Seed == answer.Seed) != want {
				t.Fatalf("%+v, %v; want it kept %t", there, err, want)
			}
		}
		for _, ahead := range []time.Duration{0, 50 * time.Second, 48 * time.Hour} {
			times.ahead = ahead
			sweep()
			sweep()
			if jumped := strings.Count(log.String(), "has jumped"); jumped > 1 || (jumped == 1) != (ahead > time.Minute) {
				t.Errorf("%v ahead, and the log has %q", ahead, log.String())
			}
		}
		kept(true)
		time.Sleep(time.Hour - time.Second)
		sweep()
		kept(true)
		time.Sleep(time.Minute)
		sweep()
		kept(false)
	})
}

// TestJanitorKeepsLogs_S28 checks that the texts of leaves go when their tenant's audit retention is over and
// their hashes stay, and that the log of a deleted tenant goes as much later and not before.
func TestJanitorKeepsLogs_S28(t *testing.T) {
	ctx := t.Context()
	s, err := sqlite.Open(ctx, schematest.SQLite(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	clock, err := clock.New(ctx, s)
	must(err)
	now := clock.Now()
	node := kapsel.NewNodeID(now)
	must(s.Join(ctx, node, now, 1000*time.Hour))
	// A tenant of two days ago, with a leaf of then and one of now.
	logOf := func(retention, age time.Duration) (kapsel.TenantID, store.Log) {
		was := now.Add(-age)
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(was), Plan: kapsel.DefaultPlan, CreatedAt: was, UpdatedAt: was}
		tenant.Audit.Retention, tenant.Limits.Retention = &retention, new(time.Hour)
		tenant.Limits.Own = true
		must(s.CreateTenant(ctx, tenant))
		logs, err := s.TakeLogs(ctx, []kapsel.TenantID{tenant.ID}, was)
		must(err)
		g := store.Growth{Log: logs[0].ID, Was: logs[0].State, Size: 2}
		for i, at := range []time.Time{was, now} {
			g.Leaves = append(g.Leaves, store.Leaf{Index: int64(i), AttemptID: kapsel.NewAttemptID(at, 1), Hash: store.Hash{1}, Record: []byte("text")})
		}
		_, err = s.Append(ctx, []store.Growth{g})
		must(err)
		return tenant.ID, logs[0]
	}
	texts := func(l store.Log) (n int) {
		leaves, err := s.Leaves(ctx, l.ID, 0, 10)
		must(err)
		for _, leaf := range leaves {
			if n++; leaf.Record != nil {
				n += 10
			}
		}
		return n
	}
	_, short := logOf(24*time.Hour, 48*time.Hour)
	_, long := logOf(72*time.Hour, 48*time.Hour)
	gone, dropped := logOf(24*time.Hour, 48*time.Hour)
	kept, stays := logOf(72*time.Hour, 48*time.Hour)
	must(s.DeleteTenant(ctx, gone, now.Add(-30*time.Hour)))
	must(s.DeleteTenant(ctx, kept, now.Add(-30*time.Hour)))

	known := settings.NewCache(s)
	must(known.Load(ctx))
	janitor := &upkeep.Janitor{Store: s, Settings: known, Clock: clock, Node: node, Every: time.Minute, Log: slog.New(slog.DiscardHandler)}
	must(janitor.Sweep(ctx))
	for _, tt := range []struct {
		name string
		log  store.Log
		want int // 1 for each leaf and 10 for each text
	}{{"a short retention", short, 12}, {"a long one", long, 22}, {"a deleted tenant", dropped, 0}, {"one that was deleted not long ago", stays, 22}} {
		if got := texts(tt.log); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	l, err := s.Log(ctx, dropped.ID)
	must(err)
	if l.DroppedAt.IsZero() || l.Size != 0 {
		t.Errorf("the log of a deleted tenant is %+v", l)
	}
}
