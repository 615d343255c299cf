package delivery

import (
	"container/heap"
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Times and bounds of the claim loop.
const (
	// listEvery is how often the store is asked which endpoints have work.
	listEvery = time.Second
	// probeWait is how long a gate waits before it looks again while another node probes or this node
	// has no worker for a probe.
	probeWait = 500 * time.Millisecond
	// winWait is how long a gate waits after the node asked for the right to probe and did not get it.
	winWait = 100 * time.Millisecond
	// errorWait is how long the loop waits after the store failed.
	errorWait = 500 * time.Millisecond
	// claimBatch and claimBytes bound the deliveries of one claim and the bytes of their bodies.
	claimBatch = 512
	claimBytes = 4 << 20
	// cancelBatch bounds the deliveries that one step of cancelWaiting cancels.
	cancelBatch = 500
	// claimWait is how long a gate with little room waits for more before it claims.
	claimWait = 10 * time.Millisecond
)

// agenda is a heap of gates, ordered by the time of their next look. A gate outside of the agenda
// has no known work, or is in line for the node's room, or waits for something that puts the gate
// back: the end of an exchange, a change of settings, or the next list of the backlog.
type agenda []*gate

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].look.Before(a[j].look) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}
func (a *agenda) Push(x any) {
	g := x.(*gate)
	g.index = len(*a)
	*a = append(*a, g)
}
func (a *agenda) Pop() any {
	old := *a
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	g.index = -1
	return g
}

// lookAt has the claim loop look at a gate at t. If the gate is in the agenda for an earlier time,
// lookAt changes nothing. Callers must hold mu.
func (e *Engine) lookAt(g *gate, t time.Time) {
	switch {
	case g.index < 0:
		g.look = t
		heap.Push(&e.agenda, g)
	case t.Before(g.look):
		g.look = t
		heap.Fix(&e.agenda, g.index)
	default:
		return
	}
	if g.index == 0 {
		e.poke()
	}
}

// dueAt notes that a delivery of the gate waits in the store and is due at t. Callers must hold
// mu.
func (e *Engine) dueAt(g *gate, t time.Time) {
	g.notes++
	e.meter(g)
	if g.nextDue.IsZero() || t.Before(g.nextDue) {
		g.nextDue = t
	}
	if !g.starving && !e.line.has(g) {
		e.lookAt(g, t)
	}
}

// lookAgain makes the claim loop list the backlog at once. Callers must not hold mu.
func (e *Engine) lookAgain() {
	e.mu.Lock()
	e.listed = time.Time{}
	e.mu.Unlock()
	e.poke()
}

// claimLoop moves due deliveries from the store into the gates until ctx ends.
func (e *Engine) claimLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next, err := e.claimRound(ctx)
		if err != nil {
			if ctx.Err() == nil {
				e.Log.Warn("due deliveries cannot be read; trying again", "error", err)
			}
			next = e.Clock.Now().Add(errorWait)
			select {
			case <-ctx.Done():
			case <-time.After(errorWait):
			}
		}
		timer.Reset(max(0, next.Sub(e.Clock.Now())))
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-timer.C:
		}
	}
}

