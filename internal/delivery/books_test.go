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
	if n := len(e.held); n != 0 {
		off = append(off, fmt.Sprintf("held tokens are %d", n))
	}
	if n := e.Budget.Used(); n != 0 {
		off = append(off, fmt.Sprintf("bytes of bodies are %d", n))
	}
	return append(off, e.gates.Unbalanced(e.stopping)...)
}

// Earned is what the endpoint's destination has earned on this node.
func (e *Engine) Earned(name string) (earned, running int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates.Earned(name)
}

// Busy is how many workers are in use.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates.Busy()
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
	return e.gates.Len(), e.recipients.Len()
}
