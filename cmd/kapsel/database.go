package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// open opens the database that the settings name.
func (s *databaseSettings) open(ctx context.Context, observe store.CommitObserver, log *slog.Logger) (store.Store, error) {
	migrate := s.Migrate == "on"
	if path := s.sqlitePath(); path != "" {
		db, err := sqlite.Open(ctx, path, sqlite.Options{Observe: observe, Log: log, Migrate: migrate, Caches: s.caches})
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

// mustExist refuses a SQLite database that is not there, for commands that work on one and
// must not make a new one beside it because they run in the wrong directory.
func (s *databaseSettings) mustExist() error {
	path := s.sqlitePath()
	if path == "" {
		return nil
	}
	if err := sqlite.MustExist(path); err != nil {
		return settingError("DATABASE_URL (--database-url): %v; kapsel serve makes one. Is this its directory? With --dev the database is %s", err, devDatabase)
	}
	return nil
}

type migrateCmd struct{ databaseSettings }

// Run brings the schema up to date.
func (c *migrateCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := c.mustExist(); err != nil {
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
	if err := c.mustExist(); err != nil {
		return err
	}
	if err := sqlite.Backup(ctx, path, c.File); err != nil {
		return err
	}
	fmt.Fprintf(io.out, "wrote %s; keep the key files (encryption.key, admin.key) with it, but elsewhere\n", c.File)
	return nil
}
