package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// TestDestination_FD19_KeepAliveRace checks that every event arrives, and each request has its
// own attempt, at a destination that closes each connection up to 2 ms after its answer, just
// as the next request may be on its way.
func TestDestination_FD19_KeepAliveRace(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	w.sink.Script(func(harness.SinkRequest) harness.Answer { return harness.Answer{Close: true} })
	w.sink.Watch(func(m harness.Moment, _ harness.SinkRequest) {
		if m == harness.AnswerOut {
			time.Sleep(rand.N(2 * time.Millisecond))
		}
	})
	ep := w.endpoint("closing", gentle)
	s := w.send(0, ep, 0)
	arrived := func() int { return len(w.sink.Requests()) }
	for i := range count(300, 5000) {
		before := arrived()
		s.post(w.ctx, fmt.Sprintf("k-%d", i))
		for deadline := time.Now().Add(patience); arrived() == before; time.Sleep(rand.N(time.Millisecond)) {
			if time.Now().After(deadline) {
				t.Fatal("an event does not arrive")
			}
		}
	}
	w.quiet()
	if duplicates := s.judge(ep); duplicates != 0 {
		t.Errorf("%d deliveries were sent twice", duplicates)
	}
	lost := 0
	for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
		lost += d.Attempts - 1
	}
	t.Logf("%d events, %d requests, %d attempts whose connection was closed just then", s.acked(), arrived(), lost)
}

// host is a destination that behaves as the path of each request says, on the bare connection.
type host struct {
	addr     string
	mu       sync.Mutex
	requests map[string][]string // attempt ids by path
	unasked  atomic.Int64        // requests that no delivery leads to
}

// behaviour handles a connection after the host has read the header of a request.
type behaviour func(c *net.TCPConn, r *http.Request)

func newHost(t *testing.T, paths map[string]behaviour) *host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{addr: l.Addr().String(), requests: map[string][]string{}}
	var running sync.WaitGroup
	conns := make(chan net.Conn, 10_000)
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			running.Go(func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				name := strings.TrimPrefix(r.URL.Path, "/")
				do := paths[name]
				if do == nil {
					h.unasked.Add(1)
					return
				}
				h.mu.Lock()
				h.requests[name] = append(h.requests[name], r.Header.Get("X-Kapsel-Attempt-Id"))
				h.mu.Unlock()
				do(c.(*net.TCPConn), r)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(conns)
		for c := range conns {
			c.Close()
		}
		running.Wait()
	})
	return h
}

// says reads a request to its end and answers it with bytes.
func says(raw string) behaviour {
	return func(c *net.TCPConn, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(c, raw)
	}
}

// drips answers with bytes, and then sends more again and again, until the peer closes the connection.
func drips(raw, more string, every time.Duration) behaviour {
	return func(c *net.TCPConn, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		_, err := io.WriteString(c, raw)
		for err == nil {
			_, err = io.WriteString(c, more)
			time.Sleep(every)
		}
	}
}

// misbehaviour is what a destination does, and the outcome that the attempt must have.
type misbehaviour struct {
	do     behaviour
	status string // of the delivery
	code   string // of each attempt
	answer int    // the attempts' status, 0 for none
}

