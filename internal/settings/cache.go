// Package settings holds what a node knows of tenants, endpoints, sources and API keys: copies of
// the store's rows, followed by the settings counter, and who subscribes to what.
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

// Refresh is how often a node reads the settings counter: a change made on another node is
// obeyed after at most this long.
const Refresh = 500 * time.Millisecond

// SettleTime is how long Settle waits for other nodes at most. It leaves them Refresh, and as long
// again to read the change and to say so.
const SettleTime = 2 * Refresh

// While changes of what is matched come in from other nodes, a node reads the counter every
// brisk, until none has come for briskFor: who makes many changes waits for each of them.
const (
	brisk    = Refresh / 20
	briskFor = 2 * time.Second
)

// Cache is a node's copy of the settings. Presence is cached, absence is not: what is not
// here is asked for, so an endpoint made a moment ago on another node is found.
type Cache struct {
	dir     store.Directory
	changed chan struct{}

	reading  chan struct{} // full while one reads the counter
	settling chan struct{} // full while one waits for the other nodes
	applying sync.Mutex    // held while rows are taken over and told of, which keeps both in one order

	mu        sync.RWMutex // guards what follows
	revision  int64
	matched   int64         // all changes of endpoints, sources, apps and event types up to it are known here
	settled   int64         // the matched that Settle has last waited for
	told      int64         // the matched that the other nodes were last told of; -1: none
	node      kapsel.NodeID // who told them; zero until Joined
	clock     *clock.Clock
	endpoints map[kapsel.EndpointID]*kapsel.Endpoint // those deleted in the last deletedKept included
	sources   map[kapsel.SourceID]*kapsel.Source     // the same
	apps      map[kapsel.AppID]*kapsel.App           // the same
	uids      map[uid]kapsel.AppID                   // of apps that are not deleted
	types     map[typeName]*kapsel.EventType         // those deleted in the last deletedKept included
	tenants   map[kapsel.TenantID]*kapsel.Tenant     // the same
	circuits  map[kapsel.EndpointID]kapsel.Circuit   // of endpoints that are not deleted
	routes    map[kapsel.OriginID]route
	deleted   []deleted // oldest first
	notify    []func(store.Settings)
}

// route is who subscribes to an origin. Its list does not change: a change makes a new one.
type route struct {
	subscribers []*kapsel.Endpoint // in the order of their ids
	choosy      bool               // one of them wants only some of the events
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

// deletedKept is for how long a deleted endpoint, source, app or tenant stays in the cache: longer than an
// exchange, or a request, that found it before it was deleted can last. In that time a late
// answer of the store, which has it undeleted, does not bring it back.
const deletedKept = 10 * time.Minute

// deleted is what goes from the cache some time after it was deleted.
type deleted struct {
	at time.Time // when the cache learned of it, by the monotonic clock
	store.Deleted
}

// NewCache makes an empty cache; the first Load fills it.
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

// OnChange adds a function that is told of every change after it is in the cache. It is
// called by one goroutine at a time and must not block. Call it before the Load whose changes
// it is to be told of, and before Run.
func (c *Cache) OnChange(f func(store.Settings)) { c.notify = append(c.notify, f) }

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
	c.apply(s, true)
	return nil
}

// Apply takes over rows that this node has just written, so that it obeys them even if it cannot
// read them now. They do not count as read: the next Load reads them again.
func (c *Cache) Apply(s store.Settings) { c.apply(s, false) }

