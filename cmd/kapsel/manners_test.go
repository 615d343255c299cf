package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
)

// scripted is a listener that accepts connections from given addresses.
type scripted struct {
	net.Listener
	from   []string
	closed []string
}

type scriptedConn struct {
	net.Conn
	l    *scripted
	from string
}

func (c *scriptedConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 1234))
}
func (c *scriptedConn) Close() error { c.l.closed = append(c.l.closed, c.from); return nil }

func (l *scripted) Accept() (net.Conn, error) {
	if len(l.from) == 0 {
		return nil, net.ErrClosed
	}
	c := &scriptedConn{l: l, from: l.from[0]}
	l.from = l.from[1:]
	return c, nil
}

// TestResources_B112_ConnectionsOfOneClient checks that one client's address, or its /64 of
// IPv6, has a bounded number of connections, while loopback and trusted proxies have no bound.
func TestResources_B112_ConnectionsOfOneClient(t *testing.T) {
	l := &scripted{}
	capped := newCappedListener(l, 2, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	accept := func(from ...string) (conns []net.Conn) {
		l.from, l.closed = from, nil
		for {
			c, err := capped.Accept()
			if errors.Is(err, net.ErrClosed) {
				return conns
			}
			conns = append(conns, c)
		}
	}
	if got := accept("127.0.0.1", "127.0.0.1", "127.0.0.1", "10.1.1.1", "10.1.1.1", "::ffff:10.1.1.1", "::1", "::1", "::1"); len(got) != 9 {
		t.Errorf("%d of 9 connections of loopback and a proxy", len(got))
	}
	first := accept("1.1.1.1", "1.1.1.1", "::ffff:1.1.1.1", "1.1.1.2")
	if len(first) != 3 || len(l.closed) != 1 {
		t.Fatalf("%d connections, closed %v", len(first), l.closed)
	}
	if got := accept("2606:4700::1", "2606:4700::2", "2606:4700::3", "2606:4700:0:1::1"); len(got) != 3 {
		t.Errorf("%d connections of two networks of IPv6", len(got))
	}
	first[0].Close()
	first[0].Close() // counts once
	if got := accept("1.1.1.1", "1.1.1.1"); len(got) != 1 {
		t.Errorf("%d connections after one was closed", len(got))
	}
}

// TestHardening_S18_ServerLimits checks that the server bounds the time and the size of all
// that a client sends.
func TestHardening_S18_ServerLimits(t *testing.T) {
	s := newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	for name, ok := range map[string]bool{
		"header":                s.ReadHeaderTimeout == 5*time.Second,
		"body":                  s.ReadTimeout == 30*time.Second,
		"answer":                s.WriteTimeout > s.ReadTimeout && s.WriteTimeout <= 2*time.Minute, // a development instance waits for the delivery
		"idle":                  s.IdleTimeout == time.Minute,
		"size of the header":    s.MaxHeaderBytes > 16<<10 && s.MaxHeaderBytes <= 64<<10, // above ours, which has a code of its own
		"streams of HTTP/2":     s.HTTP2 != nil && s.HTTP2.MaxConcurrentStreams == 100,
		"connections":           maxConnections > 0 && maxConnections <= 1024,
		"nothing on the stderr": s.ErrorLog != nil,
	} {
		if !ok {
			t.Errorf("%s: not bounded as promised", name)
		}
	}
}

// TestHardening_S14_Switches checks that each boolean setting is safe when it is off, and is
// off unless somebody asks for it. A new setting adds a row.
func TestHardening_S14_Switches(t *testing.T) {
	safe := map[string]func(on bool) (dangerous bool){
		"Dev": func(on bool) bool { // reaches private destinations, and therefore listens on loopback only
			s := serveSettings{Dev: on, Listen: "0.0.0.0:80", databaseSettings: databaseSettings{DatabaseURL: "sqlite:x"}}
			if err := s.check(); on && (err == nil || !strings.Contains(err.Error(), "loopback only")) {
				t.Errorf("--dev listens on all addresses: %v", err)
			}
			return egress.CheckURL("http://127.0.0.1:3000/", s.guard(nil)) == nil
		},
		"AcceptRollback": func(on bool) bool { return on }, // the old logs end
	}
	settings := reflect.TypeFor[serveSettings]()
	switches := 0
	for _, f := range reflect.VisibleFields(settings) {
		if f.Type.Kind() != reflect.Bool || !f.IsExported() {
			continue
		}
		switches++
		dangerous := safe[f.Name]
		if dangerous == nil {
			t.Errorf("setting %s has no row here", f.Name)
			continue
		}
		if dangerous(false) || !dangerous(true) {
			t.Errorf("setting %s: off is not the safe way, or on does nothing", f.Name)
		}
		if f.Tag.Get("default") != "" || f.Tag.Get("env") != "" {
			t.Errorf("setting %s can be on without being asked for", f.Name)
		}
	}
	if switches != len(safe) {
		t.Errorf("%d switches, %d rows", switches, len(safe))
	}
}

// TestHardening_S15_Headers checks that the API's answers forbid scripts and content sniffing,
// and over HTTPS ask browsers to keep to HTTPS, while a page may set a policy of its own.
func TestHardening_S15_Headers(t *testing.T) {
	for path, want := range map[string]string{"/v1/tenants": "default-src 'none'", "/nothing": "default-src 'none'", "/page": "mine", "/ingest/x": ""} {
		for _, https := range []bool{false, true} {
			h := hardened(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/page" {
					w.Header().Set("Content-Security-Policy", "mine")
				}
			}), https)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
			got := rec.Header()
			if csp := got.Get("Content-Security-Policy"); !strings.HasPrefix(csp, want) || want == "" && csp != "" {
				t.Errorf("%s: policy %q", path, csp)
			}
			sniff := got.Get("X-Content-Type-Options") // of its own answers ingest sets it
			if (sniff == "nosniff") != (path != "/ingest/x") || (got.Get("Strict-Transport-Security") != "") != https {
				t.Errorf("%s, https %v: %v", path, https, got)
			}
		}
	}
}

