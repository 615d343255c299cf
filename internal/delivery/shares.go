package delivery

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Nodes share limits by demand. Once a second every node publishes, through the store, what it
// could use of the limits that are in use, reads what the other nodes published, and computes its
// own share of each limit. A node that is alone has all of every limit and publishes nothing.
//
// Nodes read at different moments, so a node may count on capacity that another node has not given
// up yet. Therefore a node's share is the least by all that other nodes may have read: by the
// demands of this round, by the same with what this node published in the round before, and by all
// demands of the round before. So shares shrink at once and grow one round later.

const (
	// shareEvery is the time from one round to the next.
	shareEvery = time.Second
	// demandStale is the age from which published demands no longer count: the node that published
	// them is dead, or cannot reach the store and so can use no limit.
	demandStale = 3 * shareEvery
	// demandLeast is a demand, per second, that is as good as none.
	demandLeast = 0.01
)

// shares holds this node's shares of limits. Engine.mu guards all fields but views.
type shares struct {
	// views holds the newest view, the same view with what this node published in the round before,
	// and the newest view of the round before. It is nil if the node is alone.
	views atomic.Pointer[[3]*view]
	own   []store.Demand // what this node published last
	told  time.Time      // when demands were last counted, by the monotonic clock

	asked func() map[kapsel.OriginID]ratelimit.Asked // see ShareRates; nil: they are not shared
	rates map[kapsel.OriginID]*rateDemand
}

// rateDemand holds the events per second that are demanded of a tenant's or an app's rate, and this
// node's share when some were last asked for.
type rateDemand struct {
	meter ratelimit.Meter
	part  float64
}

// alone reports whether this node shares its limits with no other.
func (s *shares) alone() bool { return s.views.Load() == nil }

// view holds what all nodes had published at one time, without stale demands.
type view struct {
	nodes   int
	me      int // this node's index among the nodes, in the order of their IDs
	amounts map[store.Limit][]float64
	held    map[store.Limit][]int
}

// newView returns a view of what all nodes published, with own as this node's demands. It returns
// nil if node is not among them.
func newView(all []store.NodeDemands, node kapsel.NodeID, own []store.Demand, now time.Time) *view {
	me := slices.IndexFunc(all, func(d store.NodeDemands) bool { return d.Node == node })
	if me < 0 {
		return nil
	}
	v := &view{nodes: len(all), me: me, amounts: map[store.Limit][]float64{}, held: map[store.Limit][]int{}}
	for i, told := range all {
		demands, stale := told.Demands, now.Sub(told.At) > demandStale
		if i == me {
			demands, stale = own, false
		}
		for _, d := range demands {
			if v.amounts[d.Limit] == nil {
				v.amounts[d.Limit], v.held[d.Limit] = make([]float64, v.nodes), make([]int, v.nodes)
			}
			v.held[d.Limit][i] = d.Held
			if !stale {
				v.amounts[d.Limit][i] = d.Amount
			}
		}
	}
	return v
}

// part returns this node's part of a limit, 0 to 1. If no node has published a demand, all parts
// are equal.
func (v *view) part(l store.Limit, limit float64) float64 {
	amounts := v.amounts[l]
	if amounts == nil || !(limit > 0) {
		return 1 / float64(v.nodes)
	}
	return ratelimit.Part(limit, amounts, v.me) / limit
}

// places returns how many of limit places are this node's. turn decides which nodes get the
// remainder if limit does not divide evenly; see ratelimit.Places.
func (v *view) places(l store.Limit, limit, turn int) int {
	amounts, held := v.amounts[l], v.held[l]
	if amounts == nil {
		amounts, held = make([]float64, v.nodes), make([]int, v.nodes)
	}
	return ratelimit.Places(limit, amounts, held, v.me, turn)
}

// RatePart returns this node's part of the rate at which a tenant may send events, or at which they
// may be published to an app, 0 to 1.
func (e *Engine) RatePart(id kapsel.OriginID, perSecond float64) float64 {
	views := e.shares.views.Load()
	if views == nil {
		return 1
	}
	l := store.Limit{Kind: store.IngestRate, Of: id}
	return min(views[0].part(l, perSecond), views[1].part(l, perSecond), views[2].part(l, perSecond))
}

// ShareRates makes the nodes share the rates of RatePart. asked returns what was asked of this node
// since the last call of asked. Callers must call ShareRates before Run.
func (e *Engine) ShareRates(asked func() map[kapsel.OriginID]ratelimit.Asked) {
	e.shares.asked = asked
}

