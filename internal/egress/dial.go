package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/idna"
)

const (
	// defaultDialTimeout bounds connecting and the TLS handshake together.
	defaultDialTimeout = 10 * time.Second
	// nextAfter is how long one address is tried before the next one is tried in parallel (RFC 8305,
	// 5).
	nextAfter = 250 * time.Millisecond
)

// dialer opens connections to the addresses that its Config allows.
type dialer struct {
	cfg     Config
	timeout time.Duration
	names   *resolver
	tls     *tls.Config
	// connect opens a connection to one address, unless judge refuses it.
	connect func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

func newDialer(cfg Config) *dialer {
	d := &dialer{cfg: cfg, timeout: cfg.DialTimeout, names: newResolver()}
	if d.timeout == 0 {
		d.timeout = defaultDialTimeout
	}
	d.tls = &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		RootCAs:    cfg.RootCAs,
		ServerName: cfg.TLSName,
	}
	if cfg.RootCAs == nil {
		// The system's roots are loaded once, on first use. If no file could be opened at that moment,
		// every certificate would be unknown for the life of the process. So load them now.
		_, _ = x509.SystemCertPool()
	}
	socket := &net.Dialer{Control: func(_, address string, raw syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return &BlockedError{}
		}
		if err := d.cfg.judge(to); err != nil {
			return err
		}
		if failed := raw.Control(func(fd uintptr) { err = spare(fd) }); failed != nil {
			return failed
		}
		return err
	}}
	d.connect = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		return socket.DialContext(ctx, "tcp", to.String())
	}
	return d
}

// dial opens a connection to a destination. It looks up the name, drops the addresses that the
// Config does not allow, tries the others, and makes the TLS handshake for https.
func (d *dialer) dial(ctx context.Context, to destination) (*conn, error) {
	host, allowed, err := d.find(ctx, to)
	if err != nil {
		return nil, dialError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	raw, err := d.race(ctx, allowed)
	if err != nil {
		return nil, err
	}
	c := newConn(raw)
	if to.scheme == "https" {
		if err := d.secure(ctx, c, host); err != nil {
			raw.Close()
			return nil, err
		}
	}
	return c, nil
}

// find returns a destination's host, and its addresses that may be tried.
func (d *dialer) find(ctx context.Context, to destination) (host string, allowed []netip.AddrPort, err error) {
	host, port, err := to.hostPort()
	if err != nil {
		return host, nil, err
	}
	addrs, err := d.names.lookup(ctx, host)
	if err != nil {
		return host, nil, err
	}
	allowed, err = d.allowed(addrs, port)
	return host, allowed, err
}

// dialError wraps an error from before any connection attempt, in the form of net.Dialer's errors.
func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// hostPort returns the destination's host, with international names mapped as net/http does, and
// its port.
func (to destination) hostPort() (host string, port uint16, err error) {
	u := url.URL{Host: to.host}
	host = u.Hostname()
	if !isASCII(host) {
		if ascii, err := idna.Lookup.ToASCII(host); err == nil {
			host = ascii
		}
	}
	text := u.Port()
	switch {
	case text != "":
	case to.scheme == "https":
		text = "443"
	default:
		text = "80"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(n), err
}

// allowed returns the addresses that may be tried, alternating between the families (RFC 8305, 4).
// If there are none, the error says why.
func (d *dialer) allowed(addrs []netip.Addr, port uint16) ([]netip.AddrPort, error) {
	var first, other []netip.AddrPort // addresses of the first address's family, and of the other
	var refused error
	for _, addr := range addrs {
		to := netip.AddrPortFrom(addr, port)
		err := d.cfg.judge(to)
		switch {
		case err == nil && addr.Is4() == addrs[0].Is4():
			first = append(first, to)
		case err == nil:
			other = append(other, to)
		case refused == nil || !IsBlocked(err): // an address that could not be judged might be allowed
			refused = err
		}
	}
	var turns []netip.AddrPort
	for i := range max(len(first), len(other)) {
		turns = append(turns, first[min(i, len(first)):min(i+1, len(first))]...)
		turns = append(turns, other[min(i, len(other)):min(i+1, len(other))]...)
	}
	if len(turns) == 0 {
		return nil, refused
	}
	return turns, nil
}

// race tries the addresses in order, starting the next one when an attempt fails or takes longer
// than nextAfter. It returns the first connection and closes the others.
func (d *dialer) race(ctx context.Context, to []netip.AddrPort) (net.Conn, error) {
	if len(to) == 1 {
		return d.connect(ctx, to[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i    int
		conn net.Conn
		err  error
	}
	results := make(chan result)
	errs := make([]error, len(to))
	begun, running := 0, 0
	late := time.NewTimer(nextAfter)
	defer late.Stop()
	for {
		if begun == 0 || begun < len(to) && ctx.Err() == nil { // try one even if no time is left, for its error
			i := begun
			go func() {
				conn, err := d.connect(ctx, to[i])
				results <- result{i, conn, err}
			}()
			begun++
			running++
			late.Reset(nextAfter)
		}
		if running == 0 {
			return nil, deciding(errs[:begun])
		}
		for waiting := true; waiting; {
			select {
			case <-late.C:
				waiting = begun == len(to)
			case r := <-results:
				running--
				if r.err != nil {
					errs[r.i] = r.err
					waiting = false
					break
				}
				go func() { // cancel ends the other attempts
					for range running {
						if r := <-results; r.err == nil {
							r.conn.Close()
						}
					}
				}()
				return r.conn, nil
			}
		}
	}
}

// secure makes the TLS handshake.
func (d *dialer) secure(ctx context.Context, c *conn, host string) error {
	config := d.tls.Clone()
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c.asked.Store(true)
		return &tls.Certificate{}, nil // none
	}
	c.wire.records = &records{}
	secured := tls.Client(c.wire, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return &handshakeError{err, c.asked.Load()}
	}
	c.Conn = secured
	return nil
}

// handshakeError is a failed TLS handshake.
type handshakeError struct {
	err   error
	asked bool // the destination asked for a certificate
}

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// certificateError says that the connection was lost before the first answer, after the
// destination had asked for a client certificate. With TLS 1.3 a destination can refuse a missing
// certificate only then.
type certificateError struct{ err error }

func (e *certificateError) Error() string { return "a certificate was asked for: " + e.err.Error() }
func (e *certificateError) Unwrap() error { return e.err }

// deciding returns the error that represents a dial that failed at every address: the first of
// those with the greatest weight.
func deciding(errs []error) error {
	return slices.MaxFunc(errs, func(a, b error) int { return cmp.Compare(weight(a), weight(b)) })
}

// weight returns how much the error of one address says about the destination. A shortage of
// descriptors, memory or ports weighs most, because the address might have answered. A missing route from
// this machine, as to IPv6 in many networks, weighs little, and so does a shortage of ports for IPv6, which may
// be no more than the lack of an address to call from.
func weight(err error) int {
	short := shortageOf(err)
	to, _ := addressOf(err)
	switch {
	case IsBlocked(err):
		return 0
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EAFNOSUPPORT):
		return 1
	case short != nil && short.Ports && !to.Is4():
		return 2
	case short == nil:
		return 3
	}
	return 4
}
