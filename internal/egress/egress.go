// Package egress makes the HTTP clients of everything that Kapsel sends: it is the one place
// that decides where a request may go and how it goes there.
//
// Where: the address is judged when a connection is dialled, after the name was resolved
// and right before the socket connects, so no spelling of a URL and no change of DNS gets
// around it. CheckURL says early, and only as a service to people, what a dial would refuse.
//
// How: HTTP/1.1 by POST, no proxy, no redirects, no decompression, and never a request that
// is repeated once a byte of it was written; see NewRequest.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// Config says where requests may go. The zero Config allows public addresses only.
type Config struct {
	// Allow lists addresses that may be reached although they are not public.
	Allow []AllowRule
	// AllowAllPrivate allows loopback and private addresses, for development.
	AllowAllPrivate bool
	// Self reports addresses that are never reached, whatever else allows them: Kapsel's own
	// listeners (see Listeners). Nil: none.
	Self func(netip.AddrPort) bool
	// SelfURL is what Kapsel's own ingest URLs begin with, as senders see them. CheckURL
	// refuses them: their address may be that of a proxy in front, which no dial can tell.
	SelfURL string
	// SelfPath is the one path of URLs, such as /dev/inbox, for which Self does not count.
	SelfPath string
	// DialTimeout bounds looking up a name, connecting and the TLS handshake together; 0: 10 s.
	DialTimeout time.Duration
	// RootCAs verify destinations instead of the system's roots; nil: the system's.
	RootCAs *x509.CertPool
	// TLSName is the name that the certificate must have instead of the URL's, for a process
	// that asks itself; "": the URL's.
	TLSName string
}

// Limits of a transport.
const (
	defaultDialTimeout = 10 * time.Second
	maxResponseHeader  = 64 << 10
	maxIdlePerHost     = 256
	maxIdle            = 1024
	idleTimeout        = 90 * time.Second
)

// NewTransport makes a transport that reaches only what cfg allows. It does not know
// SelfPath; New does.
func NewTransport(cfg Config) *http.Transport {
	timeout := cfg.DialTimeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	dialer := &net.Dialer{
		Timeout: timeout,
		// The system's resolver reads 127.1 and 0x7f000001 as addresses; Go's does not.
		Resolver: &net.Resolver{PreferGo: true},
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return &BlockedError{}
			}
			return cfg.judge(ap)
		},
	}
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		RootCAs:    cfg.RootCAs,
		ServerName: cfg.TLSName,
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy:       nil, // whatever the environment says
		DialContext: dialer.DialContext,
		// Dialling TLS ourselves puts the handshake under the same time-out, and marks its errors.
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return dialTLS(ctx, dialer, network, address, tlsConfig)
		},
		Protocols:              &http1,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		MaxIdleConns:           maxIdle,
		IdleConnTimeout:        idleTimeout,
	}
}

func dialTLS(ctx context.Context, d *net.Dialer, network, address string, config *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = host
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &handshakeError{err}
	}
	return conn, nil
}

// handshakeError is a failed TLS handshake.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// New makes what sends deliveries: call RoundTrip with what NewRequest makes. Unlike a
// Client it does not look at redirects at all, so a 302 with a broken Location is a 302.
func New(cfg Config) http.RoundTripper {
	t := NewTransport(cfg)
	if cfg.SelfPath == "" {
		return strict{t}
	}
	own := cfg
	own.Self = nil
	return &bySelfPath{path: cfg.SelfPath, own: strict{NewTransport(own)}, other: strict{t}}
}

// strict refuses the one status that net/http takes and that would read as "no answer": 000.
type strict struct{ *http.Transport }

func (t strict) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil && resp.StatusCode == 0 {
		resp.Body.Close()
		return nil, errors.New("the response's status is 000")
	}
	return resp, err
}

// bySelfPath keeps the connections for SelfPath apart, so that no other request goes out on
// a connection that was dialled for it.
type bySelfPath struct {
	path       string
	own, other strict
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
func Listeners(listeners ...net.Addr) func(netip.AddrPort) bool {
	var own []netip.AddrPort
	for _, l := range listeners {
		if tcp, ok := l.(*net.TCPAddr); ok {
			ap := tcp.AddrPort()
			own = append(own, netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()))
		}
	}
	return func(to netip.AddrPort) bool {
		addr := to.Addr().Unmap()
		for _, l := range own {
			switch {
			case to.Port() != l.Port():
			case addr == l.Addr(),
				addr.IsUnspecified(), // the kernel connects it to loopback
				l.Addr().IsUnspecified() && (addr.IsLoopback() || isInterface(addr)):
				return true
			}
		}
		return false
	}
}

// isInterface reports whether an interface of this machine has the address. It asks the
// kernel each time: addresses come and go.
func isInterface(addr netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil { // a hardened process may not ask for them
		return canBind(addr)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == addr {
				return true
			}
		}
	}
	return false
}

// canBind reports whether a socket can have the address, which only the machine's own allow
// (or any, where the system lets sockets have addresses of other machines).
func canBind(addr netip.Addr) bool {
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return false
	}
	l.Close()
	return true
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