// claimRound lists the backlog if listEvery has passed, looks at the gates whose time has come,
// and claims deliveries for those with room. It returns the time of the next round, or an error if
// the store could not be read or did not confirm the claim.
func (e *Engine) claimRound(ctx context.Context) (next time.Time, err error) {
	now := e.Clock.Now()
	e.mu.Lock()
	list := time.Since(e.listed) >= listEvery
	e.mu.Unlock()
	if list {
		if err := e.listBacklog(ctx); err != nil {
			return next, err
		}
	}

	e.mu.Lock()
	next = now.Add(max(0, listEvery-time.Since(e.listed)))
	if e.stopping || !e.leased() { // the lease's renewal wakes the loop
		e.mu.Unlock()
		return next, nil
	}
	claims, wants := e.collect(now)
	node := e.node
	if len(e.agenda) > 0 && e.agenda[0].look.Before(next) {
		next = e.agenda[0].look
	}
	bytes := max(1, min(claimBytes, e.Budget.FreeForDeliveries()))
	fits := len(wants) > 0 && e.Budget.Delivery(bytes)
	if len(wants) > 0 && !fits {
		for _, c := range claims { // no memory for bodies: the end of an exchange frees some
			e.wanted -= c.limit
			c.gate.claiming -= c.limit
			e.line.add(c.gate)
		}
	}
	e.mu.Unlock()
	if !fits {
		return next, nil
	}

	// The claim runs under e.last, because the node would not know which deliveries it holds if a stop
	// canceled the claim.
	claimed, err := e.claim(e.last, node, now, wants, int(bytes))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Budget.Adjust(-bytes)
	for _, c := range claims {
		e.wanted -= c.limit
		c.gate.claiming -= c.limit
	}
	if err != nil {
		for _, c := range claims {
			e.lookAt(c.gate, now)
		}
		return next, err
	}
	got, size := map[*gate]int{}, 0
	for i := range claimed {
		c := &claimed[i]
		g := e.gates[c.Delivery.EndpointID]
		e.Budget.Adjust(int64(c.Delivery.Size))
		e.hold(g, &job{delivery: c.Delivery, event: c.Event, due: c.DueSince})
		got[g]++
		size += c.Delivery.Size
	}
	for _, c := range claims {
		g := c.gate
		switch {
		case !e.sends(g, now) || e.stopping || node != e.node: // another node ID: this node was declared dead meanwhile
			e.giveBackReady(g)
		case got[g] == c.limit || 2*size > int(bytes) || g.notes != c.notes:
			e.lookAt(g, now) // more deliveries may be due
			next = now
		default:
			// The rest is not due, or another node takes it. The next list of the backlog finds what is left.
			g.nextDue = time.Time{}
		}
	}
	e.dispatch()
	return next, nil
}

// claim claims due deliveries for a node. For reconcile it notes the millisecond of the claim
// while the claim runs, and then the token of each claimed delivery. If the store returns an
// error, claim also notes a doubt.
func (e *Engine) claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, bytes int) ([]store.Claimed, error) {
	ms := now.UnixMilli()
	e.mu.Lock()
	e.claims[ms]++
	e.mu.Unlock()
	claimed, err := e.Store.Claim(ctx, node, now, wants, bytes)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.claims[ms]--; e.claims[ms] == 0 {
		delete(e.claims, ms)
	}
	for i := range claimed {
		e.held[claimed[i].Delivery.Token] = struct{}{}
	}
	if err != nil {
		e.doubt(node) // the claim may have been written
	}
	return claimed, err
}

// claim says how many deliveries collect decided to claim for a gate.
type claim struct {
	gate  *gate
	limit int
	notes int // the gate's notes at that time
}

