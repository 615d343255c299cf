package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// blocked4 holds the IPv4 addresses that are not public: those of the registry of special-purpose
// addresses (RFC 6890 and IANA's page), multicast, and the address of Azure's WireServer, which no
// registry lists.
var blocked4 = prefixes(
	"0.0.0.0/8",        // this network; 0.0.0.0 connects to loopback
	"10.0.0.0/8",       // private (RFC 1918)
	"100.64.0.0/10",    // shared by providers' customers (RFC 6598); clouds' metadata
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure WireServer
	"169.254.0.0/16",   // link-local; clouds' metadata
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments
	"192.0.2.0/24",     // documentation
	"192.31.196.0/24",  // AS112
	"192.52.193.0/24",  // AMT
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"192.175.48.0/24",  // AS112
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/3",      // multicast, reserved, broadcast
)

// public6 holds all IPv6 addresses assigned for public use. Outside it are loopback, local and
// multicast addresses, and every older form that embeds an IPv4 address (mapped, compatible,
// translated, NAT64).
var public6 = netip.MustParsePrefix("2000::/3")

// blocked6 holds the ranges of public6 that are not public.
var blocked6 = prefixes(
	"2001::/23",         // protocol assignments; Teredo holds IPv4 addresses
	"2001:db8::/32",     // documentation
	"2002::/16",         // 6to4 holds IPv4 addresses
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// isPublic reports whether an address belongs to the public internet. An address with a zone does
// not.
func isPublic(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	blocked := blocked4
	if addr = addr.Unmap(); addr.Is6() {
		if !public6.Contains(addr) {
			return false
		}
		blocked = blocked6
	}
	return !slices.ContainsFunc(blocked, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// badPorts holds ports above 1023 of services that an unexpected request could harm, or that no
// webhook receiver uses.
var badPorts = []uint16{
	1433, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045,
	4190, 5060, 5061, 5432, 5672, 5900, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6697,
	9042, 9092, 9200, 9300, 10250, 11211, 27017,
}

// isWebPort reports whether a port of a public destination may be used.
func isWebPort(port uint16) bool {
	return port == 80 || port == 443 || port >= 1024 && !slices.Contains(badPorts, port)
}

// judge returns nil if connections to an address are allowed, a BlockedError if they are not, and
// another error if it could not be determined, such as a Shortage.
func (cfg *Config) judge(to netip.AddrPort) error {
	addr := to.Addr()
	if !addr.IsValid() || addr.Zone() != "" || to.Port() == 0 {
		return &BlockedError{}
	}
	addr = addr.Unmap()
	to = netip.AddrPortFrom(addr, to.Port())
	if cfg.Self != nil {
		if self, err := cfg.Self(to); err != nil {
			return err
		} else if self {
			return &BlockedError{}
		}
	}
	if slices.ContainsFunc(cfg.Allow, func(r AllowRule) bool { return r.contains(to) }) ||
		cfg.AllowAllPrivate && (addr.IsLoopback() || addr.IsPrivate()) {
		return nil
	}
	if !isPublic(addr) || !isWebPort(to.Port()) {
		return &BlockedError{}
	}
	if own, err := isInterface(addr); err != nil {
		return err
	} else if own {
		return &BlockedError{}
	}
	return nil
}

// AllowRule allows the addresses of a prefix, at one port or, if Port is 0, at all ports.
type AllowRule struct {
	Prefix netip.Prefix
	Port   uint16
}

func (r AllowRule) contains(to netip.AddrPort) bool {
	return r.Prefix.Contains(to.Addr()) && (r.Port == 0 || r.Port == to.Port())
}

// String returns the rule in the form that ParseAllow parses.
func (r AllowRule) String() string {
	switch {
	case r.Port == 0:
		return r.Prefix.String()
	case r.Prefix.Addr().Is6():
		return fmt.Sprintf("[%s]:%d", r.Prefix, r.Port)
	}
	return fmt.Sprintf("%s:%d", r.Prefix, r.Port)
}

// ParseAllow parses a comma-separated list of rules: 10.0.0.0/8, 10.1.2.3/32:8080, fd00::/8 or
// [fd00::/8]:8080. It returns nil for an empty list.
func ParseAllow(list string) ([]AllowRule, error) {
	var rules []AllowRule
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	for _, text := range strings.Split(list, ",") {
		rule, err := parseAllowRule(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func parseAllowRule(text string) (r AllowRule, err error) {
	cidr, port, hasPort := text, "", false
	if rest, ok := strings.CutPrefix(text, "["); ok {
		cidr, port, ok = strings.Cut(rest, "]")
		if !ok {
			return r, fmt.Errorf("%q: the bracket does not close", text)
		}
		if port, hasPort = strings.CutPrefix(port, ":"); !hasPort && port != "" {
			return r, fmt.Errorf("%q: only :PORT may follow the bracket", text)
		}
	} else if strings.Count(text, ":") == 1 {
		cidr, port, hasPort = strings.Cut(text, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] < '1' || port[0] > '9' {
			return r, fmt.Errorf("%q: the port is not a number from 1 to 65535", text)
		}
		r.Port = uint16(n)
	}
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return r, fmt.Errorf("%q is not of the form CIDR or CIDR:PORT, such as 10.1.0.0/16 or 10.1.2.3/32:8080", text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return r, fmt.Errorf("%q has address bits beyond its length; did you mean %s?", text, p.Masked())
	}
	r.Prefix = p
	return r, nil
}
