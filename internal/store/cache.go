package store

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
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
	endpoints map[kapsel.EndpointID]*kapsel.Endpoint // those deleted in the last deletedKept included
	tenants   map[kapsel.TenantID]*kapsel.Tenant     // the same
	circuits  map[kapsel.EndpointID]kapsel.Circuit   // of endpoints that are not deleted
	// subscribers are the endpoints that subscribe to another one, by that and in the order of
	// their ids. The lists do not change: a change makes new ones.
	subscribers map[kapsel.EndpointID][]*kapsel.Endpoint
	deleted     []deleted // oldest first
	notify      []func(Settings)
}

// deletedKept is for how long a deleted endpoint or tenant stays in the cache: longer than an
// exchange, or a request, that found it before it was deleted can last. In that time a late
// answer of the store, which has it undeleted, does not bring it back.
const deletedKept = 10 * time.Minute

// deleted is what goes from the cache some time after it was deleted.
type deleted struct {
	at        time.Time // when the cache learned of it, by the monotonic clock
	endpoints []kapsel.EndpointID
	tenants   []kapsel.TenantID
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

		subscribers: map[kapsel.EndpointID][]*kapsel.Endpoint{},
	}
}

// OnChange adds a function that is told of every change after it is in the cache. It is
// called by one goroutine at a time and must not block. Call it before the Load whose changes
// it is to be told of, and before Run.
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
	c.forget()
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
		// Every endpoint that is not deleted is known here; one made while this was read comes
		// with the next reading, with its circuit.
		if e := c.endpoints[b.EndpointID]; e != nil && e.DeletedAt.IsZero() && b.Version >= c.circuits[b.EndpointID].Version {
			c.circuits[b.EndpointID] = b
		}
	}
	if endpoints, tenants := s.Deleted(); len(endpoints)+len(tenants) > 0 {
		for _, id := range endpoints {
			delete(c.circuits, id)
		}
		c.deleted = append(c.deleted, deleted{time.Now(), endpoints, tenants})
	}
	c.mu.Unlock()
	for _, f := range c.notify {
		f(s)
	}
	return nil
}

// forget lets go what was deleted deletedKept ago.
func (c *Cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.deleted) > 0 && time.Since(c.deleted[0].at) >= deletedKept {
		for _, id := range c.deleted[0].endpoints {
			delete(c.endpoints, id)
		}
		for _, id := range c.deleted[0].tenants {
			delete(c.tenants, id)
		}
		c.deleted = c.deleted[1:]
	}
}

// keep takes over a version of an endpoint unless a newer one is known. It holds mu.
func (c *Cache) keep(e *kapsel.Endpoint) {
	old := c.endpoints[e.ID]
	if old != nil && old.Revision > e.Revision {
		return
	}
	c.endpoints[e.ID] = e
	if old != nil {
		for _, s := range old.Subscriptions {
			c.subscribers[s.Source] = slices.DeleteFunc(slices.Clone(c.subscribers[s.Source]), func(o *kapsel.Endpoint) bool { return o.ID == e.ID })
			if len(c.subscribers[s.Source]) == 0 {
				delete(c.subscribers, s.Source)
			}
		}
	}
	if !e.DeletedAt.IsZero() {
		return
	}
	for _, s := range e.Subscriptions {
		list := slices.Clone(c.subscribers[s.Source])
		i, _ := slices.BinarySearchFunc(list, e.ID, func(o *kapsel.Endpoint, id kapsel.EndpointID) int { return bytes.Compare(o.ID[:], id[:]) })
		c.subscribers[s.Source] = slices.Insert(list, i, e)
	}
}

// Subscribers returns the endpoints that get the events of an endpoint's ingest beside the
// endpoint itself, in the order of their ids. Unlike an endpoint that is not known here, a
// subscription that is not known is not asked for: one that was made on another node counts
// after Refresh. The result is shared: do not change it.
func (c *Cache) Subscribers(id kapsel.EndpointID) []*kapsel.Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.subscribers[id]
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

// AnyEndpoint is an endpoint, deleted ones included while the cache remembers them; after that
// they are NotFound.
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
		circuits[e.CircuitNow(c.circuits[id]).State]++
	}
	return endpoints, circuits
}
