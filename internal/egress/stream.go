package egress

import (
	"context"
	"net"
	"net/netip"
)

// NewStream returns a function that opens TCP connections to servers that the operator names, such as a
// mail server. cfg says where they may be. The address is a host and a port. The function is safe for
// concurrent use.
func NewStream(cfg Config) func(ctx context.Context, address string) (net.Conn, error) {
	d := newDialer(cfg)
	return func(ctx context.Context, address string) (net.Conn, error) {
		_, allowed, err := d.find(ctx, destination{host: address})
		if err != nil {
			return nil, dialError(err)
		}
		ctx, cancel := context.WithTimeout(ctx, d.timeout)
		defer cancel()
		return d.race(ctx, allowed)
	}
}

// IsLoopback reports whether a host is this machine by its name or address.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
