package delivery

import (
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
	circuit kapsel.Circuit
	epoch   int            // counts changes of the circuit's state: older exchanges do not count
	window  breaker.Window // of this node, while the circuit is closed
	bucket  ratelimit.Bucket
	probing bool // this node's probe is being claimed, sent or recorded

	earned     int // exchanges at once that the destination has earned
	running    int
	reserved   int    // permits whose acceptance is being committed
	ready      []*job // held, in the order in which they start
	readyBytes int

	nextDue time.Time // of the oldest delivery known to wait in the store; zero: none known
	notes   int       // counts the times that dueAt was told of one
	look    time.Time // when the claim loop looks at the gate; see agenda
	index   int       // in the agenda, -1 outside
	hungry  bool      // has due work in the store and no room for it: not in the agenda

	lastStart  time.Time // of the newest exchange
	unanswered bool      // the latest exchange ended without an answer
	slot       int64     // the tenth of a second that done counts
	done       int       // exchanges ended in slot …
	doneBefore int       // … and in the one before
}

// job is a delivery that this node holds.
type job struct {
	delivery kapsel.Delivery
	event    kapsel.Event
	due      time.Time // when it was due: where it goes back to
	fresh    bool      // came by a permit, not by a claim
	probe    bool      // carries the probe of a half-open circuit
	epoch    int       // of the gate when it started
}

func (e *Engine) newGate(ep *kapsel.Endpoint) *gate {
	g := &gate{id: ep.ID, earned: 2, index: -1, circuit: e.Settings.Circuit(ep.ID)}
	e.gates[ep.ID] = g
	e.setEndpoint(g, ep, e.Clock.Now())
	return g
}

// gateOf finds or makes the gate of an endpoint.
func (e *Engine) gateOf(ep *kapsel.Endpoint) *gate {
	if g := e.gates[ep.ID]; g != nil {
		return g
	}
	return e.newGate(ep)
}

// setEndpoint takes over changed settings.
func (e *Engine) setEndpoint(g *gate, ep *kapsel.Endpoint, now time.Time) {
	if g.ep != nil && g.ep.Revision > ep.Revision {
		return
	}
	g.ep = ep
	if r := ep.RateLimit; r != nil {
		g.bucket.Set(r.PerSecond/float64(max(1, e.nodes)), r.Burst, now)
	} else {
		g.bucket = ratelimit.Bucket{} // no limit
	}
	if !g.admits() {
		e.giveBackReady(g)
	} else if !g.nextDue.IsZero() {
		e.lookAt(g, now)
	}
}

// setCircuit takes over a newer circuit.
func (e *Engine) setCircuit(g *gate, c kapsel.Circuit, now time.Time) {
	if c.Version <= g.circuit.Version {
		return
	}
	if c.State != g.circuit.State {
		g.epoch++
		g.window.Reset()
	}
	g.circuit = c
	if !breaker.Allows(c, now) {
		e.giveBackReady(g)
	}
	if !g.nextDue.IsZero() {
		e.lookAt(g, now)
	}
}

// admits reports whether the endpoint's state lets deliveries start.
func (g *gate) admits() bool {
	return g.ep.DeletedAt.IsZero() && g.ep.State == kapsel.EndpointActive
}

// open reports whether ordinary exchanges may start: state and circuit allow it.
func (g *gate) open(now time.Time) bool { return g.admits() && breaker.Allows(g.circuit, now) }

// limit is how many exchanges this node may have running to the endpoint: what it earned,
// at most this node's share of its concurrency. Of a concurrency that the nodes do not
// divide evenly, each endpoint's rest goes to other nodes.
func (e *Engine) limit(g *gate) int {
	c, n := max(1, g.ep.Concurrency), max(1, e.nodes)
	share := c / n
	if (e.rank+int(g.ep.Part))%n < c%n {
		share++
	}
	return min(g.earned, share)
}

// slowNow reports whether the endpoint counts as slow: its latest exchange ended without an
// answer, or all that run are older than a second.
func (g *gate) slowNow(now time.Time) bool {
	return g.unanswered || g.running > 0 && now.Sub(g.lastStart) > slowAfter
}

// slowFull reports whether slow endpoints together hold their half of the workers. They are
// counted anew every 20 ms, because endpoints become slow by waiting.
func (e *Engine) slowFull(now time.Time) bool {
	if now.Sub(e.slowAt) > 20*time.Millisecond {
		e.slowSum, e.slowAt = 0, now
		for g := range e.running {
			if g.slowNow(now) {
				e.slowSum += g.running
			}
		}
	}
	return e.slowSum >= max(1, e.Workers/2)
}

