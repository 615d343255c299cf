package gate

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// least is a demand, per second or at once, that is as good as none.
const least = 0.01

// share holds what a gate may use of its endpoint's limits, and what it demanded since Demands was
// last called.
type share struct {
	places int     // exchanges at once
	rate   float64 // this node's fraction of the endpoint's rate, 0 to 1

	started int       // exchanges that started
	most    int       // exchanges that ran at once, at most
	refused int       // permits that found no place, or no rate
	backlog time.Time // when due deliveries were last seen to wait in the store, by the monotonic clock

	atOnce    float64         // demanded exchanges at once: rises at once, at most halves in a round
	perSecond ratelimit.Meter // demanded starts per second
}

// SetAlone tells the Keeper whether this node is the only one that uses the endpoints' limits. The
// demands of a node that is alone are not counted.
func (k *Keeper) SetAlone(alone bool) {
	k.alone = alone
	if alone {
		clear(k.metered)
	}
}

// divide takes over this node's share of an endpoint's limits.
func (k *Keeper) divide(g *Gate, at Time) {
	g.share.places, g.share.rate = k.host.Share(g.ep)
	if r := g.ep.RateLimit; r != nil {
		g.bucket.Set(r.PerSecond*g.share.rate, ratelimit.BurstShare(r.Burst, g.share.rate), at.Mono)
	} else {
		g.bucket = ratelimit.Bucket{} // no limit
	}
}

// Reshare takes over this node's share of the limits of endpoints; those without a gate are passed
// over.
func (k *Keeper) Reshare(ids []kapsel.EndpointID, at Time) {
	for _, id := range ids {
		g := k.gates[id]
		if g == nil {
			continue
		}
		was := g.share
		k.divide(g, at)
		if g.share.places == was.places && g.share.rate == was.rate {
			continue
		}
		if !g.nextDue.IsZero() && g.admits() {
			k.lookAt(g, at.Store)
		}
		if len(g.ready) > 0 {
			k.turns.add(g)
		}
	}
	k.Dispatch(at)
	k.host.Wake()
}

// meter begins to count what a gate demands; the count ends when the gate demands nothing. It does
// nothing if the node is alone or the gate is counted already.
func (k *Keeper) meter(g *Gate) {
	if _, ok := k.metered[g]; ok || k.alone {
		return
	}
	g.share.started, g.share.most, g.share.refused = 0, g.running, 0
	k.metered[g] = struct{}{}
}

// refused counts a permit that a limit refuses, and returns true.
func (k *Keeper) refused(g *Gate) bool {
	k.meter(g)
	g.share.refused++
	return true
}

// Demand is what a node could use of an endpoint's limits, beside its share of them.
type Demand struct {
	Endpoint kapsel.EndpointID
	AtOnce   float64 // exchanges at once
	Running  int
	Places   int     // this node's share of the exchanges at once
	Limited  bool    // the endpoint has a rate limit …
	Rate     float64 // … of exchanges a second
	RateMost float64 // this node's share of these
}

// Demands returns what this node demands of the endpoints' limits, counted over the time since
// Demands was last called. An endpoint whose deliveries wait in the store, seen in the last recent,
// demands all that there is.
func (k *Keeper) Demands(seconds float64, recent time.Duration, at Time) (all []Demand) {
	for g := range k.metered {
		s := &g.share
		concurrency := float64(max(1, g.ep.Concurrency))
		places := float64(max(s.most, g.running+g.reserved+len(g.ready)) + s.refused)
		rate, perSecond := float64(s.started+s.refused)/seconds, 0.0
		if g.ep.RateLimit != nil {
			perSecond = g.ep.RateLimit.PerSecond
		}
		if at.Mono.Sub(s.backlog) < recent && g.open(at) {
			places, rate = concurrency, perSecond
		}
		// A node can use no more places than the destination has earned, or will soon have earned.
		s.atOnce = max(min(places, concurrency, 2*float64(g.earned)), s.atOnce/2)
		rate = s.perSecond.Note(min(rate, perSecond))
		s.started, s.most, s.refused = 0, g.running, 0
		if s.atOnce < least && rate < least && g.running == 0 {
			delete(k.metered, g)
			continue
		}
		all = append(all, Demand{g.id, s.atOnce, g.running, s.places, perSecond > 0, rate, perSecond * s.rate})
	}
	return all
}
