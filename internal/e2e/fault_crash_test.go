package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// dial opens a connection to a node, to which the test writes bytes itself.
func dial(t *testing.T, node *harness.Process) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(node.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// restart kills a node and starts it again.
func restart(w *world, node *harness.Process) {
	w.t.Helper()
	if err := node.Kill(); err != nil {
		w.t.Fatal(err)
	}
	start(w, node)
}

func start(w *world, node *harness.Process) {
	w.t.Helper()
	if err := node.Start(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

// eventsOf returns the ids of the events that have a key.
func eventsOf(w *world, key string) (ids []string) {
	w.t.Helper()
	for _, e := range list[struct {
		ID string `json:"id"`
	}](w, "/v1/events", url.Values{"idempotency_key": {key}}) {
		ids = append(ids, e.ID)
	}
	return ids
}

// TestCrash_FA1_HalfBody checks that a client whose node is killed after half of a body sees
// the connection break, nothing is stored, and its retry makes one event.
func TestCrash_FA1_HalfBody(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Record(true)
		ep := w.endpoint("target", gentle)
		s := w.send(0, ep, 0)
		for i := range count(2, 50) {
			key := fmt.Sprintf("half-%d", i)
			c := dial(t, node)
			body := `{"key":"` + key + `"}`
			framing := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body[:len(body)/2])
			if i%2 == 1 {
				framing = fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", len(body), body[:len(body)/2])
			}
			if _, err := fmt.Fprintf(c, "POST /ingest/%s HTTP/1.1\r\nHost: kapsel\r\nX-Idempotency-Key: %s\r\n%s", ep.ID, key, framing); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			restart(w, node)
			if answer, err := io.ReadAll(c); len(answer) > 0 {
				t.Fatalf("half a body was answered %q, %v", answer, err)
			}
			if ids := eventsOf(w, key); len(ids) != 0 {
				t.Fatalf("half a body is stored as %v", ids)
			}
			s.post(w.ctx, key)
			if ids := eventsOf(w, key); len(ids) != 1 || ids[0] != s.events[key] {
				t.Fatalf("the retry made %v and was answered %s", ids, s.events[key])
			}
		}
		w.quiet()
		t.Logf("%d acknowledged, %d duplicates of retries that were under way at the next kill", s.acked(), s.judge(ep))
	})
}

// TestCrash_FA4_HalfAnswer checks that an event is stored although its node is killed within
// the answer, and a retry gets the same id.
func TestCrash_FA4_HalfAnswer(t *testing.T) {
	w := newWorld(t, "")
	node := w.nodes[0]
	w.sink.Record(true)
	ep := w.endpoint("target", gentle)
	s := w.send(0, ep, 0)
	for i := range count(3, 150) {
		key := fmt.Sprintf("half-answer-%d", i)
		c := dial(t, node)
		body := `{"key":"` + key + `"}`
		if _, err := fmt.Fprintf(c, "POST /ingest/%s HTTP/1.1\r\nHost: kapsel\r\nX-Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s", ep.ID, key, len(body), body); err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 1+i*count(40, 1))
		if _, err := io.ReadFull(c, part); err != nil || !strings.HasPrefix("HTTP/1.1 200", string(part[:min(12, len(part))])) {
			t.Fatalf("answered %q, %v", part, err)
		}
		restart(w, node)
		ids := eventsOf(w, key)
		if len(ids) != 1 {
			t.Fatalf("what was begun to be answered 200 is stored as %v", ids)
		}
		req, err := http.NewRequest(http.MethodPost, ep.IngestURL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Idempotency-Key", key)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Idempotent-Replayed") != "true" || resp.Header.Get("X-Kapsel-Event-Id") != ids[0] {
			t.Fatalf("the retry of %s was answered %d %v", ids[0], resp.StatusCode, resp.Header)
		}
		s.events[key] = ids[0]
	}
	w.quiet()
	t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
}

