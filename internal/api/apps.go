package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) apps() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"Apps"}}
	}
	taken := failure{409, kapsel.Conflict}
	create := op("create-app", http.MethodPost, "/v1/apps", "Create an app: a customer, whose endpoints get what is published to it")
	create.DefaultStatus = http.StatusCreated
	add(a, writers, takes[AppInput](fails(create, failure{404, kapsel.NotFound}, taken)), a.createApp)
	add(a, readers, op("list-apps", http.MethodGet, "/v1/apps", "List apps"), a.listApps)
	add(a, readers, op("get-app", http.MethodGet, "/v1/apps/{id}", "Get an app"), a.getApp)
	put := op("put-app", http.MethodPut, "/v1/apps/{id}", "Create the app of a uid, or replace what was set on it")
	addPut(a, takes[AppInput](fails(put, taken)), a.putApp)
	add(a, writers, takes[AppPatch](fails(op("update-app", http.MethodPatch, "/v1/apps/{id}", "Change an app"), taken)), a.updateApp)
	remove := op("delete-app", http.MethodDelete, "/v1/apps/{id}", "Delete an app. Refused while it has endpoints")
	add(a, writers, fails(remove, taken), a.deleteApp)
}

// AppPath is a route below one app.
type AppPath struct {
	TenantQuery
	ID string `path:"id" doc:"The app's id or uid. A uid needs tenant_id with the admin key"`
}

// app finds the app that an id or a uid names. A uid is of one tenant, which the admin key names.
func (a *api) app(ctx context.Context, q TenantQuery, ref string) (kapsel.App, error) {
	tenant := q.of(callerOf(ctx))
	if _, err := kapsel.ParseAppID(ref); err != nil {
		switch {
		case !kapsel.ValidUID(ref):
			return kapsel.App{}, store.NotFound("app")
		case tenant.IsZero():
			return kapsel.App{}, refused(field("tenant_id", "is needed with the admin key and a uid"))
		}
	}
	return store.FindApp(ctx, a.Store, tenant, ref)
}

// filteredApp returns the app that the parameter app_id of a list names; zero: none. An id need not
// be that of an app: then nothing is listed.
func (a *api) filteredApp(ctx context.Context, q TenantQuery, ref string) (kapsel.AppID, error) {
	if id, err := kapsel.ParseAppID(ref); err == nil || ref == "" {
		return id, nil
	}
	found, err := a.app(ctx, q, ref)
	if missing(err) {
		err = kapsel.NoApp("app_id")
	}
	return found.ID, err
}

func (a *api) createApp(ctx context.Context, in *TenantQuery) (*out[App], error) {
	var body AppInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	t, err := a.owner(ctx, *in)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	app := kapsel.App{ID: fresh(ctx, kapsel.NewAppID(now)), TenantID: t.ID, CreatedAt: now}
	if err := body.configure(&app, now); err != nil {
		return nil, err
	}
	if err := a.Store.CreateApp(ctx, app); err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewApp(&app)), nil
}

// AppsList is the list of apps.
type AppsList struct {
	TenantQuery
	PageQuery
}

func (a *api) listApps(ctx context.Context, in *AppsList) (*out[list[App]], error) {
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.AppID]) ([]kapsel.App, error) {
			return a.Store.ListApps(ctx, in.of(callerOf(ctx)), p)
		},
		func(app kapsel.App) kapsel.AppID { return app.ID },
		func(app kapsel.App) (App, error) { return viewApp(&app), nil })
}

func (a *api) getApp(ctx context.Context, in *AppPath) (*out[App], error) {
	app, err := a.app(ctx, in.TenantQuery, in.ID)
	if err != nil {
		return nil, err
	}
	return answer(viewApp(&app)), nil
}

// putApp creates an app or replaces what was set on it, but for the uid, which stays where the body
// has none. Of two calls that create one app at the same time, the later replaces.
func (a *api) putApp(ctx context.Context, in *AppPath) (*upserted[App], error) {
	var body AppInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	_, notID := kapsel.ParseAppID(in.ID)
	switch {
	case notID != nil && body.UID != nil && *body.UID != in.ID:
		return nil, refused(field("uid", "must be the one in the path, or left out"))
	case notID != nil && !kapsel.ValidUID(in.ID): // nothing that could be created
		body.UID = &in.ID
		return nil, body.configure(&kapsel.App{}, a.Clock())
	}
	for range 3 {
		now := a.Clock()
		app, err := a.app(ctx, in.TenantQuery, in.ID)
		status := http.StatusOK
		switch {
		case err == nil:
			app, err = a.Store.UpdateApp(ctx, app.TenantID, app.ID, func(app *kapsel.App) error {
				if body.UID == nil {
					body.UID = orNull(app.UID)
				}
				return body.configure(app, now)
			})
		case missing(err) && notID != nil:
			var t kapsel.Tenant
			if t, err = a.owner(ctx, in.TenantQuery); err != nil {
				return nil, err
			}
			status, body.UID = http.StatusCreated, &in.ID
			app = kapsel.App{ID: kapsel.NewAppID(now), TenantID: t.ID, CreatedAt: now}
			if err = body.configure(&app, now); err == nil {
				err = a.Store.CreateApp(ctx, app)
			}
			if kapsel.CodeOf(err) == kapsel.Conflict { // another made it meanwhile, or an older node is alive
				if _, again := a.app(ctx, in.TenantQuery, in.ID); again == nil {
					continue
				}
			}
		}
		if err != nil {
			return nil, err
		}
		a.Changed()
		return &upserted[App]{status, viewApp(&app)}, nil
	}
	return nil, errBusy
}

