package storetest_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// That each store keeps the promises of Run is tested beside it.

func TestReopenSQLite(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		path := filepath.Join(t.TempDir(), "kapsel.db")
		open := func() store.Store { return openSQLite(t, path) }
		return open(), open
	})
}

func TestReopenPostgres(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		url := pgtest.From(t, "schema", func(ctx context.Context, url string) error {
			s, err := postgres.Open(ctx, url, postgres.Options{Migrate: true})
			if err != nil {
				return err
			}
			return s.Close()
		})
		open := func() store.Store {
			s, err := postgres.Open(t.Context(), url, postgres.Options{MaxBody: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}
		return open(), open
	})
}

func BenchmarkSQLite(b *testing.B) {
	storetest.BenchmarkStore(b, func(b *testing.B) store.Store { return openSQLite(b, filepath.Join(b.TempDir(), "kapsel.db")) })
}

func openSQLite(t testing.TB, path string) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
