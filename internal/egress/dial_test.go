package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/kapsel-hq/kapsel"
)

// refusing returns an error of connect(2).
func refusing(no syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", no)}
}

// zone is a name server's answers, for tests in bubbles: addresses by name. A name that is not
// there does not exist.
type zone struct {
	addrs map[string][]string
	// delay is how long the answer to a question takes; nil: no time. Below 0 there is none.
	delay func(name string, kind dnsmessage.Type) time.Duration
	asked []string // guarded by mu
	mu    sync.Mutex
}

// dial opens a connection to the zone, over TCP: pipes are no packets.
func (z *zone) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for {
			head := make([]byte, 2)
			if _, err := readFull(theirs, head); err != nil {
				return
			}
			question := make([]byte, int(head[0])<<8|int(head[1]))
			if _, err := readFull(theirs, question); err != nil {
				return
			}
			answer, delay := z.answer(question)
			if delay < 0 {
				continue
			}
			time.Sleep(delay)
			if _, err := theirs.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

func readFull(c net.Conn, p []byte) (int, error) {
	for n := 0; n < len(p); {
		m, err := c.Read(p[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func (z *zone) answer(message []byte) ([]byte, time.Duration) {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		panic(err)
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	z.mu.Lock()
	z.asked = append(z.asked, name+" "+q.Type.String())
	z.mu.Unlock()
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	addrs, known := z.addrs[name]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	if z.delay == nil {
		return packed, 0
	}
	return packed, z.delay(name, q.Type)
}

// bubble runs f in a bubble in which names can be looked up: what Go's resolver makes when it is
// used first must not belong to one.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if _, err := newResolver().net.LookupHost(t.Context(), "localhost"); err != nil {
		t.Log(err) // nobody needs the answer
	}
	synctest.Test(t, f)
}

// TestMixedNames: of a name with several addresses, only those that are allowed are tried, and
// the errors of those that were tried decide.
func TestMixedNames(t *testing.T) {
	const inside, inside6 = "10.0.0.7", "fd00::7"
	for name, tt := range map[string]struct {
		addrs string
		errs  map[string]error // by address; one that is missing connects
		code  kapsel.Code      // "": connected
		text  string
	}{
		"one allowed, nothing listens":       {"8.8.8.8 " + inside, map[string]error{"8.8.8.8": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"refused first":                      {inside + " 8.8.8.8", map[string]error{"8.8.8.8": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"of two families":                    {inside + " 2a00::1", map[string]error{"2a00::1": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"of two families, the other way":     {inside6 + " 8.8.8.8", map[string]error{"8.8.8.8": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"one allowed, and it times out":      {inside + " 8.8.8.8", map[string]error{"8.8.8.8": refusing(syscall.ETIMEDOUT)}, kapsel.ConnectionTimeout, "timed out"},
		"one allowed, and it answers":        {inside + " 8.8.8.8 " + inside6, nil, "", ""},
		"none allowed":                       {inside + " " + inside6, nil, kapsel.DialBlocked, "not allowed"},
		"no way to IPv6, and IPv4 refuses":   {"2a00::1 8.8.8.8", map[string]error{"2a00::1": refusing(syscall.ENETUNREACH), "8.8.8.8": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"no IPv6 address, and IPv4 refuses":  {"2a00::1 8.8.8.8", map[string]error{"2a00::1": refusing(syscall.EADDRNOTAVAIL), "8.8.8.8": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"the first refuses, the next is up":  {"8.8.8.8 8.8.4.4", map[string]error{"8.8.8.8": refusing(syscall.ECONNREFUSED), "8.8.4.4": refusing(syscall.ECONNREFUSED)}, kapsel.ConnectionRefused, "refused"},
		"the first refuses, the others wait": {"8.8.8.8 8.8.4.4", map[string]error{"8.8.8.8": refusing(syscall.ECONNREFUSED)}, "", ""},
		"all are out of the way":             {"8.8.8.8 2a00::1", map[string]error{"8.8.8.8": refusing(syscall.ENETUNREACH), "2a00::1": refusing(syscall.ENETUNREACH)}, kapsel.ConnectionRefused, "could not be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				z := &zone{addrs: map[string][]string{"shop.example": strings.Fields(tt.addrs)}}
				d := newDialer(Config{})
				d.names = resolverOver(z.dial)
				d.connect = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
					if err := d.cfg.judge(to); err != nil {
						t.Errorf("%s was tried", to)
						return nil, err
					}
					if err := tt.errs[to.Addr().String()]; err != nil {
						return nil, err
					}
					conn, _ := net.Pipe()
					return conn, nil
				}
				c, err := d.dial(t.Context(), destination{"http", "shop.example"})
				if tt.code == "" {
					if err != nil {
						t.Fatal(err)
					}
					c.Close()
					return
				}
				if err == nil {
					t.Fatal("connected")
				}
				if code, text := Classify(err); code != tt.code || !strings.Contains(text, tt.text) || shortageOf(err) != nil {
					t.Errorf("%s %q, want %s with %q", code, text, tt.code, tt.text)
				}
			})
		})
	}
}

// TestAddressesInTurns: families take turns, and an address that does not answer does not keep
// the next one from being tried.
func TestAddressesInTurns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begin := time.Now()
		var tried []string
		var mu sync.Mutex
		d := newDialer(Config{})
		addrs := []netip.Addr{}
		for _, text := range []string{"2a00::1", "2a00::2", "2a00::3", "8.8.8.8", "8.8.4.4"} {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		turns, err := d.allowed(addrs, 443)
		if err != nil {
			t.Fatal(err)
		}
		d.connect = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			mu.Lock()
			tried = append(tried, fmt.Sprint(to.Addr(), " ", time.Since(begin)))
			mu.Unlock()
			switch to.Addr().String() {
			case "2a00::2":
				return nil, refusing(syscall.ECONNREFUSED)
			case "8.8.4.4":
				conn, _ := net.Pipe()
				return conn, nil
			}
			<-ctx.Done()
			return nil, dialError(ctx.Err())
		}
		conn, err := d.race(t.Context(), turns)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		want := []string{"2a00::1 0s", "8.8.8.8 250ms", "2a00::2 500ms", "8.8.4.4 500ms"}
		if !slices.Equal(tried, want) {
			t.Errorf("tried %q, want %q", tried, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = d.race(ctx, turns[:2]); err == nil {
			t.Fatal("connected")
		}
		if code, _ := Classify(err); code != kapsel.ConnectionTimeout {
			t.Errorf("classified as %s: %v", code, err)
		}
	})
}

// TestNoTimeToDial: an exchange that ends between the look-up and the dial ends as what it is,
// however many addresses there are.
func TestNoTimeToDial(t *testing.T) {
	over, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	cut, cutNow := context.WithCancel(t.Context())
	cutNow()
	two := []netip.AddrPort{netip.MustParseAddrPort("[2a00::1]:443"), netip.MustParseAddrPort("8.8.8.8:443")}
	for _, tt := range []struct {
		ctx  context.Context
		to   []netip.AddrPort
		want kapsel.Code
	}{
		{over, two, kapsel.ConnectionTimeout},
		{over, two[:1], kapsel.ConnectionTimeout},
		{cut, two, kapsel.OutcomeUnknown},
		{cut, two[:1], kapsel.OutcomeUnknown},
	} {
		_, err := newDialer(Config{}).race(tt.ctx, tt.to)
		if err == nil {
			t.Fatalf("%v: connected", tt.to)
		}
		if code, _ := Classify(err); code != tt.want {
			t.Errorf("%v: classified as %s, want %s: %v", tt.to, code, tt.want, err)
		}
	}
}

// TestLookupsHaveTheirTime: a name server that does not answer some questions, or none, takes
// nothing from the time for connecting, and what it does answer is used.
func TestLookupsHaveTheirTime(t *testing.T) {
	never := time.Duration(-1)
	only := func(kind dnsmessage.Type, after, other time.Duration) func(string, dnsmessage.Type) time.Duration {
		return func(_ string, k dnsmessage.Type) time.Duration {
			if k == kind {
				return after
			}
			return other
		}
	}
	both := []string{"8.8.8.8", "2a00::1"}
	for name, tt := range map[string]struct {
		addrs []string
		delay func(string, dnsmessage.Type) time.Duration
		want  string
		takes time.Duration // at most, where want is ""
	}{
		"both":                          {both, nil, "8.8.8.8 2a00::1", 0},
		"AAAA is dropped":               {both, only(dnsmessage.TypeA, 0, never), "8.8.8.8", familyGrace},
		"A is dropped":                  {both, only(dnsmessage.TypeAAAA, 0, never), "2a00::1", familyGrace},
		"AAAA is dropped, A is slow":    {both, only(dnsmessage.TypeA, time.Second, never), "8.8.8.8", time.Second + familyGrace},
		"AAAA comes in time":            {both, only(dnsmessage.TypeAAAA, familyGrace-1, 0), "8.8.8.8 2a00::1", familyGrace - 1},
		"no AAAA, A is slow":            {[]string{"8.8.8.8"}, only(dnsmessage.TypeA, 1900*time.Millisecond, 0), "8.8.8.8", 1900 * time.Millisecond},
		"nothing is answered":           {both, only(dnsmessage.TypeA, never, never), "", lookupTimeout},
		"there is no such name":         {nil, nil, "", lookupTimeout},
		"no such name, AAAA is dropped": {nil, only(dnsmessage.TypeA, 0, never), "", lookupTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				z := &zone{delay: tt.delay, addrs: map[string][]string{}}
				if tt.addrs != nil {
					z.addrs["shop.example"] = tt.addrs
				}
				begin := time.Now()
				addrs, err := resolverOver(z.dial).lookup(t.Context(), "shop.example.")
				took := time.Since(begin)
				var got []string
				for _, a := range addrs {
					got = append(got, a.String())
				}
				slices.Sort(got)
				want := strings.Fields(tt.want)
				slices.Sort(want)
				if !slices.Equal(got, want) || took > tt.takes || took < tt.takes && tt.want != "" {
					t.Errorf("%q, %v after %v; want %q after %v; asked %q", got, err, took, want, tt.takes, z.asked)
				}
				if tt.want == "" {
					code, _ := Classify(dialError(err))
					if code != kapsel.DNSError {
						t.Errorf("classified as %s: %v", code, err)
					}
				}
				time.Sleep(time.Minute) // what still runs has ended
			})
		})
	}
}

// TestLookupIsCutByTheExchange: an exchange that has less time than a look-up ends in its time.
func TestLookupIsCutByTheExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := &zone{delay: func(string, dnsmessage.Type) time.Duration { return -1 }}
		r := resolverOver(z.dial)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := r.lookup(ctx, "shop.example.")
		if code, _ := Classify(dialError(err)); code != kapsel.DNSError || time.Since(begin) != time.Second {
			t.Errorf("%s after %v: %v", code, time.Since(begin), err)
		}
		ctx, cut := context.WithCancel(t.Context())
		cut()
		_, err = r.lookup(ctx, "shop.example.")
		if code, _ := Classify(dialError(err)); code != kapsel.OutcomeUnknown {
			t.Errorf("canceled: %s: %v", code, err)
		}
		time.Sleep(time.Minute)
	})
}

// TestDialHasItsOwnTime: however long the look-up took, connecting has all of its time.
func TestDialHasItsOwnTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := &zone{addrs: map[string][]string{"shop.example": {"8.8.8.8"}}, delay: func(string, dnsmessage.Type) time.Duration { return 1900 * time.Millisecond }}
		d := newDialer(Config{})
		d.names = resolverOver(z.dial)
		var connecting time.Time
		d.connect = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			connecting = time.Now()
			<-ctx.Done()
			return nil, dialError(ctx.Err())
		}
		_, err := d.dial(t.Context(), destination{"http", "shop.example."})
		if code, _ := Classify(err); code != kapsel.ConnectionTimeout || time.Since(connecting) != defaultDialTimeout {
			t.Errorf("%s after %v: %v", code, time.Since(connecting), err)
		}
	})
}

