package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says how a sink treats what comes in.
type Mode string

// The modes.
const (
	OK     Mode = "ok"     // answers 200
	Fail   Mode = "500"    // answers 500
	Hang   Mode = "hang"   // reads, and never answers
	Refuse Mode = "refuse" // refuses connections, and resets those it had
)

// Sink is a destination for webhooks: an HTTP/1.1 server that finds the events of a Load in
// what it gets and counts them. All methods may be called at any time by any goroutine.
type Sink struct {
	addr    netip.AddrPort
	script  atomic.Pointer[func(SinkRequest) Answer]
	watch   atomic.Pointer[func(Moment, SinkRequest)]
	record  atomic.Bool
	delay   atomic.Int64 // ns before each answer
	mode    atomic.Pointer[Mode]
	runs    sync.Map     // run (uint32) → *tally
	foreign atomic.Int64 // requests without the marker of a known run
	done    chan struct{}
	wg      sync.WaitGroup

	mu       sync.Mutex // of what follows
	closed   bool
	listener net.Listener // nil while refusing
	held     int          // while refusing: a socket that keeps the port; else -1
	conns    map[*net.TCPConn]struct{}
	log      []SinkRequest
}

// NewSink listens on addr, say "127.0.0.1:0", and serves until Close. On an unspecified
// address ("0.0.0.0:0") it takes connections to loopback addresses only, so that it can
// stand for as many hosts as there are in 127.0.0.0/8.
func NewSink(addr string, mode Mode) (*Sink, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open the sink: %w", err)
	}
	s := &Sink{
		addr:  addrPort(l.Addr()),
		done:  make(chan struct{}),
		held:  -1,
		conns: map[*net.TCPConn]struct{}{},
	}
	s.listen(l)
	ok := OK
	s.mode.Store(&ok)
	if err := s.SetMode(mode); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Addr is where the sink listens, also while it refuses.
func (s *Sink) Addr() netip.AddrPort { return s.addr }

// URL is the sink as a destination. A sink on an unspecified address is another host for
// each i below 2^16, from 127.1.0.0 on; else i makes no difference.
func (s *Sink) URL(i int) string {
	host := s.addr
	if host.Addr().IsUnspecified() {
		host = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), s.addr.Port())
	}
	return "http://" + host.String() + "/hook"
}

// network is the sink as an entry of KAPSEL_EGRESS_ALLOW: CIDR and port.
func (s *Sink) network() string {
	switch a := s.addr.Addr(); {
	case a.IsUnspecified():
		return fmt.Sprintf("127.0.0.0/8:%d", s.addr.Port())
	case a.Is4():
		return fmt.Sprintf("%s/32:%d", a, s.addr.Port())
	default:
		return fmt.Sprintf("[%s/128]:%d", a, s.addr.Port())
	}
}

// Script answers every request as f says, instead of by the mode; nil ends that. A sink that
// refuses still refuses. f is called by many goroutines at once and may block.
func (s *Sink) Script(f func(SinkRequest) Answer) {
	if f == nil {
		s.script.Store(nil)
		return
	}
	s.script.Store(&f)
}

// Watch calls f at each moment of each request, before the sink goes on; nil ends that.
func (s *Sink) Watch(f func(Moment, SinkRequest)) {
	if f == nil {
		s.watch.Store(nil)
		return
	}
	s.watch.Store(&f)
}

// Record starts or stops keeping every request for Requests.
func (s *Sink) Record(on bool) { s.record.Store(on) }

// Requests are the requests recorded so far, in the order in which they were read.
func (s *Sink) Requests() []SinkRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]SinkRequest(nil), s.log...)
}

// Delay makes the sink wait before each answer of its mode.
func (s *Sink) Delay(d time.Duration) { s.delay.Store(int64(d)) }

// Mode is the present mode.
func (s *Sink) Mode() Mode { return *s.mode.Load() }

// SetMode changes how requests from now on are treated. Refusing resets all connections and
// keeps the port, so that nobody else answers on it meanwhile.
func (s *Sink) SetMode(m Mode) error {
	switch m {
	case OK, Fail, Hang, Refuse:
	default:
		return fmt.Errorf("no such sink mode %q; one of ok, refuse, hang, 500", m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	switch {
	case m == Refuse && s.held < 0:
		s.listener.Close()
		s.listener = nil
		for c := range s.conns {
			reset(c)
		}
		fd, err := holdPort(s.addr)
		if err != nil {
			return fmt.Errorf("keep the sink's port: %w", err)
		}
		s.held = fd
	case m != Refuse && s.held >= 0:
		unix.Close(s.held)
		s.held = -1
		l, err := net.Listen("tcp", s.addr.String())
		if err != nil {
			return fmt.Errorf("open the sink again: %w", err)
		}
		s.listen(l)
	}
	s.mode.Store(&m)
	return nil
}

// holdPort binds a socket that does not listen: the kernel refuses connections to it.
func holdPort(addr netip.AddrPort) (int, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	// Connections that were just reset or closed must not keep the port from us.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Close closes the listener and all connections and waits for their goroutines.
func (s *Sink) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	var err error
	if s.listener != nil {
		err = s.listener.Close()
	}
	if s.held >= 0 {
		unix.Close(s.held)
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// listen serves a new listener. The caller holds mu, or is NewSink.
func (s *Sink) listen(l net.Listener) {
	s.listener = l
	s.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return // closed
			}
			c := nc.(*net.TCPConn)
			local := addrPort(c.LocalAddr())
			if s.addr.Addr().IsUnspecified() && !local.Addr().IsLoopback() || !s.adopt(l, c) {
				reset(c)
				continue
			}
			s.wg.Go(func() {
				defer s.forget(c)
				s.serve(c, local)
			})
		}
	})
}

// adopt takes a connection in, unless its listener is no longer the sink's.
func (s *Sink) adopt(l net.Listener, c *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.listener != l {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Sink) forget(c *net.TCPConn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// addrPort is a TCP address, IPv4 without its IPv6 clothes.
func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// reset closes a connection so that its peer sees a reset.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only on a connection already closed
	c.Close()
}

// keep adds a request to the log and says where; -1: nothing is recorded.
func (s *Sink) keep(req SinkRequest) int {
	if !s.record.Load() {
		return -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, req)
	return len(s.log) - 1
}

func (s *Sink) keepWritten(entry int) {
	if entry < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log[entry].Written = true
}
