package egress

import (
	"bytes"
	"context"
	"errors"
	"hash"
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

// NewRequest returns the POST request of one attempt. It keeps header without changing it. Keys of
// header must be canonical; Host, Content-Length and Transfer-Encoding must not be among them;
// User-Agent is the caller's choice.
//
// An attempt sends at most one request. GetBody is set, so that New's transport can use another
// connection as long as no byte was sent.
//
// An empty body is sent as Content-Length: 0.
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

// BodyRead and BodyKept are the usual arguments of ReadBody: how many bytes of a response's body
// to read, and how many to keep.
const (
	BodyRead = 64 << 10
	BodyKept = 4 << 10
)

// discardBuffers holds buffers for bytes that are read but not kept.
var discardBuffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

// ReadBody reads up to `read` bytes of the response's body, closes it, and returns the first
// `keep` bytes. It also writes what it reads to seen, if that is not nil. If the body was read to its
// end, the connection can take another request; otherwise the connection is closed, as it always is
// after a 101, whose body has no end.
//
// A read error is ignored: the status is known, and the bytes read so far are returned. The
// request's context bounds the time.
func ReadBody(resp *http.Response, keep, read int, seen hash.Hash) []byte {
	defer resp.Body.Close()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols || resp.ContentLength == 0 {
		return nil
	}
	size := min(keep, read)
	if resp.ContentLength > 0 {
		size = int(min(int64(size), resp.ContentLength))
	} else {
		size = min(size, 512) // unknown length: grow on demand
	}
	kept := make([]byte, 0, size)
	buf := discardBuffers.Get().(*[8 << 10]byte)
	defer discardBuffers.Put(buf)
	for total := 0; total < read; {
		n, err := resp.Body.Read(buf[:min(len(buf), read-total)])
		kept = append(kept, buf[:min(n, keep-len(kept))]...)
		if seen != nil {
			seen.Write(buf[:n])
		}
		total += n
		if err != nil {
			break
		}
	}
	return kept
}

// RetryAfter returns how long a Retry-After header (RFC 9110: seconds, or an HTTP date) asks to
// wait from now, at most kapsel.MaxRetryAfter. It returns 0 if there is no header, if it is not
// valid, or if its date has passed. Fractions of a second are rounded up. Of several values, in
// one line or several, the first valid one counts.
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

// seconds parses a number of seconds, which may have a fraction. It rounds up and limits the
// result to kapsel.MaxRetryAfter.
func seconds(text string) (time.Duration, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	if whole == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n >= int64(kapsel.MaxRetryAfter/time.Second) { // an error means that n is too large
		return kapsel.MaxRetryAfter, true
	}
	if strings.Trim(fraction, "0") != "" {
		n++
	}
	return time.Duration(n) * time.Second, true
}

// Classify returns the code and a text for people that explain why an exchange ended without a
// response. The text names no address. OutcomeUnknown means that this side cut the exchange short
// by canceling its context. Callers must check for a Shortage first: it is no fault of the
// destination, and its code is only the closest one.
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

// IsUnsent reports whether err, of an exchange that ended without a response, is from before the first
// byte of the request was sent: there was no connection, or none that could take a request. Of every
// other error the request may have been sent.
func IsUnsent(err error) bool {
	var (
		op      *net.OpError
		hand    *handshakeError
		short   *Shortage
		starved *starvedError
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &hand) || errors.As(err, &short) || errors.As(err, &starved) ||
		errors.Is(err, errStray) || errors.Is(err, errHungUp)
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
