package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// Codes of CheckURL's answers.
const (
	fine    = kapsel.Code("")
	bad     = kapsel.InvalidRequest
	blocked = kapsel.DestinationBlocked
)

// TestCheckURL checks that a URL is refused when it is malformed, names a reserved port or
// scheme, or hides an address that is not public behind an odd spelling.
func TestCheckURL(t *testing.T) {
	const long = "https://example.com/"
	tests := map[string]map[string]kapsel.Code{
		"plain": {
			"https://example.com":                          fine,
			"http://example.com/hook?a=b&c=d":              fine,
			"HTTPS://EXAMPLE.COM/Hook":                     fine,
			"https://example.com./":                        fine,
			"https://my_service.example.com/":              fine,
			"https://xn--bcher-kva.example/":               fine,
			"https://bücher.example/päth":                  fine,
			"https://1e100.net/":                           fine,
			"https://1.1.1.1/":                             fine,
			"https://[2606:4700::1111]:8443/":              fine,
			"https://[::ffff:1.1.1.1]/":                    fine,
			"https://example.com//a//b?x=//":               fine,
			long + strings.Repeat("a", MaxURL-len(long)):   fine,
			long + strings.Repeat("a", MaxURL-len(long)+1): bad,
		},
		"B-80, B-84": {
			"http://127.0.0.1/": blocked, "https://127.0.0.1:8080/": blocked, "http://10.0.0.1/": blocked, "https://169.254.169.254/latest": blocked,
			"http://192.0.0.192/": blocked, "http://168.63.129.16/": blocked, "http://100.100.100.200/": blocked, "http://0.0.0.0/": blocked,
			"http://metadata.google.internal/": blocked, "http://[fd00:ec2::254]/": blocked, "http://[fd20:ce::254]/": blocked, "http://instance-data/": blocked,
		},
		"B-81, addresses written oddly": {
			"http://2130706433/": bad, "http://0177.0.0.1/": bad, "http://017700000001/": bad, "http://0x7f.1/": bad, "http://0x7f000001/": bad,
			"http://127.1/": bad, "http://0/": bad, "http://127.0.1/": bad, "http://127.000.000.001/": bad, "http://127.0.0.1./": bad, "http://1.1.1.1./": bad,
			"http://example.1/": bad, "http://a.0x1/": bad, "http://256.256.256.256/": bad,
		},
		"B-82, mapped by IDNA": {
			"http://１２７.０.０.１/": blocked, "http://127。0。0。1/": blocked, "http://①②⑦.⓪.⓪.①/": blocked, "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/": blocked,
			"http://local\u00adhost/": blocked, "http://127.0.0.1\u200b/": blocked, "http://\u200b/": bad, "http://xn--/": bad, "http://xn--a/": bad,
			"http://１.１.１.１/": fine, "http://ｅｘａｍｐｌｅ.com/": fine, "http://exa\ufffdmple.com/": bad, "http://a..b/": bad, "http://-a.example/": bad,
		},
		"B-83, IPv6": {
			"http://[::]/": blocked, "http://[::1]/": blocked, "http://[0:0:0:0:0:0:0:1]/": blocked, "http://[::ffff:7f00:1]/": blocked,
			"http://[::1%25lo]/": blocked, "http://[fe80::1%25eth0]/": blocked, "http://[::127.0.0.1]/": blocked, "http://[2606:4700::1111%25eth0]/": blocked,
			"http://[::1/": bad, "http://::1/": bad, "http://[127.0.0.1]/": bad, "http://[]/": bad, "http://[example.com]/": bad,
		},
		"B-85, local names": {
			"http://localhost/": blocked, "http://localhost./": blocked, "http://LOCALHOST/": blocked, "http://foo.localhost/": blocked, "http://ip6-localhost/": blocked,
			"http://printer.local/": blocked, "http://a.internal/": blocked, "http://api.svc.cluster.local/": blocked, "http://db/": blocked, "http://a.home.arpa/": blocked,
		},
		"B-89, user names and look-alikes": {
			"http://good@127.0.0.1/": bad, "http://user:pass@example.com/": bad, "http://@example.com/": bad, "http://127.0.0.1#@good/": bad,
			"http://good:80@127.0.0.1/": bad, `http://good\@127.0.0.1/`: bad, `http://127.0.0.1\.good/`: bad, `http:/\127.0.0.1/`: bad, "http:///127.0.0.1/": bad,
			"http://exa\tmple.com/": bad, "http://exa\nmple.com/": bad, "http://%31%32%37.0.0.1/": bad, "http://a@b@c/": bad, "http://example.com%2f/": bad,
			"http://example.com:80:80/": bad, "http:example.com": bad, "http:/example.com": bad, "//example.com/": bad, "example.com": bad, "": bad, "http://": bad, "http://?x": bad,
		},
		"B-90, schemes": {
			"file:///etc/passwd": bad, "gopher://example.com/": bad, "ftp://example.com/": bad, "dict://example.com/": bad, "ldap://example.com/": bad, "unix:///a": bad,
			"http+unix://a/": bad, "data:text/plain,a": bad, "javascript:alert(1)": bad, "ws://example.com/": bad, " http://example.com/": bad, "://example.com/": bad,
		},
		"B-91, ports": {
			"http://example.com:0/": bad, "http://example.com:65536/": bad, "http://example.com:-1/": bad, "http://example.com:080/": bad, "http://example.com:/": bad,
			"http://example.com:http/": bad, "http://0:1/": bad, "http://example.com:22/": blocked, "http://example.com:25/": blocked, "http://example.com:5432/": blocked,
			"http://example.com:6379/": blocked, "http://example.com:11211/": blocked, "http://1.1.1.1:25/": blocked, "http://[2606:4700::1]:/": bad,
			"http://example.com:443/": fine, "https://example.com:80/": fine, "https://example.com:8443/": fine, "https://example.com:65535/": fine,
		},
		"B-92, forms": {
			"https://example.com/#a": bad, "https://example.com/#": bad, "https://example.com/a b": bad, "https://example.com/\x00": bad, "https://example.com/%zz": bad,
			"https://" + strings.Repeat("a", 64) + ".com/": bad, "https://" + strings.Repeat("a.", 127) + "com/": bad,
		},
	}
	for group, urls := range tests {
		t.Run(group, func(t *testing.T) {
			for raw, want := range urls {
				err := CheckURL(raw, Config{})
				if got := kapsel.CodeOf(err); got != want || (err == nil) != (want == fine) {
					t.Errorf("CheckURL(%q) = %v, want %q", raw, err, want)
				}
				var e *kapsel.Error
				if errors.As(err, &e) && want == bad && (e.Status != 422 || len(e.Fields) != 1 || e.Fields[0].Field != "url") {
					t.Errorf("CheckURL(%q) = %+v", raw, e)
				}
			}
		})
	}
}

