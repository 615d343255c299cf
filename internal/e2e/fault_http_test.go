package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHTTP_B12_B18 checks that a path that climbs, doubles its slashes or leads to internal
// pages gets 404 and no redirect, and a request line or header which is too long gets 431. The
// real server is asked, which refuses some of them before any handler sees them.
func TestHTTP_B12_B18(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	ep := w.endpoint("target", nil)
	long := strings.Repeat("x", 100<<10)
	for _, tt := range []struct {
		name, text string
		status     int
		code       string // "": the server's own answer
	}{
		{"a clean path", "POST /ingest/ID HTTP/1.1\r\n", 200, ""},
		{"a path that climbs", "POST /ingest/../ingest/ID HTTP/1.1\r\n", 404, "E1003"},
		{"a path that climbs out", "POST /ingest/../../etc/passwd HTTP/1.1\r\n", 404, "E1003"},
		{"an escaped climb", "POST /ingest/%2e%2e%2fv1%2ftenants HTTP/1.1\r\n", 404, "E1003"},
		{"a climb into ingest", "POST /v1/../ingest/ID HTTP/1.1\r\n", 404, "E1009"},
		{"two slashes", "POST //ingest/ID HTTP/1.1\r\n", 404, "E1009"},
		{"a backslash", "POST /ingest\\ID HTTP/1.1\r\n", 404, "E1009"},
		{"another case", "POST /INGEST/ID HTTP/1.1\r\n", 404, "E1009"},
		{"no id", "POST /ingest HTTP/1.1\r\n", 404, "E1009"},
		{"a longer path", "POST /ingest/ID/more HTTP/1.1\r\n", 404, "E1003"},
		{"the root", "POST / HTTP/1.1\r\n", 404, "E1009"},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\n", 200, ""},
		{"a proxy's request", "POST http://169.254.169.254/ingest/ID HTTP/1.1\r\n", 200, ""},
		{"a tunnel", "CONNECT 169.254.169.254:80 HTTP/1.1\r\n", 404, "E1009"},
		{"a broken escape", "POST /ingest/%zz HTTP/1.1\r\n", 400, ""},
		{"a long line", "POST /ingest/ID?" + long + " HTTP/1.1\r\n", 431, ""},
		{"a long header", "POST /ingest/ID HTTP/1.1\r\nX: " + long + "\r\n", 431, ""},
		{"many header lines", "POST /ingest/ID HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 120), 431, "E1006"},
		{"metrics", "POST /metrics HTTP/1.1\r\n", 404, "E1009"},
		{"profiles", "GET /debug/pprof/ HTTP/1.1\r\n", 404, "E1009"},
	} {
		c := dial(t, w.nodes[0])
		text := strings.ReplaceAll(tt.text, "ID", ep.ID) + "Host: evil.example\r\nContent-Length: 2\r\n\r\n{}"
		_, _ = io.WriteString(c, text) // the server may answer before it has read all
		method, _, _ := strings.Cut(text, " ")
		resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
		if err != nil {
			if tt.status != 431 { // then the connection may be reset under the answer
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.status || resp.Header.Get("Location") != "" || tt.code != "" && !strings.Contains(string(body), `"code":"`+tt.code+`"`) {
			t.Errorf("%s: answered %d %s, want %d %s", tt.name, resp.StatusCode, body, tt.status, tt.code)
		}
		if strings.Contains(string(body), "evil.example") {
			t.Errorf("%s: the answer repeats the Host: %s", tt.name, body)
		}
		c.Close()
	}
	w.quiet()
	if n := len(list[delivery](w, "/v1/deliveries", url.Values{})); n != 2 {
		t.Errorf("%d deliveries, want 2: what was refused is stored, or what was accepted is not", n)
	}
}

// TestHTTP_FE8_SlowClients checks that connections that dribble headers or bodies are closed
// in time, and other clients are served meanwhile.
func TestHTTP_FE8_SlowClients(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	node := w.nodes[0]
	s := w.send(4, ep, 20*time.Millisecond)
	s.load()
	usual := goroutines(t, node)
	head := fmt.Sprintf("POST /ingest/%s HTTP/1.1\r\nHost: kapsel\r\n", ep.ID)
	var slow sync.WaitGroup
	dribble := func(begin, more string, within time.Duration) {
		c := dial(t, node)
		slow.Go(func() {
			defer c.Close()
			start := time.Now()
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_, _ = io.Copy(io.Discard, c)
			}()
			_, _ = io.WriteString(c, begin)
			for i := 0; ; i++ {
				select {
				case <-closed:
					return
				case <-time.After(500 * time.Millisecond):
				}
				_, _ = io.WriteString(c, string(more[i%len(more)]))
				if time.Since(start) > within {
					t.Errorf("a slow connection is open after %v", within)
					return
				}
			}
		})
	}
	n := count(20, 700)
	for range n {
		dribble(head, "X-Slow: v\r\n", within(10*time.Second))
		if full() {
			dribble(head+"Content-Length: 1000\r\n\r\n", "b", within(40*time.Second))
			dribble(head+"Transfer-Encoding: chunked\r\n\r\n3e8\r\n", "b", within(40*time.Second))
		}
	}
	var silent []net.Conn
	for range n {
		silent = append(silent, dial(t, node))
	}
	var slowest time.Duration
	waited := make(chan struct{})
	go func() { slow.Wait(); close(waited) }()
	for open := true; open; {
		if status, took := probe(w, probes); status != 200 {
			t.Errorf("beside slow clients ingest answered %d after %v", status, took)
		} else {
			slowest = max(slowest, took)
		}
		select {
		case <-waited:
			open = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	if slowest > within(2*time.Second) {
		t.Errorf("beside slow clients ingest took %v", slowest)
	}
	for _, c := range silent {
		c.Close()
	}
	for deadline := time.Now().Add(within(10 * time.Second)); goroutines(t, node) > usual+50; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, were %d", goroutines(t, node), usual)
		}
	}
	s.end()
	w.quiet()
	t.Logf("%d acknowledged; the slowest answer took %v", s.acked(), slowest.Round(time.Millisecond))
	if duplicates := s.judge(ep); duplicates != 0 {
		t.Errorf("%d deliveries were sent twice", duplicates)
	}
}