func (a *api) updateApp(ctx context.Context, in *AppPath) (*out[App], error) {
	patch, err := readPatch[AppPatch](ctx)
	if err != nil {
		return nil, err
	}
	app, err := a.app(ctx, in.TenantQuery, in.ID)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	app, err = a.Store.UpdateApp(ctx, app.TenantID, app.ID, func(app *kapsel.App) error {
		var next AppInput
		if err := patched(appInputOf(app), patch, &next); err != nil {
			return err
		}
		return next.configure(app, now)
	})
	if err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewApp(&app)), nil
}

func (a *api) deleteApp(ctx context.Context, in *AppPath) (*struct{}, error) {
	app, err := a.app(ctx, in.TenantQuery, in.ID)
	if err != nil {
		return nil, err
	}
	if err := a.Store.DeleteApp(ctx, app.TenantID, app.ID, a.Clock()); err != nil {
		return nil, err
	}
	a.Changed()
	return nil, nil
}

// AppInput is what people set on an app.
type AppInput struct {
	UID       *string            `json:"uid,omitempty" required:"false" maxLength:"255" pattern:"^[A-Za-z0-9._-]+$" doc:"Your own id of it, unique in the tenant and not in the form of an id; it stands wherever the id does"`
	Name      string             `json:"name" minLength:"1" maxLength:"200"`
	Metadata  map[string]*string `json:"metadata,omitempty" required:"false" doc:"At most 50 texts of your own. PATCH changes single names; null takes one away"`
	RateLimit *RateLimit         `json:"rate_limit,omitempty" required:"false" doc:"How fast events may be published to it; none without it"`
}

// AppPatch is what PATCH takes.
type AppPatch struct{ AppInput }

// TransformSchema says that uid and rate_limit may be null.
func (AppInput) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["uid"].Nullable = true
	return mayBeNull(s, "rate_limit")
}

// appInputOf is an app as its owner would set it.
func appInputOf(app *kapsel.App) AppInput {
	in := AppInput{orNull(app.UID), app.Name, make(map[string]*string, len(app.Metadata)), (*RateLimit)(app.RateLimit)}
	for name, text := range app.Metadata {
		in.Metadata[name] = &text
	}
	return in
}

// configure sets on an app what the input says.
func (in *AppInput) configure(app *kapsel.App, now time.Time) error {
	app.UID, app.UpdatedAt = "", now
	if in.UID != nil {
		app.UID = *in.UID
	}
	app.AppConfig = kapsel.AppConfig{Name: in.Name, RateLimit: (*kapsel.RateLimit)(in.RateLimit)}
	for name, text := range in.Metadata {
		if text == nil {
			continue
		}
		if app.Metadata == nil {
			app.Metadata = map[string]string{}
		}
		app.Metadata[name] = *text
	}
	wrong := app.Validate()
	if in.UID != nil && *in.UID == "" {
		wrong = append(wrong, field("uid", "must not be empty; null is none")...)
	}
	if wrong != nil {
		return refused(wrong[:min(len(wrong), maxErrors)])
	}
	return nil
}

// App is an app as the API shows it.
type App struct {
	ID        kapsel.AppID      `json:"id"`
	TenantID  kapsel.TenantID   `json:"tenant_id"`
	UID       *string           `json:"uid" nullable:"true" doc:"Your own id of it; null: none"`
	Name      string            `json:"name"`
	Metadata  map[string]string `json:"metadata" doc:"Texts of your own"`
	RateLimit *RateLimit        `json:"rate_limit" required:"false" doc:"How fast events may be published to it; null: no limit"`
	CreatedAt timestamp         `json:"created_at"`
	UpdatedAt timestamp         `json:"updated_at"`
}

// TransformSchema says that rate_limit may be null.
func (App) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(s, "rate_limit")
}

func viewApp(app *kapsel.App) App {
	metadata := app.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return App{app.ID, app.TenantID, orNull(app.UID), app.Name, metadata, (*RateLimit)(app.RateLimit), timestamp(app.CreatedAt), timestamp(app.UpdatedAt)}
}
