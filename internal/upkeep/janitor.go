// Package upkeep does the background work that one node does for all: it deletes expired rows, makes the
// deliveries of replays and of events with many destinations, and reschedules waiting deliveries after
// a change of a retry policy. Each kind of work is a duty, for which nodes hold a lease in the store.
package upkeep

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// janitorBatch is how many rows one step deletes, so that a step never holds up the hot path for long.
const janitorBatch = 500

// JanitorStore holds the methods of the store that a Janitor uses.
type JanitorStore interface {
	store.Housekeeping
	Walk(ctx context.Context, limit int) (told int, more bool, err error)
	OthersTell(ctx context.Context) (bool, error)
	EraseEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, now time.Time) (at time.Time, err error)
	Logs(ctx context.Context, after kapsel.LogID, limit int) ([]store.Log, error)
	OwnerOf(ctx context.Context, log kapsel.LogID) (kapsel.Tenant, error)
	DeleteTexts(ctx context.Context, log kapsel.LogID, before time.Time, limit int) (passed int, err error)
	DropLog(ctx context.Context, log kapsel.LogID, now time.Time, limit int) (deleted int, err error)
	DeleteOldHeads(ctx context.Context, before time.Time, limit int) (decided int, err error)
	DeleteOldChanges(ctx context.Context, now time.Time, limit int) (deleted int, err error)
}

// logsEvery is how often the audit logs are looked at for texts whose time is over, which is counted in days.
const logsEvery = time.Hour

// jumpPause is how long nothing is deleted after the store's time has jumped. A wrong clock would else end all
// retentions at once; in this time somebody, or NTP, can mend it.
const jumpPause = time.Hour

// headsKept is how long all heads of the audit logs stay; see store.Journal.
const headsKept = 24 * time.Hour

// Janitor deletes events whose retention is over, expired idempotency keys, guards and answers, heads
// of the audit logs that are not the last of their hour, texts of their leaves and the logs of deleted tenants
// whose time is over, old counters and old rows of changes. It completes erasures that a crash has cut short.
// A lease row makes sure that one node does it at a time. After a jump of the store's time it deletes nothing for
// jumpPause. Before it deletes, it tells the ledger what it was not told by
// nodes on which it was off.
type Janitor struct {
	Store    JanitorStore
	Settings *settings.Cache
	Clock    *clock.Clock
	Node     kapsel.NodeID
	Every    time.Duration
	Log      *slog.Logger

	logs   time.Time  // when the audit logs were looked at last
	jumped clock.Jump // the last one that was logged
}

