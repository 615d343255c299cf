// Package gate decides which of a node's deliveries may start: for each endpoint by its state, its
// circuit, its rate and concurrency and what its destination has earned; among endpoints by turns;
// and between slow and quick ones by their shares of the workers.
//
// A Keeper keeps a Gate for each endpoint in use. Its state is in memory only. It asks no clock and
// no store, and starts no goroutine: callers pass the time, and a Host does what the Keeper decides.
// Methods of Keeper must not be called at the same time.
package gate

import (
	"container/heap"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
)

// Time is a moment by two clocks: the store's, by which deliveries are due and circuits open, and
// the monotonic one of the process, by which rates, shares and shortages run.
type Time struct{ Store, Mono time.Time }

// Host does what a Keeper decides. A Keeper calls it within the calls of its own methods, so the
// Host must not call the Keeper back.
type Host interface {
	// MayStart reports whether exchanges may start at all: the node does not stop, and its lease is
	// certain.
	MayStart() bool
	// Start makes the exchange of a job, and calls End and then Recorded.
	Start(g *Gate, j *Job)
	// GiveBack writes jobs back to the store, unsent, each due at its Delivery.DueAt.
	GiveBack(jobs []*Job)
	// Wake has Collect called soon.
	Wake()
	// Share returns this node's share of an endpoint's concurrency, and its fraction, 0 to 1, of the
	// endpoint's rate.
	Share(ep *kapsel.Endpoint) (places int, rate float64)
	// Probe asks the store for the right to probe, which want claims, and calls Won.
	Probe(g *Gate, want kapsel.Circuit)
	// WriteCircuit writes the gate's moves until Moved returns false.
	WriteCircuit(g *Gate)
	// Tripped is called after an exchange that ended with code has moved the circuit.
	Tripped(g *Gate, code kapsel.Code)
	// Exhausted is called when all workers have become busy while deliveries wait.
	Exhausted()
}

// Keeper keeps the gates of one node.
type Keeper struct {
	host    Host
	most    int           // exchanges at once
	node    kapsel.NodeID // whose circuits' probes are this node's
	alone   bool          // no other node shares the endpoints' limits
	gates   map[kapsel.EndpointID]*Gate
	turns   turns  // gates with something ready, for the next free worker
	agenda  agenda // gates with work in the store, by when to look at them
	line    turns  // gates with due work in the store and capacity for it, in line for the node's capacity
	metered map[*Gate]struct{}
	slow    slow
	squeeze squeeze // what a shortage leaves to the node
	pace    pace    // of all exchanges

	busy      int       // workers in use
	waiting   int       // deliveries and permits held without a worker
	claimed   int       // of them, those that were claimed
	wanted    int       // deliveries being claimed
	permitted int       // in use or waiting, those that came by a permit
	exhausted bool      // all workers were busy at the last start
	forgot    time.Time // when gates were last looked through, by the monotonic clock
}

// New returns a Keeper without gates for a node that makes at most workers exchanges at once.
func New(host Host, workers int) *Keeper {
	return &Keeper{
		host: host, most: workers, alone: true, gates: map[kapsel.EndpointID]*Gate{}, metered: map[*Gate]struct{}{},
		slow: slow{running: map[*Gate]struct{}{}},
	}
}

// SetNode tells the Keeper the node's ID.
func (k *Keeper) SetNode(node kapsel.NodeID) { k.node = node }

// Gate returns the gate of an endpoint; nil if there is none.
func (k *Keeper) Gate(id kapsel.EndpointID) *Gate { return k.gates[id] }

// Use returns the gate of an endpoint that has work, and makes it if there is none. settings and
// circuit return the newest that are known; they are called only if the gate is made.
func (k *Keeper) Use(ep *kapsel.Endpoint, settings func(*kapsel.Endpoint) *kapsel.Endpoint, circuit func(kapsel.EndpointID) kapsel.Circuit, at Time) *Gate {
	g := k.gates[ep.ID]
	if g == nil {
		g = &Gate{id: ep.ID, earned: firstEarned, index: -1, stored: circuit(ep.ID)}
		k.gates[ep.ID] = g
		k.SetEndpoint(g, settings(ep), at)
	}
	g.used = at.Mono
	return g
}

// Every forgetEvery the Keeper drops gates that are of no use: those of deleted endpoints, and of
// endpoints without work for idleAfter. An idle destination must then earn its exchanges at once
// again.
const (
	forgetEvery = time.Minute
	idleAfter   = time.Hour
)

