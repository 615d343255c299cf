package ingest_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

const maxBody = 10 << 20

// refusedUnread sends a request's head and no byte of its body, and wants an error all the same.
func (w *world) refusedUnread(status int, code kapsel.Code, ep *kapsel.Endpoint, framing string) answer {
	w.t.Helper()
	before := w.stored()
	c := w.dial()
	defer c.Close()
	c.write("POST " + path(ep) + " HTTP/1.1\r\nHost: in.example\r\nExpect: 100-continue\r\n" + framing + "\r\n\r\n")
	a, err := c.read("POST")
	w.must(err)
	w.is(a, status, code) // and not 100: nobody asked for the body
	if n := w.stored(); n != before {
		w.t.Errorf("%d events were stored", n-before)
	}
	return a
}

const (
	someBytes = "Content-Length: 1000"
	inChunks  = "Transfer-Encoding: chunked"
)

// TestTooLarge_B20 checks that a body one byte over the limit gets 413 and is never cut and
// accepted. One whose length is announced is not even read; the other comes in chunks.
func TestTooLarge_B20(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	w.refusedUnread(413, kapsel.PayloadTooLarge, ep, "Content-Length: "+strconv.Itoa(maxBody+1))
	w.refusedUnread(413, kapsel.PayloadTooLarge, ep, "Content-Length: 9223372036854775807")
	body := strings.Repeat("b", maxBody+1)
	c := w.dial()
	var sending sync.WaitGroup
	sending.Go(func() { io.WriteString(c, chunked(path(ep), chunks(body, 1<<20))) }) // the answer may come first
	a, err := c.read("POST")
	w.must(err)
	w.is(a, 413, kapsel.PayloadTooLarge)
	c.Close()
	sending.Wait()
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored", n)
	}
	for _, size := range []int{maxBody, maxBody - 1} {
		for _, text := range []string{request("POST", path(ep), body[:size]), chunked(path(ep), chunks(body[:size], 100_001))} {
			if a := w.raw(text); a.status != 200 || w.event(a.event()).Event.Size != size {
				t.Errorf("%d bytes were answered %v", size, a)
			}
		}
	}
}

// TestRoom_Memory checks that a request is answered 503 before its body is read if there is no
// memory for the body.
func TestRoom_Memory(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	if !w.budget.Request(bodyMemory - 999) {
		t.Fatal("the memory is not free")
	}
	w.refusedUnread(503, kapsel.QueueFull, ep, someBytes)
	w.refusedUnread(503, kapsel.QueueFull, ep, inChunks)
	w.accepted(ep, strings.Repeat("b", 999))
	w.budget.ReturnRequest(bodyMemory - 999)
	w.accepted(ep, strings.Repeat("b", 1000))
	w.atRest()
}

