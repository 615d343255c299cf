package egress

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
)

var loopback = Config{Allow: []AllowRule{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}}}

// sink is a destination on loopback that does with each connection what a test says.
type sink struct {
	*url.URL
	mu       sync.Mutex
	requests []seen // guarded by mu
}

// seen is a request that the sink read whole.
type seen struct {
	header http.Header
	body   []byte
}

// newSink serves each connection with serve, which gets a reader of it. The connection is
// closed when serve returns.
func newSink(t testing.TB, serve func(s *sink, conn *net.TCPConn, r *bufio.Reader)) *sink {
	t.Helper()
	s := &sink{}
	addr := accept(t, func(conn *net.TCPConn) { serve(s, conn, bufio.NewReader(conn)) })
	s.URL = &url.URL{Scheme: "http", Host: addr, Path: "/hook"}
	return s
}

// accept listens on loopback and gives each connection to serve. The connection is closed when
// serve returns.
func accept(t testing.TB, serve func(*net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

// read reads one whole request and notes it.
func (s *sink) read(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, seen{req.Header, body})
	return true
}

// seen returns the requests so far.
func (s *sink) seen() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *sink) count() int { return len(s.seen()) }

// answers returns a sink that answers every request on a connection with the same bytes, and
// then closes it if they say so.
func answers(t testing.TB, raw string) *sink {
	return newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
		for s.read(r) {
			if _, err := io.WriteString(conn, raw); err != nil {
				return
			}
			if !strings.HasPrefix(raw, "HTTP/1.1 200") || strings.Contains(raw, "close") {
				return
			}
		}
	})
}

func client(t testing.TB, cfg Config) http.RoundTripper {
	rt := New(cfg)
	t.Cleanup(rt.(interface{ CloseIdleConnections() }).CloseIdleConnections)
	return rt
}

// result is what became of an exchange.
type result struct {
	status int
	header http.Header
	body   string
	code   kapsel.Code
	text   string
}

func (r result) String() string {
	return fmt.Sprintf("status %d, %d bytes of body, %s %s", r.status, len(r.body), r.code, r.text)
}

func exchange(ctx context.Context, rt http.RoundTripper, u *url.URL, h http.Header, body []byte) result {
	if h == nil {
		h = http.Header{}
	}
	resp, err := rt.RoundTrip(NewRequest(ctx, u, h, body))
	if err != nil {
		code, text := Classify(err)
		return result{code: code, text: text}
	}
	return result{status: resp.StatusCode, header: resp.Header, body: string(ReadBody(resp, BodyKept, BodyRead, nil))}
}

func TestRequestOnTheWire(t *testing.T) {
	var got bytes.Buffer
	done := make(chan struct{})
	s := newSink(t, func(_ *sink, conn *net.TCPConn, r *bufio.Reader) {
		defer close(done)
		for {
			line, err := r.ReadString('\n')
			got.WriteString(line)
			if err != nil || line == "\r\n" {
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				return
			}
		}
	})
	u := *s.URL
	u.RawQuery = "a=b%20c&d"
	h := http.Header{"User-Agent": {"Kapsel/1"}, "Idempotency-Key": {"k1"}, "X-Idempotency-Key": {"k2", "k3"}, "X-A": {"1", "2"}}
	if r := exchange(t.Context(), client(t, loopback), &u, h, nil); r.status != 204 {
		t.Fatal(r)
	}
	<-done
	want := "POST /hook?a=b%20c&d HTTP/1.1\r\nHost: " + s.Host + "\r\nUser-Agent: Kapsel/1\r\nContent-Length: 0\r\n" +
		"Idempotency-Key: k1\r\nX-A: 1\r\nX-A: 2\r\nX-Idempotency-Key: k2\r\nX-Idempotency-Key: k3\r\n\r\n"
	if got.String() != want {
		t.Errorf("on the wire:\n%q\nwant:\n%q", got.String(), want)
	}
}

// idempotencyHeaders returns the headers that make net/http repeat a POST.
func idempotencyHeaders(id string) http.Header {
	return http.Header{"Idempotency-Key": {id}, "X-Idempotency-Key": {id}, "User-Agent": {"test"}}
}

