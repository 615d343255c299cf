package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// progress waits until another event is acknowledged, which must happen within a promised time, and returns how
// long that took.
func (s *sender) progress(promised time.Duration) time.Duration {
	s.w.t.Helper()
	start, before := time.Now(), s.acked()
	eventually(s.w.t, "something more is acknowledged", within(promised), func() bool { return s.acked() > before })
	return time.Since(start)
}

// load waits until many more events are acknowledged, so that work is under way at any moment.
func (s *sender) load() {
	s.w.t.Helper()
	more := count(50, 200)
	before := s.acked()
	eventually(s.w.t, fmt.Sprint(more, " more are acknowledged"), patience, func() bool { return s.acked() >= before+more })
}

// slowAnswer is how long an answer of ingest may take whatever the store does: a call may take its own limit
// after it has waited for another call.
const slowAnswer = 9 * time.Second

// probe posts one event, without a second try, and returns the status, 0 if there was no answer, and how long it
// took.
func probe(w *world, ep harness.Endpoint) (status int, took time.Duration) {
	w.t.Helper()
	start := time.Now()
	resp, err := client.Post(ep.IngestURL, "", strings.NewReader("probe"))
	if err != nil {
		return 0, time.Since(start)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, time.Since(start)
	}
	if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
		w.t.Error("a 503 has no Retry-After")
	}
	return resp.StatusCode, time.Since(start)
}

