package settings

import (
	"context"
	"math"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Obeyed is a store through which a node changes settings. The node obeys such a change as soon as the
// call returns, even if its Cache cannot read the change then: a revoked key is refused, a deleted or
// disabled endpoint or source accepts nothing, and a former secret verifies nothing.
type Obeyed struct {
	store.Store
	cache *Cache
}

// NewObeyed returns a store that puts the changes made through it into a node's cache.
func NewObeyed(s store.Store, cache *Cache) Obeyed { return Obeyed{s, cache} }

// By implements store.Changes.
func (o Obeyed) By(a store.Author) store.Store { return Obeyed{o.Store.By(a), o.cache} }

// last is the revision of a row that was deleted, until the cache has read which one it is. No
// version of the row is newer.
const last = math.MaxInt64

// CreateEndpoint implements store.Directory.
func (o Obeyed) CreateEndpoint(ctx context.Context, e kapsel.Endpoint, max int) error {
	err := o.Store.CreateEndpoint(ctx, e, max)
	if err == nil { // the cache asks the store for an endpoint that it does not have, but not for a subscription
		o.cache.Apply(store.Settings{Endpoints: []kapsel.Endpoint{e}})
	}
	return err
}

// UpdateEndpoint implements store.Directory.
func (o Obeyed) UpdateEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (kapsel.Endpoint, error) {
	e, err := o.Store.UpdateEndpoint(ctx, tenant, id, change)
	if err == nil {
		o.cache.Apply(store.Settings{Endpoints: []kapsel.Endpoint{e}})
	}
	return e, err
}

// DeleteEndpoint implements store.Directory.
func (o Obeyed) DeleteEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time) error {
	known, err := o.cache.Endpoint(ctx, id)
	if err != nil {
		return err
	}
	if err := o.Store.DeleteEndpoint(ctx, tenant, id, now); err != nil {
		return err
	}
	e := *o.cache.Latest(known)
	e.DeletedAt, e.UpdatedAt, e.Revision = now, now, last
	o.cache.Apply(store.Settings{Endpoints: []kapsel.Endpoint{e}})
	return nil
}

// KeepIngest implements store.Directory.
func (o Obeyed) KeepIngest(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time, change func(*kapsel.Source) error) (kapsel.Source, error) {
	known, err := o.cache.Endpoint(ctx, id)
	if err != nil {
		return kapsel.Source{}, err
	}
	src, err := o.Store.KeepIngest(ctx, tenant, id, now, change)
	if err != nil {
		return kapsel.Source{}, err
	}
	e := *o.cache.Latest(known)
	e.DeletedAt, e.UpdatedAt, e.Revision = now, now, last
	o.cache.Apply(store.Settings{Endpoints: []kapsel.Endpoint{e}, Sources: []kapsel.Source{src}})
	return src, nil
}

// UpdateSource implements store.Directory.
func (o Obeyed) UpdateSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error) {
	src, err := o.Store.UpdateSource(ctx, tenant, id, change)
	if err == nil {
		o.cache.Apply(store.Settings{Sources: []kapsel.Source{src}})
	}
	return src, err
}

// DeleteSource implements store.Directory.
func (o Obeyed) DeleteSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, now time.Time) error {
	known, err := o.cache.Source(ctx, id)
	if err != nil {
		return err
	}
	if err := o.Store.DeleteSource(ctx, tenant, id, now); err != nil {
		return err
	}
	src := *o.cache.LatestSource(known)
	src.DeletedAt, src.UpdatedAt, src.Revision = now, now, last
	o.cache.Apply(store.Settings{Sources: []kapsel.Source{src}})
	return nil
}

// UpdateApp implements store.Directory.
func (o Obeyed) UpdateApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, change func(*kapsel.App) error) (kapsel.App, error) {
	app, err := o.Store.UpdateApp(ctx, tenant, id, change)
	if err == nil {
		o.cache.Apply(store.Settings{Apps: []kapsel.App{app}})
	}
	return app, err
}

// DeleteApp implements store.Directory.
func (o Obeyed) DeleteApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, now time.Time) error {
	app, err := o.Store.App(ctx, tenant, id)
	if err != nil {
		return err
	}
	if err := o.Store.DeleteApp(ctx, tenant, id, now); err != nil {
		return err
	}
	app.DeletedAt, app.UpdatedAt, app.Revision = now, now, last
	o.cache.Apply(store.Settings{Apps: []kapsel.App{app}})
	return nil
}

// CreateEventType implements store.Directory.
func (o Obeyed) CreateEventType(ctx context.Context, t kapsel.EventType) error {
	err := o.Store.CreateEventType(ctx, t)
	if err == nil { // the cache does not ask the store for an event type that it does not have
		o.cache.Apply(store.Settings{Types: []kapsel.EventType{t}})
	}
	return err
}

// UpdateEventType implements store.Directory.
func (o Obeyed) UpdateEventType(ctx context.Context, tenant kapsel.TenantID, name string, change func(*kapsel.EventType) error) (kapsel.EventType, error) {
	t, err := o.Store.UpdateEventType(ctx, tenant, name, change)
	if err == nil {
		o.cache.Apply(store.Settings{Types: []kapsel.EventType{t}})
	}
	return t, err
}

// DeleteEventType implements store.Directory.
func (o Obeyed) DeleteEventType(ctx context.Context, tenant kapsel.TenantID, name string, now time.Time) error {
	t, err := o.Store.EventType(ctx, tenant, name)
	if err != nil {
		return err
	}
	if err := o.Store.DeleteEventType(ctx, tenant, name, now); err != nil {
		return err
	}
	t.DeletedAt, t.UpdatedAt, t.Revision = now, now, last
	o.cache.Apply(store.Settings{Types: []kapsel.EventType{t}})
	return nil
}

// UpdateTenant implements store.Directory.
func (o Obeyed) UpdateTenant(ctx context.Context, id kapsel.TenantID, change func(*kapsel.Tenant) error) (kapsel.Tenant, error) {
	t, err := o.Store.UpdateTenant(ctx, id, change)
	if err == nil {
		o.cache.Apply(store.Settings{Tenants: []kapsel.Tenant{t}})
	}
	return t, err
}

// DeleteTenant implements store.Directory.
func (o Obeyed) DeleteTenant(ctx context.Context, id kapsel.TenantID, now time.Time) error {
	known, err := o.cache.Tenant(ctx, id)
	if err != nil {
		return err
	}
	if err := o.Store.DeleteTenant(ctx, id, now); err != nil {
		return err
	}
	t := *known
	t.DeletedAt, t.UpdatedAt, t.Revision = now, now, last
	o.cache.Apply(store.Settings{Tenants: []kapsel.Tenant{t}})
	return nil
}

// RevokeKey implements store.Directory.
func (o Obeyed) RevokeKey(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID, now time.Time) error {
	err := o.Store.RevokeKey(ctx, tenant, id, now)
	if err == nil {
		o.cache.Apply(store.Settings{Keys: []kapsel.Key{{ID: id, RevokedAt: now}}})
	}
	return err
}

// SaveCircuit implements store.Queue.
func (o Obeyed) SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error) {
	saved, err := o.Store.SaveCircuit(ctx, c)
	if err == nil {
		o.cache.Apply(store.Settings{Circuits: []kapsel.Circuit{saved}})
	}
	return saved, err
}
