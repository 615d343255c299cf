package delivery

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
)

// Permit allows ingest to store a new delivery as held by this node, so that the engine sends the
// delivery as soon as it is committed. Callers must end a permit with exactly one call of HandOver
// or Return.
type Permit struct {
	Node  kapsel.NodeID
	Token kapsel.AttemptID // the claim token to store, which is also the ID of the first attempt
	gate  *gate.Gate
	body  *budget.Body
}

// Permits reserves the start of a delivery to each of the endpoints and returns one permit per
// endpoint, in the same order. part is the event's part, and size the bytes of its body, whose memory
// all permits share. A permit is nil if the delivery must wait in the store: the engine is stopping
// or its lease is not certain, there is no memory for the body, or the endpoint's gate does not admit
// the delivery; see gate.Keeper.Admits.
func (e *Engine) Permits(to []*kapsel.Endpoint, part uint8, size int) []*Permit {
	permits := make([]*Permit, len(to))
	e.mu.Lock()
	defer e.mu.Unlock()
	node, certain := e.node.Certain()
	if e.stopping || !certain {
		return permits
	}
	at := e.now()
	var body *budget.Body
	for i, ep := range to {
		g := e.gateOf(ep, at)
		if !e.gates.Admits(g, at) {
			continue
		}
		if body != nil {
			body.Share()
		} else if body = e.Budget.Body(size); body == nil {
			break
		}
		e.gates.Reserve(g, at)
		p := &Permit{Node: node, Token: kapsel.NewAttemptID(at.Store, part), gate: g, body: body}
		e.holds.add(p.Token)
		e.work.Add(1) // a stop waits until the acceptance is confirmed or has failed
		permits[i] = p
	}
	return permits
}

// Return gives back an unused permit. confirmed says that certainly no delivery is stored under
// the permit. If confirmed is false, the engine searches the store for the delivery and gives it
// back.
func (e *Engine) Return(p *Permit, confirmed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.work.Done()
	p.body.Release()
	e.holds.drop(p.Token)
	if !confirmed {
		e.holds.doubt(p.Node)
	}
	e.gates.Cancel(p.gate, e.now())
}

// HandOver takes over a delivery that was stored under a permit and starts it when its turn comes.
// The event's body belongs to the engine until the exchange ends.
func (e *Engine) HandOver(p *Permit, d kapsel.Delivery, ev kapsel.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.work.Done() // runs last: a give-back must be counted in e.work before
	// A node that was declared dead gives the delivery back as well, because no other node may have
	// taken it over yet.
	valid := p.Node == e.node.ID() && !e.stopping
	e.gates.Redeem(p.gate, &gate.Job{Delivery: d, Event: ev, Body: p.body, Due: ev.ReceivedAt, Permitted: true}, valid, e.now())
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
func (e *Engine) DueAnywhere() { e.relist() }

// Waiting tells the engine that a delivery to the endpoint was stored as pending and is due at the
// given time.
func (e *Engine) Waiting(ep *kapsel.Endpoint, due time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates.DueAt(e.gateOf(ep, e.now()), due)
}
