package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Limits of idle connections. There is none for one host: many endpoints may share it, and each may
// have up to 1,000 exchanges at once.
const (
	maxIdle     = 1024
	idleTimeout = 90 * time.Second
	// maxAge is the age from which a connection takes no new request, so that Kapsel follows a
	// destination that moved to another address. An exchange under way is not affected.
	maxAge = 2 * time.Minute
	// sweepEvery is how often old and closed idle connections are dropped.
	sweepEvery = 5 * time.Second
)

// maxResponseHeader is the longest header of a response, in bytes.
const maxResponseHeader = 64 << 10

// transport makes exchanges over connections that it dials and pools itself. net/http only speaks
// HTTP on each of them: its own pool would repeat requests.
type transport struct {
	dial   func(ctx context.Context, to destination) (*conn, error)
	http   *http.Transport // only for its connections
	scarce scarcity

	mu       sync.Mutex
	idle     map[destination][]*conn // connections that wait for another request, longest wait first
	waiting  int                     // number of connections in idle
	sweeping bool                    // a sweep is scheduled
	closing  bool                    // CloseIdleConnections was called: keep no connection until the next request
}

// destination identifies where connections lead: a scheme and a host, with its port if the URL has
// one.
type destination struct{ scheme, host string }

// newTransport returns a transport over connections that dial opens.
func newTransport(dial func(ctx context.Context, to destination) (*conn, error)) *transport {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &transport{
		dial: dial,
		idle: map[destination][]*conn{},
		http: &http.Transport{
			Proxy: nil, // whatever the environment says
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return ctx.Value(handedOver{}).(*conn), nil
			},
			Protocols:              &http1,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxResponseHeader,
		},
	}
}

// handedOver is the context key under which open hands a connection to net/http.
type handedOver struct{}

// open dials a connection. If this machine is short of something that idle connections hold, it
// closes them one by one, longest wait first, and tries again.
func (t *transport) open(ctx context.Context, to destination) (*conn, error) {
	c, err := t.dial(ctx, to)
	for isFreed(err) && ctx.Err() == nil && t.evict() {
		c, err = t.dial(ctx, to)
	}
	if err = t.scarce.judge(to, err, time.Now()); err != nil {
		return nil, err
	}
	// The scheme is http, lest net/http adds TLS; the dialled connection has it already.
	c.http, err = t.http.NewClientConn(context.WithValue(ctx, handedOver{}, c), "http", "destination:80")
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper. If an idle connection turns out not to accept the
// request, RoundTrip tries another connection, provided that no byte of the request was sent.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL == nil || r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.Host == "" {
		return nil, errors.New("the request's URL is not one of HTTP")
	}
	to := destination{r.URL.Scheme, r.URL.Host}
	put := func(c *conn) { t.put(to, c) }
	for {
		c := t.take(to)
		if c == nil {
			c, err := t.open(r.Context(), to)
			if err != nil {
				return nil, err
			}
			return c.roundTrip(r, put)
		}
		resp, err := c.roundTrip(r, put)
		if err == nil || !c.untouched() || r.Context().Err() != nil {
			return resp, err
		}
		again, ok := rewound(r)
		if !ok {
			return nil, err
		}
		r = again
	}
}

// rewound returns the request with its body at the start again; false if that is not possible.
func rewound(r *http.Request) (*http.Request, bool) {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return r, true
	case r.GetBody == nil:
		return nil, false
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, false
	}
	again := *r
	again.Body = body
	return &again, true
}

// take removes and returns the most recently used idle connection to a destination; nil if none is
// usable.
func (t *transport) take(to destination) *conn {
	now := time.Now()
	for {
		t.mu.Lock()
		t.closing = false
		conns := t.idle[to]
		last := len(conns) - 1
		if last < 0 {
			t.mu.Unlock()
			return nil
		}
		c := conns[last]
		conns[last] = nil
		t.idle[to] = conns[:last]
		t.waiting--
		t.mu.Unlock()
		if now.Sub(c.since) < idleTimeout && c.ready(now) {
			return c
		}
		c.http.Close()
	}
}

// put keeps a connection for another request. If too many wait already, put closes the one that
// waits longest.
func (t *transport) put(to destination, c *conn) {
	t.mu.Lock()
	switch {
	case t.closing:
		t.mu.Unlock()
		c.http.Close()
		return
	case !t.sweeping:
		t.sweeping = true
		time.AfterFunc(sweepEvery, t.sweep)
	}
	c.since = time.Now()
	t.idle[to] = append(t.idle[to], c)
	t.waiting++
	over := t.waiting > maxIdle
	t.mu.Unlock()
	if over {
		t.evict()
	}
}

// evict closes the connection with the longest wait, and reports whether there was one.
func (t *transport) evict() bool {
	t.drop((*conn).isRefused) // closing these would free nothing
	t.mu.Lock()
	var (
		oldest *conn
		of     destination
	)
	for to, conns := range t.idle {
		if len(conns) > 0 && (oldest == nil || conns[0].since.Before(oldest.since)) {
			oldest, of = conns[0], to
		}
	}
	if oldest != nil {
		t.idle[of] = slices.Delete(t.idle[of], 0, 1)
		t.waiting--
	}
	t.mu.Unlock()
	if oldest == nil {
		return false
	}
	oldest.http.Close()
	return true
}

// sweep closes idle connections that have waited too long, are too old, or were closed by the
// destination. It schedules itself again as long as there are idle connections.
func (t *transport) sweep() {
	now := time.Now()
	t.drop(func(c *conn) bool {
		return now.Sub(c.since) >= idleTimeout || now.Sub(c.born) >= maxAge || c.isRefused()
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sweeping = t.waiting > 0; t.sweeping {
		time.AfterFunc(sweepEvery, t.sweep)
	}
}

// drop closes the idle connections for which is returns true.
func (t *transport) drop(is func(*conn) bool) {
	var dropped []*conn
	t.mu.Lock()
	for to, conns := range t.idle {
		kept := slices.DeleteFunc(conns, func(c *conn) bool {
			if is(c) {
				dropped = append(dropped, c)
				return true
			}
			return false
		})
		if t.idle[to] = kept; len(kept) == 0 {
			delete(t.idle, to)
		}
	}
	t.waiting -= len(dropped)
	t.mu.Unlock()
	for _, c := range dropped {
		c.http.Close()
	}
}

// CloseIdleConnections closes all idle connections. Until the next request, it also makes those in
// use close when their exchange ends.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	t.closing = true
	t.mu.Unlock()
	t.drop(func(*conn) bool { return true })
}
