// Package egress makes the HTTP clients for everything that Kapsel sends. It alone decides where a
// request may go and how it gets there.
//
// Where: an address is judged while dialling, after the name was resolved and right before the
// socket connects. So no spelling of a URL and no change of DNS gets around the rules. CheckURL is
// only a convenience: it tells early what a dial would refuse.
//
// How: HTTP/1.1, without proxies, redirects or decompression. A request is never repeated once a
// byte of it was written, and bytes that arrived before a request never count as its answer.
//
// If this machine lacks something that a request needs, such as a file descriptor, the error is a
// Shortage, which is not a failure of the destination.
//
// Reading order: dial.go and lookup.go (opening a connection), wire.go and conn.go (what may go
// over it), transport.go (which connection a request uses), exchange.go (the result).
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
	// Self reports whether an address must never be reached, whatever else allows it: one of Kapsel's
	// own listeners (see Listeners). Nil: none. An error means that it could not be determined.
	Self func(netip.AddrPort) (bool, error)
	// SelfURL is the prefix of Kapsel's own ingest URLs, as senders see them. CheckURL refuses such
	// URLs, because they may lead to a proxy in front of Kapsel, which a dial cannot recognise.
	SelfURL string
	// SelfPath is the only path, such as /dev/inbox, of URLs to which Self does not apply.
	SelfPath string
	// DialTimeout bounds connecting and the TLS handshake together; 0: 10 s. The DNS lookup before has
	// its own limit of 5 s.
	DialTimeout time.Duration
	// RootCAs verifies the certificates of destinations; nil: the system's roots.
	RootCAs *x509.CertPool
	// TLSName is the name that certificates must have instead of the URL's host, for a process that
	// calls itself; "": the URL's host.
	TLSName string
}

// New returns the transport for deliveries. Call its RoundTrip with the result of NewRequest.
// Unlike http.Client it never looks at redirects, so a 302 with a malformed Location is just a
// 302.
func New(cfg Config) http.RoundTripper {
	t := newTransport(newDialer(cfg).dial)
	if cfg.SelfPath == "" {
		return t
	}
	own := cfg
	own.Self = nil
	return &bySelfPath{path: cfg.SelfPath, own: newTransport(newDialer(own).dial), other: t}
}

// NewOver returns a transport like New's, but over connections that dial opens, without any rule
// about where they lead. It is for simulated networks.
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

// bySelfPath uses separate connections for SelfPath, so that no other request goes over a
// connection that was dialled without Self.
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

// NewClient returns a client that reaches only what cfg allows and follows no redirects.
func NewClient(cfg Config) *http.Client {
	return &http.Client{
		Transport:     New(cfg),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Listeners returns a function for Config.Self that reports whether an address belongs to one of
// the listeners. A listener on all addresses is found at each address of this machine.
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

// isInterface reports whether an interface of this machine has the address. It asks the kernel
// each time, because addresses come and go. The error is a Shortage that kept it from asking.
func isInterface(addr netip.Addr) (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil { // not permitted in a hardened process
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

// canBind reports whether a socket can be bound to the address, which normally only an address of
// this machine allows (any address does if the system permits non-local binds).
func canBind(addr netip.Addr) (bool, error) {
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		if s := shortageOf(err); s != nil && !s.Ports { // this does not mean "no"
			return false, s
		}
		return false, nil
	}
	l.Close()
	return true, nil
}

// BlockedError says that a destination may not be reached. Its text is the same for every reason
// and names no address, so that it reveals nothing about the network.
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
