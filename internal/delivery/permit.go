package delivery

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Permit allows ingest to store a new delivery as held by this node, so that the engine sends the
// delivery as soon as it is committed. Callers must end a permit with exactly one call of HandOver
// or Return.
type Permit struct {
	Node  kapsel.NodeID
	Token kapsel.AttemptID // the claim token to store, which is also the ID of the first attempt
	gate  *gate
	size  int
}

// Permits reserves the start of a delivery to each of the endpoints and returns one permit per
// endpoint, in the same order. part is the event's part, and size the bytes of its body. A permit
// is nil if the delivery must wait in the store: the engine is stopping or its lease is not
// certain, the endpoint is not active, its circuit does not let exchanges start, or its rate, its
// concurrency, the workers or the memory for bodies are used up. While older deliveries of the
// endpoint are due in the store, permits get at most three quarters of what may be held for the
// endpoint. While any older delivery waits for room or for a worker, permits get at most three
// quarters of the workers.
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

// permit is Permits for one endpoint. Callers must hold mu.
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
	e.work.Add(1) // a stop waits until the acceptance is confirmed or has failed
	return p
}

// Return gives back an unused permit. confirmed says that certainly no delivery is stored under
// the permit. If confirmed is false, the engine searches the store for the delivery and gives it
// back.
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

// end takes a permit off the books. A delivery that follows from the permit is counted separately.
func (e *Engine) end(p *Permit) {
	p.gate.reserved--
	e.waiting--
	e.work.Done()
}

// HandOver takes over a delivery that was stored under a permit and starts it when its turn comes.
// The event's body belongs to the engine until the exchange ends.
func (e *Engine) HandOver(p *Permit, d kapsel.Delivery, ev kapsel.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.end(p) // runs last: a give-back must be counted in e.work before the permit leaves it
	j := &job{delivery: d, event: ev, due: ev.ReceivedAt, fresh: true}
	switch {
	case p.Node != e.node || e.stopping || !p.gate.open(e.Clock.Now()):
		// A node that was declared dead gives the delivery back as well, because no other node may have
		// taken it over yet.
		e.hold(p.gate, j)
		e.giveBackReady(p.gate)
	default:
		e.hold(p.gate, j)
		e.dispatch()
	}
}

// Due tells the engine that the caller has made or moved a delivery, so that the delivery can
// start at d.DueAt, before the next list of the backlog. If d is not pending or its endpoint
// cannot be read, Due does nothing, and the next list finds the delivery.
func (e *Engine) Due(d kapsel.Delivery) {
	// The settings hold the endpoint of a delivery that was just read or written, or will soon.
	ep, err := e.Settings.AnyEndpoint(e.cut, d.EndpointID)
	if err == nil && d.Status == kapsel.Pending {
		e.Waiting(ep, d.DueAt)
	}
}

// DueAnywhere is Due for deliveries that the caller cannot name: it makes the engine list the
// backlog.
func (e *Engine) DueAnywhere() { e.lookAgain() }

// Waiting tells the engine that a delivery to the endpoint was stored as pending and is due at the
// given time.
func (e *Engine) Waiting(ep *kapsel.Endpoint, due time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dueAt(e.gateOf(ep), due)
}