// shortages are errors that say nothing about a destination.
var shortages = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN, syscall.ENOSPC,
}

// TestShortages: what this machine has too little of is a Shortage, wherever it is met before a
// byte of the request was sent.
func TestShortages(t *testing.T) {
	for _, no := range shortages {
		t.Run(no.Error(), func(t *testing.T) {
			short := func(t *testing.T, where string, err error) {
				t.Helper()
				if s := shortageOf(err); s == nil || s.Limit == "" || !errors.Is(s, no) {
					t.Errorf("%s: %v is no shortage", where, err)
				}
			}
			addr := netip.MustParseAddr("8.8.8.8")
			bubble(t, func(t *testing.T) {
				// Looking up.
				r := resolverOver(func(context.Context, string, string) (net.Conn, error) { return nil, refusing(no) })
				_, err := r.lookup(t.Context(), "shop.example.")
				short(t, "connecting to the name server", err)
				r = resolverOver(func(context.Context, string, string) (net.Conn, error) {
					ours, _ := net.Pipe()
					return &breaking{Conn: ours, fails: func([]byte) (int, error) { return 0, refusing(no) }}, nil
				})
				_, err = r.lookup(t.Context(), "shop.example.")
				short(t, "asking the name server", err)

				// Connecting, beside other addresses, and making the socket.
				d := newDialer(Config{})
				d.connect = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, refusing(no) }
				_, err = d.dial(t.Context(), destination{"http", addr.String()})
				short(t, "connecting", err)
				short(t, "beside an address that is out of the way", deciding([]error{refusing(syscall.ENETUNREACH), refusing(no)}))
				short(t, "beside a refused address", deciding([]error{&BlockedError{}, refusing(no)}))

				// Shaking hands, and writing the first byte.
				d.connect = func(context.Context, netip.AddrPort) (net.Conn, error) {
					ours, _ := net.Pipe()
					return &breaking{Conn: ours, fails: func([]byte) (int, error) { return 0, refusing(no) }}, nil
				}
				_, err = d.dial(t.Context(), destination{"https", addr.String()})
				short(t, "shaking hands", err)
				tr := newTransport(d.dial)
				_, err = tr.RoundTrip(NewRequest(t.Context(), &url.URL{Scheme: "http", Host: addr.String()}, http.Header{}, []byte("x")))
				short(t, "writing", err)
				if _, is := errors.AsType[*Shortage](err); !is {
					t.Errorf("the transport returned %v", err)
				}
			})
		})
	}
	for _, err := range []error{refusing(syscall.ECONNREFUSED), refusing(syscall.ECONNRESET), refusing(syscall.EPERM), refusing(syscall.EHOSTUNREACH), context.DeadlineExceeded, nil} {
		if s := shortageOf(err); s != nil {
			t.Errorf("%v is a shortage of %s", err, s.Limit)
		}
	}
}

