package kapsel

import (
	"encoding/json"
	"net/netip"
	"time"
)

// ChangesKept is how long the rows of changes are kept.
const ChangesKept = 365 * 24 * time.Hour

// Change is the row that says who changed what. It is written in the transaction of the change. Events
// that are received or published, and what Kapsel does by itself, are no changes.
type Change struct {
	ID       ChangeID
	TenantID TenantID // whose object was changed; zero: the instance itself was
	At       time.Time
	Actor    Actor
	Verb     string // what was done, such as "update" or "rotate_secret"
	Subject  Subject
	// Before and After are JSON objects in the API's form, without secrets: all of an object that was
	// made or deleted, and of another one the fields that differ. Before is nil for what was made, After
	// for what was deleted.
	Before, After json.RawMessage
}

// Subject names the object of a change.
type Subject struct {
	Kind string `json:"kind"`           // such as "endpoint"
	ID   string `json:"id"`             // as text; "" for the instance
	Name string `json:"name,omitempty"` // as it was before the change; "": it has none
}

// The kinds of subjects.
const (
	KindTenant     = "tenant"
	KindKey        = "key"
	KindEndpoint   = "endpoint"
	KindSource     = "source"
	KindApp        = "app"
	KindEventType  = "event_type"
	KindEvent      = "event"
	KindDelivery   = "delivery"
	KindReplay     = "replay"
	KindInstance   = "instance"
	KindPortalLink = "portal_link"
	KindPortalLogo = "portal_logo"
	KindSession    = "session"
)

// Actor is who makes a change. Stores keep it as JSON.
type Actor struct {
	Kind     ActorKind  `json:"kind"`
	Operator bool       `json:"operator,omitempty"` // of the instance, not somebody of a tenant
	KeyID    KeyID      `json:"key_id,omitzero"`    // of the key that was sent, or with which the session began; zero: another way
	Prefix   string     `json:"prefix,omitempty"`   // of that key's secret
	Session  string     `json:"session,omitempty"`
	Subject  string     `json:"subject,omitempty"` // who it is at the provider of the single sign-on; "": signed in with a key, or not at all
	Name     string     `json:"name,omitempty"`    // of a person, where it is known
	Client   netip.Addr `json:"client,omitzero"`   // the address that the request came from; zero: not over the network, or not known
}

// ActorKind says by which way an Actor was let in.
type ActorKind string

// The kinds of actors.
const (
	ActorAdmin   ActorKind = "admin"   // the admin key
	ActorKey     ActorKind = "key"     // a tenant's key
	ActorSession ActorKind = "session" // a session of the dashboard
	ActorPortal  ActorKind = "portal"  // a session of the portal
	ActorCLI     ActorKind = "cli"     // a command that works on the database itself
)
