package main

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestCopy_WrongKey: a key that is not the source's is refused with exit code 2 and one line that
// names it, and the target is not touched. The exit code alone proves nothing: it is also that
// of a panic.
func TestCopy_WrongKey(t *testing.T) {
	file := func() string { return "sqlite:" + filepath.Join(t.TempDir(), "kapsel.db") }
	for _, tt := range []struct{ name, from, to string }{
		{"from sqlite", file(), pgtest.New(t)},
		{"from postgres", pgtest.New(t), file()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, wrong := secret.NewKey(), secret.NewKey()
			source := databaseSettings{DatabaseURL: tt.from, Migrate: "on"}
			copying := func(key []byte, code int, says string) {
				t.Helper()
				var out, errs bytes.Buffer
				got := run([]string{"copy", "--from=" + tt.from, "--to=" + tt.to, "--encryption-key=" + strings.TrimSpace(string(encodeKey(key)))}, streams{&out, &errs})
				if got != code || !strings.Contains(out.String()+errs.String(), says) {
					t.Errorf("exit code %d, want %d and %q:\n%s%s", got, code, says, &out, &errs)
				}
			}

			remember(t, source, nil)
			copying(ours, 2, "kapsel: --from: the database has no encryption key yet")
			keyring, err := secret.NewKeyring(ours)
			if err != nil {
				t.Fatal(err)
			}
			remember(t, source, keyring.Check())
			copying(wrong, 2, "kapsel: KAPSEL_ENCRYPTION_KEY (--encryption-key): ")
			target := databaseSettings{DatabaseURL: tt.to, Migrate: "off"}
			if db, err := target.open(t.Context(), nil, slog.New(slog.DiscardHandler), &patience{}); err == nil {
				db.Close()
				t.Error("the target has a schema already")
			}
			copying(ours, 0, "\ncopied in ")
			copying(wrong, 2, "kapsel: KAPSEL_ENCRYPTION_KEY (--encryption-key): ")
			copying(ours, 0, "the whole copy already")
		})
	}
}

// TestCopy_OlderTarget checks that a target with an older schema is refused unchanged if it holds
// data. An empty one is brought to the newest schema, because a copy that is killed while it makes
// the schema leaves such a target.
func TestCopy_OlderTarget(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kapsel.db")
	server := pgtest.New(t)
	sqlite := func(statement string) (version int) {
		t.Helper()
		db, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if statement != "" {
			_, err = db.Exec(statement)
		}
		if err = errors.Join(err, db.QueryRow("SELECT version FROM schema_info").Scan(&version)); err != nil {
			t.Fatal(err)
		}
		return version
	}
	postgres := func(statement string) (version int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if statement != "" {
			_, err = conn.Exec(t.Context(), statement)
		}
		if err = errors.Join(err, conn.QueryRow(t.Context(), "SELECT version FROM schema_info").Scan(&version)); err != nil {
			t.Fatal(err)
		}
		return version
	}
	for _, tt := range []struct {
		name, url string
		exec      func(statement string) (version int)
	}{
		{"sqlite", "sqlite:" + file, sqlite},
		{"postgres", server, postgres},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := databaseSettings{DatabaseURL: tt.url, Migrate: migrateEmpty}
			open := func() error {
				db, err := to.open(t.Context(), nil, slog.New(slog.DiscardHandler), &patience{log: slog.New(slog.DiscardHandler)})
				if err == nil {
					err = db.Close()
				}
				return err
			}
			remember(t, to, nil)
			older := tt.exec("") - 1
			tt.exec(fmt.Sprintf("UPDATE schema_info SET version = %d", older))
			if err := open(); err != nil {
				t.Errorf("an older schema without anything in it: %v", err)
			}
			tt.exec(fmt.Sprintf("UPDATE schema_info SET version = %d", older+1))
			remember(t, to, []byte("of another instance"))
			tt.exec(fmt.Sprintf("UPDATE schema_info SET version = %d", older))
			if err := open(); err == nil || !strings.Contains(err.Error(), "holds something else already") {
				t.Errorf("an older schema with something in it: %v", err)
			}
			if now := tt.exec(""); now != older {
				t.Errorf("the schema went from %d to %d", older, now)
			}
		})
	}
}

// remember makes a database that remembers its encryption key by a value; nil: by none.
func remember(t *testing.T, s databaseSettings, check []byte) {
	t.Helper()
	db, err := s.open(t.Context(), nil, slog.New(slog.DiscardHandler), &patience{log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if check == nil {
		return
	}
	if _, err := db.SetMeta(t.Context(), keyCheck, check); err != nil {
		t.Fatal(err)
	}
}
