package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// migrateEmpty is a value of Migrate: the schema is brought up to date, but a database that has an older schema
// and holds data is refused.
const migrateEmpty = "empty"

// open opens the database that the settings name. It waits for a database that cannot be reached yet. An
// error that does not pass by itself is a settingError.
func (s *databaseSettings) open(ctx context.Context, observe store.CommitObserver, log *slog.Logger, wait *patience) (db store.Store, err error) {
	external, onlyEmpty := s.Durability == "external", s.Migrate == migrateEmpty
	if external && s.sqlitePath() == "" {
		log.Warn("KAPSEL_DATABASE_DURABILITY=external: whether the database server keeps what it commits is not checked")
	}
	err = wait.try(ctx, func() error {
		if path := s.sqlitePath(); path != "" {
			db, err = sqlite.Open(ctx, path, sqlite.Options{Observe: observe, Log: log, Migrate: onlyEmpty || s.Migrate == "on", OnlyEmpty: onlyEmpty, Caches: s.caches, Ledger: s.ledger == "on"})
		} else {
			db, err = postgres.Open(ctx, s.DatabaseURL, postgres.Options{Observe: observe, Log: log, Migrate: onlyEmpty || s.Migrate == "on", OnlyEmpty: onlyEmpty, Another: s.another, External: external, MaxBody: s.maxBody, Ledger: s.ledger == "on"})
		}
		return err
	})
	switch {
	case err == nil:
		return db, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case store.Passes(err):
		return nil, fmt.Errorf("%s: the database is not there after %v: %w", s.urlName(), databaseWait, errors.Unwrap(err))
	}
	return nil, settingError("%s: %v", s.urlName(), err)
}

// databaseWait is how long a start waits for a database that cannot be reached yet, for instance because
// both start after a reboot.
const databaseWait = 30 * time.Second

// connectTime is the longest that a step runs without the database.
const connectTime = 5 * time.Second

// patience limits how long one start waits for the database. All steps of the start share it.
type patience struct {
	log   *slog.Logger
	since time.Time // when the first wait began; zero: no step had to wait
}

// try runs a step of the start, and repeats it for databaseWait while it fails for a reason that may pass. It
// returns the last error.
func (p *patience) try(ctx context.Context, step func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		began := time.Now()
		err := step()
		switch {
		case !store.Passes(err) || ctx.Err() != nil:
			return err
		case p.since.IsZero():
			p.since = began
			if latest := time.Now().Add(-connectTime); began.Before(latest) {
				p.since = latest // the database was there while the step ran, such as a migration
			}
			p.log.Warn("the database is not there yet; waiting for it", "at_most", databaseWait.String(), "error", err)
		case time.Since(p.since) >= databaseWait:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// mustExist returns an error if the settings name a SQLite database that does not exist. Commands that work
// on a database call it, because they must not make a new one when they run in the wrong directory.
func (s *databaseSettings) mustExist() error {
	path := s.sqlitePath()
	if path == "" {
		return nil
	}
	if err := sqlite.MustExist(path); err != nil {
		return settingError("%s: %v; kapsel serve makes one. Is this its directory? With --dev the database is %s", s.urlName(), err, devDatabase)
	}
	return nil
}

// openWhole opens the database for a command that works on it without a service. It refuses one that a
// copy has not filled.
func (s *databaseSettings) openWhole(ctx context.Context, log *slog.Logger) (store.Store, error) {
	db, err := s.open(ctx, nil, log, &patience{log: log})
	if err != nil {
		return nil, err
	}
	if err := wholeCopy(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
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
	c.Migrate, c.another = "on", true
	out := c.output(io)
	defer out.end()
	db, err := c.open(ctx, nil, out.log, &patience{log: out.log})
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	fmt.Fprintln(out.console, "the schema is up to date")
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
	telemetry.LastWords(io.out, fmt.Sprintf("wrote %s; keep the key files (encryption.key, admin.key) with it, but elsewhere\n", c.File))
	return nil
}
