// Package e2e tests what ships: the real binary, real processes that are really killed, a
// real PostgreSQL, and destinations that misbehave on the wire. It only holds tests.
//
// By default the counts are small, so that the tests can run for every change. With KAPSEL_CHAOS=full
// they are the counts for which the project's promises are stated.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// full reports whether KAPSEL_CHAOS asks for the full counts.
func full() bool { return os.Getenv("KAPSEL_CHAOS") == "full" }

// patience is how long a test waits for an event that must happen. It ends a test that hangs. It does not
// check a speed: no test may fail because the machine is slow or busy.
const patience = 5 * time.Minute

// within returns how long something may take: the promised time with the full counts, which run on a quiet
// machine, otherwise patience.
func within(promised time.Duration) time.Duration {
	if full() {
		return promised
	}
	return patience
}

// eventually waits until a condition holds, and ends the test if the time is over before it does. It looks
// soon at first and then ten times a second: most conditions ask the program, whose answers cost time of their own.
func eventually(t testing.TB, what string, atMost time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(atMost)
	for pause := 5 * time.Millisecond; !ok(); pause = min(2*pause, 100*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, atMost)
		}
		time.Sleep(pause)
	}
}

// count returns how often a test repeats something: few times by default, all with the full counts.
func count(few, all int) int {
	if full() {
		return all
	}
	return few
}

// built is the folder of the program, "" until a test has asked for it.
var built string

// binary builds the program once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kapsel-e2e-*")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "kapsel")
	build := exec.Command("go", "build", "-o", bin, "github.com/kapsel-hq/kapsel/cmd/kapsel")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	// Give child processes the usual handling of SIGHUP, even if these tests run under nohup.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

func program(t testing.TB) string {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// onBoth runs a test on both stores.
func onBoth(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newWorld(t, "")) })
	t.Run("postgres", func(t *testing.T) { f(t, newWorld(t, schematest.Postgres(t))) })
}

// world is one database, its nodes, and a destination.
type world struct {
	t      *testing.T
	ctx    context.Context
	bin    string // the program that nodes run
	sink   *harness.Sink
	env    []string
	nodes  []*harness.Process
	tenant string
	sqlite bool
}

// newWorld starts one node on a database, on SQLite if there is none, and makes a tenant.
func newWorld(t *testing.T, database string, env ...string) *world {
	t.Helper()
	return newWorldOf(t, program(t), database, env...)
}

// newWorldOf is newWorld with nodes that run bin.
func newWorldOf(t *testing.T, bin, database string, env ...string) *world {
	t.Helper()
	sink, err := harness.NewSink("0.0.0.0:0", harness.OK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, bin: bin, sink: sink, sqlite: database == ""}
	w.env = append([]string{
		fmt.Sprintf("KAPSEL_EGRESS_ALLOW=127.0.0.0/8:%d", sink.Addr().Port()),
		"KAPSEL_NODE_LEASE=3s",
	}, env...)
	if database != "" {
		w.env = append(w.env, "DATABASE_URL="+database)
	}
	first := w.node()
	if w.tenant, err = first.CreateTenant(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	return w
}

// node starts one more process on the database.
func (w *world) node() *harness.Process {
	w.t.Helper()
	env := w.env
	if len(w.nodes) > 0 { // all nodes need the same keys
		env = append(slices.Clone(env), "KAPSEL_ADMIN_KEY="+w.nodes[0].AdminKey, "KAPSEL_ENCRYPTION_KEY="+w.nodes[0].Env("KAPSEL_ENCRYPTION_KEY"))
	}
	p, err := harness.StartKapsel(w.ctx, w.t.TempDir(), w.bin, env...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		p.Thaw()
		if w.t.Failed() {
			if log, err := os.ReadFile(p.Output); err == nil {
				w.t.Logf("last output of %s:\n%s", p.URL, log[max(0, len(log)-4000):])
			}
		}
		if err := p.Kill(); err != nil {
			w.t.Error(err)
		}
		if log, err := os.ReadFile(p.Output); err == nil && bytes.Contains(log, []byte("panic")) {
			w.t.Errorf("the process panicked:\n%s", log[max(0, len(log)-4000):])
		}
	})
	w.nodes = append(w.nodes, p)
	return p
}

// takeOverAfter returns how long a dead node's work may wait until it is taken over: the node's lease, and no
// time on SQLite, because the file has only one process.
func (w *world) takeOverAfter() time.Duration {
	if w.sqlite {
		return 0
	}
	return 3 * time.Second
}

