// Package feed hands the stream of events to all who follow it on this node.
package feed

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of a feed.
const (
	// feedEvery is how often the stream is read while somebody follows it.
	feedEvery = 250 * time.Millisecond
	feedPage  = 500  // events looked at by one reading
	feedKept  = 1000 // events that are kept for followers
	// feedReaders is how many followers read for themselves at a time.
	feedReaders = 2
	// MaxFollowers is how many follow on a node for one owner.
	MaxFollowers = 100
)

// Feed hands the stream of events to all who follow it on this node. The store is read once
// for all that have caught up, and not at all while nobody follows: the feed keeps the events
// read last, and each follower takes from them what is behind its position. A follower that is
// further behind reads for itself, few of them at a time, until it has caught up.
type Feed struct {
	store   store.Stream
	clock   *clock.Clock
	log     *slog.Logger
	reading chan struct{} // holds a token for each follower that reads for itself
	wake    chan struct{} // there is a first follower, or one that has not joined

	mu        sync.Mutex // guards what follows
	followers map[*Follower]struct{}
	owners    map[kapsel.TenantID]int // followers by owner
	kept      []store.Streamed        // the events between from and end, of the tenants followed
	from, end store.Position
	moved     chan struct{} // closed, and replaced, when kept or who has joined changes
	stopped   bool
}

// NewFeed makes a feed; Run reads for it.
func New(s store.Stream, clock *clock.Clock, log *slog.Logger) *Feed {
	return &Feed{
		store: s, clock: clock, log: log, reading: make(chan struct{}, feedReaders), wake: make(chan struct{}, 1),
		followers: map[*Follower]struct{}{}, owners: map[kapsel.TenantID]int{}, moved: make(chan struct{}),
	}
}

// Follower follows the stream. Next is for one goroutine.
type Follower struct {
	feed   *Feed
	owner  kapsel.TenantID
	key    kapsel.KeyID
	tenant kapsel.TenantID // whose events; zero: everybody's
	filter store.StreamFilter
	ctx    context.Context // ends when it must end
	end    context.CancelFunc

	// What follows is guarded by feed.mu.
	joined   bool             // the feed reads this tenant's events …
	from     store.Position   // … behind this position
	endpoint *kapsel.Endpoint // the filter's endpoint as it is known; nil: it is not, or it is deleted
}

// Follow adds a follower: of the events of a tenant that a filter lets through, of all tenants if
// tenant is zero. The filter's own tenants mean nothing. endpoint is the filter's, nil if there is
// none: it says whether the follower gets an event whose delivery to it is still to be made. It counts
// for owner, and ends when the key, unless zero, is revoked, when the tenant is deleted, and
// when the feed stops. RateLimited: its owner has MaxFollowers already. ShuttingDown: the feed
// has stopped. Leave must be called.
func (f *Feed) Follow(ctx context.Context, owner kapsel.TenantID, key kapsel.KeyID, tenant kapsel.TenantID, filter store.StreamFilter, endpoint *kapsel.Endpoint) (*Follower, error) {
	filter.Tenants = nil
	l := &Follower{feed: f, owner: owner, key: key, tenant: tenant, filter: filter, endpoint: endpoint}
	if !tenant.IsZero() {
		l.filter.Tenants = []kapsel.TenantID{tenant}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopped:
		return nil, &kapsel.Error{Code: kapsel.ShuttingDown, Detail: "the server stops; try again", RetryAfter: time.Second}
	case f.owners[owner] >= MaxFollowers:
		return nil, &kapsel.Error{Code: kapsel.RateLimited, Detail: "too many streams are open; close one, or let one stream serve more", RetryAfter: 10 * time.Second}
	}
	l.ctx, l.end = context.WithCancel(ctx)
	f.owners[owner]++
	f.followers[l] = struct{}{}
	f.poke()
	return l, nil
}

func (f *Feed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Leave ends a follower.
func (l *Follower) Leave() {
	l.end()
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.followers[l]; !ok {
		return
	}
	delete(f.followers, l)
	if f.owners[l.owner]--; f.owners[l.owner] == 0 {
		delete(f.owners, l.owner)
	}
}

// Context is the one that Follow was given, and ends when the follower must end.
func (l *Follower) Context() context.Context { return l.ctx }

// Changed ends the followers whose keys were revoked or whose tenants were deleted, and takes over
// changes of their endpoints. It is told of every change of settings; see Cache.OnChange.
func (f *Feed) Changed(s store.Settings) {
	revoked := map[kapsel.KeyID]bool{}
	for _, k := range s.Keys {
		if !k.RevokedAt.IsZero() {
			revoked[k.ID] = true
		}
	}
	endpoints := map[kapsel.EndpointID]*kapsel.Endpoint{}
	for i := range s.Endpoints {
		endpoints[s.Endpoints[i].ID] = &s.Endpoints[i]
	}
	deleted := s.Deleted().Tenants
	if len(revoked)+len(deleted)+len(endpoints) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.followers {
		if e := endpoints[l.filter.EndpointID]; e != nil {
			l.endpoint = e
		}
		if !l.key.IsZero() && revoked[l.key] || !l.tenant.IsZero() && slices.Contains(deleted, l.tenant) {
			l.end()
		}
	}
}

// Stop ends all followers and lets none begin.
func (f *Feed) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for l := range f.followers {
		l.end()
	}
}