// Forget drops gates that are of no use, at most once every forgetEvery, and returns their
// endpoints.
func (k *Keeper) Forget(at Time) (dropped []kapsel.EndpointID) {
	if at.Mono.Sub(k.forgot) < forgetEvery {
		return nil
	}
	k.forgot = at.Mono
	for id, g := range k.gates {
		if g.idle(at) && !k.turns.has(g) && !k.line.has(g) {
			if g.index >= 0 {
				heap.Remove(&k.agenda, g.index)
			}
			delete(k.gates, id)
			delete(k.metered, g)
			dropped = append(dropped, id)
		}
	}
	return dropped
}

// SetEndpoint takes over an endpoint's settings unless the gate has newer ones.
func (k *Keeper) SetEndpoint(g *Gate, ep *kapsel.Endpoint, at Time) {
	if g.ep != nil && g.ep.Revision > ep.Revision {
		return
	}
	if g.ep != nil && g.ep.Destination != ep.Destination {
		// Exchanges with the former destination hold workers, but not the places of the new
		// one, which has earned nothing and is not to blame for how they end.
		g.former += g.running
		g.running, g.earned, g.unanswered = 0, firstEarned, false
		g.pace = pace{}
		g.lack = lack{}
		if len(g.ready) > 0 {
			k.turns.add(g)
		}
	}
	g.ep = ep
	k.divide(g, at)
	k.restate(g, at)
}

// Dispatch starts what may start, in turns, while workers are free.
func (k *Keeper) Dispatch(at Time) {
	if !k.host.MayStart() {
		return
	}
	for k.busy < k.Workers(at) {
		g := k.turns.next()
		if g == nil {
			k.exhausted = false
			return
		}
		if !k.mayStart(g, at) {
			continue
		}
		j := g.ready[0]
		g.ready[0] = nil
		g.ready = g.ready[1:]
		g.readyBytes -= j.Delivery.Size
		k.dequeue(j)
		k.start(g, j, at)
		if len(g.ready) > 0 {
			k.turns.add(g)
		}
		if g.ep.RateLimit != nil {
			k.refill(g, at) // a start frees capacity, because a rate limits the deliveries that wait to start
		}
	}
	if k.busy >= k.most && !k.exhausted && k.turns.any() {
		k.exhausted = true
		k.host.Exhausted()
	}
}

// mayStart reports whether the gate's first ready delivery may start now. If so, it has taken a
// token of the endpoint's rate. If not, it has the gate looked at again when that may have
// changed.
func (k *Keeper) mayStart(g *Gate, at Time) bool {
	places, used := k.places(g, at)
	switch {
	case !k.sends(g, at):
		k.giveBackReady(g, at)
		return false
	case len(g.ready) == 0: // they were given back meanwhile
		return false
	case used >= places:
		if used == 0 {
			k.giveBackReady(g, at) // other nodes have the endpoint's concurrency now
		}
		return false // the end of one of the gate's exchanges adds the gate again
	case g.slowNow(at) && k.slowFull(at):
		k.park(g)
		return false
	case !g.bucket.Take(at.Mono):
		k.lookAt(g, g.rated(at))
		return false
	}
	return true
}

// start has the host make an exchange.
func (k *Keeper) start(g *Gate, j *Job, at Time) {
	if g.slowNow(at) {
		k.slow.sum++
	}
	g.running++
	if k.probing(g) {
		g.probes++
	}
	g.unrecorded++
	g.lastStart = at.Store
	k.meter(g)
	g.share.started++
	g.share.most = max(g.share.most, g.running)
	k.slow.running[g] = struct{}{}
	k.busy++
	j.Endpoint, j.epoch = g.ep, g.epoch
	k.host.Start(g, j)
}

// Result is how an exchange ended.
type Result struct {
	Unsent     bool // nothing was sent, and no attempt is recorded
	Short      bool // … because this machine is short of something that connections need
	ShortPorts bool // … of ports
	Lost       bool // it is not known whether the request was answered
	Status     int  // 0: no answer
	Code       kapsel.Code
	RetryAfter time.Time // the destination asked for no request before; zero: it did not
}

