package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Times and bounds of the claim loop.
const (
	// listEvery is how often the store is asked which endpoints have work.
	listEvery = time.Second
	// errorWait is how long the loop waits after the store failed.
	errorWait = 500 * time.Millisecond
	// claimBytes bounds the bytes of the bodies of one claim.
	claimBytes = 4 << 20
	// cancelBatch bounds the deliveries that one step of cancelWaiting cancels.
	cancelBatch = 500
)

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
// and claims deliveries for those with free capacity. It returns the time of the next round, or an error if
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
	at := gate.Time{Store: now, Mono: time.Now()}
	next = now.Add(max(0, listEvery-at.Mono.Sub(e.listed)))
	node, certain := e.node.Certain()
	if e.stopping || !certain { // the lease's renewal wakes the loop
		e.mu.Unlock()
		return next, nil
	}
	claims := e.gates.Collect(at)
	if look := e.gates.NextLook(); !look.IsZero() && look.Before(next) {
		next = look
	}
	if len(claims) == 0 {
		e.mu.Unlock()
		return next, nil
	}
	apart := e.apart > 0
	if apart {
		e.gates.Unclaimed(claims[1:])
		claims = claims[:1]
	}
	bytes, done, ok := e.Budget.Bodies(claimBytes)
	if !ok {
		e.gates.Unclaimed(claims)
		e.mu.Unlock()
		return next, nil
	}
	if apart {
		e.apart--
	}
	e.mu.Unlock()

	// The claim runs under e.last, because the node would not know which deliveries it holds if a stop
	// canceled the claim.
	claimed, cut, err := e.claim(e.last, node, now, claims, int(bytes))
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
	case store.Passes(err):
		done()
		e.gates.Failed(claims, at, 0)
		return next, err
	case len(claims) > 1:
		done()
		e.apart = len(claims) // it may be the deliveries of one endpoint that cannot be read
		e.gates.Failed(claims, at, 0)
		return next, err
	default:
		done()
		e.gates.Failed(claims, at, store.UnreadWait)
		e.Log.Error("what is due for an endpoint cannot be read; it waits, and others go on", "error", err,
			"endpoint_id", claims[0].Gate.ID().String(), "wait", store.UnreadWait.String())
		return now, nil
	}
	jobs := e.jobs(claimed)
	done()
	reached := slices.IndexFunc(claims, func(c gate.Claim) bool { return c.Gate.ID() == cut })
	if reached < 0 {
		reached = len(claims)
	}
	valid := !e.stopping && node == e.node.ID() // another node ID: this node was declared dead meanwhile
	if e.gates.Claimed(claims, jobs, reached, valid, gate.Time{Store: now, Mono: time.Now()}) || apart {
		next = now
	}
	return next, nil
}

// jobs returns claimed deliveries as jobs. Deliveries of one event share its body.
func (e *Engine) jobs(claimed []store.Claimed) (jobs []*gate.Job) {
	bodies := map[kapsel.EventID]*gate.Job{} // the first job of each event
	for i := range claimed {
		c := &claimed[i]
		j := &gate.Job{Delivery: c.Delivery, Event: c.Event, Due: c.DueSince}
		if first := bodies[c.Event.ID]; first != nil {
			j.Event.Body, j.Body = first.Event.Body, first.Body.Share()
		} else {
			j.Body = e.Budget.Have(c.Delivery.Size)
			bodies[c.Event.ID] = j
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// claim claims due deliveries for a node. For reconcile it notes the millisecond of the claim
// while the claim runs, and then the token of each claimed delivery. If the store returns an
// error, claim also notes a doubt.
func (e *Engine) claim(ctx context.Context, node kapsel.NodeID, now time.Time, claims []gate.Claim, bytes int) (claimed []store.Claimed, cut kapsel.EndpointID, err error) {
	wants := make([]store.Want, len(claims))
	for i, c := range claims {
		wants[i] = store.Want{EndpointID: c.Gate.ID(), Limit: c.Limit}
	}
	e.mu.Lock()
	e.holds.claiming(now)
	e.mu.Unlock()
	claimed, cut, err = e.Store.Claim(ctx, node, now, wants, bytes)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range claimed {
		e.holds.add(claimed[i].Delivery.Token)
	}
	e.holds.claimed(now)
	if err != nil {
		e.holds.doubt(node) // the claim may have been written
	}
	return claimed, cut, err
}

// listBacklog asks the store which endpoints have work and puts their gates into the agenda. It
// starts cancelWaiting for deleted endpoints that still have work.
func (e *Engine) listBacklog(ctx context.Context) error {
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
		at := e.now()
		e.gates.Backlog(e.gateOf(ep, at), w.DueAt, at)
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
