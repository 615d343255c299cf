// Package delivery is the engine that brings events to their endpoints: claim → gate →
// send → record. The store says what is due; the engine decides what may start now, makes
// the exchange, and records its outcome.
//
// The engine promises at-least-once: every delivery in the store is attempted, on this node or on
// another, until the delivery is terminal. A crash loses no delivery: the store knows which
// deliveries the engine holds, and another node takes them over when the node's lease ends.
//
// Reading order: engine.go (start and stop), life.go (what the node's lease and changed settings do
// to it), permit.go (ingest asks to send at once), claim.go (what waits in the store), package gate
// (what may start), host.go (what the gates decide is done), exchange.go (one attempt, and the request
// it makes), recipient.go (to whom), compose.go (an event as a request), record.go (its outcome),
// circuit.go (circuits in the store), shares.go (what of the limits is this node's), holdings.go (what
// the node holds by its own account), work.go (what all of these use). Package cluster keeps the
// node's lease.
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/cluster"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Store holds the methods of the store that the engine uses.
type Store interface {
	store.Queue
	CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (int, error)
}

// Config holds the engine's parts and settings. All fields but Recorded are needed.
type Config struct {
	Store     Store
	Settings  *settings.Cache
	Clock     *clock.Clock
	Vault     *secret.Vault
	Transport http.RoundTripper // made by package egress
	Budget    *budget.Budget
	Workers   int           // exchanges in flight at once
	Lease     time.Duration // how long a silent node keeps its work
	Version   string        // for User-Agent
	Instance  kapsel.InstanceID
	Log       *slog.Logger
	// Recorded is called after each recorded attempt, with the attempt and the delivery as it is after
	// the attempt. It serves development. It must not block.
	Recorded func(a *kapsel.Attempt, d *kapsel.Delivery)
}

// Engine runs deliveries on one node.
type Engine struct {
	Config
	metrics    *metrics
	node       *cluster.Node
	recipients *settings.Prepared[*Recipient] // of the endpoints with gates

	wake    chan struct{} // the claim loop has something to do
	recount chan struct{} // another node may have joined

	mu        sync.Mutex // guards all that follows
	gates     *gate.Keeper
	shares    shares
	stopping  bool
	listed    time.Time // when the backlog was last listed, by the monotonic clock
	apart     int       // how many claims more are made for one endpoint each; see claimRound
	canceling bool      // what waits for a deleted endpoint is being canceled
	holds     holdings
	short     shortage
	exhausted time.Time // when it was last logged that all workers are busy

	work   sync.WaitGroup // exchanges, records, give-backs and circuit writes under way
	cut    context.Context
	cutNow context.CancelFunc // ends running exchanges
	last   context.Context
	giveUp context.CancelFunc // ends writes to the store that stopping can wait for no longer
}

// New returns an engine that does nothing until Join and Run are called.
func New(cfg Config) *Engine {
	e := &Engine{
		Config:  cfg,
		wake:    make(chan struct{}, 1),
		recount: make(chan struct{}, 1),
		holds:   newHoldings(),
	}
	e.node = cluster.NewNode(cluster.NodeConfig{Store: cfg.Store, Now: cfg.Clock.Now, Lease: cfg.Lease, Host: life{e}, Log: cfg.Log})
	e.gates = gate.New(host{e}, cfg.Workers)
	e.cut, e.cutNow = context.WithCancel(context.Background())
	e.last, e.giveUp = context.WithCancel(context.Background())
	e.recipients = settings.NewPrepared[*Recipient](cfg.Settings)
	e.metrics = newMetrics(e)
	cfg.Settings.OnChange(e.settingsChanged)
	return e
}

// Join makes the node known to the store under a new ID. Callers must call Join, again if it fails, before
// Run and before ingest asks for permits. It fails if the store cannot be written or read.
func (e *Engine) Join(ctx context.Context) error { return e.node.Join(ctx) }

// Run works until ctx ends, and then stops: nothing starts any more, deliveries that are held
// unsent go back to the store, and running exchanges may go on for grace. Run then cuts them; they
// are recorded as OutcomeUnknown. Run returns when everything is recorded, at the latest 3 s after
// grace, even if calls of the store do not return. Another node then takes over what those calls
// held.
func (e *Engine) Run(ctx context.Context, grace time.Duration) {
	// The lease is kept alive while exchanges run, so that nobody takes them over.
	alive, died := context.WithCancel(context.WithoutCancel(ctx))
	defer died()
	var lease, loops sync.WaitGroup
	lease.Go(func() { e.node.KeepAlive(alive) })
	loops.Go(func() { e.claimLoop(ctx) })
	loops.Go(func() { e.node.TakeOver(ctx) })
	loops.Go(func() { e.shareLoop(ctx) })
	<-ctx.Done()

	end := time.NewTimer(grace)
	defer end.Stop()
	e.mu.Lock()
	e.stopping = true
	e.gates.GiveBackAll(e.now())
	e.mu.Unlock()

	idle := make(chan struct{})
	go func() { loops.Wait(); e.work.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-end.C:
		e.cutNow()
		late := time.AfterFunc(recordGrace, e.giveUp)
		select {
		case <-idle:
		case <-time.After(recordGrace + time.Second): // the store does not even refuse
		}
		late.Stop()
	}
	e.cutNow()
	e.giveUp()
	died()
	left := make(chan struct{})
	go func() { lease.Wait(); e.leave(context.WithoutCancel(ctx)); close(left) }()
	select {
	case <-left:
	case <-time.After(leaveGrace):
	}
}

// leave gives back deliveries that unconfirmed writes have left under the node's ID, so that no
// other node takes them over as if they had been sent. It then ends the lease.
func (e *Engine) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveGrace)
	defer cancel()
	e.mu.Lock()
	e.holds.checked = time.Time{}
	e.mu.Unlock()
	if err := errors.Join(e.reconcile(ctx), e.node.Leave(ctx)); err != nil {
		e.Log.Warn("the node could not sign off; its lease will run out", "error", err)
	}
}

// leaveGrace is how long signing off may take.
const leaveGrace = time.Second

// recordGrace is how long the records of exchanges that were cut may take.
const recordGrace = time.Second
