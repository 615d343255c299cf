package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
)

// TestAccept_F_A3_AnUnknownCommitIsRunAgain checks that a commit whose answer was lost is run
// again, and its event is stored once and is no duplicate.
func TestAccept_F_A3_AnUnknownCommitIsRunAgain(t *testing.T) {
	url := database(t)
	p := newProxy(t, url)
	s := open(t, p.url)
	for i, keyed := range []bool{false, true, false, true} {
		l := newLife(keyed)
		if _, err := s.Accept(t.Context(), l.acceptance(0)); err != nil { // the connection is there
			t.Fatal(err)
		}
		in := l.acceptance(1)
		lost := false
		p.cutNext(func() { lost = true })
		got, err := s.Accept(t.Context(), in)
		if err != nil || got.Duplicate || got.EventID != in.Event.ID {
			t.Errorf("%d: accepted %+v, %v", i, got, err)
		}
		if !lost {
			t.Fatal("no answer was lost")
		}
		stored(t, url, in.Event.ID, 1)
		used(t, s, l.tenant, kapsel.Usage{Events: 2, Bytes: 2 * int64(len(l.body))})
	}
}

// used checks what a tenant has used today and yesterday.
func used(t *testing.T, s *postgres.Store, tenant kapsel.TenantID, want kapsel.Usage) {
	t.Helper()
	now := time.Now()
	days, err := s.Usage(t.Context(), tenant, now.Add(-48*time.Hour), now.Add(time.Hour))
	var got kapsel.Usage
	for _, d := range days {
		got.Add(d.Usage)
	}
	if err != nil || got != want {
		t.Errorf("used %+v, %v; want %+v", got, err, want)
	}
}

// TestComplete_F_A8_AnUnknownCommitIsRunAgain checks that a completion whose answer was lost
// is run again, and is recorded and counted once.
func TestComplete_F_A8_AnUnknownCommitIsRunAgain(t *testing.T) {
	url := database(t)
	p := newProxy(t, url)
	s := open(t, p.url)
	l := newLife(false)
	var done []store.Completion
	for n := range 2 {
		in := l.acceptance(int64(n))
		if _, err := s.Accept(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		done = append(done, l.completion(in.Deliveries[0]))
	}
	if err := s.Complete(t.Context(), done[0]); err != nil {
		t.Fatal(err)
	}
	p.cutNext(func() {})
	if err := s.Complete(t.Context(), done[1]); err != nil {
		t.Errorf("the completion whose answer was lost: %v", err)
	}
	attempts, err := s.ListAttempts(t.Context(), kapsel.TenantID{}, done[1].Delivery.ID, 0, 10)
	if err != nil || len(attempts) != 1 {
		t.Errorf("%d attempts, %v", len(attempts), err)
	}
	used(t, s, l.tenant, kapsel.Usage{Events: 2, Bytes: 2 * int64(len(l.body)), Attempts: 2, Deliveries: 2, Delivered: 2})
}

// TestAccept_F_B1_UnavailableWhileTheServerIsAway checks that calls fail as unavailable while
// the server is away, and a call whose commit is unknown can be repeated with the same ids on
// another node. That call tries for its five seconds; those behind it fail at once.
func TestAccept_F_B1_UnavailableWhileTheServerIsAway(t *testing.T) {
	url := database(t)
	p := newProxy(t, url)
	s := open(t, p.url)
	l := newLife(false)
	if _, err := s.Accept(t.Context(), l.acceptance(0)); err != nil {
		t.Fatal(err)
	}
	in := l.acceptance(1)
	gone := make(chan struct{})
	p.cutNext(func() {
		p.stop()
		close(gone)
	})
	unknown := make(chan error, 1)
	go func() {
		_, err := s.Accept(t.Context(), in)
		unknown <- err
	}()
	<-gone
	if _, err := s.Accept(t.Context(), l.acceptance(2)); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("accepted without a server: %v", err)
	}
	if err := <-unknown; kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("the unknown commit: %v", err)
	}
	// It may be stored, and here it is; the same ids on another node find it.
	got, err := open(t, url).Accept(t.Context(), in)
	if err != nil || got != (store.Accepted{EventID: in.Event.ID}) {
		t.Errorf("again: %+v, %v", got, err)
	}
	stored(t, url, in.Event.ID, 1)
}

