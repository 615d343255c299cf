package egress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestHardening_S14_S17_B97_TransportSettings checks that outbound connections use HTTP/1.1
// without proxies, redirects and decompression, verify certificates and bound the header of an
// answer.
func TestHardening_S14_S17_B97_TransportSettings(t *testing.T) {
	tr, d := newTransport(nil), newDialer(Config{})
	for name, ok := range map[string]bool{
		"no proxy":                 tr.http.Proxy == nil,
		"HTTP/1.1 only":            tr.http.Protocols != nil && tr.http.Protocols.HTTP1() && !tr.http.Protocols.HTTP2() && !tr.http.Protocols.UnencryptedHTTP2(),
		"no decompression":         tr.http.DisableCompression,
		"keep-alive":               !tr.http.DisableKeepAlives,
		"header bound":             tr.http.MaxResponseHeaderBytes == 64<<10,
		"idle in all":              maxIdle == 1024,
		"idle time":                idleTimeout == 90*time.Second,
		"age":                      maxAge == 2*time.Minute,
		"certificates are checked": !d.tls.InsecureSkipVerify && d.tls.MinVersion == tls.VersionTLS12,
		"Go's resolver":            d.names.net.PreferGo,
		"no dial but ours":         tr.http.DialContext != nil && tr.http.DialTLSContext == nil && tr.http.TLSClientConfig == nil,
	} {
		if !ok {
			t.Errorf("%s: not so", name)
		}
	}
	if err := NewClient(Config{}).CheckRedirect(nil, nil); !errors.Is(err, http.ErrUseLastResponse) {
		t.Errorf("redirects: %v", err)
	}
}

// TestBadInput_B94_ProxyOfEnvironment checks that no proxy is used, whatever the environment
// says.
func TestBadInput_B94_ProxyOfEnvironment(t *testing.T) {
	proxy := answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.String())
	}
	s := answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if r := exchange(t.Context(), client(t, loopback), s.URL, nil, nil); r.status != 200 || s.count() != 1 || proxy.count() != 0 {
		t.Errorf("%s, %d by the proxy", r, proxy.count())
	}
}

