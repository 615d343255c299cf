package delivery

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
)

// win asks the store for the right to probe, which only one node gets. The deliveries for the
// probes are claimed like all others. If the write seems to fail but was done, this node learns
// from the settings that it probes.
func (e *Engine) win(g *gate.Gate, want kapsel.Circuit) {
	ctx, cancel := context.WithTimeout(e.cut, 10*time.Second)
	defer cancel()
	won, err := e.Store.SaveCircuit(ctx, want)
	if kapsel.CodeOf(err) == kapsel.Conflict { // another node was first
		won, err = e.readCircuit(ctx, g, want.Version)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.gates.Won(g, nil, e.now())
	} else {
		e.gates.Won(g, &won, e.now())
	}
}

// writeCircuit writes the gate's moves one after the other until none is left. If another node has
// changed the circuit first, writeCircuit applies the move to the circuit which that node wrote,
// if the move still applies to it.
func (e *Engine) writeCircuit(g *gate.Gate) {
	for more := true; more; {
		e.mu.Lock()
		move, c := e.gates.NextMove(g)
		e.mu.Unlock()
		err := e.insist(func(ctx context.Context) error {
			for {
				next, ok := move(c)
				if !ok {
					return nil
				}
				newer, err := e.Store.SaveCircuit(ctx, next)
				again := kapsel.CodeOf(err) == kapsel.Conflict
				if again {
					newer, err = e.readCircuit(ctx, g, next.Version)
				}
				if err != nil {
					return err // c keeps its value: newer was not read, and the move might not apply to it
				}
				if c = newer; !again {
					return nil
				}
			}
		})
		if err != nil {
			e.Log.Warn("a circuit's change could not be written", "error", err, "endpoint_id", g.ID().String())
		}
		e.mu.Lock()
		more = e.gates.Moved(g, c, e.now())
		e.mu.Unlock()
	}
}

// readCircuit reads the circuit again after a change of the given version was refused. If the
// stored version is older, the store has gone back, for instance by a fail-over to a standby that
// lagged. Then what the gate knows is no longer true, and readCircuit lets the older circuit
// replace it.
func (e *Engine) readCircuit(ctx context.Context, g *gate.Gate, version int64) (kapsel.Circuit, error) {
	c, err := e.Store.Circuit(ctx, g.ID())
	if err == nil && c.Version < version {
		e.mu.Lock()
		e.gates.Rewind(g)
		e.mu.Unlock()
	}
	return c, err
}
