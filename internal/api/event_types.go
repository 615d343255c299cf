package api

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) eventTypes() {
	op := tagged("Event types")
	taken, full := failure{409, kapsel.Conflict}, failure{403, kapsel.QuotaExceeded}
	create := op("create-event-type", http.MethodPost, "/v1/event-types", "Create an event type: an entry of the catalogue of what is published")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, takes[EventTypeInput](fails(create, failure{404, kapsel.NotFound}, taken, full)), a.createEventType)
	add(a, access.Read, op("list-event-types", http.MethodGet, "/v1/event-types", "List event types"), listed(a.Manage.ListEventTypes, func(t kapsel.EventType) kapsel.EventTypeID { return t.ID }, viewEventType))
	add(a, access.Read, op("get-event-type", http.MethodGet, "/v1/event-types/{name}", "Get an event type"), got(a.Manage.EventType, (*EventTypePath).ref, viewEventType))
	put := op("put-event-type", http.MethodPut, "/v1/event-types/{name}", "Create an event type, or replace what was set on it")
	addPut(a, takes[EventTypePut](fails(put, taken, full)), a.putEventType)
	add(a, access.Write, takes[EventTypePatch](op("update-event-type", http.MethodPatch, "/v1/event-types/{name}", "Change an event type")), a.updateEventType)
	add(a, access.Write, op("delete-event-type", http.MethodDelete, "/v1/event-types/{name}", "Delete an event type"), removed(a.Manage.DeleteEventType, (*EventTypePath).ref))
}

// EventTypePath is a route below one event type.
type EventTypePath struct {
	TenantQuery
	Name string `path:"name" doc:"The event type's name. With the admin key tenant_id is needed"`
}

// ref is the event type that the path names.
func (in *EventTypePath) ref() manage.EventTypeRef {
	return manage.EventTypeRef{Tenant: in.TenantID, Name: in.Name}
}

func (a *api) createEventType(ctx context.Context, in *TenantQuery) (*out[EventType], error) {
	var body EventTypeInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	t, err := a.Manage.CreateEventType(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.EventTypeID](ctx), body.Name, body.config())
	return shownAs(viewEventType, t, err)
}

func (a *api) putEventType(ctx context.Context, in *EventTypePath) (*upserted[EventType], error) {
	var body EventTypePut
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	if body.Name != nil && *body.Name != in.Name {
		return nil, refused(field("name", "must be the one in the path, or left out"))
	}
	t, made, err := a.Manage.PutEventType(ctx, callerOf(ctx), in.ref(), body.config())
	return putAs(viewEventType, t, made, err)
}

// updateEventType applies a merge patch, but replaces each schema that the patch names as a whole.
func (a *api) updateEventType(ctx context.Context, in *EventTypePath) (*out[EventType], error) {
	body, err := readBody(callOf(ctx), false, maxBody)
	if err != nil {
		return nil, err
	}
	var said EventTypePatch // for its schemas, which a merge patch would not replace
	if err := decode(body, &said); err != nil {
		return nil, err
	}
	patch, err := tree(body)
	if err != nil {
		return nil, err
	}
	schemas, of := patch["schemas"]
	delete(patch, "schemas")
	t, err := a.Manage.UpdateEventType(ctx, callerOf(ctx), in.ref(), func(c *kapsel.EventTypeConfig) error {
		next := EventTypeSettings{}
		if err := patched(settingsOfType(c), patch, &next); err != nil {
			return err
		}
		next.Schemas = map[string]anySchema{}
		if !of || schemas != nil {
			maps.Copy(next.Schemas, schemasOf(c))
			maps.Copy(next.Schemas, said.Schemas)
		}
		*c = next.config()
		return nil
	})
	return shownAs(viewEventType, t, err)
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

// settingsOfType returns a configuration as its owner would write it, without the schemas.
func settingsOfType(c *kapsel.EventTypeConfig) EventTypeSettings {
	return EventTypeSettings{Description: c.Description, Group: c.Group, Validate: c.Validate, Archived: c.Archived, Deprecated: c.Deprecated}
}

func schemasOf(c *kapsel.EventTypeConfig) map[string]anySchema {
	all := map[string]anySchema{}
	for version, text := range c.Schemas {
		all[version] = anySchema(text)
	}
	return all
}

// config returns what the settings say.
func (in *EventTypeSettings) config() kapsel.EventTypeConfig {
	c := kapsel.EventTypeConfig{
		Description: in.Description, Group: in.Group, Validate: in.Validate, Archived: in.Archived, Deprecated: in.Deprecated,
		Schemas: map[string]json.RawMessage{},
	}
	for version, text := range in.Schemas {
		if string(text) != "null" {
			c.Schemas[version] = json.RawMessage(text)
		}
	}
	return c
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
	return EventType{t.TenantID, t.Name, t.Description, t.Group, schemasOf(&t.EventTypeConfig), t.Validate, t.Archived, t.Deprecated, timestamp(t.CreatedAt), timestamp(t.UpdatedAt)}
}
