// Package upkeep does what one node of all does beside receiving and delivering: it deletes what
// has expired, makes the deliveries of replays, and reschedules what waits after a change of a
// retry plan.
package upkeep

import (
	"context"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of one step of a deletion, so that it never holds up the hot path for long.
const janitorBatch = 500

// Janitor deletes events whose retention is over, expired idempotency keys, guards and answers,
// and old counters. A lease row makes sure that one node does it at a time.
type Janitor struct {
	Store    store.Housekeeping
	Settings *settings.Cache
	Clock    *clock.Clock
	Node     kapsel.NodeID
	Every    time.Duration
	Log      *slog.Logger
}

// Run works every so often until ctx ends.
func (j *Janitor) Run(ctx context.Context) {
	tick := time.NewTicker(j.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := j.sweep(ctx); err != nil && ctx.Err() == nil {
			j.Log.Warn("what has expired could not be deleted; trying again", "error", err)
		}
	}
}

// sweep deletes all that is due for it, if this node leads the duty.
func (j *Janitor) sweep(ctx context.Context) error {
	now := j.Clock.Now()
	leads, err := j.Store.Lead(ctx, "retention", j.Node, now, 2*j.Every)
	if err != nil || !leads {
		return err
	}
	for _, expired := range []func(context.Context, time.Time, int) (int, error){
		j.Store.DeleteExpiredKeys, j.Store.DeleteExpiredGuards, j.Store.DeleteExpiredAnswers, j.Store.DeleteOldCounters,
	} {
		if err := inBatches(ctx, func() (int, error) { return expired(ctx, now, janitorBatch) }); err != nil {
			return err
		}
	}
	for _, t := range j.Settings.Tenants() {
		if err := j.retain(ctx, t, now); err != nil {
			return err
		}
	}
	// The events of a deleted tenant stay as long as it had them kept.
	for after := (kapsel.TenantID{}); ; {
		deleted, err := j.Store.DeletedTenants(ctx, after, janitorBatch)
		if err != nil {
			return err
		}
		for _, t := range deleted {
			if err := j.retain(ctx, &t, now); err != nil {
				return err
			}
			after = t.ID
		}
		if len(deleted) < janitorBatch {
			return nil
		}
	}
}

// retain deletes what a tenant's retention has let go.
func (j *Janitor) retain(ctx context.Context, t *kapsel.Tenant, now time.Time) error {
	before := now.Add(-t.Retention())
	return inBatches(ctx, func() (int, error) { return j.Store.DeleteFinished(ctx, t.ID, before, janitorBatch) })
}

func inBatches(ctx context.Context, step func() (int, error)) error {
	for {
		n, err := step()
		if err != nil || n < janitorBatch {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // the hot path goes first
		}
	}
}