// listBacklog asks the store which endpoints have work and puts their gates into the agenda. It
// starts cancelWaiting for deleted endpoints that still have work.
func (e *Engine) listBacklog(ctx context.Context) error {
	now := e.Clock.Now()
	backlog, err := e.Store.Backlog(ctx)
	if err != nil {
		return err
	}
	var deleted []kapsel.EndpointID
	for _, w := range backlog {
		ep, err := e.Settings.AnyEndpoint(ctx, w.EndpointID)
		if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && !ep.DeletedAt.IsZero() {
			deleted = append(deleted, w.EndpointID)
			continue
		}
		if err != nil {
			return err
		}
		e.mu.Lock()
		g := e.gateOf(ep)
		e.dueAt(g, w.DueAt)
		if !w.DueAt.After(now) {
			g.share.backlog = time.Now()
		}
		e.mu.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listed = time.Now()
	if len(deleted) > 0 && !e.canceling {
		e.canceling = true
		e.background(func() { e.cancelWaiting(ctx, deleted) })
	}
	return nil
}

// cancelWaiting cancels the deliveries that wait for deleted endpoints, until none is left, the
// store fails or ctx ends. It may take long, so it runs beside the claim loop. The next list of
// the backlog names what cancelWaiting has left.
func (e *Engine) cancelWaiting(ctx context.Context, deleted []kapsel.EndpointID) {
	var err error
	for len(deleted) > 0 && err == nil && ctx.Err() == nil {
		var n int
		n, err = e.Store.CancelWaiting(ctx, deleted[0], e.Clock.Now(), cancelBatch)
		if n < cancelBatch {
			deleted = deleted[1:]
		}
	}
	if err != nil && ctx.Err() == nil {
		e.Log.Warn("what waits for a deleted endpoint could not be canceled; trying again", "error", err)
	}
	e.mu.Lock()
	e.canceling = false
	e.mu.Unlock()
}

// collect takes the gates whose time has come off the agenda, puts those with due work in line,
// and hands out the node's room to the gates in line, one delivery a turn. It returns what to
// claim. A gate whose work is due later, or whose circuit lets nothing start, goes back into the
// agenda. Callers must hold mu.
func (e *Engine) collect(now time.Time) (claims []claim, wants []store.Want) {
	for len(e.agenda) > 0 && !e.agenda[0].look.After(now) {
		g := heap.Pop(&e.agenda).(*gate)
		g.starving = false
		if len(g.ready) > 0 {
			e.turns.add(g) // the gate may have waited for its rate
		}
		switch {
		case g.nextDue.IsZero() || !g.admits():
		case g.nextDue.After(now):
			e.lookAt(g, g.nextDue)
		case !e.sends(g, now):
			e.lookAtCircuit(g, now)
		default:
			e.line.add(g)
		}
	}
	if e.roomy() {
		claims, wants = e.serve(min(e.free(), claimBatch), now)
	}
	e.dispatch()
	return claims, wants
}

// serve hands out room for up to left deliveries to the gates in line and returns what to claim.
// Callers must hold mu.
func (e *Engine) serve(left int, now time.Time) (claims []claim, wants []store.Want) {
	var served []*gate
	for left > 0 {
		g := e.line.next()
		if g == nil {
			break
		}
		room, of := e.room(g, now)
		switch {
		case g.want > 0 && room <= g.want: // the gate has all that it can take
		case g.nextDue.IsZero() || !g.admits(): // the gate changed while it was in line
		case !e.sends(g, now):
			e.lookAtCircuit(g, now)
		case of == 0: // no places: the next list of the backlog looks again
		case room <= 0:
			g.starving = true
		case g.slowNow(now) && e.slowFull(now):
			e.lookAt(g, now.Add(100*time.Millisecond))
		case g.rated(now).After(now):
			e.lookAt(g, g.rated(now))
		default:
			if g.want == 0 {
				served = append(served, g)
			}
			g.want++
			left--
			e.line.add(g)
		}
	}
	for _, g := range served {
		e.line.remove(g)
		claims = append(claims, claim{g, g.want, g.notes})
		wants = append(wants, store.Want{EndpointID: g.id, Limit: g.want})
		e.wanted += g.want
		g.claiming += g.want
		g.want = 0
	}
	return claims, wants
}

// lookAtCircuit decides when to look again at a gate whose circuit lets no exchange start. If this
// node may probe and has a worker for the probe, lookAtCircuit instead asks for the right to
// probe, in the background. Callers must hold mu.
func (e *Engine) lookAtCircuit(g *gate, now time.Time) {
	switch c := g.circuit; {
	case g.winning: // win looks again when it ends
	case c.State == kapsel.CircuitOpened && c.RetryAt.After(now):
		e.lookAt(g, c.RetryAt)
	case c.HoldUntil.After(now):
		e.lookAt(g, c.HoldUntil)
	default:
		want, ok := breaker.Probe(c, now, e.node)
		if !ok || e.busy >= e.workers() || g.slowNow(now) && e.slowFull(now) {
			e.lookAt(g, now.Add(probeWait)) // another node probes, or this node has no worker for a probe
			return
		}
		g.winning = true
		e.background(func() { e.win(g, want) })
	}
}

// win asks the store for the right to probe, which only one node gets. The deliveries for the
// probes are claimed like all others. If the write seems to fail but was done, this node learns
// from the settings that it probes.
func (e *Engine) win(g *gate, want kapsel.Circuit) {
	ctx, cancel := context.WithTimeout(e.cut, 10*time.Second)
	defer cancel()
	won, err := e.Store.SaveCircuit(ctx, want)
	if kapsel.CodeOf(err) == kapsel.Conflict { // another node was first
		won, err = e.readCircuit(ctx, g, want.Version)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.Clock.Now()
	g.winning = false
	if err == nil {
		e.setCircuit(g, won, now)
	}
	if !g.nextDue.IsZero() {
		e.lookAt(g, now.Add(winWait))
	}
	e.dispatch()
}
