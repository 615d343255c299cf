// Package egress makes the HTTP clients of everything that Kapsel sends: it is the one place
// that decides where a request may go and how it goes there.
//
// Where: the address is judged when a connection is dialled, after the name was resolved
// and right before the socket connects, so no spelling of a URL and no change of DNS gets
// around it. CheckURL says early, and only as a service to people, what a dial would refuse.
//
// How: HTTP/1.1, no proxy, no redirects, no decompression, never a request that is repeated
// once a byte of it was written, and never an answer that came before its request.
//
// What keeps a request from being made for want of something on this machine, such as a file
// descriptor, is a Shortage and nobody's failure.
//
// Reading order: dial.go and lookup.go (a connection), wire.go and conn.go (what may go over
// it), transport.go (which connection a request takes), exchange.go (what became of it).
package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// Config says where requests may go. The zero Config allows public addresses only.
type Config struct {
	// Allow lists addresses that may be reached although they are not public.
	Allow []AllowRule
	// AllowAllPrivate allows loopback and private addresses, for development.
	AllowAllPrivate bool
	// Self reports addresses that are never reached, whatever else allows them: Kapsel's own
	// listeners (see Listeners). Nil: none. An error says that it could not be found out.
	Self func(netip.AddrPort) (bool, error)
	// SelfURL is what Kapsel's own ingest URLs begin with, as senders see them. CheckURL
	// refuses them: their address may be that of a proxy in front, which no dial can tell.
	SelfURL string
	// SelfPath is the one path of URLs, such as /dev/inbox, for which Self does not count.
	SelfPath string
	// DialTimeout bounds connecting and the TLS handshake together; 0: 10 s. Looking up the
	// name before has a limit of its own, 5 s.
	DialTimeout time.Duration
	// RootCAs verify destinations instead of the system's roots; nil: the system's.
	RootCAs *x509.CertPool
	// TLSName is the name that the certificate must have instead of the URL's, for a process
	// that asks itself; "": the URL's.
	TLSName string
}

// New makes what sends deliveries: call RoundTrip with what NewRequest makes. Unlike a
// Client it does not look at redirects at all, so a 302 with a broken Location is a 302.
func New(cfg Config) http.RoundTripper {
	t := newTransport(newDialer(cfg).dial)
	if cfg.SelfPath == "" {
		return t
	}
	own := cfg
	own.Self = nil
	return &bySelfPath{path: cfg.SelfPath, own: newTransport(newDialer(own).dial), other: t}
}

// NewOver makes a transport as New does, but over connections that dial opens, wherever they
// lead: for a simulated network.
func NewOver(dial func(ctx context.Context, network, address string) (net.Conn, error)) http.RoundTripper {
	return newTransport(func(ctx context.Context, to destination) (*conn, error) {
		host, port, err := to.hostPort()
		if err != nil {
			return nil, err
		}
		raw, err := dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err != nil {
			return nil, err
		}
		return newConn(raw), nil
	})
}

// bySelfPath keeps the connections for SelfPath apart, so that no other request goes out on
// a connection that was dialled for it.
type bySelfPath struct {
	path       string
	own, other *transport
}

func (t *bySelfPath) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Opaque == "" && r.URL.EscapedPath() == t.path {
		return t.own.RoundTrip(r)
	}
	return t.other.RoundTrip(r)
}

func (t *bySelfPath) CloseIdleConnections() {
	t.own.CloseIdleConnections()
	t.other.CloseIdleConnections()
}

// NewClient makes a client that reaches only what cfg allows and follows no redirect.
func NewClient(cfg Config) *http.Client {
	return &http.Client{
		Transport:     New(cfg),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Listeners reports the addresses under which listeners of this process can be reached, for
// Config.Self. One that listens on all addresses is reached at each of the machine's.
func Listeners(listeners ...net.Addr) func(netip.AddrPort) (bool, error) {
	var own []netip.AddrPort
	for _, l := range listeners {
		if tcp, ok := l.(*net.TCPAddr); ok {
			ap := tcp.AddrPort()
			own = append(own, netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()))
		}
	}
	return func(to netip.AddrPort) (bool, error) {
		addr := to.Addr().Unmap()
		for _, l := range own {
			if to.Port() != l.Port() {
				continue
			}
			if addr == l.Addr() || addr.IsUnspecified() { // the kernel connects it to loopback
				return true, nil
			}
			if !l.Addr().IsUnspecified() {
				continue
			}
			if own, err := isInterface(addr); own || err != nil || addr.IsLoopback() {
				return own || addr.IsLoopback(), err
			}
		}
		return false, nil
	}
}

// isInterface reports whether an interface of this machine has the address. It asks the
// kernel each time: addresses come and go. The error is a Shortage, when it could not ask.
func isInterface(addr netip.Addr) (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil { // a hardened process may not ask for them
		return canBind(addr)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == addr {
				return true, nil
			}
		}
	}
	return false, nil
}

// canBind reports whether a socket can have the address, which only the machine's own allow
// (or any, where the system lets sockets have addresses of other machines).
func canBind(addr netip.Addr) (bool, error) {
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		if s := shortageOf(err); s != nil && !s.Ports { // not the answer "no"
			return false, s
		}
		return false, nil
	}
	l.Close()
	return true, nil
}

// BlockedError says that a destination may not be reached. Its text is the same for every
// reason and names no address: it must not tell what is where in the network.
type BlockedError struct{}

func (*BlockedError) Error() string {
	return "the destination is not allowed: it has no public address, or its port is not one for webhooks; " +
		"the operator can allow it with KAPSEL_EGRESS_ALLOW"
}

// IsBlocked reports whether err is or wraps a BlockedError.
func IsBlocked(err error) bool {
	var b *BlockedError
	return errors.As(err, &b)
}
