package delivery

import (
	"fmt"

	"github.com/kapsel-hq/kapsel"
)

// Books returns the counts of the engine that are not 0. All are 0 when no exchange runs, no delivery is held
// and none is due.
func (e *Engine) Books() (off []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.holds.tokens); n != 0 {
		off = append(off, fmt.Sprintf("held tokens are %d", n))
	}
	if n := e.Budget.Used(); n != 0 {
		off = append(off, fmt.Sprintf("bytes of bodies are %d", n))
	}
	return append(off, e.gates.Unbalanced(e.stopping)...)
}

// Earned returns how many exchanges at once the endpoint's destination has earned, and how many run.
func (e *Engine) Earned(name string) (earned, running int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates.Earned(name)
}

// Busy returns how many workers are in use.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates.Busy()
}

// Leased reports whether the node's lease is certain.
func (e *Engine) Leased() bool {
	_, certain := e.node.Certain()
	return certain
}

// Node returns the node's present ID.
func (e *Engine) Node() kapsel.NodeID { return e.node.ID() }

// Kept counts the gates and recipients in memory.
func (e *Engine) Kept() (gates, recipients int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.gates.Gates()), e.recipients.Len()
}