// of returns this node's share of an endpoint's concurrency, and its part, 0 to 1, of the endpoint's
// rate.
func (s *shares) of(ep *kapsel.Endpoint) (places int, rate float64) {
	concurrency, turn := max(1, ep.Concurrency), int(ep.Part)
	places, rate = concurrency, 1
	if views := s.views.Load(); views != nil {
		for _, v := range views {
			places = min(places, v.places(store.Limit{Kind: store.Concurrency, Of: ep.ID}, concurrency, turn))
			if r := ep.RateLimit; r != nil {
				rate = min(rate, v.part(store.Limit{Kind: store.DeliveryRate, Of: ep.ID}, r.PerSecond))
			}
		}
	}
	return places, rate
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
			if e.shares.alone() {
				continue // the renewal of the lease looks for others
			}
		case <-e.recount:
			if !e.shares.alone() {
				continue
			}
		}
		if err := e.share(ctx); err != nil && ctx.Err() == nil {
			e.Log.Warn("limits could not be shared with the other nodes; going on with the shares as they are", "error", err)
		}
	}
}

// share runs one round: it publishes what this node demands, reads the other nodes' demands, and
// computes this node's shares. A node that is alone first looks whether it still is, and does
// nothing more if so. share fails if the store does; the shares then stay as they are.
func (e *Engine) share(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.Lease/2)
	defer cancel()
	now := e.Clock.Now()
	if e.shares.alone() {
		if alive, err := e.Store.Nodes(ctx, now); err != nil || len(alive) <= 1 {
			return err
		}
	}
	e.mu.Lock()
	node, own := e.node, e.demands(now)
	e.mu.Unlock()
	all, err := e.Store.Demands(ctx, node, now, own)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := newView(all, node, own, now); v != nil && node == e.node {
		e.reshare(v, newView(all, node, e.shares.own, now))
		e.shares.own = own
	}
	return nil // a node that the store does not list as alive is about to join again
}

// reshare takes over a new view v, and earlier, the same view with what this node published
// before. It divides again every limit whose share they may change. Callers must hold mu.
func (e *Engine) reshare(v, earlier *view) {
	before := e.shares.views.Load()
	var next *[3]*view
	switch {
	case v.nodes == 1:
	case before == nil:
		next = &[3]*view{v, v, v}
	default:
		next = &[3]*view{v, earlier, before[0]}
	}
	e.shares.views.Store(next)
	e.gates.SetAlone(next == nil)
	e.gates.Reshare(e.affected(before, next), e.now())
}

// affected returns the endpoints whose shares may differ between two sets of views: all that have
// gates if nodes have come or gone, else those whose limits are in one of the views. Callers must
// hold mu.
func (e *Engine) affected(before, next *[3]*view) (ids []kapsel.EndpointID) {
	if before == nil && next == nil {
		return nil
	}
	moved := func(v *view) bool { return v.nodes != next[0].nodes || v.me != next[0].me }
	if before == nil || next == nil || slices.ContainsFunc(before[:], moved) {
		return e.gates.Gates()
	}
	named := map[kapsel.EndpointID]bool{}
	for _, v := range slices.Concat(before[:], next[:]) {
		for l := range v.amounts {
			if id := kapsel.EndpointID(l.Of); !named[id] {
				named[id] = true
				ids = append(ids, id)
			}
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
	first := e.shares.told.IsZero() || e.shares.alone()
	e.shares.told = time.Now()
	type demand struct {
		store.Demand
		fill float64
	}
	var all []demand
	add := func(l store.Limit, amount, part float64, held int) {
		if amount*4 >= part || held > 0 && float64(held)*4 >= part {
			all = append(all, demand{store.Demand{Limit: l, Amount: amount, Held: held}, amount / max(part, demandLeast)})
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
			e.shares.rates[id].part = a.PerSecond
		}
		for id, d := range e.shares.rates {
			amount := d.meter.Note(float64(asked[id].Tokens) / seconds)
			if amount < demandLeast {
				delete(e.shares.rates, id)
				continue
			}
			add(store.Limit{Kind: store.IngestRate, Of: id}, amount, d.part, 0)
		}
	}
	slices.SortFunc(all, func(a, b demand) int { return cmp.Compare(b.fill, a.fill) })
	own := make([]store.Demand, 0, min(len(all), store.MaxDemands))
	for _, d := range all[:min(len(all), store.MaxDemands)] {
		own = append(own, d.Demand)
	}
	return own
}
