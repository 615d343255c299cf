package gate

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
)

// How long Collect waits before it looks at a gate again that lets nothing start.
const (
	// probeWait is the wait while another node probes or this node has no worker for a probe.
	probeWait = 500 * time.Millisecond
	// winWait is the wait after the node asked for the right to probe and did not get it.
	winWait = 100 * time.Millisecond
)

// Move returns a stored circuit as it is after a change. ok is false if the change does not apply to
// that circuit.
type Move func(stored kapsel.Circuit) (next kapsel.Circuit, ok bool)

// SetCircuit takes over a circuit from the store if it is newer than the one that the gate has.
func (k *Keeper) SetCircuit(g *Gate, c kapsel.Circuit, at Time) {
	if c.Version <= g.stored.Version {
		return
	}
	g.stored = c
	k.restate(g, at)
}

// Rewind lets the next circuit from the store replace the one that the gate has, whatever its
// version. Callers must call it when the store has gone back, for instance by a fail-over to a
// standby that lagged.
func (k *Keeper) Rewind(g *Gate) { g.stored.Version = -1 } // below every stored version; see SetCircuit

// restate computes g.circuit: the stored circuit with this node's moves applied, for the endpoint
// as it is now. If the state, the probing node or the destination has changed, the counts for the
// circuit start again, and exchanges that began earlier do not count.
func (k *Keeper) restate(g *Gate, at Time) {
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
	if !k.sends(g, at) {
		k.giveBackReady(g, at)
	}
	if !g.nextDue.IsZero() && g.admits() {
		k.lookAt(g, at.Store)
	}
}

// judge counts an exchange for the circuit and moves the circuit if the exchange decides the trial
// or trips the window. The exchange must have begun in the gate's present epoch. code is how it
// ended.
func (k *Keeper) judge(g *Gate, v breaker.Verdict, code kapsel.Code, at Time) {
	policy, node, now := g.ep.Circuit, k.node, at.Store
	switch {
	case policy.Disabled:
	case k.probing(g):
		finding := g.trial.Record(v, policy)
		if finding == breaker.Undecided {
			return
		}
		k.move(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Conclude(c, node, finding, now, policy) }, at)
		g.nextDue = now // the trial passed over the backlog: deliveries may be due
		k.lookAt(g, now)
		k.host.Tripped(g, code)
	case g.circuit.State == kapsel.CircuitClosed && g.window.Record(v, now, policy):
		k.move(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Trip(c, now, policy) }, at)
		k.host.Tripped(g, code)
	}
}

// yield gives back the right to probe after a probe that was not sent, unless the trial has begun: another node may
// be able to send what this one cannot.
func (k *Keeper) yield(g *Gate, at Time) {
	if k.probing(g) && g.probes == 0 && g.trial == (breaker.Trial{}) {
		node := k.node
		k.move(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Yield(c, node) }, at)
	}
}

// quiet holds the circuit until the time that the destination asked for with 429; zero: it named
// none.
func (k *Keeper) quiet(g *Gate, retryAfter time.Time, at Time) {
	now := at.Store
	until := breaker.Hold(g.circuit, retryAfter, now).HoldUntil
	if until.Sub(g.circuit.HoldUntil) > time.Second {
		k.move(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Hold(c, until, now) }, at)
	}
}

// move changes the endpoint's circuit on this node at once, and has the host write it. A change that
// returns a circuit unchanged does not apply to it.
func (k *Keeper) move(g *Gate, change func(kapsel.Circuit) kapsel.Circuit, at Time) {
	if change(g.circuit) == g.circuit {
		return
	}
	ep := g.ep
	g.moves = append(g.moves, func(stored kapsel.Circuit) (next kapsel.Circuit, ok bool) {
		if stored.Destination > ep.Destination {
			return stored, false // the stored circuit is of a later destination than this node knew
		}
		before := ep.CircuitNow(stored)
		next = change(before)
		return next, next != before
	})
	k.restate(g, at)
	if len(g.moves) == 1 {
		k.host.WriteCircuit(g)
	}
}

// NextMove returns the oldest move of the gate that is not written, and the stored circuit.
func (k *Keeper) NextMove(g *Gate) (Move, kapsel.Circuit) { return g.moves[0], g.stored }

// Moved tells the Keeper that the gate's oldest move is written or cannot be, and which circuit is
// stored now. It reports whether the gate has more moves.
func (k *Keeper) Moved(g *Gate, stored kapsel.Circuit, at Time) (more bool) {
	g.moves = g.moves[1:]
	more = len(g.moves) > 0
	if stored.Version > g.stored.Version {
		g.stored = stored
	}
	k.restate(g, at)
	k.Dispatch(at)
	return more
}

// lookAtCircuit decides when to look again at a gate whose circuit lets no exchange start. If this
// node may probe and has a worker for the probe, lookAtCircuit instead has the host ask for the
// right to probe.
func (k *Keeper) lookAtCircuit(g *Gate, at Time) {
	switch c := g.circuit; {
	case g.winning: // Won looks again
	case c.State == kapsel.CircuitOpened && c.RetryAt.After(at.Store):
		k.lookAt(g, c.RetryAt)
	case c.HoldUntil.After(at.Store):
		k.lookAt(g, c.HoldUntil)
	case g.lack.applies(at): // other nodes may probe
		k.lookAt(g, at.Store.Add(g.lack.until.Sub(at.Mono)+claimWait))
	default:
		want, ok := breaker.Probe(c, at.Store, k.node)
		if !ok || k.busy >= k.Workers(at) || g.slowNow(at) && k.slowFull(at) {
			k.lookAt(g, at.Store.Add(probeWait)) // another node probes, or this node has no worker for a probe
			return
		}
		g.winning = true
		k.host.Probe(g, want)
	}
}

// Won tells the Keeper that the host has asked for the right to probe, and which circuit is stored
// now; nil if it is not known.
func (k *Keeper) Won(g *Gate, stored *kapsel.Circuit, at Time) {
	g.winning = false
	if stored != nil {
		k.SetCircuit(g, *stored, at)
	}
	if !g.nextDue.IsZero() {
		k.lookAt(g, at.Store.Add(winWait))
	}
	k.Dispatch(at)
}