// TestCrash_FA2_FA3_EveryBoundary checks that nothing acknowledged is lost and each key has
// one event, wherever a node's connection to PostgreSQL is cut or the node is killed. A node
// accepts, delivers, fails, retries and answers duplicates; each boundary of the wire protocol
// is tried in turn, before the server is told to commit and after (also F-A5 and F-A8). Only a
// kill can make a duplicate, which is labelled.
func TestCrash_FA2_FA3_EveryBoundary(t *testing.T) {
	for _, fault := range []string{"cut", "killed"} {
		for _, at := range []side{before, after} {
			t.Run(fault+"/"+string(at), func(t *testing.T) {
				t.Parallel()
				p := newProxy(t, schematest.Postgres(t))
				w := newWorld(t, p.URL)
				node := w.nodes[0]
				w.sink.Record(true)
				w.sink.Script(func(r harness.SinkRequest) harness.Answer {
					if r.Attempt == 1 && strings.Contains(string(r.Body), "twice") {
						return harness.Answer{Status: 503}
					}
					return harness.Answer{}
				})
				ep := w.endpoint("target", gentle)
				s := w.send(0, ep, 0)
				cuts := 0
				// round runs the scenario and reports whether the n-th boundary was in it.
				round := func(name string, n int) (reached bool) {
					scenario := func(fired <-chan struct{}) {
						for _, key := range []string{"once-", "once-", "twice-"} {
							s.post(w.ctx, key+name)
						}
						deliveredAll(s)
						select {
						case <-fired:
						case <-time.After(50 * time.Millisecond): // for its records
						}
					}
					return p.CutDuring(scenario, n, at, func() {
						if fault == "killed" {
							if err := node.Kill(); err != nil {
								t.Error(err)
							}
						}
					}, func() {
						cuts++
						if fault == "killed" {
							start(w, node)
						}
					})
				}
				for i := range count(1, 10) {
					step := 1
					if !full() { // some of about ten
						step = 3
					}
					for n := 1; round(fmt.Sprintf("%d-%d", i, n), n); n += step {
					}
				}
				w.quiet()
				duplicates := s.judge(ep)
				t.Logf("%d cuts, %d acknowledged, %d duplicates", cuts, s.acked(), duplicates)
				// At a kill, what was taken over and both events of a round may be under way.
				if fault == "cut" && duplicates > 0 || duplicates > 3*cuts {
					t.Errorf("%d duplicates of %d cuts", duplicates, cuts)
				}
				if cuts < 3 {
					t.Errorf("only %d boundaries were reached", cuts)
				}
			})
		}
	}
}

// deliveredAll waits until the sink has answered 200 for each acknowledged event.
func deliveredAll(s *sender) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		ok := map[string]bool{}
		for _, r := range s.w.sink.Requests() {
			if r.Answered == 200 {
				ok[r.EventID] = true
			}
		}
		missing := 0
		s.mu.Lock()
		for _, id := range s.events {
			if !ok[id] {
				missing++
			}
		}
		s.mu.Unlock()
		if missing == 0 {
			return
		}
	}
}

