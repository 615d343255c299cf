package e2e

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// The databases in testdata were written by the program of a commit before events had other origins
// than endpoints (the last with schema 5 on SQLite and 7 on PostgreSQL), on which these keys were set.
// Each has the tenant acme and these endpoints:
//
//   - refused: five events, each tried once and to be tried again an hour later
//   - paused: five events with idempotency keys, and copy, paused as well, which subscribes to it
//   - slow: two events, on SQLite under way when the process was killed, on PostgreSQL pending
//   - done: three events that are delivered
const (
	waitingAdminKey      = "the-admin-key-of-waiting-deliveries"
	waitingEncryptionKey = "d2FpdGluZyBldmVudHMgd2FpdGluZyBldmVudHMuLi4="
	waitingDeliveries    = 5 + 5 + 5 + 2
	waitingEvents        = 5 + 5 + 2 + 3
)

// unpacked returns the content of a compressed file in testdata.
func unpacked(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestUpgrade_WaitingDeliveries starts on a database that a much older release has written: whatever
// waited in it is delivered, and what had ended is as it was.
func TestUpgrade_WaitingDeliveries(t *testing.T) {
	for name, restore := range map[string]func(t *testing.T) (database string){
		"sqlite": func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "kapsel.db")
			if err := os.WriteFile(file, unpacked(t, "waiting-sqlite-5.db.gz"), 0o600); err != nil {
				t.Fatal(err)
			}
			return "sqlite:" + file
		},
		"postgres": func(t *testing.T) string {
			database := pgtest.New(t)
			pgtest.Exec(t, database, string(unpacked(t, "waiting-postgres-7.sql.gz")))
			return database
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Nobody listens at the endpoints' destinations any more. That does not make them blocked destinations.
			w := newWorld(t, restore(t), "KAPSEL_EGRESS_ALLOW=127.0.0.0/8", "KAPSEL_ADMIN_KEY="+waitingAdminKey, "KAPSEL_ENCRYPTION_KEY="+waitingEncryptionKey)
			w.sink.Record(true)
			node := w.nodes[0]
			deliveries := func(statuses ...string) (all []delivery) {
				for _, status := range statuses {
					all = append(all, list[delivery](w, "/v1/deliveries", url.Values{"status": {status}})...)
				}
				return all
			}
			waiting := map[string]bool{}
			for _, d := range deliveries("pending", "delivering", "pending") { // what is taken over may move meanwhile
				waiting[d.ID] = true
			}
			if done := deliveries("delivered"); len(waiting) != waitingDeliveries || len(done) != 3 {
				t.Fatalf("%d deliveries wait and %d have ended, want %d and 3", len(waiting), len(done), waitingDeliveries)
			}
			for i, ep := range list[struct {
				ID    string `json:"id"`
				Name  string `json:"name"`
				State string `json:"state"`
			}](w, "/v1/endpoints", url.Values{}) {
				if err := node.API(w.ctx, http.MethodPatch, "/v1/endpoints/"+ep.ID, map[string]any{"url": w.sink.URL(i)}, nil); err != nil {
					t.Fatal(err)
				}
				if ep.State == "paused" {
					if err := node.API(w.ctx, http.MethodPost, "/v1/endpoints/"+ep.ID+"/resume", nil, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			eventually(t, "what waited is delivered", patience, func() bool {
				pending := deliveries("pending")
				for _, d := range pending { // some are due an hour after they were tried
					_ = node.API(w.ctx, http.MethodPost, "/v1/deliveries/"+d.ID+"/retry", nil, nil) // or are under way by now
				}
				return len(pending) == 0
			})
			w.quiet()
			for _, d := range deliveries("delivered") {
				delete(waiting, d.ID)
			}
			if len(waiting) > 0 {
				t.Errorf("%d deliveries that waited are not delivered: %v", len(waiting), waiting)
			}
			arrived := map[string]bool{}
			for _, r := range w.sink.Requests() {
				arrived[r.EventID+" "+r.To.String()] = true
			}
			if len(arrived) != waitingDeliveries {
				t.Errorf("%d deliveries have arrived, want %d", len(arrived), waitingDeliveries)
			}
			events := list[struct {
				ID     string `json:"id"`
				Status string `json:"status"`
			}](w, "/v1/events", url.Values{})
			for _, e := range events {
				if e.Status != "delivered" {
					t.Errorf("event %s is %s", e.ID, e.Status)
				}
			}
			if len(events) != waitingEvents {
				t.Errorf("%d events, want %d", len(events), waitingEvents)
			}
		})
	}
}
