package delivery

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Nodes share limits by what each demands of them: once a second every node tells the others,
// through the store, what it could use of the limits that are in use, and works out its own
// share of each from what all told. A node that is alone has all and tells nobody.
//
// Nodes read at different moments, so one may count on what another has not yet given up. So a
// share is the least by all that others may have read: what they told now and the turn before,
// with what this node told now and before. It grows a turn later than it shrinks.

const (
	// shareEvery is how often nodes tell what they demand.
	shareEvery = time.Second
	// demandStale is the age at which what a node told counts no more: it is dead, or cannot
	// reach the store and so can use no limit.
	demandStale = 3 * shareEvery
	// demandLeast is a demand, a second or at once, that is as good as none.
	demandLeast = 0.01
)

// shares are this node's shares of limits. Engine.mu guards all but views.
type shares struct {
	// views are the newest, the same but for what this node told before, and the newest of the
	// turn before; nil: alone.
	views  atomic.Pointer[[3]*view]
	own    []store.Demand     // what this node told before
	active map[*gate]struct{} // gates that demand something
	told   time.Time          // when demands were last counted, by the monotonic clock

	asked   func() map[kapsel.TenantID]ratelimit.Asked // nil: nobody takes requests
	tenants map[kapsel.TenantID]*tenantDemand
}

// tenantDemand is what a tenant demands, a second, and this node's share when it last asked.
type tenantDemand struct {
	meter ratelimit.Meter
	part  float64
}

func (s *shares) alone() bool { return s.views.Load() == nil }

// share is a gate's part in it: what it may use, and what it demanded since the last turn.
type share struct {
	places int     // exchanges at once
	rate   float64 // part of the endpoint's rate, 0 to 1

	started int       // exchanges
	most    int       // running at once
	refused int       // permits that found no place, or no rate
	backlog time.Time // when due deliveries were last seen to wait in the store, by the monotonic clock

	atOnce    float64         // what is demanded: it comes at once, and goes by half a turn
	perSecond ratelimit.Meter // …
}

// view is what all nodes told at one time, without what is stale.
type view struct {
	nodes   int
	me      int // this node's place among them, by id
	amounts map[store.Limit][]float64
	held    map[store.Limit][]int
}

// newView makes a view of what nodes told; nil when this node is not among them. What it told
// itself is own.
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

// part is which part of a limit is this node's, 0 to 1.
func (v *view) part(l store.Limit, limit float64) float64 {
	amounts := v.amounts[l]
	if amounts == nil || !(limit > 0) {
		return 1 / float64(v.nodes)
	}
	return ratelimit.Part(limit, amounts, v.me) / limit
}

// places are how many of a whole number are this node's.
func (v *view) places(l store.Limit, limit, turn int) int {
	amounts, held := v.amounts[l], v.held[l]
	if amounts == nil {
		amounts, held = make([]float64, v.nodes), make([]int, v.nodes)
	}
	return ratelimit.Places(limit, amounts, held, v.me, turn)
}

// TenantPart is which part of a tenant's rate of requests is this node's to grant, 0 to 1.
func (e *Engine) TenantPart(id kapsel.TenantID, perSecond float64) float64 {
	views := e.shares.views.Load()
	if views == nil {
		return 1
	}
	l := store.Limit{Kind: store.IngestRate, Of: id}
	return min(views[0].part(l, perSecond), views[1].part(l, perSecond), views[2].part(l, perSecond))
}

// ShareTenants has the nodes share what tenants may send: asked tells what was asked of this
// node since it was last called. Call it before Run.
func (e *Engine) ShareTenants(asked func() map[kapsel.TenantID]ratelimit.Asked) {
	e.shares.asked = asked
}

// divide works out what of an endpoint's limits is this node's. The caller holds mu.
func (e *Engine) divide(g *gate) {
	concurrency, turn := max(1, g.ep.Concurrency), int(g.ep.Part)
	g.share.places, g.share.rate = concurrency, 1
	if views := e.shares.views.Load(); views != nil {
		for _, v := range views {
			g.share.places = min(g.share.places, v.places(limitOf(store.Concurrency, g), concurrency, turn))
			if r := g.ep.RateLimit; r != nil {
				g.share.rate = min(g.share.rate, v.part(limitOf(store.DeliveryRate, g), r.PerSecond))
			}
		}
	}
	if r := g.ep.RateLimit; r != nil {
		g.bucket.Set(r.PerSecond*g.share.rate, ratelimit.BurstPart(r.Burst, g.share.rate), time.Now())
	} else {
		g.bucket = ratelimit.Bucket{} // no limit
	}
}