// TestShortageOfOneDestination: a shortage that only one destination meets counts after ten
// minutes, as long as others can be dialled, and until it can be dialled itself.
func TestShortageOfOneDestination(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lacking, others := true, true
		tr := newTransport(func(_ context.Context, to destination) (*conn, error) {
			if to.host == "lacking.example" && lacking || !others {
				return nil, refusing(syscall.EADDRNOTAVAIL)
			}
			ours, theirs := net.Pipe()
			theirs.Close()
			return newConn(ours), nil
		})
		dial := func(host string) (counts bool) {
			t.Helper()
			_, err := tr.open(t.Context(), destination{"http", host})
			if err == nil {
				return false
			}
			if s := shortageOf(err); s != nil {
				return false
			}
			code, text := Classify(err)
			if code != kapsel.ConnectionRefused || !strings.Contains(text, "10m0s") {
				t.Fatalf("%s %q", code, text)
			}
			return true
		}
		// until dials for so long, twice a minute, and says whether the last dial counted.
		until := func(d time.Duration) (counts bool) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(30 * time.Second) {
				dial("other.example")
				if counts && !dial("lacking.example") {
					t.Fatal("one that counts is followed by one that does not")
				}
				counts = dial("lacking.example")
			}
			return counts
		}
		if until(starvedAfter) {
			t.Error("counts within ten minutes")
		}
		if !until(starvedAfter) {
			t.Error("does not count after ten minutes")
		}
		time.Sleep(4 * time.Hour) // as retries can be apart
		if dial("other.example"); !dial("lacking.example") {
			t.Error("does not count at the next retry")
		}
		others = false
		time.Sleep(othersWithin)
		if dial("lacking.example") {
			t.Error("counts although no dial succeeds")
		}
		others, lacking = true, false
		dial("lacking.example")
		lacking = true
		if until(starvedAfter) {
			t.Error("counts within ten minutes of a dial that succeeded")
		}
		time.Sleep(spellGap)
		if until(starvedAfter) {
			t.Error("counts within ten minutes after it was not tried")
		}
		for i := range 1000 {
			others = false
			dial(fmt.Sprintf("host-%d.example", i))
		}
		time.Sleep(spellGap)
		dial("host.example")
		if n := len(tr.scarce.spells); n != 1 {
			t.Errorf("%d spells are kept", n)
		}
	})
}

