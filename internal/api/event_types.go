package api

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/schema"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) eventTypes() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"Event types"}}
	}
	taken, full := failure{409, kapsel.Conflict}, failure{403, kapsel.QuotaExceeded}
	create := op("create-event-type", http.MethodPost, "/v1/event-types", "Create an event type: an entry of the catalogue of what is published")
	create.DefaultStatus = http.StatusCreated
	add(a, writers, takes[EventTypeInput](fails(create, failure{404, kapsel.NotFound}, taken, full)), a.createEventType)
	add(a, readers, op("list-event-types", http.MethodGet, "/v1/event-types", "List event types"), a.listEventTypes)
	add(a, readers, op("get-event-type", http.MethodGet, "/v1/event-types/{name}", "Get an event type"), a.getEventType)
	put := op("put-event-type", http.MethodPut, "/v1/event-types/{name}", "Create an event type, or replace what was set on it")
	addPut(a, takes[EventTypePut](fails(put, taken, full)), a.putEventType)
	add(a, writers, takes[EventTypePatch](op("update-event-type", http.MethodPatch, "/v1/event-types/{name}", "Change an event type")), a.updateEventType)
	add(a, writers, op("delete-event-type", http.MethodDelete, "/v1/event-types/{name}", "Delete an event type"), a.deleteEventType)
}

// EventTypePath is a route below one event type.
type EventTypePath struct {
	TenantQuery
	Name string `path:"name" doc:"The event type's name. With the admin key tenant_id is needed"`
}

// typed returns the tenant whose event type a path names. A name that no type can have stands for
// nothing.
func (a *api) typed(ctx context.Context, in *EventTypePath) (kapsel.TenantID, error) {
	if t := (kapsel.EventType{Name: in.Name, EventTypeConfig: kapsel.EventTypeConfig{Validate: kapsel.ValidateOff}}); t.Check() != nil {
		return kapsel.TenantID{}, store.NotFound("event type")
	}
	tenant := in.of(callerOf(ctx))
	if tenant.IsZero() {
		return tenant, refused(field("tenant_id", "is needed with the admin key and the name of an event type"))
	}
	return tenant, nil
}

func (a *api) createEventType(ctx context.Context, in *TenantQuery) (*out[EventType], error) {
	var body EventTypeInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	t, err := a.owner(ctx, *in)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	made := kapsel.EventType{ID: fresh(ctx, kapsel.NewEventTypeID(now)), TenantID: t.ID, Name: body.Name, CreatedAt: now}
	if err := body.configure(&made, now); err != nil {
		return nil, err
	}
	if err := a.Store.CreateEventType(ctx, made); err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewEventType(&made)), nil
}

// EventTypesList is the list of event types.
type EventTypesList struct {
	TenantQuery
	PageQuery
}

func (a *api) listEventTypes(ctx context.Context, in *EventTypesList) (*out[list[EventType]], error) {
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error) {
			return a.Store.ListEventTypes(ctx, in.of(callerOf(ctx)), p)
		},
		func(t kapsel.EventType) kapsel.EventTypeID { return t.ID },
		func(t kapsel.EventType) (EventType, error) { return viewEventType(&t), nil })
}

func (a *api) getEventType(ctx context.Context, in *EventTypePath) (*out[EventType], error) {
	tenant, err := a.typed(ctx, in)
	if err != nil {
		return nil, err
	}
	t, err := a.Store.EventType(ctx, tenant, in.Name)
	if err != nil {
		return nil, err
	}
	return answer(viewEventType(&t)), nil
}

// putEventType creates an event type or replaces what was set on it. Of two calls that create one
// at the same time, the later replaces.
func (a *api) putEventType(ctx context.Context, in *EventTypePath) (*upserted[EventType], error) {
	var body EventTypePut
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	if body.Name != nil && *body.Name != in.Name {
		return nil, refused(field("name", "must be the one in the path, or left out"))
	}
	now := a.Clock()
	made := kapsel.EventType{ID: kapsel.NewEventTypeID(now), Name: in.Name, CreatedAt: now}
	if err := body.configure(&made, now); err != nil { // outside of the store's transaction; a wrong name is found here, too
		return nil, err
	}
	tenant, err := a.typed(ctx, in)
	if err != nil {
		return nil, err
	}
	made.TenantID = tenant
	for range 3 {
		t, err := a.Store.UpdateEventType(ctx, tenant, in.Name, func(t *kapsel.EventType) error {
			t.EventTypeConfig, t.UpdatedAt = made.EventTypeConfig, now
			return nil
		})
		status := http.StatusOK
		if missing(err) {
			t, status = made, http.StatusCreated
			err = a.Store.CreateEventType(ctx, t)
			if kapsel.CodeOf(err) == kapsel.Conflict { // another made it meanwhile, or an older node is alive
				if _, again := a.Store.EventType(ctx, tenant, in.Name); again == nil {
					continue
				}
			}
		}
		if err != nil {
			return nil, err
		}
		a.Changed()
		return &upserted[EventType]{status, viewEventType(&t)}, nil
	}
	return nil, errBusy
}

