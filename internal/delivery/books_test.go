package delivery

import (
	"fmt"

	"github.com/kapsel-hq/kapsel"
)

// Books are the engine's books that are not balanced. When no exchange runs, no delivery is
// held and none is due, there are none.
func (e *Engine) Books() (off []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	zero := func(name string, n int) {
		if n != 0 {
			off = append(off, fmt.Sprintf("%s is %d", name, n))
		}
	}
	zero("busy", e.busy)
	zero("waiting", e.waiting)
	zero("fresh", e.fresh)
	zero("claimed", e.claimed)
	zero("wanted", e.wanted)
	zero("held tokens", len(e.held))
	zero("running gates", len(e.running))
	if !e.stopping { // then nobody takes turns any more
		zero("gates in turns", len(e.turns.in))
	}
	zero("gates in line for room", len(e.line.in))
	zero("bytes of bodies", int(e.Budget.Used()))
	zero("parked gates", len(e.parked))
	for _, g := range e.gates {
		name := "gate " + g.ep.Name + ": "
		zero(name+"running", g.running)
		zero(name+"reserved", g.reserved)
		zero(name+"fresh", g.fresh)
		zero(name+"unrecorded", g.unrecorded)
		zero(name+"claiming", g.claiming)
		zero(name+"ready", len(g.ready))
		zero(name+"ready bytes", g.readyBytes)
		zero(name+"probes", g.probes)
		zero(name+"former", g.former)
		zero(name+"moves", len(g.moves))
		if g.winning {
			off = append(off, name+"asks for the right to probe")
		}
		if g.starving {
			off = append(off, name+"is starving")
		}
		if g.index >= 0 && (g.index >= len(e.agenda) || e.agenda[g.index] != g) {
			off = append(off, name+"is not where the agenda has it")
		}
	}
	return off
}

// Earned is what the endpoint's destination has earned on this node.
func (e *Engine) Earned(name string) (earned, running int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range e.gates {
		if g.ep.Name == name {
			return g.earned, g.running
		}
	}
	return 0, 0
}

// Busy is how many workers are in use.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.busy
}

// Leased reports whether the node's lease is certain.
func (e *Engine) Leased() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leased()
}

// Node is the node's id at the moment.
func (e *Engine) Node() kapsel.NodeID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.node
}

// Kept counts the gates and recipients in memory.
func (e *Engine) Kept() (gates, recipients int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.gates), e.recipients.Len()
}