// TestCheckURL_B93_OfAllowed checks that what the operator allows can be used in a URL, and
// Kapsel's own ingest address cannot, however it is spelled.
func TestCheckURL_B93_OfAllowed(t *testing.T) {
	allow, err := ParseAllow("10.0.0.0/8:8080")
	if err != nil {
		t.Fatal(err)
	}
	self := func(to netip.AddrPort) (bool, error) { return to.Port() == 9999, nil }
	const ingest = "https://Hooks.Example.com/base/ingest/" // B-93: a proxy's address is not ours
	for _, tt := range []struct {
		raw  string
		cfg  Config
		want kapsel.Code
	}{
		{"http://10.1.2.3:8080/", Config{Allow: allow}, fine},
		{"http://10.1.2.3:8081/", Config{Allow: allow}, blocked},
		{"http://api:8080/", Config{Allow: allow}, fine}, // the dial decides
		{"http://localhost:3000/", Config{AllowAllPrivate: true}, fine},
		{"http://127.0.0.1:3000/", Config{AllowAllPrivate: true}, fine},
		{"http://169.254.169.254/", Config{AllowAllPrivate: true}, blocked},
		{"http://127.0.0.1:9999/", Config{AllowAllPrivate: true, Self: self}, blocked},
		{"http://127.0.0.1:9999/dev/inbox", Config{AllowAllPrivate: true, Self: self, SelfPath: "/dev/inbox"}, fine},
		{"http://127.0.0.1:9999/dev/inbox?a", Config{AllowAllPrivate: true, Self: self, SelfPath: "/dev/inbox"}, fine},
		{"http://127.0.0.1:9999/dev/inbox/", Config{AllowAllPrivate: true, Self: self, SelfPath: "/dev/inbox"}, blocked},
		{"http://127.0.0.1:9999/dev%2finbox", Config{AllowAllPrivate: true, Self: self, SelfPath: "/dev/inbox"}, blocked},
		{"http://127.0.0.1:9999/v1/events", Config{AllowAllPrivate: true, Self: self, SelfPath: "/dev/inbox"}, blocked},
		{"http://127.0.0.1:9999/dev/inbox", Config{Self: self, SelfPath: "/dev/inbox"}, blocked},
		{"https://hooks.example.com/base/ingest/ep_1", Config{SelfURL: ingest}, blocked},
		{"HTTPS://HOOKS.example.com:443/base/ingest/ep_1?a", Config{SelfURL: ingest}, blocked},
		{"https://ｈooks.example.com/base/ingest/ep_1", Config{SelfURL: ingest, Allow: allow}, blocked},
		{"https://hooks.example.com/base/other", Config{SelfURL: ingest}, fine}, // another service behind the same name
		{"https://hooks.example.com:8443/base/ingest/ep_1", Config{SelfURL: ingest}, fine},
		{"https://other.example.com/base/ingest/ep_1", Config{SelfURL: ingest}, fine},
	} {
		if got := kapsel.CodeOf(CheckURL(tt.raw, tt.cfg)); got != tt.want {
			t.Errorf("CheckURL(%q) = %q, want %q", tt.raw, got, tt.want)
		}
	}
}

