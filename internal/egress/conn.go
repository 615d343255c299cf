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

// conn is a connection as net/http sees it. It ensures that bytes received before a request was
// written never count as its answer: the first byte of a request is sent only once everything
// received before has been read and none of it belonged to HTTP.
//
// Bytes received after that first byte cannot be told from an answer.
type conn struct {
	net.Conn // the wire, or TLS over it
	wire     *wire
	http     *http.ClientConn
	born     time.Time
	since    time.Time   // start of the wait for another request; guarded by transport.mu
	asked    atomic.Bool // the destination asked for a client certificate

	// Guarded by wire.mu.
	out      bool  // an exchange is under way: from its first byte until its answer is read to the end
	before   int64 // wire.sent when the exchange began
	answered bool  // at least one request was answered
	refused  error // why no further request may begin; nil: one may
	failed   error // error of the first failed Write
}

var (
	// errStray says that bytes arrived before any request had been sent for them.
	errStray = errors.New("bytes came before the request")
	// errHungUp says that the destination closed the connection before a request began.
	errHungUp = fmt.Errorf("the connection was closed before the request: %w", io.EOF)
)

func newConn(raw net.Conn) *conn {
	w := newWire(raw)
	return &conn{Conn: w, wire: w, born: time.Now()}
}

// Read returns received bytes while an exchange is under way. Bytes that arrive at any other time
// end the connection and are discarded.
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

// Write sends bytes of a request. The first Write of a request fails if the request may not begin.
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

// Close closes the connection and ends all waiting in begin and ready.
func (c *conn) Close() error {
	c.wire.mu.Lock()
	c.refuse(net.ErrClosed)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// refuse prevents further requests. It returns the reason of its first call. The caller must hold
// wire.mu.
func (c *conn) refuse(reason error) error {
	if c.refused == nil {
		c.refused = reason
		c.wire.settled.Broadcast()
	}
	return c.refused
}

// begin starts an exchange, or returns why no request may begin. It blocks until the reading
// goroutine has read everything that arrived before.
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
			// Probably a message of TLS itself: wait for the rest.
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
			// The reader will tell whether it is for TLS itself, such as a session ticket.
		}
		w.settled.Wait()
	}
	return nil
}

// ready reports whether another request may be tried. It blocks until net/http reads again,
// because bytes that net/http already holds would count as the answer to the next request.
func (c *conn) ready(now time.Time) bool {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.parked && c.refused == nil {
		w.settled.Wait()
	}
	return c.refused == nil && w.records.whole() && now.Sub(c.born) < maxAge
}

// isRefused reports whether further requests are prevented.
func (c *conn) isRefused() bool {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return c.refused != nil
}

// untouched reports whether no byte of the current request was sent.
func (c *conn) untouched() bool {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return !c.wrote()
}

// wrote reports whether a byte of the current request may have been sent. The caller must hold
// wire.mu.
func (c *conn) wrote() bool { return c.out && c.wire.sent.Load() > c.before }

// roundTrip makes one exchange. It ends when the response's body has been read to its end or
// closed; then done receives the connection, unless it had to be closed.
func (c *conn) roundTrip(r *http.Request, done func(*conn)) (*http.Response, error) {
	resp, err := c.http.RoundTrip(r)
	if err == nil && resp.StatusCode < 100 {
		err = errors.New("the response's status is below 100") // net/http accepts 000, 099 and even +99; no status is below 100 (RFC 9110, 15)
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

// free ends the exchange and reports whether the connection can take another request.
func (c *conn) free() bool {
	if c.http.Available() == 0 {
		return false
	}
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.out, c.answered = false, true
	return c.refused == nil
}

// explain replaces net/http's error for a failed exchange with one that is more precise, if conn
// knows more.
func (c *conn) explain(err error) error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if !c.out && c.refused != nil && !errors.Is(c.refused, net.ErrClosed) {
		err = c.refused
	}
	// After a failed write, net/http may return its reader's error instead: a closed connection.
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

// isClean reports whether a response that was read to its end leaves the connection usable. It
// must be a 2xx. If its status forbids a body, it must not announce one either, because the body
// might still arrive.
func isClean(resp *http.Response) bool {
	switch length := resp.Header.Get("Content-Length"); resp.StatusCode {
	case http.StatusNoContent, http.StatusResetContent:
		return len(resp.TransferEncoding) == 0 && (length == "" || length == "0")
	default:
		return resp.StatusCode >= 200 && resp.StatusCode < 300
	}
}

// responseBody calls end once, when the body has been read to its end (whole is true), or on an
// error or Close before that.
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
