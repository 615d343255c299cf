package sqlite

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Replanning implements store.Replans.
func (s *Store) Replanning(ctx context.Context, limit int) ([]kapsel.Endpoint, error) {
	return list(s, ctx, limit, scanEndpoint, `SELECT `+endpointColumns+` FROM endpoints
		WHERE replan > 0 AND deleted_at IS NULL ORDER BY id LIMIT ?`)
}

// Replan implements store.Replans.
func (s *Store) Replan(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, after store.Due, limit int) (next store.Due, more bool, err error) {
	next = after
	looked, err := s.inUnits(ctx, limit, 100, func(c *conn, limit int) (n int, err error) {
		next, n, err = replan(c, endpoint, now, next, limit)
		return n, err
	})
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return next, false, nil
	}
	return next, looked == limit, err
}

func replan(c *conn, endpoint kapsel.EndpointID, now time.Time, after store.Due, limit int) (next store.Due, looked int, err error) {
	e, err := liveEndpoint(c, kapsel.TenantID{}, endpoint)
	if err != nil {
		return after, 0, err
	}
	if !after.At.After(now) {
		after = store.Due{At: now, ID: kapsel.DeliveryID(top)}
	}
	waiting, err := deliveries(c.query(`SELECT `+deliveryColumns+` FROM deliveries
		WHERE status = 0 AND endpoint_id = ? AND (due_at, id) > (?, ?) ORDER BY due_at, id LIMIT ?`,
		endpoint, after.At, after.ID, limit))
	if err != nil {
		return after, 0, err
	}
	for _, was := range waiting {
		after = store.Due{At: was.DueAt, ID: was.ID}
		ended, err := lastEnd(c, was.ID)
		if err != nil {
			return after, 0, err
		}
		d, err := rules.Rescheduled(&was, &e, ended, now)
		if err != nil {
			return after, 0, err
		}
		if d != was {
			if _, err := c.moveDelivery(was.Status, was.Token, &d, now); err != nil {
				return after, 0, err
			}
		}
	}
	return after, len(waiting), nil
}

// lastEnd returns when the newest attempt of a delivery ended, the zero time if there is none.
func lastEnd(c *conn, id kapsel.DeliveryID) (ended time.Time, err error) {
	_, err = c.query(`SELECT a.started_at, a.duration FROM deliveries d JOIN attempts a ON a.id = d.last_attempt WHERE d.id = ?`, id).
		one(func(s *stmt) { ended = s.colTime().Add(time.Duration(s.colInt())) })
	return ended, err
}

// Replanned implements store.Replans.
func (s *Store) Replanned(ctx context.Context, endpoint kapsel.EndpointID, mark int64) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.stmt(`UPDATE endpoints SET replan = 0 WHERE id = ? AND replan = ?`).id(endpoint).int(mark).exec()
	})
}