// Next waits until there are events behind a position, or the context ends. It returns some
// of them and the position to go on from; none only with an error: the context's, or the
// store's for a follower that reads for itself. The position is worth keeping then, too.
func (l *Follower) Next(ctx context.Context, after store.Position) ([]store.Streamed, store.Position, error) {
	for {
		events, next, caughtUp, wait := l.feed.take(l, after)
		if !caughtUp {
			var more bool
			var err error
			if events, next, more, err = l.read(ctx, after); err != nil {
				return nil, after, err
			}
			if more {
				wait = nil
			}
		}
		if after = next; len(events) > 0 {
			return events, after, nil
		}
		if wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, after, ctx.Err()
			}
		}
	}
}

// take gives what the feed keeps for a follower behind a position, if it has caught up. wait is
// closed when that may have changed; nil: there is something now.
func (f *Feed) take(l *Follower, after store.Position) (events []store.Streamed, next store.Position, caughtUp bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !l.joined:
		return nil, after, false, f.moved
	case after.Compare(l.from) < 0 || after.Compare(f.from) < 0:
		return nil, after, false, nil
	}
	i, _ := slices.BinarySearchFunc(f.kept, after, func(e store.Streamed, p store.Position) int {
		if e.At.Compare(p) <= 0 {
			return -1
		}
		return 1
	})
	for _, e := range f.kept[i:] {
		if l.wants(&e.EventRecord) {
			events = append(events, e)
		}
	}
	if len(events) == 0 {
		wait = f.moved
	}
	return events, after.Later(f.end), true, wait
}

// wants reports whether the follower gets an event. The caller must hold feed.mu.
func (l *Follower) wants(r *store.EventRecord) bool {
	return (l.tenant.IsZero() || r.Event.TenantID == l.tenant) &&
		(l.filter.EndpointID.IsZero() || r.To(l.filter.EndpointID) || r.Expanding && l.endpoint != nil && l.endpoint.Gets(&r.Event)) &&
		(l.filter.SourceID.IsZero() || r.Event.SourceID == l.filter.SourceID)
}

// read reads for one follower.
func (l *Follower) read(ctx context.Context, after store.Position) ([]store.Streamed, store.Position, bool, error) {
	f := l.feed
	select {
	case f.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, after, false, ctx.Err()
	}
	defer func() { <-f.reading }()
	events, next, more, err := f.store.StreamEvents(ctx, l.filter, after, f.clock.Now(), feedPage)
	f.mu.Lock()
	defer f.mu.Unlock()
	events = slices.DeleteFunc(events, func(e store.Streamed) bool { return !l.wants(&e.EventRecord) })
	return events, next, more, err
}

// Run reads the stream until ctx ends. When the store does not answer, followers wait.
func (f *Feed) Run(ctx context.Context) {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	failing, reading := false, false // reading: end is where somebody's reading left off
	for {
		f.mu.Lock()
		idle := len(f.followers) == 0
		f.mu.Unlock()
		if idle {
			reading = false
			select {
			case <-f.wake:
			case <-ctx.Done():
				return
			}
		}
		err := f.advance(ctx, reading)
		if reading = err == nil || reading; err != nil && !failing && ctx.Err() == nil {
			f.log.Warn("the stream of events cannot be read; those who follow it wait", "error", err)
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// advance reads what is new, from where it left off or, at first, from the end.
func (f *Feed) advance(ctx context.Context, goOn bool) error {
	if !goOn {
		end, err := f.store.StreamEnd(ctx, f.clock.Now())
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.kept, f.from, f.end = nil, end, end
		f.mu.Unlock()
	}
	for more := true; more; {
		filter, after := f.join()
		events, next, m, err := f.store.StreamEvents(ctx, filter, after, f.clock.Now(), feedPage)
		if err != nil {
			return err
		}
		more = m
		f.mu.Lock()
		f.end = next
		if f.kept = append(f.kept, events...); len(f.kept) > feedKept {
			drop := len(f.kept) - feedKept
			f.from = f.kept[drop-1].At
			f.kept = slices.Delete(f.kept, 0, drop)
		}
		if len(events) > 0 {
			f.tell()
		}
		f.mu.Unlock()
	}
	return nil
}

// join lets new followers in and returns whose events to read, and from where.
func (f *Feed) join() (filter store.StreamFilter, after store.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tenants, all, joined := map[kapsel.TenantID]bool{}, false, false
	for l := range f.followers {
		if !l.joined {
			l.joined, l.from, joined = true, f.end, true
		}
		if l.tenant.IsZero() {
			all = true
		} else {
			tenants[l.tenant] = true
		}
	}
	if joined {
		f.tell()
	}
	if !all {
		for t := range tenants {
			filter.Tenants = append(filter.Tenants, t)
		}
	}
	return filter, f.end
}

// tell wakes all who wait. It holds mu.
func (f *Feed) tell() {
	close(f.moved)
	f.moved = make(chan struct{})
}
