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
	// replayBatch bounds one step of a replay, so that it never holds up the hot path for long.
	replayBatch = 100
	// replaysAtOnce is how many replays go on at the same time; others wait for their end.
	replaysAtOnce = 100
	// replayEvery is a replay's rhythm: as many deliveries as its rate says, every second.
	replayEvery = time.Second
)

// Replayer makes the deliveries of running replays. Of all nodes one does it at a time, by a
// lease row, so that a replay's rate is that of all nodes together. All that it knows is in
// the store: after a crash, this node or another goes on where the last step ended.
type Replayer struct {
	Store interface {
		store.Replays
		Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	}
	Clock *clock.Clock
	Node  kapsel.NodeID
	Log   *slog.Logger
	// Wake, when something is sent to it, begins the replays that have not begun. It may be
	// nil: they begin with the next second.
	Wake <-chan struct{}
	// Made is called after deliveries were made, which are due at once. It may be nil.
	Made func()

	// begun holds the replays that had their turn since the last tick, and whether it was a
	// woken one: such a replay passes over the next tick, so that it never exceeds its rate.
	begun map[kapsel.ReplayID]bool
}

// Run works every second, and when it is woken, until ctx ends.
func (r *Replayer) Run(ctx context.Context) {
	tick := time.NewTicker(replayEvery)
	defer tick.Stop()
	r.begun = map[kapsel.ReplayID]bool{}
	for {
		woken := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.Wake:
			woken = true
		}
		if err := r.turn(ctx, woken); err != nil && ctx.Err() == nil {
			r.Log.Warn("a replay could not go on; trying again", "error", err)
		}
	}
}

// turn makes what a second allows of each running replay, if this node leads the duty. Woken,
// it does so only for those that had no turn in this second.
func (r *Replayer) turn(ctx context.Context, woken bool) error {
	running, err := r.Store.RunningReplays(ctx, replaysAtOnce)
	if err != nil {
		return err
	}
	before := r.begun
	if !woken {
		r.begun = map[kapsel.ReplayID]bool{}
	}
	running = slices.DeleteFunc(running, func(replay kapsel.Replay) bool {
		early, begun := before[replay.ID]
		if !woken {
			r.begun[replay.ID] = false
			return early
		}
		if !begun {
			r.begun[replay.ID] = true
		}
		return begun
	})
	if len(running) == 0 {
		return nil
	}
	leads, err := r.Store.Lead(ctx, "replays", r.Node, r.Clock.Now(), 5*replayEvery)
	if err != nil || !leads {
		return err
	}
	// One step of each after the other, so that none waits for another's end. A turn that takes
	// long ends with what it has made: the next one asks for the lease again.
	ctx, cancel := context.WithTimeout(ctx, 3*replayEvery)
	defer cancel()
	var failed error
	any := false
	for len(running) > 0 && ctx.Err() == nil {
		rest := running[:0]
		for _, replay := range running {
			made, more, err := r.Store.StepReplay(ctx, replay.ID, r.Clock.Now(), min(replay.Rate, replayBatch))
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("replay %s: %w", replay.ID, err))
				continue
			}
			any = any || made > 0
			if replay.Rate -= made; more && replay.Rate > 0 { // what is left of this second's
				rest = append(rest, replay)
			}
		}
		running = rest
	}
	if any && r.Made != nil {
		r.Made()
	}
	return failed
}
