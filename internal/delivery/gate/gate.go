package gate

import (
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// Limits of what one endpoint may hold ahead of its exchanges.
const (
	aheadCount = 512
	aheadBytes = 4 << 20
)

// nodeAhead limits what the whole node may hold ahead of its exchanges, if that is more than its
// workers.
const nodeAhead = 2048

// firstEarned is how many exchanges at once a destination that has not answered yet may have.
const firstEarned = 2

// Gate is what the node knows of one endpoint: whether an exchange may start, and which deliveries
// are held for it.
type Gate struct {
	id      kapsel.EndpointID
	ep      *kapsel.Endpoint
	stored  kapsel.Circuit // the circuit in the store, as this node last saw it
	moves   []Move         // this node's changes of the circuit that are not written yet, oldest first
	circuit kapsel.Circuit // stored with the moves applied, for ep; see restate
	epoch   int            // counts the changes that restate describes
	window  breaker.Window // of this node, while the circuit is closed
	trial   breaker.Trial  // of this node, while the circuit is half-open and the node probes
	winning bool           // the right to probe is being asked for
	bucket  ratelimit.Bucket
	share   share // of the endpoint's limits
	lack    lack  // what a shortage leaves to the endpoint

	earned       int    // exchanges at once that the destination has earned
	running      int    // exchanges with the present destination
	probes       int    // running exchanges that belong to the trial
	former       int    // exchanges with former destinations
	unrecorded   int    // workers in use: those running, and those whose record is being written
	reserved     int    // permits whose acceptance is being committed
	slowReserved int    // of them, those given while the endpoint was slow
	permitted    int    // deliveries by a permit that are reserved, ready or running
	ready        []*Job // held, in the order in which they start
	readyBytes   int

	nextDue  time.Time // when the first delivery known to wait in the store is due; zero: none known
	notes    int       // counts the calls of dueAt
	look     time.Time // when Collect looks at the gate; see agenda
	index    int       // in the agenda, -1 outside
	starving bool      // has due work in the store and no capacity for it; see refill
	want     int       // how many deliveries are about to be claimed for it
	claiming int       // how many are being claimed
	missed   int       // how many claims in a row ended before they came to it
	unread   time.Time // nothing is claimed before this time of the monotonic clock; see Failed
	parked   bool      // is in slow.parked

	used       time.Time // when the endpoint last had work, by the monotonic clock
	lastStart  time.Time // of the newest exchange
	unanswered bool      // the latest exchange ended without an answer
	pace       pace      // of exchanges with the present destination
}

// ID returns the endpoint's ID.
func (g *Gate) ID() kapsel.EndpointID { return g.id }

// Endpoint returns the endpoint with the newest settings that the gate has.
func (g *Gate) Endpoint() *kapsel.Endpoint { return g.ep }

// Circuit returns the endpoint's circuit as it is on this node.
func (g *Gate) Circuit() kapsel.Circuit { return g.circuit }

// Job is a delivery that this node holds.
type Job struct {
	Delivery  kapsel.Delivery
	Event     kapsel.Event
	Body      *budget.Body // the memory of Event.Body
	Due       time.Time    // when the delivery was due, and is due again if it goes back unsent
	Permitted bool         // came by a permit, not by a claim

	Endpoint *kapsel.Endpoint // as it was when the exchange started
	epoch    int              // the gate's epoch at that time
}

// Release gives back the memory of the event's body. Callers must call it once, when they need the
// body no more.
func (j *Job) Release() {
	j.Event.Body = nil
	j.Body.Release()
}

// admits reports whether the endpoint's state lets deliveries start.
func (g *Gate) admits() bool {
	return g.ep.DeletedAt.IsZero() && g.ep.State == kapsel.EndpointActive
}

// open reports whether ordinary exchanges may start: state and circuit allow it.
func (g *Gate) open(at Time) bool { return g.admits() && breaker.Allows(g.circuit, at.Store) }

// probing reports whether the circuit is half-open and this node probes.
func (k *Keeper) probing(g *Gate) bool {
	return g.circuit.State == kapsel.CircuitHalfOpen && g.circuit.Probe == k.node
}

// sends reports whether claimed deliveries may start: ordinary ones, or this node's probes.
func (k *Keeper) sends(g *Gate, at Time) bool {
	return g.open(at) || k.probing(g) && g.admits() && !g.circuit.HoldUntil.After(at.Store)
}

// places returns how many exchanges this node may have running to the endpoint, and how many of
// these places are in use. Usually n is what the destination has earned, at most this node's share
// of the endpoint's concurrency. While this node probes, n is the trial's places, as far as this
// node's share holds them; other nodes send nothing then, so the share counts as one place at
// least. A shortage leaves fewer places; see short.
func (k *Keeper) places(g *Gate, at Time) (n, used int) {
	if k.probing(g) {
		older := g.running - g.probes
		n, used = min(g.trial.Places(), max(1, g.share.places)-older), g.probes
	} else {
		n, used = min(g.earned, g.share.places), g.running
	}
	if g.lack.applies(at) {
		n = min(n, g.lack.places)
	}
	return n, used
}

// full reports whether all of this node's places for the endpoint are in use.
func (k *Keeper) full(g *Gate, at Time) bool {
	n, used := k.places(g, at)
	return used >= n
}

// pace counts the exchanges that end in a tenth of a second.
type pace struct {
	slot         int64 // the tenth of a second that done counts
	done, before int   // exchanges ended in slot, and in the one before
}

// tick counts n ended exchanges.
func (p *pace) tick(at Time, n int) {
	switch slot := at.Store.UnixMilli() / 100; slot - p.slot {
	case 0:
	case 1:
		p.slot, p.before, p.done = slot, p.done, 0
	default:
		p.slot, p.before, p.done = slot, 0, 0
	}
	p.done += n
}

// ahead returns how many deliveries may be held beyond those running: as many as exchanges ended
// in this tenth of a second or in the one before, whichever is more, up to most.
func (p *pace) ahead(at Time, most int) int {
	p.tick(at, 0)
	return min(max(p.done, p.before), most)
}

// capacity returns how many more deliveries may be held for the endpoint, and of how many in all.
func (k *Keeper) capacity(g *Gate, at Time) (n, of int) {
	of, used := k.places(g, at)
	if of <= 0 {
		return 0, 0 // other nodes or older exchanges have all of the endpoint's concurrency, or a shortage leaves none
	}
	if !k.probing(g) {
		of += g.pace.ahead(at, aheadCount)
	}
	if g.readyBytes >= aheadBytes {
		return 0, of
	}
	n = of - used - g.reserved - len(g.ready)
	if r := g.ep.RateLimit; r != nil {
		// Hold no more than the rate lets start within a tenth of a second, so that few deliveries go
		// back.
		most := 1 + int(r.PerSecond/10)
		n, of = min(n, most-g.reserved-len(g.ready)), min(of, most)
	}
	return n, of
}

// backlog reports whether due work of the endpoint waits in the store, as far as is known.
func (g *Gate) backlog(at Time) bool { return !g.nextDue.IsZero() && !g.nextDue.After(at.Store) }

// rated returns when the endpoint's rate lets the next exchange start; that is now if it may start
// at once. The rate runs by the monotonic clock, independent of the store's clock.
func (g *Gate) rated(at Time) time.Time {
	if g.ep.RateLimit == nil {
		return at.Store
	}
	return at.Store.Add(g.bucket.Next(at.Mono).Sub(at.Mono))
}

// earn updates how many exchanges at once the present destination has earned. An answer earns one
// more, up to the endpoint's concurrency; 5xx and 429 halve the number, but not below firstEarned.
// No answer halves it down to one, except that a blocked address changes nothing.
func (g *Gate) earn(r Result) {
	g.unanswered = r.Status == 0
	switch {
	case r.Status == http.StatusTooManyRequests || r.Status >= 500 && r.Status < 600:
		if g.earned > firstEarned {
			g.earned = max(firstEarned, g.earned/2)
		}
	case r.Status != 0:
		g.earned = min(g.earned+1, max(1, g.ep.Concurrency))
	case r.Code != kapsel.DialBlocked:
		g.earned = max(1, g.earned/2)
	}
}

// idle reports whether the gate is of no use as far as its own fields say. A deleted endpoint
// needs no gate: its waiting deliveries are canceled without one.
func (g *Gate) idle(at Time) bool {
	if g.running+g.former+g.unrecorded+g.reserved+len(g.ready)+g.want+g.claiming+len(g.moves) > 0 || g.winning || g.parked {
		return false
	}
	return !g.ep.DeletedAt.IsZero() || g.nextDue.IsZero() && g.index < 0 && at.Mono.Sub(g.used) > idleAfter
}