// TestDestination_FD_Misbehaves checks that each request is one attempt whose outcome has the right
// name, whatever a destination does, that the stored answer can be read, and that the attempt ends
// in time without holding up a healthy destination.
func TestDestination_FD_Misbehaves(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	// Each destination closes its connection after one answer, and announces that if the answer alone would let
	// the connection be used again. TestDestination_FD19_KeepAliveRace has the race without announcement.
	const ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	location := func(status int, to string) behaviour {
		return says(fmt.Sprintf("HTTP/1.1 %d Elsewhere\r\nConnection: close\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, to))
	}
	rows := map[string]misbehaviour{
		"d3-hangs":             {func(c *net.TCPConn, _ *http.Request) { io.Copy(io.Discard, c) }, "dead_letter", "E2002", 0},
		"d5-drips-its-header":  {drips(ok, "X", 300*time.Millisecond), "dead_letter", "E2002", 0},
		"d6-drips-its-body":    {drips(ok+"\r\n", "x", 300*time.Millisecond), "delivered", "", 200},
		"d7-endless":           {drips(ok+"\r\n", strings.Repeat("x", 64<<10), 0), "delivered", "", 200},
		"d8-gzip-bomb":         {says(ok + "Content-Encoding: gzip\r\n\r\n" + bomb.String()), "delivered", "", 200},
		"d9-long-header":       {says(ok + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), "dead_letter", "E2008", 0},
		"d10-storm-of-hints":   {drips("", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000), 0), "dead_letter", "E2008", 0},
		"d10-hint-after-hint":  {drips("", "HTTP/1.1 103 Early Hints\r\n\r\n", 300*time.Millisecond), "dead_letter", "E2002", 0},
		"d11-switches":         {says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), "failed", "E2003", 101},
		"d12-moved":            {location(301, "/canary"), "failed", "E2003", 301},
		"d12-moved-with-body":  {location(307, "/canary"), "failed", "E2003", 307},
		"d12-moved-inside":     {location(308, "http://169.254.169.254/"), "failed", "E2003", 308},
		"d12-refresh":          {says(ok + "Refresh: 0; url=/canary\r\nContent-Length: 0\r\n\r\n"), "delivered", "", 200},
		"d16-reset-in-body":    {func(c *net.TCPConn, r *http.Request) { says(ok+"Content-Length: 100\r\n\r\nx")(c, r); c.SetLinger(0) }, "delivered", "", 200},
		"d17-odd-bytes":        {says(ok + "X-Odd: \xff\xfe\x80\r\nContent-Length: 5\r\n\r\n\x00\xff\xfe\xc3("), "delivered", "", 200},
		"d17-odd-bytes-failed": {says("HTTP/1.1 500 \xff\xfe\r\nConnection: close\r\nX-Odd: \xff\r\nContent-Length: 3\r\n\r\n\x00\xff\xfe"), "dead_letter", "E2004", 500},
		"d17-nul-in-header":    {says(ok + "X: a\x00b\r\n\r\n"), "dead_letter", "E2008", 0},
		"d17-two-lengths":      {says(ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk"), "dead_letter", "E2008", 0},
		"d17-ssh":              {says("SSH-2.0-OpenSSH_9.6\r\n"), "dead_letter", "E2008", 0},
		"d18-answers-early": {func(c *net.TCPConn, r *http.Request) {
			io.WriteString(c, ok+"Content-Length: 0\r\n\r\n")
			io.Copy(io.Discard, r.Body)
		}, "delivered", "", 200},
		"d21-too-many":    {says("HTTP/1.1 429 Slow down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), "dead_letter", "E2003", 429},
		"d21-unavailable": {says("HTTP/1.1 503 Later\r\nConnection: close\r\nRetry-After: 1e300\r\nContent-Length: 0\r\n\r\n"), "dead_letter", "E2004", 503},
		"healthy":         {says(ok + "Content-Length: 0\r\n\r\n"), "delivered", "", 200},
	}
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			paths := map[string]behaviour{}
			for name, r := range rows {
				paths[name] = r.do
			}
			h := newHost(t, paths)
			url := ""
			if database == "postgres" {
				url = schematest.Postgres(t)
			}
			w := newWorld(t, url, "KAPSEL_EGRESS_ALLOW=127.0.0.1/32")
			misbehaves(t, w, h, rows)
		})
	}
}

func misbehaves(t *testing.T, w *world, h *host, rows map[string]misbehaviour) {
	body := strings.Repeat("b", 100_000)
	events := map[string]string{} // event → name
	for name, r := range rows {
		timeout := "300s"
		if r.code == "E2002" || name == "d6-drips-its-body" { // the time-out is what ends it
			timeout = "5s"
		}
		ep := w.endpoint(name, map[string]any{
			"url": "http://" + h.addr + "/" + name, "timeout": timeout,
			"retry": map[string]any{"strategy": "fixed", "base": "100ms", "max_attempts": 2},
		})
		status, code, event := post(t, ep.IngestURL, nil, strings.NewReader(body))
		if status != 200 {
			t.Fatalf("answered %d %s", status, code)
		}
		events[event] = name
	}
	w.quiet()
	deliveries := list[delivery](w, "/v1/deliveries", url.Values{})
	if len(deliveries) != len(events) {
		t.Errorf("%d deliveries of %d events", len(deliveries), len(events))
	}
	for _, d := range deliveries {
		name := events[d.EventID]
		want := rows[name]
		if d.Status != want.status {
			t.Errorf("%s: the delivery is %s", name, d.Status)
		}
		attempts := list[attempt](w, "/v1/deliveries/"+d.ID+"/attempts", url.Values{})
		var ids []string
		for _, a := range attempts {
			ids = append(ids, a.ID)
			status := 0
			if a.Status != nil {
				status = *a.Status
			}
			if a.Code != want.code || status != want.answer {
				t.Errorf("%s: attempt %d is %s with status %d, want %s with %d", name, a.Number, a.Code, status, want.code, want.answer)
			}
		}
		n := 1
		if want.status == "dead_letter" {
			n = 2
		}
		h.mu.Lock()
		requests := h.requests[name]
		h.mu.Unlock()
		if len(ids) != n || strings.Join(ids, ",") != strings.Join(requests, ",") {
			t.Errorf("%s: attempts %v, requests %v, want %d", name, ids, requests, n)
		}
	}
	if n := h.unasked.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	if rss, err := w.nodes[0].PeakRSS(); err != nil || rss > 200<<20 {
		t.Errorf("the node took %d MiB, %v", rss>>20, err)
	}
}
