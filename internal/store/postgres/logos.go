package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const logoColumns = "tenant_id, type, CAST(octet_length(image) AS bigint), hash, alt, updated_at"

func scanLogo(r *row) kapsel.PortalLogo {
	l := kapsel.PortalLogo{TenantID: r.id(), Type: r.text(), Size: int(r.int8())}
	copy(l.Hash[:], r.next(len(l.Hash)))
	l.Alt, l.UpdatedAt = r.text(), r.time()
	return l
}

func scanWholeLogo(r *row) kapsel.PortalLogo {
	l := scanLogo(r)
	l.Image = r.bytes()
	return l
}

// foundLogo returns columns of a tenant's logo, as scan reads them.
func foundLogo(ctx context.Context, q querier, tenantID kapsel.TenantID, scan func(*row) kapsel.PortalLogo, columns, lock string) (kapsel.PortalLogo, error) {
	l, ok, err := first(ctx, q, scan, "SELECT "+columns+" FROM portal_logos WHERE tenant_id = $1"+lock, id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("portal logo")
	}
	return l, err
}

// SetPortalLogo stores a tenant's logo; see store.PortalLogos.
func (s *Store) SetPortalLogo(ctx context.Context, l kapsel.PortalLogo) error {
	return s.change(ctx, viewOf(l.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tenant(ctx, tx, l.TenantID, " FOR UPDATE"); err != nil { // two of these come one after the other
			return err
		}
		was, err := foundLogo(ctx, tx, l.TenantID, scanLogo, logoColumns, "")
		var before store.Seen
		switch {
		case err == nil:
			before = s.by.See(&was)
		case kapsel.CodeOf(err) != kapsel.NotFound:
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO portal_logos (tenant_id, type, image, hash, alt, updated_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant_id) DO UPDATE SET type = $2, image = $3, hash = $4, alt = $5, updated_at = $6`,
			id(l.TenantID), l.Type, l.Image, l.Hash[:], l.Alt, l.UpdatedAt)
		if err != nil {
			return err
		}
		return s.note(ctx, tx, before, s.by.See(&l))
	})
}

// PortalLogo reads a tenant's logo; see store.PortalLogos.
func (s *Store) PortalLogo(ctx context.Context, tenantID kapsel.TenantID) (l kapsel.PortalLogo, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		l, err = foundLogo(ctx, q, tenantID, scanWholeLogo, logoColumns+", image", "")
		return err
	})
	return l, err
}

// PortalLogoHead reads a tenant's logo without its image; see store.PortalLogos.
func (s *Store) PortalLogoHead(ctx context.Context, tenantID kapsel.TenantID) (l kapsel.PortalLogo, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		l, err = foundLogo(ctx, q, tenantID, scanLogo, logoColumns, "")
		return err
	})
	return l, err
}

// DeletePortalLogo deletes a tenant's logo; see store.PortalLogos.
func (s *Store) DeletePortalLogo(ctx context.Context, tenantID kapsel.TenantID) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		was, err := foundLogo(ctx, tx, tenantID, scanLogo, logoColumns, " FOR UPDATE")
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM portal_logos WHERE tenant_id = $1", id(tenantID)); err != nil {
			return err
		}
		return s.note(ctx, tx, s.by.See(&was), store.Seen{})
	})
}
