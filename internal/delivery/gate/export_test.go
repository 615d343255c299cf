package gate

import "fmt"

// Unbalanced returns the counts that are not 0. All are 0 when no exchange runs, no delivery is held
// and none is due. stopping says that the gates take no turns any more.
func (k *Keeper) Unbalanced(stopping bool) (off []string) {
	zero := func(name string, n int) {
		if n != 0 {
			off = append(off, fmt.Sprintf("%s is %d", name, n))
		}
	}
	zero("busy", k.busy)
	zero("waiting", k.waiting)
	zero("permitted", k.permitted)
	zero("claimed", k.claimed)
	zero("wanted", k.wanted)
	zero("running gates", len(k.slow.running))
	if !stopping {
		zero("gates in turns", len(k.turns.in))
	}
	zero("gates in line for capacity", len(k.line.in))
	zero("parked gates", len(k.slow.parked))
	for _, g := range k.gates {
		name := "gate " + g.ep.Name + ": "
		zero(name+"running", g.running)
		zero(name+"reserved", g.reserved)
		zero(name+"permitted", g.permitted)
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
		if g.index >= 0 && (g.index >= len(k.agenda) || k.agenda[g.index] != g) {
			off = append(off, name+"is not where the agenda has it")
		}
	}
	return off
}
