package ingest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// rate is the rate at which a tenant may send, or at which may be published to an app. It is nil if
// there is no limit. It uses the monotonic clock, not the store's.
type rate struct {
	h         *Handler
	of        kapsel.OriginID // the tenant or the app
	perSecond float64         // this node's share of the rate
	burst     int             // this node's share of the burst
	limit     int             // burst of all nodes together
	exceeded  string          // what the caller is told
}

func (h *Handler) rate(tenant kapsel.TenantID, limits kapsel.Limits) *rate {
	if limits.IngestPerSecond == nil {
		return nil
	}
	burst := max(1, int(*limits.IngestPerSecond))
	if limits.IngestBurst != nil {
		burst = *limits.IngestBurst
	}
	return h.rateOf(kapsel.OriginID(tenant), *limits.IngestPerSecond, burst, "the tenant sends faster than its limit; slow down")
}

func (h *Handler) rateOf(of kapsel.OriginID, perSecond float64, burst int, exceeded string) *rate {
	fraction := h.Engine.RateFraction(of, perSecond)
	return &rate{h, of, perSecond * fraction, ratelimit.BurstShare(burst, fraction), burst, exceeded}
}

// tell writes to the answer's header what is left of the rate, whatever the answer will be.
func (l *rate) tell(w http.ResponseWriter) {
	if l != nil {
		remaining, reset := l.h.limits.Look(l.of, l.perSecond, l.burst, time.Now())
		l.write(w, remaining, reset)
	}
}

// Tell writes to an answer's header what is left of a tenant's rate, and takes nothing from it. It writes
// nothing if the tenant has no limit, or cannot be read.
func (h *Handler) Tell(ctx context.Context, w http.ResponseWriter, tenant kapsel.TenantID) {
	if t, err := h.Settings.Tenant(ctx, tenant); err == nil {
		h.rate(t.ID, t.Effective()).tell(w)
	}
}

// take takes n events from the tenant's rate, and writes to the answer's header what is left. It
// returns RateLimited, with the time to wait, if too few are left.
func (l *rate) take(w http.ResponseWriter, n int) error {
	if l == nil {
		return nil
	}
	remaining, reset, err := l.allow(n)
	l.write(w, remaining, reset)
	return err
}

// allow takes n events from the rate, and returns what is left of it and when it will be full
// again. It returns RateLimited, with the time to wait, if too few are left.
func (l *rate) allow(n int) (remaining int, reset time.Duration, err error) {
	ok, remaining, reset := l.h.limits.AllowN(l.of, l.perSecond, l.burst, time.Now(), n)
	if !ok {
		// reset is the time until the next token. The other missing tokens follow that one.
		others := max(0, min(n, l.burst)-remaining-1)
		wait := reset + time.Duration(float64(others)/l.perSecond*float64(time.Second))
		err = &kapsel.Error{Code: kapsel.RateLimited, Detail: l.exceeded, RetryAfter: max(wait, time.Second)}
	}
	return remaining, reset, err
}

func (l *rate) write(w http.ResponseWriter, remaining int, reset time.Duration) {
	w.Header().Set("X-RateLimit-Limit", strconv.Itoa(l.limit))
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(remaining))
	w.Header().Set("X-RateLimit-Reset", strconv.Itoa(int((reset+time.Second-1)/time.Second)))
}
