package storetest_test

import (
	"path/filepath"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// That SQLite keeps every promise of Run is tested beside it.
func TestSQLiteReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		path := filepath.Join(t.TempDir(), "kapsel.db")
		return open(t, path), func() store.Store { return open(t, path) }
	})
}

func BenchmarkSQLite(b *testing.B) {
	storetest.BenchmarkStore(b, func(b *testing.B) store.Store { return open(b, filepath.Join(b.TempDir(), "kapsel.db")) })
}
