// Package schematest gives tests databases that have today's schema and nothing else.
//
// The migrations run once in each process and store; every test gets a copy of what they made.
package schematest

import (
	"context"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// SQLite returns the path of a new database file, which the test's end removes.
func SQLite(t testing.TB) (path string) {
	t.Helper()
	return file(t)
}

var file = storetest.Template(func(path string) error {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{Migrate: true})
	if err != nil {
		return err
	}
	return s.Close()
})

// Postgres returns the URL of a new database, which the test's end removes.
func Postgres(t testing.TB) (url string) {
	t.Helper()
	return pgtest.From(t, "schema", func(ctx context.Context, url string) error {
		s, err := postgres.Open(ctx, url, postgres.Options{Migrate: true})
		if err != nil {
			return err
		}
		return s.Close()
	})
}
