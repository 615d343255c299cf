// Package settings caches the tenants, endpoints, sources, apps, event types and API keys of the store
// on a node, and knows which endpoints subscribe to what. A node reads the store's settings counter
// and loads the rows that have changed since it last did.
package settings

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Refresh is how often a node reads the settings counter. A node obeys a change that another node
// made after this time at the latest.
const Refresh = 500 * time.Millisecond

// SettleTime is how long Settle waits for other nodes at most: Refresh for them to notice the change,
// and as long again to load it and to tell the store so.
const SettleTime = 2 * Refresh

// After a change of matched settings (see Settle) on another node, a node reads the counter every
// brisk, until no such change has come for briskFor. A client that makes many changes waits for each
// of them, so the next one usually follows soon.
const (
	brisk    = Refresh / 20
	briskFor = 2 * time.Second
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

// deletedKept is how long a deleted object stays in the cache. It is longer than any exchange or request
// that found the object before it was deleted. Until then the cached object keeps a late answer of
// the store, which still has the object, from bringing it back.
const deletedKept = 10 * time.Minute

// deleted holds objects that leave the cache deletedKept after they were deleted.
type deleted struct {
	at time.Time // when the cache learned that they were deleted, by the monotonic clock
	store.Deleted
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

// OnChange adds a function that is called with changed rows after the cache has them. The function is
// called by one goroutine at a time and must not block. Callers must call OnChange before Run, and
// before the first Load whose rows the function needs.
func (c *Cache) OnChange(f func(store.Settings)) { c.notify = append(c.notify, f) }

// Load reads the rows that are newer than the cache. It fails if the store cannot be read; the cache
// then stays as it is.
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
	c.apply(s, true)
	return nil
}

// Apply caches rows that this node has just written, so that the node obeys them even if it cannot read
// the store now. The next Load reads them again.
func (c *Cache) Apply(s store.Settings) { c.apply(s, false) }

// apply caches those rows that are not older than the cached ones, and passes them to the functions of
// OnChange. read says that s holds all rows that changed up to s.Revision.
func (c *Cache) apply(s store.Settings, read bool) {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.mu.Lock()
	if read { // in one step with the rows, because tell reports that this node works by them
		c.matched = max(c.matched, matched(&s, c.revision))
		c.revision = s.Revision
	}
	s.Tenants = slices.DeleteFunc(s.Tenants, func(t kapsel.Tenant) bool { return !c.keepTenant(&t) })
	changed := rerouting{}
	s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e kapsel.Endpoint) bool { return !c.keep(&e, changed) })
	c.reroute(changed)
	s.Sources = slices.DeleteFunc(s.Sources, func(src kapsel.Source) bool { return !c.keepSource(&src) })
	s.Apps = slices.DeleteFunc(s.Apps, func(app kapsel.App) bool { return !c.keepApp(&app) })
	s.Types = slices.DeleteFunc(s.Types, func(t kapsel.EventType) bool { return !c.keepType(&t) })
	for _, b := range s.Circuits {
		// The cache has every endpoint that is not deleted, except one that was made while the rows were
		// read. That one comes with the next Load, together with its circuit.
		if e := c.endpoints[b.EndpointID]; e != nil && e.DeletedAt.IsZero() && b.Version >= c.circuits[b.EndpointID].Version {
			c.circuits[b.EndpointID] = b
		}
	}
	if d := s.Deleted(); len(d.Endpoints)+len(d.Sources)+len(d.Apps)+len(d.Types)+len(d.Tenants) > 0 {
		for _, id := range d.Endpoints {
			delete(c.circuits, id)
		}
		c.deleted = append(c.deleted, deleted{time.Now(), d})
	}
	c.mu.Unlock()
	for _, f := range c.notify {
		f(s)
	}
}

// matched returns the revision up to which a cache has all changes of endpoints, sources, apps and
// event types, if it had those up to since and has now read s. The result is less than s.Revision if
// the latest changes are of other rows, such as circuits. It is never more than s.Revision, because
// of the rows that changed while they were read s need not have all.
func matched(s *store.Settings, since int64) (last int64) {
	if since == 0 {
		return s.Revision // a first reading leaves out deleted rows, which may have the highest revision
	}
	for i := range s.Endpoints {
		last = max(last, s.Endpoints[i].Revision)
	}
	for i := range s.Sources {
		last = max(last, s.Sources[i].Revision)
	}
	for i := range s.Apps {
		last = max(last, s.Apps[i].Revision)
	}
	for i := range s.Types {
		last = max(last, s.Types[i].Revision)
	}
	return min(last, s.Revision)
}

