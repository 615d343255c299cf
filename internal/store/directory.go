package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Directory is what people set: tenants, keys, endpoints, sources, apps and event types. Every change adds one to the
// settings counter and stamps the changed row with it, in one transaction. Creating what has
// an id that is there already is a Conflict, before any limit is looked at, and changes
// nothing; a caller that repeats a create learns by it that the first one was written.
type Directory interface {
	// Settings are the rows changed since a value of the counter (0: all that are not
	// deleted), deleted ones included, with the counter's value now. A caller that saw
	// Revision passes it next time.
	Settings(ctx context.Context, since int64) (Settings, error)

	// Follow tells the other nodes that a node works by all changes of what is matched up to
	// a revision. Nothing is told for a node that is dead.
	Follow(ctx context.Context, node kapsel.NodeID, revision int64) error
	// Behind returns how many nodes alive at now, the node itself aside, have not told that they
	// work by a revision or a later one. On SQLite, whose file has one process, there are none.
	Behind(ctx context.Context, node kapsel.NodeID, now time.Time, revision int64) (int, error)

	// Meta reads and sets a value of the instance, such as the check value of its key.
	// SetMeta keeps the first value set for a name and returns it. ReplaceMeta sets a value in
	// place of the one that the caller read; the row of an author's change names the value and does
	// not show it. Conflict: the name has another value, or none.
	Meta(ctx context.Context, name string) ([]byte, error) // NotFound
	SetMeta(ctx context.Context, name string, value []byte) ([]byte, error)
	ReplaceMeta(ctx context.Context, name string, old, value []byte) error

	CreateTenant(ctx context.Context, t kapsel.Tenant) error
	Tenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error)
	// UpdateTenant changes a tenant by a function of its current row, in one transaction.
	// An error of the function is returned as it is and nothing changes.
	UpdateTenant(ctx context.Context, id kapsel.TenantID, change func(*kapsel.Tenant) error) (kapsel.Tenant, error)
	// DeleteTenant is a Conflict while the tenant has endpoints, sources or apps. Its keys are revoked,
	// its event types deleted.
	DeleteTenant(ctx context.Context, id kapsel.TenantID, now time.Time) error
	ListTenants(ctx context.Context, p Page[kapsel.TenantID]) ([]kapsel.Tenant, error)

	CreateKey(ctx context.Context, k kapsel.Key) error
	// Key reads a key, of any tenant when tenant is zero; so do RevokeKey and ListKeys.
	Key(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID) (kapsel.Key, error)
	// KeyByHash finds a key, valid or not, by the SHA-256 of its secret.
	KeyByHash(ctx context.Context, hash [32]byte) (kapsel.Key, error)
	RevokeKey(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID, now time.Time) error
	ListKeys(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.KeyID]) ([]kapsel.Key, error)
	// InstanceKeys lists the keys that are of no tenant.
	InstanceKeys(ctx context.Context, p Page[kapsel.KeyID]) ([]kapsel.Key, error)
	// TouchKeys records when keys were last used; it is not durable on return and not counted
	// as a change of settings.
	TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error

	// CreateEndpoint is QuotaExceeded when the tenant already has max endpoints (0: no limit), a
	// Conflict when another endpoint of its app, or another one without an app, has the uid, and
	// InvalidRequest when its app is not there, or when it subscribes to what it cannot; so is
	// UpdateEndpoint. See rules.Subscribe. Both set Shared on the endpoints that others subscribe to.
	CreateEndpoint(ctx context.Context, e kapsel.Endpoint, max int) error
	// Endpoint reads an endpoint that is not deleted, of any tenant when tenant is zero.
	Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error)
	// Endpoints reads those of some endpoints that are not deleted, of any tenant when tenant is zero, in no order.
	Endpoints(ctx context.Context, tenant kapsel.TenantID, ids []kapsel.EndpointID) ([]kapsel.Endpoint, error)
	// UpdateEndpoint changes an endpoint as UpdateTenant does a tenant, and completes the change
	// by Endpoint.Follow.
	UpdateEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (kapsel.Endpoint, error)
	// DeleteEndpoint hides the endpoint and frees its uid; its waiting deliveries are canceled by CancelWaiting. It is
	// a Conflict while others subscribe to the endpoint.
	DeleteEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time) error
	// KeepIngest deletes an endpoint as DeleteEndpoint does, also while others subscribe to it, and
	// makes the source that goes on with its ingest, in one transaction. The source is what
	// rules.KeptIngest returns, changed by a function; an error of the function is returned as it is
	// and nothing changes. It is a Conflict while a node of a release that knows no such sources is
	// alive.
	KeepIngest(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time, change func(*kapsel.Source) error) (kapsel.Source, error)
	// ListEndpoints lists the endpoints of an app, or those of every app and of none if app is zero.
	ListEndpoints(ctx context.Context, tenant kapsel.TenantID, app kapsel.AppID, p Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error)

	// CreateSource is a Conflict while a node of a release that knows no sources is alive; so is
	// every new subscription to a source or to published events.
	CreateSource(ctx context.Context, s kapsel.Source) error
	// Source reads a source that is not deleted, of any tenant when tenant is zero.
	Source(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID) (kapsel.Source, error)
	// UpdateSource changes a source as UpdateTenant does a tenant.
	UpdateSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error)
	// DeleteSource hides the source. It is a Conflict while endpoints subscribe to it.
	DeleteSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, now time.Time) error
	ListSources(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.SourceID]) ([]kapsel.Source, error)

	// CreateApp is a Conflict when another app of the tenant has the uid; so is UpdateApp. It is a
	// Conflict, too, while a node of a release that knows no apps is alive.
	CreateApp(ctx context.Context, a kapsel.App) error
	// App reads an app that is not deleted, of any tenant when tenant is zero.
	App(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID) (kapsel.App, error)
	// AppByUID reads the app of a tenant that has a uid and is not deleted.
	AppByUID(ctx context.Context, tenant kapsel.TenantID, uid string) (kapsel.App, error)
	// UpdateApp changes an app as UpdateTenant does a tenant.
	UpdateApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, change func(*kapsel.App) error) (kapsel.App, error)
	// DeleteApp hides the app and frees its uid. It is a Conflict while endpoints belong to the app.
	DeleteApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, now time.Time) error
	ListApps(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.AppID]) ([]kapsel.App, error)

	// CreateEventType is a Conflict when the tenant has a type of the name, and while a node of a
	// release that knows no event types is alive, and QuotaExceeded when the tenant has
	// kapsel.MaxEventTypes.
	CreateEventType(ctx context.Context, t kapsel.EventType) error
	// EventType reads a tenant's event type that is not deleted.
	EventType(ctx context.Context, tenant kapsel.TenantID, name string) (kapsel.EventType, error)
	// UpdateEventType changes an event type as UpdateTenant does a tenant. Its name stays.
	UpdateEventType(ctx context.Context, tenant kapsel.TenantID, name string, change func(*kapsel.EventType) error) (kapsel.EventType, error)
	// DeleteEventType hides the event type and frees its name.
	DeleteEventType(ctx context.Context, tenant kapsel.TenantID, name string, now time.Time) error
	ListEventTypes(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.EventTypeID]) ([]kapsel.EventType, error)
}

