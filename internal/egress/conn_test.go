package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// server is a destination that does with each connection what a test says, with TLS or without.
type server struct {
	*url.URL
	roots *x509.CertPool
	conns atomic.Int64
}

// serve serves each connection with handle, which gets its number, 1, 2, …. The connection is
// closed when handle returns.
func serve(t testing.TB, scheme string, handle func(n int, conn net.Conn, r *bufio.Reader)) *server {
	t.Helper()
	s := &server{}
	var config *tls.Config
	if scheme == "https" {
		ca := newAuthority(t)
		s.roots = x509.NewCertPool()
		s.roots.AddCert(ca.cert)
		config = &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}}
	}
	addr := accept(t, func(raw *net.TCPConn) {
		conn := net.Conn(raw)
		if config != nil {
			conn = tls.Server(raw, config)
		}
		handle(int(s.conns.Add(1)), conn, bufio.NewReader(conn))
		conn.Close()
	})
	s.URL = &url.URL{Scheme: scheme, Host: addr, Path: "/hook"}
	return s
}

// client makes a transport that trusts the server.
func (s *server) client(t testing.TB) http.RoundTripper {
	cfg := loopback
	cfg.RootCAs = s.roots
	return client(t, cfg)
}

// readID reads a whole request and returns its X-Id; "" at the end of the connection.
func readID(r *bufio.Reader) string {
	req, err := http.ReadRequest(r)
	if err != nil {
		return ""
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return ""
	}
	return req.Header.Get("X-Id")
}

// TestBytesLeftAreNoAnswer: what a destination sends beyond an answer is never taken for the
// answer to the next request, which goes out once, whatever its size.
func TestBytesLeftAreNoAnswer(t *testing.T) {
	const (
		ok    = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		whole = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n" // would do for an answer
	)
	for name, tt := range map[string]struct{ answer, left string }{
		"204 with a length":                  {"HTTP/1.1 204 No Content\r\nContent-Length: 11\r\n\r\n", `{"ok":true}`},
		"204 with chunks":                    {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n0\r\n\r\n"},
		"204 without a word about the body":  {"HTTP/1.1 204 No Content\r\n\r\n", `{"ok":true}`},
		"205 with a body":                    {"HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok", "more"},
		"more than the length":               {ok, "more"},
		"more than the length, at once":      {ok + "more", ""},
		"a second answer":                    {ok, whole},
		"a second answer, at once":           {ok + whole, ""},
		"a second answer, at once, in parts": {ok + whole[:9], whole[9:]},
		"a line's end":                       {ok, "\r\n"},
		"an interim answer":                  {ok, "HTTP/1.1 103 Early Hints\r\n\r\n"},
		"after the last chunk":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "\r\n"},
		"408 while idle":                     {ok, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"},
		"nothing, 301":                       {"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", ""},
		"nothing, 404":                       {"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", ""},
		"nothing, 500":                       {"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
	} {
		for _, scheme := range []string{"http", "https"} {
			for _, size := range []int{0, 10, 5000, 1 << 20} {
				t.Run(fmt.Sprintf("%s/%s/%d bytes", name, scheme, size), func(t *testing.T) {
					var requests sync.Map // by id, how often
					left := make(chan struct{})
					s := serve(t, scheme, func(n int, conn net.Conn, r *bufio.Reader) {
						for {
							id := readID(r)
							if id == "" {
								return
							}
							if _, again := requests.LoadOrStore(id, true); again {
								t.Errorf("request %s was sent twice", id)
							}
							if id != "1" { // it must get this answer, not what was left
								io.WriteString(conn, "HTTP/1.1 418 Mine\r\nContent-Length: 0\r\n\r\n")
								continue
							}
							io.WriteString(conn, tt.answer)
							<-left // the client has read the answer
							io.WriteString(conn, tt.left)
							left <- struct{}{}
						}
					})
					rt := s.client(t)
					body := make([]byte, size)
					first := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {"1"}}, body)
					if first.status != 200 && !strings.Contains(tt.answer, strconv.Itoa(first.status)) {
						t.Fatal(first)
					}
					left <- struct{}{}
					<-left
					if second := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {"2"}}, body); second.status != 418 {
						t.Errorf("the second request: %s", second)
					}
					if n := s.conns.Load(); n != 2 {
						t.Errorf("%d connections, want one for each request", n)
					}
				})
			}
		}
	}
}

