// Package settings caches the tenants, endpoints, sources, apps, event types and API keys of the store
// on a node, and knows which endpoints subscribe to what. A node reads the store's settings counter
// and loads the rows that have changed since it last did.
//
// Reading order: cache.go (what is looked up), rows.go (changed rows are cached), follow.go (the node
// reads changes and waits for other nodes), prepared.go (what is made of an object's settings once),
// keys.go (API keys), obeyed.go (writes that are obeyed before they are answered).
package settings

import (
	"context"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Cache is a node's copy of the settings. It does not cache that something is absent: methods that
// look up an object ask the store for one that is not cached. So they find an endpoint that another
// node made a moment ago. Methods say where they do not.
type Cache struct {
	dir     store.Directory
	changed chan struct{}

	reading  chan struct{} // full while a call of Load reads the counter
	settling chan struct{} // full while a call of Settle waits for the other nodes
	applying sync.Mutex    // held while rows are cached and passed to notify, so that both happen in one order

	mu        sync.RWMutex // guards what follows
	revision  int64
	matched   int64         // the cache has all changes of endpoints, sources, apps and event types up to this revision
	settled   int64         // the value of matched that Settle last waited for
	told      int64         // the value of matched that this node last wrote to the store; -1: none
	node      kapsel.NodeID // zero until Joined is called
	clock     *clock.Clock
	endpoints map[kapsel.EndpointID]*kapsel.Endpoint // with those deleted in the last deletedKept
	sources   map[kapsel.SourceID]*kapsel.Source     // the same
	apps      map[kapsel.AppID]*kapsel.App           // the same
	uids      map[uid]kapsel.AppID                   // of apps that are not deleted
	types     map[typeName]*kapsel.EventType         // with those deleted in the last deletedKept
	tenants   map[kapsel.TenantID]*kapsel.Tenant     // the same
	circuits  map[kapsel.EndpointID]kapsel.Circuit   // of endpoints that are not deleted
	routes    map[kapsel.OriginID]route
	deleted   []deleted // oldest first
	notify    []func(store.Settings)
}

// route holds the endpoints that subscribe to an origin. The list is never changed, but replaced, so
// that callers may keep it.
type route struct {
	subscribers []*kapsel.Endpoint // in the order of their IDs
	choosy      bool               // at least one of them wants only some of the origin's events
}

// uid names an app of a tenant.
type uid struct {
	tenant kapsel.TenantID
	uid    string
}

// typeName names an event type of a tenant.
type typeName struct {
	tenant kapsel.TenantID
	name   string
}

// NewCache returns an empty cache, which the first Load fills.
func NewCache(dir store.Directory) *Cache {
	return &Cache{
		dir:       dir,
		changed:   make(chan struct{}, 1),
		reading:   make(chan struct{}, 1),
		settling:  make(chan struct{}, 1),
		endpoints: map[kapsel.EndpointID]*kapsel.Endpoint{},
		sources:   map[kapsel.SourceID]*kapsel.Source{},
		apps:      map[kapsel.AppID]*kapsel.App{},
		uids:      map[uid]kapsel.AppID{},
		types:     map[typeName]*kapsel.EventType{},
		tenants:   map[kapsel.TenantID]*kapsel.Tenant{},
		circuits:  map[kapsel.EndpointID]kapsel.Circuit{},
		routes:    map[kapsel.OriginID]route{},
	}
}

// Endpoint returns an endpoint. The error is NotFound if there is none or it is deleted, and
// DatabaseUnavailable if it is not cached and the store cannot be read. Callers must not change the
// result.
func (c *Cache) Endpoint(ctx context.Context, id kapsel.EndpointID) (*kapsel.Endpoint, error) {
	e, err := c.AnyEndpoint(ctx, id)
	if err == nil && !e.DeletedAt.IsZero() {
		return nil, store.NotFound("endpoint")
	}
	return e, err
}

// AnyEndpoint is Endpoint that also returns an endpoint that was deleted less than deletedKept ago.
func (c *Cache) AnyEndpoint(ctx context.Context, id kapsel.EndpointID) (*kapsel.Endpoint, error) {
	c.mu.RLock()
	e := c.endpoints[id]
	c.mu.RUnlock()
	if e != nil {
		return e, nil
	}
	found, err := c.dir.Endpoint(ctx, kapsel.TenantID{}, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := rerouting{}
	c.keep(&found, changed)
	c.reroute(changed)
	return c.endpoints[id], nil
}

// Knows reports whether Endpoint would return without asking the store.
func (c *Cache) Knows(id kapsel.EndpointID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.endpoints[id] != nil
}

// Latest returns the newest cached version of an endpoint, or e if the cache has no newer one.
func (c *Cache) Latest(e *kapsel.Endpoint) *kapsel.Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.endpoints[e.ID]; known != nil && known.Revision > e.Revision {
		return known
	}
	return e
}

// Subscribers returns the endpoints whose subscriptions match an event of an origin, in the order of
// their IDs. An endpoint is not among the subscribers of its own ingest URL. Subscribers never asks
// the store: a request that adds a subscription is answered after all nodes have cached it; see
// Settle. Callers must not change the result.
func (c *Cache) Subscribers(origin kapsel.OriginID, eventType string, channels []string) []*kapsel.Endpoint {
	c.mu.RLock()
	r := c.routes[origin]
	c.mu.RUnlock()
	if !r.choosy {
		return r.subscribers
	}
	var some []*kapsel.Endpoint
	for _, e := range r.subscribers {
		if e.Wants(origin, eventType, channels) {
			some = append(some, e)
		}
	}
	return some
}

// Source is Endpoint for a source.
func (c *Cache) Source(ctx context.Context, id kapsel.SourceID) (*kapsel.Source, error) {
	c.mu.RLock()
	src := c.sources[id]
	c.mu.RUnlock()
	if src == nil {
		found, err := c.dir.Source(ctx, kapsel.TenantID{}, id)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.keepSource(&found)
		src = c.sources[id]
		c.mu.Unlock()
	}
	if !src.DeletedAt.IsZero() {
		return nil, store.NotFound("source")
	}
	return src, nil
}

// KnowsSource reports whether Source would return without asking the store.
func (c *Cache) KnowsSource(id kapsel.SourceID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sources[id] != nil
}

// LatestSource is Latest for a source.
func (c *Cache) LatestSource(src *kapsel.Source) *kapsel.Source {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.sources[src.ID]; known != nil && known.Revision > src.Revision {
		return known
	}
	return src
}

// App is Endpoint for an app of a tenant, named by its ID or its uid.
func (c *Cache) App(ctx context.Context, tenant kapsel.TenantID, ref string) (*kapsel.App, error) {
	id, notID := kapsel.ParseAppID(ref)
	c.mu.RLock()
	if notID != nil {
		id = c.uids[uid{tenant, ref}]
	}
	app := c.apps[id]
	c.mu.RUnlock()
	if app == nil {
		found, err := store.FindApp(ctx, c.dir, tenant, ref)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.keepApp(&found)
		app = c.apps[found.ID]
		c.mu.Unlock()
	}
	if app.TenantID != tenant || !app.DeletedAt.IsZero() {
		return nil, store.NotFound("app")
	}
	return app, nil
}

// EventType returns a tenant's event type, nil if the tenant has none of the name. Like Subscribers, it
// never asks the store. Callers must not change the result.
func (c *Cache) EventType(tenant kapsel.TenantID, name string) *kapsel.EventType {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.types[typeName{tenant, name}]; t != nil && t.DeletedAt.IsZero() {
		return t
	}
	return nil
}

// Tenant is AnyEndpoint for a tenant.
func (c *Cache) Tenant(ctx context.Context, id kapsel.TenantID) (*kapsel.Tenant, error) {
	c.mu.RLock()
	t := c.tenants[id]
	c.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	found, err := c.dir.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepTenant(&found)
	return c.tenants[id], nil
}

// Circuit returns an endpoint's circuit as it was last read; if there is none, a zero Circuit with the
// endpoint's ID.
func (c *Cache) Circuit(id kapsel.EndpointID) kapsel.Circuit {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.circuits[id]
	b.EndpointID = id
	return b
}

// Tenants returns the cached tenants that are not deleted, in no order.
func (c *Cache) Tenants() (all []*kapsel.Tenant) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, t := range c.tenants {
		if t.DeletedAt.IsZero() {
			all = append(all, t)
		}
	}
	return all
}

// Endpoints and Sources return the cached objects that are not deleted, in no order. Callers must not
// change them.
func (c *Cache) Endpoints() (all []*kapsel.Endpoint) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, e := range c.endpoints {
		if e.DeletedAt.IsZero() {
			all = append(all, e)
		}
	}
	return all
}

// Sources is described at Endpoints.
func (c *Cache) Sources() (all []*kapsel.Source) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.sources {
		if s.DeletedAt.IsZero() {
			all = append(all, s)
		}
	}
	return all
}

// Count counts the endpoints that are not deleted by their state, and by the state of their circuit.
func (c *Cache) Count() (endpoints map[kapsel.EndpointState]int, circuits map[kapsel.CircuitState]int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	endpoints, circuits = map[kapsel.EndpointState]int{}, map[kapsel.CircuitState]int{}
	for id, e := range c.endpoints {
		if !e.DeletedAt.IsZero() {
			continue
		}
		endpoints[e.State]++
		circuits[e.CircuitNow(c.circuits[id]).State]++
	}
	return endpoints, circuits
}
