package delivery

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
)

// host does what the gates decide. The gates call its methods while Engine.mu is held.
type host struct{ e *Engine }

// MayStart implements gate.Host.
func (h host) MayStart() bool {
	_, certain := h.e.node.Certain()
	return certain && !h.e.stopping
}

// Start implements gate.Host.
func (h host) Start(g *gate.Gate, j *gate.Job) { h.e.background(func() { h.e.deliver(g, j) }) }

// GiveBack implements gate.Host.
func (h host) GiveBack(jobs []*gate.Job) { h.e.giveBack(jobs) }

// Wake implements gate.Host.
func (h host) Wake() { h.e.poke() }

// Share implements gate.Host.
func (h host) Share(ep *kapsel.Endpoint) (places int, rate float64) { return h.e.shares.of(ep) }

// Probe implements gate.Host.
func (h host) Probe(g *gate.Gate, want kapsel.Circuit) { h.e.background(func() { h.e.win(g, want) }) }

// WriteCircuit implements gate.Host.
func (h host) WriteCircuit(g *gate.Gate) { h.e.background(func() { h.e.writeCircuit(g) }) }

// Tripped implements gate.Host: it logs the change of the circuit's state with the error code of the
// exchange that caused it.
func (h host) Tripped(g *gate.Gate, code kapsel.Code) {
	h.e.Log.Info("circuit "+string(g.Circuit().State), "endpoint_id", g.ID().String(), "tenant_id", g.Endpoint().TenantID.String(), "error_code", string(code))
}

// Exhausted implements gate.Host.
func (h host) Exhausted() {
	e := h.e
	e.metrics.exhausted.Inc()
	if time.Since(e.exhausted) > time.Minute {
		e.exhausted = time.Now()
		e.Log.Warn("all workers are busy; deliveries wait", "code", string(kapsel.WorkersExhausted), "workers", e.Workers)
	}
}
