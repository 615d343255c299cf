package sqlite

import (
	"context"
	"errors"
	"slices"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// inUnits runs f in transactions of at most unit rows each, until f has done limit rows or finds
// no more. It returns how many rows were committed, also when it fails.
func (s *Store) inUnits(ctx context.Context, limit, unit int, f func(c *conn, limit int) (int, error)) (done int, err error) {
	for done < limit {
		n, want := 0, min(unit, limit-done)
		err := s.writer.cold(ctx, func(c *conn) (err error) {
			n, err = f(c, want)
			return err
		})
		if err != nil {
			return done, err
		}
		if done += n; n < want {
			break
		}
	}
	return done, nil
}

// CancelWaiting implements store.Housekeeping.
func (s *Store) CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (canceled int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		waiting, err := deliveries(c.query(`SELECT `+deliveryColumns+` FROM deliveries
			WHERE status = 0 AND endpoint_id = ? ORDER BY due_at LIMIT ?`, endpoint, limit))
		if err != nil {
			return 0, err
		}
		for _, was := range waiting {
			d, err := was.After(kapsel.Cancel{}, now)
			if err != nil {
				return 0, err
			}
			if _, err := c.moveDelivery(was.Status, was.Token, &d, now); err != nil {
				return 0, err
			}
		}
		return len(waiting), nil
	})
}

// DeletedTenants implements store.Housekeeping.
func (s *Store) DeletedTenants(ctx context.Context, after kapsel.TenantID, limit int) ([]kapsel.Tenant, error) {
	return list(s, ctx, limit, scanTenant, `SELECT `+tenantColumns+` FROM tenants t
		WHERE deleted_at IS NOT NULL AND id > ? AND EXISTS (
			SELECT 1 FROM `+origins+` o WHERE o.tenant_id = t.id AND EXISTS (SELECT 1 FROM events e WHERE e.endpoint_id = o.id))
		ORDER BY id LIMIT ?`, after[:])
}

// DeleteFinished implements store.Housekeeping. It looks for events that can be deleted on a
// connection for reads. The transactions that delete a few of these events look at each of them
// again.
func (s *Store) DeleteFinished(ctx context.Context, tenant kapsel.TenantID, before time.Time, limit int) (deleted int, err error) {
	all, err := s.originsIn(ctx, tenant)
	if err != nil {
		return 0, err
	}
	end := firstID(before.Add(s.eventSkew.get() + time.Millisecond))
	var stays []error // why events stay
	for _, o := range all {
		for after := bottom[:]; deleted < limit && after != nil; {
			var ids []kapsel.EventID
			var sizes []int
			ids, sizes, after, err = s.finished(ctx, o, before, after, end, limit-deleted, &stays)
			if err != nil {
				return deleted, err
			}
			for len(ids) > 0 {
				unit := rules.DeletedTogether(sizes[:min(len(sizes), 50)])
				n, err := s.deleteUnit(ctx, ids[:unit], before, &stays)
				deleted += n
				if len(stays) > mostStay { // it is not some events that are damaged
					err = stays[0]
				}
				if err != nil {
					return deleted, err
				}
				ids, sizes = ids[unit:], sizes[unit:]
			}
		}
	}
	if deleted > 0 {
		err = s.shrink(ctx, 64<<20/pageSize)
	}
	return deleted, err
}

