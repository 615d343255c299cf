// Package clock tells the store's time, which all nodes share.
package clock

import (
	"context"
	"sync"
	"time"
)

// MaxSkew is how far the process's wall clock may differ from the store's time. With a larger
// difference the node is not ready.
const MaxSkew = time.Minute

// Clock tells the store's time on this node. It asks the store at start and every 10 s, and counts
// on by the process's monotonic clock in between. So a jump of the wall clock changes nothing.
type Clock struct {
	store interface {
		Time(context.Context) (time.Time, error)
	}
	mu   sync.RWMutex
	base time.Time // the store's time at …
	at   time.Time // … this time of the monotonic clock
	jump Jump
}

// Jump is a leap of the store's time by more than MaxSkew, as after a fail-over or when somebody sets the
// machine's clock. Either the time before it was wrong or the time after it is.
type Jump struct {
	At time.Time     // when it was seen, by the monotonic clock; zero: there was none
	By time.Duration // below zero: backwards
}

// New returns a clock by the store's time, for which it asks once. It fails if the store does.
func New(ctx context.Context, s interface {
	Time(context.Context) (time.Time, error)
}) (*Clock, error) {
	c := &Clock{store: s}
	return c, c.Sync(ctx)
}

// Sync asks the store for its time again. If the store does not answer, Sync changes nothing and
// returns the error.
func (c *Clock) Sync(ctx context.Context) error {
	start := time.Now()
	t, err := c.store.Time(ctx)
	if err != nil {
		return err
	}
	end := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	// The answer is as old as half the way there and back.
	base, at := t.Round(0).UTC(), start.Add(end.Sub(start)/2)
	if by := base.Sub(c.base.Add(at.Sub(c.at))); !c.at.IsZero() && (by > MaxSkew || by < -MaxSkew) {
		c.jump = Jump{end, by}
	}
	c.base, c.at = base, at
	return nil
}

// Run calls Sync every 10 s until ctx ends.
func (c *Clock) Run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ask, cancel := context.WithTimeout(ctx, 5*time.Second)
			c.Sync(ask) // on error the monotonic clock carries on
			cancel()
		}
	}
}

// Now returns the store's time in UTC, cut to microseconds, the precision of both stores.
func (c *Clock) Now() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.base.Add(time.Since(c.at)).Truncate(time.Microsecond)
}

// LastJump returns the last jump that this process has seen.
func (c *Clock) LastJump() Jump {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.jump
}

// Skew returns how far the wall clock is ahead of the store's time.
func (c *Clock) Skew() time.Duration { return time.Now().Round(0).Sub(c.Now()) }
