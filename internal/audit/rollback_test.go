package audit

import (
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestEndLogs checks that a database which was copied can be used again instead of its copy: with its logs
// ended, it signs no second head of the size of one that the copy has signed.
func TestEndLogs(t *testing.T) {
	w := newWorld(t, 2)
	for _, tenant := range w.tenants {
		w.attempt(tenant, 3)
	}
	w.must(w.writer(w.db).turn(t.Context()))
	old, err := w.db.Logs(t.Context(), kapsel.LogID{}, 10)
	w.must(err)

	one := w.writer(w.db)
	w.must(one.EndLogs(t.Context()))
	w.must(one.EndLogs(t.Context())) // nothing is left to end
	w.pass()
	clear(w.attempts)
	for _, tenant := range w.tenants {
		w.attempt(tenant, 1)
	}
	w.must(one.turn(t.Context()))
	w.must(one.Refused(t.Context()))
	w.signed()
	for _, was := range old {
		if l, err := w.db.Log(t.Context(), was.ID); err != nil || l.Size != was.Size || l.ClosedAt.IsZero() {
			t.Errorf("the log %+v is %+v, %v", was, l, err)
		}
		if next, err := w.db.LogOf(t.Context(), was.TenantID); err != nil || next.ID == was.ID {
			t.Errorf("the log goes on: %+v, %v", next, err)
		}
	}
}
