// Package clock tells the store's time, which all nodes share.
package clock

import (
	"context"
	"sync"
	"time"
)

// MaxSkew is how far the process's wall clock may be from the store's time before the node
// is not ready.
const MaxSkew = time.Minute

// Clock is the store's time on this node: asked for at start and every 10 s, and carried on
// by the process's monotonic clock between, so a jump of the wall clock changes nothing.
type Clock struct {
	store interface {
		Time(context.Context) (time.Time, error)
	}
	mu   sync.RWMutex
	base time.Time // the store's time …
	at   time.Time // … when the monotonic clock showed this
}

// NewClock asks the store for its time.
func New(ctx context.Context, s interface {
	Time(context.Context) (time.Time, error)
}) (*Clock, error) {
	c := &Clock{store: s}
	return c, c.Sync(ctx)
}

// Sync asks the store for its time again. A store that does not answer changes nothing.
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
	c.base, c.at = t.Round(0).UTC(), start.Add(end.Sub(start)/2)
	return nil
}

// Run keeps the clock in step until ctx ends.
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

// Now is the store's time, in UTC and microseconds, the precision of both stores.
func (c *Clock) Now() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.base.Add(time.Since(c.at)).Truncate(time.Microsecond)
}

// Skew is how far the wall clock is ahead of the store's time.
func (c *Clock) Skew() time.Duration { return time.Now().Round(0).Sub(c.Now()) }
