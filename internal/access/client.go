package access

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ClientOf returns the address that a request came from. If the peer is one of proxies, that is
// the last address in X-Forwarded-For that is not one of proxies; addresses before that one cannot
// be trusted. ClientOf returns the zero address if r.RemoteAddr is not valid.
func ClientOf(r *http.Request, proxies []netip.Prefix) netip.Addr {
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := remote.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusted(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap()
	}
	return client
}
