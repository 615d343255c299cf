package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const appColumns = `id, tenant_id, uid, config, created_at, updated_at, deleted_at, revision`

func scanApp(s *stmt) (a kapsel.App, err error) {
	a = kapsel.App{ID: s.colID(), TenantID: s.colID(), UID: s.colText()}
	if err := json.Unmarshal(s.view(), &a.AppConfig); err != nil {
		return a, fmt.Errorf("read the app's configuration: %w", err)
	}
	a.CreatedAt, a.UpdatedAt, a.DeletedAt, a.Revision = s.colTime(), s.colTime(), s.colTime(), s.colInt()
	return a, nil
}

// liveApp returns an app of the tenant, or of any tenant if tenant is zero. It fails with NotFound
// if there is none or it is deleted.
func liveApp(c *conn, tenant kapsel.TenantID, id kapsel.AppID) (kapsel.App, error) {
	a, err := live(c.query(`SELECT `+appColumns+` FROM apps WHERE id = ? AND deleted_at IS NULL`, id), "app", scanApp)
	if err == nil && !tenant.IsZero() && a.TenantID != tenant {
		err = store.NotFound("app")
	}
	return a, err
}

// appOf returns the app of a tenant that has a uid. It fails with NotFound if there is none.
func appOf(c *conn, tenant kapsel.TenantID, uid string) (kapsel.App, error) {
	return live(c.query(`SELECT `+appColumns+` FROM apps WHERE tenant_id = ? AND uid = ? AND deleted_at IS NULL`, tenant, uid), "app", scanApp)
}

// saveApp writes an app, new or not, under the next revision. It fails with a Conflict if another
// app has the uid.
func saveApp(c *conn, a *kapsel.App) (err error) {
	if a.UID != "" && a.DeletedAt.IsZero() {
		other, err := appOf(c, a.TenantID, a.UID)
		if err == nil && other.ID != a.ID {
			return rules.UIDTaken()
		}
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			return err
		}
	}
	config, err := json.Marshal(a.AppConfig)
	if err != nil {
		return fmt.Errorf("write the app's configuration: %w", err)
	}
	if a.Revision, err = nextRevision(c); err != nil {
		return err
	}
	s := c.stmt(`INSERT OR REPLACE INTO apps (` + appColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
	s.id(a.ID).id(a.TenantID).textOrNull(a.UID).blob(config)
	return s.time(a.CreatedAt).time(a.UpdatedAt).time(a.DeletedAt).int(a.Revision).exec()
}

// CreateApp implements store.Directory.
func (s *Store) CreateApp(ctx context.Context, a kapsel.App) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if _, err := liveTenant(c, a.TenantID); err != nil {
			return err
		}
		if err := absent(c, "apps", a.ID); err != nil {
			return err
		}
		if err := saveApp(c, &a); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&a))
	})
}

// App implements store.Directory.
func (s *Store) App(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID) (a kapsel.App, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		a, err = liveApp(c, tenant, id)
		return err
	})
	return a, err
}

// AppByUID implements store.Directory.
func (s *Store) AppByUID(ctx context.Context, tenant kapsel.TenantID, uid string) (a kapsel.App, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		a, err = appOf(c, tenant, uid)
		return err
	})
	return a, err
}

// UpdateApp implements store.Directory.
func (s *Store) UpdateApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, change func(*kapsel.App) error) (kapsel.App, error) {
	return update(s, ctx, func(c *conn) (kapsel.App, error) { return liveApp(c, tenant, id) }, change, saveApp)
}

// DeleteApp implements store.Directory.
func (s *Store) DeleteApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		a, err := liveApp(c, tenant, id)
		if err != nil {
			return err
		}
		endpoints := 0
		_, err = c.query(`SELECT count(*) FROM endpoints WHERE app_id = ? AND deleted_at IS NULL`, id).
			one(func(s *stmt) { endpoints = int(s.colInt()) })
		if err != nil {
			return err
		}
		if err := rules.AppUnused(endpoints); err != nil {
			return err
		}
		was := s.by.See(&a)
		a.DeletedAt, a.UpdatedAt = now, now
		if err := saveApp(c, &a); err != nil {
			return err
		}
		return s.note(c, was, s.by.See(&a))
	})
}

// ListApps implements store.Directory.
func (s *Store) ListApps(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.AppID]) ([]kapsel.App, error) {
	return listOf(s, ctx, "apps", appColumns, scanApp, tenant, p)
}