// TestNothingIsSentTwice_B53 checks that a destination sees no request twice, whatever it does
// with the connection and whichever idempotency header the request has. The control with
// net/http's own transport shows that the test would see it.
func TestNothingIsSentTwice_B53(t *testing.T) {
	// Each behaviour serves the n-th request of a connection; false closes it.
	behaviours := map[string]func(n int, conn *net.TCPConn) bool{
		"closes without an answer": func(n int, conn *net.TCPConn) bool { return false },
		"answers the first, then closes": func(n int, conn *net.TCPConn) bool {
			if n == 1 {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
			return n == 1
		},
		"answers the first, then resets": func(n int, conn *net.TCPConn) bool {
			if n == 1 {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				return true
			}
			conn.SetLinger(0)
			return false
		},
		"answers the first, then half an answer": func(n int, conn *net.TCPConn) bool {
			if n == 1 {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				return true
			}
			io.WriteString(conn, "HTTP/1.1 2")
			return false
		},
	}
	run := func(t *testing.T, rt http.RoundTripper, behave func(int, *net.TCPConn) bool, send func(rt http.RoundTripper, u *url.URL, id string)) (calls int, s *sink) {
		s = newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
			for n := 1; s.read(r) && behave(n, conn); n++ {
			}
		})
		for i := range 6 { // the even ones dial, the odd ones find a connection to reuse
			send(rt, s.URL, strconv.Itoa(i))
		}
		return 6, s
	}
	for name, behave := range behaviours {
		for _, size := range []int{0, 1, 10_000} {
			t.Run(fmt.Sprintf("%s/%d bytes", name, size), func(t *testing.T) {
				body := bytes.Repeat([]byte{'x'}, size)
				_, s := run(t, client(t, loopback), behave, func(rt http.RoundTripper, u *url.URL, id string) {
					exchange(t.Context(), rt, u, idempotencyHeaders(id), body)
				})
				times := map[string]int{}
				for _, r := range s.seen() {
					id := r.header.Get("Idempotency-Key")
					times[id]++
					if len(r.body) != size || r.header.Get("X-Idempotency-Key") != id || r.header.Get("Content-Length") != strconv.Itoa(size) {
						t.Errorf("request %s came with %d bytes and %v", id, len(r.body), r.header)
					}
				}
				for id, n := range times {
					if n > 1 {
						t.Errorf("request %s was sent %d times", id, n)
					}
				}
				if len(times) != 6 { // this sink reads everything that is sent
					t.Errorf("%d of 6 requests were sent", len(times))
				}
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		plain := &http.Transport{}
		defer plain.CloseIdleConnections()
		calls, s := run(t, plain, behaviours["answers the first, then closes"], func(rt http.RoundTripper, u *url.URL, id string) {
			req, err := http.NewRequest("POST", u.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = idempotencyHeaders(id)
			if resp, err := rt.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		})
		if s.count() <= calls {
			t.Errorf("net/http's own transport: %d calls, %d requests: this test sees nothing", calls, s.count())
		}
	})
}

// TestDestination_F_D19_KeepAliveRace checks that a destination that closes each connection at
// a random moment after its answer sees no request twice.
func TestDestination_F_D19_KeepAliveRace(t *testing.T) {
	const calls = 2000
	s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
		for s.read(r) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			conn.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(200)) * time.Microsecond))
		}
	})
	rt := client(t, loopback)
	answered, failed := 0, 0
	for i := range calls {
		body := make([]byte, i%3*100)
		switch r := exchange(t.Context(), rt, s.URL, idempotencyHeaders(strconv.Itoa(i)), body); {
		case r.status == 200:
			answered++
		case r.code == kapsel.BadResponse:
			failed++
		default:
			t.Fatal(r)
		}
	}
	times := map[string]int{}
	for _, r := range s.seen() {
		times[r.header.Get("Idempotency-Key")]++
	}
	for id, n := range times {
		if n > 1 {
			t.Errorf("request %s was sent %d times", id, n)
		}
	}
	t.Logf("%d answered, %d failed, %d requests", answered, failed, s.count())
	if s.count() < answered || s.count() > calls {
		t.Errorf("%d calls, %d answered, %d requests", calls, answered, s.count())
	}
}