// TestBytesBeforeTheFirstRequest: not even on a new connection is something an answer that came
// before the request.
func TestBytesBeforeTheFirstRequest(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			var requests atomic.Int64
			s := serve(t, scheme, func(_ int, conn net.Conn, r *bufio.Reader) {
				if tlsConn, ok := conn.(*tls.Conn); ok && tlsConn.Handshake() != nil {
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				if readID(r) != "" {
					requests.Add(1)
				}
			})
			tr := s.client(t).(*transport)
			dial := tr.dial
			tr.dial = func(ctx context.Context, to destination) (*conn, error) {
				c, err := dial(ctx, to)
				if err == nil { // go on only when there is something to read
					err = c.wire.raw.Read(func(fd uintptr) bool {
						_, err := receive(fd, make([]byte, 1), true)
						return err == nil
					})
				}
				return c, err
			}
			r := exchange(t.Context(), tr, s.URL, http.Header{"X-Id": {"1"}}, nil)
			if r.code != kapsel.BadResponse || !strings.Contains(r.text, "before the request") {
				t.Error(r)
			}
			if n := requests.Load(); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// TestSessionTickets: what a server sends for TLS itself, after the handshake and between
// requests, is no stray byte.
func TestSessionTickets(t *testing.T) {
	s := serve(t, "https", func(_ int, conn net.Conn, r *bufio.Reader) {
		for readID(r) != "" {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	rt := s.client(t)
	for i := range 20 {
		if r := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {strconv.Itoa(i + 1)}}, nil); r.status != 200 {
			t.Fatal(r)
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("20 requests took %d connections", n)
	}
}

// TestRecords follows TLS records that come in pieces.
func TestRecords(t *testing.T) {
	var stream []byte
	for _, n := range []int{1, 0, 300, 16384} {
		stream = append(stream, 23, 3, 3, byte(n>>8), byte(n))
		stream = append(stream, make([]byte, n)...)
	}
	for _, piece := range []int{1, 2, 5, 7, 300, len(stream)} {
		var r records
		for rest := stream; len(rest) > 0; {
			n := min(piece, len(rest))
			r.pass(rest[:n])
			rest = rest[n:]
		}
		if !r.whole() {
			t.Errorf("in pieces of %d the last record has not ended", piece)
		}
		r.pass(stream[:3])
		if r.whole() {
			t.Errorf("half a header is whole")
		}
		r.pass(stream[3:5])
		if r.whole() {
			t.Errorf("a header alone is whole")
		}
	}
}

// TestPartOfARecord: bytes of a TLS record that has begun before a request and would end after
// it began are seen.
func TestPartOfARecord(t *testing.T) {
	next := make(chan struct{})
	s := serve(t, "https", func(n int, conn net.Conn, r *bufio.Reader) {
		if readID(r) == "" {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if n > 1 {
			readID(r)
			return
		}
		<-next
		conn.(*tls.Conn).NetConn().Write([]byte{23, 3, 3, 0, 100, 1, 2, 3})
		next <- struct{}{}
		readID(r)
	})
	rt := s.client(t)
	for i := range 2 {
		if r := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {strconv.Itoa(i + 1)}}, make([]byte, 10_000)); r.status != 200 {
			t.Fatal(r)
		}
		if i == 0 {
			next <- struct{}{}
			<-next
		}
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestStraysAtAnyMoment: whenever strays come, no request is sent twice, and a request that is
// answered has its own answer, but for strays that came after it was sent.
func TestStraysAtAnyMoment(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			var requests sync.Map
			s := serve(t, scheme, func(_ int, conn net.Conn, r *bufio.Reader) {
				var writing sync.Mutex // answers and strays do not mix
				write := func(text string) {
					writing.Lock()
					defer writing.Unlock()
					io.WriteString(conn, text)
				}
				var straying sync.WaitGroup
				defer straying.Wait()
				for {
					id := readID(r)
					if id == "" {
						return
					}
					if _, again := requests.LoadOrStore(id, true); again {
						t.Errorf("request %s was sent twice", id)
					}
					write(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id))
					if rand.IntN(3) == 0 {
						straying.Go(func() {
							time.Sleep(rand.N(200 * time.Microsecond))
							write("stray")
						})
					}
				}
			})
			rt := s.client(t)
			var sending sync.WaitGroup
			var answered atomic.Int64
			const each = 300
			for g := range 4 {
				sending.Go(func() {
					for i := range each {
						id := fmt.Sprintf("%d-%d", g, i)
						r := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {id}}, make([]byte, i%3*5000))
						switch {
						case r.status == 200 && r.body == id:
							answered.Add(1)
						case r.status != 0:
							t.Errorf("request %s: %s %q", id, r, r.body)
						case r.code != kapsel.BadResponse:
							t.Errorf("request %s: %s", id, r)
						}
					}
				})
			}
			sending.Wait()
			t.Logf("%d of %d answered, %d connections", answered.Load(), 4*each, s.conns.Load())
			if answered.Load() == 0 {
				t.Error("nothing was answered")
			}
		})
	}
}