// endpoint makes an endpoint with the sink as its destination and the given fields.
func (w *world) endpoint(name string, fields map[string]any) harness.Endpoint {
	w.t.Helper()
	all := map[string]any{"name": name, "url": w.sink.URL(len(name)), "retry": fastRetry}
	maps.Copy(all, fields)
	ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, all)
	if err != nil {
		w.t.Fatal(err)
	}
	return ep
}

// act does something with an endpoint, such as pause.
func (w *world) act(ep harness.Endpoint, action string) {
	w.t.Helper()
	if err := w.nodes[0].API(w.ctx, http.MethodPost, "/v1/endpoints/"+ep.ID+"/"+action, nil, nil); err != nil {
		w.t.Fatal(err)
	}
}

// fastRetry is a retry policy for tests that wait for retries.
var fastRetry = map[string]any{"strategy": "fixed", "base": "200ms", "max_attempts": 60}

// get reads an object of the API.
func (w *world) get(path string, out any) {
	w.t.Helper()
	if err := w.nodes[0].API(w.ctx, http.MethodGet, path, nil, out); err != nil {
		w.t.Fatal(err)
	}
}

// page is one page of a list.
type page[T any] struct {
	Data []T     `json:"data"`
	Next *string `json:"next_cursor"`
}

// list reads all pages of a list.
func list[T any](w *world, path string, query url.Values) (all []T) {
	w.t.Helper()
	query.Set("limit", "200")
	for {
		var p page[T]
		w.get(path+"?"+query.Encode(), &p)
		all = append(all, p.Data...)
		if p.Next == nil {
			return all
		}
		query.Set("cursor", *p.Next)
	}
}

type delivery struct {
	ID         string `json:"id"`
	EventID    string `json:"event_id"`
	EndpointID string `json:"endpoint_id"`
	Status     string `json:"status"`
	Attempts   int    `json:"attempts"`
	Code       string `json:"last_error_code"`
}

type attempt struct {
	ID     string `json:"id"`
	Number int    `json:"number"`
	Status *int   `json:"status_code"`
	Code   string `json:"error_code"`
}

// quiet waits until no delivery is pending or delivering, as long as there is progress. A delivery may go
// from one state to the other between the two requests, for instance when it is taken over. So quiet
// returns only after it has found none three times in a row.
func (w *world) quiet() {
	w.t.Helper()
	deadline := time.Now().Add(within(2 * time.Minute))
	for idle := 0; idle < 3; time.Sleep(50 * time.Millisecond) {
		idle++
		for _, status := range []string{"pending", "delivering"} {
			var p page[delivery]
			w.get("/v1/deliveries?limit=1&status="+status, &p)
			if len(p.Data) > 0 {
				idle = 0
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("deliveries still wait %v after all faults were healed", within(2*time.Minute))
		}
	}
}

// sender posts events until it is stopped. Like a provider, it repeats a post that is not answered 200 with
// the same key, so that each key has an event ID in the end.
type sender struct {
	w    *world
	urls []string
	stop context.CancelFunc
	wg   sync.WaitGroup
	rest atomic.Bool // no new event is sent

	mu     sync.Mutex
	events map[string]string // key → event ID, for the posts answered 200
	other  []string          // answers that must not happen
}

var client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// send starts n goroutines that post to the endpoint, at the world's nodes in turn, with pauses as long as pause on
// average. Without the full counts pauses are up to eight times as long.
func (w *world) send(n int, ep harness.Endpoint, pause time.Duration) *sender {
	if !full() {
		pause = max(pause, min(8*pause, 150*time.Millisecond))
	}
	ctx, cancel := context.WithCancel(w.ctx)
	s := &sender{w: w, stop: cancel, events: map[string]string{}}
	for _, node := range w.nodes {
		s.urls = append(s.urls, node.URL+"/ingest/"+ep.ID)
	}
	for i := range n {
		s.wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				for s.rest.Load() && ctx.Err() == nil {
					time.Sleep(10 * time.Millisecond)
				}
				s.post(ctx, fmt.Sprintf("key-%d-%d", i, k))
				time.Sleep(time.Duration(rand.Int64N(int64(2*pause) + 1)))
			}
		})
	}
	w.t.Cleanup(s.end)
	return s
}

