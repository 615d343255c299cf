package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	// replanEvery is the rhythm while some endpoint is marked, replanRarely otherwise: the change
	// of settings wakes the replanner, and only one that died in between is found so.
	replanEvery  = time.Second
	replanRarely = time.Minute
	// replanBatch bounds one step, so that it never holds up the hot path for long.
	replanBatch = 500
	// replansAtOnce is how many endpoints are rescheduled in one turn.
	replansAtOnce = 1000
	// replanAgain is when what waits is gone over once more: a node that had not read the change
	// yet may have recorded an attempt by the former policy. It is well above Refresh.
	replanAgain = 10 * time.Second
)

// ReplanStore is what a Replanner needs of the store.
type ReplanStore interface {
	store.Replans
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
}

// Replanner reschedules what waits for endpoints whose retry policy or destination has changed.
// Of all nodes one does it at a time, by a lease row. The mark of the change is in the store
// until all is done: after a crash, this node or another begins again, and what is rescheduled
// already stays as it is.
type Replanner struct {
	store ReplanStore
	clock *clock.Clock
	node  kapsel.NodeID
	log   *slog.Logger
	wake  chan struct{}
	begun map[kapsel.EndpointID]replanning // changes whose first pass this node has begun
}

// replanning is a change that is being followed.
type replanning struct {
	mark  int64
	since time.Time // when its first pass began, by the monotonic clock
	at    store.Due // how far the pass under way has come
	done  bool      // the first pass has ended
}

// NewReplanner makes a replanner for a node; Run does its work.
func NewReplanner(s ReplanStore, clock *clock.Clock, node kapsel.NodeID, log *slog.Logger) *Replanner {
	return &Replanner{store: s, clock: clock, node: node, log: log, wake: make(chan struct{}, 1)}
}

// Changed wakes the replanner when an endpoint is marked. It is told of every change of
// settings; see Cache.OnChange.
func (r *Replanner) Changed(s store.Settings) {
	if !slices.ContainsFunc(s.Endpoints, func(e kapsel.Endpoint) bool { return e.Replan != 0 }) {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (r *Replanner) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
		wait := replanRarely
		marked, err := r.turn(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("waiting deliveries could not be rescheduled after a change of their endpoint; trying again", "error", err)
		}
		if marked || err != nil {
			wait = replanEvery
		}
		timer.Reset(wait)
	}
}

// turn goes on with all marked endpoints, if this node leads the duty, and reports whether
// there are any. A turn that takes long ends where it is: the next one asks for the lease again
// and goes on.
func (r *Replanner) turn(ctx context.Context) (some bool, err error) {
	marked, err := r.store.Replanning(ctx, replansAtOnce)
	if err != nil || len(marked) == 0 {
		r.begun = nil
		return false, err
	}
	leads, err := r.store.Lead(ctx, "replans", r.node, r.clock.Now(), 5*replanEvery)
	if err != nil || !leads {
		r.begun = nil // another node begins anew
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*replanEvery)
	defer cancel()
	before := r.begun
	r.begun = make(map[kapsel.EndpointID]replanning, len(marked))
	var failed error
	for _, e := range marked {
		p := before[e.ID]
		if p.mark != e.Replan {
			p = replanning{mark: e.Replan, since: time.Now()}
		}
		if err := r.pass(ctx, e.ID, &p); err != nil && ctx.Err() == nil {
			failed = errors.Join(failed, fmt.Errorf("endpoint %s: %w", e.ID, err))
		}
		r.begun[e.ID] = p
	}
	return true, failed
}

// pass goes over what waits for an endpoint: at once, and again after replanAgain, when it takes
// the mark away.
func (r *Replanner) pass(ctx context.Context, id kapsel.EndpointID, p *replanning) error {
	last := time.Since(p.since) >= replanAgain
	if p.done && !last {
		return nil
	}
	for more := true; more; {
		var err error
		if p.at, more, err = r.store.Replan(ctx, id, r.clock.Now(), p.at, replanBatch); err != nil {
			return err
		}
		if ctx.Err() != nil && more {
			return ctx.Err() // the next turn goes on from here
		}
	}
	p.at = store.Due{}
	if !p.done || !last {
		p.done = true
		return nil
	}
	return r.store.Replanned(ctx, id, p.mark)
}