func TestReuse(t *testing.T) {
	var conns int
	s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
		s.mu.Lock()
		conns++
		s.mu.Unlock()
		for s.read(r) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"+strings.Repeat("x", 5000))
		}
	})
	rt := client(t, loopback)
	for range 10 {
		if r := exchange(t.Context(), rt, s.URL, nil, []byte("x")); r.status != 200 || len(r.body) != BodyKept {
			t.Fatal(r)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if conns != 1 {
		t.Errorf("10 requests took %d connections", conns)
	}
}

// TestDestinationAnswers checks that each odd, oversized or broken answer counts as one
// attempt, with the status or error that its bytes mean, and redirects are not followed and
// compressed bodies not inflated.
func TestDestinationAnswers(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 1<<20))
	z.Close()
	compressed := bomb.String()

	header := "HTTP/1.1 200 OK\r\n"
	for name, tt := range map[string]struct {
		raw    string
		status int
		body   string
		code   kapsel.Code
	}{
		"plain":                           {raw: header + "Content-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		"chunked":                         {raw: header + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", status: 200, body: "ok"},
		"until close":                     {raw: header + "Connection: close\r\n\r\nok", status: 200, body: "ok"},
		"HTTP/1.0":                        {raw: "HTTP/1.0 200 OK\r\n\r\nok", status: 200, body: "ok"},
		"F-D8 gzip is not inflated":       {raw: header + "Content-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(len(compressed)) + "\r\n\r\n" + compressed, status: 200, body: compressed},
		"F-D9 header of 1 MiB":            {raw: header + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", code: kapsel.BadResponse},
		"F-D9 10,000 headers":             {raw: header + strings.Repeat("X: yyyy\r\n", 10_000) + "\r\n", code: kapsel.BadResponse},
		"F-D9 header of 60 KiB":           {raw: header + "Content-Length: 2\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\nok", status: 200, body: "ok"},
		"F-D10 storm of 1xx":              {raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100_000), code: kapsel.BadResponse},
		"F-D10 some 1xx":                  {raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5) + header + "Content-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		"F-D11 101":                       {raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nnever read", status: 101},
		"F-D11 999":                       {raw: "HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok", status: 999, body: "ok"},
		"F-D11 099":                       {raw: "HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\nok", code: kapsel.BadResponse},
		"F-D11 042":                       {raw: "HTTP/1.1 042 What\r\nContent-Length: 2\r\n\r\nok", code: kapsel.BadResponse},
		"F-D11 +99":                       {raw: "HTTP/1.1 +99 What\r\nContent-Length: 2\r\n\r\nok", code: kapsel.BadResponse},
		"F-D11 -00":                       {raw: "HTTP/1.1 -00 What\r\nContent-Length: 2\r\n\r\nok", code: kapsel.BadResponse},
		"F-D11 000":                       {raw: "HTTP/1.1 000 What\r\nContent-Length: 2\r\n\r\nok", code: kapsel.BadResponse},
		"F-D11 204 with a body":           {raw: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", status: 204},
		"F-D11 four digits":               {raw: "HTTP/1.1 2000 What\r\n\r\n", code: kapsel.BadResponse},
		"F-D12 301":                       {raw: "HTTP/1.1 301 Moved\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", status: 301},
		"F-D12 307":                       {raw: "HTTP/1.1 307 Moved\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", status: 307},
		"F-D12 308, file":                 {raw: "HTTP/1.1 308 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", status: 308},
		"F-D12 302, broken":               {raw: "HTTP/1.1 302 Moved\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", status: 302},
		"F-D12 Refresh":                   {raw: header + "Refresh: 0; url=http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", status: 200},
		"F-D17 two lengths":               {raw: header + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk", code: kapsel.BadResponse},
		"F-D17 NUL in a header":           {raw: header + "X: a\x00b\r\n\r\n", code: kapsel.BadResponse},
		"F-D17 invalid UTF-8 in a header": {raw: header + "X: \xff\xfe\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		"F-D17 NUL and invalid UTF-8":     {raw: header + "Content-Length: 3\r\n\r\n\x00\xff\xfe", status: 200, body: "\x00\xff\xfe"},
		"F-D17 bare LF":                   {raw: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", status: 200, body: "ok"},
		"F-D17 junk after the body":       {raw: header + "Content-Length: 2\r\nConnection: close\r\n\r\nokjunk", status: 200, body: "ok"},
		"F-D17 SSH":                       {raw: "SSH-2.0-OpenSSH_9.6\r\n", code: kapsel.BadResponse},
		"F-D17 body shorter than said":    {raw: header + "Connection: close\r\nContent-Length: 10\r\n\r\nok", status: 200, body: "ok"},
		"F-D17 broken chunks":             {raw: header + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\nzz\r\n", status: 200, body: "ok"},
		"F-D17 negative length":           {raw: header + "Content-Length: -1\r\n\r\n", code: kapsel.BadResponse},
		"F-D17 nothing":                   {raw: "", code: kapsel.BadResponse},
		"F-D17 half a status line":        {raw: "HTTP/1.1 2", code: kapsel.BadResponse},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
				if s.read(r) {
					io.WriteString(conn, tt.raw)
				}
			})
			r := exchange(t.Context(), client(t, loopback), s.URL, nil, []byte("{}"))
			if r.status != tt.status || r.body != tt.body[:min(len(tt.body), BodyKept)] || r.code != tt.code {
				t.Errorf("%s; want status %d, %d bytes, %q", r, tt.status, len(tt.body), tt.code)
			}
			if n := s.count(); n != 1 {
				t.Errorf("the destination saw %d requests", n)
			}
			// http.Client must agree, but for what it makes of a Location.
			if name != "F-D12 302, broken" {
				c := NewClient(loopback)
				defer c.CloseIdleConnections()
				resp, err := c.Do(NewRequest(t.Context(), s.URL, http.Header{}, []byte("{}")))
				if err == nil {
					resp.Body.Close()
				}
				if (err == nil) != (tt.status != 0) || s.count() != 2 {
					t.Errorf("by the client: %v, %d requests in all", err, s.count())
				}
			}
		})
	}
}