// forget removes the objects that were deleted deletedKept ago.
func (c *Cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.deleted) > 0 && time.Since(c.deleted[0].at) >= deletedKept {
		for _, id := range c.deleted[0].Endpoints {
			delete(c.endpoints, id)
		}
		for _, id := range c.deleted[0].Sources {
			delete(c.sources, id)
		}
		for _, id := range c.deleted[0].Apps {
			delete(c.apps, id)
		}
		for i := range c.deleted[0].Types {
			t := &c.deleted[0].Types[i]
			if name := (typeName{t.TenantID, t.Name}); c.types[name] != nil && c.types[name].ID == t.ID {
				delete(c.types, name)
			}
		}
		for _, id := range c.deleted[0].Tenants {
			delete(c.tenants, id)
		}
		c.deleted = c.deleted[1:]
	}
}

// rerouting holds, by origin, the endpoints whose subscription to it may have begun, ended or changed.
type rerouting map[kapsel.OriginID]map[kapsel.EndpointID]bool

// keep caches a version of an endpoint unless the cache has a newer one, and reports whether it did.
// It adds the origins of the endpoint's subscriptions to changed, which callers must then pass to
// reroute. Callers must hold mu.
func (c *Cache) keep(e *kapsel.Endpoint, changed rerouting) bool {
	old := c.endpoints[e.ID]
	if old != nil && old.Revision > e.Revision {
		return false
	}
	c.endpoints[e.ID] = e
	for _, version := range []*kapsel.Endpoint{old, e} {
		for i := range subscriptions(version) {
			origin := version.Subscriptions[i].Origin(version.Publisher())
			if changed[origin] == nil {
				changed[origin] = map[kapsel.EndpointID]bool{}
			}
			changed[origin][e.ID] = true
		}
	}
	return true
}

// reroute replaces the routes of the origins in changed. It makes each route once, however many of its
// endpoints have changed, because thousands may subscribe to one origin. Callers must hold mu.
func (c *Cache) reroute(changed rerouting) {
	for origin, endpoints := range changed {
		list := slices.DeleteFunc(slices.Clone(c.routes[origin].subscribers), func(o *kapsel.Endpoint) bool { return endpoints[o.ID] })
		for id := range endpoints {
			if e := c.endpoints[id]; len(subscriptions(e)) > 0 && e.Subscribes(origin) {
				list = append(list, e)
			}
		}
		if len(list) == 0 {
			delete(c.routes, origin)
			continue
		}
		slices.SortFunc(list, func(a, b *kapsel.Endpoint) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		c.routes[origin] = route{list, slices.ContainsFunc(list, func(o *kapsel.Endpoint) bool { return !o.WantsAll(origin) })}
	}
}

// subscriptions returns an endpoint's subscriptions; none if e is nil or deleted.
func subscriptions(e *kapsel.Endpoint) []kapsel.Subscription {
	if e == nil || !e.DeletedAt.IsZero() {
		return nil
	}
	return e.Subscriptions
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

// keepSource is keep for a source.
func (c *Cache) keepSource(src *kapsel.Source) bool {
	if old := c.sources[src.ID]; old != nil && old.Revision > src.Revision {
		return false
	}
	c.sources[src.ID] = src
	return true
}

// keepTenant is keep for a tenant.
func (c *Cache) keepTenant(t *kapsel.Tenant) bool {
	if old := c.tenants[t.ID]; old != nil && old.Revision > t.Revision {
		return false
	}
	c.tenants[t.ID] = t
	return true
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

// LatestSource is Latest for a source.
func (c *Cache) LatestSource(src *kapsel.Source) *kapsel.Source {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.sources[src.ID]; known != nil && known.Revision > src.Revision {
		return known
	}
	return src
}

// keepApp is keep for an app.
func (c *Cache) keepApp(app *kapsel.App) bool {
	old := c.apps[app.ID]
	if old != nil && old.Revision > app.Revision {
		return false
	}
	if old != nil && c.uids[uid{old.TenantID, old.UID}] == old.ID { // another app may have the uid by now
		delete(c.uids, uid{old.TenantID, old.UID})
	}
	c.apps[app.ID] = app
	if app.DeletedAt.IsZero() && app.UID != "" {
		c.uids[uid{app.TenantID, app.UID}] = app.ID
	}
	return true
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

// keepType is keep for an event type. A name may have had several event types. All but one are
// deleted; the cache keeps the one that was created last.
func (c *Cache) keepType(t *kapsel.EventType) bool {
	name := typeName{t.TenantID, t.Name}
	if old := c.types[name]; old != nil {
		made := old.CreatedAt.Compare(t.CreatedAt)
		switch {
		case old.ID == t.ID && old.Revision > t.Revision, old.ID != t.ID && (made > 0 || made == 0 && !t.DeletedAt.IsZero()):
			return false
		}
	}
	c.types[name] = t
	return true
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

// KnowsSource reports whether Source would return without asking the store.
func (c *Cache) KnowsSource(id kapsel.SourceID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sources[id] != nil
}

// Run keeps the cache up to date until ctx ends. It logs that the store cannot be read once, and again
// only after a reading has succeeded.
func (c *Cache) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(Refresh)
	defer tick.Stop()
	pace, changedAt := Refresh, time.Time{}
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.changed:
		}
		before, _, _ := c.standing()
		err := c.Load(ctx)
		if err == nil {
			err = c.tell(ctx)
		}
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("settings cannot be read; going on with those known", "error", err)
		}
		failing = err != nil

		// This node's own changes do not count, because Settle has loaded them.
		if after, _, _ := c.standing(); after > before {
			changedAt = time.Now()
		}
		next := Refresh
		if time.Since(changedAt) < briskFor {
			next = brisk
		}
		if next != pace {
			tick.Reset(next)
			pace = next
		}
	}
}

// Joined sets the ID under which this node tells the others which changes it has; see tell.
func (c *Cache) Joined(node kapsel.NodeID, clock *clock.Clock) {
	c.mu.Lock()
	c.node, c.clock, c.told = node, clock, -1
	c.mu.Unlock()
	c.Changed()
}

// standing returns matched, told and the node's ID at one moment.
func (c *Cache) standing() (matched, told int64, node kapsel.NodeID) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.matched, c.told, c.node
}

