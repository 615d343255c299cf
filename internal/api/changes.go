package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) changes() {
	op := tagged("Changes")
	add(a, access.Read, op("list-changes", http.MethodGet, "/v1/changes", "List who changed what"), a.listChanges)
}

// ChangesList is the list of changes.
type ChangesList struct {
	TenantQuery
	PageQuery
	ObjectID string       `query:"object_id" maxLength:"64" doc:"Those of this object, such as ep_…"`
	Kind     string       `query:"kind" enum:"tenant,key,endpoint,source,app,event_type,event,delivery,replay,portal_link,portal_logo,session,instance" doc:"Those of objects of this kind"`
	Verb     string       `query:"verb" maxLength:"64" doc:"Those by which this was done, such as update"`
	KeyID    kapsel.KeyID `query:"key_id" doc:"Those made with this key, or in a session that began with it"`
	Since    timestamp    `query:"since" doc:"Made at this time or later"`
	Until    timestamp    `query:"until" doc:"Made before this time"`
}

func (a *api) listChanges(ctx context.Context, in *ChangesList) (*out[list[Change]], error) {
	f := store.ChangeFilter{Subject: in.ObjectID, Kind: in.Kind, Verb: in.Verb, KeyID: in.KeyID, Since: time.Time(in.Since), Until: time.Time(in.Until)}
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.ChangeID]) ([]kapsel.Change, error) {
			return a.Manage.ListChanges(ctx, callerOf(ctx), in.TenantID, f, p)
		},
		func(c kapsel.Change) kapsel.ChangeID { return c.ID },
		func(c kapsel.Change) (Change, error) { return viewChange(&c), nil })
}

// Change is who changed what.
type Change struct {
	ID       kapsel.ChangeID  `json:"id"`
	TenantID *kapsel.TenantID `json:"tenant_id" nullable:"true" doc:"Whose object was changed; null: the instance's own"`
	At       timestamp        `json:"at" doc:"When"`
	Verb     string           `json:"verb" doc:"What was done: create, update, delete, pause, resume, rotate_secret, reset_circuit, test, revoke, leave, sign_in, sign_out, end, replay, cancel, retry, keep_ingest, rotate_key …"`
	Kind     string           `json:"kind" enum:"tenant,key,endpoint,source,app,event_type,event,delivery,replay,portal_link,portal_logo,session,instance" doc:"Of the object"`
	ObjectID *string          `json:"object_id" nullable:"true" doc:"Of the object; null: the instance has none"`
	Name     *string          `json:"name" nullable:"true" doc:"The object's name before the change; null: it has none"`
	By       ChangedBy        `json:"by"`
	Before   changedFields    `json:"before" doc:"The fields that differ, as they were, without secrets; of what was deleted all; null: it was made"`
	After    changedFields    `json:"after" doc:"The same fields as they are since; of what was made all; null: it was deleted"`
}

// ChangedBy is who made a change.
type ChangedBy struct {
	Kind      kapsel.ActorKind `json:"kind" enum:"admin,key,session,portal,cli" doc:"admin: the admin key; key: a tenant's key; session: the dashboard; portal: a portal link; cli: a command on the database itself"`
	KeyID     *kapsel.KeyID    `json:"key_id" nullable:"true" doc:"The key that was sent, or with which the session began"`
	Prefix    *string          `json:"prefix" nullable:"true" doc:"The first characters of that key"`
	SessionID *string          `json:"session_id" nullable:"true" doc:"The session"`
	Subject   *string          `json:"subject" nullable:"true" doc:"The id that the sign-on provider gives the person, which never changes; null: the change was not made by single sign-on"`
	Name      *string          `json:"name" nullable:"true" doc:"Of the person, where it is known"`
	Client    *string          `json:"client" nullable:"true" doc:"The address that the request came from; null: none is known, or it is the operator's"`
}

// changedFields is a JSON object, null for nil.
type changedFields json.RawMessage

// MarshalJSON returns the object.
func (f changedFields) MarshalJSON() ([]byte, error) {
	if f == nil {
		return []byte("null"), nil
	}
	return f, nil
}

