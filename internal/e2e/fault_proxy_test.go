package e2e

import (
	"bufio"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy connects nodes to PostgreSQL. It can delay answers, hold messages back, reset all connections, and cut a
// connection at a boundary of the wire protocol.
type proxy struct {
	URL    string // the database, through the proxy
	server string

	mu       sync.Mutex
	changed  *sync.Cond // with mu
	listener net.Listener
	links    map[*link]struct{}
	delay    time.Duration // of what the server says
	holdUp   bool          // what clients say is held back
	holdDown bool          // what the server says is held back
	refuse   bool          // connections are reset
	armed    *cut
	closed   bool
	running  sync.WaitGroup
}

// side is where a connection is cut, seen from the statement that the boundary ends.
type side string

const (
	before side = "before" // the server is not told to run and commit it
	after  side = "after"  // the server has run it, and its word that it has is lost
)

// cut is a plan to cut the connection that comes to the n-th boundary.
type cut struct {
	at    side
	n     int
	then  func() // run before the connection closes
	fired chan struct{}
}

// link is one connection.
type link struct{ client, server *net.TCPConn }

func newProxy(t testing.TB, database string) *proxy {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{server: u.Host, listener: l, links: map[*link]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	u.Host = l.Addr().String()
	u.RawQuery = "sslmode=disable" // the usual time to connect: its faults are what is tested
	p.URL = u.String()
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.set(func() { p.closed = true })
		l.Close()
		p.reset()
		p.running.Wait()
	})
	return p
}

// set changes the proxy's settings.
func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.changed.Broadcast()
}

// Slow delays every answer of the server.
func (p *proxy) Slow(d time.Duration) { p.set(func() { p.delay = d }) }

// Hold holds back the messages of clients, of the server, or of both. Connections stay open, and the messages
// arrive when Hold is undone.
func (p *proxy) Hold(up, down bool) { p.set(func() { p.holdUp, p.holdDown = up, down }) }

// Refuse resets all connections, and every new one until Refuse is undone.
func (p *proxy) Refuse(on bool) {
	p.set(func() { p.refuse = on })
	if on {
		p.reset()
	}
}

func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
	p.changed.Broadcast()
}

// CutAt cuts the connection that comes to the n-th boundary from now on, counted over all connections. It calls
// then before. fired is closed after the cut.
func (p *proxy) CutAt(n int, at side, then func()) (fired <-chan struct{}) {
	c := &cut{at: at, n: n, then: then, fired: make(chan struct{})}
	p.set(func() { p.armed = c })
	return c.fired
}

// Disarm cancels the planned cut, and reports whether it had not happened yet.
func (p *proxy) Disarm() (unused bool) {
	p.set(func() { unused, p.armed = p.armed != nil, nil })
	return unused
}

// CutDuring runs a scenario and cuts the connection that comes to its n-th boundary, as CutAt does. It then calls
// heal while the scenario goes on. It reports whether the scenario had such a boundary.
func (p *proxy) CutDuring(scenario func(fired <-chan struct{}), n int, at side, then, heal func()) (reached bool) {
	fired, done := p.CutAt(n, at, then), make(chan struct{})
	go func() {
		defer close(done)
		scenario(fired)
	}()
	select {
	case <-fired:
	case <-done:
		if p.Disarm() {
			return false
		}
		<-fired // it was just being done
	}
	heal()
	<-done
	return true
}

// boundary counts a boundary, and cuts the connection if a cut is planned there.
func (p *proxy) boundary(at side) (cutHere bool) {
	p.mu.Lock()
	c := p.armed
	if c == nil || c.at != at {
		p.mu.Unlock()
		return false
	}
	if c.n--; c.n > 0 {
		p.mu.Unlock()
		return false
	}
	p.armed = nil
	p.mu.Unlock()
	c.then()
	close(c.fired)
	return true
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{client: c.(*net.TCPConn)}
		s, err := net.Dial("tcp", p.server)
		if err != nil {
			l.reset()
			continue
		}
		l.server = s.(*net.TCPConn)
		p.mu.Lock()
		if p.refuse || p.closed {
			l.reset()
			p.mu.Unlock()
			continue
		}
		p.links[l] = struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.forward(l, l.server, l.client, before) })
		p.running.Go(func() {
			p.forward(l, l.client, l.server, after)
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.links, l)
		})
	}
}

func (l *link) reset() {
	for _, c := range []*net.TCPConn{l.client, l.server} {
		if c != nil {
			_ = c.SetLinger(0)
			c.Close()
		}
	}
}

// late is a message and when it arrives.
type late struct {
	at   time.Time
	data []byte
}

// forward copies messages until one side has closed, and then closes both.
func (p *proxy) forward(l *link, to, from *net.TCPConn, at side) {
	defer from.Close()
	defer to.Close()
	queue := make(chan late, 1024)
	var writing sync.WaitGroup
	writing.Go(func() {
		for m := range queue {
			time.Sleep(time.Until(m.at))
			p.held(l, at)
			if _, err := to.Write(m.data); err != nil {
				from.Close()
			}
		}
	})
	defer writing.Wait()
	defer close(queue)
	in := bufio.NewReaderSize(from, 64<<10)
	for first := true; ; first = false {
		m, kind, err := message(in, first && at == before)
		if err != nil {
			return
		}
		// A batch of a client ends with Sync, or is a simple Query; the server answers each
		// with ReadyForQuery.
		if at == before && (kind == 'S' || kind == 'Q') || at == after && kind == 'Z' {
			if p.boundary(at) {
				l.reset()
				return
			}
		}
		p.mu.Lock()
		due := time.Now()
		if at == after {
			due = due.Add(p.delay)
		}
		p.mu.Unlock()
		queue <- late{due, m}
	}
}

// held waits while a direction is held back and the link is open.
func (p *proxy) held(l *link, at side) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && !p.refuse && (at == before && p.holdUp || at == after && p.holdDown) {
		if _, ok := p.links[l]; !ok {
			return
		}
		p.changed.Wait()
	}
}

// message reads one message. The first message of a client has no type.
func message(r *bufio.Reader, untyped bool) (m []byte, kind byte, err error) {
	n := 5
	if untyped {
		n = 4
	}
	head, err := r.Peek(n)
	if err != nil {
		return nil, 0, err
	}
	size := n - 4
	for i, b := range head[n-4:] {
		size += int(b) << (24 - 8*i)
	}
	if !untyped {
		kind = head[0]
	}
	m = make([]byte, size)
	_, err = io.ReadFull(r, m)
	return m, kind, err
}
