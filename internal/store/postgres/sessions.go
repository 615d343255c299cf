package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const sessionColumns = "id, hash, owner, key_id, key_hash, address, agent, created_at, seen_at, subject, name, scope"

func scanSession(r *row) (s kapsel.Session) {
	s.ID = r.id()
	copy(s.Hash[:], r.next(len(s.Hash)))
	s.TenantID, s.KeyID = r.id(), r.id()
	copy(s.KeyHash[:], r.next(len(s.KeyHash)))
	s.Address, s.Agent, s.CreatedAt, s.SeenAt = r.text(), r.text(), r.time(), r.time()
	s.Subject, s.Name, s.Scope = r.text(), r.text(), kapsel.Scope(r.text())
	return s
}

// CreateSession stores a session; see store.Sessions.
func (s *Store) CreateSession(ctx context.Context, n kapsel.Session) error {
	return s.change(ctx, viewOf(n.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if !n.TenantID.IsZero() {
			if _, err := tenant(ctx, tx, n.TenantID, " FOR SHARE"); err != nil {
				return err
			}
		}
		tag, err := tx.Exec(ctx, "INSERT INTO sessions ("+sessionColumns+", expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
			[16]byte(n.ID), n.Hash[:], [16]byte(n.TenantID), [16]byte(n.KeyID), n.KeyHash[:], n.Address, n.Agent, n.CreatedAt, n.SeenAt, n.Subject, n.Name, string(n.Scope), n.ExpiresAt())
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if err := s.note(ctx, tx, store.Seen{}, s.by.See(&n)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE owner = $1 AND key_id = $2 AND subject = $3
			ORDER BY id DESC OFFSET $4)`, [16]byte(n.TenantID), [16]byte(n.KeyID), n.Subject, store.MaxSessions)
		return err
	})
}

// SessionByHash finds a session by its token's hash; see store.Sessions.
func (s *Store) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (found kapsel.Session, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		var ok bool
		found, ok, err = first(ctx, q, scanSession, `
			SELECT `+sessionColumns+` FROM sessions WHERE hash = $1 AND expires_at > $2
				AND NOT EXISTS (SELECT 1 FROM tenants t WHERE t.id = owner AND t.deleted_at IS NOT NULL)`, hash[:], now)
		if err == nil && !ok {
			err = store.NotFound("session")
		}
		return err
	})
	return found, err
}

// TouchSession records that a session was used; see store.Sessions.
func (s *Store) TouchSession(ctx context.Context, sessionID kapsel.SessionID, seen time.Time) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue("SET LOCAL synchronous_commit = off")
		batch.Queue(`
			UPDATE sessions SET seen_at = $2, expires_at = least($2::timestamptz + $3::interval, created_at + $4::interval)
			WHERE id = $1 AND seen_at < $2`, [16]byte(sessionID), seen, kapsel.SessionIdle, kapsel.SessionLife)
		return tx.SendBatch(ctx, batch).Close()
	})
}

// ListSessions lists sessions; see store.Sessions.
func (s *Store) ListSessions(ctx context.Context, tenantID kapsel.TenantID, now time.Time, p store.Page[kapsel.SessionID]) ([]kapsel.Session, error) {
	return list(ctx, s, viewOf(tenantID), scanSession, `
		SELECT `+sessionColumns+` FROM sessions
		WHERE ($1::uuid IS NULL OR owner = $1) AND id < $2 AND expires_at > $3 ORDER BY id DESC LIMIT $4`,
		id(tenantID), before(p.Before), now, p.Limit)
}

// DeleteSession ends a session; see store.Sessions.
func (s *Store) DeleteSession(ctx context.Context, tenantID kapsel.TenantID, sessionID kapsel.SessionID) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		n, err := s.endSessions(ctx, tx, "id = $1 AND ($2::uuid IS NULL OR owner = $2)", [16]byte(sessionID), id(tenantID))
		if err == nil && n == 0 {
			err = store.NotFound("session")
		}
		return err
	})
}

// endSessions deletes the sessions that pass a condition and returns how many there were.
func (s *Store) endSessions(ctx context.Context, tx pgx.Tx, where string, args ...any) (int, error) {
	ended, err := collect(ctx, tx, scanSession, "DELETE FROM sessions WHERE "+where+" RETURNING "+sessionColumns, args...)
	for i := range ended {
		if err == nil {
			err = s.note(ctx, tx, s.by.See(&ended[i]), store.Seen{})
		}
	}
	return len(ended), err
}

// DeleteSessions ends all sessions of a key; see store.Sessions.
func (s *Store) DeleteSessions(ctx context.Context, tenantID kapsel.TenantID, key kapsel.KeyID) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		_, err := s.endSessions(ctx, tx, "owner = $1 AND key_id = $2 AND subject = ''", [16]byte(tenantID), [16]byte(key))
		return err
	})
}

// DeleteSessionsOf ends all sessions of a person; see store.Sessions.
func (s *Store) DeleteSessionsOf(ctx context.Context, subject string) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := s.endSessions(ctx, tx, "subject = $1 AND subject <> ''", subject)
		return err
	})
}

// DeleteExpiredSessions deletes sessions that are over; see store.Housekeeping.
func (s *Store) DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH old AS (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
			DELETE FROM sessions s USING old WHERE s.id = old.id`, now, limit)
		deleted = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return deleted, nil
}
