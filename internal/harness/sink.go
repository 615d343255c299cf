package harness

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

// Mode says how a sink answers.
type Mode string

// The modes.
const (
	OK     Mode = "ok"     // answers 200
	Fail   Mode = "500"    // answers 500
	Hang   Mode = "hang"   // reads requests and never answers
	Refuse Mode = "refuse" // refuses connections and resets open ones
)

// Sink is a destination for webhooks: an HTTP/1.1 server that recognises and counts the events of
// a Load. Its methods are safe for concurrent use.
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

	mu       sync.Mutex // guards what follows
	closed   bool
	listener net.Listener // nil while refusing
	held     int          // while refusing: a socket that reserves the port; otherwise -1
	conns    map[*net.TCPConn]struct{}
	log      []SinkRequest
}

// NewSink listens on addr, such as "127.0.0.1:0", and serves until Close. On an unspecified
// address ("0.0.0.0:0") it accepts connections to loopback addresses only; it can then play as
// many hosts as 127.0.0.0/8 has addresses.
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

// Addr returns the sink's address, also while the sink refuses connections.
func (s *Sink) Addr() netip.AddrPort { return s.addr }

// URL returns a URL of the sink as a destination. If the sink listens on an unspecified address,
// each i below 2^16 gives another host, from 127.1.0.0 on; otherwise i is ignored.
func (s *Sink) URL(i int) string {
	host := s.addr
	if host.Addr().IsUnspecified() {
		host = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), s.addr.Port())
	}
	return "http://" + host.String() + "/hook"
}

// Network returns the sink as an entry of KAPSEL_EGRESS_ALLOW: CIDR and port.
func (s *Sink) Network() string {
	switch a := s.addr.Addr(); {
	case a.IsUnspecified():
		return fmt.Sprintf("127.0.0.0/8:%d", s.addr.Port())
	case a.Is4():
		return fmt.Sprintf("%s/32:%d", a, s.addr.Port())
	default:
		return fmt.Sprintf("[%s/128]:%d", a, s.addr.Port())
	}
}

// Script makes f answer every request, instead of the mode; nil restores the mode. While the mode
// is Refuse, the sink still refuses connections. f is called concurrently and may block.
func (s *Sink) Script(f func(SinkRequest) Answer) {
	if f == nil {
		s.script.Store(nil)
		return
	}
	s.script.Store(&f)
}

// Watch makes the sink call f at each moment of each request and wait for it; nil ends that.
func (s *Sink) Watch(f func(Moment, SinkRequest)) {
	if f == nil {
		s.watch.Store(nil)
		return
	}
	s.watch.Store(&f)
}

// Record starts or stops keeping requests for Requests.
func (s *Sink) Record(on bool) { s.record.Store(on) }

// Requests returns the recorded requests, in the order in which they were read.
func (s *Sink) Requests() []SinkRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]SinkRequest(nil), s.log...)
}

// Delay sets how long the sink waits before each answer of its mode.
func (s *Sink) Delay(d time.Duration) { s.delay.Store(int64(d)) }

// Mode returns the current mode.
func (s *Sink) Mode() Mode { return *s.mode.Load() }

// SetMode changes how the sink answers from now on. Refuse resets all connections and reserves the
// port, so that no other process can answer on it.
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

// holdPort binds a socket without listening, so that the kernel refuses connections to its port.
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
	// Allow the bind although connections to the port were just reset or closed.
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

// Close closes the listener and all connections, and waits for their goroutines.
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

// listen serves a new listener. The caller must hold mu, or be NewSink.
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

// adopt registers a connection. It returns false if the listener is no longer the sink's.
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

// addrPort returns a TCP address, with IPv4 addresses unmapped.
func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// reset closes a connection so that the peer sees a reset.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only if the connection is closed already
	c.Close()
}

// keep records a request and returns its index in the log; -1 if recording is off.
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
