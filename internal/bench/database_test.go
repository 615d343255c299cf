package bench

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

func TestFreshDatabase(t *testing.T) {
	server := pgtest.New(t)
	database, drop, err := freshDatabase(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	name := c.Config().Database
	if !strings.HasPrefix(name, "kapsel_bench_") {
		t.Errorf("made database %s", name)
	}
	if err := drop(t.Context()); err != nil { // although it is in use
		t.Fatal(err)
	}
	if slices.Contains(databases(t, server), name) {
		t.Errorf("%s is still there", name)
	}

	for _, wrong := range []string{"sqlite:x", "postgres://me:hidden@127.0.0.1:1/x"} {
		if _, _, err := freshDatabase(t.Context(), wrong); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestCompare_LeavesNoDatabase(t *testing.T) {
	for _, fault := range []string{"", "lose", "refuse to start"} {
		server := pgtest.New(t)
		before := databases(t, server)
		p := plan(t, fault)
		p.Database, p.Relay, p.Runs = server, false, 1
		r, err := Compare(t.Context(), p)
		if (err != nil) != (fault == "refuse to start") || r.Settings.Database != "postgres" {
			t.Errorf("%q: %v, settings %+v", fault, err, r.Settings)
		}
		if after := databases(t, server); !slices.Equal(before, after) {
			t.Errorf("%q: databases %v, before %v", fault, after, before)
		}
	}
}

func databases(t *testing.T, server string) []string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	rows, err := c.Query(t.Context(), "SELECT datname FROM pg_database ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}