// TestEarlyAnswerIsNotReused: an answer that came before the request was written whole leaves
// no connection to the next request.
func TestEarlyAnswerIsNotReused(t *testing.T) {
	answered := make(chan struct{})
	s := serve(t, "http", func(n int, conn net.Conn, r *bufio.Reader) {
		if n == 1 {
			r.ReadString('\n')
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			<-answered // meanwhile the rest of the request does not fit
			return
		}
		readID(r)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	rt := s.client(t)
	for range 2 {
		if r := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {"1"}}, make([]byte, 8<<20)); r.status != 200 {
			t.Error(r)
		}
	}
	close(answered)
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// pipes returns a transport over pipes that answers each request after a time.
func pipes(t *testing.T, takes func() time.Duration) (rt http.RoundTripper, dials *atomic.Int64) {
	dials = new(atomic.Int64)
	rt = pipeTo(t, func(conn net.Conn, r *bufio.Reader) {
		dials.Add(1)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			time.Sleep(takes())
			if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
		}
	})
	return rt, dials
}

// TestAge: a connection takes no new request from its second minute on, however busy it is; a
// request under way goes on.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := time.Duration(0)
		rt, dials := pipes(t, func() time.Duration { return takes })
		send := func() {
			t.Helper()
			if r := exchange(t.Context(), rt, anywhere, nil, nil); r.status != 200 {
				t.Fatal(r)
			}
		}
		for begin := time.Now(); time.Since(begin) < 10*time.Minute; time.Sleep(time.Second) {
			send()
			if n, want := dials.Load(), int64(time.Since(begin)/maxAge)+1; n != want {
				t.Fatalf("after %v there were %d dials, want %d", time.Since(begin), n, want)
			}
		}
		takes = 10 * time.Minute
		send() // on one that is 0 to 2 minutes old
		takes = 0
		before := dials.Load()
		send()
		if n := dials.Load(); n != before+1 {
			t.Errorf("%d dials, were %d: one of ten minutes was used again", n, before)
		}
	})
}

// waits returns how many connections wait for another request.
func (t *transport) waits() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting
}

// TestIdle: connections that wait are closed after a time, and when there are too many.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := time.Second
		rt, dials := pipes(t, func() time.Duration { return takes })
		tr := rt.(*transport)
		burst := func(n, hosts int) {
			var sending sync.WaitGroup
			for i := range n {
				sending.Go(func() {
					u := &url.URL{Scheme: "http", Host: fmt.Sprintf("host-%d.example", i%hosts), Path: "/"}
					if r := exchange(t.Context(), rt, u, nil, nil); r.status != 200 {
						t.Error(r)
					}
				})
			}
			sending.Wait()
		}
		burst(1000, 1) // what one endpoint may have at once
		if n := tr.waits(); n != 1000 {
			t.Errorf("%d connections to one host wait", n)
		}
		burst(1100, 1100)
		if n := tr.waits(); n != maxIdle {
			t.Errorf("%d connections wait", n)
		}
		time.Sleep(idleTimeout + sweepEvery)
		synctest.Wait()
		tr.mu.Lock()
		if tr.waiting != 0 || len(tr.idle) != 0 || tr.sweeping {
			t.Errorf("%d connections to %d hosts wait after %v", tr.waiting, len(tr.idle), idleTimeout)
		}
		tr.mu.Unlock()
		before := dials.Load()
		burst(1, 1)
		if dials.Load() != before+1 {
			t.Error("a closed connection was used")
		}
		tr.CloseIdleConnections()
		if n := tr.waits(); n != 0 {
			t.Errorf("%d connections wait after CloseIdleConnections", n)
		}
	})
}