// TestDestination_F_D7_EndlessBody checks that an endless body of an answer is cut, and its
// connection closed instead of drained.
func TestDestination_F_D7_EndlessBody(t *testing.T) {
	wrote := make(chan int, 1)
	s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
		s.read(r)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		block, total := bytes.Repeat([]byte{'x'}, 4096), 0
		for {
			n, err := conn.Write(block)
			total += n
			if err != nil {
				wrote <- total
				return
			}
		}
	})
	r := exchange(t.Context(), client(t, loopback), s.URL, nil, nil)
	if r.status != 200 || r.body != strings.Repeat("x", BodyKept) {
		t.Error(r)
	}
	// The connection is closed, not drained: only what socket buffers hold went out.
	if n := <-wrote; n > 16<<20 {
		t.Errorf("the destination could write %d bytes", n)
	}
}

// TestDestination_F_D16_ResetInBody checks that an answer that is reset in the middle of its
// body counts by its status, or as a bad response when the reset overtakes the status.
func TestDestination_F_D16_ResetInBody(t *testing.T) {
	s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
		s.read(r)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
		conn.SetLinger(0)
	})
	if r := exchange(t.Context(), client(t, loopback), s.URL, nil, nil); r.status != 200 && r.code != kapsel.BadResponse {
		t.Error(r) // a reset may overtake the status line
	}
}

// TestDestination_F_D18 checks that an answer that comes before the whole request was read, or
// on a half-closed connection, counts by its status.
func TestDestination_F_D18(t *testing.T) {
	large := bytes.Repeat([]byte{'x'}, 8<<20) // more than socket buffers hold
	t.Run("half-close after the request", func(t *testing.T) {
		s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
			s.read(r)
			conn.CloseRead()
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		})
		if r := exchange(t.Context(), client(t, loopback), s.URL, nil, []byte("x")); r.status != 200 || r.body != "ok" {
			t.Error(r)
		}
	})
	t.Run("200 before the body is read", func(t *testing.T) {
		answered := make(chan struct{})
		s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
			r.ReadString('\n')
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			<-answered
		})
		if r := exchange(t.Context(), client(t, loopback), s.URL, nil, large); r.status != 200 || r.body != "ok" {
			t.Error(r)
		}
		close(answered)
	})
	t.Run("413 early, then closed", func(t *testing.T) {
		s := newSink(t, func(s *sink, conn *net.TCPConn, r *bufio.Reader) {
			r.ReadString('\n')
			io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			conn.CloseWrite()
			io.Copy(io.Discard, r)
		})
		if r := exchange(t.Context(), client(t, loopback), s.URL, nil, large); r.status != 413 || r.body != "no" {
			t.Error(r)
		}
	})
}

