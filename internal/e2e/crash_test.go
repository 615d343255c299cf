package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// flaky answers 425 to a fifth of the first attempts, and delays all answers, so that at any moment some
// exchanges are in flight. A 425 is retried but does not count against the destination: 5xx would halve
// the exchanges that the endpoint has earned again and again, and on a slow machine the backlog would grow.
func flaky(r harness.SinkRequest) harness.Answer {
	a := harness.Answer{Delay: time.Duration(rand.IntN(60)) * time.Millisecond}
	if r.Attempt == 1 && rand.IntN(5) == 0 {
		a.Status = http.StatusTooEarly
	}
	return a
}

// gentle is a circuit policy that keeps the circuit closed while destinations fail on purpose.
var gentle = map[string]any{"circuit": map[string]any{"failures": 1000, "minimum": 1000, "window": 1000}}

// TestCrash_FA10_KillUnderLoad checks that nothing acknowledged is lost when the process is
// killed again and again while it accepts and delivers, nothing refused arrives, and whatever
// arrives twice has an attempt whose outcome could not be known.
func TestCrash_FA10_KillUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Record(true)
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		signed := w.endpoint("signed", map[string]any{"verification": map[string]any{"provider": "hmac", "secrets": []string{"a secret that nobody uses"}}})
		refused := refuse(w, signed)
		flying := track(w.sink)
		s := w.send(16, ep, 20*time.Millisecond)

		var slowest time.Duration
		kills := count(3, 20)
		for range kills {
			time.Sleep(300*time.Millisecond + time.Duration(rand.Int64N(int64(2500*time.Millisecond))))
			freeze(t, node) // dying takes a while on a busy machine, and the destination goes on answering
			open := flying.take()
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			if err := node.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
			again := firstAgain(w, open, killed)
			slowest = max(slowest, again)
			if limit := w.takeOverAfter() + 5*time.Second; full() && again > limit {
				t.Errorf("of %d events in flight at a kill the first was sent again after %v, later than %v", len(open), again, limit)
			}
		}
		s.end()
		refused()
		w.quiet()
		duplicates := s.judge(ep)
		t.Logf("%d kills, %d acknowledged, %d duplicates; the slowest first redelivery came %v after a kill", kills, s.acked(), duplicates, slowest.Round(time.Millisecond))
		for _, r := range w.sink.Requests() {
			if strings.Contains(string(r.Body), "forged") {
				t.Fatalf("a webhook that was refused was delivered: %s", r.EventID)
			}
		}
	})
}

// refuse posts webhooks with a wrong signature until the function that it returns is called.
func refuse(w *world, ep harness.Endpoint) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, ep.IngestURL, strings.NewReader(`{"forged":true}`))
			if err != nil {
				w.t.Error(err)
				return
			}
			req.Header.Set("X-Webhook-Signature", strings.Repeat("00", 32))
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusServiceUnavailable {
					w.t.Errorf("a forged webhook was answered %d", resp.StatusCode)
				}
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// inFlight holds the requests that the destination has read and not answered, by attempt.
type inFlight struct {
	mu     sync.Mutex
	events map[string]string
}

// track has the destination note the events in flight.
func track(sink *harness.Sink) *inFlight {
	f := &inFlight{events: map[string]string{}}
	sink.Watch(func(m harness.Moment, r harness.SinkRequest) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch m {
		case harness.BodyRead:
			f.events[r.AttemptID] = r.EventID
		case harness.AnswerOut:
			delete(f.events, r.AttemptID)
		}
	})
	return f
}

// take returns the events in flight, and forgets them.
func (f *inFlight) take() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := map[string]bool{}
	for _, id := range f.events {
		open[id] = true
	}
	clear(f.events)
	return open
}

// firstAgain waits until one of the events is sent again, and returns how long after the kill that was. It
// returns 0 if no event was in flight.
func firstAgain(w *world, open map[string]bool, killed time.Time) time.Duration {
	w.t.Helper()
	if len(open) == 0 {
		return 0
	}
	var took time.Duration
	eventually(w.t, fmt.Sprintf("one of %d events in flight at the kill is sent again", len(open)), patience, func() bool {
		for _, r := range w.sink.Requests() {
			if r.At.After(killed) && open[r.EventID] {
				took = r.At.Sub(killed)
				return true
			}
		}
		return false
	})
	return took
}

