package harness

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// SinkRequest describes one request at a sink. Body has the first 64 KiB of the body; Size and
// SHA256 cover all of it.
type SinkRequest struct {
	At     time.Time      // when the request was completely read
	To     netip.AddrPort // address of the sink that received it
	Method string
	Path   string
	Header [][2]string // in order
	Size   int64
	SHA256 [sha256.Size]byte
	Body   []byte
	// Seq is the event's number in its Load; -1 if the body has no marker.
	Seq int
	// EventID, AttemptID and Attempt are the values of webhook-id, X-Kapsel-Attempt-Id and
	// X-Kapsel-Delivery-Attempt; "" and 0 if they are missing.
	EventID   string
	AttemptID string
	Attempt   int
	// Answered is the status of the answer; 0: none. Written says that the whole answer was handed to
	// the kernel. It is set only afterwards, so the reader of the answer may look before.
	Answered int
	Written  bool
}

// Get returns the value of the first header with a name; "" if there is none.
func (r SinkRequest) Get(name string) string {
	for _, h := range r.Header {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// Answer is an answer from a script. The zero Answer is a 200.
type Answer struct {
	Status int      // 0: 200
	Header []string // "Name: value"
	Body   string
	Delay  time.Duration // delay before the answer
	Close  bool          // close the connection after the answer, unannounced
	Raw    string        // the bytes of the answer, instead of Header and Body; it counts as Status
	Hang   bool          // no answer, but keep the connection open
	Reset  bool          // no answer, and reset the connection
}

// Moment is a point in the processing of a request at the sink.
type Moment string

// The moments. At HeadRead and HalfRead, Size, SHA256 and Body are not set yet.
const (
	HeadRead  Moment = "head read"
	HalfRead  Moment = "half of the body read" // only if it has a Content-Length
	BodyRead  Moment = "body read"
	AnswerOut Moment = "answer written"
)

const (
	keptBody    = 64 << 10 // bytes of a body that are kept
	headLineMax = 20 << 10 // size of the read buffer, and so the longest header line
)

// exchange is the state of the current request of one connection.
type exchange struct {
	sink   *Sink
	r      *bufio.Reader
	head   message
	kept   []byte // the first bytes of the body; reused
	req    SinkRequest
	script *func(SinkRequest) Answer
	watch  *func(Moment, SinkRequest)
	sum    hash.Hash // nil: no details are needed, so none are gathered
}

// serve answers the requests of one connection until it ends.
func (s *Sink) serve(c *net.TCPConn, local netip.AddrPort) {
	x := exchange{sink: s, r: bufio.NewReaderSize(c, headLineMax)}
	for x.next(c, local) {
	}
}

// next reads and answers a request. It reports whether another may follow.
func (x *exchange) next(c *net.TCPConn, local netip.AddrPort) bool {
	s := x.sink
	x.script, x.watch, x.sum = s.script.Load(), s.watch.Load(), nil
	if x.script != nil || x.watch != nil || s.record.Load() {
		x.sum = sha256.New()
	}
	if x.head.readHead(x.r, x.sum != nil) != nil {
		return false // the peer has finished, or does not speak HTTP/1.1
	}
	x.req = SinkRequest{To: local, Seq: -1}
	x.describe()
	x.observe(HeadRead)
	if x.readBody() != nil {
		return false
	}
	x.req.At = time.Now()
	mark, marked := findMarker(x.kept)
	if marked {
		x.req.Seq = int(mark.seq)
	}
	x.observe(BodyRead)

	a, out := x.answer()
	if a.Delay > 0 {
		select {
		case <-time.After(a.Delay):
		case <-s.done:
			return false
		}
	}
	x.req.Answered = a.status()
	// Count before answering, so that whoever gets the answer finds the request counted.
	s.count(mark, marked, x.req.At, x.req.Answered)
	entry := s.keep(x.req)
	switch {
	case a.Reset:
		reset(c)
		return false
	case a.Hang:
		return true // ends when the peer gives up
	}
	if _, err := c.Write(out); err != nil {
		return false
	}
	x.req.Written = true
	s.keepWritten(entry)
	x.observe(AnswerOut)
	return !a.Close && !x.head.close
}

func (x *exchange) observe(m Moment) {
	if x.watch != nil {
		(*x.watch)(m, x.req)
	}
}

// describe fills in the fields of the request's head.
func (x *exchange) describe() {
	if x.sum == nil {
		return
	}
	r := &x.req
	method, rest, _ := strings.Cut(string(x.head.line), " ")
	path, _, _ := strings.Cut(rest, " ")
	r.Method, r.Path, r.Header = method, path, x.head.header
	r.EventID = r.Get("webhook-id")
	r.AttemptID = r.Get("X-Kapsel-Attempt-Id")
	r.Attempt, _ = strconv.Atoi(r.Get("X-Kapsel-Delivery-Attempt")) // 0 if the header is missing
}

// readBody reads the body to its end and keeps its first bytes.
func (x *exchange) readBody() error {
	body := x.head.body(x.r)
	x.kept = x.kept[:0]
	if x.sum != nil {
		body = io.TeeReader(body, x.sum)
	}
	if x.watch != nil && !x.head.chunked {
		if err := x.keepBody(io.LimitReader(body, x.head.length/2)); err != nil {
			return err
		}
		x.observe(HalfRead)
	}
	if err := x.keepBody(body); err != nil {
		return err
	}
	if !x.head.chunked && x.req.Size < x.head.length {
		return io.ErrUnexpectedEOF
	}
	if x.sum != nil {
		x.sum.Sum(x.req.SHA256[:0])
		x.req.Body = bytes.Clone(x.kept)
	}
	return x.head.finish(x.r)
}

// keepBody reads to the end, appends to kept up to keptBody bytes, and counts all bytes.
func (x *exchange) keepBody(body io.Reader) error {
	for len(x.kept) < keptBody {
		if len(x.kept) == cap(x.kept) {
			x.kept = append(x.kept, 0)[:len(x.kept)]
		}
		n, err := body.Read(x.kept[len(x.kept):min(cap(x.kept), keptBody)])
		x.kept = x.kept[:len(x.kept)+n]
		x.req.Size += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	n, err := io.Copy(io.Discard, body)
	x.req.Size += n
	return err
}

var (
	answerOK   = []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	answerFail = []byte("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
)

// answer returns the answer of the script or else of the mode, and its bytes.
func (x *exchange) answer() (Answer, []byte) {
	if x.script != nil {
		a := (*x.script)(x.req)
		return a, a.bytes()
	}
	delay := time.Duration(x.sink.delay.Load())
	switch x.sink.Mode() {
	case Fail:
		return Answer{Status: 500, Delay: delay}, answerFail
	case Hang:
		return Answer{Hang: true}, nil
	case Refuse:
		return Answer{Reset: true}, nil // the request arrived just before the change of mode
	default:
		return Answer{Delay: delay}, answerOK
	}
}

// status returns the status as which the answer counts; 0: no answer.
func (a Answer) status() int {
	switch {
	case a.Hang || a.Reset:
		return 0
	case a.Status == 0:
		return 200
	default:
		return a.Status
	}
}

func (a Answer) bytes() []byte {
	if a.Raw != "" {
		return []byte(a.Raw)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d Scripted\r\nContent-Length: %d\r\n", a.status(), len(a.Body))
	for _, h := range a.Header {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + a.Body)
	return b.Bytes()
}
