package gate

import (
	"slices"

	"github.com/kapsel-hq/kapsel"
)

// turns is a line of gates. Tenants take turns in it, and so do the endpoints of each tenant.
// The zero value is an empty line.
type turns struct {
	in      map[*Gate]struct{}
	tenants map[kapsel.TenantID]*turn
	order   []*turn // tenants with a gate in the line, in the order of their turns
}

// turn holds one tenant's gates in the line.
type turn struct {
	tenant kapsel.TenantID
	gates  []*Gate
}

// add puts a gate behind the other gates of its tenant. If the gate is in the line already, add
// does nothing.
func (t *turns) add(g *Gate) {
	if _, ok := t.in[g]; ok {
		return
	}
	if t.in == nil {
		t.in, t.tenants = map[*Gate]struct{}{}, map[kapsel.TenantID]*turn{}
	}
	t.in[g] = struct{}{}
	own := t.tenants[g.ep.TenantID]
	if own == nil {
		own = &turn{tenant: g.ep.TenantID}
		t.tenants[g.ep.TenantID] = own
		t.order = append(t.order, own)
	}
	own.gates = append(own.gates, g)
}

// next removes the gate whose turn it is from the line and returns it. It returns nil if the
// line is empty.
func (t *turns) next() *Gate {
	if len(t.order) == 0 {
		return nil
	}
	first := t.order[0]
	t.order = t.order[1:]
	g := first.gates[0]
	first.gates = first.gates[1:]
	delete(t.in, g)
	if len(first.gates) > 0 {
		t.order = append(t.order, first)
	} else {
		delete(t.tenants, first.tenant)
	}
	return g
}

// has reports whether a gate is in the line; any reports whether the line holds a gate.
func (t *turns) has(g *Gate) bool { _, ok := t.in[g]; return ok }
func (t *turns) any() bool        { return len(t.order) > 0 }

// remove takes a gate out of the line. The search starts with the gates that were added last, so
// those are quick to remove.
func (t *turns) remove(g *Gate) {
	if !t.has(g) {
		return
	}
	delete(t.in, g)
	own := t.tenants[g.ep.TenantID]
	for i := len(own.gates) - 1; i >= 0; i-- {
		if own.gates[i] == g {
			own.gates = slices.Delete(own.gates, i, i+1)
			break
		}
	}
	if len(own.gates) == 0 {
		delete(t.tenants, own.tenant)
		t.order = slices.DeleteFunc(t.order, func(o *turn) bool { return o == own })
	}
}
