package egress

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestBadInput_B80_AddressRule checks that only public addresses are allowed as destinations.
// It tries the first and last address of each reserved range of IPv4 and IPv6.
func TestBadInput_B80_AddressRule(t *testing.T) {
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
		"128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
		"191.255.255.255", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
		"223.255.255.255", "::ffff:8.8.8.8", "2606:4700::1111", "2a00:1450::1", "2001:200::1", "2001:4860:4860::8888", "2000::1", "3ffe::1",
	} {
		if !isPublic(netip.MustParseAddr(text)) {
			t.Errorf("%s is not public", text)
		}
	}
	for _, text := range []string{
		// IPv4, the first and last address of each range.
		"0.0.0.0", "0.1.2.3", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
		"127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255",
		"172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.192", "192.0.0.255", "192.0.2.1", "192.31.196.1", "192.52.193.1",
		"192.88.99.1", "192.168.0.0", "192.168.255.255", "192.175.48.1", "198.18.0.0", "198.19.255.255", "198.51.100.1",
		"203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		// IPv6.
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:0:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::7f00:1",
		"64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:10::1", "2001:20::1", "2001:1ff:ffff::",
		"2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff:ffff::", "4000::1", "5f00::1",
		"fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fec0::1", "ff02::1",
		// Zones, whatever the address.
		"::1%lo", "fe80::1%eth0", "2606:4700::1111%eth0",
	} {
		if isPublic(netip.MustParseAddr(text)) {
			t.Errorf("%s is public", text)
		}
	}
	if isPublic(netip.Addr{}) {
		t.Error("no address is public")
	}
}

// embeddings returns the ways to write an IPv4 address in IPv6; low is what a form leaves free.
func embeddings(v4 [4]byte, low uint64) map[string]netip.Addr {
	embed := func(prefix string, at int) [16]byte {
		b := netip.MustParseAddr(prefix).As16()
		copy(b[at:], v4[:])
		return b
	}
	with := func(b [16]byte) netip.Addr {
		binary.BigEndian.PutUint64(b[8:], low)
		return netip.AddrFrom16(b)
	}
	var inverted [4]byte
	for i := range v4 {
		inverted[i] = ^v4[i]
	}
	teredo := netip.MustParseAddr("2001::").As16()
	binary.BigEndian.PutUint64(teredo[4:], low)
	copy(teredo[12:], inverted[:])
	isatap := embed("fe80::5efe:0:0", 12)
	return map[string]netip.Addr{
		"itself":           netip.AddrFrom4(v4),
		"mapped":           netip.AddrFrom16(embed("::ffff:0:0", 12)),
		"compatible":       netip.AddrFrom16(embed("::", 12)),
		"translated":       netip.AddrFrom16(embed("::ffff:0:0:0", 12)),
		"NAT64":            netip.AddrFrom16(embed("64:ff9b::", 12)),
		"local NAT64":      netip.AddrFrom16(embed("64:ff9b:1::", 12)),
		"local NAT64, /48": with(embed("64:ff9b:1::", 6)), // RFC 6052: with a zero byte in the middle, or whatever
		"6to4":             with(embed("2002::", 2)),
		"Teredo, server":   with(embed("2001::", 4)),
		"Teredo, client":   netip.AddrFrom16(teredo),
		"ISATAP":           netip.AddrFrom16(isatap),
	}
}

// TestBadInput_B80_EmbeddedAddresses checks that no IPv6 form of a blocked IPv4 address is
// public. It tries the first and last address of each prefix, and random ones.
func TestBadInput_B80_EmbeddedAddresses(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, v4 [4]byte, low uint64) {
		for form, addr := range embeddings(v4, low) {
			if isPublic(addr) {
				t.Fatalf("%s (%s of %v) is public", addr, form, v4)
			}
		}
	}
	for _, p := range blocked4 {
		check(t, p.Addr().As4(), 0)
		check(t, inside(p, ^uint64(0), 0).As4(), ^uint64(0))
	}
	if os.Getenv("KAPSEL_CHAOS") == "full" {
		random := rand.New(rand.NewPCG(3, 4))
		for range 1_000_000 {
			check(t, inside(blocked4[random.IntN(len(blocked4))], random.Uint64(), 0).As4(), random.Uint64())
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(blocked4).Draw(t, "prefix")
		check(t, inside(p, rapid.Uint64().Draw(t, "bits"), 0).As4(), rapid.Uint64().Draw(t, "low"))
	})
}

// inside returns an address of a prefix: its host bits are those of a and b.
func inside(p netip.Prefix, a, b uint64) netip.Addr {
	raw := p.Addr().As16()
	var random [16]byte
	binary.BigEndian.PutUint64(random[:8], b)
	binary.BigEndian.PutUint64(random[8:], a)
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := range raw {
		mask := byte(0xff)
		if keep := bits - 8*i; keep >= 8 {
			mask = 0
		} else if keep > 0 {
			mask = 0xff >> keep
		}
		raw[i] = raw[i]&^mask | random[i]&mask
	}
	return netip.AddrFrom16(raw).Unmap()
}

