package store

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Refresh is how often a node reads the settings counter: a change made on another node is
// obeyed after at most this long.
const Refresh = 500 * time.Millisecond

// Cache is a node's copy of the settings. Presence is cached, absence is not: what is not
// here is asked for, so an endpoint made a moment ago on another node is found.
type Cache struct {
	dir     Directory
	changed chan struct{}

	reading chan struct{} // full while one reads the counter

	mu        sync.RWMutex // guards what follows
	revision  int64
	endpoints map[kapsel.EndpointID]*kapsel.Endpoint // deleted ones included, for waiting work
	tenants   map[kapsel.TenantID]*kapsel.Tenant
	circuits  map[kapsel.EndpointID]kapsel.Circuit
	notify    []func(Settings)
}

// NewCache makes an empty cache; the first Load fills it.
func NewCache(dir Directory) *Cache {
	return &Cache{
		dir:       dir,
		changed:   make(chan struct{}, 1),
		reading:   make(chan struct{}, 1),
		endpoints: map[kapsel.EndpointID]*kapsel.Endpoint{},
		tenants:   map[kapsel.TenantID]*kapsel.Tenant{},
		circuits:  map[kapsel.EndpointID]kapsel.Circuit{},
	}
}

// OnChange adds a function that is told of every change after it is in the cache. It is
// called by one goroutine at a time and must not block. Call it before Load.
func (c *Cache) OnChange(f func(Settings)) { c.notify = append(c.notify, f) }

// Load reads what is newer than the cache.
func (c *Cache) Load(ctx context.Context) error {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := c.dir.Settings(ctx, c.revision)
	if err != nil {
		return err
	}
	if s.Revision == c.revision {
		return nil
	}
	c.mu.Lock()
	c.revision = s.Revision
	for _, t := range s.Tenants {
		c.tenants[t.ID] = &t
	}
	for _, e := range s.Endpoints {
		c.keep(&e)
	}
	for _, b := range s.Circuits {
		if b.Version >= c.circuits[b.EndpointID].Version {
			c.circuits[b.EndpointID] = b
		}
	}
	c.mu.Unlock()
	for _, f := range c.notify {
		f(s)
	}
	return nil
}

// keep holds mu.
func (c *Cache) keep(e *kapsel.Endpoint) {
	if old := c.endpoints[e.ID]; old == nil || old.Revision <= e.Revision {
		c.endpoints[e.ID] = e
	}
}

// Run follows the settings until ctx ends. Trouble is logged once until it is over.
func (c *Cache) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(Refresh)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.changed:
		}
		err := c.Load(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("settings cannot be read; going on with those known", "error", err)
		}
		failing = err != nil
	}
}

// Changed makes Run read the counter at once.
func (c *Cache) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Obey returns when this node obeys what changed before the call, so that who made the change
// finds it done. While the store is slow it returns after Refresh, and Run follows.
func (c *Cache) Obey() {
	ctx, cancel := context.WithTimeout(context.Background(), Refresh)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
	}
}

// Endpoint is an endpoint that is not deleted; NotFound, or DatabaseUnavailable when it is
// not known here and the store cannot say. The result is shared: do not change it.
func (c *Cache) Endpoint(ctx context.Context, id kapsel.EndpointID) (*kapsel.Endpoint, error) {
	e, err := c.AnyEndpoint(ctx, id)
	if err == nil && !e.DeletedAt.IsZero() {
		return nil, NotFound("endpoint")
	}
	return e, err
}

// Knows reports whether Endpoint would be answered without asking the store.
func (c *Cache) Knows(id kapsel.EndpointID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.endpoints[id] != nil
}

// AnyEndpoint is an endpoint, deleted ones included while the cache remembers them.
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
	c.keep(&found)
	return c.endpoints[id], nil
}

// Latest is the newest known version of an endpoint that the caller may have held for long.
func (c *Cache) Latest(e *kapsel.Endpoint) *kapsel.Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.endpoints[e.ID]; known != nil && known.Revision > e.Revision {
		return known
	}
	return e
}

// Tenant is a tenant, as Endpoint finds endpoints.
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
	if t = c.tenants[id]; t == nil || t.Revision < found.Revision { // it may have been loaded meanwhile
		t = &found
		c.tenants[id] = t
	}
	return t, nil
}

// Tenants are the tenants that are not deleted.
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

// Circuit is the circuit of an endpoint as last read.
func (c *Cache) Circuit(id kapsel.EndpointID) kapsel.Circuit {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.circuits[id]
	b.EndpointID = id
	return b
}

// Count counts endpoints by state and circuits by theirs, for metrics.
func (c *Cache) Count() (endpoints map[kapsel.EndpointState]int, circuits map[kapsel.CircuitState]int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	endpoints, circuits = map[kapsel.EndpointState]int{}, map[kapsel.CircuitState]int{}
	for id, e := range c.endpoints {
		if !e.DeletedAt.IsZero() {
			continue
		}
		endpoints[e.State]++
		if s := c.circuits[id].State; s != "" {
			circuits[s]++
		} else {
			circuits[kapsel.CircuitClosed]++
		}
	}
	return endpoints, circuits
}
