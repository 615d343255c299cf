// Package delivery is the engine that brings events to their endpoints: claim → gate →
// send → record. The store says what is due; the engine decides what may start now, makes
// the exchange, and records its outcome.
//
// The engine promises at-least-once: every delivery in the store is attempted, on this node or on
// another, until the delivery is terminal. A crash loses no delivery: the store knows which
// deliveries the engine holds, and another node takes them over when the node's lease ends.
//
// Reading order: engine.go (life of a node), permit.go (ingest asks to send at once), claim.go (what
// waits in the store), package gate (what may start), host.go (what the gates decide is done),
// compose.go (an event as a request), exchange.go (the request is made), record.go (its outcome),
// circuit.go (circuits in the store), shares.go (what of the limits is this node's).
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
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
	recipients *settings.Prepared[*Recipient] // of the endpoints with gates

	wake    chan struct{} // the claim loop has something to do
	recount chan struct{} // another node may have joined

	mu        sync.Mutex // guards all that follows
	gates     *gate.Keeper
	node      kapsel.NodeID
	renewed   time.Time // when the last renewal that succeeded was sent, by the monotonic clock
	renewedAt time.Time // … and by the store's clock
	judging   bool      // a take-over is under way
	judgeFrom time.Time // when this node may judge leases again, by the monotonic clock
	shares    shares
	stopping  bool
	listed    time.Time                     // when the backlog was last listed, by the monotonic clock
	canceling bool                          // what waits for a deleted endpoint is being canceled
	held      map[kapsel.AttemptID]struct{} // claim tokens that this node knows it holds
	doubts    map[kapsel.NodeID]time.Time   // IDs of this node with unconfirmed writes, and until when reconcile looks for what they left
	looked    time.Time                     // when reconcile last looked at the node's own ID without a doubt
	claims    map[int64]int                 // claims under way, by the millisecond in which their tokens are made
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
		held:    map[kapsel.AttemptID]struct{}{},
		doubts:  map[kapsel.NodeID]time.Time{},
		claims:  map[int64]int{},
	}
	e.gates = gate.New(host{e}, cfg.Workers)
	e.cut, e.cutNow = context.WithCancel(context.Background())
	e.last, e.giveUp = context.WithCancel(context.Background())
	e.recipients = settings.NewPrepared[*Recipient](cfg.Settings)
	e.metrics = newMetrics(e)
	cfg.Settings.OnChange(e.settingsChanged)
	return e
}

// Join makes the node known to the store under a new ID. Callers must call Join once, before
// ingest asks for permits. It fails if the store cannot be written or read.
func (e *Engine) Join(ctx context.Context) error {
	now, asked := e.Clock.Now(), time.Now()
	node := kapsel.NewNodeID(now)
	if err := e.Store.Join(ctx, node, now, e.Lease); err != nil {
		return err
	}
	e.mu.Lock()
	e.node, e.renewed, e.renewedAt = node, asked, now
	e.gates.SetNode(node)
	e.mu.Unlock()
	e.Settings.Joined(node, e.Clock)
	return e.share(ctx)
}

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
	lease.Go(func() { e.leaseLoop(alive) })
	loops.Go(func() { e.claimLoop(ctx) })
	loops.Go(func() { e.takeOverLoop(ctx) })
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
	node := e.node
	e.looked = time.Time{}
	e.mu.Unlock()
	if err := errors.Join(e.reconcile(ctx), e.Store.Leave(ctx, node)); err != nil {
		e.Log.Warn("the node could not sign off; its lease will run out", "error", err)
	}
}

// leaveGrace is how long signing off may take.
const leaveGrace = time.Second

// recordGrace is how long the records of exchanges that were cut may take.
const recordGrace = time.Second

// leaseLoop renews the node's lease every fifth of it.
func (e *Engine) leaseLoop(ctx context.Context) {
	tick := time.NewTicker(e.Lease / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := e.renew(ctx); err != nil && ctx.Err() == nil {
			e.Log.Warn("the node's lease could not be renewed", "error", err)
		}
	}
}