// TestBadInput_B80_AgreesWithSSRF checks that the rule for addresses agrees with that of an
// independent library, on random addresses and around every boundary of both lists.
func TestBadInput_B80_AgreesWithSSRF(t *testing.T) {
	guard := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAnyNetwork())
	// Where the two differ, and why.
	differences := []struct {
		prefix netip.Prefix
		public bool // for us
	}{
		{netip.MustParsePrefix("168.63.129.16/32"), false}, // no registry lists Azure's service
		{netip.MustParsePrefix("3fff::/20"), false},        // documentation since RFC 9637, after the list's date
	}
	var edges []netip.Prefix
	for _, list := range [][]netip.Prefix{blocked4, blocked6, {public6}, ssrf.IPv4DeniedPrefixes, ssrf.IPv6DeniedPrefixes, {ssrf.IPv6GlobalUnicast}} {
		edges = append(edges, list...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 100_000
	if os.Getenv("KAPSEL_CHAOS") == "full" {
		rounds = 4_000_000 // a quarter of each kind
	}
	for i := range rounds {
		var addr netip.Addr
		switch i % 4 {
		case 0:
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], random.Uint32())
			addr = netip.AddrFrom4(b)
		case 1:
			addr = inside(public6, random.Uint64(), random.Uint64())
		case 2:
			addr = inside(edges[random.IntN(len(edges))], random.Uint64(), random.Uint64())
		case 3: // the last address before a prefix, or the first after it
			p := edges[random.IntN(len(edges))]
			if addr = p.Addr().Prev(); random.IntN(2) == 0 {
				addr = inside(p, ^uint64(0), ^uint64(0)).Next()
			}
			if !addr.IsValid() {
				continue
			}
		}
		want := guard.SafeAddr(addr) == nil
		for _, d := range differences {
			if d.prefix.Contains(addr) {
				want = d.public
			}
		}
		if got := isPublic(addr); got != want {
			t.Fatalf("%s: public %v, the other list says %v", addr, got, want)
		}
	}
	// The third difference: it refuses every mapped address, we see through the mapping.
	if mapped := netip.MustParseAddr("::ffff:8.8.8.8"); !isPublic(mapped) || guard.SafeAddr(mapped) == nil {
		t.Error("mapped addresses are no longer a difference")
	}
}

func FuzzIPClassifier(f *testing.F) {
	guard := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAnyNetwork())
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte(net.ParseIP("2001:db8::1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if ok && isPublic(addr) && guard.SafeAddr(addr.Unmap()) != nil {
			t.Fatalf("%s is public for us only", addr)
		}
	})
}

// TestJudge checks that a connection goes to public addresses on allowed ports only, except
// where the operator allows more, and never to Kapsel itself.
func TestJudge(t *testing.T) {
	allow := func(list string) []AllowRule {
		rules, err := ParseAllow(list)
		if err != nil {
			t.Fatal(err)
		}
		return rules
	}
	self := func(to netip.AddrPort) (bool, error) { return to.Port() == 8080, nil }
	for _, tt := range []struct {
		name    string
		cfg     Config
		yes, no string
	}{
		{"public", Config{}, "1.1.1.1:443 1.1.1.1:80 1.1.1.1:8443 1.1.1.1:65535 [2606:4700::1]:443",
			"127.0.0.1:443 10.0.0.1:80 [::1]:80 [::ffff:127.0.0.1]:443 0.0.0.0:80"},
		{"ports (B-91)", Config{}, "1.1.1.1:80 1.1.1.1:443 1.1.1.1:1024 1.1.1.1:3000",
			"1.1.1.1:0 1.1.1.1:22 1.1.1.1:25 1.1.1.1:1023 1.1.1.1:5432 1.1.1.1:6379 1.1.1.1:11211"},
		{"allowed prefix", Config{Allow: allow("10.1.0.0/16,fd00::/8")}, "10.1.2.3:80 10.1.2.3:22 [fd00::1]:5432 [::ffff:10.1.2.3]:80 1.1.1.1:443",
			"10.2.0.1:80 127.0.0.1:80 [fe80::1]:80 [fd00::1%eth0]:80"},
		{"allowed port", Config{Allow: allow("10.1.2.3/32:8081, [fd00::1/128]:25")}, "10.1.2.3:8081 [fd00::1]:25", "10.1.2.3:8082 10.1.2.4:8081 [fd00::1]:80"},
		{"development", Config{AllowAllPrivate: true}, "127.0.0.1:3000 [::1]:25 10.0.0.1:80 192.168.1.1:80 172.16.0.1:80 [fd00::1]:80 1.1.1.1:443",
			"169.254.169.254:80 0.0.0.0:80 [::]:80 100.100.100.200:80 168.63.129.16:80 224.0.0.1:80 [fe80::1]:80"},
		{"self wins", Config{AllowAllPrivate: true, Allow: allow("0.0.0.0/0"), Self: self}, "127.0.0.1:8081", "127.0.0.1:8080 [::ffff:127.0.0.1]:8080 1.1.1.1:8080"},
	} {
		for text := range strings.FieldsSeq(tt.yes) {
			if err := tt.cfg.judge(netip.MustParseAddrPort(text)); err != nil {
				t.Errorf("%s: %s is blocked", tt.name, text)
			}
		}
		for text := range strings.FieldsSeq(tt.no) {
			if err := tt.cfg.judge(netip.MustParseAddrPort(text)); !IsBlocked(err) {
				t.Errorf("%s: %s: %v, want a BlockedError", tt.name, text, err)
			}
		}
	}
}