func (a *api) updateEventType(ctx context.Context, in *EventTypePath) (*out[EventType], error) {
	body, err := readBody(callOf(ctx), false)
	if err != nil {
		return nil, err
	}
	var said EventTypePatch // its schemas: each is replaced as a whole, which a merge patch would not do
	if err := decode(body, &said); err != nil {
		return nil, err
	}
	patch, err := tree(body)
	if err != nil {
		return nil, err
	}
	schemas, of := patch["schemas"]
	delete(patch, "schemas")
	tenant, err := a.typed(ctx, in)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	change := func(t *kapsel.EventType) error {
		next := EventTypeSettings{}
		if err := patched(settingsOfType(t), patch, &next); err != nil {
			return err
		}
		next.Schemas = map[string]anySchema{}
		if !of || schemas != nil {
			maps.Copy(next.Schemas, schemasOf(t))
			maps.Copy(next.Schemas, said.Schemas)
		}
		return next.configure(t, now)
	}
	// Once on a copy, so that most mistakes are found outside of the store's transaction.
	t, err := a.Store.EventType(ctx, tenant, in.Name)
	if err != nil {
		return nil, err
	}
	if err := change(&t); err != nil {
		return nil, err
	}
	if t, err = a.Store.UpdateEventType(ctx, tenant, in.Name, change); err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewEventType(&t)), nil
}

func (a *api) deleteEventType(ctx context.Context, in *EventTypePath) (*struct{}, error) {
	tenant, err := a.typed(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := a.Store.DeleteEventType(ctx, tenant, in.Name, a.Clock()); err != nil {
		return nil, err
	}
	a.Changed()
	return nil, nil
}

// EventTypeSettings is what people set on an event type.
type EventTypeSettings struct {
	Description string               `json:"description" required:"false" maxLength:"2000"`
	Group       string               `json:"group" required:"false" maxLength:"200" doc:"Under which the catalogue shows it"`
	Schemas     map[string]anySchema `json:"schemas" required:"false" doc:"JSON Schemas of the body by version, at most 10, of 32 KiB each; a body may fit any of them. A schema refers to nothing outside of itself"`
	Validate    kapsel.Validation    `json:"validate" required:"false" enum:"off,warn,refuse" default:"off" doc:"What becomes of an event that fits none of the schemas: refuse answers 422, warn publishes it and says so"`
	Archived    bool                 `json:"archived" required:"false" doc:"A closed catalogue (limits.closed_catalogue) refuses it"`
	Deprecated  bool                 `json:"deprecated" required:"false" doc:"Who publishes it is warned"`
}

// EventTypeInput is what POST takes.
type EventTypeInput struct {
	Name string `json:"name" minLength:"1" maxLength:"128" pattern:"^[A-Za-z0-9._-]+$"`
	EventTypeSettings
}

// EventTypePut is what PUT takes.
type EventTypePut struct {
	Name *string `json:"name,omitempty" required:"false" maxLength:"128" doc:"That in the path"`
	EventTypeSettings
}

// EventTypePatch is what PATCH takes.
type EventTypePatch struct{ EventTypeSettings }

// anySchema is the text of a JSON Schema; null takes it away.
type anySchema json.RawMessage

// UnmarshalJSON keeps the text.
func (s *anySchema) UnmarshalJSON(text []byte) error {
	*s = bytes.Clone(text)
	return nil
}

// MarshalJSON returns the text.
func (s anySchema) MarshalJSON() ([]byte, error) { return s, nil }

// Schema says what the type is in the OpenAPI document.
func (anySchema) Schema(huma.Registry) *huma.Schema { return &huma.Schema{AdditionalProperties: true} }

// settingsOfType is an event type as its owner would set it, without the schemas.
func settingsOfType(t *kapsel.EventType) EventTypeSettings {
	return EventTypeSettings{Description: t.Description, Group: t.Group, Validate: t.Validate, Archived: t.Archived, Deprecated: t.Deprecated}
}

func schemasOf(t *kapsel.EventType) map[string]anySchema {
	all := map[string]anySchema{}
	for version, text := range t.Schemas {
		all[version] = anySchema(text)
	}
	return all
}

// configure sets on an event type what the settings say.
func (in *EventTypeSettings) configure(t *kapsel.EventType, now time.Time) error {
	t.UpdatedAt = now
	t.EventTypeConfig = kapsel.EventTypeConfig{
		Description: in.Description, Group: in.Group, Validate: in.Validate, Archived: in.Archived, Deprecated: in.Deprecated,
		Schemas: map[string]json.RawMessage{},
	}
	if t.Validate == "" {
		t.Validate = kapsel.ValidateOff
	}
	for version, text := range in.Schemas {
		if string(text) != "null" {
			t.Schemas[version] = json.RawMessage(text)
		}
	}
	wrong := t.Check()
	if wrong == nil {
		_, wrong = schema.New(&t.EventTypeConfig)
	}
	if wrong != nil {
		return refused(wrong[:min(len(wrong), maxErrors)])
	}
	return nil
}

// EventType is an event type as the API shows it.
type EventType struct {
	TenantID    kapsel.TenantID      `json:"tenant_id"`
	Name        string               `json:"name"`
	Description string               `json:"description"`
	Group       string               `json:"group" doc:"Under which the catalogue shows it"`
	Schemas     map[string]anySchema `json:"schemas" doc:"JSON Schemas of the body, by version"`
	Validate    kapsel.Validation    `json:"validate" enum:"off,warn,refuse" doc:"What becomes of an event that fits none of the schemas"`
	Archived    bool                 `json:"archived" doc:"A closed catalogue refuses it"`
	Deprecated  bool                 `json:"deprecated" doc:"Who publishes it is warned"`
	CreatedAt   timestamp            `json:"created_at"`
	UpdatedAt   timestamp            `json:"updated_at"`
}

func viewEventType(t *kapsel.EventType) EventType {
	return EventType{t.TenantID, t.Name, t.Description, t.Group, schemasOf(t), t.Validate, t.Archived, t.Deprecated, timestamp(t.CreatedAt), timestamp(t.UpdatedAt)}
}
