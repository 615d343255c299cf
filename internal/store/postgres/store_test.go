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
func open(t testing.TB, url string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
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