// dialled returns what a transport dials for a URL that url.Parse accepts, "" for nothing.
func dialled(raw string) (address string) {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	tr := NewOver(func(_ context.Context, _, to string) (net.Conn, error) {
		address = to
		return nil, errors.New("not in this test")
	})
	if resp, err := tr.RoundTrip(NewRequest(context.Background(), u, http.Header{}, nil)); err == nil {
		resp.Body.Close()
	}
	return address
}

// FuzzEndpointURL: of a URL that CheckURL passes, the transport dials the host that was
// judged, and never an address that is not public.
func FuzzEndpointURL(f *testing.F) {
	for _, raw := range []string{
		"https://example.com/a?b", "http://１２７.０.０.１/", "http://local\u00adhost:80/", "http://[::1%25lo]/", "http://xn--bcher-kva.example:8080",
		"http://1.1.1.1:65535", "http://a.b.c./", "http://0x7f.1/", "HTTP://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ.com", "http://[::ffff:8.8.8.8]:1024",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if CheckURL(raw, Config{}) != nil {
			return
		}
		to, reason := parseURL(raw)
		if reason != "" {
			t.Fatalf("passed, but %s", reason)
		}
		address := dialled(raw)
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatalf("%q: dials %q: %v", raw, address, err)
		}
		if !strings.EqualFold(host, to.host) || port != strconv.Itoa(int(to.port)) {
			t.Fatalf("%q: judged %q, dials %q", raw, to.host, address)
		}
		if addr, err := netip.ParseAddr(host); err == nil && !isPublic(addr) {
			t.Fatalf("%q: dials %s", raw, addr)
		}
		if isLocalName(host) && !strings.Contains(host, ":") {
			if _, err := netip.ParseAddr(host); err != nil {
				t.Fatalf("%q: dials the local name %s", raw, host)
			}
		}
	})
}
