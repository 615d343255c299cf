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

// Limits of the connections that wait for another request.
const (
	maxIdlePerHost = 256
	maxIdle        = 1024
	idleTimeout    = 90 * time.Second
	// maxAge is the age from which a connection takes no new request, so that a destination
	// that moved to another address is followed. One under way goes on.
	maxAge = 2 * time.Minute
	// sweepEvery is how often connections that have waited too long are looked for.
	sweepEvery = 5 * time.Second
)

// maxResponseHeader is the longest header of a response, in bytes.
const maxResponseHeader = 64 << 10

// transport makes exchanges over connections that it dials, keeps and judges itself. net/http
// speaks HTTP on each of them, and never repeats a request by itself: that is what its own pool
// of connections does.
type transport struct {
	dial   func(ctx context.Context, to destination) (*conn, error)
	http   *http.Transport // only for its connections
	scarce scarcity

	mu       sync.Mutex
	idle     map[destination][]*conn // those that wait for another request, the longest first
	waiting  int                     // how many there are in all
	sweeping bool                    // a sweep will come
	closing  bool                    // no connection is kept until the next request
}

// destination is where connections lead: a scheme and a host with its port, if it has one.
type destination struct{ scheme, host string }

// newTransport makes a transport over connections that dial opens.
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

// handedOver is the key of the connection that open hands to net/http.
type handedOver struct{}

// open dials a connection. Where this machine is short of something, it gives up idle
// connections for it, those that waited longest first.
func (t *transport) open(ctx context.Context, to destination) (*conn, error) {
	c, err := t.dial(ctx, to)
	for isFreed(err) && ctx.Err() == nil && t.evict() {
		c, err = t.dial(ctx, to)
	}
	if err = t.scarce.judge(to, err, time.Now()); err != nil {
		return nil, err
	}
	// The scheme is the one that net/http would not add TLS for; what is dialled has it.
	c.http, err = t.http.NewClientConn(context.WithValue(ctx, handedOver{}, c), "http", "destination:80")
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper. A connection that was used before may turn out not to
// take the request; as long as no byte of it was sent, it is tried on another.
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

// rewound is a request whose body can be read from its begin again.
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

// take takes the connection to a destination that was used last, nil if none may be used.
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

// put keeps a connection for another request.
func (t *transport) put(to destination, c *conn) {
	t.mu.Lock()
	switch {
	case t.closing || len(t.idle[to]) >= maxIdlePerHost:
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

// evict closes the connection that has waited longest, and reports whether there was one.
func (t *transport) evict() bool {
	t.drop((*conn).isRefused) // those closed already would give up nothing
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

// sweep closes what has waited too long, is too old or was closed by the other side, again and
// again until none waits.
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

// drop closes the idle connections of which is says so.
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

// CloseIdleConnections closes the connections that wait, and those under way when their
// exchanges end, up to the next request.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	t.closing = true
	t.mu.Unlock()
	t.drop(func(*conn) bool { return true })
}
