package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// oldDatabase makes a database of a former schema and runs statements on it.
func oldDatabase(t *testing.T, version int64, statements ...[]any) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kapsel.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := schemaOf(path); err != nil { // sets what must be set first
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s[0].(string), s[1:]...); err != nil {
			t.Fatalf("%s: %v", s[0], err)
		}
	}
	return path
}

// TestMigrate_Destinations: endpoints, circuits and deliveries of the first schema belong to
// their first destination, and exactly the former default of the circuit's ratio is replaced.
func TestMigrate_Destinations(t *testing.T) {
	ratios := map[kapsel.EndpointID][2]float64{} // before and after
	statements := [][]any{{`UPDATE counters SET value = 1 WHERE name = 'settings'`}}
	config := kapsel.DefaultEndpoint()
	config.Name, config.Description = "Käufe", `not a "circuit":{"failures":5,"ratio":0.5}`
	for _, ratio := range [][2]float64{{0.5, 0.8}, {0.8, 0.8}, {0.51, 0.51}, {0.05, 0.05}, {1, 1}} {
		id := kapsel.NewEndpointID(testTime)
		config.Circuit.Ratio = ratio[0]
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		ratios[id] = ratio
		statements = append(statements, []any{
			`INSERT INTO endpoints (id, tenant_id, part, state, disabled_reason, config, created_at, updated_at, revision) VALUES (?, ?, 0, 'active', '', ?, 1, 1, 1)`,
			id[:], testTenant[:], text,
		}, []any{
			`INSERT INTO circuits (endpoint_id, state, retry_at, successes, version, revision) VALUES (?, 'open', 1, 2, 1, 1)`, id[:],
		}, []any{
			`INSERT INTO deliveries (id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted, takeovers, last_status_code, last_error_code, size, created_at)
			VALUES (?, ?, ?, ?, 0, 5, 1, 1, 1, 0, 503, 'E2004', 0, 1)`, id[:], id[:], id[:], testTenant[:],
		})
	}
	s := openAt(t, oldDatabase(t, 1, statements...))
	ctx := context.Background()
	settings, err := s.Settings(ctx, 0)
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
		c, err := s.Circuit(ctx, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if c = e.CircuitNow(c); c.State != kapsel.CircuitOpened {
			t.Errorf("its circuit is %+v, want it open as before", c)
		}
		d, err := s.Delivery(ctx, testTenant, kapsel.DeliveryID(e.ID))
		if err != nil {
			t.Fatal(err)
		}
		if d.PutOffBy != 0 {
			t.Errorf("a waiting delivery is put off by %d", d.PutOffBy)
		}
	}
}

// TestMigrate_Missing checks that only the check of which deliveries a bulk replay may have made
// is another: what is there stays and is sound, a first delivery may name a replay, and one that is
// neither first nor repeats another may not.
func TestMigrate_Missing(t *testing.T) {
	id := func(n byte) []byte { return append(make([]byte, 15), n) }
	const insert = `INSERT INTO deliveries (id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted, takeovers,
		last_status_code, last_error_code, size, created_at, replay_of, replay_id, first_of) VALUES (?, ?, ?, ?, 0, 5, 0, 0, 0, 0, 0, '', 0, 1, ?, ?, ?)`
	path := oldDatabase(t, 7, []any{insert, id(1), id(9), id(8), testTenant[:], id(2), id(3), nil})
	s := openAt(t, path)
	err := s.writer.cold(t.Context(), func(c *conn) error {
		if err := c.exec(insert, id(4), id(9), id(8), testTenant[:], nil, id(3), id(9)); err != nil {
			return err
		}
		var verdict string
		if _, err := c.query(`PRAGMA integrity_check`).one(func(s *stmt) { verdict = s.colText() }); err != nil || verdict != "ok" {
			t.Errorf("the database is %q, %v", verdict, err)
		}
		var rows int64
		_, err := c.query(`SELECT count(*) FROM deliveries WHERE replay_id = ?`, id(3)).one(func(s *stmt) { rows = s.colInt() })
		if rows != 2 {
			t.Errorf("%d deliveries are there", rows)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.writer.cold(t.Context(), func(c *conn) error {
		return c.exec(insert, id(5), id(9), id(8), testTenant[:], nil, id(3), nil)
	})
	if err == nil {
		t.Error("a delivery of a replay that repeats none and is no first one is stored")
	}
}

// TestMigrate_Records checks that entries which a release before has left in the outbox are there
// afterwards, and can be taken out.
func TestMigrate_Records(t *testing.T) {
	entry := append(append([]byte{1, 0}, make([]byte, 80)...), 1, 0) // by the first form, of attempt 1
	statements := [][]any{{`INSERT INTO tenants (id, name, plan, limits, revision) VALUES (?, 'acme', 'unlimited', x'7b7d', 1)`, testTenant[:]}}
	for n := byte(3); n > 0; n-- {
		statements = append(statements, []any{`INSERT INTO audit_outbox (id, entry) VALUES (?, ?)`, append([]byte{n}, make([]byte, 15)...), entry})
	}
	s := openAt(t, oldDatabase(t, 14, statements...))
	entries, _, err := s.Entries(t.Context(), store.EntryKey{}, 10, nil)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if r, err := store.ReadRecord(e.AttemptID, e.Record); err != nil || r.Number != 1 || e.AttemptID[0] != byte(i+1) {
			t.Errorf("entry %d is %+v, %v", i, r, err)
		}
	}
	logs, err := s.TakeLogs(t.Context(), []kapsel.TenantID{testTenant}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	g := store.Growth{Log: logs[0].ID, Was: logs[0].State, Size: 2, Root: logs[0].Root}
	for i, e := range []store.Entry{entries[2], entries[0]} {
		g.Leaves = append(g.Leaves, store.Leaf{Index: int64(i), AttemptID: e.AttemptID, Record: e.Record})
		g.Taken = append(g.Taken, e.EntryKey)
	}
	if stale, err := s.Append(t.Context(), []store.Growth{g}); err != nil || len(stale) > 0 {
		t.Fatalf("stale %v, %v", stale, err)
	}
	if left, _, err := s.Entries(t.Context(), store.EntryKey{}, 10, nil); err != nil || len(left) != 1 || left[0].AttemptID != entries[1].AttemptID {
		t.Errorf("left are %v, %v", left, err)
	}
}
