package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const portalColumns = `id, tenant_id, app_id, mode, sites, key_id, key_hash, token, session, created_at, expires_at, used_at, revoked_at`

// livePortalLink is the condition that a portal link is worth something at a time: it was not revoked, has
// not expired, and its tenant is there and so is its app, if it has one.
const livePortalLink = `revoked_at IS NULL AND expires_at > ?
	AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = portal_links.tenant_id AND t.deleted_at IS NULL)
	AND (app_id IS NULL OR EXISTS (SELECT 1 FROM apps a WHERE a.id = portal_links.app_id AND a.deleted_at IS NULL))`

func scanPortalLink(q *stmt) (l kapsel.PortalLink, err error) {
	l = kapsel.PortalLink{ID: q.colID(), TenantID: q.colID(), AppID: q.colID(), Mode: kapsel.PortalMode(q.colText())}
	if err := json.Unmarshal(q.view(), &l.Sites); err != nil {
		return l, fmt.Errorf("read the sites of a portal link: %w", err)
	}
	l.KeyID = q.colID()
	copy(l.KeyHash[:], q.view())
	copy(l.Token[:], q.view())
	copy(l.Session[:], q.view())
	l.CreatedAt, l.ExpiresAt, l.UsedAt, l.RevokedAt = q.colTime(), q.colTime(), q.colTime(), q.colTime()
	return l, nil
}

// CreatePortalLink implements store.PortalLinks.
func (s *Store) CreatePortalLink(ctx context.Context, l kapsel.PortalLink) error {
	sites, err := json.Marshal(l.Sites)
	if err != nil {
		return fmt.Errorf("write the sites of a portal link: %w", err)
	}
	return s.writer.cold(ctx, func(c *conn) error {
		if err := absent(c, "portal_links", l.ID); err != nil {
			return err
		}
		err := c.exec(`INSERT INTO portal_links (`+portalColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, NULL, NULL)`,
			l.ID, l.TenantID, l.AppID, string(l.Mode), sites, l.KeyID, l.KeyHash, l.Token, l.CreatedAt, l.ExpiresAt)
		if err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&l))
	})
}

// PortalLink implements store.PortalLinks.
func (s *Store) PortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID) (kapsel.PortalLink, error) {
	return s.portalLink(ctx, `id = ? AND (? OR tenant_id = ?)`, id, tenant.IsZero(), tenant[:])
}

// PortalBySession implements store.PortalLinks.
func (s *Store) PortalBySession(ctx context.Context, session [32]byte, now time.Time) (kapsel.PortalLink, error) {
	return s.portalLink(ctx, `session = ? AND `+livePortalLink, session, now)
}

func (s *Store) portalLink(ctx context.Context, where string, args ...any) (l kapsel.PortalLink, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		l, err = live(c.query(`SELECT `+portalColumns+` FROM portal_links WHERE `+where, args...), "portal link", scanPortalLink)
		return err
	})
	return l, err
}

// OpenPortal implements store.PortalLinks.
func (s *Store) OpenPortal(ctx context.Context, token, session [32]byte, now time.Time) (l kapsel.PortalLink, err error) {
	err = s.writer.cold(ctx, func(c *conn) (err error) {
		l, err = live(c.query(`UPDATE portal_links SET session = ?, used_at = ?
			WHERE token = ? AND used_at IS NULL AND `+livePortalLink+` RETURNING `+portalColumns,
			session, now, token, now), "portal link", scanPortalLink)
		return err
	})
	return l, err
}

// ListPortalLinks implements store.PortalLinks.
func (s *Store) ListPortalLinks(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error) {
	if tenant.IsZero() {
		return list(s, ctx, p.Limit, scanPortalLink, `SELECT `+portalColumns+` FROM portal_links WHERE id < ? ORDER BY id DESC LIMIT ?`, before(p.Before))
	}
	return list(s, ctx, p.Limit, scanPortalLink, `SELECT `+portalColumns+` FROM portal_links
		WHERE tenant_id = ? AND id < ? ORDER BY id DESC LIMIT ?`, tenant, before(p.Before))
}

// RevokePortalLink implements store.PortalLinks.
func (s *Store) RevokePortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		l, err := live(c.query(`SELECT `+portalColumns+` FROM portal_links WHERE id = ? AND (? OR tenant_id = ?)`, id, tenant.IsZero(), tenant[:]),
			"portal link", scanPortalLink)
		if err != nil || !l.RevokedAt.IsZero() {
			return err
		}
		if err := c.exec(`UPDATE portal_links SET revoked_at = ? WHERE id = ?`, now, id); err != nil {
			return err
		}
		before := s.by.See(&l)
		l.RevokedAt = now
		return s.note(c, before, s.by.See(&l))
	})
}

// DeleteExpiredPortalLinks implements store.Housekeeping.
func (s *Store) DeleteExpiredPortalLinks(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		err := c.exec(`DELETE FROM portal_links WHERE id IN (SELECT id FROM portal_links WHERE expires_at <= ? LIMIT ?)`, now, limit)
		return c.changes(), err
	})
}