// TestNoIPv6: an IPv6 address that this machine has no address to reach from is out of reach, not
// a shortage.
func TestNoIPv6(t *testing.T) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	has := slices.ContainsFunc(own, func(a net.Addr) bool {
		ip := a.(*net.IPNet).IP
		return ip.To4() == nil && ip.IsGlobalUnicast()
	})
	for text, short := range map[string]bool{"[2606:4700::1111]:443": has, "1.1.1.1:443": true, "[::ffff:1.1.1.1]:443": true} {
		addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))
		err := &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
		if got := shortageOf(err) != nil; got != short {
			t.Errorf("%s: a shortage is %v, want %v", text, got, short)
		}
		// Beside an address that refuses, IPv4's shortage decides: that address might have answered.
		decides := shortageOf(deciding([]error{refusing(syscall.ECONNREFUSED), err})) != nil
		if four := addr.IP.To4() != nil; decides != four {
			t.Errorf("%s: its shortage decides: %v, want %v", text, decides, four)
		}
	}
}

// TestClosedIsNoIdle: connections that the other side closed are not given up for others: that
// would free nothing.
func TestClosedIsNoIdle(t *testing.T) {
	kept := make(chan struct{})
	s := serve(t, "http", func(_ int, conn net.Conn, r *bufio.Reader) {
		if readID(r) != "" {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			<-kept
		}
	})
	tr := s.client(t).(*transport)
	if r := exchange(t.Context(), tr, s.URL, http.Header{"X-Id": {"1"}}, nil); r.status != 200 {
		t.Fatal(r)
	}
	tr.mu.Lock()
	c := tr.idle[destination{"http", s.Host}][0]
	tr.mu.Unlock()
	close(kept)
	c.wire.mu.Lock()
	for c.refused == nil {
		c.wire.settled.Wait()
	}
	c.wire.mu.Unlock()
	if tr.evict() || tr.waits() != 0 {
		t.Errorf("it was given up, %d wait", tr.waits())
	}
}