// tell writes to the store up to which revision this node has the changes of matched settings, unless
// the store has that already. It fails if the store does.
func (c *Cache) tell(ctx context.Context) error {
	matched, told, node := c.standing()
	if node.IsZero() || matched == told {
		return nil
	}
	if err := c.dir.Follow(ctx, node, matched); err != nil {
		return fmt.Errorf("tell the other nodes: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node == node {
		c.told = matched
	}
	return nil
}

// Settle blocks until this node obeys all changes that were made before the call, and every other live
// node those of matched settings: endpoints, sources, apps and event types, by which events are matched
// with their deliveries. An event that comes in afterwards, at any node, is then matched by them.
// Settle blocks for SettleTime at most: a node that has not answered by then is slow, cut off from the
// store, or dead with a lease that has not ended. If this node cannot read the changes, Settle returns
// at once and has Run read them.
func (c *Cache) Settle() {
	ctx, cancel := context.WithTimeout(context.Background(), SettleTime)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
		return
	}
	// One call at a time waits, for all changes that the cache has by then. The calls behind it usually
	// find that their own changes are among them.
	select {
	case c.settling <- struct{}{}:
		defer func() { <-c.settling }()
	case <-ctx.Done():
		return
	}
	c.mu.RLock()
	node, clock, matched, settled := c.node, c.clock, c.matched, c.settled
	c.mu.RUnlock()
	if node.IsZero() || matched == settled {
		return
	}
	tick := time.NewTicker(brisk)
	defer tick.Stop()
	for ctx.Err() == nil {
		behind, err := c.dir.Behind(ctx, node, clock.Now(), matched)
		if err == nil && behind == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	// This also holds if the time is over: the next call must not wait for the same change again.
	c.mu.Lock()
	c.settled = matched
	c.mu.Unlock()
}

// Changed has Run read the settings counter at once.
func (c *Cache) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Obey blocks until this node obeys all changes that were made before the call. It blocks for Refresh at
// most: if the store is slow or fails, Obey has Run read the changes.
func (c *Cache) Obey() {
	ctx, cancel := context.WithTimeout(context.Background(), Refresh)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
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

// Knows reports whether Endpoint would return without asking the store.
func (c *Cache) Knows(id kapsel.EndpointID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.endpoints[id] != nil
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

// Latest returns the newest cached version of an endpoint, or e if the cache has no newer one.
func (c *Cache) Latest(e *kapsel.Endpoint) *kapsel.Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.endpoints[e.ID]; known != nil && known.Revision > e.Revision {
		return known
	}
	return e
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

// Circuit returns an endpoint's circuit as it was last read; if there is none, a zero Circuit with the
// endpoint's ID.
func (c *Cache) Circuit(id kapsel.EndpointID) kapsel.Circuit {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.circuits[id]
	b.EndpointID = id
	return b
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