// writePair writes a self-signed certificate with a serial number.
func writePair(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestTLS_S14_ReadAgain checks that a new certificate is served within a second after its
// files change, and files which cannot be used leave the old certificate in use.
func TestTLS_S14_ReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := writePair(t, dir, 1)
		var log bytes.Buffer
		c, err := loadCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serves := func(want int64) {
			t.Helper()
			pair, err := c.get(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			if got := leaf.SerialNumber.Int64(); got != want {
				t.Errorf("certificate %d is served, not %d", got, want)
			}
		}
		touch := func(file string, at int64) {
			t.Helper()
			if err := os.Chtimes(file, time.Unix(at, 0), time.Unix(at, 0)); err != nil {
				t.Fatal(err)
			}
		}
		serves(1)
		writePair(t, dir, 2)
		touch(certFile, 2_000_000_000)
		serves(1) // looked at less than a second ago
		time.Sleep(time.Second)
		serves(2)

		if err := os.WriteFile(keyFile, []byte("not a key"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(time.Second)
			serves(2)
		}
		if n := strings.Count(log.String(), "cannot be used"); n != 1 || strings.Contains(log.String(), "not a key") {
			t.Errorf("%d warnings of one bad change: %s", n, log.String())
		}
		writePair(t, dir, 3)
		touch(keyFile, 2_000_000_001)
		time.Sleep(time.Second)
		serves(3)

		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		for range 3 {
			time.Sleep(time.Second)
			serves(3)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings of a missing file: %s", n, log.String())
		}
		c.reload()
		serves(3)
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors of a missing file at SIGHUP: %s", n, log.String())
		}
		writePair(t, dir, 4)
		c.reload()
		serves(4)
	})
	if _, err := loadCertificate("/nowhere", "/nowhere", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("files that are not there are no error")
	}
	if got := (&certificate{}).config().MinVersion; got != tls.VersionTLS12 {
		t.Errorf("TLS from version %x", got)
	}
}