// TestBadInput_B80_DialsAreGuarded checks that every spelling of a blocked address is refused
// when it is dialed, with one and the same text.
func TestBadInput_B80_DialsAreGuarded(t *testing.T) {
	s := answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	_, port, _ := net.SplitHostPort(s.Host)
	rt := client(t, Config{})
	texts := map[string]bool{}
	for _, host := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1%lo]", "localhost", "LOCALHOST", "１２７.０.０.１",
		"127。0。0。1", "①②⑦.⓪.⓪.①", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "local\u00adhost", "127.0.0.1\u200b",
	} {
		for _, scheme := range []string{"http", "https"} {
			u := &url.URL{Scheme: scheme, Host: strings.TrimSuffix(host, ":") + ":" + port, Path: "/"}
			r := exchange(t.Context(), rt, u, nil, nil)
			if r.code != kapsel.DialBlocked {
				t.Errorf("%s: %s", u, r)
			}
			texts[r.text] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("several texts: %v", texts)
	}
	// Spellings that only some resolvers know are no address for ours.
	for _, host := range []string{"127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost."} {
		u := &url.URL{Scheme: "http", Host: host + ":" + port, Path: "/"}
		if r := exchange(t.Context(), rt, u, nil, nil); r.code != kapsel.DialBlocked && r.code != kapsel.DNSError {
			t.Errorf("%s: %s", u, r)
		}
	}
	if n := s.count(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestBadInput_B93_Self checks that Kapsel's own listeners are out of reach except for one
// path, and no connection made for that path serves another.
func TestBadInput_B93_Self(t *testing.T) {
	s := answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	own := netip.MustParseAddrPort(s.Host)
	cfg := Config{AllowAllPrivate: true, Self: Listeners(net.TCPAddrFromAddrPort(own)), SelfPath: "/dev/inbox"}
	rt := client(t, cfg)
	for _, tt := range []struct {
		path string
		want int
	}{
		{"/", 0}, {"/dev/inbox", 200}, {"/dev/inbox/x", 0}, {"/ingest/ep_1", 0}, {"/dev/inbox", 200}, {"/DEV/inbox", 0}, {"//dev/inbox", 0},
	} {
		u := &url.URL{Scheme: "http", Host: s.Host, Path: tt.path}
		if r := exchange(t.Context(), rt, u, nil, nil); r.status != tt.want {
			t.Errorf("%s: %s", tt.path, r)
		}
	}
	escaped, err := url.Parse("http://" + s.Host + "/dev%2finbox")
	if err != nil {
		t.Fatal(err)
	}
	if r := exchange(t.Context(), rt, escaped, nil, nil); r.code != kapsel.DialBlocked {
		t.Errorf("%s: %s", escaped, r)
	}
	cfg.SelfPath = ""
	if r := exchange(t.Context(), client(t, cfg), &url.URL{Scheme: "http", Host: s.Host, Path: "/dev/inbox"}, nil, nil); r.code != kapsel.DialBlocked {
		t.Errorf("without SelfPath: %s", r)
	}
}

func TestClassifyOfDials(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/"}
	l.Close()
	rt := client(t, loopback)
	r := exchange(t.Context(), rt, closed, nil, nil)
	if r.code != kapsel.ConnectionRefused {
		t.Errorf("closed port: %s", r)
	}
	// An empty label is no name: nobody is asked.
	r = exchange(t.Context(), rt, &url.URL{Scheme: "http", Host: "a..invalid", Path: "/"}, nil, nil)
	if r.code != kapsel.DNSError {
		t.Errorf("no such name: %s", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r = exchange(ctx, rt, closed, nil, nil); r.code != kapsel.OutcomeUnknown {
		t.Errorf("canceled: %s", r)
	}
}

// TestClassify checks which code an exchange that failed gets, that the text names no address, and whether
// the request may have been sent.
func TestClassify(t *testing.T) {
	addr := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 8080}
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: err} }
	read := func(err error) error { return &net.OpError{Op: "read", Net: "tcp", Addr: addr, Err: err} }
	for _, tt := range []struct {
		err    error
		want   kapsel.Code
		unsent bool // the request was not sent
	}{
		{dial(&BlockedError{}), kapsel.DialBlocked, true},
		{&url.Error{Op: "Post", URL: "http://10.0.0.7/", Err: dial(&BlockedError{})}, kapsel.DialBlocked, true},
		{dial(&net.DNSError{Err: "no such host", Name: "a.example", Server: "10.0.0.7:53", IsNotFound: true}), kapsel.DNSError, true},
		{dial(&net.DNSError{Err: "server misbehaving", Name: "a.example", Server: "10.0.0.7:53", IsTemporary: true}), kapsel.DNSError, true},
		{dial(&net.DNSError{Err: "i/o timeout", Name: "a.example", Server: "10.0.0.7:53", IsTimeout: true}), kapsel.DNSError, true},
		{dial(context.DeadlineExceeded), kapsel.ConnectionTimeout, true},
		{&handshakeError{err: context.DeadlineExceeded}, kapsel.ConnectionTimeout, true},
		{context.DeadlineExceeded, kapsel.ConnectionTimeout, false},
		{context.Canceled, kapsel.OutcomeUnknown, false},
		{read(errors.New("connection reset by peer")), kapsel.BadResponse, false},
		{io.EOF, kapsel.BadResponse, false},
		{errStray, kapsel.BadResponse, true},
		{errHungUp, kapsel.BadResponse, true},
		{&starvedError{}, kapsel.ConnectionRefused, true},
		{&certificateError{io.EOF}, kapsel.TLSError, false},
		{errors.New("net/http: malformed HTTP response from 10.0.0.7"), kapsel.BadResponse, false},
		{dial(errors.New("network is unreachable")), kapsel.ConnectionRefused, true},
		{&handshakeError{err: io.EOF}, kapsel.TLSError, true},
		{&handshakeError{err: errors.New("tls: whatever 10.0.0.7")}, kapsel.TLSError, true},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, kapsel.TLSError, false},
	} {
		code, text := Classify(tt.err)
		if code != tt.want || text == "" {
			t.Errorf("Classify(%v) = %s, %q; want %s", tt.err, code, text, tt.want)
		}
		if IsUnsent(tt.err) != tt.unsent {
			t.Errorf("IsUnsent(%v) = %v", tt.err, !tt.unsent)
		}
		if strings.Contains(text, "10.0.0.7") || strings.Contains(text, "a.example") {
			t.Errorf("Classify(%v) names an address: %q", tt.err, text)
		}
	}
}

var discardLog = log.New(io.Discard, "", 0)