// stored checks how many rows an event and its delivery have.
func stored(t *testing.T, url string, event kapsel.EventID, want int) {
	t.Helper()
	for _, sql := range []string{"SELECT count(*) FROM events WHERE id = $1", "SELECT count(*) FROM deliveries WHERE event_id = $1"} {
		if n := count(t, url, sql, [16]byte(event)); n != want {
			t.Errorf("%s: %d rows, want %d", sql, n, want)
		}
	}
}

// TestAccept_F_B1_WhatWasAcknowledgedSurvivesKill9 checks that no event that was acknowledged
// is lost when the server is killed under load, and the store goes on by itself.
func TestAccept_F_B1_WhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	server := pgtest.Start(t)
	url := server.From(t, "schema", migrate)
	s := open(t, url)
	var (
		acked sync.Map // event ids
		n     atomic.Int64
		total atomic.Int64
	)
	for round := range 3 {
		ctx, stop := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for i := range 32 {
			l := newLife(i%2 == 0)
			callers.Go(func() {
				for ctx.Err() == nil {
					in := l.acceptance(n.Add(1))
					got, err := s.Accept(ctx, in)
					switch {
					case err == nil:
						acked.Store(got.EventID, true)
						total.Add(1)
					case kapsel.CodeOf(err) != kapsel.DatabaseUnavailable:
						t.Errorf("accept: %v", err)
					}
				}
			})
		}
		atLeast(t, &total, int64(1000*(round+1)))
		server.Kill9(t)
		server.Restart(t)
		atLeast(t, &total, total.Load()+100) // it goes on alone
		stop()
		callers.Wait()
	}
	lost := 0
	acked.Range(func(id, _ any) bool {
		if _, err := s.Event(t.Context(), kapsel.TenantID{}, id.(kapsel.EventID)); err != nil {
			lost++
		}
		return true
	})
	t.Logf("%d acknowledged through 3 kills", total.Load())
	if lost != 0 {
		t.Errorf("%d acknowledged events are lost", lost)
	}
	if n := count(t, url, "SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.part = e.part AND d.event_id = e.id)"); n != 0 {
		t.Errorf("%d events have no delivery", n)
	}
	noMistakes(t, server)
}

// atLeast waits until a counter has reached n.
func atLeast(t *testing.T, counter *atomic.Int64, n int64) {
	t.Helper()
	until(t, fmt.Sprintf("the counter is at %d", n), func() bool { return counter.Load() >= n })
}

// until waits until a condition holds, and ends the test if it does not within five minutes.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within five minutes", what)
		}
	}
}

// noMistakes checks that the server has refused no statement of ours as wrong.
func noMistakes(t *testing.T, server *pgtest.Server) {
	t.Helper()
	for line := range strings.Lines(server.Log(t)) {
		for _, class := range []string{" 22", " 42", " 54", " 40P01"} {
			if strings.Contains(line, class) && strings.Contains(line, "ERROR") {
				t.Error(line)
			}
		}
	}
}

// TestAccept_F_B13_SessionsThatAreTerminated checks that sessions that are terminated while
// they write, again and again, lose nothing and double nothing.
func TestAccept_F_B13_SessionsThatAreTerminated(t *testing.T) {
	url := database(t)
	s := open(t, url)
	l := newLife(true)
	var next, completed atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for ctx.Err() == nil {
				in := l.acceptance(next.Add(1))
				got, err := s.Accept(ctx, in)
				if err != nil || got != (store.Accepted{EventID: in.Event.ID}) {
					t.Errorf("accepted %+v, %v", got, err)
				}
				if err := s.Complete(ctx, l.completion(in.Deliveries[0])); err != nil {
					t.Errorf("complete: %v", err)
				}
				completed.Add(1)
			}
		})
	}
	for range 10 {
		atLeast(t, &completed, completed.Load()+50)
		pgtest.Exec(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kapsel' AND datname = current_database()")
	}
	stop()
	callers.Wait()
	n := int(next.Load())
	for _, table := range []string{"events", "deliveries", "attempts", "idempotency_keys"} {
		if got := count(t, url, "SELECT count(*) FROM "+table); got != n {
			t.Errorf("%d rows of %s, want %d", got, table, n)
		}
	}
}

