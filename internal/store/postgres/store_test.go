package postgres_test

import (
	"context"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, database(t)) })
}

func TestUntold(t *testing.T) {
	url := database(t)
	var was *postgres.Store
	storetest.RunUntold(t, func(tells bool) store.Store {
		if was != nil {
			was.Close()
		}
		was = openAs(t, url, tells)
		return was
	})
}

func TestTogether(t *testing.T) {
	storetest.RunTogether(t, func(t *testing.T) (tells, quiet store.Store) {
		url := database(t)
		return openAs(t, url, true), openAs(t, url, false)
	})
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		url := database(t)
		return open(t, url), func() store.Store { return open(t, url) }
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.BenchmarkStore(b, func(b *testing.B) store.Store { return open(b, database(b)) })
}

// database is a new database with the schema.
func database(t testing.TB) (url string) {
	t.Helper()
	return pgtest.From(t, "schema", migrate)
}

func migrate(ctx context.Context, url string) error {
	s, err := postgres.Open(ctx, url, postgres.Options{Migrate: true})
	if err != nil {
		return err
	}
	return s.Close()
}

// open opens a store of a database that has the schema, for the test's duration.
func open(t testing.TB, url string) *postgres.Store { return openAs(t, url, true) }

// openAs is open for a store that tells the ledger facts, or tells it none.
func openAs(t testing.TB, url string, tells bool) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), url, postgres.Options{MaxBody: 64 << 20, Ledger: tells})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