// Apps are the methods by which FindApp reads.
type Apps interface {
	App(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID) (kapsel.App, error)
	AppByUID(ctx context.Context, tenant kapsel.TenantID, uid string) (kapsel.App, error)
}

// FindApp reads an app by its ID or by its uid. For a uid the tenant must not be zero.
func FindApp(ctx context.Context, d Apps, tenant kapsel.TenantID, ref string) (kapsel.App, error) {
	if id, err := kapsel.ParseAppID(ref); err == nil {
		return d.App(ctx, tenant, id)
	}
	return d.AppByUID(ctx, tenant, ref)
}

// Settings are changed rows of the directory; Revision is the counter when they were read.
type Settings struct {
	Revision  int64
	Tenants   []kapsel.Tenant
	Keys      []kapsel.Key
	Endpoints []kapsel.Endpoint
	Sources   []kapsel.Source
	Apps      []kapsel.App
	Types     []kapsel.EventType
	Circuits  []kapsel.Circuit
}

// Deleted names rows of the directory that are deleted.
type Deleted struct {
	Endpoints []kapsel.EndpointID
	Sources   []kapsel.SourceID
	Apps      []kapsel.AppID
	Types     []kapsel.EventType
	Tenants   []kapsel.TenantID
}

// Deleted returns which of the rows are deleted.
func (s *Settings) Deleted() (d Deleted) {
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; !e.DeletedAt.IsZero() {
			d.Endpoints = append(d.Endpoints, e.ID)
		}
	}
	for i := range s.Sources {
		if src := &s.Sources[i]; !src.DeletedAt.IsZero() {
			d.Sources = append(d.Sources, src.ID)
		}
	}
	for i := range s.Apps {
		if a := &s.Apps[i]; !a.DeletedAt.IsZero() {
			d.Apps = append(d.Apps, a.ID)
		}
	}
	for i := range s.Types {
		if t := &s.Types[i]; !t.DeletedAt.IsZero() {
			d.Types = append(d.Types, *t)
		}
	}
	for i := range s.Tenants {
		if t := &s.Tenants[i]; !t.DeletedAt.IsZero() {
			d.Tenants = append(d.Tenants, t.ID)
		}
	}
	return d
}