// TestNoReuseWithoutTheBody: a request whose body cannot be had again is not tried on another
// connection.
func TestNoReuseWithoutTheBody(t *testing.T) {
	s := serve(t, "http", func(_ int, conn net.Conn, r *bufio.Reader) {
		if readID(r) != "" {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	rt := s.client(t)
	if r := exchange(t.Context(), rt, s.URL, http.Header{"X-Id": {"1"}}, nil); r.status != 200 {
		t.Fatal(r)
	}
	c := rt.(*transport).take(destination{"http", s.Host})
	if c != nil { // else it is known to be closed already
		rt.(*transport).put(destination{"http", s.Host}, c)
	}
	req := NewRequest(t.Context(), s.URL, http.Header{"X-Id": {"2"}}, []byte("x"))
	req.GetBody, req.Body = nil, io.NopCloser(io.MultiReader(bytes.NewReader([]byte("x"))))
	resp, err := rt.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	} else if code, _ := Classify(err); code != kapsel.BadResponse {
		t.Error(err)
	}
	if _, ok := rewound(req); ok {
		t.Error("a body that was read is there again")
	}
}

// TestCertificateAskedFor: a server that asks for a certificate and hangs up without an answer
// is a matter of TLS, and the text says so; not when it has answered before.
func TestCertificateAskedFor(t *testing.T) {
	ca := newAuthority(t)
	cfg := loopback
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(ca.cert)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, tt := range map[string]struct {
			auth    tls.ClientAuthType
			answers int
			code    kapsel.Code
			says    bool
		}{
			"required":                           {tls.RequireAnyClientCert, 0, kapsel.TLSError, true},
			"asked for, then hung up":            {tls.RequestClientCert, 0, kapsel.TLSError, true},
			"asked for, answered, then hung up":  {tls.RequestClientCert, 1, kapsel.BadResponse, false},
			"not asked for, then hung up":        {tls.NoClientCert, 0, kapsel.BadResponse, false},
			"asked for, and gone without a word": {tls.RequestClientCert, 0, kapsel.TLSError, true},
		} {
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), name), func(t *testing.T) {
				config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}, ClientAuth: tt.auth, MaxVersion: version}
				s := newSink(t, func(_ *sink, raw *net.TCPConn, _ *bufio.Reader) {
					conn := tls.Server(raw, config)
					if conn.Handshake() != nil {
						return
					}
					r := bufio.NewReader(conn)
					for range tt.answers {
						readID(r)
						io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
					if strings.Contains(name, "gone") {
						raw.SetLinger(0)
					}
					r.ReadByte()
				})
				u := *s.URL
				u.Scheme = "https"
				rt := client(t, cfg)
				for range tt.answers {
					if r := exchange(t.Context(), rt, &u, http.Header{"X-Id": {"1"}}, nil); r.status != 200 {
						t.Fatal(r)
					}
				}
				r := exchange(t.Context(), rt, &u, http.Header{"X-Id": {"2"}}, nil)
				if r.code != tt.code || strings.Contains(r.text, "client certificate") != tt.says {
					t.Error(r)
				}
			})
		}
	}
}

// TestNothingButOnce: an error of a connection that was used before is repeated only while the
// system has taken no byte of the request.
func TestNothingButOnce(t *testing.T) {
	broken := errors.New("broken")
	for _, taken := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d bytes taken", taken), func(t *testing.T) {
			var dials, requests atomic.Int64
			fail := false
			rt := NewOver(func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				ours, theirs := net.Pipe()
				go func() {
					defer theirs.Close()
					for r := bufio.NewReader(theirs); readID(r) != ""; {
						requests.Add(1)
						io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}()
				return &breaking{Conn: ours, fails: func(p []byte) (int, error) {
					if !fail {
						return 0, nil
					}
					fail = false
					n, _ := ours.Write(p[:taken])
					return n, broken
				}}, nil
			})
			defer rt.(*transport).CloseIdleConnections()
			send := func() result {
				return exchange(t.Context(), rt, anywhere, http.Header{"X-Id": {"1"}}, []byte("x"))
			}
			if r := send(); r.status != 200 {
				t.Fatal(r)
			}
			fail = true
			r := send()
			if taken == 0 && (r.status != 200 || dials.Load() != 2 || requests.Load() != 2) {
				t.Errorf("%s, %d dials, %d requests", r, dials.Load(), requests.Load())
			}
			if taken > 0 && (r.code != kapsel.BadResponse || dials.Load() != 1 || requests.Load() != 1) {
				t.Errorf("%s, %d dials, %d requests", r, dials.Load(), requests.Load())
			}
		})
	}
}

// breaking is a connection whose writes may fail.
type breaking struct {
	net.Conn
	fails func(p []byte) (int, error)
}

func (b *breaking) Write(p []byte) (int, error) {
	if n, err := b.fails(p); err != nil {
		return n, err
	}
	return b.Conn.Write(p)
}
