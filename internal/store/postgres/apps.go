package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const appColumns = "id, tenant_id, uid, config, created_at, updated_at, deleted_at, revision"

func scanApp(r *row) kapsel.App {
	a := kapsel.App{ID: r.id(), TenantID: r.id(), UID: r.text()}
	scanJSON(r, &a.AppConfig)
	a.CreatedAt, a.UpdatedAt, a.DeletedAt, a.Revision = r.time(), r.time(), r.time(), r.int8()
	return a
}

// app returns an app of the tenant, or of any tenant for the zero one. It fails with NotFound if
// there is none or it is deleted. lock must be "" or a locking clause.
func app(ctx context.Context, q querier, tenantID kapsel.TenantID, appID kapsel.AppID, lock string) (kapsel.App, error) {
	a, ok, err := first(ctx, q, scanApp, `
		SELECT `+appColumns+` FROM apps
		WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) AND deleted_at IS NULL`+lock, id(appID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("app")
	}
	return a, err
}

// uidTaken returns the error of a statement that writes an app or an endpoint: a Conflict if another
// one has the uid.
func uidTaken(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.ConstraintName {
		case "apps_uid":
			return rules.UIDTaken()
		case "endpoints_uid":
			return rules.EndpointUIDTaken()
		}
	}
	return err
}

// CreateApp stores an app; see store.Directory. It locks the tenant's row as CreateEndpoint does,
// so that the tenant is not deleted meanwhile.
func (s *Store) CreateApp(ctx context.Context, a kapsel.App) error {
	config, err := json.Marshal(a.AppConfig)
	if err != nil {
		return err
	}
	return s.change(ctx, viewOf(a.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tenant(ctx, tx, a.TenantID, " FOR UPDATE"); err != nil {
			return err
		}
		if err := current(ctx, tx, a.CreatedAt, appsSchema); err != nil {
			return err
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		err = uidTaken(created(tx.Exec(ctx, `
			INSERT INTO apps (id, tenant_id, uid, config, created_at, updated_at, revision)
			VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
			id(a.ID), id(a.TenantID), a.UID, string(config), a.CreatedAt, a.UpdatedAt, revision)))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&a))
	})
}

// App reads an app; see store.Directory.
func (s *Store) App(ctx context.Context, tenantID kapsel.TenantID, appID kapsel.AppID) (a kapsel.App, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		a, err = app(ctx, q, tenantID, appID, "")
		return err
	})
	return a, err
}

// AppByUID reads the app with a uid; see store.Directory.
func (s *Store) AppByUID(ctx context.Context, tenantID kapsel.TenantID, uid string) (kapsel.App, error) {
	found, err := list(ctx, s, viewOf(tenantID), scanApp, `
		SELECT `+appColumns+` FROM apps WHERE tenant_id = $1 AND uid = $2 AND deleted_at IS NULL`, id(tenantID), uid)
	if err == nil && len(found) == 0 {
		err = store.NotFound("app")
	}
	if err != nil {
		return kapsel.App{}, err
	}
	return found[0], nil
}

// UpdateApp changes an app; see store.Directory.
func (s *Store) UpdateApp(ctx context.Context, tenantID kapsel.TenantID, appID kapsel.AppID, change func(*kapsel.App) error) (kapsel.App, error) {
	return s.changeApp(ctx, tenantID, appID, func(_ context.Context, _ pgx.Tx, a *kapsel.App) error {
		if err := change(a); err != nil {
			return callerError{err}
		}
		return nil
	})
}

// DeleteApp hides an app without endpoints; see store.Directory. An endpoint that is made meanwhile
// locks the app's row, and so comes before it or after it.
func (s *Store) DeleteApp(ctx context.Context, tenantID kapsel.TenantID, appID kapsel.AppID, now time.Time) error {
	_, err := s.changeApp(ctx, tenantID, appID, func(ctx context.Context, tx pgx.Tx, a *kapsel.App) error {
		a.DeletedAt, a.UpdatedAt = now, now
		var endpoints int
		err := tx.QueryRow(ctx, "SELECT count(*) FROM endpoints WHERE app_id = $1 AND deleted_at IS NULL", id(appID)).Scan(&endpoints)
		if err != nil {
			return err
		}
		return rules.AppUnused(endpoints)
	})
	return err
}

// changeApp calls change with an app that is not deleted, and writes it under the next revision.
func (s *Store) changeApp(ctx context.Context, tenantID kapsel.TenantID, appID kapsel.AppID, change func(context.Context, pgx.Tx, *kapsel.App) error) (a kapsel.App, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if a, err = app(ctx, tx, tenantID, appID, " FOR UPDATE"); err != nil {
			return err
		}
		was := s.by.See(&a)
		if err := change(ctx, tx, &a); err != nil {
			return err
		}
		config, err := json.Marshal(a.AppConfig)
		if err != nil {
			return err
		}
		if a.Revision, err = nextRevision(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE apps SET uid = nullif($2, ''), config = $3, updated_at = $4, deleted_at = $5, revision = $6 WHERE id = $1",
			id(a.ID), a.UID, string(config), a.UpdatedAt, at(a.DeletedAt), a.Revision)
		if err != nil {
			return uidTaken(err)
		}
		return s.note(ctx, tx, was, s.by.See(&a))
	})
	if err != nil {
		return kapsel.App{}, err
	}
	return a, nil
}

// ListApps returns a tenant's apps, those of all tenants for the zero one; see store.Directory.
func (s *Store) ListApps(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.AppID]) ([]kapsel.App, error) {
	return list(ctx, s, viewOf(tenantID), scanApp, `
		SELECT `+appColumns+` FROM apps
		WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1) AND id < $2
		ORDER BY id DESC LIMIT $3`, id(tenantID), before(p.Before), p.Limit)
}