// postUntil sends an event until it is answered 200.
func postUntil(s *sender, key, body string) {
	for range 600 {
		req, err := http.NewRequest(http.MethodPost, s.urls[0], strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-Idempotency-Key", key)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.events[key] = resp.Header.Get("X-Kapsel-Event-Id")
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other = append(s.other, "key "+key+" was never answered 200")
}

// freeze stops a node and returns when each of its threads has stopped.
func freeze(t *testing.T, node *harness.Process) {
	t.Helper()
	if err := node.Freeze(); err != nil {
		t.Error(err)
	}
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", node.PID()))
	if err != nil {
		t.Error(err)
	}
	for _, file := range stats {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			stat, err := os.ReadFile(file)
			if err != nil || strings.Contains(string(stat), ") T ") { // gone, or stopped
				break
			}
		}
	}
}

// watch holds the moment at which a node is killed. It acts once.
type watch struct {
	moment harness.Moment
	died   chan struct{}
}

// TestCrash_FA6_FA7_InTheExchange checks that an event whose node is killed at any moment of
// an exchange is sent again, and a second arrival is labelled. It has another attempt id and
// the same event id, and the first attempt's outcome is unknown.
func TestCrash_FA6_FA7_InTheExchange(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Record(true)
		ep := w.endpoint("target", gentle)
		s := w.send(0, ep, 0)
		var posted sync.WaitGroup
		// A connection keeps the watcher with which it began to wait, so all use the same one.
		var watched atomic.Pointer[watch]
		w.sink.Watch(func(m harness.Moment, r harness.SinkRequest) {
			now := watched.Load()
			if now == nil || r.Attempt != 1 {
				return
			}
			if now.moment == harness.AnswerOut && m == harness.BodyRead {
				// The node does not see any of the answer.
				freeze(t, node)
			}
			if m == now.moment {
				if err := node.Kill(); err != nil {
					t.Error(err)
				}
				watched.Store(nil)
				close(now.died)
			}
		})
		for _, moment := range []harness.Moment{harness.HeadRead, harness.HalfRead, harness.BodyRead, harness.AnswerOut} {
			again := 0
			rounds := count(1, 25)
			if !w.sqlite {
				rounds = count(1, 10) // each waits for the lease to end
			}
			for i := range rounds {
				key := fmt.Sprintf("%s-%d", strings.ReplaceAll(string(moment), " ", "-"), i)
				died := make(chan struct{})
				watched.Store(&watch{moment, died})
				body := `{"key":"` + key + `"}`
				if moment == harness.HeadRead || moment == harness.HalfRead {
					body += strings.Repeat(" ", 8<<20) // more than is under way at once
				}
				posted.Go(func() { postUntil(s, key, body) })
				<-died
				start(w, node)
				ok, next := 0, false
				for deadline := time.Now().Add(patience); !next; time.Sleep(5 * time.Millisecond) {
					ok = 0
					for _, r := range w.sink.Requests() {
						if strings.HasPrefix(string(r.Body), `{"key":"`+key+`"}`) {
							if r.Answered == 200 {
								ok++
								next = next || r.Attempt > 1
							}
						}
					}
					if time.Now().After(deadline) {
						t.Fatalf("killed at %q: the event is not sent again", moment)
					}
				}
				again += ok - 1
				w.quiet() // nothing is under way at the next kill: after five deaths in a row a delivery is a dead letter
			}
			t.Logf("killed at %q %d times: %d labelled duplicates", moment, rounds, again)
			if moment == harness.AnswerOut && again != rounds {
				t.Errorf("of %d answers that the node never saw, %d led to a second request", rounds, again)
			}
		}
		posted.Wait()
		w.quiet()
		for _, d := range list[delivery](w, "/v1/deliveries", url.Values{"endpoint_id": {ep.ID}}) {
			if d.Attempts < 2 {
				t.Errorf("delivery %s has %d attempts: the one that was killed has no row", d.ID, d.Attempts)
			}
		}
		t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	})
}

// TestCrash_FA11_StartAndStop checks that a node that is killed while it makes its schema,
// starts or stops under load starts again within 10 s and loses nothing.
func TestCrash_FA11_StartAndStop(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		// starts is a start that is killed after a while, and then one that is not.
		starts := func() {
			t.Helper()
			ended := make(chan error, 1)
			go func() { ended <- node.Start(w.ctx) }()
			time.Sleep(rand.N(150 * time.Millisecond))
			// Before the new process exists, this finds the former one, and kills nothing.
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			<-ended // perhaps it was not ready yet
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			start(w, node)
			if took := time.Since(begun); took > within(10*time.Second) {
				t.Errorf("the start after a kill took %v", took)
			}
		}
		for range count(3, 50) {
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			empty(t, node)
			starts()
			tenant, err := node.CreateTenant(w.ctx, "after a kill")
			if err != nil {
				t.Fatal(err)
			}
			w.tenant = tenant
		}
		w.sink.Record(true)
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(8, ep, 20*time.Millisecond)
		for range count(2, 50) {
			time.Sleep(rand.N(500 * time.Millisecond))
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				_ = node.Term() // killed, it does not stop well
			}()
			time.Sleep(rand.N(100 * time.Millisecond))
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			<-stopped
			starts()
		}
		s.end()
		w.quiet()
		t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	})
}

// empty makes the database of a stopped node new and unused again.
func empty(t *testing.T, node *harness.Process) {
	t.Helper()
	database := node.Env("DATABASE_URL")
	if path, ok := strings.CutPrefix(database, "sqlite:"); ok {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		return
	}
	admin, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), "DROP SCHEMA public CASCADE; CREATE SCHEMA public"); err != nil {
		t.Fatal(err)
	}
}