// UnmarshalJSON keeps the text.
func (f *changedFields) UnmarshalJSON(text []byte) error {
	*f = bytes.Clone(text)
	return nil
}

// Schema says what the type is in the OpenAPI document.
func (changedFields) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Nullable: true}
}

func viewChange(c *kapsel.Change) Change {
	by := ChangedBy{
		Kind: c.Actor.Kind, KeyID: orNull(c.Actor.KeyID), Prefix: orNull(c.Actor.Prefix), SessionID: orNull(c.Actor.Session), Subject: orNull(c.Actor.Subject), Name: orNull(c.Actor.Name),
	}
	if c.Actor.Client.IsValid() {
		by.Client = new(c.Actor.Client.String())
	}
	return Change{
		ID: c.ID, TenantID: orNull(c.TenantID), At: timestamp(c.At), Verb: c.Verb, Kind: c.Subject.Kind, ObjectID: orNull(c.Subject.ID), Name: orNull(c.Subject.Name),
		By: by, Before: changedFields(c.Before), After: changedFields(c.After),
	}
}

// Show returns an object of the domain as the rows of changes show it: as this API does at a time, but for
// what is known of the object only at the moment. It is the Show of a store.Author.
func Show(object any, at time.Time) any {
	switch o := object.(type) {
	case *kapsel.Tenant:
		return viewTenant(o)
	case *kapsel.Key:
		if o.TenantID.IsZero() {
			return viewInstanceKey(*o)
		}
		return viewKey(*o)
	case *kapsel.App:
		return viewApp(o)
	case *kapsel.EventType:
		return viewEventType(o)
	case *kapsel.Replay:
		return viewReplay(o)
	case *kapsel.PortalLink:
		return viewPortalLink(o)
	case *kapsel.PortalLogo:
		return viewPortalLogoHead(o)
	case *kapsel.Session:
		return sessionShown{o.ID, orNull(o.TenantID), orNull(o.KeyID), orNull(o.Subject), orNull(o.Name), orNull(o.Scope), o.Address, o.Agent, timestamp(o.CreatedAt)}
	case *kapsel.Delivery:
		return deliveryShown{Delivery: viewDelivery(&manage.Delivery{Delivery: *o})}
	case *kapsel.Source:
		view := manage.SourceAt(o, "", at)
		return sourceShown{Source: viewSource(&view)}
	case *kapsel.Endpoint:
		view := manage.EndpointAt(o, kapsel.Circuit{}, at)
		return endpointShown{Endpoint: viewEndpoint(&view), Circuit: circuitOf(o.Circuit)}
	}
	panic(fmt.Sprintf("show %T", object))
}

// sessionShown is a sign-in. The API has no sessions of its own.
type sessionShown struct {
	ID        kapsel.SessionID `json:"id"`
	TenantID  *kapsel.TenantID `json:"tenant_id"`
	KeyID     *kapsel.KeyID    `json:"key_id"`
	Subject   *string          `json:"subject"`
	Name      *string          `json:"name"`
	Scope     *kapsel.Scope    `json:"scope"`
	Address   string           `json:"address"`
	Browser   string           `json:"browser"`
	CreatedAt timestamp        `json:"created_at"`
}

// These are the objects without the fields that are known only at the moment.
type (
	deliveryShown struct {
		Delivery
		MaxAttempts *int    `json:"max_attempts,omitempty"`
		WaitingFor  *string `json:"waiting_for,omitempty"`
	}
	sourceShown struct {
		Source
		IngestURL string   `json:"ingest_url,omitempty"`
		Warnings  []string `json:"warnings,omitempty"`
	}
	endpointShown struct {
		Endpoint
		Circuit         CircuitPolicy `json:"circuit"`
		IngestURL       *string       `json:"ingest_url,omitempty"`
		Backlog         *int          `json:"backlog,omitempty"`
		OldestWaitingAt *timestamp    `json:"oldest_waiting_at,omitempty"`
		ThrottledUntil  *timestamp    `json:"throttled_until,omitempty"`
		Warnings        []string      `json:"warnings,omitempty"`
	}
)