// TestRoom_Capacity checks that further requests are answered 503 before their body is read once as
// many wait for the store as may, and that the waiting ones are accepted.
func TestRoom_Capacity(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	w.handler.Capacity = 2
	entered, release := make(chan struct{}), make(chan struct{})
	w.fault(func(method string) storetest.Fault {
		if method == "Accept" {
			entered <- struct{}{}
			<-release
		}
		return storetest.NoFault
	})
	waiting := []*conn{w.dial(), w.dial()}
	for _, c := range waiting {
		c.write(request("POST", path(ep), "{}"))
		<-entered
	}
	for _, framing := range []string{someBytes, inChunks} {
		c := w.dial()
		c.write("POST " + path(ep) + " HTTP/1.1\r\nHost: in.example\r\nExpect: 100-continue\r\n" + framing + "\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		w.must(err)
		body, err := io.ReadAll(resp.Body)
		w.must(err)
		w.is(answer{resp.StatusCode, resp.Header, string(body)}, 503, kapsel.QueueFull)
		c.Close()
	}
	close(release)
	for _, c := range waiting {
		if a, err := c.read("POST"); err != nil || a.status != 200 {
			t.Errorf("answered %v, %v", a, err)
		}
	}
	w.fault(nil)
	if n := w.stored(); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
	w.atRest()
}

// TestRoom_Grows checks that a body in chunks takes memory as it grows, and that the answer is 503
// if there is none left, but that one body always fits, however little memory there is.
func TestRoom_Grows(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	const other = 1000
	if !w.budget.Request(other) {
		t.Fatal("the memory is not free")
	}
	others := w.budget.Have(bodyMemory*3/4 - 1<<20) // 1 MiB is left for large bodies
	w.accepted(ep, strings.Repeat("b", 500_000))
	c := w.dial()
	var sending sync.WaitGroup
	sending.Go(func() { io.WriteString(c, chunked(path(ep), chunks(strings.Repeat("b", 2<<20), 100_000))) })
	a, err := c.read("POST")
	w.must(err)
	w.is(a, 503, kapsel.QueueFull)
	c.Close()
	sending.Wait()
	if n := w.stored(); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
	w.budget.ReturnRequest(other)
	for _, text := range []string{request("POST", path(ep), strings.Repeat("b", maxBody)), chunked(path(ep), chunks(strings.Repeat("b", maxBody), 1<<20))} {
		if a := w.raw(text); a.status != 200 {
			t.Errorf("the only body was answered %v", a)
		}
	}
	others.Release()
	w.atRest()
}

// TestStopping checks that every request is answered 503, before its body is read, after Stop was
// called.
func TestStopping(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	w.accepted(ep, "{}", "Idempotency-Key: k")
	w.handler.Stop()
	w.refused(503, kapsel.ShuttingDown, ep, "{}")
	w.refused(503, kapsel.ShuttingDown, ep, "{}", "Idempotency-Key: k")
	w.refusedUnread(503, kapsel.ShuttingDown, ep, someBytes)
	w.refusedUnread(503, kapsel.ShuttingDown, ep, inChunks)
}

// TestRate checks that every answer tells a limited tenant its limit, that requests above it are
// refused, and that other tenants are not affected.
func TestRate(t *testing.T) {
	w := newWorld(t)
	perSecond, burst := 0.01, 3
	limited := w.newTenant(kapsel.Limits{Own: true, IngestPerSecond: &perSecond, IngestBurst: &burst})
	ep := w.endpoint(func(ep *kapsel.Endpoint) { ep.TenantID = limited.ID })
	free := w.endpoint(nil)
	left := func(a answer, remaining string) {
		t.Helper()
		if a.header.Get("X-RateLimit-Limit") != "3" || a.header.Get("X-RateLimit-Remaining") != remaining {
			t.Errorf("answered %v, want %s of 3 left", a, remaining)
		}
		if reset, err := strconv.Atoi(a.header.Get("X-RateLimit-Reset")); err != nil || reset > 100 || (reset == 0) != (remaining == "3") {
			t.Errorf("the reset is %q", a.header.Get("X-RateLimit-Reset"))
		}
	}
	left(w.raw(request("GET", path(ep), "")), "3")
	left(w.refusedUnread(413, kapsel.PayloadTooLarge, ep, "Content-Length: 99999999"), "3")
	w.handler.Capacity = 0
	left(w.refused(503, kapsel.QueueFull, ep, "{}"), "3") // and no token is taken
	w.handler.Capacity = 1000
	left(w.post(ep, "{}", "Idempotency-Key: k"), "2")
	left(w.post(ep, "{}", "Idempotency-Key: k"), "1") // a duplicate counts, too
	left(w.refused(400, kapsel.InvalidRequest, ep, "{}", "Idempotency-Key: \xff"), "0")
	for range 3 {
		a := w.refused(429, kapsel.RateLimited, ep, "{}")
		left(a, "0")
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 90 || after > 100 {
			t.Errorf("Retry-After is %q, a token takes 100 s", a.header.Get("Retry-After"))
		}
	}
	w.refusedUnread(429, kapsel.RateLimited, ep, someBytes)
	for range 5 {
		if a := w.post(free, "{}"); a.status != 200 || a.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("without a limit: %v", a)
		}
	}
}

