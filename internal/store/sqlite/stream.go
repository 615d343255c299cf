package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// The stream's order is the order of the column n. The one writer gives each n and commits in the
// order of n, so no event appears later before an event that a reader has seen. The writer never
// gives an n twice, even if retention has deleted the newest events: a position names one event
// for ever.

// loadLastN reads the n to go on from. It runs at start only: after a rollback, too, an n is not
// given again.
func (s *Store) loadLastN(c *conn) error {
	_, err := c.query(newestN).one(func(q *stmt) { s.lastN.Store(q.colInt()) })
	return err
}

// newestN selects the n of the newest event that is there or was.
const newestN = `SELECT max(value, coalesce((SELECT max(n) FROM events), 0)) FROM counters WHERE name = 'event_n'`

// keepLastN stores the newest event's n. Callers must call it before they delete events, in the
// same transaction.
func keepLastN(c *conn) error {
	return c.exec(`UPDATE counters SET value = (SELECT max(n) FROM events)
		WHERE name = 'event_n' AND value < (SELECT max(n) FROM events)`)
}

// StreamEvents implements store.Stream. It reads at most a page.
func (s *Store) StreamEvents(ctx context.Context, f store.StreamFilter, after store.Position, _ time.Time, limit int) (events []store.Streamed, next store.Position, more bool, err error) {
	if after.Seq > s.lastN.Load() {
		return nil, store.Position{}, false, rules.StreamAhead()
	}
	limit = min(limit, page)
	err = s.read(ctx, func(c *conn) error {
		seen := 0
		var at []store.Position
		var tenants []kapsel.TenantID
		next = store.Position{Seq: after.Seq, ID: store.EndOfSeq}
		q := c.query(`SELECT n, id, tenant_id,
				(?1 IS NULL OR endpoint_id = ?1 AND NOT `+atSource+`
					OR EXISTS (SELECT 1 FROM deliveries d WHERE d.first_of = e.id AND d.endpoint_id = ?1)
					OR EXISTS (SELECT 1 FROM expansions x WHERE x.event_id = e.id AND x.after_endpoint < ?1))
				AND (?4 IS NULL OR endpoint_id = ?4 AND `+atSource+`)
			FROM events e WHERE n > ?2 ORDER BY n LIMIT ?3`, f.EndpointID, after.Seq, limit, f.SourceID)
		for q.next() {
			seen++
			next.Seq = q.colInt()
			id, tenant, meant := kapsel.EventID(q.colID()), kapsel.TenantID(q.colID()), q.colBool()
			if meant && (len(f.Tenants) == 0 || slices.Contains(f.Tenants, tenant)) {
				at, tenants = append(at, store.Position{Seq: next.Seq, ID: id}), append(tenants, tenant)
			}
		}
		if err := q.end(); err != nil {
			return err
		}
		for i, left := range rules.Thin(tenants, f.Newest) {
			if left < 0 {
				continue
			}
			r, err := eventRecord(c, kapsel.TenantID{}, at[i].ID, eventColumns)
			if err != nil {
				return err
			}
			r.Digest()
			events = append(events, store.Streamed{EventRecord: r, At: at[i], Left: left})
		}
		if more = seen == limit; !more {
			end, err := streamEnd(c)
			next = next.Later(end)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, store.Position{}, false, err
	}
	return events, next, more, nil
}

// streamEnd returns the position behind all events that are there and all that were.
func streamEnd(c *conn) (end store.Position, err error) {
	end.ID = store.EndOfSeq
	_, err = c.query(newestN).one(func(q *stmt) { end.Seq = q.colInt() })
	return end, err
}

// StreamEnd implements store.Stream.
func (s *Store) StreamEnd(ctx context.Context, _ time.Time) (end store.Position, err error) {
	err = s.read(ctx, func(c *conn) error {
		end, err = streamEnd(c)
		return err
	})
	return end, err
}

// StreamPosition implements store.Stream.
func (s *Store) StreamPosition(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (p store.Position, err error) {
	err = s.read(ctx, func(c *conn) error {
		var owner kapsel.TenantID
		found, err := c.query(`SELECT n, tenant_id FROM events WHERE id = ?`, id).
			one(func(q *stmt) { p.Seq, owner = q.colInt(), q.colID() })
		if err == nil && (!found || !tenant.IsZero() && owner != tenant) {
			err = store.NotFound("event")
		}
		return err
	})
	if err != nil {
		return store.Position{}, err
	}
	return store.Position{Seq: p.Seq, ID: id}, nil
}