// TestIdleGoesFirst: where files or memory are short, connections that wait are given up for one
// that is needed; they would not help against a shortage of ports.
func TestIdleGoesFirst(t *testing.T) {
	for no, evicts := range map[syscall.Errno]bool{syscall.EMFILE: true, syscall.ENOMEM: true, syscall.EADDRNOTAVAIL: false} {
		bubble(t, func(t *testing.T) {
			const most = 10
			open := 0
			var mu sync.Mutex
			var tr *transport
			rt := NewOver(func(context.Context, string, string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if open == most {
					return nil, refusing(no)
				}
				open++
				ours, theirs := net.Pipe()
				go func() {
					for r := bufio.NewReader(theirs); readID(r) != ""; {
						io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}()
				return &closing{Conn: ours, closed: func() { mu.Lock(); open--; mu.Unlock() }}, nil
			})
			tr = rt.(*transport)
			defer tr.CloseIdleConnections()
			for i := range 3 * most {
				u := &url.URL{Scheme: "http", Host: fmt.Sprintf("host-%d.example", i), Path: "/"}
				resp, err := tr.RoundTrip(NewRequest(t.Context(), u, http.Header{"X-Id": {"1"}}, nil))
				if err == nil {
					ReadBody(resp, 0, 0, nil)
				}
				if ok := i < most || evicts; ok != (err == nil) {
					t.Fatalf("%v: request %d: %v", no, i, err)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

// closing is a connection that says when it is closed.
type closing struct {
	net.Conn
	closed func()
	once   sync.Once
}

func (c *closing) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// TestFewFiles runs itself in a process that may open few files: connections leave the last ones
// to others, and what cannot be found out is neither allowed nor the destination's failure.
func TestFewFiles(t *testing.T) {
	const limit = 64
	if os.Getenv("EGRESS_FEW_FILES") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFewFiles$")
		cmd.Env = append(os.Environ(), "EGRESS_FEW_FILES=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	s := serve(t, "http", func(_ int, conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	d := newDialer(loopback)
	to := destination{"http", s.Host}
	var open []*conn
	for {
		c, err := d.dial(t.Context(), to)
		if err != nil {
			if short := shortageOf(err); short == nil || !strings.Contains(short.Limit, "RLIMIT_NOFILE is 64") {
				t.Fatal(err)
			}
			break
		}
		open = append(open, c)
		if len(open) > limit {
			t.Fatal("no shortage")
		}
	}
	if _, err := d.names.lookup(t.Context(), "shop.example"); shortageOf(err) == nil {
		t.Errorf("a look-up: %v", err)
	}
	var files []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	if _, err := d.dial(t.Context(), to); shortageOf(err) == nil {
		t.Errorf("without any file: %v", err)
	}
	public := netip.MustParseAddrPort("8.8.8.8:443")
	if err := d.cfg.judge(public); shortageOf(err) == nil {
		t.Errorf("an address that cannot be compared with this machine's own: %v", err)
	}
	self := Listeners(&net.TCPAddr{IP: net.IPv6unspecified, Port: 443})
	if _, err := self(public); shortageOf(err) == nil {
		t.Errorf("an address that cannot be compared with a listener's: %v", err)
	}
	if CheckURL("https://8.8.8.8/", Config{}) != nil {
		t.Error("an address that cannot be compared is refused by its URL")
	}
	for _, f := range files {
		f.Close()
	}
	for _, c := range open {
		c.Close()
	}
	if c, err := d.dial(t.Context(), to); err != nil {
		t.Errorf("with files again: %v", err)
	} else {
		c.Close()
	}
}