// health returns the status of a node's health check, 0 if the node does not answer.
func health(node *harness.Process, check string) int {
	ctx, cancel := context.WithTimeout(context.Background(), within(10*time.Second))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, node.URL+"/health/"+check, nil)
	if err != nil {
		return 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// goroutines returns how many goroutines a node has.
func goroutines(t *testing.T, node *harness.Process) int {
	t.Helper()
	resp, err := http.Get(node.Metrics + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "goroutine profile: total")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// unstored returns an endpoint for probes, which nobody counts: its events may or may not be stored.
func (w *world) unstored() harness.Endpoint {
	return w.endpoint("probes", map[string]any{"idempotency": map[string]any{"strategy": "none"}})
}

// soundStatements checks that PostgreSQL was never given a statement that it could not
// understand, or data that it could not take.
func soundStatements(t *testing.T, server *pgtest.Server) {
	t.Helper()
	for line := range strings.Lines(server.Log(t)) {
		f := strings.Fields(line)
		if len(f) > 4 && len(f[4]) == 5 && strings.Contains(line, "ERROR") && (f[4][:2] == "22" || f[4][:2] == "42" || f[4][:2] == "54") {
			t.Errorf("PostgreSQL met a bad statement: %s", line)
		}
	}
}

// TestStore_FB2_PostgresRestarts checks that nothing acknowledged is lost when an operator
// restarts PostgreSQL under load, and ingest goes on by itself.
func TestStore_FB2_PostgresRestarts(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	w := newWorld(t, server.New(t))
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep := w.endpoint("target", gentle)
	s := w.send(16, ep, 20*time.Millisecond)
	restarts := count(2, 20)
	for range restarts {
		time.Sleep(500*time.Millisecond + rand.N(time.Second))
		server.Stop(t)
		server.Restart(t)
		s.progress(10 * time.Second)
		s.load()
	}
	s.end()
	w.quiet()
	t.Logf("%d restarts, %d acknowledged, %d duplicates", restarts, s.acked(), s.judge(ep))
	soundStatements(t, server)
}

// TestStore_FB9_Partition checks that ingest answers 503 in time while the network between a
// node and PostgreSQL is cut, goroutines do not pile up, and everything goes on by itself when
// it is back. Nothing comes through, in one or both directions, or every connection is reset.
func TestStore_FB9_Partition(t *testing.T) {
	for name, fault := range map[string]struct{ start, heal func(p *proxy) }{
		"black hole":          {func(p *proxy) { p.Hold(true, true) }, func(p *proxy) { p.Hold(false, false) }},
		"only one way":        {func(p *proxy) { p.Hold(false, true) }, func(p *proxy) { p.Hold(false, false) }},
		"only the other way":  {func(p *proxy) { p.Hold(true, false) }, func(p *proxy) { p.Hold(false, false) }},
		"connections refused": {func(p *proxy) { p.Refuse(true) }, func(p *proxy) { p.Refuse(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, schematest.Postgres(t))
			w := newWorld(t, p.URL, "WORKER_POOL_SIZE=100")
			w.sink.Record(true)
			w.sink.Script(flaky)
			ep, probes := w.endpoint("target", gentle), w.unstored()
			s := w.send(16, ep, 20*time.Millisecond)
			s.load()
			usual := goroutines(t, w.nodes[0])
			var slowest, back time.Duration
			for range count(1, 5) {
				fault.start(p)
				for end := time.Now().Add(time.Duration(count(3, 5))*time.Second + rand.N(time.Duration(count(1, 5))*time.Second)); time.Now().Before(end); {
					status, took := probe(w, probes)
					if status != 503 && status != 200 {
						t.Errorf("ingest answered %d after %v", status, took)
					}
					slowest = max(slowest, took)
					// Each of the 100 exchanges has a goroutine until it is recorded, and two for its connection.
					if n := goroutines(t, w.nodes[0]); n > usual+400 {
						t.Errorf("%d goroutines, were %d before", n, usual)
					}
				}
				if n := health(w.nodes[0], "live"); n != 200 {
					t.Errorf("/health/live answers %d", n)
				}
				if n := health(w.nodes[0], "ready"); n != 503 {
					t.Errorf("/health/ready answers %d", n)
				}
				fault.heal(p)
				back = max(back, s.progress(15*time.Second))
				s.load()
			}
			s.end()
			w.quiet()
			t.Logf("%d acknowledged, %d duplicates; the slowest answer took %v, the first 200 came %v after the end",
				s.acked(), s.judge(ep), slowest.Round(time.Millisecond), back.Round(time.Millisecond))
			if slowest > within(slowAnswer) {
				t.Errorf("an answer took %v", slowest)
			}
		})
	}
}

// TestStore_FB10_Slow checks that nothing is sent twice when every answer of PostgreSQL is
// late, since a lease does not end under a node that is only slow.
func TestStore_FB10_Slow(t *testing.T) {
	t.Parallel()
	p := newProxy(t, schematest.Postgres(t))
	w := newWorld(t, p.URL)
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	s := w.send(16, ep, 20*time.Millisecond)
	s.load()
	p.Slow(500 * time.Millisecond)
	var slowest time.Duration
	for end := time.Now().Add(time.Duration(count(6, 60)) * time.Second); time.Now().Before(end); {
		status, took := probe(w, probes)
		if status != 200 {
			t.Errorf("ingest answered %d after %v", status, took)
		}
		slowest = max(slowest, took)
	}
	p.Slow(0)
	s.end()
	w.quiet()
	duplicates := s.judge(ep)
	t.Logf("%d acknowledged, %d duplicates; the slowest answer took %v", s.acked(), duplicates, slowest.Round(time.Millisecond))
	if duplicates != 0 {
		t.Errorf("%d deliveries were sent twice", duplicates)
	}
	if slowest > within(4*time.Second) { // a wait for the batch under way, one's own, and new connections
		t.Errorf("with answers 500 ms late, ingest took %v", slowest)
	}
}

// TestStore_FB10_TooSlow checks that ingest answers 503 while PostgreSQL is so slow that no
// statement ends in time, and nothing acknowledged is lost.
func TestStore_FB10_TooSlow(t *testing.T) {
	t.Parallel()
	p := newProxy(t, schematest.Postgres(t))
	w := newWorld(t, p.URL)
	w.sink.Record(true)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	s := w.send(8, ep, 20*time.Millisecond)
	s.load()
	p.Slow(7 * time.Second)
	time.Sleep(time.Second) // answers on their way
	for range count(1, 10) {
		if status, took := probe(w, probes); status != 503 {
			t.Errorf("ingest answered %d after %v", status, took)
		}
	}
	p.Slow(0)
	s.progress(20 * time.Second)
	s.load()
	s.end()
	w.quiet()
	t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
}

// TestStore_FB11_NoConnections checks that ingest answers 503 while PostgreSQL has no
// connection left, the node lives without being ready, and it goes on by itself when there are
// some again.
func TestStore_FB11_NoConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "max_connections = 40")
	w := newWorld(t, server.New(t))
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	s := w.send(16, ep, 20*time.Millisecond)
	s.load()
	ctx := t.Context()
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	for range count(1, 10) {
		var taken []*pgx.Conn
		// A connection that ends frees a place for any other client.
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
			conn, err := pgx.Connect(ctx, server.URL("postgres"))
			var pg *pgconn.PgError
			switch {
			case err == nil:
				taken = append(taken, conn)
				continue
			case !errors.As(err, &pg) || pg.Code != "53300":
				t.Fatal(err)
			}
			if _, err := admin.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kapsel'"); err != nil {
				t.Fatal(err)
			}
		}
		if status, took := probe(w, probes); status != 503 {
			t.Errorf("without connections ingest answered %d after %v", status, took)
		}
		if n := health(w.nodes[0], "live"); n != 200 {
			t.Errorf("/health/live answers %d", n)
		}
		if n := health(w.nodes[0], "ready"); n != 503 {
			t.Errorf("/health/ready answers %d", n)
		}
		for _, conn := range taken {
			conn.Close(context.Background())
		}
		s.progress(10 * time.Second)
	}
	s.end()
	w.quiet()
	t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	soundStatements(t, server)
}