// authority makes certificates for the tests of TLS.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) leaf(t testing.TB, from, until time.Duration, name string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
		IPAddresses: []net.IP{net.ParseIP(name)},
	}
	if template.IPAddresses[0] == nil {
		template.IPAddresses = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

// TestDestination_F_D13_TLS checks that an expired, foreign or otherwise invalid certificate,
// or a TLS version below 1.2, fails the attempt with a TLS error that names the reason and no
// address.
func TestDestination_F_D13_TLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	cfg := loopback
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(ca.cert)
	serve := func(t *testing.T, config *tls.Config) (*url.URL, *int) {
		var protocol int
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { protocol = r.ProtoMajor }))
		srv.Config.ErrorLog = discardLog
		srv.EnableHTTP2 = true
		srv.TLS = config
		srv.StartTLS()
		t.Cleanup(srv.Close)
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		return u, &protocol
	}
	for name, tt := range map[string]struct {
		config *tls.Config
		text   string
	}{
		"good":             {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}}, ""},
		"TLS 1.2":          {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}, MaxVersion: tls.VersionTLS12}, ""},
		"expired":          {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, -time.Minute, "127.0.0.1")}}, "expired"},
		"not yet valid":    {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, time.Minute, time.Hour, "127.0.0.1")}}, "not yet valid"},
		"wrong host":       {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "other.example")}}, "another name"},
		"unknown CA":       {&tls.Config{Certificates: []tls.Certificate{stranger.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}}, "known authority"},
		"TLS 1.1":          {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "TLS 1.2"},
		"client's wanted":  {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, "client certificate"},
		"no common cipher": {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_RC4_128_SHA}}, "handshake failure"},
	} {
		t.Run(name, func(t *testing.T) {
			u, protocol := serve(t, tt.config)
			r := exchange(t.Context(), client(t, cfg), u, nil, nil)
			if tt.text == "" {
				if r.status != 200 || *protocol != 1 {
					t.Errorf("%s, HTTP/%d", r, *protocol)
				}
			} else if r.code != kapsel.TLSError || !strings.Contains(r.text, tt.text) {
				t.Errorf("%s; want a TLS error with %q", r, tt.text)
			}
			if strings.Contains(r.text, "127.0.0.1") {
				t.Errorf("an address in the text: %s", r.text)
			}
		})
	}
	t.Run("plain HTTP at https", func(t *testing.T) {
		s := newSink(t, func(_ *sink, conn *net.TCPConn, r *bufio.Reader) {
			r.ReadByte()
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		})
		r := exchange(t.Context(), client(t, cfg), &url.URL{Scheme: "https", Host: s.Host, Path: "/"}, nil, nil)
		if r.code != kapsel.TLSError || !strings.Contains(r.text, "does not speak TLS") {
			t.Error(r)
		}
	})
	t.Run("closed in the handshake", func(t *testing.T) {
		s := newSink(t, func(_ *sink, _ *net.TCPConn, r *bufio.Reader) { r.ReadByte() })
		r := exchange(t.Context(), client(t, cfg), &url.URL{Scheme: "https", Host: s.Host, Path: "/"}, nil, nil)
		if r.code != kapsel.TLSError {
			t.Error(r)
		}
	})
}

// TestDestination_F_D4_TLSNeverAnswered checks that a TLS handshake that is never answered
// ends with the time limit for connecting.
func TestDestination_F_D4_TLSNeverAnswered(t *testing.T) {
	cfg := loopback
	cfg.DialTimeout = 50 * time.Millisecond
	s := newSink(t, func(_ *sink, conn *net.TCPConn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	r := exchange(t.Context(), client(t, cfg), &url.URL{Scheme: "https", Host: s.Host, Path: "/"}, nil, nil)
	if r.code != kapsel.ConnectionTimeout || !strings.Contains(r.text, "handshake") {
		t.Error(r)
	}
}

// TestDeadlineOfTheExchange: the request's context bounds an exchange from its begin.
func TestDeadlineOfTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := pipeTo(t, func(conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if r := exchange(ctx, rt, anywhere, nil, make([]byte, 100_000)); r.code != kapsel.ConnectionTimeout || time.Since(begin) != time.Second {
			t.Errorf("%s after %s", r, time.Since(begin))
		}
	})
}

// TestFetcher: documents come by HTTPS alone, from where the guard lets it, whole or not at all.
func TestFetcher(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "keys") })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, fetchMost+1)) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "x")
	})
	secure, plain := httptest.NewUnstartedServer(mux), httptest.NewServer(mux)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	defer plain.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	fetch := NewFetcher(Config{AllowAllPrivate: true, RootCAs: roots})
	for url, want := range map[string]string{
		secure.URL + "/ok": "keys", secure.URL + "/moved": "", secure.URL + "/missing": "", secure.URL + "/long": "", secure.URL + "/cut": "",
		plain.URL + "/ok": "", "file:///etc/passwd": "", "https://": "", "%": "",
	} {
		got, err := fetch(t.Context(), url)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
	if _, err := NewFetcher(Config{RootCAs: roots})(t.Context(), secure.URL+"/ok"); err == nil {
		t.Error("a private address was asked")
	}
}