// End takes an ended exchange off the gate's books and applies its result to the endpoint: to what
// the destination has earned, to the circuit, and to the time until which the destination wants no
// requests. An exchange with a former destination changes none of these. An exchange that was made
// ends a shortage for the endpoint. End returns when the delivery is due again if nothing was
// sent.
func (k *Keeper) End(g *Gate, j *Job, r Result, at Time) (due time.Time) {
	k.ended(g, j)
	if j.Permitted {
		g.permitted--
	}
	present := j.Endpoint.Destination == g.ep.Destination
	due = j.Due
	switch {
	case r.Short:
		due = k.short(g, r.ShortPorts, present, at)
	case !r.Unsent && present:
		g.lack = lack{}
	}
	verdict := breaker.Neutral
	if !r.Unsent && !r.Lost {
		verdict = breaker.Judge(r.Code, r.Status)
		if present {
			g.earn(r)
		}
	}
	if present && !r.Unsent {
		g.pace.tick(at, 1)
	}
	k.pace.tick(at, 1)
	if j.epoch == g.epoch { // then it was with the present destination, too
		k.judge(g, verdict, r.Code, at)
		if r.Unsent {
			k.yield(g, at)
		}
	}
	if present && r.Status == http.StatusTooManyRequests {
		k.quiet(g, r.RetryAfter, at)
	}
	k.unpark()
	if len(g.ready) > 0 {
		k.turns.add(g)
	}
	k.refill(g, at)
	k.Dispatch(at)
	return due
}

// ended takes an exchange off the gate's books. Its worker may still be busy with the record.
func (k *Keeper) ended(g *Gate, j *Job) {
	if j.Endpoint.Destination == g.ep.Destination {
		g.running--
	} else {
		g.former--
	}
	if j.epoch == g.epoch && k.probing(g) {
		g.probes--
	}
	if g.running+g.former == 0 {
		delete(k.slow.running, g)
	}
	k.slow.old = true
}

// Recorded frees the worker of an exchange whose outcome is recorded or given up.
func (k *Keeper) Recorded(g *Gate, j *Job, at Time) {
	k.busy--
	g.unrecorded--
	if j.Permitted {
		k.permitted--
	}
	k.refill(g, at)
	k.Dispatch(at)
}

// enqueue adds a delivery to those ready to start.
func (k *Keeper) enqueue(g *Gate, j *Job) {
	g.ready = append(g.ready, j)
	g.readyBytes += j.Delivery.Size
	k.waiting++
	if !j.Permitted {
		k.claimed++
	}
	k.turns.add(g)
}

// dequeue takes a delivery off the count of those that wait.
func (k *Keeper) dequeue(j *Job) {
	k.waiting--
	if !j.Permitted {
		k.claimed--
	}
}

// giveBackReady gives back all deliveries that are held for an endpoint and have not started.
func (k *Keeper) giveBackReady(g *Gate, at Time) {
	if len(g.ready) == 0 {
		return
	}
	for _, j := range g.ready {
		j.Delivery.DueAt = j.Due
		if g.nextDue.IsZero() || j.Due.Before(g.nextDue) {
			g.nextDue = j.Due
		}
		k.dequeue(j)
		if j.Permitted {
			g.permitted--
			k.permitted--
		}
		j.Release()
	}
	back := g.ready
	g.ready, g.readyBytes = nil, 0
	k.host.GiveBack(back)
	k.refill(g, at)
}

// GiveBackAll gives back all deliveries that are held and have not started.
func (k *Keeper) GiveBackAll(at Time) {
	for _, g := range k.gates {
		k.giveBackReady(g, at)
	}
}

// Busy returns how many workers are in use.
func (k *Keeper) Busy() int { return k.busy }

// free returns how many more deliveries the node may hold. Beyond those with a worker it may hold as
// many as it has workers, or as many as its exchanges that ended in a tenth of a second: an event to
// many endpoints brings many deliveries at once.
func (k *Keeper) free(at Time) int {
	workers := k.Workers(at)
	return workers + max(workers, k.pace.ahead(at, nodeAhead)) - k.waiting - k.busy - k.wanted
}

// older reports whether older work waits: claimed deliveries that have no worker, a claim under
// way, or due work in line for the node's capacity.
func (k *Keeper) older() bool { return k.claimed > 0 || k.wanted > 0 || k.line.any() }

// Standing is what may keep a delivery of an endpoint from starting.
type Standing struct {
	Circuit kapsel.Circuit
	Probing bool          // the circuit is half-open and this node probes
	Full    bool          // all of this node's places for the endpoint are in use
	Short   time.Duration // how long a shortage keeps deliveries back; 0: there is none
	Rated   time.Time     // when the rate lets the next exchange start, by the store's clock
}

// Standing returns what may keep a delivery of the gate's endpoint from starting.
func (k *Keeper) Standing(g *Gate, at Time) Standing {
	s := Standing{Circuit: g.circuit, Probing: k.probing(g), Full: k.full(g, at), Rated: g.rated(at)}
	if g.lack.applies(at) {
		s.Short = g.lack.wait
	}
	return s
}