// apply takes over rows, and tells of those that are not older than what is known. read says that
// they are all that changed up to s.Revision.
func (c *Cache) apply(s store.Settings, read bool) {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.mu.Lock()
	if read { // in one step with the rows: other nodes are told that this one works by them
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
		// Every endpoint that is not deleted is known here; one made while this was read comes
		// with the next reading, with its circuit.
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

// matched returns the revision up to which who knows the changes up to since, and reads these,
// knows all changes of endpoints, sources, apps and event types. It is below Revision where only other rows changed:
// circuits do not count. It is not above it: rows that changed while they were read are not all here.
func matched(s *store.Settings, since int64) (last int64) {
	if since == 0 {
		return s.Revision // rows that are deleted are left out
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

// forget lets go what was deleted deletedKept ago.
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

// rerouting has the endpoints that begin or end to subscribe to an origin, or do so otherwise.
type rerouting map[kapsel.OriginID]map[kapsel.EndpointID]bool

// keep takes over a version of an endpoint unless a newer one is known, and reports whether it did.
// It adds to changed what reroute has to do after it. The caller must hold mu.
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

// reroute makes the routes of origins anew, each once however many endpoints have changed: thousands
// may subscribe to one. The caller must hold mu.
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

// subscriptions are those that count: of an endpoint that is there and not deleted.
func subscriptions(e *kapsel.Endpoint) []kapsel.Subscription {
	if e == nil || !e.DeletedAt.IsZero() {
		return nil
	}
	return e.Subscriptions
}

// Subscribers returns the endpoints that get an event of an origin by their subscriptions, in the
// order of their ids: all but the one whose own ingest the origin is. Unlike an endpoint that is
// not known here, a subscription that is not known is not asked for: who makes one waits until all
// nodes know it; see Settle. The result is shared: do not change it.
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

// Source returns a source that is not deleted, as Endpoint does an endpoint.
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

// LatestSource returns the newest known version of a source.
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
	if old != nil && c.uids[uid{old.TenantID, old.UID}] == old.ID { // another may have it by now
		delete(c.uids, uid{old.TenantID, old.UID})
	}
	c.apps[app.ID] = app
	if app.DeletedAt.IsZero() && app.UID != "" {
		c.uids[uid{app.TenantID, app.UID}] = app.ID
	}
	return true
}

// App returns an app of a tenant by its ID or its uid, as Endpoint does an endpoint by its ID.
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

// keepType is keep for an event type. Of two with one name, of which one is deleted, the one that was
// made later counts.
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

// EventType returns an event type of a tenant, nil if the tenant has none of the name. Like a
// subscription, one that is not known here is not asked for. The result is shared: do not change it.
func (c *Cache) EventType(tenant kapsel.TenantID, name string) *kapsel.EventType {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.types[typeName{tenant, name}]; t != nil && t.DeletedAt.IsZero() {
		return t
	}
	return nil
}

// KnowsSource reports whether Source would be answered without asking the store.
func (c *Cache) KnowsSource(id kapsel.SourceID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sources[id] != nil
}

// Run follows the settings until ctx ends. Trouble is logged once until it is over.
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

		// What this node changed itself was loaded by Settle and does not count here.
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

// Joined sets the id under which this node tells the others by which revision it works.
func (c *Cache) Joined(node kapsel.NodeID, clock *clock.Clock) {
	c.mu.Lock()
	c.node, c.clock, c.told = node, clock, -1
	c.mu.Unlock()
	c.Changed()
}

// standing returns up to which revision this node knows what is matched, which one the other nodes
// were last told of, and the node's id.
func (c *Cache) standing() (matched, told int64, node kapsel.NodeID) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.matched, c.told, c.node
}

// tell tells the other nodes by which revision this node works, unless they know.
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

// Settle returns when every live node works by the changes of what is matched (endpoints,
// sources, apps and event types) that were made before the call, and this node by all changes: an event that comes in
// anywhere afterwards is matched by them. It returns after SettleTime at the latest: a node that
// has said nothing by then is slow, cut off from the store, or dead with its lease not yet over.
// If this node cannot read the changes, Settle returns at once, and Run follows.
func (c *Cache) Settle() {
	ctx, cancel := context.WithTimeout(context.Background(), SettleTime)
	defer cancel()
	if c.Load(ctx) != nil {
		c.Changed()
		return
	}
	// One call waits for all changes known by then; later calls find theirs settled.
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
	// Also when the time is over: the next change of something else does not wait for it again.
	c.mu.Lock()
	c.settled = matched
	c.mu.Unlock()
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
		return nil, store.NotFound("endpoint")
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
	changed := rerouting{}
	c.keep(&found, changed)
	c.reroute(changed)
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
	c.keepTenant(&found)
	return c.tenants[id], nil
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
