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
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// check returns what a Checker finds.
func (w *world) check() (found []Finding, checked Checked) {
	w.Helper()
	c := &Checker{
		Store: w.db, Keys: &Keys{Store: w.db}, Found: func(f Finding) { found = append(found, f) },
		Kept: func(_ kapsel.TenantID, ended time.Time) bool { return ended.After(w.now.Add(-time.Hour)) },
		Over: func(*kapsel.Tenant) bool { return w.over },
	}
	checked, err := c.Check(w.Context())
	w.must(err)
	return found, checked
}

// change changes rows as somebody with the database's password may.
func (w *world) change(statements ...string) {
	w.Helper()
	w.must(w.db.Close())
	db, err := sql.Open("sqlite", w.path)
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
	db, err := os.ReadFile(sound.path)
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
		{"a text that is gone", []string{"UPDATE audit_leaves SET text = NULL WHERE n = 100"}, 100, false, "no erasure names it"},
		{"a text that is about no attempt and gone", []string{"UPDATE audit_leaves SET attempt_id = NULL, text = NULL WHERE n = 299"}, 299, false, "never deleted"},
		{"an attempt that lost its entry", []string{`INSERT INTO attempts SELECT x'00000000000000000000000000000001', delivery_id, number, previous, started_at, duration,
			status_code, error_code, error, request_headers, response_headers, response_body, logged FROM attempts LIMIT 1`}, -1, false, "is no leaf"},
		{"a log that was dropped", []string{"UPDATE audit_logs SET dropped_at = 1"}, -1, false, "tenant is not deleted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			sound.must(os.WriteFile(path, db, 0o600))
			w := worldAt(t, path, sound.now)
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
		"UPDATE audit_leaves SET text = NULL WHERE n < 2", "UPDATE audit_logs SET texts_from = 2",
		"UPDATE attempts SET logged = NULL WHERE id NOT IN (SELECT attempt_id FROM audit_leaves WHERE attempt_id IS NOT NULL AND n <> 7)")
	found, checked := w.check()
	if len(found) > 0 || checked != (Checked{Logs: 1, Heads: 1, Leaves: 20, Deleted: 2, Older: 1}) {
		t.Errorf("found %v, checked %+v", found, checked)
	}
}

// TestCheck_S28 checks that the texts of an erased event's leaves are no findings, whether its attempt was a
// leaf, an entry or neither when it was erased, that the log verifies and its heads are signed, and that a text
// that is taken away beside an erasure, or that is put back, is found.
func TestCheck_S28(t *testing.T) {
	w := newWorld(t, 2)
	writer := w.writer(w.db)
	for _, tenant := range w.tenants {
		w.attempt(tenant, 5)
	}
	w.must(writer.turn(t.Context()))
	w.attempt(w.tenants[0], 2)
	erase := func(attempt kapsel.AttemptID) {
		t.Helper()
		a, err := w.db.Attempt(t.Context(), kapsel.TenantID{}, attempt)
		w.must(err)
		_, err = w.db.EraseEvent(t.Context(), kapsel.TenantID{}, a.EventID, w.now)
		w.must(err)
	}
	of := w.attempts[w.tenants[0]]
	erase(of[1])
	erase(of[5])
	w.gone = map[kapsel.AttemptID]bool{of[1]: true, of[5]: true}
	sound := func(want Checked) {
		t.Helper()
		found, checked := w.check()
		if len(found) > 0 || checked != want {
			t.Errorf("found %v, checked %+v, want %+v", found, checked, want)
		}
	}
	sound(Checked{Logs: 2, Heads: 2, Leaves: 10, Deleted: 1, Erased: 1}) // the erasures are in the outbox
	w.must(writer.turn(t.Context()))
	w.signed()
	sound(Checked{Logs: 2, Heads: 3, Leaves: 14, Deleted: 2, Erased: 2})

	// A text that is taken away, and one that comes back.
	_, leaf, err := w.db.LeafOf(t.Context(), w.tenants[0], of[0])
	w.must(err)
	finds := func(text string, change string, args ...any) {
		t.Helper()
		w.change(fmt.Sprintf(change, args...))
		found, _ := w.check()
		if len(found) != 1 || found[0].Tree || !strings.Contains(found[0].Text, text) {
			t.Errorf("found %v, want %q", found, text)
		}
	}
	finds("no erasure names it", "UPDATE audit_leaves SET text = NULL WHERE attempt_id = x'%x'", of[0][:])
	w.change(fmt.Sprintf("UPDATE audit_leaves SET text = x'%x' WHERE attempt_id = x'%x'", leaf.Record, of[0][:]))
	sound(Checked{Logs: 2, Heads: 3, Leaves: 14, Deleted: 2, Erased: 2})
	a, err := w.db.Attempt(t.Context(), kapsel.TenantID{}, of[1])
	w.must(err)
	r := store.RecordOf(&a, &kapsel.Commitments{})
	text := r.Leaf().Append(nil)
	w.change(fmt.Sprintf("UPDATE audit_leaves SET text = x'%x' WHERE attempt_id = x'%x'", text, of[1][:]))
	if found, _ := w.check(); len(found) == 0 || !strings.Contains(found[0].Text, "text was changed") && !strings.Contains(found[len(found)-1].Text, "is there again") {
		t.Errorf("found %v", found)
	}
}

// TestCheck_Retained checks that texts that retention has deleted, and a log that was dropped, are no findings
// and are counted.
func TestCheck_Retained(t *testing.T) {
	w := newWorld(t, 2)
	writer := w.writer(w.db)
	for _, tenant := range w.tenants {
		w.attempt(tenant, 5)
	}
	w.must(writer.turn(t.Context()))
	logs, err := w.db.Logs(t.Context(), kapsel.LogID{}, 2)
	w.must(err)
	_, err = w.db.DeleteTexts(t.Context(), logs[0].ID, w.now.Add(time.Hour), 3)
	w.must(err)
	found, checked := w.check()
	if len(found) > 0 || checked != (Checked{Logs: 2, Heads: 2, Leaves: 10, Deleted: 3}) {
		t.Errorf("found %v, checked %+v", found, checked)
	}

	_, err = w.db.DropLog(t.Context(), logs[1].ID, w.now, 100)
	w.must(err)
	w.over = true
	w.change(fmt.Sprintf("DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE tenant_id = x'%x')", logs[1].TenantID[:]))
	found, checked = w.check()
	if len(found) > 0 || checked != (Checked{Logs: 1, Heads: 1, Leaves: 5, Deleted: 3, Dropped: 1}) {
		t.Errorf("found %v, checked %+v", found, checked)
	}
	// A writer that begins anew finds nothing wrong, although its file remembers the dropped log's head.
	w.pass()
	next := w.writer(w.db)
	w.attempt(logs[0].TenantID, 1)
	w.must(next.turn(t.Context()))
	if err := next.Refused(t.Context()); err != nil {
		t.Error(err)
	}
	w.signedOf(logs[0].TenantID)
}
