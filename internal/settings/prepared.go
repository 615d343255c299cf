package settings

import (
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Prepared holds values that were made from the settings of endpoints and sources in use: verifiers,
// signers, parsed URLs and paths. Such values may hold secrets in the clear, so Prepared drops a value
// as soon as its endpoint or source has changed or is deleted.
type Prepared[V any] struct {
	cache *Cache
	mu    sync.RWMutex
	byID  map[kapsel.OriginID]prepared[V]
}

// prepared is a value that was made from the settings of one revision.
type prepared[V any] struct {
	revision int64
	until    time.Time // when the value is no longer right; zero: never
	value    V
}

// NewPrepared returns an empty Prepared for the settings in cache. Callers must call NewPrepared
// before the cache is loaded and runs, as for OnChange.
func NewPrepared[V any](cache *Cache) *Prepared[V] {
	p := &Prepared[V]{cache: cache, byID: map[kapsel.OriginID]prepared[V]{}}
	cache.OnChange(p.changed)
	return p
}

// Get returns the value that was made from a revision of an endpoint's or a source's settings. ok is
// false if there is none, or if it is no longer right at now.
func (p *Prepared[V]) Get(id kapsel.OriginID, revision int64, now time.Time) (value V, ok bool) {
	p.mu.RLock()
	got, ok := p.byID[id]
	p.mu.RUnlock()
	if !ok || got.revision != revision || !got.until.IsZero() && !now.Before(got.until) {
		return value, false
	}
	return got.value, true
}

// Keep holds a value that was made from a revision of an endpoint's or a source's settings and that is
// right until a time; zero means for ever. If the cache knows newer settings, or the endpoint or
// source is deleted, Keep does nothing: nothing would drop the value.
func (p *Prepared[V]) Keep(id kapsel.OriginID, revision int64, until time.Time, value V) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cache.current(id, revision) {
		p.byID[id] = prepared[V]{revision, until, value}
	}
}

// Drop drops the value of an endpoint or a source.
func (p *Prepared[V]) Drop(id kapsel.OriginID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, id)
}

// Len returns how many values are held.
func (p *Prepared[V]) Len() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.byID)
}

// changed drops the values that were made from older settings than s.
func (p *Prepared[V]) changed(s store.Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	drop := func(id kapsel.OriginID, revision int64) {
		if got, ok := p.byID[id]; ok && got.revision < revision {
			delete(p.byID, id)
		}
	}
	for i := range s.Endpoints {
		drop(kapsel.OriginID(s.Endpoints[i].ID), s.Endpoints[i].Revision)
	}
	for i := range s.Sources {
		drop(kapsel.OriginID(s.Sources[i].ID), s.Sources[i].Revision)
	}
}

// current reports whether a revision is the newest known one of an endpoint or a source that is not
// deleted.
func (c *Cache) current(id kapsel.OriginID, revision int64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.endpoints[kapsel.EndpointID(id)]; e != nil && e.DeletedAt.IsZero() && e.Revision == revision {
		return true
	}
	s := c.sources[kapsel.SourceID(id)]
	return s != nil && s.DeletedAt.IsZero() && s.Revision == revision
}
