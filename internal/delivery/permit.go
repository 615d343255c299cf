package delivery

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Permit allows ingest to store a new delivery as held by this node, to be sent as soon as
// it is committed. It ends with exactly one of HandOver and Return.
type Permit struct {
	Node  kapsel.NodeID
	Token kapsel.AttemptID // the claim token to store, and the id of the first attempt
	gate  *gate
	size  int
}

// Permits reserves the start of a delivery of an event, of this part and size in bytes, to each
// endpoint, and returns the permits in the order of the endpoints. A permit is nil where the
// delivery must wait in the store: the endpoint is not active, its circuit is not closed, or its
// rate, concurrency, the workers or body memory are used up. While older work waits, the
// endpoint's or any, the last quarter of what may be held is kept for it.
func (e *Engine) Permits(to []*kapsel.Endpoint, part uint8, size int) []*Permit {
	permits := make([]*Permit, len(to))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping || !e.leased() {
		return permits
	}
	now := e.Clock.Now()
	for i, ep := range to {
		permits[i] = e.permit(ep, part, size, now)
	}
	return permits
}

// permit is Permits for one endpoint; the caller holds mu.
func (e *Engine) permit(ep *kapsel.Endpoint, part uint8, size int, now time.Time) *Permit {
	g := e.gateOf(ep)
	room, of := e.room(g, now)
	switch {
	case !g.open(now),
		room <= 0 && e.refused(g),
		g.fresh >= of*3/4 && g.backlog(now),
		g.rated(now).After(now) && e.refused(g),
		e.free() <= 0,
		e.fresh >= max(1, e.workers()*3/4) && e.older(),
		!e.Budget.Delivery(int64(size)):
		return nil
	}
	p := &Permit{Node: e.node, Token: kapsel.NewAttemptID(now, part), gate: g, size: size}
	e.held[p.Token] = struct{}{}
	g.reserved++
	g.fresh++
	e.waiting++
	e.fresh++
	e.work.Add(1) // stopping waits for the acceptance to be confirmed or not
	return p
}

// Return gives an unused permit back. confirmed says that nothing is stored under it; if it
// is not known, the engine looks for what may be.
func (e *Engine) Return(p *Permit, confirmed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(p)
	p.gate.fresh--
	e.fresh--
	e.Budget.Adjust(-int64(p.size))
	delete(e.held, p.Token)
	if !confirmed {
		e.doubt(p.Node)
	}
	e.feed(p.gate, e.Clock.Now())
}

// end takes a permit off the books; the delivery that follows from it is counted anew.
func (e *Engine) end(p *Permit) {
	p.gate.reserved--
	e.waiting--
	e.work.Done()
}

// HandOver starts a delivery that was stored under a permit, in its turn. The event's body
// belongs to the engine until the exchange ends.
func (e *Engine) HandOver(p *Permit, d kapsel.Delivery, ev kapsel.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.end(p) // last: giving back must be counted before this is not
	j := &job{delivery: d, event: ev, due: ev.ReceivedAt, fresh: true}
	switch {
	case p.Node != e.node || e.stopping || !p.gate.open(e.Clock.Now()):
		// A node that was declared dead gives it back, too: it may not be taken over yet.
		e.hold(p.gate, j)
		e.giveBackReady(p.gate)
	default:
		e.hold(p.gate, j)
		e.dispatch()
	}
}

// Due tells the engine that a delivery in the store is due at once, so that it starts before
// the next list of the backlog. Callers made the delivery, or moved it.
func (e *Engine) Due(d kapsel.Delivery) {
	// The endpoint of a delivery that was just read or written is in the settings, or soon.
	ep, err := e.Settings.AnyEndpoint(e.cut, d.EndpointID)
	if err == nil && d.Status == kapsel.Pending {
		e.Waiting(ep, d.DueAt)
	}
}

// DueAnywhere is Due for deliveries that the caller cannot name.
func (e *Engine) DueAnywhere() { e.lookAgain() }

// Waiting tells the engine that a delivery was stored as pending, due at once.
func (e *Engine) Waiting(ep *kapsel.Endpoint, due time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dueAt(e.gateOf(ep), due)
}
