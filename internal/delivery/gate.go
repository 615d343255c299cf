package delivery

import (
	"container/heap"
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// Limits of what one endpoint may hold ahead of its exchanges.
const (
	aheadCount = 512
	aheadBytes = 4 << 20
)

// slowAfter is the age at which exchanges without an answer make their endpoint slow.
const slowAfter = time.Second

// gate is what the node knows of one endpoint: whether an exchange may start, and what is
// held for it. Engine.mu guards every field.
type gate struct {
	id      kapsel.EndpointID
	ep      *kapsel.Endpoint
	stored  kapsel.Circuit // the circuit in the store, as this node last saw it
	moves   []circuitMove  // this node's changes of the circuit that are not written yet, oldest first
	circuit kapsel.Circuit // stored with the moves applied, for ep; see restate
	epoch   int            // counts the changes that restate describes
	window  breaker.Window // of this node, while the circuit is closed
	trial   breaker.Trial  // of this node, while the circuit is half-open and the node probes
	winning bool           // the right to probe is being asked for
	bucket  ratelimit.Bucket
	share   share // of the endpoint's limits
	lack    lack  // the endpoint's part in a shortage

	earned     int    // exchanges at once that the destination has earned
	running    int    // exchanges with the present destination
	probes     int    // running exchanges that belong to the trial
	former     int    // exchanges with former destinations
	unrecorded int    // workers in use: those running, and those whose record is being written
	reserved   int    // permits whose acceptance is being committed
	fresh      int    // deliveries by a permit that are reserved, ready or running
	ready      []*job // held, in the order in which they start
	readyBytes int

	nextDue  time.Time // when the first delivery known to wait in the store is due; zero: none known
	notes    int       // counts the calls of dueAt
	look     time.Time // when the claim loop looks at the gate; see agenda
	index    int       // in the agenda, -1 outside
	starving bool      // has due work in the store and no room for it; see feed
	want     int       // how many deliveries are about to be claimed for it
	claiming int       // how many are being claimed
	parked   bool      // is in Engine.parked

	used       time.Time // when the endpoint last had work, by the monotonic clock
	lastStart  time.Time // of the newest exchange
	unanswered bool      // the latest exchange ended without an answer
	slot       int64     // the tenth of a second that done counts
	done       int       // exchanges ended in slot …
	doneBefore int       // … and in the one before
}

// circuitMove returns a stored circuit as it is after a change. ok is false if the change does not
// apply to that circuit.
type circuitMove func(stored kapsel.Circuit) (next kapsel.Circuit, ok bool)

// job is a delivery that this node holds.
type job struct {
	delivery kapsel.Delivery
	event    kapsel.Event
	due      time.Time // when the delivery was due, and is due again if it goes back unsent
	fresh    bool      // came by a permit, not by a claim

	ep    *kapsel.Endpoint // as it was when the exchange started
	epoch int              // the gate's epoch at that time
}

// firstEarned is how many exchanges at once a destination that has not answered yet may have.
const firstEarned = 2

// newGate makes the gate of an endpoint. Callers must hold mu.
func (e *Engine) newGate(ep *kapsel.Endpoint) *gate {
	g := &gate{id: ep.ID, earned: firstEarned, index: -1, stored: e.Settings.Circuit(ep.ID)}
	e.gates[ep.ID] = g
	// From here on settingsChanged tells the gate of changes; the cache knows those since ep was read.
	e.setEndpoint(g, e.Settings.Latest(ep), e.Clock.Now())
	return g
}

// gateOf returns the gate of an endpoint and makes one if there is none. Callers must hold mu.
func (e *Engine) gateOf(ep *kapsel.Endpoint) *gate {
	g := e.gates[ep.ID]
	if g == nil {
		g = e.newGate(ep)
	}
	g.used = time.Now()
	return g
}

// Every forgetEvery the engine drops gates that are of no use: those of deleted endpoints, and of
// endpoints without work for idleAfter. An idle destination must then earn its exchanges at once
// again.
const (
	forgetEvery = time.Minute
	idleAfter   = time.Hour
)

// forget drops gates that are of no use, with their recipients, at most once every forgetEvery.
// Callers must hold mu.
func (e *Engine) forget() {
	if time.Since(e.forgot) < forgetEvery {
		return
	}
	e.forgot = time.Now()
	for id, g := range e.gates {
		if g.idle() && !e.turns.has(g) && !e.line.has(g) {
			if g.index >= 0 {
				heap.Remove(&e.agenda, g.index)
			}
			delete(e.gates, id)
			delete(e.shares.active, g)
			e.recipients.Drop(kapsel.OriginID(id))
		}
	}
}

// idle reports whether the gate is of no use as far as its own fields say. A deleted endpoint
// needs no gate: its waiting deliveries are canceled without one.
func (g *gate) idle() bool {
	if g.running+g.former+g.unrecorded+g.reserved+len(g.ready)+g.want+g.claiming+len(g.moves) > 0 || g.winning || g.parked {
		return false
	}
	return !g.ep.DeletedAt.IsZero() || g.nextDue.IsZero() && g.index < 0 && time.Since(g.used) > idleAfter
}

// setEndpoint takes over an endpoint's settings unless the gate has newer ones. Callers must hold
// mu.
func (e *Engine) setEndpoint(g *gate, ep *kapsel.Endpoint, now time.Time) {
	if g.ep != nil && g.ep.Revision > ep.Revision {
		return
	}
	if g.ep != nil && g.ep.Destination != ep.Destination {
		// Exchanges with the former destination hold workers, but not the places of the new
		// one, which has earned nothing and is not to blame for how they end.
		g.former += g.running
		g.running, g.earned, g.unanswered = 0, firstEarned, false
		g.done, g.doneBefore = 0, 0
		g.lack = lack{}
		if len(g.ready) > 0 {
			e.turns.add(g)
		}
	}
	g.ep = ep
	e.divide(g)
	e.restate(g, now)
}

// setCircuit takes over a circuit from the store if it is newer than g.stored. Callers must hold
// mu.
func (e *Engine) setCircuit(g *gate, c kapsel.Circuit, now time.Time) {
	if c.Version <= g.stored.Version {
		return
	}
	g.stored = c
	e.restate(g, now)
}

// restate computes g.circuit: the stored circuit with this node's moves applied, for the endpoint
// as it is now. If the state, the probing node or the destination has changed, the counts for the
// circuit start again, and exchanges that began earlier do not count. Callers must hold mu.
func (e *Engine) restate(g *gate, now time.Time) {
	was := g.circuit
	g.circuit = g.ep.CircuitNow(g.stored)
	for _, move := range g.moves {
		if next, ok := move(g.circuit); ok {
			g.circuit = g.ep.CircuitNow(next)
		}
	}
	if c := g.circuit; c.State != was.State || c.Probe != was.Probe || c.Destination != was.Destination {
		g.epoch++
		g.window.Reset()
		g.trial, g.probes = breaker.Trial{}, 0
	}
	if !e.sends(g, now) {
		e.giveBackReady(g)
	}
	if !g.nextDue.IsZero() && g.admits() {
		e.lookAt(g, now)
	}
}

// admits reports whether the endpoint's state lets deliveries start.
func (g *gate) admits() bool {
	return g.ep.DeletedAt.IsZero() && g.ep.State == kapsel.EndpointActive
}

// open reports whether ordinary exchanges may start: state and circuit allow it.
func (g *gate) open(now time.Time) bool { return g.admits() && breaker.Allows(g.circuit, now) }

// probing reports whether the circuit is half-open and this node probes.
func (e *Engine) probing(g *gate) bool {
	return g.circuit.State == kapsel.CircuitHalfOpen && g.circuit.Probe == e.node
}

// sends reports whether claimed deliveries may start: ordinary ones, or this node's probes.
func (e *Engine) sends(g *gate, now time.Time) bool {
	return g.open(now) || e.probing(g) && g.admits() && !g.circuit.HoldUntil.After(now)
}

// places returns how many exchanges this node may have running to the endpoint, and how many of
// these places are in use. Usually n is what the destination has earned, at most this node's share
// of the endpoint's concurrency. While this node probes, n is the trial's places, as far as this
// node's share holds them; other nodes send nothing then, so the share counts as one place at
// least. A shortage leaves fewer places; see short.
func (e *Engine) places(g *gate) (n, used int) {
	if e.probing(g) {
		older := g.running - g.probes
		n, used = min(g.trial.Places(), max(1, g.share.places)-older), g.probes
	} else {
		n, used = min(g.earned, g.share.places), g.running
	}
	if g.lack.holds() {
		n = min(n, g.lack.places)
	}
	return n, used
}

// full reports whether all of this node's places for the endpoint are in use.
func (e *Engine) full(g *gate) bool {
	n, used := e.places(g)
	return used >= n
}

// slowNow reports whether the endpoint counts as slow: its latest exchange ended without an
// answer, or all that run are older than a second.
func (g *gate) slowNow(now time.Time) bool {
	return g.unanswered || g.running > 0 && now.Sub(g.lastStart) > slowAfter
}

// slowFull reports whether slow endpoints together hold their half of the workers. It counts again
// if the last count is older than 20 ms, because an endpoint becomes slow as time passes, or if
// the last count reached the half and an exchange has ended since.
func (e *Engine) slowFull(now time.Time) bool {
	share := max(1, e.workers()/2)
	if e.slowSum >= share && e.slowOld || time.Since(e.slowAt) > 20*time.Millisecond {
		e.slowSum, e.slowAt, e.slowOld = 0, time.Now(), false
		for g := range e.running {
			e.slowSum += g.former
			if g.slowNow(now) {
				e.slowSum += g.running
			}
		}
	}
	return e.slowSum >= share
}

// tick counts n ended exchanges for ahead.
func (g *gate) tick(now time.Time, n int) {
	switch slot := now.UnixMilli() / 100; slot - g.slot {
	case 0:
	case 1:
		g.slot, g.doneBefore, g.done = slot, g.done, 0
	default:
		g.slot, g.doneBefore, g.done = slot, 0, 0
	}
	g.done += n
}

// ahead returns how many deliveries may be held beyond those running: as many as exchanges ended
// in this tenth of a second or in the one before, whichever is more, up to aheadCount.
func (g *gate) ahead(now time.Time) int {
	g.tick(now, 0)
	return min(max(g.done, g.doneBefore), aheadCount)
}

// room returns how many more deliveries may be held for the endpoint, and of how many in all.
func (e *Engine) room(g *gate, now time.Time) (n, of int) {
	of, used := e.places(g)
	if of <= 0 {
		return 0, 0 // other nodes or older exchanges have all of the endpoint's concurrency, or a shortage leaves none
	}
	if !e.probing(g) {
		of += g.ahead(now)
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
func (g *gate) backlog(now time.Time) bool { return !g.nextDue.IsZero() && !g.nextDue.After(now) }

// free returns how many more deliveries the node may hold.
func (e *Engine) free() int { return 2*e.workers() - e.waiting - e.busy - e.wanted }

// older reports whether older work waits: claimed deliveries that have no worker, a claim under
// way, or due work in line for room.
func (e *Engine) older() bool { return e.claimed > 0 || e.wanted > 0 || e.line.any() }

// feed wakes the claim loop when there is room worth a claim: for the starving gate g, now or
// soon, and for gates in line for the node's room. Callers must call feed whenever a held delivery
// is released. A gate without room always holds at least one delivery, so no starving gate is
// forgotten.
func (e *Engine) feed(g *gate, now time.Time) {
	if g.starving {
		switch n, of := e.room(g, now); {
		case n <= 0:
		case 2*n >= of:
			e.lookAt(g, now)
		default:
			e.lookAt(g, now.Add(claimWait)) // no more room may come for a long time
		}
	}
	if e.line.any() && e.roomy() {
		e.poke()
	}
}

// roomy reports whether the node has room worth a claim. If it has not, the node holds many
// deliveries, and the end of one of them asks again.
func (e *Engine) roomy() bool {
	return 4*min(e.free(), claimBatch) >= min(e.workers(), claimBatch)
}

// dispatch starts what may start, in turns, while workers are free. The caller holds mu.
func (e *Engine) dispatch() {
	if e.stopping || !e.leased() {
		return
	}
	now := e.Clock.Now()
	for e.busy < e.workers() {
		g := e.turns.next()
		if g == nil {
			e.exhausted = false
			return
		}
		if !e.mayStart(g, now) {
			continue
		}
		j := g.ready[0]
		g.ready[0] = nil
		g.ready = g.ready[1:]
		g.readyBytes -= j.delivery.Size
		e.release(j)
		e.start(g, j, now)
		if len(g.ready) > 0 {
			e.turns.add(g)
		}
		if g.ep.RateLimit != nil {
			e.feed(g, now) // a start makes room, because a rate limits the deliveries that wait to start
		}
	}
	if e.busy >= e.Workers && !e.exhausted && e.turns.any() {
		e.exhausted = true
		e.metrics.exhausted.Inc()
		if time.Since(e.warned) > time.Minute {
			e.warned = time.Now()
			e.Log.Warn("all workers are busy; deliveries wait", "code", string(kapsel.WorkersExhausted), "workers", e.Workers)
		}
	}
}

// mayStart reports whether the gate's first ready delivery may start now. If so, it has taken a
// token of the endpoint's rate. If not, it sees to it that the gate is looked at again when that
// may have changed.
func (e *Engine) mayStart(g *gate, now time.Time) bool {
	places, used := e.places(g)
	switch {
	case !e.sends(g, now):
		e.giveBackReady(g)
		return false
	case len(g.ready) == 0: // they were given back meanwhile
		return false
	case used >= places:
		if used == 0 {
			e.giveBackReady(g) // other nodes have the endpoint's concurrency now
		}
		return false // the end of one of the gate's exchanges adds the gate again
	case g.slowNow(now) && e.slowFull(now):
		e.park(g)
		return false
	case !g.bucket.Take(time.Now()):
		e.lookAt(g, g.rated(now))
		return false
	}
	return true
}

// rated returns when the endpoint's rate lets the next exchange start; that is now if it may start
// at once. The rate runs by the monotonic clock, independent of the store's clock.
func (g *gate) rated(now time.Time) time.Time {
	if g.ep.RateLimit == nil {
		return now
	}
	t := time.Now()
	return now.Add(g.bucket.Next(t).Sub(t))
}

// park keeps a gate from its turn until slow endpoints hold less than their half of the workers.
// Callers must hold mu.
func (e *Engine) park(g *gate) {
	if !g.parked {
		g.parked = true
		e.parked = append(e.parked, g)
	}
}

// unpark gives up to 8 parked gates a turn. While slow endpoints hold their half of the workers,
// at least one of their exchanges runs, and its end calls unpark.
func (e *Engine) unpark() {
	for n := 0; n < 8 && len(e.parked) > 0; {
		g := e.parked[0]
		e.parked = e.parked[1:]
		g.parked = false
		if len(g.ready) > 0 {
			e.turns.add(g)
			n++
		}
	}
}

// start makes the exchange in the background, with a worker of its own. Callers must hold mu.
func (e *Engine) start(g *gate, j *job, now time.Time) {
	if g.slowNow(now) {
		e.slowSum++
	}
	g.running++
	if e.probing(g) {
		g.probes++
	}
	g.unrecorded++
	g.lastStart = now
	e.meter(g)
	g.share.started++
	g.share.most = max(g.share.most, g.running)
	e.running[g] = struct{}{}
	e.busy++
	j.ep, j.epoch = g.ep, g.epoch
	e.background(func() { e.deliver(g, j) })
}

// ended takes an exchange off the gate's books. Its worker may still be busy with the record.
func (e *Engine) ended(g *gate, j *job) {
	if j.ep.Destination == g.ep.Destination {
		g.running--
	} else {
		g.former--
	}
	if j.epoch == g.epoch && e.probing(g) {
		g.probes--
	}
	if g.running+g.former == 0 {
		delete(e.running, g)
	}
	e.slowOld = true
}

// hold adds a delivery to those ready to start.
func (e *Engine) hold(g *gate, j *job) {
	g.ready = append(g.ready, j)
	g.readyBytes += j.delivery.Size
	e.waiting++
	if !j.fresh {
		e.claimed++
	}
	e.turns.add(g)
}

// release takes a delivery off the count of those that wait.
func (e *Engine) release(j *job) {
	e.waiting--
	if !j.fresh {
		e.claimed--
	}
}

// giveBackReady gives back all deliveries that are held for an endpoint and have not started.
func (e *Engine) giveBackReady(g *gate) {
	if len(g.ready) == 0 {
		return
	}
	back := make([]kapsel.Delivery, 0, len(g.ready))
	jobs := g.ready
	for _, j := range jobs {
		j.delivery.DueAt = j.due
		back = append(back, j.delivery)
		if g.nextDue.IsZero() || j.due.Before(g.nextDue) {
			g.nextDue = j.due
		}
		e.release(j)
		if j.fresh {
			g.fresh--
			e.fresh--
		}
		e.Budget.Adjust(-int64(j.delivery.Size))
		j.event.Body = nil
	}
	g.ready, g.readyBytes = nil, 0
	e.giveBack(back)
	e.feed(g, e.Clock.Now())
}

// giveBack writes deliveries back as pending, in the background. The engine knows their tokens
// until that is done or has failed.
func (e *Engine) giveBack(back []kapsel.Delivery) {
	e.background(func() {
		err := e.insist(func(ctx context.Context) error { return e.Store.GiveBack(ctx, back) })
		if err != nil {
			e.Log.Warn("deliveries could not be given back; they return when the node's lease ends", "error", err, "deliveries", len(back))
		}
		e.mu.Lock()
		for _, d := range back {
			delete(e.held, d.Token)
		}
		e.mu.Unlock()
	})
}
