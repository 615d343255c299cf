package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"

	"github.com/jackc/pgx/v5"
)

// freshDatabase makes an empty database on the PostgreSQL server of a URL, for one run: what
// the named database holds is not touched. drop removes the new one, with its connections.
func freshDatabase(ctx context.Context, server string) (database string, drop func(context.Context) error, err error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", nil, fmt.Errorf("--database is not a postgres:// URL") // and not repeated: it may hold a password
	}
	name := fmt.Sprintf("kapsel_bench_%08x", rand.Uint32())
	run := func(ctx context.Context, sql string) error {
		c, err := pgx.Connect(ctx, server)
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		_, err = c.Exec(ctx, sql)
		return err
	}
	if err := run(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, fmt.Errorf("make a database for the run: %w", err)
	}
	u.Path = "/" + name
	return u.String(), func(ctx context.Context) error {
		// An autovacuum gives way to the first, and not to the second where the role is plain.
		err := run(ctx, "DROP DATABASE "+name)
		if err != nil {
			err = run(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
		if err != nil {
			return fmt.Errorf("drop database %s: %w", name, err)
		}
		return nil
	}, nil
}
