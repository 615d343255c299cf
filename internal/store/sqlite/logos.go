package sqlite

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const logoColumns = `tenant_id, type, length(image), hash, alt, updated_at`

func scanLogo(q *stmt) (l kapsel.PortalLogo, err error) {
	l = kapsel.PortalLogo{TenantID: q.colID(), Type: q.colText(), Size: int(q.colInt())}
	copy(l.Hash[:], q.view())
	l.Alt, l.UpdatedAt = q.colText(), q.colTime()
	return l, nil
}

func scanWholeLogo(q *stmt) (kapsel.PortalLogo, error) {
	l, err := scanLogo(q)
	l.Image = q.colBlob()
	return l, err
}

// logoOf returns a tenant's logo without its image.
func logoOf(c *conn, tenant kapsel.TenantID) (kapsel.PortalLogo, error) {
	return live(c.query(`SELECT `+logoColumns+` FROM portal_logos WHERE tenant_id = ?`, tenant), "portal logo", scanLogo)
}

// SetPortalLogo implements store.PortalLogos.
func (s *Store) SetPortalLogo(ctx context.Context, l kapsel.PortalLogo) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if _, err := liveTenant(c, l.TenantID); err != nil {
			return err
		}
		was, err := logoOf(c, l.TenantID)
		var before store.Seen
		switch {
		case err == nil:
			before = s.by.See(&was)
		case kapsel.CodeOf(err) != kapsel.NotFound:
			return err
		}
		err = c.exec(`INSERT OR REPLACE INTO portal_logos (tenant_id, type, image, hash, alt, updated_at) VALUES (?, ?, ?, ?, ?, ?)`,
			l.TenantID, l.Type, l.Image, l.Hash, l.Alt, l.UpdatedAt)
		if err != nil {
			return err
		}
		return s.note(c, before, s.by.See(&l))
	})
}

// PortalLogo implements store.PortalLogos.
func (s *Store) PortalLogo(ctx context.Context, tenant kapsel.TenantID) (l kapsel.PortalLogo, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		l, err = live(c.query(`SELECT `+logoColumns+`, image FROM portal_logos WHERE tenant_id = ?`, tenant), "portal logo", scanWholeLogo)
		return err
	})
	return l, err
}

// PortalLogoHead implements store.PortalLogos.
func (s *Store) PortalLogoHead(ctx context.Context, tenant kapsel.TenantID) (l kapsel.PortalLogo, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		l, err = logoOf(c, tenant)
		return err
	})
	return l, err
}

// DeletePortalLogo implements store.PortalLogos.
func (s *Store) DeletePortalLogo(ctx context.Context, tenant kapsel.TenantID) error {
	return s.writer.cold(ctx, func(c *conn) error {
		was, err := logoOf(c, tenant)
		if err != nil {
			return err
		}
		if err := c.exec(`DELETE FROM portal_logos WHERE tenant_id = ?`, tenant); err != nil {
			return err
		}
		return s.note(c, s.by.See(&was), store.Seen{})
	})
}
