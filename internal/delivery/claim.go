package delivery

import (
	"container/heap"
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// The claim loop's rhythm.
const (
	// listEvery is how often the store is asked which endpoints have work.
	listEvery = time.Second
	// probeWait is how long a gate waits for another node's probes before it looks again.
	probeWait = 500 * time.Millisecond
	// winWait is how long it waits when asking for the right to probe has failed.
	winWait = 100 * time.Millisecond
	// errorWait is how long the loop waits after trouble of the store.
	errorWait = 500 * time.Millisecond
	// claimBatch and claimBytes bound one claim.
	claimBatch = 512
	claimBytes = 4 << 20
	// cancelBatch bounds one step of canceling what waits for a deleted endpoint.
	cancelBatch = 500
	// claimWait is how long a gate with little room waits for more before it claims.
	claimWait = 10 * time.Millisecond
)

// agenda is a heap of gates by the time of their next look. A gate that is not in it has no
// known work, or is in line for the node's room, or waits for something that will put it
// back: an exchange's end, a change of settings, or the next list of the backlog.
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

// lookAt puts a gate into the agenda, or moves it there to an earlier time.
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

// dueAt notes that a delivery of the gate waits in the store from a time on.
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

// lookAgain makes the claim loop list the backlog at its next turn.
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

// claimRound lists the backlog if it is time to, looks at the gates whose time has come,
// and claims for those with room. It returns when it wants to run again.
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
	if e.stopping || !e.leased() { // the renewal wakes the loop
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
		for _, c := range claims { // body memory: the end of an exchange frees some
			e.wanted -= c.limit
			c.gate.claiming -= c.limit
			e.line.add(c.gate)
		}
	}
	e.mu.Unlock()
	if !fits {
		return next, nil
	}

	// A claim that has begun is waited for, or a stop would not know what it holds.
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
		case !e.sends(g, now) || e.stopping || node != e.node: // node: declared dead meanwhile
			e.giveBackReady(g)
		case got[g] == c.limit || 2*size > int(bytes) || g.notes != c.notes:
			e.lookAt(g, now) // there may be more
			next = now
		default:
			// The rest is not due, or another node takes it: the next list tells.
			g.nextDue = time.Time{}
		}
	}
	e.dispatch()
	return next, nil
}

// claim takes due deliveries for a node; see reconcile for what is noted of them.
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
		e.doubt(node) // it may have been written
	}
	return claimed, err
}

// claim is what collect decided to claim for a gate.
type claim struct {
	gate  *gate
	limit int
	notes int // of the gate, when it was decided
}

// listBacklog asks the store which endpoints have work and puts them into the agenda.
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

// cancelWaiting cancels what waits for deleted endpoints, until ctx ends. It may take long, so
// that the claim loop does not wait for it. What it leaves is in the next list of the backlog.
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

// collect takes the gates whose time has come off the agenda, puts those with due work in
// line, and hands out the node's room to the line, one delivery a turn. It returns what to
// claim. Those that cannot claim now go back for when they can. The caller holds mu.
func (e *Engine) collect(now time.Time) (claims []claim, wants []store.Want) {
	for len(e.agenda) > 0 && !e.agenda[0].look.After(now) {
		g := heap.Pop(&e.agenda).(*gate)
		g.starving = false
		if len(g.ready) > 0 {
			e.turns.add(g) // it may have waited for the rate
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

// serve hands out room for so many deliveries to the gates in line.
func (e *Engine) serve(left int, now time.Time) (claims []claim, wants []store.Want) {
	var served []*gate
	for left > 0 {
		g := e.line.next()
		if g == nil {
			break
		}
		room, of := e.room(g, now)
		switch {
		case g.want > 0 && room <= g.want: // has all that it can take
		case g.nextDue.IsZero() || !g.admits(): // changed in line
		case !e.sends(g, now):
			e.lookAtCircuit(g, now)
		case of == 0: // the next list of the backlog tells, if nodes go
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

// lookAtCircuit decides when to look again at a gate whose circuit does not let exchanges
// start. If it may probe, and a worker is free for it, the node asks for the right to.
func (e *Engine) lookAtCircuit(g *gate, now time.Time) {
	switch c := g.circuit; {
	case g.winning: // its end looks again
	case c.State == kapsel.CircuitOpened && c.RetryAt.After(now):
		e.lookAt(g, c.RetryAt)
	case c.HoldUntil.After(now):
		e.lookAt(g, c.HoldUntil)
	default:
		want, ok := breaker.Probe(c, now, e.node)
		if !ok || e.busy >= e.workers() || g.slowNow(now) && e.slowFull(now) {
			e.lookAt(g, now.Add(probeWait)) // another node probes, or this one has no worker for it
			return
		}
		g.winning = true
		e.background(func() { e.win(g, want) })
	}
}

// win asks for the right to probe, which one of all nodes gets. Deliveries are claimed for the
// probes as for every exchange. When the write seems to fail although it was done, the
// settings tell this node that it probes.
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