// TestAccept_F_B13_ATableThatIsLocked checks that a call that meets a locked table fails as
// unavailable in time, and the same call stores one event afterwards.
func TestAccept_F_B13_ATableThatIsLocked(t *testing.T) {
	url := database(t)
	s := open(t, url)
	l := newLife(false)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	in := l.acceptance(1)
	if _, err := s.Accept(t.Context(), in); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("accepted while the table is locked: %v", err)
	}
	if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Accept(t.Context(), in); err != nil {
		t.Errorf("accepted after that: %v", err)
	}
	stored(t, url, in.Event.ID, 1)
}

// TestAccept_F_B9_AServerThatDoesNotAnswer checks that calls to a server that does not answer
// fail as unavailable, and the same call succeeds once it answers.
func TestAccept_F_B9_AServerThatDoesNotAnswer(t *testing.T) {
	server := pgtest.Start(t)
	s := open(t, server.From(t, "schema", migrate))
	l := newLife(true)
	if _, err := s.Accept(t.Context(), l.acceptance(0)); err != nil {
		t.Fatal(err)
	}
	in := l.acceptance(1)
	server.Freeze(t)
	if _, err := s.Accept(t.Context(), in); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("accepted by a frozen server: %v", err)
	}
	if err := s.Ping(t.Context()); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("ping of a frozen server: %v", err)
	}
	server.Thaw(t)
	if got, err := s.Accept(t.Context(), in); err != nil || got.Duplicate {
		t.Errorf("again, after the server went on: %+v, %v", got, err)
	}
}

// TestOpen_F_B9_TheFirstServerDoesNotAnswer checks that a node starts, and works, with the second server of its
// URL while the first takes connections and says nothing.
func TestOpen_F_B9_TheFirstServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	url := database(t)
	p := newProxy(t, url)
	p.silence()
	s := open(t, p.before(url))
	if _, err := s.Accept(t.Context(), newLife(false).acceptance(0)); err != nil {
		t.Error(err)
	}
}

// TestAccept_F_B9_TheFirstServerNoLongerAnswers checks that events are accepted again after the first server of
// the URL has gone silent.
func TestAccept_F_B9_TheFirstServerNoLongerAnswers(t *testing.T) {
	t.Parallel()
	url := database(t)
	p := newProxy(t, url)
	s := open(t, p.before(url))
	l := newLife(false)
	if _, err := s.Accept(t.Context(), l.acceptance(0)); err != nil {
		t.Fatal(err)
	}
	p.silence()
	n := int64(0)
	until(t, "events are accepted", func() bool {
		n++
		_, err := s.Accept(t.Context(), l.acceptance(n))
		if err != nil && kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Fatal(err)
		}
		return err == nil
	})
}

// TestAccept_F_B4_AServerThatBecomesReadOnly checks that calls fail as unavailable while the
// server takes no writes, and succeed again by themselves.
func TestAccept_F_B4_AServerThatBecomesReadOnly(t *testing.T) {
	server := pgtest.Start(t)
	s := open(t, server.From(t, "schema", migrate))
	l := newLife(true)
	accept := func() error {
		_, err := s.Accept(t.Context(), l.acceptance(time.Now().UnixNano()))
		return err
	}
	if err := accept(); err != nil {
		t.Fatal(err)
	}
	set := func(value string) {
		pgtest.Exec(t, server.URL("postgres")+"&default_transaction_read_only=off",
			"ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
	}
	set("on") // the sessions read the setting when they next can
	until(t, "accept fails", func() bool { return accept() != nil })
	if err := accept(); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("accept: %v", err)
	}
	until(t, "ping fails", func() bool { return s.Ping(t.Context()) != nil })
	if err := s.Ping(t.Context()); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("ping: %v", err)
	}
	set("off")
	until(t, "accept succeeds", func() bool { return accept() == nil })
	until(t, "ping succeeds", func() bool { return s.Ping(t.Context()) == nil })
}

// TestAccept_B63_TwoNodesRaceForTheSameKeys checks that several nodes that get the same keys
// at the same time store one event for each.
func TestAccept_B63_TwoNodesRaceForTheSameKeys(t *testing.T) {
	server := pgtest.Start(t)
	url := server.From(t, "schema", migrate)
	nodes := []*postgres.Store{open(t, url), open(t, url), open(t, url)}
	l := newLife(true)
	const keys, callers = 100, 8
	var (
		mu        sync.Mutex
		winner    = map[int64]kapsel.EventID{}
		originals = map[int64]int{}
		wait      sync.WaitGroup
	)
	for c := range callers {
		for i, s := range nodes {
			wait.Go(func() {
				for n := range int64(keys) {
					if (c+i)%2 == 0 {
						n = keys - 1 - n // in another order
					}
					in := l.acceptance(n)
					got, err := s.Accept(t.Context(), in)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if first, ok := winner[n]; ok && first != got.EventID {
						t.Errorf("key %d stands for %s and for %s", n, first, got.EventID)
					}
					winner[n] = got.EventID
					if !got.Duplicate {
						originals[n]++
					}
					mu.Unlock()
				}
			})
		}
	}
	wait.Wait()
	for n := range int64(keys) {
		if originals[n] != 1 {
			t.Errorf("key %d has %d originals", n, originals[n])
		}
	}
	if n := count(t, url, "SELECT count(*) FROM events"); n != keys {
		t.Errorf("%d events of %d keys", n, keys)
	}
	noMistakes(t, server)
}

