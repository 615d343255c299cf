package delivery

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/cluster"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	// shareEvery is the time from one round to the next.
	shareEvery = time.Second
	// demandStale is the age from which published demands no longer count: the node that published
	// them is dead, or cannot reach the store and so can use no limit.
	demandStale = 3 * shareEvery
	// demandLeast is a demand, per second, that is as good as none.
	demandLeast = 0.01
)

// shares holds this node's shares of limits. Engine.mu guards all fields but Shares.
type shares struct {
	cluster.Shares
	told time.Time // when demands were last counted, by the monotonic clock

	asked func() map[kapsel.OriginID]ratelimit.Asked // see ShareRates; nil: they are not shared
	rates map[kapsel.OriginID]*rateDemand
}

// rateDemand holds the events per second that are demanded of a tenant's or an app's rate, and this
// node's share when some were last asked for.
type rateDemand struct {
	meter ratelimit.Meter
	share float64
}

// RateFraction returns this node's fraction, 0 to 1, of the rate at which a tenant may send events, or at which they
// may be published to an app.
func (e *Engine) RateFraction(id kapsel.OriginID, perSecond float64) float64 {
	return e.shares.Fraction(store.Limit{Kind: store.IngestRate, Of: id}, perSecond)
}

// ShareRates makes the nodes share the rates of RateFraction. asked returns what was asked of this node
// since the last call of asked. Callers must call ShareRates before Run.
func (e *Engine) ShareRates(asked func() map[kapsel.OriginID]ratelimit.Asked) {
	e.shares.asked = asked
}

// of returns this node's share of an endpoint's concurrency, and its fraction, 0 to 1, of the endpoint's
// rate.
func (s *shares) of(ep *kapsel.Endpoint) (places int, rate float64) {
	places = s.Places(store.Limit{Kind: store.Concurrency, Of: ep.ID}, max(1, ep.Concurrency), int(ep.Part))
	if r := ep.RateLimit; r != nil {
		return places, s.Fraction(store.Limit{Kind: store.DeliveryRate, Of: ep.ID}, r.PerSecond)
	}
	return places, 1
}

// shareLoop runs a round every shareEvery until ctx ends. While the node is alone, it runs a round
// only if another node may have joined.
func (e *Engine) shareLoop(ctx context.Context) {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if e.shares.Alone() {
				continue // the renewal of the lease looks for others
			}
		case <-e.recount:
			if !e.shares.Alone() {
				continue
			}
		}
		if err := e.share(ctx); err != nil && ctx.Err() == nil {
			e.Log.Warn("limits could not be shared with the other nodes; going on with the shares as they are", "error", err)
		}
	}
}

// share runs one round: it publishes what this node demands, reads the other nodes' demands, and
// computes this node's shares. A node that is alone first checks whether it still is, and does
// nothing more if so. share fails if the store does; the shares then stay as they are.
func (e *Engine) share(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.Lease/2)
	defer cancel()
	now := e.Clock.Now()
	if e.shares.Alone() {
		if alive, err := e.Store.Nodes(ctx, now); err != nil || len(alive) <= 1 {
			return err
		}
	}
	e.mu.Lock()
	node, own := e.node.ID(), e.demands(now)
	e.mu.Unlock()
	all, err := e.Store.Demands(ctx, node, now, own)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if node == e.node.ID() && e.shares.Read(all, node, own, now, demandStale) {
		e.gates.SetAlone(e.shares.Alone())
		e.gates.Reshare(e.affected(), e.now())
	}
	return nil // a node that the store does not list as alive is about to join again
}

// affected returns the endpoints whose shares may have changed with the last reading. Callers must
// hold mu.
func (e *Engine) affected() (ids []kapsel.EndpointID) {
	limits, all := e.shares.Affected()
	if all {
		return e.gates.Gates()
	}
	named := map[kapsel.EndpointID]bool{}
	for _, l := range limits {
		if id := kapsel.EndpointID(l.Of); !named[id] {
			named[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// demands returns what this node demands now, at most MaxDemands limits. It leaves out a limit if
// both the demand and what the node holds of the limit are below a quarter of its share. The
// limits whose demand fills most of the share come first. demands also starts the counts of the
// next round. Callers must hold mu.
func (e *Engine) demands(now time.Time) []store.Demand {
	seconds := max(time.Since(e.shares.told).Seconds(), 0.1)
	first := e.shares.told.IsZero() || e.shares.Alone()
	e.shares.told = time.Now()
	type demand struct {
		store.Demand
		fill float64
	}
	var all []demand
	add := func(l store.Limit, amount, share float64, held int) {
		if amount*4 >= share || held > 0 && float64(held)*4 >= share {
			all = append(all, demand{store.Demand{Limit: l, Amount: amount, Held: held}, amount / max(share, demandLeast)})
		}
	}
	for _, d := range e.gates.Demands(seconds, 2*listEvery, gate.Time{Store: now, Mono: e.shares.told}) {
		add(store.Limit{Kind: store.Concurrency, Of: d.Endpoint}, d.AtOnce, float64(d.Places), d.Running)
		if d.Limited {
			add(store.Limit{Kind: store.DeliveryRate, Of: d.Endpoint}, d.Rate, d.RateMost, 0)
		}
	}
	if e.shares.asked != nil {
		asked := e.shares.asked()
		if first {
			clear(asked) // nobody knows since when these were asked
		}
		if e.shares.rates == nil {
			e.shares.rates = map[kapsel.OriginID]*rateDemand{}
		}
		for id, a := range asked {
			if e.shares.rates[id] == nil {
				e.shares.rates[id] = &rateDemand{}
			}
			e.shares.rates[id].share = a.PerSecond
		}
		for id, d := range e.shares.rates {
			amount := d.meter.Note(float64(asked[id].Tokens) / seconds)
			if amount < demandLeast {
				delete(e.shares.rates, id)
				continue
			}
			add(store.Limit{Kind: store.IngestRate, Of: id}, amount, d.share, 0)
		}
	}
	slices.SortFunc(all, func(a, b demand) int { return cmp.Compare(b.fill, a.fill) })
	own := make([]store.Demand, 0, min(len(all), store.MaxDemands))
	for _, d := range all[:min(len(all), store.MaxDemands)] {
		own = append(own, d.Demand)
	}
	return own
}