// tick counts an ended exchange for ahead.
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

// ahead is how many deliveries may be held beyond those running: what the endpoint ended in
// the last tenth of a second.
func (g *gate) ahead(now time.Time) int {
	g.tick(now, 0)
	return min(max(g.done, g.doneBefore), aheadCount)
}

// room is how many more deliveries may be held for the endpoint, of how many in all.
func (e *Engine) room(g *gate, now time.Time) (n, of int) {
	of = e.limit(g) + g.ahead(now)
	if g.readyBytes >= aheadBytes {
		return 0, of
	}
	n = of - g.running - g.reserved - len(g.ready)
	if r := g.ep.RateLimit; r != nil {
		// No more than the rate lets start within a tenth of a second, so that little goes back.
		n = min(n, 1+int(r.PerSecond/10)-g.reserved-len(g.ready))
	}
	return n, of
}

// free is how many more deliveries the node may hold.
func (e *Engine) free() int { return 2*e.Workers - e.waiting - e.busy }

// starve keeps a gate with due work off the agenda until feed finds room for it.
func (e *Engine) starve(g *gate) {
	if !g.hungry {
		g.hungry = true
		e.behind++
	}
}

// feed puts gates with due work back into the agenda once there is room worth a claim: for
// the gate itself, and for those that found the node full.
func (e *Engine) feed(g *gate, now time.Time) {
	if n, of := e.room(g, now); g.hungry && n > 0 && 2*n >= of {
		e.look(g, now)
	}
	if free := e.free(); free > 0 && 4*free >= e.Workers {
		for range 32 {
			g := e.hungry.next()
			if g == nil {
				break
			}
			e.look(g, now)
		}
	}
}

// look puts a gate into the agenda for now, whether it starved or not.
func (e *Engine) look(g *gate, now time.Time) {
	if g.hungry {
		g.hungry = false
		e.behind--
	}
	e.lookAt(g, now)
}

// dispatch starts what may start, in turns, while workers are free. The caller holds mu.
func (e *Engine) dispatch() {
	if e.stopping || !e.leased() {
		return
	}
	now := e.Clock.Now()
	for e.busy < e.Workers {
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
		e.waiting--
		e.start(g, j, now)
		if len(g.ready) > 0 {
			e.turns.add(g)
		}
	}
	if !e.exhausted && e.turns.any() {
		e.exhausted = true
		e.metrics.exhausted.Inc()
		e.Log.Warn("all workers are busy; deliveries wait", "code", string(kapsel.WorkersExhausted), "workers", e.Workers)
	}
}

// mayStart reports whether the gate's first ready delivery may start now; if not, it also
// sees to it that the gate is looked at again when that may have changed.
func (e *Engine) mayStart(g *gate, now time.Time) bool {
	switch {
	case len(g.ready) == 0:
		return false
	case !g.open(now):
		e.giveBackReady(g)
		return false
	case g.running >= e.limit(g):
		return false // the end of one of its exchanges adds it again
	case g.slowNow(now) && e.slowFull(now):
		e.parked = append(e.parked, g)
		return false
	case !g.bucket.Take(now):
		e.lookAt(g, g.bucket.Next(now))
		return false
	}
	return true
}

// start gives a delivery a worker.
func (e *Engine) start(g *gate, j *job, now time.Time) {
	j.epoch = g.epoch
	if g.slowNow(now) {
		e.slowSum++
	}
	g.running++
	g.lastStart = now
	e.running[g] = struct{}{}
	e.busy++
	e.background(func() { e.deliver(g, j) })
}

// hold adds a delivery to those ready to start.
func (e *Engine) hold(g *gate, j *job) {
	g.ready = append(g.ready, j)
	g.readyBytes += j.delivery.Size
	e.waiting++
	e.turns.add(g)
}

// giveBackReady returns all that is held for an endpoint and has not started.
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
		e.waiting--
		if j.fresh {
			e.fresh--
		}
		e.Budget.Adjust(-int64(j.delivery.Size))
		j.event.Body = nil
	}
	g.ready, g.readyBytes = nil, 0
	e.giveBack(back)
}

// giveBack writes deliveries back as pending. Their tokens are known until it is done.
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

// drop forgets a ready delivery that is another node's now.
func (e *Engine) drop(g *gate, j *job) {
	e.waiting--
	if j.fresh {
		e.fresh--
	}
	e.Budget.Adjust(-int64(j.delivery.Size))
	delete(e.held, j.delivery.Token)
}