// pipeTo returns a transport whose connections are pipes that serve answers, for tests in
// bubbles: there, time passes when everything waits.
func pipeTo(t *testing.T, serve func(conn net.Conn, r *bufio.Reader)) http.RoundTripper {
	var serving sync.WaitGroup
	rt := NewOver(func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		serving.Go(func() {
			defer theirs.Close()
			serve(theirs, bufio.NewReader(theirs))
		})
		return ours, nil
	})
	t.Cleanup(func() { rt.(*transport).CloseIdleConnections(); serving.Wait() })
	return rt
}

var anywhere = &url.URL{Scheme: "http", Host: "destination.example", Path: "/"}

// drip writes a byte every 300 ms until the connection is gone.
func drip(conn net.Conn, text string) {
	for i := 0; ; i = (i + 1) % len(text) {
		if _, err := conn.Write([]byte{text[i]}); err != nil {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// TestDestination_Slow checks that an exchange with a destination that drips or withholds its
// answer ends with the time limit.
func TestDestination_Slow(t *testing.T) {
	const timeout = 30*time.Second + 100*time.Millisecond // not just when a byte comes
	head := "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
	for name, tt := range map[string]struct {
		serve  func(conn net.Conn)
		status int
		body   int
		code   kapsel.Code
	}{
		"F-D3 no answer":       {func(conn net.Conn) { io.Copy(io.Discard, conn) }, 0, 0, kapsel.ConnectionTimeout},
		"F-D5 dripped headers": {func(conn net.Conn) { drip(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1000)) }, 0, 0, kapsel.ConnectionTimeout},
		"F-D6 dripped body":    {func(conn net.Conn) { io.WriteString(conn, head); drip(conn, "x") }, 200, 101, ""},
		"F-D6 no body":         {func(conn net.Conn) { io.WriteString(conn, head); io.Copy(io.Discard, conn) }, 200, 0, ""},
		"F-D10 dripped 1xx":    {func(conn net.Conn) { drip(conn, "HTTP/1.1 103 Hi\r\n\r\n") }, 0, 0, kapsel.ConnectionTimeout},
		"F-D11 101 and then quiet": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n")
			io.Copy(io.Discard, conn)
		}, 101, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := pipeTo(t, func(conn net.Conn, r *bufio.Reader) {
					if _, err := http.ReadRequest(r); err == nil {
						tt.serve(conn)
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				begin := time.Now()
				r := exchange(ctx, rt, anywhere, nil, nil)
				if r.status != tt.status || r.code != tt.code || len(r.body) != tt.body {
					t.Errorf("%s; want status %d, %d bytes, %q", r, tt.status, tt.body, tt.code)
				}
				if took := time.Since(begin); took > timeout {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestReadBodyKeepsAndReads(t *testing.T) {
	for _, tt := range []struct{ size, keep, read, want int }{
		{0, 4, 10, 0}, {3, 4, 10, 3}, {4, 4, 10, 4}, {5, 4, 10, 4}, {10, 4, 10, 4}, {11, 4, 10, 4}, {100_000, BodyKept, BodyRead, BodyKept},
		{100_000, 20_000, 50_000, 20_000}, {5, 0, 10, 0}, {5, 10, 0, 0}, {5, 10, 3, 3},
	} {
		for _, said := range []int64{-1, int64(tt.size)} {
			body := &tracked{Reader: strings.NewReader(strings.Repeat("x", tt.size))}
			got := ReadBody(&http.Response{StatusCode: 200, ContentLength: said, Body: body}, tt.keep, tt.read, nil)
			if len(got) != tt.want || !body.closed || body.n > max(tt.read, 0) {
				t.Errorf("%+v, said %d: kept %d, read %d, closed %v", tt, said, len(got), body.n, body.closed)
			}
		}
	}
}

type tracked struct {
	io.Reader
	n      int
	closed bool
}

func (b *tracked) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n += n
	return n, err
}
func (b *tracked) Close() error { b.closed = true; return nil }

// TestDestination_F_D15_RetryAfter checks that Retry-After is read as seconds or as a date of
// HTTP, never exceeds 24 hours, and is ignored when it is malformed or past.
func TestDestination_F_D15_RetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0":                                0,
		"1":                                time.Second,
		"120":                              120 * time.Second,
		" 120\t":                           120 * time.Second,
		"0120":                             120 * time.Second,
		"86400":                            24 * time.Hour,
		"86401":                            24 * time.Hour,
		"9223372037":                       24 * time.Hour,
		"9223372036854775808":              24 * time.Hour,
		"99999999999999999999999999999999": 24 * time.Hour,
		"-5":                               0,
		"+5":                               0,
		"1e9":                              0,
		"1e300":                            0,
		"NaN":                              0,
		"1.5":                              2 * time.Second,
		"1.0":                              time.Second,
		"0.001":                            time.Second,
		"86399.5":                          24 * time.Hour,
		"9999999999999999999.5":            24 * time.Hour,
		"1.5.2":                            0,
		".5":                               0,
		"1,5":                              time.Second,
		"120, 240":                         2 * time.Minute,
		"soon, 120":                        2 * time.Minute,
		" , 120":                           2 * time.Minute,
		"0, 120":                           0,
		"Sun, 01 Mar 2026 12:02:00 GMT, 9": 2 * time.Minute,
		"Sun, 01 Mar 2026 11:02:00 GMT, 9": 0,
		"9, Sun, 01 Mar 2026 12:02:00 GMT": 9 * time.Second,
		"x, Sun Mar  1 12:02:00 2026":      2 * time.Minute,
		"x, Sun, 01 Mar 2026 12:02:00 GMT": 2 * time.Minute,
		"":                                 0,
		"soon":                             0,
		"١٢٠":                              0,
		"Sun, 01 Mar 2026 12:02:00 GMT":    2 * time.Minute,
		"Sunday, 01-Mar-26 12:02:00 GMT":   2 * time.Minute,
		"Sun Mar  1 12:02:00 2026":         2 * time.Minute,
		"Sun, 01 Mar 2026 11:59:59 GMT":    0,
		"Sun, 01 Mar 2026 12:00:00 GMT":    0,
		"Fri, 31 Dec 9999 23:59:59 GMT":    24 * time.Hour,
		"Sun, 01 Mar 2026 12:02:00 +0000":  0,
		"2026-03-01T12:02:00Z":             0,
		"Thu, 01 Jan 1970 00:00:00 GMT":    0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("RetryAfter(%q) = %s, want %s", value, got, want)
		}
	}
	if got := RetryAfter(http.Header{}, now); got != 0 {
		t.Errorf("without a header = %s", got)
	}
	if got := RetryAfter(http.Header{"Retry-After": {"soon", "2", "3"}}, now); got != 2*time.Second {
		t.Errorf("with three = %s", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Sun, 01 Mar 2026 12:02:00 GMT")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		if d := RetryAfter(http.Header{"Retry-After": {value}}, now); d < 0 || d > kapsel.MaxRetryAfter {
			t.Fatalf("RetryAfter(%q) = %s", value, d)
		}
	})
}

// FuzzResponseCapture sends raw bytes as a response: the exchange ends with a status or a
// code, and keeps no more than it may.
func FuzzResponseCapture(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 S\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 000 Nothing\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 +99 Nothing\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rt := pipeTo(t, func(conn net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				conn.Write(raw)
			}
		})
		r := exchange(t.Context(), rt, anywhere, nil, nil)
		if (r.status < 100) == (r.code == "") || len(r.body) > BodyKept {
			t.Fatal(r)
		}
	})
}
