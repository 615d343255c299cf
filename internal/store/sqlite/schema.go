package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/kapsel-hq/kapsel/internal/store/rules"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is the number of the newest migration.
const schemaVersion = 26

// prepareSchema brings the database to this binary's schema. It fails, and says why, if it may not
// or cannot.
func prepareSchema(ctx context.Context, path string, opts Options) error {
	version, readableBy, err := schemaOf(path)
	if err != nil {
		return err
	}
	switch {
	case readableBy > schemaVersion:
		return fmt.Errorf("the database has schema %d, which needs a Kapsel that knows schema %d; this one knows %d: use a newer release",
			version, readableBy, schemaVersion)
	case version >= schemaVersion:
		return nil
	case !opts.Migrate:
		return fmt.Errorf("the database has schema %d and this Kapsel needs %d: run `kapsel migrate`, or set KAPSEL_MIGRATE=on",
			version, schemaVersion)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// A bare path may not have a "?". What a migration keeps for a while is in memory: a container may have no
	// directory for it.
	db, err := sql.Open("sqlite", fileURL(abs)+"?_pragma=temp_store(memory)")
	if err != nil {
		return fmt.Errorf("open the database to migrate it: %w", err)
	}
	defer db.Close()
	if opts.OnlyEmpty && version > 0 {
		var holds bool
		if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM meta)`).Scan(&holds); err != nil {
			return fmt.Errorf("look into the database: %w", err)
		}
		if holds {
			return rules.OlderInUse(version)
		}
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

// fileURL returns the URL of the file at an absolute path. On Windows a slash comes before the
// drive's letter.
func fileURL(abs string) string {
	path := filepath.ToSlash(abs)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// schemaOf returns a database's schema version, 0 for a new database, and the schema that a binary
// must know to use it. It also sets what must be set before the first table exists. It fails if
// the file is a database of another program.
func schemaOf(path string) (version, readableBy int, err error) {
	c, err := open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("open the database: %w", err)
	}
	defer c.close()
	err = c.script(fmt.Sprintf(`PRAGMA page_size = %d; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL`, pageSize))
	if err != nil {
		return 0, 0, fmt.Errorf("open the database: %w", err)
	}
	var tables, ours int64
	_, err = c.query(`SELECT count(*), count(*) FILTER (WHERE name = 'schema_info') FROM sqlite_schema`).
		one(func(s *stmt) { tables, ours = s.colInt(), s.colInt() })
	if err != nil {
		return 0, 0, fmt.Errorf("read the schema: %w", err)
	}
	if ours == 0 {
		// A migration that failed leaves goose's own table and nothing else.
		if tables > 2 {
			return 0, 0, errors.New("the file is a database, but not Kapsel's")
		}
		return 0, 0, nil
	}
	_, err = c.query(`SELECT version, readable_by FROM schema_info`).
		one(func(s *stmt) { version, readableBy = int(s.colInt()), int(s.colInt()) })
	if err != nil {
		return 0, 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return version, readableBy, nil
}
