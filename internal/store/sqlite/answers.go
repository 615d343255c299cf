package sqlite

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const answerColumns = `owner, key, request, seed, created_at, expires_at, status, made, body, sealed`

func scanAnswer(s *stmt) (r store.Reservation) {
	r = store.Reservation{Owner: s.colID(), Key: s.colText()}
	copy(r.Request[:], s.view())
	r.Seed, r.CreatedAt, r.ExpiresAt = s.colID(), s.colTime(), s.colTime()
	r.Status, r.Made, r.Body, r.Sealed = int(s.colInt()), s.colText(), s.colBlob(), s.colBool()
	return r
}

// Reserve implements store.Answers.
func (s *Store) Reserve(ctx context.Context, r store.Reservation, now time.Time) (there store.Reservation, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		found, err := c.query(`SELECT `+answerColumns+` FROM answers WHERE owner = ? AND key = ? AND expires_at > ?`,
			r.Owner[:], r.Key, now).one(func(s *stmt) { there = scanAnswer(s) })
		if err != nil || found {
			return err
		}
		there = r
		return c.exec(`INSERT OR REPLACE INTO answers (`+answerColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Owner[:], r.Key, r.Request, r.Seed[:], r.CreatedAt, r.ExpiresAt, r.Status, r.Made, r.Body, r.Sealed)
	})
	if err != nil {
		return store.Reservation{}, err
	}
	return there, nil
}

// Resume implements store.Answers.
func (s *Store) Resume(ctx context.Context, r store.Reservation, now time.Time) (resumed bool, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		err := c.exec(`UPDATE answers SET status = 0, created_at = ? WHERE owner = ? AND key = ? AND seed = ? AND status = ? AND created_at = ?`,
			now, r.Owner[:], r.Key, r.Seed[:], r.Status, r.CreatedAt)
		resumed = err == nil && c.changes() == 1
		return err
	})
	return resumed && err == nil, err
}

// Settle implements store.Answers.
func (s *Store) Settle(ctx context.Context, r store.Reservation) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.exec(`UPDATE answers SET status = ?, made = ?, body = ?, sealed = ? WHERE owner = ? AND key = ? AND seed = ?`,
			r.Status, r.Made, r.Body, r.Sealed, r.Owner[:], r.Key, r.Seed[:])
	})
}

// Forget implements store.Answers.
func (s *Store) Forget(ctx context.Context, r store.Reservation) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.exec(`DELETE FROM answers WHERE owner = ? AND key = ? AND seed = ?`, r.Owner[:], r.Key, r.Seed[:])
	})
}

// DeleteExpiredAnswers implements store.Housekeeping.
func (s *Store) DeleteExpiredAnswers(ctx context.Context, now time.Time, limit int) (changed int, err error) {
	type name struct {
		owner kapsel.TenantID
		key   string
	}
	each := func(then, which string, by time.Time) (int, error) {
		return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
			var rows []name
			q := c.query(`SELECT owner, key FROM answers WHERE `+which+` LIMIT ?`, by, limit)
			for q.next() {
				rows = append(rows, name{q.colID(), q.colText()})
			}
			if err := q.end(); err != nil {
				return 0, err
			}
			for _, r := range rows {
				if err := c.exec(then+` WHERE owner = ? AND key = ?`, r.owner[:], r.key); err != nil {
					return 0, err
				}
			}
			return len(rows), nil
		})
	}
	deleted, err := each(`DELETE FROM answers`, `expires_at <= ?`, now)
	if err != nil {
		return deleted, err
	}
	cleared, err := each(`UPDATE answers SET body = NULL`, `sealed = 1 AND body IS NOT NULL AND created_at <= ?`, now.Add(-store.SecretKept))
	return deleted + cleared, err
}
