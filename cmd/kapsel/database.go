package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// open opens the database that the settings name.
func (s *databaseSettings) open(ctx context.Context, observe store.CommitObserver, log *slog.Logger) (store.Store, error) {
	migrate := s.Migrate == "on"
	if path := s.sqlitePath(); path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, settingError("DATABASE_URL (--database-url): the folder cannot be made: %v", err)
		}
		db, err := sqlite.Open(ctx, path, sqlite.Options{Observe: observe, Log: log, Migrate: migrate})
		if err != nil {
			return nil, settingError("DATABASE_URL (--database-url): %v", err)
		}
		return db, nil
	}
	db, err := postgres.Open(ctx, s.DatabaseURL, postgres.Options{Observe: observe, Log: log, Migrate: migrate})
	if err != nil {
		return nil, settingError("DATABASE_URL (--database-url): %v", err)
	}
	return db, nil
}

type migrateCmd struct{ databaseSettings }

// Run brings the schema up to date.
func (c *migrateCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	c.Migrate = "on"
	out := c.output(io)
	defer out.end()
	db, err := c.open(ctx, nil, out.log)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	fmt.Fprintln(io.out, "the schema is up to date")
	return nil
}

type backupCmd struct {
	databaseSettings
	File string `arg:"" help:"The file to write; it must not exist."`
}

// Run copies a SQLite database while the service may be running.
func (c *backupCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	path := c.sqlitePath()
	if path == "" {
		return settingError("DATABASE_URL (--database-url): backup is for SQLite; use pg_dump or continuous archiving for PostgreSQL")
	}
	if err := sqlite.Backup(ctx, path, c.File); err != nil {
		return err
	}
	fmt.Fprintf(io.out, "wrote %s; keep the key files (encryption.key, admin.key) with it, but elsewhere\n", c.File)
	return nil
}
