package postgres

import (
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// oldDatabase makes a database of a former schema, as its owner, who is no superuser.
func oldDatabase(t *testing.T, version int64) (url string, conn *pgx.Conn) {
	t.Helper()
	url = pgtest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	if err := createSchemaInfo(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*conn.Config())
	defer db.Close()
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithTableName("schema_migrations"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"UPDATE schema_info SET version = 1, readable_by = 1", "SELECT set_config('kapsel.tenant', '*', false)"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return url, conn
}

// TestMigrate_Destinations: endpoints, circuits and deliveries of the first schema belong to
// their first destination, and exactly the former default of the circuit's ratio is replaced.
func TestMigrate_Destinations(t *testing.T) {
	url, conn := oldDatabase(t, 1)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	now := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	tenant := kapsel.NewTenantID(now)
	exec("UPDATE settings_counter SET value = 1")
	exec("INSERT INTO tenants (id, name, plan, limits, created_at, updated_at, revision) VALUES ($1, 'acme', 'unlimited', '{}', $2, $2, 1)", [16]byte(tenant), now)
	ratios := map[kapsel.EndpointID][2]float64{} // before and after
	config := kapsel.DefaultEndpoint()
	config.Name, config.Description = "Käufe", `not a "circuit":{"failures":5,"ratio":0.5}`
	for _, ratio := range [][2]float64{{0.5, 0.8}, {0.8, 0.8}, {0.51, 0.51}, {0.05, 0.05}, {1, 1}} {
		id := kapsel.NewEndpointID(now)
		config.Circuit.Ratio = ratio[0]
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		ratios[id] = ratio
		exec(`INSERT INTO endpoints (id, tenant_id, part, state, disabled_reason, config, created_at, updated_at, revision)
			VALUES ($1, $2, $3, 'active', '', $4, $5, $5, 1)`, [16]byte(id), [16]byte(tenant), int16(kapsel.PartOf(id)), string(text), now)
		exec(`INSERT INTO circuits (part, endpoint_id, state, retry_at, successes, version, revision) VALUES ($1, $2, 'open', $3, 2, 1, 1)`,
			int16(kapsel.PartOf(id)), [16]byte(id), now)
		exec(`INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted, takeovers,
				last_status_code, last_error_code, size, created_at)
			VALUES ($1, $2, $2, $2, $3, 0, $4, 1, 1, 1, 0, 503, 'E2004', 0, $4)`,
			int16(kapsel.DeliveryID(id).Part()), [16]byte(id), [16]byte(tenant), now)
	}

	s, err := Open(t.Context(), url, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	settings, err := s.Settings(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(settings.Endpoints) != len(ratios) {
		t.Fatalf("%d endpoints, want %d", len(settings.Endpoints), len(ratios))
	}
	for _, e := range settings.Endpoints {
		want := config
		want.Circuit.Ratio = ratios[e.ID][1]
		if e.Circuit != want.Circuit || e.Description != want.Description || e.Name != want.Name || e.Retry.Base != time.Second {
			t.Errorf("with the ratio %v it is %+v", ratios[e.ID][0], e.EndpointConfig)
		}
		if e.Destination != 1 || e.Replan != 0 {
			t.Errorf("destination %d, mark %d", e.Destination, e.Replan)
		}
		if changed := ratios[e.ID][0] != ratios[e.ID][1]; changed != (e.Revision > 1) {
			t.Errorf("with the ratio %v its revision is %d", ratios[e.ID][0], e.Revision)
		}
		c, err := s.Circuit(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if c = e.CircuitNow(c); c.State != kapsel.CircuitOpened {
			t.Errorf("its circuit is %+v, want it open as before", c)
		}
		d, err := s.Delivery(t.Context(), tenant, kapsel.DeliveryID(e.ID))
		if err != nil {
			t.Fatal(err)
		}
		if d.PutOffBy != 0 {
			t.Errorf("a waiting delivery is put off by %d", d.PutOffBy)
		}
	}
}

// TestMigrate_ReplayOnce checks that the index of replays gets the part from wherever a crash has
// left its migration, and that it is there in the end under its name.
func TestMigrate_ReplayOnce(t *testing.T) {
	const made = "CREATE UNIQUE INDEX deliveries_replay_once_new ON deliveries (replay_id, replay_of, part) WHERE replay_id IS NOT NULL"
	for name, state := range map[string]struct {
		crashed []string // what was done before the crash
		fails   string   // what failed in it
	}{
		"before it":                        {},
		"while the index was made":         {fails: "CREATE UNIQUE INDEX CONCURRENTLY deliveries_replay_once_new ON deliveries (event_id)"},
		"before the former one is dropped": {crashed: []string{made}},
		"after the former one is dropped":  {crashed: []string{made, "DROP INDEX deliveries_replay_once"}},
		"before the end is recorded": {crashed: []string{
			made, "DROP INDEX deliveries_replay_once", "ALTER INDEX deliveries_replay_once_new RENAME TO deliveries_replay_once",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			url, conn := oldDatabase(t, 17)
			for _, sql := range append([]string{`
				INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted, takeovers,
					last_status_code, last_error_code, size, created_at)
				SELECT 7, gen_random_uuid(), '00000000-0000-0000-0000-000000000001', gen_random_uuid(), gen_random_uuid(), 0, now(), 0, 0, 0, 0, 0, '', 0, now()
				FROM generate_series(1, 2)`}, state.crashed...) {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			if state.fails != "" {
				if _, err := conn.Exec(t.Context(), state.fails); sqlState(err) != "23505" {
					t.Fatalf("%s: %v, want a unique violation, which leaves the index half-made", state.fails, err)
				}
			}
			s, err := Open(t.Context(), url, Options{Migrate: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var whole, left bool
			var columns string
			err = conn.QueryRow(t.Context(), `
				SELECT indisvalid AND indisunique, substring(pg_get_indexdef(indexrelid) FROM '\(.*'), to_regclass('deliveries_replay_once_new') IS NOT NULL
				FROM pg_index WHERE indexrelid = to_regclass('deliveries_replay_once')`).Scan(&whole, &columns, &left)
			if err != nil {
				t.Fatal(err)
			}
			if want := "(replay_id, replay_of, part) WHERE (replay_id IS NOT NULL)"; !whole || left || columns != want {
				t.Errorf("the index is of %s, want %s; whole %t, another one left %t", columns, want, whole, left)
			}
		})
	}
}

// TestMigrate_BehindALongTransaction checks that writes go on while a migration cannot have its table, as while
// pg_dump runs, and that the migration is done afterwards.
func TestMigrate_BehindALongTransaction(t *testing.T) {
	url, conn := oldDatabase(t, 5)
	dump, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close(context.WithoutCancel(t.Context()))
	exec := func(c *pgx.Conn, sql string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(dump, "BEGIN")
	exec(dump, "LOCK TABLE deliveries IN ACCESS SHARE MODE")
	exec(conn, "SET lock_timeout = '30s'")
	var log lockedLog
	done := make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), url, Options{Migrate: true, Log: log.logger()})
		if err == nil {
			err = s.Close()
		}
		done <- err
	}()
	const waits = "a migration waits for other transactions"
	until(t, "the migration has waited twice", func() bool {
		exec(conn, "UPDATE deliveries SET claims = claims WHERE false")
		select {
		case err := <-done:
			t.Fatalf("the migration did not wait: %v", err)
		default:
		}
		return strings.Count(log.String(), waits) >= 2
	})
	exec(dump, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var version int
	if err := conn.QueryRow(t.Context(), "SELECT version FROM schema_info").Scan(&version); err != nil || version != schemaVersion {
		t.Errorf("version %d, %v", version, err)
	}
}

// TestMigrate_LockLimits checks that statements that work beside writes may wait for a lock as long as they like,
// and others may not.
func TestMigrate_LockLimits(t *testing.T) {
	_, conn := oldDatabase(t, 1)
	for _, c := range []struct{ sql, limit string }{
		{"ALTER TABLE deliveries ADD COLUMN first_of uuid", "1s"},
		{"CREATE INDEX CONCURRENTLY a ON deliveries (part)", "0"},
		{"DROP INDEX IF EXISTS a", "1s"},
		{"DROP INDEX CONCURRENTLY IF EXISTS a", "0"},
	} {
		lockLimits{}.TraceQueryStart(t.Context(), conn, pgx.TraceQueryStartData{SQL: c.sql})
		if limit, err := one(t.Context(), conn.PgConn(), "SHOW lock_timeout"); err != nil || limit != c.limit {
			t.Errorf("%s: %s, %v; want %s", c.sql, limit, err, c.limit)
		}
	}
}
