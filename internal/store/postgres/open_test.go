package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
)

// count runs a query of one number, past the store and its walls.
func count(t testing.TB, url, sql string, args ...any) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpen_TenNodesOnAnEmptyDatabase(t *testing.T) {
	url := pgtest.New(t)
	var nodes sync.WaitGroup
	for range 10 {
		nodes.Go(func() {
			s, err := postgres.Open(t.Context(), url, postgres.Options{Migrate: true})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	nodes.Wait()
	newest := count(t, url, "SELECT max(version_id) FROM schema_migrations")
	if n := count(t, url, "SELECT version FROM schema_info"); n != newest {
		t.Errorf("the schema has version %d, and its newest migration is %d", n, newest)
	}
	if n := count(t, url, "SELECT count(*) FROM schema_migrations WHERE version_id > 0"); n != newest {
		t.Errorf("%d migrations ran, want %d, each once", n, newest)
	}
}

func TestOpen_RefusesASchemaThatDoesNotFit(t *testing.T) {
	empty := pgtest.New(t)
	newer, readable := database(t), database(t)
	pgtest.Exec(t, newer, "UPDATE schema_info SET version = 99, readable_by = 99")
	pgtest.Exec(t, readable, "UPDATE schema_info SET version = 99, readable_by = 1")
	for _, tt := range []struct {
		name, url string
		migrate   bool
		want      error
	}{
		{"empty, not to be migrated", empty, false, postgres.ErrSchema},
		{"made by a newer binary", newer, true, postgres.ErrSchema},
		{"made by a newer binary, not to be migrated", newer, false, postgres.ErrSchema},
		{"made by a newer binary, for ours too", readable, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := postgres.Open(t.Context(), tt.url, postgres.Options{Migrate: tt.migrate})
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
			if err == nil {
				s.Close()
			}
		})
	}
	if n := count(t, empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
		t.Errorf("%d tables were made in a database that was not to be migrated", n)
	}
}

// TestOpen_AnotherSchema checks that Open makes no new tables beside Kapsel's own because search_path leads
// elsewhere, unless that is asked for.
func TestOpen_AnotherSchema(t *testing.T) {
	url := pgtest.New(t)
	try := func(url string, opts postgres.Options) error {
		s, err := postgres.Open(t.Context(), url, opts)
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := try(url, postgres.Options{Migrate: true}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, pgtest.Superuser(url), "CREATE SCHEMA elsewhere AUTHORIZATION kapsel")
	other := url + "&search_path=elsewhere"
	for _, opts := range []postgres.Options{{}, {Migrate: true}} {
		err := try(other, opts)
		if !errors.Is(err, postgres.ErrSession) || store.Passes(err) || !strings.Contains(err.Error(), `"public"`) || !strings.Contains(err.Error(), `"elsewhere"`) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	if err := try(other, postgres.Options{Migrate: true, Another: true}); err != nil {
		t.Error(err)
	}
	for _, url := range []string{url, other} {
		if err := try(url, postgres.Options{}); err != nil {
			t.Errorf("now that both have tables: %v", err)
		}
	}
}

// TestOpen_F_B8_RefusesAServerThatLosesData checks that a server with fsync or
// full_page_writes off is refused by the name of the setting.
func TestOpen_F_B8_RefusesAServerThatLosesData(t *testing.T) {
	server := pgtest.Start(t)
	url := server.New(t)
	for _, setting := range []string{"fsync", "full_page_writes"} {
		set := func(value string) {
			pgtest.Exec(t, server.URL("postgres"), "ALTER SYSTEM SET "+setting+" = "+value, "SELECT pg_reload_conf()")
			server.Stop(t)
			server.Restart(t)
		}
		set("off")
		s, err := postgres.Open(t.Context(), url, postgres.Options{Migrate: true})
		if !errors.Is(err, postgres.ErrUnsafe) {
			t.Fatalf("%s=off: error is %v", setting, err)
		}
		if !strings.Contains(err.Error(), setting+"=off") {
			t.Errorf("%s=off: the error does not say so: %v", setting, err)
		}
		if s != nil {
			t.Errorf("%s=off: there is a store", setting)
		}
		set("on")
	}
	if err := migrate(t.Context(), url); err != nil {
		t.Errorf("with everything on: %v", err)
	}
}

func TestOpen_SaysWhatIsWrongWithoutThePassword(t *testing.T) {
	for _, url := range []string{
		"postgres://user:hunter2@127.0.0.1:1/kapsel",
		"postgres://user:hunter2@127.0.0.1:notaport/kapsel",
	} {
		_, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
}
