package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingIsMadeBeside: what works on a database that is there makes none where there is
// none, nor a directory, a lock or a key.
func TestNothingIsMadeBeside(t *testing.T) {
	for _, empty := range []bool{false, true} {
		for _, args := range []string{"migrate", "backup copy.db", "rotate-key", "rotate-key --encryption-key=" + strings.Repeat("A", 43) + "=", "serve --migrate=off --listen=127.0.0.1:0 --metrics-listen="} {
			t.Chdir(t.TempDir())
			want := 0
			if empty {
				if err := os.Mkdir("kapsel-data", 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile("kapsel-data/kapsel.db", nil, 0o600); err != nil {
					t.Fatal(err)
				}
				want = 2
			}
			var out, errs bytes.Buffer
			if code := run(strings.Fields(args), streams{&out, &errs}); code != 2 || !strings.Contains(errs.String(), "kapsel: DATABASE_URL (--database-url): ") {
				t.Errorf("%s: exit code %d: %s", args, code, errs.String())
			}
			var found []string
			err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
				if path != "." {
					found = append(found, path)
				}
				return err
			})
			if err != nil || len(found) != want {
				t.Errorf("%s left %q behind", args, found)
			}
		}
	}
}
