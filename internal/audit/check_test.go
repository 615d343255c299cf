package audit

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/receipt"
)

// check returns what a Checker finds.
func (w *world) check() (found []Finding, checked Checked) {
	w.Helper()
	c := &Checker{
		Store: w.db, Keys: &Keys{Store: w.db}, Found: func(f Finding) { found = append(found, f) },
		Kept: func(_ kapsel.TenantID, ended time.Time) bool { return ended.After(w.now.Add(-time.Hour)) },
	}
	checked, err := c.Check(w.Context())
	w.must(err)
	return found, checked
}

// change changes rows as somebody with the database's password may.
func (w *world) change(statements ...string) {
	w.Helper()
	w.must(w.db.Close())
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "db"))
	w.must(err)
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			w.Fatalf("%s: %v", s, err)
		}
	}
	w.must(db.Close())
	w.open()
}

// TestCheck_FH3 checks that a leaf that was edited, deleted, inserted or moved, a table that was
// restored, and an attempt that was changed, are found at the first leaf that does not fit, and that
// nothing is found of logs that nobody has changed.
func TestCheck_FH3(t *testing.T) {
	sound := newWorld(t, 1)
	writer := sound.writer(sound.db)
	writer.cfg.AtOnce = 250
	for _, n := range []int{120, 170, 10} { // the heads divide pages, and the tile
		sound.attempt(sound.tenants[0], n)
		sound.must(writer.turn(t.Context()))
	}
	sound.signed()
	sound.must(sound.db.Close())
	db, err := os.ReadFile(filepath.Join(sound.dir, "db"))
	sound.must(err)
	// Leaf 100 is below a complete tile, leaf 290 is not; with the text's own hash, its place in a tree
	// that has no tile of it can only be told by the attempt.
	text := func(n int) []byte { return []byte(fmt.Sprintf("{another text %d", n)) }
	hash := func(n int) string { return fmt.Sprintf("x'%x'", receipt.LeafHash(text(n))) }
	edit := func(n int) string {
		return fmt.Sprintf("UPDATE audit_leaves SET text = x'%x' WHERE n = %d", text(n), n)
	}
	for _, tt := range []struct {
		name  string
		sql   []string
		index int64
		tree  bool
		text  string
	}{
		{"nothing", nil, 0, false, ""},
		{"a text", []string{edit(100)}, 100, true, "text was changed"},
		{"a text without a tile", []string{edit(290)}, 290, true, "text was changed"},
		{"no record", []string{"UPDATE audit_leaves SET text = x'' WHERE n = 100"}, 100, true, "unknown form"},
		{"a record that is cut off", []string{"UPDATE audit_leaves SET text = substr(text, 1, 57) WHERE n = 100"}, 100, true, "text was changed"},
		{"the attempt of a record", []string{"UPDATE audit_leaves SET attempt_id = zeroblob(16) WHERE n = 100"}, 100, true, "text was changed"},
		{"a text and its hash", []string{edit(100), "UPDATE audit_leaves SET hash = " + hash(100) + " WHERE n = 100"}, 100, true, "not the one in the tree"},
		{"a text and its hash without a tile", []string{edit(290), "UPDATE audit_leaves SET hash = " + hash(290) + " WHERE n = 290"}, 290, false, "not that of an attempt"},
		{"the last leaves", []string{"DELETE FROM audit_leaves WHERE n > 280"}, 281, true, "missing"},
		{"a leaf", []string{"DELETE FROM audit_leaves WHERE n = 7"}, 7, true, "missing"},
		{"an inserted leaf", []string{
			"UPDATE audit_leaves SET n = -n - 1 WHERE n >= 50", "UPDATE audit_leaves SET n = -n WHERE n < 0",
			"INSERT INTO audit_leaves SELECT log, 50, NULL, " + hash(50) + ", " + fmt.Sprintf("x'%x'", text(50)) + " FROM audit_logs",
		}, 50, true, "not the one in the tree"},
		{"a leaf behind the end", []string{"INSERT INTO audit_leaves SELECT log, 300, NULL, " + hash(1) + ", " + fmt.Sprintf("x'%x'", text(1)) + " FROM audit_logs"}, 300, true, "the log has 300"},
		{"two leaves in each other's place", []string{
			"UPDATE audit_leaves SET n = -1 WHERE n = 30", "UPDATE audit_leaves SET n = 30 WHERE n = 40", "UPDATE audit_leaves SET n = 40 WHERE n = -1",
		}, 30, true, "not the one in the tree"},
		{"a tile", []string{"UPDATE audit_tiles SET hashes = CAST(zeroblob(32) || substr(hashes, 33) AS BLOB) WHERE level = 0"}, 0, true, "not the one in the tree"},
		{"a tile above", []string{"UPDATE audit_tiles SET hashes = zeroblob(32) WHERE level = 1"}, 0, true, "256 leaves from here on"},
		{"a missing tile", []string{"DELETE FROM audit_tiles WHERE level = 0"}, 0, true, "not the one in the tree"},
		{"the size", []string{"UPDATE audit_logs SET size = 299"}, -1, true, "root of the log"},
		{"the root", []string{"UPDATE audit_logs SET root = zeroblob(32)"}, -1, true, "root of the log"},
		{"a head's root", []string{"UPDATE audit_heads SET root = zeroblob(32) WHERE size = 120"}, -1, true, "first 120 leaves"},
		{"a head's note", []string{"UPDATE audit_heads SET note = CAST(replace(CAST(note AS TEXT), char(10) || '120' || char(10), char(10) || '121' || char(10)) AS BLOB) WHERE size = 120"}, -1, true, "not signed"},
		{"an attempt", []string{"UPDATE attempts SET status_code = 500 WHERE id = (SELECT attempt_id FROM audit_leaves WHERE n = 290)"}, 290, false, "something else"},
		{"a deleted attempt", []string{"DELETE FROM attempts WHERE id = (SELECT attempt_id FROM audit_leaves WHERE n = 12)"}, 12, false, "gone"},
		{"an attempt that lost its entry", []string{"UPDATE audit_leaves SET attempt_id = NULL, text = NULL WHERE n = 299"}, -1, false, "is no leaf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{TB: t, dir: t.TempDir(), now: sound.now}
			w.must(os.WriteFile(filepath.Join(w.dir, "db"), db, 0o600))
			w.open()
			w.change(tt.sql...)
			found, checked := w.check()
			if tt.sql == nil {
				if len(found) > 0 || checked != (Checked{Logs: 1, Heads: 3, Leaves: 300}) {
					t.Fatalf("found %v, checked %+v", found, checked)
				}
				return
			}
			if len(found) == 0 || found[0].Index != tt.index || found[0].Tree != tt.tree || !strings.Contains(found[0].Text, tt.text) {
				t.Errorf("found %v, want %q at leaf %d", found, tt.text, tt.index)
			}
		})
	}
}

// TestCheck_Gone checks that an attempt whose retention is over, a text that was deleted, and an attempt
// that is older than the log, are counted and are no findings.
func TestCheck_Gone(t *testing.T) {
	w := newWorld(t, 1)
	writer := w.writer(w.db)
	w.attempt(w.tenants[0], 20)
	w.must(writer.turn(t.Context()))
	w.now = w.now.Add(2 * time.Hour)
	w.change("DELETE FROM attempts WHERE id = (SELECT attempt_id FROM audit_leaves WHERE n = 3)",
		"UPDATE audit_leaves SET text = NULL WHERE n = 4", "UPDATE audit_leaves SET attempt_id = NULL, text = NULL WHERE n = 5",
		"UPDATE attempts SET logged = NULL WHERE id NOT IN (SELECT attempt_id FROM audit_leaves WHERE attempt_id IS NOT NULL)")
	found, checked := w.check()
	if len(found) > 0 || checked != (Checked{Logs: 1, Heads: 1, Leaves: 20, Deleted: 2, Older: 1}) {
		t.Errorf("found %v, checked %+v", found, checked)
	}
}