// end stops the sender and waits for the posts under way.
func (s *sender) end() {
	s.stop()
	s.wg.Wait()
}

// post sends one event until it is answered 200. It does not stop before that, even after end was called, so
// that every key is known to be stored.
func (s *sender) post(ctx context.Context, key string) {
	for try := 0; try < 600; try++ {
		target := s.urls[(len(key)+try+int(key[len(key)-1]))%len(s.urls)]
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, target, strings.NewReader(`{"key":"`+key+`"}`))
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-Idempotency-Key", key)
		resp, err := client.Do(req)
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var got struct {
			EventID string `json:"event_id"`
			Code    string `json:"code"`
		}
		switch {
		case err != nil:
		case resp.StatusCode == 200 && json.Unmarshal(body, &got) == nil:
			s.mu.Lock()
			if old := s.events[key]; old != "" && old != got.EventID {
				s.other = append(s.other, fmt.Sprintf("key %s was answered with %s and %s", key, old, got.EventID))
			}
			s.events[key] = got.EventID
			s.mu.Unlock()
			return
		case resp.StatusCode != 503:
			s.mu.Lock()
			s.other = append(s.other, fmt.Sprintf("key %s was answered %d %s", key, resp.StatusCode, body))
			s.mu.Unlock()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other = append(s.other, "key "+key+" was never answered 200")
}

// acked returns how many events were answered 200 so far.
func (s *sender) acked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// judge compares the acknowledged events with the requests that arrived and with Kapsel's own account. It
// returns how many deliveries were duplicates.
func (s *sender) judge(ep harness.Endpoint) (duplicates int) {
	t, w := s.w.t, s.w
	t.Helper()
	for _, o := range s.other {
		t.Error(o)
	}
	requests := map[string][]harness.SinkRequest{} // by event
	attemptIDs := map[string]int{}
	for _, r := range w.sink.Requests() {
		requests[r.EventID] = append(requests[r.EventID], r)
		attemptIDs[r.AttemptID]++
	}
	for id, n := range attemptIDs {
		if n > 1 {
			t.Errorf("%d requests have the attempt id %s", n, id)
		}
	}
	byID := map[string]string{}
	for key, id := range s.events {
		if other, ok := byID[id]; ok {
			t.Errorf("keys %s and %s have one event %s", key, other, id)
		}
		byID[id] = key
	}
	lost := 0
	for id, key := range byID {
		if !slices.ContainsFunc(requests[id], func(r harness.SinkRequest) bool { return r.Answered/100 == 2 }) {
			lost++
			if lost < 10 {
				t.Errorf("event %s (key %s) was acknowledged and never delivered", id, key)
			}
		}
	}
	deliveries := list[delivery](w, "/v1/deliveries", url.Values{"endpoint_id": {ep.ID}})
	if len(deliveries) != len(byID) {
		t.Errorf("%d keys were acknowledged, the store has %d deliveries", len(byID), len(deliveries))
	}
	for _, d := range deliveries {
		if d.Status != "delivered" {
			t.Errorf("delivery %s of %s ended as %s %s", d.ID, d.EventID, d.Status, d.Code)
		}
		got := requests[d.EventID]
		ok := 0
		for _, r := range got {
			if r.Answered/100 == 2 {
				ok++
			}
		}
		duplicates += max(0, ok-1)
		if d.Attempts == 1 && len(got) == 1 {
			continue
		}
		// More than one attempt was made: the rows and the requests must agree.
		rows := list[attempt](w, "/v1/deliveries/"+d.ID+"/attempts", url.Values{})
		byAttempt, unknown := map[string]attempt{}, 0
		for _, a := range rows {
			byAttempt[a.ID] = a
			if a.Code == "E2010" {
				unknown++
			} else if a.Status != nil && attemptIDs[a.ID] != 1 {
				t.Errorf("attempt %s has status %d and %d requests", a.ID, *a.Status, attemptIDs[a.ID])
			}
		}
		for _, r := range got {
			if _, ok := byAttempt[r.AttemptID]; !ok {
				t.Errorf("a request of event %s has attempt id %s, which has no row", d.EventID, r.AttemptID)
			}
		}
		if ok-1 > unknown {
			t.Errorf("event %s was delivered %d times, but only %d of its attempts had an unknown outcome", d.EventID, ok, unknown)
		}
	}
	return duplicates
}

// freeAddr returns a loopback address whose port was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
