package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// TestAuditWriter_Heads checks that databases in one directory remember their published heads in files of
// their own, and that a key file takes the file into its directory.
func TestAuditWriter_Heads(t *testing.T) {
	dir := t.TempDir()
	keyring, err := secret.NewKeyring(bytes.Repeat([]byte{5}, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	one, two := kapsel.NewInstanceID(), kapsel.NewInstanceID()
	if err := os.WriteFile(filepath.Join(dir, headsName(one)), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(instance kapsel.InstanceID, keyFile string) error {
		s := serveSettings{AuditKeyFile: keyFile}
		s.DatabaseURL = "sqlite:" + filepath.Join(dir, "k.db")
		_, err := s.auditWriter(nil, instance, time.Now, kapsel.NewNodeID(time.Now()), keyring, nil, slog.New(slog.DiscardHandler))
		return err
	}
	if err := open(one, ""); err == nil || !strings.Contains(err.Error(), headsName(one)) {
		t.Errorf("the database's own file, damaged: %v", err)
	}
	if err := open(two, ""); err != nil {
		t.Errorf("the file of another database in the directory: %v", err)
	}
	if err := open(one, filepath.Join(t.TempDir(), "audit.key")); err != nil {
		t.Errorf("a key file in another directory: %v", err)
	}
	for _, name := range []string{"a.key", "b.key"} {
		if err := open(one, filepath.Join(dir, name)); err == nil {
			t.Errorf("with the key file %s beside the file of heads that file is not read", name)
		}
	}
}

// TestAuditCommands checks that rotate-audit-key replaces the key, in the database and by a file, and
// that fsck fails, and keeps a log from being signed, as long as the log contradicts itself.
func TestAuditCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	const url = "--database-url=sqlite:k.db"
	secretKey := bytes.Repeat([]byte{5}, secret.KeySize)
	keyring, err := secret.NewKeyring(secretKey)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	with := func(f func(ctx context.Context, db *sqlite.Store) error) {
		t.Helper()
		db, err := sqlite.Open(t.Context(), "k.db", sqlite.Options{Migrate: true})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := f(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	command := func(want int, text string, args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(args, streams{&out, &errs}); code != want || !strings.Contains(out.String()+errs.String(), text) {
			t.Fatalf("%v: exit code %d, want %d and %q\n%s%s", args, code, want, text, out.String(), errs.String())
		}
	}
	encryption := "--encryption-key=" + strings.TrimSpace(string(encodeKey(secretKey)))

	with(func(ctx context.Context, db *sqlite.Store) error {
		_, err := db.SetMeta(ctx, keyCheck, keyring.Check())
		return err
	})
	command(1, "serve makes the first", "rotate-audit-key", url, encryption)
	with(func(ctx context.Context, db *sqlite.Store) error {
		_, err := (&audit.Keys{Store: db, Seal: keyring}).Current(ctx, now)
		return err
	})
	command(0, "from now on", "rotate-audit-key", url, encryption)
	command(0, "from now on", "rotate-audit-key", url, encryption, "--audit-key-file=audit.key")
	command(1, "already", "rotate-audit-key", url, encryption, "--audit-key-file=audit.key")
	var log store.Log
	with(func(ctx context.Context, db *sqlite.Store) error {
		key, err := auditKey("audit.key")
		if err != nil {
			return err
		}
		keys := &audit.Keys{Store: db, Seal: keyring, File: key}
		if all, err := keys.All(ctx); err != nil || len(all) != 3 {
			t.Errorf("%d keys, %v", len(all), err)
		}
		if _, err = keys.Current(ctx, now); err != nil {
			return err
		}
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
		if err := db.CreateTenant(ctx, tenant); err != nil {
			return err
		}
		logs, err := db.TakeLogs(ctx, []kapsel.TenantID{tenant.ID}, now)
		if err != nil {
			return err
		}
		log = logs[0]
		return nil
	})

	command(0, "logs: 1, heads: 0, leaves: 0", "fsck", url)
	with(func(ctx context.Context, db *sqlite.Store) error {
		_, err := db.Append(ctx, []store.Growth{{Log: log.ID, Was: log.State, Size: 1, Root: log.Root, Leaves: []store.Leaf{{Record: []byte("{made up")}}}})
		return err
	})
	command(1, "log "+log.ID.String()+", leaf 0: the text was changed", "fsck", url)
	with(func(ctx context.Context, db *sqlite.Store) error {
		if l, err := db.Log(ctx, log.ID); err != nil || l.Fault == "" {
			t.Errorf("after fsck has found something the log has the fault %q, %v", l.Fault, err)
		}
		return nil
	})
}
