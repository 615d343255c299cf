package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const portalColumns = "id, tenant_id, app_id, mode, sites, key_id, key_hash, token, session, created_at, expires_at, used_at, revoked_at"

// livePortalLink is the condition that a portal link is worth something at a time: it was not revoked, has
// not expired, and its tenant is there and so is its app, if it has one.
const livePortalLink = `revoked_at IS NULL AND expires_at > $2
	AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = portal_links.tenant_id AND t.deleted_at IS NULL)
	AND (app_id IS NULL OR EXISTS (SELECT 1 FROM apps a WHERE a.id = portal_links.app_id AND a.deleted_at IS NULL))`

func scanPortalLink(r *row) kapsel.PortalLink {
	l := kapsel.PortalLink{ID: r.id(), TenantID: r.id(), AppID: r.id(), Mode: kapsel.PortalMode(r.text())}
	scanJSON(r, &l.Sites)
	l.KeyID = r.id()
	copy(l.KeyHash[:], r.next(len(l.KeyHash)))
	copy(l.Token[:], r.next(len(l.Token)))
	copy(l.Session[:], r.next(len(l.Session)))
	l.CreatedAt, l.ExpiresAt, l.UsedAt, l.RevokedAt = r.time(), r.time(), r.time(), r.time()
	return l
}

// CreatePortalLink stores a link; see store.PortalLinks.
func (s *Store) CreatePortalLink(ctx context.Context, l kapsel.PortalLink) error {
	sites, err := json.Marshal(l.Sites)
	if err != nil {
		return fmt.Errorf("write the sites of a portal link: %w", err)
	}
	return s.change(ctx, viewOf(l.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		err := created(tx.Exec(ctx, `
			INSERT INTO portal_links (id, tenant_id, app_id, mode, sites, key_id, key_hash, token, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
			id(l.ID), id(l.TenantID), id(l.AppID), string(l.Mode), string(sites), id(l.KeyID), l.KeyHash[:], l.Token[:], l.CreatedAt, l.ExpiresAt))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&l))
	})
}

// PortalLink reads a link; see store.PortalLinks.
func (s *Store) PortalLink(ctx context.Context, tenantID kapsel.TenantID, linkID kapsel.PortalLinkID) (kapsel.PortalLink, error) {
	return s.portalLink(ctx, viewOf(tenantID), "id = $1 AND ($2::uuid IS NULL OR tenant_id = $2)", id(linkID), id(tenantID))
}

// PortalBySession finds a link by its session; see store.PortalLinks.
func (s *Store) PortalBySession(ctx context.Context, session [32]byte, now time.Time) (kapsel.PortalLink, error) {
	return s.portalLink(ctx, engine, "session = $1 AND "+livePortalLink, session[:], now)
}

func (s *Store) portalLink(ctx context.Context, v view, where string, args ...any) (l kapsel.PortalLink, err error) {
	err = s.read(ctx, v, func(ctx context.Context, q querier) error {
		l, err = foundPortalLink(ctx, q, "SELECT "+portalColumns+" FROM portal_links WHERE "+where, args...)
		return err
	})
	return l, err
}

func foundPortalLink(ctx context.Context, q querier, sql string, args ...any) (kapsel.PortalLink, error) {
	l, ok, err := first(ctx, q, scanPortalLink, sql, args...)
	if err == nil && !ok {
		err = store.NotFound("portal link")
	}
	return l, err
}

// OpenPortal uses a link; see store.PortalLinks. The row's lock lets one of several calls through.
func (s *Store) OpenPortal(ctx context.Context, token, session [32]byte, now time.Time) (l kapsel.PortalLink, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		l, err = foundPortalLink(ctx, tx, `
			UPDATE portal_links SET session = $1, used_at = $2
			WHERE token = $3 AND used_at IS NULL AND `+livePortalLink+` RETURNING `+portalColumns,
			session[:], now, token[:])
		return err
	})
	return l, err
}

// ListPortalLinks lists links; see store.PortalLinks.
func (s *Store) ListPortalLinks(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error) {
	return list(ctx, s, viewOf(tenantID), scanPortalLink, `
		SELECT `+portalColumns+` FROM portal_links
		WHERE ($1::uuid IS NULL OR tenant_id = $1) AND id < $2 ORDER BY id DESC LIMIT $3`, id(tenantID), before(p.Before), p.Limit)
}

// RevokePortalLink ends a link and its session; see store.PortalLinks.
func (s *Store) RevokePortalLink(ctx context.Context, tenantID kapsel.TenantID, linkID kapsel.PortalLinkID, now time.Time) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		l, err := foundPortalLink(ctx, tx, "SELECT "+portalColumns+" FROM portal_links WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) FOR UPDATE",
			id(linkID), id(tenantID))
		if err != nil || !l.RevokedAt.IsZero() {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE portal_links SET revoked_at = $1 WHERE id = $2", now, id(linkID)); err != nil {
			return err
		}
		before := s.by.See(&l)
		l.RevokedAt = now
		return s.note(ctx, tx, before, s.by.See(&l))
	})
}

// DeleteExpiredPortalLinks deletes links that are over; see store.Housekeeping.
func (s *Store) DeleteExpiredPortalLinks(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH old AS (SELECT id FROM portal_links WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
			DELETE FROM portal_links l USING old WHERE l.id = old.id`, now, limit)
		deleted = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return deleted, nil
}