func TestListeners(t *testing.T) {
	addr := func(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	self := Listeners(addr("127.0.0.1:8080"), addr("[::]:9000"), addr("[::ffff:127.0.0.3]:7000"))
	for text, want := range map[string]bool{
		"127.0.0.1:8080":          true,
		"[::ffff:127.0.0.1]:8080": true,
		"0.0.0.0:8080":            true, // connects to loopback
		"[::]:8080":               true,
		"127.0.0.2:8080":          false,
		"127.0.0.1:8081":          false,
		"127.0.0.1:9000":          true,
		"127.9.9.9:9000":          true,
		"[::1]:9000":              true,
		"1.1.1.1:9000":            false,
		"127.0.0.3:7000":          true,
	} {
		if got, err := self(netip.MustParseAddrPort(text)); got != want || err != nil {
			t.Errorf("self(%s) = %v, %v", text, got, err)
		}
	}
	// An address of a real interface, where the machine has one beside loopback.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		to := netip.AddrPortFrom(ip.Unmap(), 9000)
		if own, err := self(to); !own || err != nil {
			t.Errorf("self(%s) = %v, %v, but an interface has it", to, own, err)
		}
		var cfg Config
		if err := cfg.judge(netip.AddrPortFrom(ip.Unmap(), 443)); !IsBlocked(err) {
			t.Errorf("an interface's own address %s is reached", ip)
		}
	}
}

func TestCanBind(t *testing.T) {
	for text, want := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false, "1.1.1.1": false, "2606:4700::1111": false} {
		if got, err := canBind(netip.MustParseAddr(text)); got != want || err != nil {
			t.Errorf("canBind(%s) = %v, %v", text, got, err)
		}
	}
}

func TestParseAllow(t *testing.T) {
	rule := func(prefix string, port uint16) AllowRule { return AllowRule{netip.MustParsePrefix(prefix), port} }
	for text, want := range map[string][]AllowRule{
		"":                               nil,
		" ":                              nil,
		"10.0.0.0/8":                     {rule("10.0.0.0/8", 0)},
		"10.1.2.3/32:8080":               {rule("10.1.2.3/32", 8080)},
		"10.0.0.0/8 , 192.168.0.0/16:80": {rule("10.0.0.0/8", 0), rule("192.168.0.0/16", 80)},
		"fd00::/8":                       {rule("fd00::/8", 0)},
		"[fd00::/8]":                     {rule("fd00::/8", 0)},
		"[fd00::/8]:443":                 {rule("fd00::/8", 443)},
		"::1/128":                        {rule("::1/128", 0)},
		"::ffff:10.0.0.0/104":            {rule("10.0.0.0/8", 0)},
		"0.0.0.0/0":                      {rule("0.0.0.0/0", 0)},
	} {
		got, err := ParseAllow(text)
		if err != nil {
			t.Errorf("ParseAllow(%q): %v", text, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("ParseAllow(%q) (-want +got):\n%s", text, diff)
		}
		for _, r := range got {
			if again, err := ParseAllow(r.String()); err != nil || again[0] != r {
				t.Errorf("ParseAllow(%q) = %v, %v; want %v", r, again, err, r)
			}
		}
	}
	for _, text := range []string{
		",", "10.0.0.0/8,", "10.0.0.1", "10.0.0.1:80", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8:", "10.0.0.0/8:0", "10.0.0.0/8:65536",
		"10.0.0.0/8:080", "10.0.0.0/8:+80", "10.0.0.0/8:80:80", "fd00::/8:443:x", "[fd00::/8", "[fd00::/8]443", "[fd00::/8]:", "[fd00::]:443",
		"localhost", "example.com:80", "fe80::%eth0/64", "10.0.0.0/-1", "010.0.0.0/8",
	} {
		if got, err := ParseAllow(text); err == nil {
			t.Errorf("ParseAllow(%q) = %v", text, got)
		}
	}
}
