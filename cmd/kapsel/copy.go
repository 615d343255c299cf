package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// copyCmd is `kapsel copy`.
type copyCmd struct {
	From          string      `required:"" placeholder:"URL" help:"The database to copy, sqlite:PATH or postgres://…"`
	To            string      `required:"" placeholder:"URL" help:"The new, empty database of the other kind."`
	EncryptionKey secret.Text `env:"KAPSEL_ENCRYPTION_KEY" placeholder:"KEYS" help:"The encryption key of the database to copy (${env}, default where that is SQLite: what encryption.key holds)."`
	Durability    string      `name:"database-durability" env:"KAPSEL_DATABASE_DURABILITY" default:"server" enum:"server,external" help:"external: a PostgreSQL server that runs without fsync or full_page_writes keeps its data all the same (${env}, default ${default})."`
	JSON          bool        `name:"json" help:"Write the numbers of rows as JSON."`
}

// Help is shown by `kapsel copy --help`.
func (c *copyCmd) Help() string {
	return `Copies tenants, keys, endpoints, events, deliveries, attempts and all the rest, as they
are: ids, URLs and secrets stay the same. Stop the service first, on both databases.

  kapsel copy --from sqlite:kapsel-data/kapsel.db --to postgres://kapsel@db.internal/kapsel

A copy that was interrupted goes on when the same command is run again. Until it has come
to its end, kapsel serve refuses the target. The source is left as it is.`
}

// Run copies one database to the other.
func (c *copyCmd) Run(ctx context.Context, io streams) error {
	from := databaseSettings{flag: "--from", DatabaseURL: c.From, Migrate: "off", Durability: c.Durability, LogLevel: "warn", LogFormat: "text"}
	to := databaseSettings{flag: "--to", DatabaseURL: c.To, Migrate: migrateEmpty, Durability: c.Durability}
	if err := errors.Join(from.check(), to.check()); err != nil {
		return settingError("%v", err)
	}
	if (from.sqlitePath() == "") == (to.sqlitePath() == "") {
		return settingError("--to: copy is from SQLite to PostgreSQL or back; to move a database of one kind use kapsel backup, or pg_dump")
	}
	if err := from.mustExist(); err != nil {
		return err
	}
	keyring, err := from.keyring(c.EncryptionKey)
	if err != nil {
		return err
	}
	out := from.output(io)
	defer out.end()
	source, closeSource, err := from.openTransfer(ctx, out.log, keyring.Verify)
	if err != nil {
		return err
	}
	defer closeSource()
	target, closeTarget, err := to.openTransfer(ctx, out.log, nil)
	if err != nil {
		return err
	}
	defer closeTarget()

	began := time.Now()
	progress := newCopyProgress(io.err)
	result, err := transfer.Copy(ctx, source, target, progress.report)
	progress.end()
	var refused *transfer.Refusal
	switch {
	case errors.As(err, &refused):
		return settingError("nothing is copied: %v", err)
	case err != nil:
		return fmt.Errorf("%w; run the same command again, it goes on where it was", err)
	}
	if err := errors.Join(closeTarget(), closeSource()); err != nil {
		return err
	}
	return c.write(io.out, result, time.Since(began))
}

// openTransfer opens a database that is copied, or copied to. judge, if not nil, is called with the value
// by which the database remembers its encryption key, and its error is returned.
func (s *databaseSettings) openTransfer(ctx context.Context, log *slog.Logger, judge func(check []byte) error) (_ transfer.Store, end func() error, err error) {
	db, err := s.open(ctx, nil, log, &patience{log: log})
	if err != nil {
		return nil, nil, err
	}
	closers := []func() error{db.Close}
	closeAll := func() (err error) {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
		closers = nil
		return err
	}
	defer func() { // not by the name of a result: a return of nil would have replaced it
		if err != nil {
			_ = closeAll()
		}
	}()
	if judge != nil {
		check, err := db.Meta(ctx, keyCheck)
		switch {
		case kapsel.CodeOf(err) == kapsel.NotFound:
			return nil, nil, settingError("%s: the database has no encryption key yet, so there is nothing in it to copy", s.urlName())
		case err != nil:
			return nil, nil, err
		}
		if err := judge(check); err != nil {
			return nil, nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
		}
	}
	var t transfer.Store
	switch db := db.(type) {
	case *sqlite.Store:
		t, err = db.Transfer(ctx)
	case *postgres.Store:
		var own *postgres.Transfer
		if own, err = db.Transfer(ctx); err == nil {
			t = own
			closers = append(closers, own.Close)
		}
	}
	if err != nil && !store.Passes(err) {
		err = settingError("%s: %v", s.urlName(), err)
	}
	return t, closeAll, err
}

// wholeCopy returns an error if the database is the target of a copy that has not ended.
func wholeCopy(ctx context.Context, db store.Directory) error {
	progress, err := db.Meta(ctx, transfer.MetaName)
	switch {
	case kapsel.CodeOf(err) == kapsel.NotFound:
		return nil
	case err != nil:
		return err
	case transfer.Unfinished(progress):
		return settingError("DATABASE_URL (--database-url): the database holds a part of a copy; run kapsel copy again to its end, or use another database")
	}
	return nil
}

// write prints what was copied.
func (c *copyCmd) write(w io.Writer, result transfer.Result, took time.Duration) error {
	if c.JSON {
		return json.NewEncoder(w).Encode(struct {
			Rows    map[string]int64 `json:"rows"`
			Resumed bool             `json:"resumed"`
			Already bool             `json:"already"`
			Seconds float64          `json:"seconds"`
		}{result.Rows, result.Resumed, result.Already, took.Seconds()})
	}
	for _, table := range transfer.Tables {
		fmt.Fprintf(w, "%-16s %10d\n", table.Name, result.Rows[table.Name])
	}
	if result.Already {
		fmt.Fprintln(w, "the target held the whole copy already; start kapsel serve with it and the same KAPSEL_ENCRYPTION_KEY")
		return nil
	}
	fmt.Fprintf(w, "copied in %v; start kapsel serve with the target and the same KAPSEL_ENCRYPTION_KEY and KAPSEL_ADMIN_KEY\n", took.Round(100*time.Millisecond))
	fmt.Fprintln(w, "once the target was served, start kapsel serve with the source only with --accept-rollback: the audit logs go on in the target")
	return nil
}

// copyProgress shows on a terminal what is being copied.
type copyProgress struct {
	w    io.Writer // nil: it is no terminal
	last time.Time
}

func newCopyProgress(w io.Writer) *copyProgress {
	if !isTerminal(w) {
		w = nil
	}
	return &copyProgress{w: w}
}

func (p *copyProgress) report(table string, rows int64) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.w, "\r\x1b[K%s: %d", table, rows)
}

// end removes the line.
func (p *copyProgress) end() {
	if p.w != nil && !p.last.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
