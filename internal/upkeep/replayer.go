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
	// replayBatch is how many deliveries one step makes, so that a step never holds up the hot path for
	// long.
	replayBatch = 100
	// replaysAtOnce is how many replays make deliveries in one turn, and of how many others a turn looks
	// whether their deliveries have ended. If there are more, they take turns.
	replaysAtOnce = 100
	// replayEvery is the time between turns. In each turn a replay makes as many deliveries as its rate
	// allows a second.
	replayEvery = time.Second
	// replayTurn is how long a turn lasts at most.
	replayTurn = 3 * replayEvery
)

// Replayer makes the deliveries of running replays. A lease row makes sure that one node does it at a
// time, so that a replay's rate holds for all nodes together. The store keeps how far each replay has
// come: after a crash, this node or another goes on where the last step ended.
type Replayer struct {
	Store interface {
		store.Replays
		Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	}
	Clock *clock.Clock
	Node  kapsel.NodeID
	Log   *slog.Logger
	// Wake is received from to begin new replays at once. If it is nil, they begin with the next turn.
	Wake <-chan struct{}
	// Made, if not nil, is called after deliveries were made. They are due at once.
	Made func()

	// begun holds the replays that have made deliveries since the last tick. The value is true if they
	// did so because of Wake: such a replay skips the next tick, so that it never exceeds its rate.
	begun map[kapsel.ReplayID]bool

	// after is where the next turn goes on in the list of running replays: of those that may make more
	// deliveries, and of those that only wait for the end of theirs. Zero: at its beginning.
	after map[bool]kapsel.ReplayID

	last kapsel.ReplayID // of the last step
	slow slow[kapsel.ReplayID]
}

// Run makes deliveries every replayEvery, and when Wake receives, until ctx ends.
func (r *Replayer) Run(ctx context.Context) {
	tick := time.NewTicker(replayEvery)
	defer tick.Stop()
	r.begun, r.after, r.slow = map[kapsel.ReplayID]bool{}, map[bool]kapsel.ReplayID{}, slow[kapsel.ReplayID]{}
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

// page returns up to replaysAtOnce running replays: those behind the ones of the turn before, and then from
// the beginning. A turn that was woken does not count as one before.
func (r *Replayer) page(ctx context.Context, walked, woken bool) ([]kapsel.Replay, error) {
	last := r.after[walked]
	page, err := r.Store.RunningReplays(ctx, walked, last, replaysAtOnce)
	if err == nil && !last.IsZero() && len(page) < replaysAtOnce {
		var first []kapsel.Replay
		first, err = r.Store.RunningReplays(ctx, walked, kapsel.ReplayID{}, replaysAtOnce-len(page))
		for _, replay := range first {
			if string(replay.ID[:]) <= string(last[:]) {
				page = append(page, replay)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if woken {
		return page, nil
	}
	delete(r.after, walked)
	if len(page) == replaysAtOnce { // there may be more
		r.after[walked] = page[len(page)-1].ID
	}
	return page, nil
}

// turn makes as many deliveries of running replays, up to replaysAtOnce, as their rates allow a second, if
// this node leads the duty. If woken is true, it does so only for replays that have had no turn since the last tick. It
// fails if the store does.
func (r *Replayer) turn(ctx context.Context, woken bool) error {
	var running []kapsel.Replay
	for _, walked := range []bool{false, true} {
		page, err := r.page(ctx, walked, woken)
		if err != nil {
			return err
		}
		running = append(running, page...)
	}
	before := r.begun
	if !woken {
		r.begun = map[kapsel.ReplayID]bool{}
		for id, early := range before { // those that are in a later turn's page, if there is one, skip that one
			if early && len(r.after) > 0 {
				r.begun[id] = true
			}
		}
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
	r.slow.forget()
	running = slices.DeleteFunc(running, func(replay kapsel.Replay) bool { return !r.slow[replay.ID].IsZero() })
	running = behind(running, func(replay kapsel.Replay) bool { return replay.ID == r.last })
	if len(running) == 0 {
		return nil
	}
	leads, err := r.Store.Lead(ctx, "replays", r.Node, r.Clock.Now(), 5*replayEvery)
	if err != nil || !leads {
		return err
	}
	// The replays make one step each in turn, so that none waits until another has ended. The time of a
	// turn is limited, because the lease is asked for once a turn. A step may take longer, and the next turn goes on
	// behind it.
	over, cancel := context.WithTimeout(ctx, replayTurn)
	defer cancel()
	var failed error
	any := false
	for len(running) > 0 && over.Err() == nil {
		rest := running[:0]
		for _, replay := range running {
			if over.Err() != nil {
				break
			}
			start := time.Now()
			made, more, err := r.Store.StepReplay(ctx, replay.ID, r.Clock.Now(), min(replay.Rate, replayBatch))
			r.last = replay.ID
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("replay %s: %w", replay.ID, err))
				r.slow.note(replay.ID, start, replayTurn)
				continue
			}
			any = any || made > 0
			if replay.Rate -= made; more && replay.Rate > 0 { // the rate allows more
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
