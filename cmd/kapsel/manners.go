package main

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/kapsel-hq/kapsel"
)

// hardened sets headers that keep browsers from doing more with an answer than showing it. A page that needs
// more replaces the policy. The senders of webhooks are no browsers, so ingest sets only the few headers
// that its answers need.
func hardened(next http.Handler, https bool) http.Handler {
	policy := map[string][]string{
		"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"},
		"Cross-Origin-Opener-Policy":   {"same-origin"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		"Permissions-Policy":           {"camera=(), geolocation=(), microphone=()"},
		"Referrer-Policy":              {"no-referrer"},
		"X-Content-Type-Options":       {"nosniff"},
		"X-Frame-Options":              {"DENY"},
	}
	sender := map[string][]string{}
	if https {
		policy["Strict-Transport-Security"] = []string{"max-age=31536000"}
		sender["Strict-Transport-Security"] = policy["Strict-Transport-Security"]
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		set := policy
		if strings.HasPrefix(r.URL.Path, kapsel.IngestPath) {
			set = sender
		}
		header := w.Header()
		for name, values := range set { // handlers replace values and do not append to them
			header[name] = values
		}
		next.ServeHTTP(w, r)
	})
}

// maxConnections is how many connections one client may have open at once.
const maxConnections = 256

// cappedListener limits the connections of one client: of an IPv4 address, or of an IPv6 /64, which usually
// belongs to one client. It does not limit loopback and trusted proxies, which act for many clients.
type cappedListener struct {
	net.Listener
	most    int
	proxies []netip.Prefix

	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu; none is 0
}

func newCappedListener(l net.Listener, most int, proxies []netip.Prefix) *cappedListener {
	return &cappedListener{Listener: l, most: most, proxies: proxies, open: map[netip.Addr]int{}}
}

// Accept returns the next connection that is within its client's limit. It closes those above the limit.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client, bounded := l.client(c.RemoteAddr())
		if !bounded {
			return c, nil
		}
		if l.enter(client) {
			return &cappedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(client) })}, nil
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset costs us no state; it does not matter if it fails
		}
		c.Close()
	}
}

// client returns the address, or the beginning of the /64, for which a connection counts. bounded is false if
// the connection is not limited.
func (l *cappedListener) client(remote net.Addr) (client netip.Addr, bounded bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return client, false
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.IsLoopback() || slices.ContainsFunc(l.proxies, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return client, false
	}
	if addr.Is6() {
		return netip.PrefixFrom(addr, 64).Masked().Addr(), true
	}
	return addr, true
}

func (l *cappedListener) enter(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[client] >= l.most {
		return false
	}
	l.open[client]++
	return true
}

func (l *cappedListener) leave(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[client]--; l.open[client] == 0 {
		delete(l.open, client)
	}
}

// cappedConn is a connection that counts toward its client's limit until it is closed.
type cappedConn struct {
	net.Conn
	leave func()
}

func (c *cappedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