// TestRate_Returns: tokens come back with time.
func TestRate_Returns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, sim.Options{})
		perSecond := 2.0
		tenant := w.NewTenant("limited", func(t *kapsel.Tenant) {
			t.Limits = kapsel.Limits{Own: true, IngestPerSecond: &perSecond} // the burst is the rate
		})
		ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), func(ep *kapsel.Endpoint) { ep.TenantID = tenant.ID })
		p := w.Start()
		post := func(want int) {
			t.Helper()
			if status, _ := p.Post(ep, "{}"); status != want {
				t.Errorf("answered %d, want %d", status, want)
			}
		}
		post(200)
		post(200)
		post(429)
		time.Sleep(400 * time.Millisecond) // a commit may wait some milliseconds for others
		post(429)
		time.Sleep(150 * time.Millisecond)
		post(200)
		post(429)
		time.Sleep(time.Minute)
		post(200)
		post(200)
		post(429)
	})
}

// TestRate_ClockJumps checks that tokens come back with time, whatever the store's clock does.
func TestRate_ClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := sim.New(t, sim.Options{})
			var offset atomic.Int64 // ns
			w.Wrap = func(_ *sim.Process, s store.Store) store.Store { return skewed{s, &offset} }
			perSecond, burst := 0.1, 2
			tenant := w.NewTenant("limited", func(t *kapsel.Tenant) {
				t.Limits = kapsel.Limits{Own: true, IngestPerSecond: &perSecond, IngestBurst: &burst}
			})
			ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), func(ep *kapsel.Endpoint) { ep.TenantID = tenant.ID })
			p := w.Start()
			answered := func(want ...int) {
				t.Helper()
				for _, status := range want {
					if got, _ := p.Post(ep, "{}"); got != status {
						t.Errorf("jump %v: answered %d, want %d", jump, got, status)
					}
				}
			}
			answered(200, 200, 429)
			offset.Store(int64(jump))
			w.Pass(11 * time.Second) // a node asks every 10 s
			answered(200, 429)
		})
	}
}

// skewed is a store whose clock is off.
type skewed struct {
	store.Store
	offset *atomic.Int64
}

func (s skewed) Time(context.Context) (time.Time, error) {
	return time.Now().Add(time.Duration(s.offset.Load())), nil
}

// pipes is a listener for connections over net.Pipe, for bubbles.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlow_B111 checks that a body that does not arrive in time gets 408, is not stored and
// holds no memory afterwards.
func TestSlow_B111(t *testing.T) {
	for name, part := range map[string]string{
		"length": "Content-Length: 10\r\n\r\n123",
		"chunks": "Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sim.New(t, sim.Options{})
				ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), nil)
				p := w.Start()
				l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				server := &http.Server{Handler: p.Ingest, ReadTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
				var serving sync.WaitGroup
				serving.Go(func() { server.Serve(l) })
				client, side := net.Pipe()
				l.conns <- side
				start := time.Now()
				if _, err := io.WriteString(client, "POST "+path(ep)+" HTTP/1.1\r\nHost: in.example\r\n"+part); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(client)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || !strings.Contains(string(answer), `"code":"E1006"`) || !strings.Contains(string(answer), "Connection: close") {
					t.Errorf("answered %s", answer)
				}
				if took := time.Since(start); took < 30*time.Second || took > 32*time.Second {
					t.Errorf("after %v", took)
				}
				client.Close()
				server.Close()
				serving.Wait()
				synctest.Wait()
				if p.Ingest.Waiting() != 0 || p.Budget.Used() != 0 {
					t.Errorf("%d places and %d bytes are held", p.Ingest.Waiting(), p.Budget.Used())
				}
			})
		})
	}
}

// TestMetrics: requests are counted by the code of their answer.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	w.accepted(ep, "{}")
	w.accepted(ep, "{}")
	w.refused(400, kapsel.InvalidRequest, ep, "{}", "Idempotency-Key: \xff")
	w.raw(request("POST", kapsel.IngestPath+"no", ""))
	registry := telemetry.NewRegistry()
	registry.MustRegister(w.handler.Collectors()...)
	rec := httptest.NewRecorder()
	telemetry.Handler(registry).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	var got []string
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, "kapsel_ingest_requests_total{") && !strings.HasSuffix(line, " 0\n") || strings.HasPrefix(line, "kapsel_ingest_duration_seconds_count") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		"kapsel_ingest_duration_seconds_count 4",
		`kapsel_ingest_requests_total{code="E1003"} 1`,
		`kapsel_ingest_requests_total{code="E1006"} 1`,
		`kapsel_ingest_requests_total{code="ok"} 2`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