// renew renews the node's lease, or has the node rejoin if it was declared dead.
// After a jump of the store's clock renew leaves the lease as it is while a take-over is under way.
// It fails if the store does.
func (e *Engine) renew(ctx context.Context) error {
	now, asked := e.Clock.Now(), time.Now()
	e.mu.Lock()
	node := e.node
	wait := false
	if jump := now.Sub(e.storeTime(asked)).Abs(); jump > e.Lease/5 {
		// A lease written by the store's clock before the jump is wrong by the clock after it, and the
		// other way round. All nodes notice the jump within clockSync and renew their leases.
		e.judgeFrom = asked.Add(clockSync + e.Lease)
		wait = e.judging
	}
	e.mu.Unlock()
	if wait {
		return nil // the lease leaves time for the next tick
	}
	ctx, cancel := context.WithTimeout(ctx, e.Lease/2)
	defer cancel()
	err := e.Store.Renew(ctx, node, now, e.Lease)
	switch {
	case kapsel.CodeOf(err) == kapsel.Conflict:
		return e.rejoin(ctx)
	case err != nil:
		return err
	}
	e.mu.Lock()
	e.renewed, e.renewedAt = asked, now
	alone := e.shares.Alone()
	e.mu.Unlock()
	if alone {
		err = e.share(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates.Dispatch(e.now())
	e.poke()
	return err
}

// rejoin starts again under a new ID after this node was declared dead. It gives back the unsent
// deliveries that no other node has taken over yet. Exchanges that still run will find their
// records refused. Nothing starts until the node has joined.
func (e *Engine) rejoin(ctx context.Context) error {
	e.Log.Error("the node was silent past its lease and declared dead; it starts again under a new id")
	e.mu.Lock()
	e.renewed = time.Time{}
	e.gates.GiveBackAll(e.now())
	e.mu.Unlock()
	return e.Join(ctx)
}

// leased reports whether the node's lease certainly holds: whether less than 70 % of the lease has
// passed since the last successful renewal was sent, by the monotonic clock. Callers must hold mu.
func (e *Engine) leased() bool { return time.Since(e.renewed) < e.Lease*7/10 }

// clockSync is the longest time between two readings of the store's clock, including the time for
// the answer.
const clockSync = 15 * time.Second

// storeTime returns the store's time at now, counted from the last renewal. By this time a lease
// that is certain has not ended. Callers must hold mu.
func (e *Engine) storeTime(now time.Time) time.Time { return e.renewedAt.Add(now.Sub(e.renewed)) }

// takeOverLoop takes over the deliveries of dead nodes, at once and then every fifth of the lease.
// It also drops gates that are of no use, and gives back deliveries that unconfirmed writes left under this
// node's ID.
func (e *Engine) takeOverLoop(ctx context.Context) {
	tick := time.NewTicker(e.Lease / 5)
	defer tick.Stop()
	for {
		// A node that was frozen must renew its own lease before it judges other leases. If this loop ran
		// before leaseLoop, the node could take over its own deliveries.
		e.mu.Lock()
		now := e.storeTime(time.Now())
		e.judging = e.leased() && time.Now().After(e.judgeFrom)
		may := e.judging
		for _, id := range e.gates.Forget(e.now()) {
			e.recipients.Drop(kapsel.OriginID(id))
		}
		e.mu.Unlock()
		moved, err := 0, error(nil)
		if may {
			moved, err = e.Store.TakeOver(ctx, now, takeOverBatch)
			e.mu.Lock()
			e.judging = false
			e.mu.Unlock()
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			e.Log.Warn("work of dead nodes could not be taken over", "error", err)
		case moved > 0:
			e.Log.Info("took over deliveries of a dead node; their outcomes are unknown", "deliveries", moved)
			e.lookAgain()
		}
		if err == nil {
			err = e.reconcile(ctx)
		}
		if moved == takeOverBatch && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const takeOverBatch = 500

// doubtFor is how long reconcile looks for what an unconfirmed write left. If the store was held
// up, a commit may become visible even later, so reconcile looks at the node's own ID every
// lookEvery, with or without a doubt.
const (
	doubtFor  = time.Minute
	lookEvery = 15 * time.Second
)

// doubt notes that a write under this node's ID was not confirmed: the store may hold deliveries
// for the node that nobody would send. Callers must hold mu.
func (e *Engine) doubt(node kapsel.NodeID) { e.doubts[node] = time.Now().Add(doubtFor) }

// reconcile gives back deliveries that this node holds according to the store but does not know. A
// permit's token is known from before its acceptance is written until after its record. A claim's
// tokens are known from the end of the claim, and until then by the millisecond of the claim. So a
// delivery that the store lists, and whose token is unknown after that, is nobody's. reconcile
// fails if the store does.
func (e *Engine) reconcile(ctx context.Context) error {
	e.mu.Lock()
	doubts := maps.Clone(e.doubts)
	if _, doubted := doubts[e.node]; !doubted && time.Since(e.looked) >= lookEvery {
		doubts[e.node] = time.Time{}
		e.looked = time.Now()
	}
	e.mu.Unlock()
	for node, until := range doubts {
		held, err := e.Store.Held(ctx, node)
		if err != nil {
			return err
		}
		now := e.Clock.Now()
		lost := held[:0]
		e.mu.Lock()
		for _, d := range held {
			if _, known := e.held[d.Token]; !known && e.claims[d.Token.Time().UnixMilli()] == 0 {
				d.DueAt = now
				lost = append(lost, d)
			}
		}
		e.mu.Unlock()
		if len(lost) > 0 {
			if err := e.Store.GiveBack(ctx, lost); err != nil {
				return err
			}
			e.lookAgain()
		}
		e.mu.Lock()
		if e.doubts[node].Equal(until) && time.Now().After(until) {
			delete(e.doubts, node)
		}
		e.mu.Unlock()
	}
	return nil
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

// now returns the time by both clocks.
func (e *Engine) now() gate.Time { return gate.Time{Store: e.Clock.Now(), Mono: time.Now()} }

// gateOf returns the gate of an endpoint that has work. Callers must hold mu: settingsChanged then
// tells the gate of all changes that the cache learns from here on.
func (e *Engine) gateOf(ep *kapsel.Endpoint, at gate.Time) *gate.Gate {
	return e.gates.Use(ep, e.Settings.Latest, e.Settings.Circuit, at)
}

// background runs f in a goroutine that a stop waits for.
func (e *Engine) background(f func()) {
	e.work.Add(1)
	go func() { defer e.work.Done(); f() }()
}

// insist repeats a write while the store is unavailable, until a stop can wait no longer. It
// returns any other error at once, such as a Conflict. If insist gives up, the node's lease runs
// out and another node finds what was held.
func (e *Engine) insist(write func(ctx context.Context) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		ctx, cancel := context.WithTimeout(e.last, 30*time.Second)
		err := write(ctx)
		cancel()
		if err == nil || !errors.Is(err, &kapsel.Error{Code: kapsel.DatabaseUnavailable}) {
			return err
		}
		select {
		case <-e.last.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// poke wakes the claim loop.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