// Run deletes what has expired every j.Every until ctx ends. It logs a failure, and tries again the next
// time.
func (j *Janitor) Run(ctx context.Context) {
	tick := time.NewTicker(j.Every)
	defer tick.Stop()
	if err := j.walk(ctx); err != nil && ctx.Err() == nil {
		j.Log.Warn("the ledger could not be told what happened while it was off; trying again", "error", err)
	}
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

// sweep tells the ledger what it was not told, and deletes everything that has expired, if this node leads
// the duty. It fails if the store does, after it has done what does not depend on the failure; see errands.
func (j *Janitor) sweep(ctx context.Context) error {
	// What retention deletes, the ledger can never be told. So a node that tells nothing leaves it to those
	// that do.
	if err := j.walk(ctx); err != nil {
		return err
	}
	if others, err := j.Store.OthersTell(ctx); err != nil || others {
		return err
	}
	now := j.Clock.Now()
	leads, err := j.Store.Lead(ctx, "retention", j.Node, now, 2*j.Every)
	if err != nil || !leads {
		return err
	}
	e := errands{ctx: ctx}
	j.erase(ctx, &e, now)
	e.inRow = 0 // the same erasures may fail each time
	if j.paused(ctx) {
		return e.err()
	}
	for _, expired := range []func(context.Context, time.Time, int) (int, error){
		j.Store.DeleteExpiredKeys, j.Store.DeleteExpiredGuards, j.Store.DeleteExpiredAnswers, j.Store.DeleteExpiredSessions, j.Store.DeleteExpiredPortalLinks, j.Store.DeleteOldCounters, j.Store.DeleteOldChanges,
	} {
		e.do(func() error {
			return inBatches(ctx, func() (int, error) { return expired(ctx, now, janitorBatch) })
		})
	}
	e.do(func() error {
		return inBatches(ctx, func() (int, error) { return j.Store.DeleteOldHeads(ctx, now.Add(-headsKept), janitorBatch) })
	})
	for _, t := range j.Settings.Tenants() {
		e.do(func() error { return j.retain(ctx, t, now) })
	}
	j.retainDeleted(ctx, &e, now)
	if now.Sub(j.logs) >= logsEvery && j.retainLogs(ctx, &e, now) {
		j.logs = now
	}
	return e.err()
}

// paused reports whether the store's time has jumped within jumpPause. It logs each jump once.
func (j *Janitor) paused(ctx context.Context) bool {
	jump := j.Clock.LastJump()
	if jump.At.IsZero() || time.Since(jump.At) > jumpPause {
		return false
	}
	if jump != j.jumped {
		j.jumped = jump
		j.Log.WarnContext(ctx, "the clock of the database has jumped; retention deletes nothing for an hour, in which a wrong clock can be put right",
			"by", jump.By.Round(time.Second).String())
	}
	return true
}

// errands are steps of a sweep that do not need each other. One that fails, such as a statement that takes
// too long for one tenant alone, leaves the others to be done. After mostFailed failures in a row the store
// itself is taken to be in trouble, and the rest waits for the next sweep.
type errands struct {
	ctx   context.Context
	inRow int
	first error // of the failures
	count int
}

const mostFailed = 5

// do runs a step, unless the store is in trouble. It reports whether the step was done.
func (e *errands) do(step func() error) bool {
	if e.over() {
		return false
	}
	err := step()
	if err == nil {
		e.inRow = 0
		return true
	}
	if e.first == nil {
		e.first = err
	}
	e.inRow++
	e.count++
	return false
}

// over reports whether the sweep ends without its other steps.
func (e *errands) over() bool { return e.ctx.Err() != nil || e.inRow >= mostFailed }

// err returns the first failure and how many there were; nil if there was none.
func (e *errands) err() error {
	if e.count > 1 {
		return fmt.Errorf("%w (and %d more failures)", e.first, e.count-1)
	}
	return e.first
}

// erase completes erasures that were begun and not completed.
func (j *Janitor) erase(ctx context.Context, e *errands, now time.Time) {
	for all := true; all; {
		var events []kapsel.EventID
		all = e.do(func() (err error) { events, err = j.Store.Erasing(ctx, janitorBatch); return err })
		for _, id := range events {
			all = e.do(func() error { _, err := j.Store.EraseEvent(ctx, kapsel.TenantID{}, id, now); return err }) && all
		}
		all = all && len(events) == janitorBatch
	}
}

// retainDeleted deletes the events of deleted tenants, for which their retention still holds.
func (j *Janitor) retainDeleted(ctx context.Context, e *errands, now time.Time) {
	for after := (kapsel.TenantID{}); ; {
		var deleted []kapsel.Tenant
		if !e.do(func() (err error) { deleted, err = j.Store.DeletedTenants(ctx, after, janitorBatch); return err }) {
			return
		}
		for _, t := range deleted {
			e.do(func() error { return j.retain(ctx, &t, now) })
			after = t.ID
		}
		if len(deleted) < janitorBatch {
			return
		}
	}
}

// retainLogs deletes the texts of leaves whose time is over, and the logs of deleted tenants whose time is.
// It reports whether it has tried all logs.
func (j *Janitor) retainLogs(ctx context.Context, e *errands, now time.Time) bool {
	for after := (kapsel.LogID{}); ; {
		var logs []store.Log
		if !e.do(func() (err error) { logs, err = j.Store.Logs(ctx, after, janitorBatch); return err }) {
			return false
		}
		for i := range logs {
			e.do(func() error { return j.retainLog(ctx, &logs[i], now) })
			after = logs[i].ID
		}
		if len(logs) < janitorBatch {
			return !e.over()
		}
	}
}

func (j *Janitor) retainLog(ctx context.Context, l *store.Log, now time.Time) error {
	dropped := !l.DroppedAt.IsZero()
	if dropped && l.Size == 0 {
		return nil
	}
	owner, err := j.Store.OwnerOf(ctx, l.ID)
	if err != nil {
		return err
	}
	if dropped || !owner.DeletedAt.IsZero() && owner.LogUntil().Before(now) {
		return inBatches(ctx, func() (int, error) { return j.Store.DropLog(ctx, l.ID, now, janitorBatch) })
	}
	before := now.Add(-owner.Audit.Kept())
	if !l.CreatedAt.Before(before) { // as young as it are all of its leaves
		return nil
	}
	return inBatches(ctx, func() (int, error) { return j.Store.DeleteTexts(ctx, l.ID, before, janitorBatch) })
}

// walk tells the ledger what it was not told while it was off. Several nodes may do it at a time.
func (j *Janitor) walk(ctx context.Context) error {
	for {
		told, more, err := j.Store.Walk(ctx, janitorBatch)
		if err != nil || !more {
			return err
		}
		if told == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // the hot path goes first
		}
	}
}

// retain deletes the finished events of a tenant whose retention has ended.
func (j *Janitor) retain(ctx context.Context, t *kapsel.Tenant, now time.Time) error {
	before := now.Add(-t.Retention())
	return inBatches(ctx, func() (int, error) { return j.Store.DeleteFinished(ctx, t.ID, before, janitorBatch) })
}

// inBatches repeats a step until it does less than a whole batch, fails, or ctx ends.
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
