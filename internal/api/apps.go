package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) apps() {
	op := tagged("Apps")
	taken := failure{409, kapsel.Conflict}
	create := op("create-app", http.MethodPost, "/v1/apps", "Create an app: a customer, whose endpoints get what is published to it")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, takes[AppInput](fails(create, failure{404, kapsel.NotFound}, taken)), a.createApp)
	add(a, access.Read, op("list-apps", http.MethodGet, "/v1/apps", "List apps"), listed(a.Manage.ListApps, func(app kapsel.App) kapsel.AppID { return app.ID }, viewApp))
	add(a, access.Read, op("get-app", http.MethodGet, "/v1/apps/{id}", "Get an app"), got(a.Manage.App, (*AppPath).ref, viewApp))
	put := op("put-app", http.MethodPut, "/v1/apps/{id}", "Create the app of a uid, or replace what was set on it")
	addPut(a, takes[AppInput](fails(put, taken)), a.putApp)
	add(a, access.Write, takes[AppPatch](fails(op("update-app", http.MethodPatch, "/v1/apps/{id}", "Change an app"), taken)), a.updateApp)
	remove := op("delete-app", http.MethodDelete, "/v1/apps/{id}", "Delete an app. Refused while it has endpoints")
	add(a, access.Write, fails(remove, taken), removed(a.Manage.DeleteApp, (*AppPath).ref))
}

// AppPath is a route below one app.
type AppPath struct {
	TenantQuery
	ID string `path:"id" doc:"The app's id or uid. A uid needs tenant_id with the admin key"`
}

// ref is the app that the path names.
func (in *AppPath) ref() manage.AppRef { return manage.AppRef{Tenant: in.TenantID, Ref: in.ID} }

func (a *api) createApp(ctx context.Context, in *TenantQuery) (*out[App], error) {
	var body AppInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	app, err := a.Manage.CreateApp(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.AppID](ctx), body.settings())
	return shownAs(viewApp, app, err)
}

func (a *api) putApp(ctx context.Context, in *AppPath) (*upserted[App], error) {
	var body AppInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	app, made, err := a.Manage.PutApp(ctx, callerOf(ctx), in.ref(), body.settings())
	return putAs(viewApp, app, made, err)
}

func (a *api) updateApp(ctx context.Context, in *AppPath) (*out[App], error) {
	patch, err := readPatch[AppPatch](ctx)
	if err != nil {
		return nil, err
	}
	app, err := a.Manage.UpdateApp(ctx, callerOf(ctx), in.ref(), func(s *manage.AppSettings) error {
		var next AppInput
		if err := patched(appInputOf(s), patch, &next); err != nil {
			return err
		}
		*s = next.settings()
		return nil
	})
	return shownAs(viewApp, app, err)
}

// AppInput is what people set on an app.
type AppInput struct {
	UID       *string    `json:"uid,omitempty" required:"false" maxLength:"255" pattern:"^[A-Za-z0-9._-]+$" doc:"Your own id of it, unique in the tenant and not in the form of an id; it stands wherever the id does"`
	Name      string     `json:"name" minLength:"1" maxLength:"200"`
	Metadata  metadata   `json:"metadata,omitempty" required:"false" doc:"At most 50 texts of your own. PATCH changes single names; null takes one away"`
	RateLimit *RateLimit `json:"rate_limit,omitempty" required:"false" doc:"How fast events may be published to it; none without it"`
}

// AppPatch is what PATCH takes.
type AppPatch struct{ AppInput }

// TransformSchema says that uid and rate_limit may be null.
func (AppInput) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["uid"].Nullable = true
	return mayBeNull(s, "rate_limit")
}

// appInputOf returns an app's settings as its owner would write them.
func appInputOf(s *manage.AppSettings) AppInput {
	return AppInput{s.UID, s.Name, metadataOf(s.Metadata), (*RateLimit)(s.RateLimit)}
}

// metadata are texts by name as people set them; a nil one takes its name away.
type metadata map[string]*string

// metadataOf returns texts as their owner would write them.
func metadataOf(texts map[string]string) metadata {
	m := make(metadata, len(texts))
	for name, text := range texts {
		m[name] = &text
	}
	return m
}

// texts returns the texts that are there, nil for none.
func (m metadata) texts() (texts map[string]string) {
	for name, text := range m {
		if text == nil {
			continue
		}
		if texts == nil {
			texts = map[string]string{}
		}
		texts[name] = *text
	}
	return texts
}

// settings returns what the input says.
func (in *AppInput) settings() manage.AppSettings {
	return manage.AppSettings{UID: in.UID, AppConfig: kapsel.AppConfig{Name: in.Name, Metadata: in.Metadata.texts(), RateLimit: (*kapsel.RateLimit)(in.RateLimit)}}
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
	return App{app.ID, app.TenantID, orNull(app.UID), app.Name, textsOf(app.Metadata), (*RateLimit)(app.RateLimit), timestamp(app.CreatedAt), timestamp(app.UpdatedAt)}
}

// textsOf returns metadata as the API shows it: an object, also where there is none.
func textsOf(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}
