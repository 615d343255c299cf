package ingest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func tooLarge(limit int64) error {
	return kapsel.Errorf(kapsel.PayloadTooLarge, "the body is larger than %d bytes; the operator can raise the limit (KAPSEL_MAX_BODY)", limit)
}

// AnswerTime is how long after its body's deadline a request may be answered. A body larger than
// store.UsualBody adds store.BodyTime.
const AnswerTime = time.Minute

// ReadTime returns how long a body of n bytes may take to arrive: 30 s, and 3 s for each MiB
// above store.UsualBody.
func ReadTime(n int64) time.Duration { return 30*time.Second + 3*store.BodyTime(n) }

// allowTime sets the request's deadlines for a body of n bytes: ReadTime for the body to arrive,
// and after that the time that the commit and the answer may take. Bodies up to store.UsualBody
// keep the server's own limits.
func allowTime(w http.ResponseWriter, n int64) {
	if n <= store.UsualBody {
		return
	}
	c := http.NewResponseController(w)
	read := time.Now().Add(ReadTime(n))
	// If deadlines cannot be set, the server's limits hold.
	_ = c.SetReadDeadline(read)
	_ = c.SetWriteDeadline(read.Add(AnswerTime + store.BodyTime(n)))
}

// headerOf returns the request's header as a list. It returns InvalidRequest if the header is too
// large or has a value that cannot be stored.
func headerOf(r *http.Request) (kapsel.Header, error) {
	list := kapsel.HeaderOf(r.Header)
	if len(list) > maxHeaders || list.Size() > maxHeaderBytes {
		return nil, &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusRequestHeaderFieldsTooLarge,
			Detail: "more than 100 header lines, or more than 16 KiB of them",
		}
	}
	for _, f := range list {
		// Go's server joins folded lines and refuses NUL; a bare CR must not reach a header that we send.
		if strings.ContainsAny(f.Value, "\r\n\x00") {
			return nil, kapsel.Errorf(kapsel.InvalidRequest, "header %s has a control character", f.Name)
		}
	}
	if len(r.Header.Get("Content-Type")) > maxContentType {
		return nil, kapsel.Errorf(kapsel.InvalidRequest, "the content type is longer than %d bytes", maxContentType)
	}
	return list, nil
}

// redact replaces header values that carry credentials, because they are no longer needed and
// would be stored. It keeps those that the endpoint forwards, but never a secret that the provider
// itself sends in a header. redact changes header and returns it.
func redact(header kapsel.Header, o origin) kapsel.Header {
	shared := signature.SharedSecretHeaders(o.Verification)
	for i, f := range header {
		if kapsel.CarriesCredentials(f.Name) && !o.keeps(f.Name) || slices.Contains(shared, f.Name) {
			header[i].Value = secret.Redacted
		}
	}
	return header
}

// enter reserves a place for the request and the memory for its body, before the body is read. It
// returns ShuttingDown if the process stops, and QueueFull if there is no place or no memory. If
// err is nil, callers must call leave.
func (h *Handler) enter(r *http.Request) (*room, error) {
	if h.stopping.Load() {
		return nil, &kapsel.Error{Code: kapsel.ShuttingDown, Detail: "this process is stopping; try again", RetryAfter: time.Second}
	}
	n := r.ContentLength
	if n < 0 { // chunked: more is reserved as the body grows
		n = firstChunk
	}
	if h.waiting.Add(1) > int64(h.Capacity) {
		h.waiting.Add(-1)
		return nil, full("too many requests wait for the database; try again")
	}
	if !h.Budget.Request(n) {
		h.waiting.Add(-1)
		return nil, full("too many bytes of bodies are held at the moment; try again")
	}
	return &room{h: h, held: n, places: 1}, nil
}

func full(detail string) error {
	return &kapsel.Error{Code: kapsel.QueueFull, Detail: detail, RetryAfter: time.Second}
}

// firstChunk is the memory, in bytes, reserved for a body of unknown length before the body is
// read.
const firstChunk = 64 << 10

// room is what a request takes up: memory, and a place for each event that the request brings.
type room struct {
	h      *Handler
	held   int64 // bytes
	places int64
}

// more reserves n more bytes, for a body that grows or for a copy of a body. It returns QueueFull
// if there is no memory left.
func (m *room) more(n int) error {
	if !m.h.Budget.Grow(m.held, int64(n)) {
		return full("too many bytes of bodies are held at the moment; try again")
	}
	m.held += int64(n)
	return nil
}

// shrink gives back what was reserved since the request held so many bytes.
func (m *room) shrink(held int64) {
	m.h.Budget.ReturnRequest(m.held - held)
	m.held = held
}

func (m *room) leave() {
	m.h.Budget.ReturnRequest(m.held)
	m.h.waiting.Add(-m.places)
}

// read returns the whole body. A body of unknown length may have up to limit bytes; for others,
// callers must check Content-Length first.
func (m *room) read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength >= 0 {
		allowTime(w, r.ContentLength)
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, unreadable(err, limit)
		}
		return body, nil
	}
	src := http.MaxBytesReader(w, r.Body, limit)
	body := make([]byte, 0, firstChunk)
	for {
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			return bytes.Clone(body), nil // the event's body holds no more memory than its size
		case err != nil:
			return nil, unreadable(err, limit)
		case len(body) == cap(body):
			more := min(int64(cap(body)), limit+1-int64(cap(body)))
			if err := m.more(int(more)); err != nil {
				return nil, err
			}
			allowTime(w, int64(cap(body))+more)
			body = append(make([]byte, 0, int64(cap(body))+more), body...)
		}
	}
}

// unreadable returns the error for a body that could not be read to its end.
func unreadable(err error, limit int64) error {
	var large *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &large):
		return tooLarge(limit)
	case errors.As(err, &network) && network.Timeout():
		return &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusRequestTimeout, Detail: "the body did not arrive in time", Err: err}
	}
	return &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the body ended early or is not valid chunked encoding", Err: err}
}