// deleteUnit deletes those of the events that can still be deleted in one transaction, and returns how many
// it deleted. If the file is damaged at one of them, each has a transaction of its own, and that one stays.
func (s *Store) deleteUnit(ctx context.Context, ids []kapsel.EventID, before time.Time, stays *[]error) (deleted int, err error) {
	err = s.writer.cold(ctx, func(c *conn) (err error) {
		deleted, err = deleteEvents(c, ids, before)
		return err
	})
	var bad *dbError
	switch {
	case err == nil:
		return deleted, nil
	case !errors.As(err, &bad) || codeOf(bad) != sqlite3.SQLITE_CORRUPT:
		return 0, err
	case len(ids) == 1:
		s.cannotDelete(ids[0], err, stays)
		return 0, nil
	}
	deleted = 0
	for i := range ids {
		n, err := s.deleteUnit(ctx, ids[i:i+1], before, stays)
		if err != nil || len(*stays) > mostStay {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// mostStay is how many events a call passes over that cannot be read.
const mostStay = 20

// cannotDelete notes and logs that an event stays although its time is over.
func (s *Store) cannotDelete(id kapsel.EventID, why error, stays *[]error) {
	*stays = append(*stays, why)
	s.log.Error("an event whose retention is over cannot be read from the database, so it stays; others are deleted", "event_id", id.String(), "error", why)
}

// finished looks at a page of an origin's events with ids above after and below end. It returns up
// to limit events that can be deleted, the sizes of their bodies, and the id to go on after, which
// is nil at the end.
func (s *Store) finished(ctx context.Context, origin kapsel.OriginID, before time.Time, after, end []byte, limit int, stays *[]error) (ids []kapsel.EventID, sizes []int, next []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		seen := 0
		q := c.stmt(`SELECT id FROM events WHERE endpoint_id = ? AND id > ? AND id < ? ORDER BY id LIMIT ?`).
			id(origin).blob(after).blob(end).int(page)
		for len(ids) < limit && q.next() {
			seen++
			id := kapsel.EventID(q.colID())
			next = id[:]
			r, err := eventRecord(c, kapsel.TenantID{}, id, eventColumns)
			if damaged(err) && len(*stays) <= mostStay {
				s.cannotDelete(id, err, stays)
				continue
			}
			if err != nil {
				q.end()
				return err
			}
			if ended(&r, before) {
				ids, sizes = append(ids, id), append(sizes, r.Event.Size)
			}
		}
		if seen < page && len(ids) < limit {
			next = nil
		}
		return q.end()
	})
	return ids, sizes, next, err
}

// ended reports whether an event was received before a time and has no open delivery.
func ended(r *store.EventRecord, before time.Time) bool {
	return r.Event.ReceivedAt.Before(before) && rules.Ended(r.Deliveries, r.Expanding)
}

// deleteEvents deletes those of the events that can still be deleted, and returns how many it
// deleted.
func deleteEvents(c *conn, ids []kapsel.EventID, before time.Time) (deleted int, err error) {
	if err := keepLastN(c); err != nil {
		return 0, err
	}
	for _, id := range ids {
		r, err := eventRecord(c, kapsel.TenantID{}, id, eventColumns)
		if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && !ended(&r, before) {
			continue
		}
		if err != nil {
			return deleted, err
		}
		for _, d := range r.Deliveries {
			attempts, err := attemptsOf(c, d.ID)
			if err != nil {
				return deleted, err
			}
			for _, a := range attempts {
				if err := c.exec(`DELETE FROM attempts WHERE id = ?`, a.id); err != nil {
					return deleted, err
				}
			}
			if d.EndpointID != r.Event.EndpointID || !d.ReplayOf.IsZero() { // what a bulk replay may have made
				if err := keepCount(c, &d); err != nil {
					return deleted, err
				}
			}
			if err := c.exec(`DELETE FROM deliveries WHERE id = ?`, d.ID); err != nil {
				return deleted, err
			}
		}
		if key := r.Event.IdempotencyKey; key != nil {
			// A key that may still be remembered stays; DeleteExpiredKeys deletes it.
			err := c.exec(`DELETE FROM idempotency_keys WHERE endpoint_id IN (?, ?) AND key = ? AND event_id = ? AND expires_at IS NULL`,
				[16]byte(r.Event.Origin()), [16]byte(r.Event.KeyScope()), key, id)
			if err != nil {
				return deleted, err
			}
		}
		if err := c.exec(`DELETE FROM events WHERE id = ?`, id); err != nil {
			return deleted, err
		}
		deleted++
	}
	return deleted, nil
}

// keepCount adds a delivery that is about to be deleted to the counts in the row of the bulk replay
// that made it. The counts of a replay that is done hold the delivery already.
func keepCount(c *conn, d *kapsel.Delivery) error {
	delivered := d.Status == kapsel.Delivered
	return c.exec(`UPDATE replays SET delivered = delivered + ?, failed = failed + ?
		WHERE id = (SELECT replay_id FROM deliveries WHERE id = ?) AND status <> 'done'`, delivered, !delivered, d.ID)
}

// shrink gives some of the file back to the file system if the free pages are more than a quarter
// of the file's, and more than the given number. Fewer free pages are soon used again.
func (s *Store) shrink(ctx context.Context, more int64) error {
	var pages, free int64
	err := s.read(ctx, func(c *conn) error {
		_, err := c.query(`SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count`).
			one(func(s *stmt) { pages, free = s.colInt(), s.colInt() })
		return err
	})
	if err != nil || free <= pages/4 || free <= more {
		return err
	}
	return s.writer.cold(ctx, func(c *conn) error { return c.exec(`PRAGMA incremental_vacuum(200)`) })
}

// DeleteExpiredKeys implements store.Housekeeping. If a key's event is still there, the key only
// stops being remembered: lists find the event by the key until the event is deleted, and the key
// with it.
func (s *Store) DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	type key struct {
		endpoint kapsel.EndpointID
		key      []byte
		event    kapsel.EventID
		kept     bool
	}
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		var keys []key
		q := c.query(`SELECT k.endpoint_id, k.key, k.event_id, EXISTS (SELECT 1 FROM events e WHERE e.id = k.event_id)
			FROM idempotency_keys k WHERE k.expires_at <= ? ORDER BY k.expires_at LIMIT ?`, now, limit)
		for q.next() {
			keys = append(keys, key{q.colID(), q.colBlob(), q.colID(), q.colBool()})
		}
		if err := q.end(); err != nil {
			return 0, err
		}
		for _, k := range keys {
			forget := `DELETE FROM idempotency_keys`
			if k.kept {
				forget = `UPDATE idempotency_keys SET expires_at = NULL`
			}
			if err := c.exec(forget+` WHERE endpoint_id = ? AND key = ? AND event_id = ?`, k.endpoint, k.key, k.event); err != nil {
				return 0, err
			}
		}
		return len(keys), nil
	})
}

