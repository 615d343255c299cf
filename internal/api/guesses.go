package api

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// guesses bounds the wrong keys that come from one address. Keys are too long to be guessed;
// what it saves is the look-ups and log lines of who tries all the same, or of a program that
// goes on with a revoked key. Behind one address may be others whose keys are right (a proxy,
// an office): a few keys a second are looked at all the same.
type guesses struct {
	wrong  ratelimit.Limiter[netip.Addr]
	looked ratelimit.Limiter[netip.Addr]

	mu      sync.Mutex // guards what follows
	told    time.Time  // when the log was last told
	refused int        // since then
}

const (
	wrongPerSecond, wrongBurst   = 1, 100
	lookedPerSecond, lookedBurst = 5, 5
	tellEvery                    = time.Minute
)

// site is the address that counts as one: of IPv6 its network, as people have 2^64 addresses.
func site(client netip.Addr) netip.Addr {
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return client
}

// may reports whether a key of a client is looked at: nil, or RateLimited.
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

// count takes note of a wrong key, and is what to answer: errUnauthorized or RateLimited.
func (g *guesses) count(ctx context.Context, log *slog.Logger, client netip.Addr, now time.Time) error {
	ok, _, reset := g.wrong.Allow(site(client), wrongPerSecond, wrongBurst, now)
	if ok {
		return errUnauthorized
	}
	return g.refuse(ctx, log, client, reset, now)
}

// refuse is RateLimited, and tells the log of it now and then.
func (g *guesses) refuse(ctx context.Context, log *slog.Logger, client netip.Addr, reset time.Duration, now time.Time) error {
	g.mu.Lock()
	g.refused++
	if now.Sub(g.told) >= tellEvery || now.Before(g.told) {
		log.WarnContext(ctx, "api: too many wrong keys from one address; answering 429", "client", client, "refused", g.refused)
		g.told, g.refused = now, 0
	}
	g.mu.Unlock()
	return &kapsel.Error{
		Code: kapsel.RateLimited, Detail: "too many wrong keys came from this address; check the key, and try again later",
		RetryAfter: max(reset, time.Second),
	}
}
