package delivery

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// life is the engine as the host of its node.
type life struct{ e *Engine }

// Joined implements cluster.Host.
func (l life) Joined(id kapsel.NodeID) {
	e := l.e
	e.mu.Lock()
	e.gates.SetNode(id)
	e.mu.Unlock()
	e.Settings.Joined(id, e.Clock)
}

// Renewed implements cluster.Host: what could not start while the lease was not certain starts now.
// A node that has just joined, or is alone, looks for others to share its limits with.
func (l life) Renewed(ctx context.Context, joined bool) error {
	e := l.e
	var err error
	if joined || e.shares.Alone() {
		err = e.share(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates.Dispatch(e.now())
	e.poke()
	return err
}

// Lost implements cluster.Host.
func (l life) Lost() {
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates.GiveBackAll(e.now())
}

// TookOver implements cluster.Host. It also gives back what unconfirmed writes left under this
// node's ID, and drops gates that are of no use.
func (l life) TookOver(ctx context.Context, moved int) {
	e := l.e
	if moved > 0 {
		e.relist()
	}
	e.mu.Lock()
	for _, id := range e.gates.Forget(e.now()) {
		e.recipients.Drop(kapsel.OriginID(id))
	}
	e.mu.Unlock()
	e.reconcile(ctx) // after an error the next call tries again
}

// settingsChanged takes over changed settings. The cache calls it.
func (e *Engine) settingsChanged(s store.Settings) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.now()
	for _, c := range s.Circuits {
		if g := e.gates.Gate(c.EndpointID); g != nil {
			e.gates.SetCircuit(g, c, at)
		}
	}
	for i := range s.Endpoints {
		if g := e.gates.Gate(s.Endpoints[i].ID); g != nil {
			e.gates.SetEndpoint(g, &s.Endpoints[i], at)
		}
	}
	e.gates.Dispatch(at)
	e.poke()
	select { // the change may be a node that joined
	case e.recount <- struct{}{}:
	default:
	}
}
