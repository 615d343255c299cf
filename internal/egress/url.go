package egress

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/kapsel-hq/kapsel"
)

// MaxURL is the longest URL of a destination, in bytes.
const MaxURL = 2048

// localDomains holds domains that do not exist or exist only inside a network.
var localDomains = []string{
	"localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan",
	"home.arpa", "invalid", "onion",
}

// CheckURL tells early that deliveries to a URL could never be made. It refuses anything but a
// plain http or https URL, addresses that a dial would refuse, and names that only a local network
// knows. It makes no DNS lookup, so a dial may still refuse a URL that it accepts.
//
// The error is a kapsel.Error: InvalidRequest (422, naming the field url) or DestinationBlocked.
func CheckURL(raw string, cfg Config) error {
	to, reason := parseURL(raw)
	if reason != "" {
		return &kapsel.Error{
			Code:   kapsel.InvalidRequest,
			Status: http.StatusUnprocessableEntity,
			Detail: "the url is not one to deliver to",
			Fields: []kapsel.FieldError{{Field: "url", Detail: reason}},
		}
	}
	if own, reason := parseURL(cfg.SelfURL); reason == "" && to.host == own.host && to.port == own.port && strings.HasPrefix(to.path, own.path) {
		return blockedURL()
	}
	if cfg.SelfPath != "" && to.path == cfg.SelfPath {
		cfg.Self = nil
	}
	if to.addr.IsValid() {
		if IsBlocked(cfg.judge(netip.AddrPortFrom(to.addr, to.port))) {
			return blockedURL()
		}
		return nil
	}
	// Addresses allowed by the operator may have any name and port: the dial decides.
	if len(cfg.Allow) == 0 && !cfg.AllowAllPrivate && (isLocalName(to.host) || !isWebPort(to.port)) {
		return blockedURL()
	}
	return nil
}

func blockedURL() error {
	return kapsel.Errorf(kapsel.DestinationBlocked, "%s", (&BlockedError{}).Error())
}

// target is where a URL leads.
type target struct {
	host string     // in lower case; international names in ASCII
	addr netip.Addr // valid if the host is an address
	port uint16
	path string // escaped, as it is sent
}

// parseURL parses the URL of a destination. It maps the host as the transport does, so that the
// host that is judged is the one that would be dialled. reason says what is wrong with the URL; ""
// if nothing is.
func parseURL(raw string) (to target, reason string) {
	if len(raw) > MaxURL {
		return to, "it has more than 2048 bytes"
	}
	for _, c := range []byte(raw) {
		if c <= ' ' || c == 0x7f || c == '\\' {
			return to, "it holds a space, a control character or a backslash"
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return to, "it is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return to, "it does not begin with https:// or http://"
	case u.User != nil:
		return to, "it holds a user name or password; send them in a header"
	case u.Opaque != "" || u.Host == "":
		return to, "it names no host"
	case strings.Contains(raw, "#"):
		return to, "it has a fragment (#), which is never sent"
	}
	to.path = u.EscapedPath()

	to.port = 443
	if u.Scheme == "http" {
		to.port = 80
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '0' {
			return to, "its port is not a number from 1 to 65535"
		}
		to.port = uint16(n)
	}

	to.host = u.Hostname()
	if strings.HasPrefix(u.Host, "[") {
		if to.addr, err = netip.ParseAddr(to.host); err != nil || to.addr.Is4() {
			return to, "its host is not an IPv6 address"
		}
		return to, ""
	}
	if !isASCII(to.host) || strings.Contains(strings.ToLower(to.host), "xn--") {
		if to.host, err = idna.Lookup.ToASCII(to.host); err != nil {
			return to, "its host is not a valid international name"
		}
	}
	to.host = strings.ToLower(to.host)
	if addr, err := netip.ParseAddr(to.host); err == nil && addr.Is4() {
		to.addr = addr
		return to, ""
	}
	if !isName(to.host) {
		return to, "its host is not a valid name or address"
	}
	return to, ""
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// isName reports whether a mapped host is a DNS name. A host whose last label is a number is not:
// some resolvers read it as an address.
func isName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, nameBytes) != "" {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

const nameBytes = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// isLocalName reports whether a name has a single label or ends in a local domain.
func isLocalName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return !strings.Contains(host, ".") || slices.ContainsFunc(localDomains, func(d string) bool {
		return host == d || strings.HasSuffix(host, "."+d)
	})
}
