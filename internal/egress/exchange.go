package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// NewRequest makes the POST of one attempt. It takes header and changes nothing in it; keys
// must be canonical, and it must not hold Host, Content-Length or Transfer-Encoding.
// Header.User-Agent is the caller's too.
//
// An attempt stands for at most one request. The request has GetBody, so that New's transport
// can try it on another connection as long as no byte of it was sent.
//
// An empty body goes out as Content-Length: 0.
func NewRequest(ctx context.Context, u *url.URL, header http.Header, body []byte) *http.Request {
	r := http.Request{
		Method:     http.MethodPost,
		URL:        u,
		Host:       u.Host,
		Header:     header,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Body:       http.NoBody,
	}
	if len(body) > 0 {
		r.ContentLength = int64(len(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return r.WithContext(ctx)
}

// Limits of what ReadBody reads and keeps of a response's body, in bytes.
const (
	BodyRead = 64 << 10
	BodyKept = 4 << 10
)

// discardBuffers are for what is read and not kept.
var discardBuffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

// ReadBody reads the response's body to its end, at most `read` bytes of it, keeps the first
// `keep`, and closes it. A body that was read to its end leaves the connection to the next
// request; any other is cut by closing the connection, as is that of 101, which has no end.
//
// What goes wrong while reading is not an error: the status is known, and what came is kept.
// The request's context bounds the time.
func ReadBody(resp *http.Response, keep, read int) []byte {
	defer resp.Body.Close()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols || resp.ContentLength == 0 {
		return nil
	}
	size := min(keep, read)
	if resp.ContentLength > 0 {
		size = int(min(int64(size), resp.ContentLength))
	} else {
		size = min(size, 512) // not said: grow as it comes
	}
	kept := make([]byte, 0, size)
	buf := discardBuffers.Get().(*[8 << 10]byte)
	defer discardBuffers.Put(buf)
	for total := 0; total < read; {
		n, err := resp.Body.Read(buf[:min(len(buf), read-total)])
		kept = append(kept, buf[:min(n, keep-len(kept))]...)
		total += n
		if err != nil {
			break
		}
	}
	return kept
}

// RetryAfter is how long a Retry-After header (RFC 9110: seconds, or an HTTP date) asks to
// wait from now, at most kapsel.MaxRetryAfter; 0 without one, or with one that means nothing
// or has passed. A fraction of a second is rounded up; of several values, in one line or in
// more, the first that means something counts.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	for _, line := range h["Retry-After"] {
		parts := strings.Split(line, ",")
		for i, part := range parts {
			if wait, ok := seconds(strings.Trim(part, " \t")); ok {
				return wait
			}
			if i+1 < len(parts) { // most dates have a comma
				part += "," + parts[i+1]
			}
			for _, text := range []string{part, parts[i]} {
				if at, err := http.ParseTime(strings.Trim(text, " \t")); err == nil {
					return min(max(0, at.Sub(now)), kapsel.MaxRetryAfter)
				}
			}
		}
	}
	return 0
}

// seconds reads digits, maybe with a fraction, as seconds, rounded up, of which
// kapsel.MaxRetryAfter are the most.
func seconds(text string) (time.Duration, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	if whole == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n >= int64(kapsel.MaxRetryAfter/time.Second) { // err: too large
		return kapsel.MaxRetryAfter, true
	}
	if strings.Trim(fraction, "0") != "" {
		n++
	}
	return time.Duration(n) * time.Second, true
}

// Classify says why an exchange ended without a response: the attempt's code and a text for
// people, which names no address. OutcomeUnknown is an exchange that was cut short from
// this side (its context was canceled). A Shortage is for the caller to see first: it is no
// fault of the destination, and its code is only the nearest.
func Classify(err error) (kapsel.Code, string) {
	var (
		dns     *net.DNSError
		op      *net.OpError
		hand    *handshakeError
		short   *Shortage
		starved *starvedError
		refusal *certificateError
	)
	isOp := errors.As(err, &op)
	switch {
	case IsBlocked(err):
		return kapsel.DialBlocked, (&BlockedError{}).Error()
	case errors.As(err, &short):
		return kapsel.ConnectionRefused, short.Error()
	case errors.As(err, &starved):
		return kapsel.ConnectionRefused, starved.Error()
	case errors.As(err, &dns):
		switch {
		case dns.IsNotFound:
			return kapsel.DNSError, "the destination's name does not exist"
		case dns.IsTimeout:
			return kapsel.DNSError, "looking up the destination's name timed out"
		}
		return kapsel.DNSError, "the destination's name could not be looked up"
	case isTimeout(err):
		switch {
		case errors.As(err, &hand):
			return kapsel.ConnectionTimeout, "the TLS handshake timed out"
		case isOp && op.Op == "dial":
			return kapsel.ConnectionTimeout, "connecting timed out"
		}
		return kapsel.ConnectionTimeout, "no answer came in time"
	case errors.Is(err, context.Canceled):
		return kapsel.OutcomeUnknown, "the exchange was cut short"
	case errors.As(err, &hand):
		return kapsel.TLSError, handshakeText(hand)
	case errors.As(err, &refusal):
		return kapsel.TLSError, "the destination ended the connection without an answer after " + certificateText
	case isOp && (op.Op == "remote error" || op.Op == "local error"): // crypto/tls's alerts
		return kapsel.TLSError, "the TLS connection failed: " + alertText(op)
	case isOp && op.Op == "dial":
		if errors.Is(err, syscall.ECONNREFUSED) {
			return kapsel.ConnectionRefused, "the connection was refused"
		}
		return kapsel.ConnectionRefused, "the destination could not be reached"
	case errors.Is(err, errStray):
		return kapsel.BadResponse, "bytes came before the request was sent; they are no answer to it"
	case isLost(err):
		return kapsel.BadResponse, "the connection was lost before the response came"
	}
	return kapsel.BadResponse, "the response is not valid HTTP"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func isLost(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) ||
		errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "server closed idle connection")
}
