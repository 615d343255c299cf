package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"

	"github.com/jackc/pgx/v5"
)

// freshDatabase creates an empty database for one run on the PostgreSQL server of a URL. It does
// not touch the database that the URL names. drop removes the new database, closing its
// connections.
func freshDatabase(ctx context.Context, server string) (database string, drop func(context.Context) error, err error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", nil, fmt.Errorf("--database is not a postgres:// URL") // the URL is not shown: it may hold a password
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
		// Try without FORCE first: an autovacuum gives way to it, but not to FORCE if the role is no
		// superuser.
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
