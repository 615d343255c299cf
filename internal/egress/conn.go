package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// conn is a connection as net/http has it. It sees to it that nothing counts as the answer to
// a request that came before the request was written: the first byte of a request goes out only
// when all that came in before has been read, and none of it was for HTTP.
//
// What comes after the first byte went out cannot be told from an answer.
type conn struct {
	net.Conn // the wire, or TLS over it
	wire     *wire
	http     *http.ClientConn
	born     time.Time
	since    time.Time   // it waits for another request since; guarded by transport.mu
	asked    atomic.Bool // the other side asked for a certificate

	// Guarded by wire.mu.
	out      bool  // a request has begun, and its answer is not read to the end
	before   int64 // wire.sent when it began
	answered bool  // a request was answered
	refused  error // why no other request may begin; nil: it may
	failed   error // why the first Write that failed did
}

var (
	// errStray says that bytes came that no request had asked for.
	errStray = errors.New("bytes came before the request")
	// errHungUp says that the other side closed the connection before a request began.
	errHungUp = fmt.Errorf("the connection was closed before the request: %w", io.EOF)
)

func newConn(raw net.Conn) *conn {
	w := newWire(raw)
	return &conn{Conn: w, wire: w, born: time.Now()}
}

// Read hands up what came in. What comes while no request is out ends the connection, and
// nobody gets to see it.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if c.out {
		return n, err
	}
	if n > 0 {
		err = errStray
	} else if err == io.EOF {
		err = errHungUp
	}
	return 0, c.refuse(err)
}

// Write sends a part of a request, the first one only if the request may begin.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		c.wire.mu.Lock()
		defer c.wire.mu.Unlock()
		if c.failed == nil {
			c.failed = err
		}
	}
	return n, err
}

// Close ends the connection and whatever waits for it.
func (c *conn) Close() error {
	c.wire.mu.Lock()
	c.refuse(net.ErrClosed)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// refuse lets no other request begin. It returns the first reason. The caller holds wire.mu.
func (c *conn) refuse(reason error) error {
	if c.refused == nil {
		c.refused = reason
		c.wire.settled.Broadcast()
	}
	return c.refused
}

// begin lets a request begin, or says why it may not. It waits for whoever reads to have read
// all that came in before.
func (c *conn) begin() error {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	for !c.out {
		switch {
		case c.refused != nil:
			return c.refused
		case !w.parked:
		case !w.records.whole():
			if c.answered {
				return c.refuse(errStray)
			}
			// Something of TLS itself, most likely: wait for the rest.
		default:
			some, err := w.unread()
			switch {
			case errors.Is(err, io.EOF):
				return c.refuse(errHungUp)
			case err != nil:
				return c.refuse(err)
			case !some:
				c.out, c.before = true, w.sent.Load()
				return nil
			case w.records == nil:
				return c.refuse(errStray)
			}
			// Whoever reads will tell whether it is for TLS itself, such as a session ticket.
		}
		w.settled.Wait()
	}
	return nil
}

// ready reports whether another request may be tried. It waits until net/http has come back for
// more: bytes that it holds already would be the answer to the next request.
func (c *conn) ready(now time.Time) bool {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.parked && c.refused == nil {
		w.settled.Wait()
	}
	return c.refused == nil && w.records.whole() && now.Sub(c.born) < maxAge
}

// isRefused reports whether no other request may begin.
func (c *conn) isRefused() bool {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return c.refused != nil
}

// untouched reports whether no byte of the request has left.
func (c *conn) untouched() bool {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return !c.wrote()
}

// wrote reports whether any byte of the request may have left. The caller holds wire.mu.
func (c *conn) wrote() bool { return c.out && c.wire.sent.Load() > c.before }

// roundTrip makes one exchange. The response's body ends it: done gets the connection back,
// unless it is closed.
func (c *conn) roundTrip(r *http.Request, done func(*conn)) (*http.Response, error) {
	resp, err := c.http.RoundTrip(r)
	if err == nil && resp.StatusCode == 0 {
		err = errors.New("the response's status is 000") // net/http takes it, and it would read as "no answer"
	}
	if err != nil {
		err = c.explain(err)
		c.http.Close()
		return nil, err
	}
	end := func(whole bool) {
		if !whole || !isClean(resp) || !c.free() {
			c.http.Close()
			return
		}
		done(c)
	}
	if resp.Body == http.NoBody {
		end(true)
		return resp, nil
	}
	resp.Body = &responseBody{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// free ends the exchange, and reports whether net/http would send another on the connection.
func (c *conn) free() bool {
	if c.http.Available() == 0 {
		return false
	}
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.out, c.answered = false, true
	return c.refused == nil
}

// explain says more about why an exchange failed than net/http knows.
func (c *conn) explain(err error) error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if !c.out && c.refused != nil && !errors.Is(c.refused, net.ErrClosed) {
		err = c.refused
	}
	// After a failed write net/http may return what its reader met then, a closed connection.
	for _, cause := range []error{err, c.failed} {
		if short := shortageOf(cause); short != nil && !c.wrote() {
			return short
		}
	}
	if c.asked.Load() && !c.answered && isLost(err) && !isTimeout(err) && !errors.Is(err, context.Canceled) {
		return &certificateError{err}
	}
	return err
}

// isClean reports whether a response that was read to its end leaves the connection to another
// request: it is a 2xx, and without a body where none may be, which may be yet to come.
func isClean(resp *http.Response) bool {
	switch length := resp.Header.Get("Content-Length"); resp.StatusCode {
	case http.StatusNoContent, http.StatusResetContent:
		return len(resp.TransferEncoding) == 0 && (length == "" || length == "0")
	default:
		return resp.StatusCode >= 200 && resp.StatusCode < 300
	}
}

// responseBody calls end when the body has ended, or is given up.
type responseBody struct {
	io.ReadCloser
	end   func(whole bool)
	ended atomic.Bool
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ended.CompareAndSwap(false, true) {
		b.end(err == io.EOF)
	}
	return n, err
}

func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	if b.ended.CompareAndSwap(false, true) {
		b.end(false)
	}
	return err
}
