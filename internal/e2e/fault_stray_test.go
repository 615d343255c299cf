package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// straying is a destination that keeps connections open, answers each request, and sends stray bytes 5 ms later.
type straying struct {
	addr string

	mu     sync.Mutex
	events map[string]int // requests by event
	strays int            // sent after an answer
	conns  int
}

func newStraying(t *testing.T, answer, stray string) *straying {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &straying{addr: l.Addr().String(), events: map[string]int{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns++
			d.mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					d.mu.Lock()
					d.events[req.Header.Get("X-Kapsel-Event-Id")]++
					d.mu.Unlock()
					io.WriteString(conn, answer)
					time.Sleep(5 * time.Millisecond)
					io.WriteString(conn, stray)
					d.mu.Lock()
					d.strays++
					d.mu.Unlock()
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return d
}

// seen returns how many requests there were, how many strays, and how many connections.
func (d *straying) seen() (requests, strays, conns int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.events {
		requests += n
	}
	return requests, d.strays, d.conns
}

// TestDestination_StrayBytes checks that bytes that a destination sends after its answer are not
// taken for the next answer, and that no event is sent twice.
func TestDestination_StrayBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		answer, stray string
		inTurn        bool // the next event comes when the stray has
	}{
		"204 with a length":   {"HTTP/1.1 204 No Content\r\nContent-Length: 11\r\n\r\n", `{"ok":true}`, false},
		"204 with chunks":     {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n0\r\n\r\n", false},
		"more than it said":   {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "more", true},
		"an answer too many":  {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", true},
		"204 without a word":  {"HTTP/1.1 204 No Content\r\n\r\n", `{"ok":true}`, true},
		"an ordinary one, ok": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newStraying(t, tt.answer, tt.stray)
			w := newWorld(t, "", "KAPSEL_EGRESS_ALLOW=127.0.0.1/32")
			fields := maps.Clone(gentle)
			fields["url"] = "http://" + d.addr + "/hook"
			ep := w.endpoint("straying", fields)
			s := w.send(0, ep, 0)
			events := 120
			if tt.inTurn {
				events = 20
			}
			for i := range events {
				s.post(w.ctx, fmt.Sprintf("k-%d", i))
				for begin := time.Now(); tt.inTurn; time.Sleep(time.Millisecond) {
					if _, strays, _ := d.seen(); strays > i {
						break
					}
					if time.Since(begin) > patience {
						t.Fatal("an event does not arrive")
					}
				}
			}
			w.quiet()
			for id, n := range d.events {
				if n != 1 {
					t.Errorf("event %s was sent %d times", id, n)
				}
			}
			for _, del := range list[delivery](w, "/v1/deliveries", url.Values{}) {
				if del.Status != "delivered" || del.Attempts != 1 {
					t.Errorf("a delivery is %s after %d attempts, %s", del.Status, del.Attempts, del.Code)
				}
			}
			requests, _, conns := d.seen()
			if requests != events {
				t.Errorf("%d events were sent", requests)
			}
			if tt.stray == "" && conns > events/2 {
				t.Errorf("%d connections for %d events: none is used again", conns, events)
			}
		})
	}
}
