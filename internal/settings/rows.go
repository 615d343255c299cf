package settings

import (
	"bytes"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

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

// keepSource is keep for a source.
func (c *Cache) keepSource(src *kapsel.Source) bool {
	if old := c.sources[src.ID]; old != nil && old.Revision > src.Revision {
		return false
	}
	c.sources[src.ID] = src
	return true
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

// keepTenant is keep for a tenant.
func (c *Cache) keepTenant(t *kapsel.Tenant) bool {
	if old := c.tenants[t.ID]; old != nil && old.Revision > t.Revision {
		return false
	}
	c.tenants[t.ID] = t
	return true
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