// TestTakeOver_F_F2_RacesWithCompletionsAndAnotherTakeOver checks that a delivery goes one
// way, with one attempt, when a node that was thought dead completes it while others take it
// over.
func TestTakeOver_F_F2_RacesWithCompletionsAndAnotherTakeOver(t *testing.T) {
	url := database(t)
	nodes := []*postgres.Store{open(t, url), open(t, url)}
	l := newLife(false)
	now := time.Now().UTC().Truncate(time.Microsecond)
	if err := nodes[0].Join(t.Context(), l.node, now.Add(-time.Minute), time.Second); err != nil {
		t.Fatal(err)
	}
	const deliveries = 300
	ins := make([]store.Acceptance, deliveries)
	var wait sync.WaitGroup
	for i := range ins {
		ins[i] = l.acceptance(int64(i))
		wait.Go(func() {
			if _, err := nodes[0].Accept(t.Context(), ins[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()

	var completed, superseded, moved atomic.Int64
	for _, in := range ins {
		wait.Go(func() {
			switch err := nodes[0].Complete(t.Context(), l.completion(in.Deliveries[0])); {
			case err == nil:
				completed.Add(1)
			case kapsel.CodeOf(err) == kapsel.Conflict:
				superseded.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	for _, s := range nodes {
		wait.Go(func() {
			for range 10 {
				n, err := s.TakeOver(t.Context(), now, 50)
				if err != nil {
					t.Error(err)
				}
				moved.Add(int64(n))
			}
		})
	}
	wait.Wait()
	t.Logf("%d completed, %d taken over", completed.Load(), moved.Load())
	if completed.Load()+moved.Load() != deliveries || superseded.Load() != moved.Load() {
		t.Errorf("%d completed, %d superseded, %d moved, of %d", completed.Load(), superseded.Load(), moved.Load(), deliveries)
	}
	for state, want := range map[int]int64{int(kapsel.Delivered): completed.Load(), int(kapsel.Pending): moved.Load()} {
		if n := count(t, url, "SELECT count(*) FROM deliveries WHERE status = $1", state); int64(n) != want {
			t.Errorf("%d deliveries in state %d, want %d", n, state, want)
		}
	}
	if n := count(t, url, "SELECT count(*) FROM attempts"); n != deliveries {
		t.Errorf("%d attempts of %d deliveries", n, deliveries)
	}
	// Two nodes' group commits and their take-overs have counted, each in rows of its own.
	used(t, nodes[0], l.tenant, kapsel.Usage{
		Events: deliveries, Bytes: deliveries * int64(len(l.body)), Attempts: deliveries,
		Deliveries: completed.Load(), Delivered: completed.Load(),
	})
	var stats kapsel.Stats
	for _, e := range l.endpoints {
		hours, err := nodes[1].EndpointStats(t.Context(), kapsel.TenantID{}, []kapsel.EndpointID{e}, now.Add(-2*time.Hour), now.Add(time.Hour))
		if err != nil {
			t.Error(err)
		}
		for _, h := range hours {
			stats.Add(&h.Stats)
		}
	}
	if o := stats.Outcomes; o[kapsel.Succeeded] != completed.Load() || o[kapsel.Unknowns] != moved.Load() || stats.Ended[0] != completed.Load() {
		t.Errorf("counted %+v, with %d completed and %d moved", stats, completed.Load(), moved.Load())
	}
}

// Nodes that claim from the same endpoints at the same time never get the same delivery.
func TestClaim_NodesNeverShareADelivery(t *testing.T) {
	url := database(t)
	nodes := []*postgres.Store{open(t, url), open(t, url), open(t, url)}
	l := newLife(false)
	const deliveries = 600
	var wait sync.WaitGroup
	for i := range deliveries {
		wait.Go(func() {
			in := l.acceptance(int64(i))
			d := &in.Deliveries[0]
			d.Status, d.DueAt, d.Node, d.Token, d.Claims = kapsel.Pending, d.CreatedAt, kapsel.NodeID{}, kapsel.AttemptID{}, 0
			if _, err := nodes[0].Accept(t.Context(), in); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	var wants []store.Want
	for _, e := range l.endpoints {
		wants = append(wants, store.Want{EndpointID: e, Limit: 5})
	}
	now := time.Now().Add(time.Second)
	var claims sync.Map
	var total atomic.Int64
	for _, s := range nodes {
		node := kapsel.NewNodeID(now)
		for range 2 {
			wait.Go(func() {
				for total.Load() < deliveries {
					claimed, _, err := s.Claim(t.Context(), node, now, wants, 1<<20)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range claimed {
						if _, twice := claims.LoadOrStore(c.Delivery.ID, true); twice {
							t.Errorf("%s was claimed twice", c.Delivery.ID)
						}
					}
					total.Add(int64(len(claimed)))
				}
			})
		}
	}
	wait.Wait()
	if n := total.Load(); n != deliveries {
		t.Errorf("%d claims of %d deliveries", n, deliveries)
	}
}

// A row that the database refuses fails its own call only, whatever else is in its batch.
func TestAccept_ARefusedRowFailsItsOwnCall(t *testing.T) {
	url := database(t)
	var batch atomic.Int64
	s, err := postgres.Open(t.Context(), url, postgres.Options{Observe: func(n int, _ time.Duration) { batch.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l := newLife(true)
	const calls = 200
	errs := make([]error, calls)
	var wait sync.WaitGroup
	for i := range calls {
		wait.Go(func() {
			in := l.acceptance(int64(i))
			if i%20 == 0 {
				in.Deliveries[0].Node = kapsel.NodeID{} // held by nobody
			}
			_, errs[i] = s.Accept(t.Context(), in)
		})
	}
	wait.Wait()
	for i, err := range errs {
		if refused := i%20 == 0; refused != (err != nil) {
			t.Errorf("call %d: %v", i, err)
		}
		if err != nil && kapsel.CodeOf(err) == kapsel.DatabaseUnavailable {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if n := count(t, url, "SELECT count(*) FROM events"); n != calls-calls/20 {
		t.Errorf("%d events", n)
	}
}

func TestClose_WritesWhatWaits(t *testing.T) {
	url := database(t)
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := newLife(false)
	var stored, refused atomic.Int64
	var wait sync.WaitGroup
	begun := make(chan struct{}, 100)
	for i := range 100 {
		wait.Go(func() {
			begun <- struct{}{}
			_, err := s.Accept(t.Context(), l.acceptance(int64(i)))
			switch {
			case err == nil:
				stored.Add(1)
			case kapsel.CodeOf(err) == kapsel.DatabaseUnavailable:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	<-begun
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wait.Wait()
	if n := count(t, url, "SELECT count(*) FROM events"); int64(n) != stored.Load() || stored.Load()+refused.Load() != 100 {
		t.Errorf("%d events, %d answered, %d refused", n, stored.Load(), refused.Load())
	}
	for _, err := range []error{
		s.Ping(t.Context()),
		s.Renew(t.Context(), l.node, time.Now(), time.Second),
		s.Complete(t.Context(), l.completion(l.acceptance(0).Deliveries[0])),
	} {
		if kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Errorf("a call after Close: %v", err)
		}
	}
}

// Trouble of the store is always E3001, with nothing of it in the detail.
func TestErrors_F_B_AreUnavailableAndSayNothing(t *testing.T) {
	s := open(t, database(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Backlog(ctx)
	var e *kapsel.Error
	if !errors.As(err, &e) || e.Code != kapsel.DatabaseUnavailable || e.RetryAfter == 0 || !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	for _, word := range []string{"SELECT", "deliveries", "context"} {
		if strings.Contains(e.Detail, word) {
			t.Errorf("the detail holds %q: %s", word, e.Detail)
		}
	}
	if _, err := s.UpdateTenant(t.Context(), kapsel.NewTenantID(time.Now()), nil); kapsel.CodeOf(err) != kapsel.NotFound {
		t.Error(fmt.Errorf("update of no tenant: %w", err))
	}
}
