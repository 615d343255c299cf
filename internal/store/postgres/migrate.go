package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is the schema that this binary makes. readableBy is the oldest schemaVersion of a
// binary that may still run on it: migrations only expand, so that nodes can be replaced one by
// one.
const (
	schemaVersion = 35
	readableBy    = 21
)

// prepare checks the server and what is between it and Kapsel, and brings the schema to
// schemaVersion. It fails if it may not or cannot.
func (c *connector) prepare(ctx context.Context, opts Options) error {
	if err := c.checkPooling(ctx); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, c.conn(migrationSession))
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := warnUnbound(ctx, conn, c.log); err != nil {
		return err
	}
	version, err := currentSchema(ctx, conn)
	if err == nil && version == 0 && !opts.Another {
		err = checkSchemas(ctx, conn)
	}
	switch {
	case err != nil:
		return err
	case version >= schemaVersion:
		return nil
	case !opts.Migrate:
		return refuse(ErrSchema, "it is of version %d, this binary needs %d; run kapsel migrate, or start without KAPSEL_MIGRATE=off", version, schemaVersion)
	}
	if opts.OnlyEmpty && version > 0 {
		var holds bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM meta WHERE name <> $1)", streamBaseName).Scan(&holds)
		if err != nil {
			return fmt.Errorf("look into the database: %w", err)
		}
		if holds {
			return refuse(ErrSchema, "%v", rules.OlderInUse(version))
		}
	}
	if err := createSchemaInfo(ctx, conn); err != nil {
		return err
	}
	for {
		locked, err := c.migrate(ctx, conn)
		if err != nil || locked {
			return err
		}
		// A node must not wait for the lock itself: it would hold a snapshot meanwhile, and an index that
		// is made concurrently waits for all snapshots, so the two would wait for each other for ever.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockedAgain):
		}
	}
}

// checkSchemas fails with ErrSession if Kapsel's tables are in a schema to which the session's search_path does
// not lead. With new tables in another schema, Kapsel would forget what it has accepted.
func checkSchemas(ctx context.Context, conn *pgx.Conn) error {
	var there, here string
	err := conn.QueryRow(ctx, `
		SELECT n.nspname, coalesce(current_schema(), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relname = 'schema_info' AND c.relkind = 'r' AND n.nspname <> coalesce(current_schema(), '')
			AND EXISTS (SELECT 1 FROM pg_class g WHERE g.relnamespace = n.oid AND g.relname = 'schema_migrations')
		ORDER BY 1 LIMIT 1`).Scan(&there, &here)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for Kapsel's tables: %w", err)
	}
	return refuse(ErrSession, "Kapsel's tables are in the schema %q, and search_path leads to %q; mend search_path, of the role, the database or the URL. If a second Kapsel is meant, run kapsel migrate with this URL", there, here)
}

// lockedAgain is how long a node waits before it looks again whether another node still migrates.
const lockedAgain = 50 * time.Millisecond

// migrate runs the migrations that the database does not have yet. If another connection migrates,
// it returns false and does nothing.
func (c *connector) migrate(ctx context.Context, conn *pgx.Conn) (locked bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// The row's lock is the lock of the migrations: it ends with this connection, however the
		// connection ends.
		err := tx.QueryRow(ctx, "SELECT true FROM schema_info FOR UPDATE SKIP LOCKED").Scan(&locked)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock the schema's version: %w", err)
		}
		version, err := currentSchema(ctx, tx)
		if err != nil || version >= schemaVersion {
			return err
		}
		c.log.InfoContext(ctx, "migrating the database", "from", version, "to", schemaVersion)
		// The statement before holds a snapshot until another statement is run, and an index that is made
		// concurrently would wait for that snapshot. This statement, by the simple protocol, holds none.
		if _, err := tx.Exec(ctx, "SELECT 1", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		// A crash after this leaves the migrations done and the version unchanged: the next start then
		// only sets the version.
		if err := up(ctx, c.conn(migrationSession), c.log); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE schema_info SET version = $1, readable_by = $2", schemaVersion, readableBy)
		return err
	})
	return locked, err
}

type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// currentSchema returns the schema's version, 0 for an empty database. It fails with ErrSchema if
// this binary is too old for the schema.
func currentSchema(ctx context.Context, q rowQuerier) (version int, err error) {
	// This query comes first because a statement that fails is a line in the server's log.
	var exists bool
	if err := q.QueryRow(ctx, "SELECT to_regclass('schema_info') IS NOT NULL").Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for the schema's version: %w", err)
	}
	if !exists {
		return 0, nil
	}
	var readable int
	err = q.QueryRow(ctx, "SELECT version, readable_by FROM schema_info").Scan(&version, &readable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read the schema's version: %w", err)
	case readable > schemaVersion:
		return 0, refuse(ErrSchema, "it is of version %d, made by a newer one; this binary knows versions up to %d", version, schemaVersion)
	}
	return version, nil
}

// createSchemaInfo makes the table whose row is the lock of the migrations. If several nodes do so
// at once, one succeeds. The others may fail on the catalog's own indexes, and try again.
func createSchemaInfo(ctx context.Context, conn *pgx.Conn) (err error) {
	for range 10 {
		_, err = conn.Exec(ctx, `
			CREATE TABLE IF NOT EXISTS schema_info (
				id          boolean PRIMARY KEY DEFAULT true CHECK (id),
				version     integer NOT NULL,
				readable_by integer NOT NULL
			);
			INSERT INTO schema_info (version, readable_by) VALUES (0, 0) ON CONFLICT DO NOTHING`)
		switch sqlState(err) {
		case "23505", "42P07", "42710": // unique violation, duplicate table, duplicate object
			time.Sleep(20 * time.Millisecond)
			continue
		}
		break
	}
	if err != nil {
		return fmt.Errorf("create the schema's version: %w", err)
	}
	return nil
}

// up runs the migrations that the database does not have yet. A migration that does not get its locks, as behind
// a long transaction, is run again after a pause in which the writes to its tables go on.
func up(ctx context.Context, config *pgx.ConnConfig, log *slog.Logger) error {
	config.Tracer = lockLimits{}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithTableName("schema_migrations"))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	pause := time.Second
	for {
		_, err := provider.Up(ctx)
		if err == nil {
			return nil
		}
		if !contended(err) && sqlState(err) != "55P03" { // lock not available
			return fmt.Errorf("migrate the database: %w", err)
		}
		log.WarnContext(ctx, "a migration waits for other transactions on its tables, and tries again; pg_stat_activity shows the transactions, the oldest by xact_start",
			"retry_in", pause, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// lockLimits gives each statement of a migration its limit for locks. An index that is made or dropped
// concurrently waits for all older transactions, without a lock for which writes would wait. A limit would have it
// made from the beginning again and again.
type lockLimits struct{}

func (lockLimits) TraceQueryStart(ctx context.Context, conn *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	limit := migrationLock
	if strings.Contains(query.SQL, " CONCURRENTLY ") {
		limit.value = "0"
	}
	// An error is that of a connection that is lost, which the statement meets too, or of a transaction that has
	// failed before.
	_, _ = conn.PgConn().Exec(ctx, sets([]setting{limit})).ReadAll()
	return ctx
}

func (lockLimits) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
