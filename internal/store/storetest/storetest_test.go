package storetest_test

import (
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// That each store keeps the promises of Run is tested beside it.

func TestReopenSQLite(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		path := schematest.SQLite(t)
		open := func() store.Store { return openSQLite(t, path) }
		return open(), open
	})
}

func TestReopenPostgres(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		url := schematest.Postgres(t)
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
	storetest.BenchmarkStore(b, func(b *testing.B) store.Store { return openSQLite(b, schematest.SQLite(b)) })
}

func openSQLite(t testing.TB, path string) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
