package store_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMigrations holds every migration to the hash that it had when it landed: databases have
// run it, and would never see a change. testdata/migrations.sha256 has a line for each, as
// sha256sum prints it.
func TestMigrations(t *testing.T) {
	const list = "testdata/migrations.sha256"
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	landed := map[string]string{} // hash by file
	for line := range strings.Lines(string(text)) {
		hash, file, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || landed[file] != "" {
			t.Fatalf("%s: the line %q is not HASH, two spaces and a file that no other line names", list, line)
		}
		landed[file] = hash
	}

	for _, store := range []string{"postgres", "sqlite"} {
		files, err := filepath.Glob(store + "/migrations/*.sql")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no migrations: %v", store, err)
		}
		for _, file := range files {
			file = filepath.ToSlash(file)
			sql, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			hash := fmt.Sprintf("%x", sha256.Sum256(bytes.ReplaceAll(sql, []byte("\r\n"), []byte("\n"))))
			switch was, ok := landed[file]; {
			case !ok:
				t.Errorf("internal/store/%s is new. If it is finished, add this line to internal/store/%s; after it has landed it can no longer change:\n%s  %s",
					file, list, hash, file)
			case was != hash:
				t.Errorf("internal/store/%s was changed, but databases have run it as it was. Undo that (git checkout main -- internal/store/%s) and make the change in a new migration, with the next number, in both stores.",
					file, file)
			}
			delete(landed, file)
		}
	}
	for file := range landed {
		t.Errorf("internal/store/%s is gone, but databases have run it. Bring it back (git checkout main -- internal/store/%s); what it made is dropped by a new migration.", file, file)
	}
}
