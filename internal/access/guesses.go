package access

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// guesses limits the wrong keys that come from one address. Keys are too long to be guessed; the
// limit saves the look-ups and log lines that somebody who tries, or a program that keeps using a
// revoked key, would cause. Other callers with right keys may share the address (a proxy, an
// office), so guesses lets a few keys a second from a limited address be looked up.
type guesses struct {
	of     string // what is guessed, in the plural
	wrong  ratelimit.Limiter[netip.Addr]
	looked ratelimit.Limiter[netip.Addr]

	mu      sync.Mutex // guards the fields below
	told    time.Time  // when refuse last wrote to the log
	refused int        // requests refused since told
}

const (
	wrongPerSecond, wrongBurst   = 1, 100
	lookedPerSecond, lookedBurst = 5, 5
	tellEvery                    = time.Minute
)

// site returns the address under which a client is counted. For IPv6 that is the client's /64
// network, because one client may have all 2^64 addresses of it.
func site(client netip.Addr) netip.Addr {
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return client
}

// may returns nil if a key that the client sent may be looked up, and a RateLimited error if not.
func (g *guesses) may(ctx context.Context, log *slog.Logger, client netip.Addr, now time.Time) error {
	left, reset := g.wrong.Look(site(client), wrongPerSecond, wrongBurst, now)
	if left > 0 {
		return nil
	}
	if ok, _, _ := g.looked.Allow(site(client), lookedPerSecond, lookedBurst, now); ok {
		return nil
	}
	return g.refuse(ctx, log, client, reset, now)
}

// count counts a wrong key and returns the error to answer: ErrUnauthorized, or a RateLimited error
// if the client has sent too many.
func (g *guesses) count(ctx context.Context, log *slog.Logger, client netip.Addr, now time.Time) error {
	ok, _, reset := g.wrong.Allow(site(client), wrongPerSecond, wrongBurst, now)
	if ok {
		return ErrUnauthorized
	}
	return g.refuse(ctx, log, client, reset, now)
}

// refuse returns a RateLimited error. It writes to the log at most once every tellEvery.
func (g *guesses) refuse(ctx context.Context, log *slog.Logger, client netip.Addr, reset time.Duration, now time.Time) error {
	g.mu.Lock()
	g.refused++
	if now.Sub(g.told) >= tellEvery || now.Before(g.told) {
		log.WarnContext(ctx, "access: too many wrong "+g.of+" from one address; answering 429", "client", client, "refused", g.refused)
		g.told, g.refused = now, 0
	}
	g.mu.Unlock()
	return &kapsel.Error{
		Code: kapsel.RateLimited, Detail: "too many wrong " + g.of + " came from this address; check what sends them, and try again later",
		RetryAfter: max(reset, time.Second),
	}
}