func limitOf(kind store.LimitKind, g *gate) store.Limit { return store.Limit{Kind: kind, Of: g.id} }

// meter counts what a gate demands, from now until it demands nothing. The caller holds mu.
func (e *Engine) meter(g *gate) {
	if _, ok := e.shares.active[g]; ok || e.shares.alone() {
		return
	}
	g.share.started, g.share.most, g.share.refused = 0, g.running, 0
	e.shares.active[g] = struct{}{}
}

// refused counts a permit that a limit refuses, and is true.
func (e *Engine) refused(g *gate) bool {
	e.meter(g)
	g.share.refused++
	return true
}

// shareLoop takes turns until ctx ends.
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

// share takes a turn: it tells what this node demands and works out its shares anew. A node
// that is alone only looks whether it still is.
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
	return nil // a node that is not among the living is about to join anew
}

// reshare takes over a new view, as it is and with what this node told before, and divides
// anew what they may change. The caller holds mu.
func (e *Engine) reshare(v, earlier *view) {
	before := e.shares.views.Load()
	var next *[3]*view
	switch {
	case v.nodes == 1:
		clear(e.shares.active)
	case before == nil:
		next = &[3]*view{v, v, v}
	default:
		next = &[3]*view{v, earlier, before[0]}
	}
	e.shares.views.Store(next)
	now := e.Clock.Now()
	for g := range e.affected(before, next) {
		was := g.share
		e.divide(g)
		if g.share.places == was.places && g.share.rate == was.rate {
			continue
		}
		if !g.nextDue.IsZero() && g.admits() {
			e.lookAt(g, now)
		}
		if len(g.ready) > 0 {
			e.turns.add(g)
		}
	}
	e.dispatch()
	e.poke()
}

// affected are the gates whose shares may differ between two sets of views: all when nodes
// came or went, else those of which some view tells.
func (e *Engine) affected(before, next *[3]*view) map[*gate]struct{} {
	gates := map[*gate]struct{}{}
	if before == nil && next == nil {
		return gates
	}
	moved := func(v *view) bool { return v.nodes != next[0].nodes || v.me != next[0].me }
	if before == nil || next == nil || slices.ContainsFunc(before[:], moved) {
		for _, g := range e.gates {
			gates[g] = struct{}{}
		}
		return gates
	}
	for _, v := range slices.Concat(before[:], next[:]) {
		for l := range v.amounts {
			if g := e.gates[l.Of]; g != nil {
				gates[g] = struct{}{}
			}
		}
	}
	return gates
}

// demands are what this node demands now, as far as it comes near to its shares: the largest
// by their shares first, at most MaxDemands. The caller holds mu.
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
	for g := range e.shares.active {
		s := &g.share
		concurrency := float64(max(1, g.ep.Concurrency))
		places := float64(max(s.most, g.running+g.reserved+len(g.ready)) + s.refused)
		rate, perSecond := float64(s.started+s.refused)/seconds, 0.0
		if g.ep.RateLimit != nil {
			perSecond = g.ep.RateLimit.PerSecond
		}
		if time.Since(s.backlog) < 2*listEvery && g.open(now) { // it takes all that there is
			places, rate = concurrency, perSecond
		}
		// A node can use no more places than it has earned, or soon will have.
		s.atOnce = max(min(places, concurrency, 2*float64(g.earned)), s.atOnce/2)
		rate = s.perSecond.Note(min(rate, perSecond))
		s.started, s.most, s.refused = 0, g.running, 0
		if s.atOnce < demandLeast && rate < demandLeast && g.running == 0 {
			delete(e.shares.active, g)
			continue
		}
		add(limitOf(store.Concurrency, g), s.atOnce, float64(s.places), g.running)
		if perSecond > 0 {
			add(limitOf(store.DeliveryRate, g), rate, perSecond*s.rate, 0)
		}
	}
	if e.shares.asked != nil {
		asked := e.shares.asked()
		if first {
			clear(asked) // since nobody knows when
		}
		if e.shares.tenants == nil {
			e.shares.tenants = map[kapsel.TenantID]*tenantDemand{}
		}
		for id, a := range asked {
			if e.shares.tenants[id] == nil {
				e.shares.tenants[id] = &tenantDemand{}
			}
			e.shares.tenants[id].part = a.PerSecond
		}
		for id, d := range e.shares.tenants {
			amount := d.meter.Note(float64(asked[id].Tokens) / seconds)
			if amount < demandLeast {
				delete(e.shares.tenants, id)
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
