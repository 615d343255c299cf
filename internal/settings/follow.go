package settings

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Refresh is how often a node reads the settings counter. A node obeys a change that another node
// made after this time at the latest.
const Refresh = 500 * time.Millisecond

// SettleTime is how long Settle waits for other nodes at most: Refresh for them to notice the change,
// and as long again to load it and to tell the store so.
const SettleTime = 2 * Refresh

// After a change of matched settings (see Settle) on another node, a node reads the counter every
// brisk, until no such change has come for briskFor. A client that makes many changes waits for each
// of them, so the next one usually follows soon.
const (
	brisk    = Refresh / 20
	briskFor = 2 * time.Second
)

// OnChange adds a function that is called with changed rows after the cache has them. The function is
// called by one goroutine at a time and must not block. Callers must call OnChange before Run, and
// before the first Load whose rows the function needs.
func (c *Cache) OnChange(f func(store.Settings)) { c.notify = append(c.notify, f) }

// Run keeps the cache up to date until ctx ends. It logs that the store cannot be read once, and again
// only after a reading has succeeded.
func (c *Cache) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(Refresh)
	defer tick.Stop()
	pace, changedAt := Refresh, time.Time{}
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.changed:
		}
		before, _, _ := c.standing()
		err := c.Load(ctx)
		if err == nil {
			err = c.tell(ctx)
		}
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("settings cannot be read; going on with those known", "error", err)
		}
		failing = err != nil

		// This node's own changes do not count, because Settle has loaded them.
		if after, _, _ := c.standing(); after > before {
			changedAt = time.Now()
		}
		next := Refresh
		if time.Since(changedAt) < briskFor {
			next = brisk
		}
		if next != pace {
			tick.Reset(next)
			pace = next
		}
	}
}

// Load reads the rows that are newer than the cache. It fails if the store cannot be read; the cache
// then stays as it is.
func (c *Cache) Load(ctx context.Context) error {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := c.dir.Settings(ctx, c.revision)
	if err != nil {
		return err
	}
	c.forget()
	if s.Revision == c.revision {
		return nil
	}
	c.apply(s, true)
	return nil
}

// Changed has Run read the settings counter at once.
func (c *Cache) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Obey blocks until this node obeys all changes that were made before the call. It blocks for Refresh at
// most: if the store is slow or fails, Obey has Run read the changes.
func (c *Cache) Obey() {
	ctx, cancel := context.WithTimeout(context.Background(), Refresh)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
	}
}

// Joined sets the ID under which this node tells the others which changes it has; see tell.
func (c *Cache) Joined(node kapsel.NodeID, clock *clock.Clock) {
	c.mu.Lock()
	c.node, c.clock, c.told = node, clock, -1
	c.mu.Unlock()
	c.Changed()
}

// tell writes to the store up to which revision this node has the changes of matched settings, unless
// the store has that already. It fails if the store does.
func (c *Cache) tell(ctx context.Context) error {
	matched, told, node := c.standing()
	if node.IsZero() || matched == told {
		return nil
	}
	if err := c.dir.Follow(ctx, node, matched); err != nil {
		return fmt.Errorf("tell the other nodes: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node == node {
		c.told = matched
	}
	return nil
}

// standing returns matched, told and the node's ID at one moment.
func (c *Cache) standing() (matched, told int64, node kapsel.NodeID) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.matched, c.told, c.node
}

// Settle blocks until this node obeys all changes that were made before the call, and every other live
// node those of matched settings: endpoints, sources, apps and event types, by which events are matched
// with their deliveries. An event that comes in afterwards, at any node, is then matched by them.
// Settle blocks for SettleTime at most: a node that has not answered by then is slow, cut off from the
// store, or dead with a lease that has not ended. If this node cannot read the changes, Settle returns
// at once and has Run read them.
func (c *Cache) Settle() {
	ctx, cancel := context.WithTimeout(context.Background(), SettleTime)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
		return
	}
	// One call at a time waits, for all changes that the cache has by then. The calls behind it usually
	// find that their own changes are among them.
	select {
	case c.settling <- struct{}{}:
		defer func() { <-c.settling }()
	case <-ctx.Done():
		return
	}
	c.mu.RLock()
	node, clock, matched, settled := c.node, c.clock, c.matched, c.settled
	c.mu.RUnlock()
	if node.IsZero() || matched == settled {
		return
	}
	tick := time.NewTicker(brisk)
	defer tick.Stop()
	for ctx.Err() == nil {
		behind, err := c.dir.Behind(ctx, node, clock.Now(), matched)
		if err == nil && behind == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	// This also holds if the time is over: the next call must not wait for the same change again.
	c.mu.Lock()
	c.settled = matched
	c.mu.Unlock()
}
