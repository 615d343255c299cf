package sqlite

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const sessionColumns = `id, hash, owner, key_id, key_hash, address, agent, created_at, seen_at, subject, name, scope`

func scanSession(q *stmt) (s kapsel.Session, err error) {
	s.ID = q.colID()
	copy(s.Hash[:], q.view())
	s.TenantID, s.KeyID = q.colID(), q.colID()
	copy(s.KeyHash[:], q.view())
	s.Address, s.Agent, s.CreatedAt, s.SeenAt = q.colText(), q.colText(), q.colTime(), q.colTime()
	s.Subject, s.Name, s.Scope = q.colText(), q.colText(), kapsel.Scope(q.colText())
	return s, nil
}

// CreateSession implements store.Sessions.
func (s *Store) CreateSession(ctx context.Context, n kapsel.Session) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if !n.TenantID.IsZero() {
			if _, err := liveTenant(c, n.TenantID); err != nil {
				return err
			}
		}
		err := c.exec(`INSERT INTO sessions (`+sessionColumns+`, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			n.ID[:], n.Hash, n.TenantID[:], n.KeyID[:], n.KeyHash, n.Address, n.Agent, n.CreatedAt, n.SeenAt, n.Subject, n.Name, string(n.Scope), n.ExpiresAt())
		if err != nil || c.changes() == 0 {
			return err
		}
		if err := s.note(c, store.Seen{}, s.by.See(&n)); err != nil {
			return err
		}
		return c.exec(`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE owner = ? AND key_id = ? AND subject = ?
			ORDER BY id DESC LIMIT -1 OFFSET ?)`, n.TenantID[:], n.KeyID[:], n.Subject, store.MaxSessions)
	})
}

// SessionByHash implements store.Sessions.
func (s *Store) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (found kapsel.Session, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		ok, err := c.query(`SELECT `+sessionColumns+` FROM sessions WHERE hash = ? AND expires_at > ?
				AND NOT EXISTS (SELECT 1 FROM tenants t WHERE t.id = owner AND t.deleted_at IS NOT NULL)`, hash, now).
			one(func(q *stmt) { found, _ = scanSession(q) })
		if err == nil && !ok {
			err = store.NotFound("session")
		}
		return err
	})
	return found, err
}

// TouchSession implements store.Sessions.
func (s *Store) TouchSession(ctx context.Context, id kapsel.SessionID, seen time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.exec(`UPDATE sessions SET seen_at = ?1, expires_at = min(?1 + ?2, created_at + ?3) WHERE id = ?4 AND seen_at < ?1`,
			seen, kapsel.SessionIdle.Microseconds(), kapsel.SessionLife.Microseconds(), id[:])
	})
}

// ListSessions implements store.Sessions.
func (s *Store) ListSessions(ctx context.Context, tenant kapsel.TenantID, now time.Time, p store.Page[kapsel.SessionID]) ([]kapsel.Session, error) {
	const rows = `SELECT ` + sessionColumns + ` FROM sessions WHERE id < ? AND expires_at > ?`
	if tenant.IsZero() {
		return list(s, ctx, p.Limit, scanSession, rows+` ORDER BY id DESC LIMIT ?`, before(p.Before), now)
	}
	return list(s, ctx, p.Limit, scanSession, rows+` AND owner = ? ORDER BY id DESC LIMIT ?`, before(p.Before), now, tenant[:])
}

// DeleteSession implements store.Sessions.
func (s *Store) DeleteSession(ctx context.Context, tenant kapsel.TenantID, id kapsel.SessionID) error {
	return s.writer.cold(ctx, func(c *conn) error {
		n, err := s.endSessions(c, `id = ? AND (? OR owner = ?)`, id[:], tenant.IsZero(), tenant[:])
		if err == nil && n == 0 {
			err = store.NotFound("session")
		}
		return err
	})
}

// endSessions deletes the sessions that pass a condition and returns how many there were.
func (s *Store) endSessions(c *conn, where string, args ...any) (int, error) {
	var ended []kapsel.Session
	q := c.query(`DELETE FROM sessions WHERE `+where+` RETURNING `+sessionColumns, args...)
	for q.next() {
		old, _ := scanSession(q)
		ended = append(ended, old)
	}
	if err := q.end(); err != nil {
		return 0, err
	}
	for i := range ended {
		if err := s.note(c, s.by.See(&ended[i]), store.Seen{}); err != nil {
			return 0, err
		}
	}
	return len(ended), nil
}

// DeleteSessions implements store.Sessions.
func (s *Store) DeleteSessions(ctx context.Context, tenant kapsel.TenantID, key kapsel.KeyID) error {
	return s.writer.cold(ctx, func(c *conn) error {
		_, err := s.endSessions(c, `owner = ? AND key_id = ? AND subject = ''`, tenant[:], key[:])
		return err
	})
}

// DeleteSessionsOf implements store.Sessions.
func (s *Store) DeleteSessionsOf(ctx context.Context, subject string) error {
	return s.writer.cold(ctx, func(c *conn) error {
		_, err := s.endSessions(c, `subject = ? AND subject <> ''`, subject)
		return err
	})
}

// DeleteExpiredSessions implements store.Housekeeping.
func (s *Store) DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		err := c.exec(`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= ? LIMIT ?)`, now, limit)
		return c.changes(), err
	})
}
