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
	// expandEvery is how often an Expander looks for expansions, beside those that Opened reports.
	expandEvery = time.Second
	// expandTurn is how long a turn lasts at most. The lease is asked for once a turn. It is short,
	// because after a crash no other node leads until it has ended.
	expandTurn = time.Second
	// expansionsAtOnce is how many expansions take turns. Further ones wait until one has ended.
	expansionsAtOnce = 100
)

// ExpansionStore holds the methods of the store that an Expander uses.
type ExpansionStore interface {
	store.Expansions
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
}

// Expander makes the deliveries of events that go to more endpoints than are stored with the event. A
// lease row makes sure that one node does it at a time. The store keeps how far each expansion has
// come: after a crash, this node or another goes on from there.
type Expander struct {
	store ExpansionStore
	clock *clock.Clock
	node  kapsel.NodeID
	log   *slog.Logger
	made  func()
	wake  chan struct{}

	last kapsel.EventID // of the last step
	slow slow[kapsel.EventID]
}

// NewExpander returns an Expander for a node. Run does its work. made is called after deliveries were
// made; they may be due at once.
func NewExpander(s ExpansionStore, clock *clock.Clock, node kapsel.NodeID, log *slog.Logger, made func()) *Expander {
	return &Expander{store: s, clock: clock, node: node, log: log, made: made, wake: make(chan struct{}, 1), slow: slow[kapsel.EventID]{}}
}

// Opened tells the expander that the store has a new expansion.
func (x *Expander) Opened() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Run makes deliveries until ctx ends.
func (x *Expander) Run(ctx context.Context) {
	tick := time.NewTicker(expandEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-x.wake:
		}
		if err := x.turn(ctx); err != nil && ctx.Err() == nil {
			x.log.Warn("deliveries of an event to many endpoints could not be made; trying again", "error", err)
		}
	}
}

// turn goes on with the open expansions, if this node leads the duty. They make one step each in turn,
// so that none waits until another has ended. One that fails waits for the next turn, and if that took long for
// slowWait, and leaves the others to go on. A step may take longer than the turn, and the next turn goes on behind
// it. It fails if the store does.
func (x *Expander) turn(ctx context.Context) error {
	over, cancel := context.WithTimeout(ctx, expandTurn)
	defer cancel()
	var failed error
	skip := map[kapsel.EventID]bool{} // those that have failed in this turn
	x.slow.forget()
	for leads := false; over.Err() == nil; {
		open, err := x.store.OpenExpansions(ctx, expansionsAtOnce+len(skip)+len(x.slow))
		if err != nil {
			return errors.Join(failed, err)
		}
		open = slices.DeleteFunc(open, func(event kapsel.EventID) bool { return skip[event] || !x.slow[event].IsZero() })
		if len(open) == 0 {
			return failed
		}
		if !leads {
			if leads, err = x.store.Lead(ctx, "expansions", x.node, x.clock.Now(), 2*expandTurn); err != nil || !leads {
				return err
			}
		}
		for _, event := range behind(open, func(event kapsel.EventID) bool { return event == x.last }) {
			if over.Err() != nil {
				break
			}
			start := time.Now()
			made, _, err := x.store.Expand(ctx, event, x.clock.Now(), kapsel.MaxInline)
			x.last = event
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("event %s: %w", event, err))
				skip[event] = true
				x.slow.note(event, start, expandTurn)
			}
			if made > 0 {
				x.made()
			}
		}
	}
	x.Opened() // the time is over: the next turn does the rest
	return failed
}