// TestStore_FB13_Terminated checks that nothing acknowledged is lost when the node's sessions
// are terminated again and again, and at most one delivery is sent twice for each.
func TestStore_FB13_Terminated(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	w := newWorld(t, server.New(t))
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep := w.endpoint("target", gentle)
	s := w.send(16, ep, 20*time.Millisecond)
	s.load()
	admin, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	ended := 0
	for end := time.Now().Add(time.Duration(count(4, 60)) * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var n int
		if err := admin.QueryRow(t.Context(), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'kapsel'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		ended += n
	}
	s.progress(10 * time.Second)
	s.end()
	// The first request that uses a session terminated while idle notices that, and gets a 503.
	eventually(t, "the API answers from new sessions", patience, func() bool {
		for range 20 {
			if w.nodes[0].API(w.ctx, http.MethodGet, "/v1/deliveries?limit=1", nil, nil) != nil {
				return false
			}
		}
		return true
	})
	w.quiet()
	duplicates := s.judge(ep)
	t.Logf("%d sessions ended, %d acknowledged, %d duplicates", ended, s.acked(), duplicates)
	if duplicates > ended {
		t.Errorf("%d deliveries were sent twice", duplicates)
	}
	soundStatements(t, server)
}

// TestStore_FB13_Locked checks that ingest answers 503 in time while the tables that it needs
// are locked, and nothing acknowledged is lost.
func TestStore_FB13_Locked(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	database := server.New(t)
	w := newWorld(t, database)
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	s := w.send(16, ep, 20*time.Millisecond)
	s.load()
	admin, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	for _, table := range []string{"events", "deliveries", "attempts", "nodes"}[:count(2, 4)] {
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), fmt.Sprintf("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", table)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Duration(count(3, 20)) * time.Second); time.Now().Before(end); {
			status, took := probe(w, probes)
			if status != 503 && (status != 200 || table == "events" || table == "deliveries") || took > within(slowAnswer) {
				t.Errorf("with %s locked ingest answered %d after %v", table, status, took)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.progress(15 * time.Second)
	}
	s.end()
	w.quiet()
	t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	soundStatements(t, server)
}
