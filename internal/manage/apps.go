package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// AppRef names an app by its ID or its uid. A uid is one tenant's: the admin must name the tenant.
type AppRef struct {
	Tenant kapsel.TenantID // which tenant the admin means; of other callers it is their own
	Ref    string
}

// AppSettings are what people set on an app.
type AppSettings struct {
	UID *string // the tenant's own ID of it; nil: none
	kapsel.AppConfig
}

// App returns an app.
func (m *Manager) App(ctx context.Context, c access.Caller, ref AppRef) (kapsel.App, error) {
	if err := c.Check(access.Read); err != nil {
		return kapsel.App{}, err
	}
	return m.app(ctx, c.TenantOr(ref.Tenant), ref.Ref)
}

// app returns the app of a tenant, or of all for an ID, that a reference names.
func (m *Manager) app(ctx context.Context, tenant kapsel.TenantID, ref string) (kapsel.App, error) {
	if !isAppID(ref) {
		switch {
		case !kapsel.ValidUID(ref):
			return kapsel.App{}, store.NotFound("app")
		case tenant.IsZero():
			return kapsel.App{}, refused("tenant_id", "is needed with the admin key and a uid")
		}
	}
	return store.FindApp(ctx, m.Store, tenant, ref)
}

func isAppID(ref string) bool {
	_, err := kapsel.ParseAppID(ref)
	return err == nil
}

// AppFilter returns the app by which a list is filtered; zero for an empty reference: no filter. An ID
// need not be that of an app: then nothing is listed.
func (m *Manager) AppFilter(ctx context.Context, c access.Caller, ref AppRef) (kapsel.AppID, error) {
	if id, err := kapsel.ParseAppID(ref.Ref); err == nil || ref.Ref == "" {
		return id, nil
	}
	found, err := m.App(ctx, c, ref)
	if missing(err) {
		err = kapsel.NoApp("app_id")
	}
	return found.ID, err
}

// ListApps returns a page of the apps that are not deleted, newest first: of one tenant, or of all for
// an admin who names none.
func (m *Manager) ListApps(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.AppID]) ([]kapsel.App, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListApps(ctx, c.TenantOr(tenant), p)
}

// CreateApp makes an app of a tenant. id is the app's ID; zero: a new one.
func (m *Manager) CreateApp(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.AppID, s AppSettings) (kapsel.App, error) {
	if err := c.Check(access.Write); err != nil {
		return kapsel.App{}, err
	}
	app, err := m.createApp(ctx, c, tenant, id, s)
	return settled(m, app, err)
}

func (m *Manager) createApp(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.AppID, s AppSettings) (kapsel.App, error) {
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return kapsel.App{}, err
	}
	now := m.Clock()
	app := kapsel.App{ID: orNew(id, kapsel.NewAppID, now), TenantID: t.ID, CreatedAt: now}
	if err := s.apply(&app, now); err != nil {
		return kapsel.App{}, err
	}
	return app, m.by(c, "create").CreateApp(ctx, app)
}

// PutApp makes the app of a uid, or replaces what was set on the app that ref names, and reports whether
// it made one. The uid of an app stays if s has none.
func (m *Manager) PutApp(ctx context.Context, c access.Caller, ref AppRef, s AppSettings) (app kapsel.App, made bool, err error) {
	if err := c.Check(access.Write); err != nil {
		return app, false, err
	}
	byUID := !isAppID(ref.Ref)
	switch {
	case byUID && s.UID != nil && *s.UID != ref.Ref:
		return app, false, refused("uid", "must be the one in the path, or left out")
	case byUID && !kapsel.ValidUID(ref.Ref): // nothing that could be made
		s.UID = &ref.Ref
		return app, false, s.apply(&kapsel.App{}, m.Clock())
	case byUID:
		s.UID = &ref.Ref
	}
	find := func() (kapsel.App, error) { return m.App(ctx, c, ref) }
	app, made, err = upsert(func() (kapsel.App, error) {
		found, err := find()
		if err != nil {
			return found, err
		}
		now := m.Clock()
		return m.by(c, "update").UpdateApp(ctx, found.TenantID, found.ID, func(app *kapsel.App) error {
			if s.UID == nil {
				s.UID = orNil(app.UID)
			}
			return s.apply(app, now)
		})
	}, func() (kapsel.App, error) {
		if !byUID {
			return kapsel.App{}, store.NotFound("app")
		}
		return m.createApp(ctx, c, ref.Tenant, kapsel.AppID{}, s)
	}, func() error {
		_, err := find()
		return err
	})
	app, err = settled(m, app, err)
	return app, made, err
}

// UpdateApp changes what is set on an app. edit may run more than once; its error is returned.
func (m *Manager) UpdateApp(ctx context.Context, c access.Caller, ref AppRef, edit func(*AppSettings) error) (kapsel.App, error) {
	if err := c.Check(access.Write); err != nil {
		return kapsel.App{}, err
	}
	app, err := m.App(ctx, c, ref)
	if err != nil {
		return kapsel.App{}, err
	}
	now := m.Clock()
	app, err = m.by(c, "update").UpdateApp(ctx, app.TenantID, app.ID, func(app *kapsel.App) error {
		s := AppSettings{orNil(app.UID), app.AppConfig}
		if err := edit(&s); err != nil {
			return err
		}
		return s.apply(app, now)
	})
	return settled(m, app, err)
}

// DeleteApp deletes an app. It returns Conflict while the app has endpoints.
func (m *Manager) DeleteApp(ctx context.Context, c access.Caller, ref AppRef) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	app, err := m.App(ctx, c, ref)
	if err != nil {
		return err
	}
	_, err = settled(m, app, m.by(c, "delete").DeleteApp(ctx, app.TenantID, app.ID, m.Clock()))
	return err
}

// apply sets the settings on an app.
func (s *AppSettings) apply(app *kapsel.App, now time.Time) error {
	var wrong []kapsel.FieldError
	app.UID, wrong = uidOf(s.UID)
	app.UpdatedAt, app.AppConfig = now, s.AppConfig
	return check(append(app.Validate(), wrong...))
}

// uidOf returns the uid that people set, "" for none, and what is wrong with it beside what Validate finds.
func uidOf(set *string) (uid string, wrong []kapsel.FieldError) {
	switch {
	case set == nil:
		return "", nil
	case *set == "":
		return "", []kapsel.FieldError{{Field: "uid", Detail: "must not be empty; null is none"}}
	}
	return *set, nil
}
