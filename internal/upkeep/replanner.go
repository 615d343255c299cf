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
	// replanEvery is the time between turns while an endpoint is marked, and replanRarely otherwise. A
	// change of settings wakes the replanner; the rare turns find the work of a replanner that died.
	replanEvery  = time.Second
	replanRarely = time.Minute
	// replanBatch bounds the deliveries of one step, so that a step never holds up the hot path for
	// long.
	replanBatch = 500
	// replansAtOnce is how many endpoints are rescheduled in one turn.
	replansAtOnce = 1000
	// replanAgain is the time from the first pass over an endpoint's waiting deliveries to the second:
	// a node that had not read the change yet may have recorded an attempt by the former policy.
	// replanAgain is well above settings.Refresh.
	replanAgain = 10 * time.Second
)

// ReplanStore holds the methods of the store that a Replanner uses.
type ReplanStore interface {
	store.Replans
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
}

// Replanner reschedules the deliveries that wait for endpoints whose retry policy or destination has
// changed. A lease row makes sure that one node does it at a time. The endpoint is marked in the
// store until all deliveries are rescheduled. After a crash, this node or another begins again; what
// is rescheduled already stays as it is.
type Replanner struct {
	store ReplanStore
	clock *clock.Clock
	node  kapsel.NodeID
	log   *slog.Logger
	wake  chan struct{}
	begun map[kapsel.EndpointID]replanning // changes whose first pass this node has begun
	last  kapsel.EndpointID                // which made the last step
}

// replanning is the work that the change of one endpoint makes.
type replanning struct {
	mark  int64
	since time.Time // when its first pass began, by the monotonic clock
	at    store.Due // how far the pass under way has come
	done  bool      // the first pass has ended
}

// NewReplanner returns a Replanner for a node. Run does its work.
func NewReplanner(s ReplanStore, clock *clock.Clock, node kapsel.NodeID, log *slog.Logger) *Replanner {
	return &Replanner{store: s, clock: clock, node: node, log: log, wake: make(chan struct{}, 1)}
}

// Changed wakes the replanner if one of the changed endpoints is marked. Callers must pass it to
// settings.Cache.OnChange.
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

// turn goes on with all marked endpoints, if this node leads the duty, and reports whether there are
// any. A turn ends after three seconds; the next one asks for the lease again and goes on. It fails if
// the store does.
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
		r.begun[e.ID] = p
	}
	// The endpoints make one step each in turn, so that none waits until another's backlog has been walked.
	if i := slices.IndexFunc(marked, func(e kapsel.Endpoint) bool { return string(e.ID[:]) > string(r.last[:]) }); i > 0 {
		marked = slices.Concat(marked[i:], marked[:i])
	}
	for len(marked) > 0 && ctx.Err() == nil {
		marked = slices.DeleteFunc(marked, func(e kapsel.Endpoint) bool {
			if ctx.Err() != nil {
				return false
			}
			p := r.begun[e.ID]
			r.last = e.ID
			more, err := r.step(ctx, e.ID, &p)
			if err != nil && ctx.Err() == nil {
				failed = errors.Join(failed, fmt.Errorf("endpoint %s: %w", e.ID, err))
			}
			r.begun[e.ID] = p
			return !more || err != nil
		})
	}
	return true, failed
}

// step reschedules the next deliveries that wait for an endpoint, and reports whether there are more to do
// now. All of them are looked at at once, and again after replanAgain; after the second time step removes
// the mark. It fails if the store does or ctx ends.
func (r *Replanner) step(ctx context.Context, id kapsel.EndpointID, p *replanning) (more bool, err error) {
	last := time.Since(p.since) >= replanAgain
	if p.done && !last {
		return false, nil
	}
	next, more, err := r.store.Replan(ctx, id, r.clock.Now(), p.at, replanBatch)
	if err != nil {
		return false, err // the next turn looks at the same again
	}
	if p.at = next; more {
		return true, nil // a turn that ends goes on from here
	}
	p.at = store.Due{}
	if !p.done || !last {
		p.done = true
		return false, nil
	}
	return false, r.store.Replanned(ctx, id, p.mark)
}
