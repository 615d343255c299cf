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

// localDomains are names that lead nowhere, or only inside of a network.
var localDomains = []string{
	"localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan",
	"home.arpa", "invalid", "onion",
}

// CheckURL says early whether deliveries to a URL can ever be made: it refuses what is not a
// plain http or https URL, addresses that a dial would refuse, and names that only a local
// network knows. It looks nothing up, so what it passes can still be refused at the dial.
//
// The error is a kapsel.Error: InvalidRequest (422, naming the field url) or DestinationBlocked.
func CheckURL(raw string, cfg Config) error {
	u, reason := parseURL(raw)
	if reason != "" {
		return &kapsel.Error{
			Code:   kapsel.InvalidRequest,
			Status: http.StatusUnprocessableEntity,
			Detail: "the url is not one to deliver to",
			Fields: []kapsel.FieldError{{Field: "url", Detail: reason}},
		}
	}
	if u.Opaque == "" && cfg.SelfPath != "" && u.EscapedPath() == cfg.SelfPath {
		cfg.Self = nil
	}
	host, port := u.Hostname(), portOf(u)
	if addr, err := netip.ParseAddr(host); err == nil {
		if cfg.judge(netip.AddrPortFrom(addr, port)) != nil {
			return blockedURL()
		}
		return nil
	}
	// What an operator allows may have any name and port: the dial decides.
	if len(cfg.Allow) == 0 && !cfg.AllowAllPrivate && (isLocalName(host) || !isWebPort(port)) {
		return blockedURL()
	}
	return nil
}

func blockedURL() error {
	return kapsel.Errorf(kapsel.DestinationBlocked, "%s", (&BlockedError{}).Error())
}

// parseURL reads the URL of a destination. Its host is mapped as the transport maps it, so
// what is judged is what would be dialled. Reason says what is wrong, "" if nothing is.
func parseURL(raw string) (u *url.URL, reason string) {
	if len(raw) > MaxURL {
		return nil, "it has more than 2048 bytes"
	}
	for _, c := range []byte(raw) {
		if c <= ' ' || c == 0x7f || c == '\\' {
			return nil, "it holds a space, a control character or a backslash"
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, "it is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, "it does not begin with https:// or http://"
	case u.User != nil:
		return nil, "it holds a user name or password; send them in a header"
	case u.Opaque != "" || u.Host == "":
		return nil, "it names no host"
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, "it has a fragment (#), which is never sent"
	}
	host := u.Hostname()
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return nil, "its port is not a number from 1 to 65535"
		}
		u.Host = u.Host[:len(u.Host)-len(port)-1]
		defer func() { u.Host += ":" + port }()
	}
	if strings.HasPrefix(u.Host, "[") {
		if _, err := netip.ParseAddr(host); err != nil {
			return nil, "its host is not an IPv6 address"
		}
		return u, ""
	}
	if !isASCII(host) || strings.Contains(strings.ToLower(host), "xn--") {
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return nil, "its host is not a valid international name"
		}
	}
	host = strings.ToLower(host)
	if !isHostName(host) {
		return nil, "its host is not a valid name or address"
	}
	u.Host = host
	return u, ""
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// isHostName reports whether a mapped host is an IPv4 address in its usual form, or a name.
// A name whose last label is a number is neither: some resolvers read it as an address.
func isHostName(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Is4()
	}
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	number := last[0] >= '0' && last[0] <= '9' &&
		(strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x"))
	return !number
}

// isLocalName reports whether a name has a single label or ends in a local domain.
func isLocalName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return !strings.Contains(host, ".") || slices.ContainsFunc(localDomains, func(d string) bool {
		return host == d || strings.HasSuffix(host, "."+d)
	})
}

func portOf(u *url.URL) uint16 {
	switch port := u.Port(); {
	case port != "":
		n, _ := strconv.ParseUint(port, 10, 16) // parseURL checked it
		return uint16(n)
	case u.Scheme == "http":
		return 80
	}
	return 443
}