// DeleteExpiredGuards implements store.Housekeeping.
func (s *Store) DeleteExpiredGuards(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		err := c.exec(`DELETE FROM guards WHERE (endpoint_id, guard) IN (
			SELECT endpoint_id, guard FROM guards WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`, now, limit)
		return c.changes(), err
	})
}

// QueueDepth implements store.Housekeeping.
func (s *Store) QueueDepth(ctx context.Context, now time.Time, atMost int) (depth store.QueueDepth, err error) {
	backlog, err := s.Backlog(ctx)
	if err != nil {
		return depth, err
	}
	for some := range slices.Chunk(backlog, 100) {
		err := s.read(ctx, func(c *conn) error {
			for _, w := range some {
				due, later, err := countWaiting(c, w.EndpointID, now, atMost)
				if err != nil {
					return err
				}
				depth.Pending += due + later
				depth.Due += due
				if due > 0 && (depth.Oldest.IsZero() || w.DueAt.Before(depth.Oldest)) {
					depth.Oldest = w.DueAt
				}
			}
			return nil
		})
		if err != nil {
			return depth, err
		}
	}
	err = s.read(ctx, func(c *conn) error {
		_, err := c.query(`SELECT count(*) FROM deliveries WHERE status = 1`).
			one(func(s *stmt) { depth.Delivering = int(s.colInt()) })
		return err
	})
	return depth, err
}

// countWaiting returns how many of an endpoint's pending deliveries are due at now, and how many of
// those that a node took before are due later, together at most atMost. The rest are scheduled.
func countWaiting(c *conn, endpoint kapsel.EndpointID, now time.Time, atMost int) (due, later int, err error) {
	_, err = c.query(`SELECT count(*) FROM (SELECT 1 FROM deliveries
		WHERE status = 0 AND endpoint_id = ? AND due_at <= ? LIMIT ?)`, endpoint, now, atMost).
		one(func(s *stmt) { due = int(s.colInt()) })
	if err != nil || due == atMost {
		return due, 0, err
	}
	_, err = c.query(`SELECT count(*) FROM (SELECT 1 FROM deliveries INDEXED BY deliveries_taken
		WHERE status = 0 AND claims > 0 AND endpoint_id = ? AND due_at > ? LIMIT ?)`, endpoint, now, atMost-due).
		one(func(s *stmt) { later = int(s.colInt()) })
	return due, later, err
}

// BacklogOf implements store.Housekeeping.
func (s *Store) BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error) {
	err = s.read(ctx, func(c *conn) error {
		due, later, err := countWaiting(c, endpoint, now, atMost)
		if err != nil {
			return err
		}
		if count = due + later; due > 0 {
			oldest, err = oldestDue(c, endpoint)
			return err
		}
		_, err = c.query(`SELECT due_at FROM deliveries INDEXED BY deliveries_taken
			WHERE status = 0 AND claims > 0 AND endpoint_id = ? ORDER BY due_at LIMIT 1`, endpoint).
			one(func(s *stmt) { oldest = s.colTime() })
		return err
	})
	return count, oldest, err
}

// DeleteOldCounters implements store.Housekeeping.
func (s *Store) DeleteOldCounters(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (deleted int, err error) {
		for _, old := range []struct {
			delete string
			before time.Time
		}{
			// A row has the time of its hour's or day's beginning, and is kept StatsKept or UsageKept from its end.
			{`DELETE FROM endpoint_stats WHERE (endpoint_id, hour) IN (
				SELECT endpoint_id, hour FROM endpoint_stats WHERE hour <= ? ORDER BY hour LIMIT ?)`, now.Add(-store.StatsKept - time.Hour)},
			{`DELETE FROM tenant_usage WHERE (tenant_id, day) IN (
				SELECT tenant_id, day FROM tenant_usage WHERE day <= ? ORDER BY day LIMIT ?)`, now.Add(-store.UsageKept - 24*time.Hour)},
		} {
			if err := c.exec(old.delete, old.before, limit-deleted); err != nil {
				return deleted, err
			}
			deleted += c.changes()
		}
		return deleted, nil
	})
}