// TestCrash_FB1_PostgresKilled checks that ingest answers 503 while PostgreSQL is killed and
// restarts, everything goes on by itself afterwards, and nothing acknowledged is lost.
func TestCrash_FB1_PostgresKilled(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorld(t, server.New(t))
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep := w.endpoint("target", gentle)
	s := w.send(16, ep, 20*time.Millisecond)
	kills := count(3, 10)
	for range kills {
		time.Sleep(500*time.Millisecond + time.Duration(rand.Int64N(int64(2*time.Second))))
		server.Kill9(t)
		time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second))))
		server.Restart(t)
		s.progress(30 * time.Second)
	}
	s.end()
	w.quiet()
	duplicates := s.judge(ep)
	t.Logf("%d kills of PostgreSQL, %d acknowledged, %d duplicates", kills, s.acked(), duplicates)
	soundStatements(t, server)
}

// TestCrash_FB1_FirstAnswer checks that the first webhook after PostgreSQL was killed, which finds a connection
// that is there no more, is answered 503, with the full counts within 2 s, and that events are accepted again when
// PostgreSQL is back.
func TestCrash_FB1_FirstAnswer(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorld(t, server.New(t))
	ep := w.unstored()
	for range count(2, 10) {
		eventually(t, "an event is accepted", patience, func() bool { status, _ := probe(w, ep); return status == http.StatusOK })
		server.Kill9(t)
		status, took := probe(w, ep)
		if status != http.StatusServiceUnavailable {
			t.Errorf("without PostgreSQL an event is answered %d", status)
		}
		t.Logf("answered after %s", took)
		if most := 2 * time.Second; full() && took > most {
			t.Errorf("answered after %s, not within %s", took, most)
		}
		server.Restart(t)
	}
	soundStatements(t, server)
}

// TestCluster_FF1_TwoNodes checks that one of two nodes finishes the work when the other is
// killed or frozen past its lease, each delivery has one outcome, and what the thawed node
// says late changes nothing.
func TestCluster_FF1_TwoNodes(t *testing.T) {
	for _, fault := range []string{"killed", "frozen"} {
		t.Run(fault, func(t *testing.T) {
			w := newWorld(t, schematest.Postgres(t))
			second := w.node()
			w.sink.Record(true)
			w.sink.Script(flaky)
			ep := w.endpoint("target", gentle)
			s := w.send(16, ep, 20*time.Millisecond)
			for range count(1, 10) {
				time.Sleep(time.Second + time.Duration(rand.Int64N(int64(time.Second))))
				if fault == "killed" {
					if err := second.Kill(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(4 * time.Second)
					if err := second.Start(w.ctx); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err := second.Freeze(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(8 * time.Second) // the lease is 3 s
				if err := second.Thaw(); err != nil {
					t.Fatal(err)
				}
			}
			s.end()
			w.quiet()
			duplicates := s.judge(ep)
			t.Logf("%d acknowledged, %d duplicates", s.acked(), duplicates)
			if fault == "frozen" {
				for _, node := range w.nodes {
					if n := delivered(t, node); n == 0 {
						t.Errorf("node %s delivered nothing: the nodes do not share the work", node.URL)
					}
				}
			}
		})
	}
}

// TestCrash_FreezeAlone freezes a node that is alone past its lease: it goes on.
func TestCrash_FreezeAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(8, ep, 20*time.Millisecond)
		time.Sleep(time.Second)
		if err := w.nodes[0].Freeze(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := w.nodes[0].Thaw(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s.end()
		w.quiet()
		t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	})
}

// TestStop_FG1_Terminate checks that a process that gets SIGTERM under load ends with exit
// code 0, loses nothing and sends nothing twice.
func TestStop_FG1_Terminate(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Record(true)
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(16, ep, 20*time.Millisecond)
		for range count(2, 30) {
			time.Sleep(500*time.Millisecond + time.Duration(rand.Int64N(int64(time.Second))))
			if err := node.Term(); err != nil {
				t.Fatal(err)
			}
			if err := node.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
		s.end()
		w.quiet()
		if duplicates := s.judge(ep); duplicates != 0 {
			t.Errorf("%d deliveries were sent twice", duplicates)
		}
		t.Logf("%d acknowledged", s.acked())
	})
}
