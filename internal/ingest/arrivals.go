package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of arrivals. Anybody can cause these counts, so none of them writes to the store by
// itself.
const (
	arrivalsPending = 10000 // hours of endpoints that wait to be written; further ones are not counted
	arrivalsEvery   = 10 * time.Second
)

// arrivals counts, by endpoint and hour, the webhooks that were refused and those that had no key,
// until the store has the counts.
type arrivals struct {
	mu      sync.Mutex                        // guards what follows
	pending map[store.StatsKey]store.Arrivals // to be written
	writing map[store.StatsKey]store.Arrivals // being written
}

func statsKey(id kapsel.EndpointID, at time.Time) store.StatsKey {
	return store.StatsKey{Endpoint: id, Hour: kapsel.StatsHour(at).UnixMicro()}
}

// add counts n for an endpoint in the hour of at.
func (a *arrivals) add(id kapsel.EndpointID, at time.Time, n store.Arrivals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count(statsKey(id, at), n)
}

// count adds n to the pending counts. It drops n if arrivalsPending other hours are pending. The
// caller holds mu.
func (a *arrivals) count(key store.StatsKey, n store.Arrivals) {
	if a.pending == nil {
		a.pending = map[store.StatsKey]store.Arrivals{}
	}
	if had, known := a.pending[key]; known || len(a.pending) < arrivalsPending {
		a.pending[key] = had.Plus(n)
	}
}

// Arrivals returns what this node has counted for an endpoint in the current hour and the hour
// before, and that the store may not have yet.
func (h *Handler) Arrivals(id kapsel.EndpointID) (n store.Arrivals) {
	now := h.Clock.Now()
	a := &h.arrivals
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range []time.Time{now, now.Add(-time.Hour)} {
		key := statsKey(id, at)
		n = n.Plus(a.pending[key]).Plus(a.writing[key])
	}
	return n
}

// CountArrivals adds the counts to the store's counters every 10 s until ctx ends, and then once
// more.
func (h *Handler) CountArrivals(ctx context.Context) {
	tick := time.NewTicker(arrivalsEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		h.countArrivals(context.WithoutCancel(ctx))
	}
}

// countArrivals writes the counts since its last call to the store. If that fails, the counts
// become pending again.
func (h *Handler) countArrivals(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	a := &h.arrivals
	a.mu.Lock()
	a.writing, a.pending = a.pending, nil
	counts := a.writing
	a.mu.Unlock()
	if len(counts) == 0 {
		return
	}
	err := h.Counters.CountArrivals(ctx, counts)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writing = nil
	if err == nil {
		return
	}
	h.Log.Warn("refused webhooks, and those without a key, could not be counted; trying again", "error", err)
	for key, n := range counts {
		a.count(key, n)
	}
}
