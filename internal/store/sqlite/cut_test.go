package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// frame is how many bytes a page takes in the log of a database (https://www.sqlite.org/walformat.html).
const frame = 24 + pageSize

// written is what a crash may leave of a database file.
type written struct{ db, log []byte }

// readWritten reads what is on the disk of a database.
func readWritten(t *testing.T, path string) (w written) {
	t.Helper()
	var err error
	if w.db, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if w.log, err = os.ReadFile(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	return w
}

// cuts calls f with a database for some of the moments at which a crash may have stopped the write
// that led from one state of the log to the next: within the first and the last page, between and
// within others, and after the last, which is all. The sync comes after that.
func cuts(t *testing.T, from, to written, f func(t *testing.T, s *Store, all bool)) {
	t.Helper()
	if len(to.log) < len(from.log)+frame {
		t.Fatalf("the log had %d bytes and has %d", len(from.log), len(to.log))
	}
	frames := (len(to.log) - len(from.log)) / frame
	at := []int{len(from.log), len(from.log) + 1, len(to.log) - frame, len(to.log) - 1, len(to.log)}
	for i := 1; i < frames; i += max(1, frames/6) {
		at = append(at, len(from.log)+i*frame, len(from.log)+i*frame+frame/2)
	}
	slices.Sort(at)
	for _, n := range slices.Compact(at) {
		t.Run(fmt.Sprintf("cut after %d of %d bytes", n-len(from.log), len(to.log)-len(from.log)), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kapsel.db")
			for name, b := range map[string][]byte{path: to.db, path + "-wal": to.log[:n]} {
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f(t, openAt(t, path), n == len(to.log))
		})
	}
}

// TestAccept_CutAnywhere stops the write of an event at every kind of moment. The event is there with
// all of its deliveries, or with the first 256 and an expansion that makes the others, or nothing of
// it is there. A step of the expansion that is stopped is repeated, and makes no delivery twice.
func TestAccept_CutAnywhere(t *testing.T) {
	for _, n := range []int{1, 3, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			ctx := context.Background()
			path := newFile(t)
			s := openAt(t, path)
			endpoints := manyEndpoints(t, s, n)
			in := acceptance(endpoints[0].ID, testTime, []byte("{}"))
			in.Deliveries[0], _ = in.Deliveries[0].After(kapsel.GiveBack{Due: testTime}, testTime)
			for _, e := range endpoints[1:min(n, kapsel.MaxInline)] {
				d := in.Deliveries[0]
				d.ID, d.EndpointID = kapsel.NewDeliveryID(testTime, d.ID.Part()), e.ID
				in.Deliveries = append(in.Deliveries, d)
			}
			if n > kapsel.MaxInline {
				in.ExpandAfter = endpoints[kapsel.MaxInline-1].ID
			}
			before := readWritten(t, path)
			if _, err := s.Accept(ctx, in); err != nil {
				t.Fatal(err)
			}
			accepted := readWritten(t, path)
			whole := func(t *testing.T, s *Store) {
				t.Helper()
				for more := true; more; {
					var err error
					if _, more, err = s.Expand(ctx, in.Event.ID, testTime, 10); err != nil {
						t.Fatal(err)
					}
				}
				r, err := s.Event(ctx, kapsel.TenantID{}, in.Event.ID)
				if err != nil {
					t.Fatal(err)
				}
				to := map[kapsel.EndpointID]bool{}
				for _, d := range r.Deliveries {
					to[d.EndpointID] = true
				}
				if len(r.Deliveries) != n || len(to) != n || r.Expanding {
					t.Errorf("%d deliveries to %d endpoints, want %d", len(r.Deliveries), len(to), n)
				}
			}
			cuts(t, before, accepted, func(t *testing.T, s *Store, all bool) {
				r, err := s.Event(ctx, kapsel.TenantID{}, in.Event.ID)
				switch {
				case kapsel.CodeOf(err) == kapsel.NotFound && !all:
					var rows int
					err := s.read(ctx, func(c *conn) error {
						_, err := c.query(`SELECT (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM expansions)`).one(func(q *stmt) { rows = int(q.colInt()) })
						return err
					})
					if err != nil || rows > 0 {
						t.Errorf("without the event there are %d rows of it, %v", rows, err)
					}
				case err != nil:
					t.Error(err)
				case len(r.Deliveries) != len(in.Deliveries) || r.Expanding != (n > kapsel.MaxInline):
					t.Errorf("%d deliveries, expanding %t", len(r.Deliveries), r.Expanding)
				default:
					whole(t, s)
				}
			})
			if n <= kapsel.MaxInline {
				return
			}
			if made, more, err := s.Expand(ctx, in.Event.ID, testTime, 20); made == 0 || !more || err != nil {
				t.Fatalf("a step made %d, more %t, %v", made, more, err)
			}
			cuts(t, accepted, readWritten(t, path), func(t *testing.T, s *Store, _ bool) { whole(t, s) })
		})
	}
}

// manyEndpoints makes an endpoint with an ingest and others that subscribe to it, in the order of
// their IDs.
func manyEndpoints(t *testing.T, s *Store, n int) (all []kapsel.Endpoint) {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.CreateTenant(ctx, kapsel.Tenant{ID: testTenant, Name: "acme", Plan: kapsel.DefaultPlan, CreatedAt: testTime, UpdatedAt: testTime}))
	must(s.writer.cold(ctx, func(c *conn) error { // one transaction, so that the log stays short
		for i := range n {
			e := kapsel.Endpoint{
				ID: testEndpoint, TenantID: testTenant, State: kapsel.EndpointPaused, CreatedAt: testTime, UpdatedAt: testTime,
				Destination: 1, EndpointConfig: kapsel.DefaultEndpoint(),
			}
			e.ID[14], e.ID[15] = byte(i>>8), byte(i) // behind each other
			if i > 0 {
				e.NoIngest, e.Subscriptions = true, []kapsel.Subscription{{Source: all[0].ID.String()}}
			}
			if err := saveEndpoint(c, &e, nil); err != nil {
				return err
			}
			all = append(all, e)
		}
		return nil
	}))
	return all
}

var _ store.Expansions = (*Store)(nil)
