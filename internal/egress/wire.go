package egress

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// wire is a connection below TLS. It knows two things that the layers above cannot know: whether
// they have read everything that arrived, and whether any byte was handed to the system.
type wire struct {
	net.Conn
	raw     syscall.RawConn // nil if unread bytes cannot be seen, as with a pipe
	sent    atomic.Int64    // bytes handed to the system
	tryRead func(fd uintptr) bool
	tryPeek func(fd uintptr)

	mu      sync.Mutex
	settled sync.Cond // signals that parked, or another field guarded by mu, has changed
	parked  bool      // a Read is blocked, with nothing to read
	records *records  // framing of TLS; nil: the connection is plain

	// State of the current Read, used only by its goroutine.
	buf  []byte
	n    int
	err  error
	peek struct { // result of peekNow; guarded by mu
		buf [1]byte
		n   int
		err error
	}
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c}
	w.settled.L = &w.mu
	w.tryRead, w.tryPeek = w.readNow, w.peekNow // made once, to save an allocation per call
	if sc, ok := c.(syscall.Conn); ok && canReceive {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	return w
}

// Read reads like the connection's own Read, but takes bytes from the system only while holding
// mu. So a goroutine that holds mu and finds parked set knows that no byte is on its way to the
// layers above.
func (w *wire) Read(p []byte) (int, error) {
	if w.raw == nil || len(p) == 0 {
		w.park(true)
		n, err := w.Conn.Read(p)
		w.park(false)
		return n, err
	}
	w.buf = p
	err := w.raw.Read(w.tryRead)
	w.buf = nil
	switch {
	case err != nil: // closed, or past its deadline
		w.park(false)
		return 0, err
	case w.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("read", w.err)}
	case w.n == 0:
		return 0, io.EOF
	}
	return w.n, nil
}

// readNow reads available bytes. It returns false if there are none yet.
func (w *wire) readNow(fd uintptr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := receive(fd, w.buf, false)
	if errors.Is(err, syscall.EAGAIN) {
		w.parked = true
		w.settled.Broadcast()
		return false
	}
	w.parked = false
	w.n, w.err = max(n, 0), err
	if w.records != nil {
		w.records.pass(w.buf[:w.n])
	}
	return true
}

// park sets parked, for connections whose unread bytes cannot be seen.
func (w *wire) park(parked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked = parked
	w.settled.Broadcast()
}

// unread reports whether bytes have arrived that were not read yet. It returns io.EOF if the
// destination has closed the connection and all bytes were read. The caller must hold mu.
func (w *wire) unread() (some bool, err error) {
	if w.raw == nil {
		return false, nil
	}
	if err := w.raw.Control(w.tryPeek); err != nil {
		return false, err
	}
	switch p := &w.peek; {
	case errors.Is(p.err, syscall.EAGAIN):
		return false, nil
	case p.err != nil:
		return false, p.err
	case p.n == 0:
		return false, io.EOF
	}
	return true, nil
}

func (w *wire) peekNow(fd uintptr) {
	w.peek.n, w.peek.err = receive(fd, w.peek.buf[:], true)
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// records follows the framing of TLS (RFC 8446, 5.1): each record has a header of 5 bytes, whose
// last two are the length of the rest.
type records struct {
	header [5]byte
	have   int // bytes of the header received so far
	left   int // bytes of the record still to come
}

// pass advances over received bytes.
func (r *records) pass(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.have:], p)
		r.have += n
		p = p[n:]
		if r.have == len(r.header) {
			r.have, r.left = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
}

// whole reports whether the bytes so far end at the end of a record.
func (r *records) whole() bool { return r == nil || r.have == 0 && r.left == 0 }
