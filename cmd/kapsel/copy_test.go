package main

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

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
