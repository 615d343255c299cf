// Package feed passes the stream of events to its followers on this node.
package feed

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of a feed.
const (
	feedPage = 500  // how many events a follower's own reading examines at most
	feedKept = 2500 // how many events are kept for followers
	// feedReaders is how many followers may read the store themselves at a time.
	feedReaders = 2
	// MaxFollowers is how many followers one owner may have on a node.
	MaxFollowers = 100
)

// pace is how a Feed reads the stream.
type pace struct {
	every  time.Duration // the time between two readings
	page   int           // how many events one reading examines at most
	newest int           // how many events of each tenant a reading returns at most; 0: all
}

// The paces of a Feed. Both keep up with the same rate by one reading at a time.
var (
	whole = pace{every: 250 * time.Millisecond, page: feedPage}
	thin  = pace{every: time.Second, page: 4 * feedPage, newest: 20}
)

// Owner is who followers are counted for. The pages that people have open are counted apart from
// programs, so that neither takes the other's streams.
type Owner struct {
	Tenant kapsel.TenantID // zero: admins
	Pages  bool            // its followers call Newest: they need not get every event
}

// Feed passes the stream of events to its followers on this node. It reads the store once for all
// followers that have caught up, and not at all while there are none: it keeps the newest events, and
// each follower takes those behind its position. A follower whose position is older than the kept
// events reads the store itself until it has caught up; feedReaders limits how many do so at a time.
// While all followers are pages, a feed that does not get to the end of the stream by one reading goes on
// at the thin pace: it reads the newest events of each tenant and counts the others.
type Feed struct {
	store   store.Stream
	clock   *clock.Clock
	log     *slog.Logger
	reading chan struct{} // holds a token for each follower that reads the store itself
	wake    chan struct{} // a follower was added

	mu        sync.Mutex // guards what follows
	followers map[*Follower]struct{}
	owners    map[Owner]int    // followers by owner
	kept      []store.Streamed // the events between from and end, of the followers' tenants
	from, end store.Position
	moved     chan struct{} // closed and replaced when kept has changed or followers have joined
	stopped   bool
}

// New returns a Feed that reads nothing until Run is called.
func New(s store.Stream, clock *clock.Clock, log *slog.Logger) *Feed {
	return &Feed{
		store: s, clock: clock, log: log, reading: make(chan struct{}, feedReaders), wake: make(chan struct{}, 1),
		followers: map[*Follower]struct{}{}, owners: map[Owner]int{}, moved: make(chan struct{}),
	}
}

// Follower follows the stream. Only one goroutine at a time may call Next or Newest.
type Follower struct {
	feed   *Feed
	owner  Owner
	key    kapsel.KeyID
	tenant kapsel.TenantID // whose events it gets; zero: all tenants'
	filter store.StreamFilter
	ctx    context.Context // ends when the follower must end
	end    context.CancelFunc
	skips  bool // Newest need not return what lies before the kept events

	// What follows is guarded by feed.mu.
	meant    bool             // plan has seen the follower: readings have its events
	joined   bool             // the feed keeps the follower's events …
	from     store.Position   // … behind this position, the end of a reading
	endpoint *kapsel.Endpoint // the newest known version of the filter's endpoint; nil: none is known
}

// Follow adds a follower, which gets the events of a tenant, or of all tenants if tenant is zero, that
// match a filter; filter.Tenants is ignored. If the filter names an endpoint, endpoint is that
// endpoint: its subscriptions tell whether an event will go to it while the event's deliveries are
// still being made. The follower counts toward owner's MaxFollowers. It ends when the key is revoked,
// unless key is zero, when the tenant is deleted, and when the feed stops. The error is RateLimited if
// owner has MaxFollowers already, and ShuttingDown if the feed has stopped. Callers must call Leave.
func (f *Feed) Follow(ctx context.Context, owner Owner, key kapsel.KeyID, tenant kapsel.TenantID, filter store.StreamFilter, endpoint *kapsel.Endpoint) (*Follower, error) {
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

// Leave removes the follower from the feed. Calls after the first do nothing.
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

// Context returns a context that ends with the one passed to Follow, or when the follower must end.
func (l *Follower) Context() context.Context { return l.ctx }

// Changed ends the followers whose keys were revoked or whose tenants were deleted, and updates the
// followers' endpoints. Callers must pass it to settings.Cache.OnChange.
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

// Stop ends all followers. Later calls of Follow fail.
func (f *Feed) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for l := range f.followers {
		l.end()
	}
}

// Next blocks until the stream has events for the follower behind a position, and returns some of them
// and the position of the last event that it examined, for the next call. It returns no event only with
// an error: that of ctx, or that of the store. The position is then valid, too, and may be later than
// after.
func (l *Follower) Next(ctx context.Context, after store.Position) ([]store.Streamed, store.Position, error) {
	b, err := l.next(ctx, after, math.MaxInt)
	return b.Events, b.At, err
}

// Batch is what Newest returns.
type Batch struct {
	Events []store.Streamed
	Left   int            // how many events before these are left out
	Gap    bool           // more events may be left out
	At     store.Position // of the last event examined, for the next call
}

// Newest is like Next for a follower that shows only the newest events, whose owner is Pages: it returns the
// newest n of those that Next would return. A follower that has once caught up, or that is more than n events
// behind, goes on from what the feed keeps instead of reading the store.
func (l *Follower) Newest(ctx context.Context, after store.Position, n int) (Batch, error) {
	var gap bool
	l.feed.mu.Lock()
	if kept := l.from.Later(l.feed.from); l.joined {
		if gap = l.skips && after.Compare(kept) < 0; gap {
			after = kept
		}
		l.skips = l.skips || after.Compare(kept) >= 0
	}
	l.feed.mu.Unlock()
	b, err := l.next(ctx, after, n)
	b.Gap = b.Gap || gap
	return b, err
}

// next is Next for the newest n events.
func (l *Follower) next(ctx context.Context, after store.Position, n int) (b Batch, err error) {
	for b.At = after; ; {
		caughtUp, wait := l.feed.take(l, &b, n)
		if !caughtUp {
			more, err := l.read(ctx, &b, n)
			if err != nil {
				return b, err
			}
			if more {
				wait = nil
				l.skips = l.skips || b.Left > 0
			}
		}
		if len(b.Events) > 0 {
			return b, nil
		}
		if wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return b, ctx.Err()
			}
		}
	}
}

// take adds the newest n of the kept events for a follower behind b.At to b, which has no events. caughtUp is
// false if the follower must read the store: it is no page and has not joined, or the feed does not keep all events
// behind that position. wait is closed when there may be more events.
func (f *Feed) take(l *Follower, b *Batch, n int) (caughtUp bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !l.joined:
		return l.owner.Pages, f.moved
	case b.At.Compare(l.from.Later(f.from)) < 0:
		return false, nil
	}
	for i := len(f.kept) - 1; i >= 0 && f.kept[i].At.Compare(b.At) > 0; i-- {
		e := &f.kept[i]
		switch {
		case e.Left == 0 || !l.reads(e.Event.TenantID):
		case l.filter.EndpointID.IsZero() && l.filter.SourceID.IsZero():
			b.Left += e.Left
		default:
			b.Gap = true // Left does not say how many events pass the filter
		}
		switch {
		case !l.wants(&e.EventRecord):
		case len(b.Events) < n:
			b.Events = append(b.Events, *e)
		default:
			b.Left++
		}
	}
	slices.Reverse(b.Events)
	b.At = b.At.Later(f.end)
	return true, f.moved
}

// reads reports whether the follower gets events of a tenant.
func (l *Follower) reads(tenant kapsel.TenantID) bool { return l.tenant.IsZero() || tenant == l.tenant }

// wants reports whether the follower gets an event. Callers must hold feed.mu.
func (l *Follower) wants(r *store.EventRecord) bool {
	return l.reads(r.Event.TenantID) &&
		(l.filter.EndpointID.IsZero() || r.To(l.filter.EndpointID) || r.Expanding && l.endpoint != nil && l.endpoint.Gets(&r.Event)) &&
		(l.filter.SourceID.IsZero() || r.Event.SourceID == l.filter.SourceID)
}

// read adds the newest n of the next events in the store behind b.At to b, which has no events, when fewer than
// feedReaders others read. A page must have joined, and reads up to l.from at most: Streamed.Left counts events from
// the end of one reading of the feed, so it would be too large for a position between two ends. more reports whether
// the follower must read on behind the new position. It fails if ctx ends or the store cannot be read.
func (l *Follower) read(ctx context.Context, b *Batch, n int) (more bool, err error) {
	f := l.feed
	select {
	case f.reading <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-f.reading }()
	events, next, more, err := f.store.StreamEvents(ctx, l.filter, b.At, f.clock.Now(), feedPage)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.owner.Pages && next.Compare(l.from) > 0 {
		events = slices.DeleteFunc(events, func(e store.Streamed) bool { return e.At.Compare(l.from) > 0 })
		next, more = l.from, false
	}
	events = slices.DeleteFunc(events, func(e store.Streamed) bool { return !l.wants(&e.EventRecord) })
	over := max(0, len(events)-n)
	b.Events, b.Left, b.At = events[over:], over, next
	return more, nil
}

// Run reads the stream until ctx ends. While the store does not answer, followers wait.
func (f *Feed) Run(ctx context.Context) {
	failing, reading := false, false // reading: f.end continues an earlier reading
	p := whole
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
		var err error
		p, err = f.advance(ctx, reading, p)
		if reading = err == nil || reading; err != nil && !failing && ctx.Err() == nil {
			f.log.Warn("the stream of events cannot be read; those who follow it wait", "error", err)
		}
		failing = err != nil
		select {
		case <-time.After(p.every):
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// advance reads the new events behind f.end, at a pace. If goOn is false, it first sets f.end to the end of the
// stream and drops the kept events. It returns the pace for the next call: thin if all followers are pages and
// the first reading did not get to the end. It fails if the store cannot be read.
func (f *Feed) advance(ctx context.Context, goOn bool, p pace) (pace, error) {
	if !goOn {
		end, err := f.store.StreamEnd(ctx, f.clock.Now())
		if err != nil {
			return whole, err
		}
		f.mu.Lock()
		f.kept, f.from, f.end = nil, end, end
		f.mu.Unlock()
	}
	for next := whole; ; next, p = thin, thin {
		filter, pages, after := f.plan()
		if !pages {
			next, p = whole, whole
		}
		filter.Newest = p.newest
		events, end, more, err := f.store.StreamEvents(ctx, filter, after, f.clock.Now(), p.page)
		if err != nil {
			return whole, err
		}
		f.mu.Lock()
		f.end = end
		if f.kept = append(f.kept, events...); len(f.kept) > feedKept {
			drop := len(f.kept) - feedKept
			f.from = f.kept[drop-1].At
			f.kept = slices.Delete(f.kept, 0, drop)
		}
		if joined := !more && f.join(); joined || len(events) > 0 {
			f.tell()
		}
		f.mu.Unlock()
		if !more {
			return next, nil
		}
	}
}

// plan returns a filter for the tenants of all followers, whether all followers are pages, and the position to read
// from.
func (f *Feed) plan() (filter store.StreamFilter, pages bool, after store.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tenants, all := map[kapsel.TenantID]bool{}, false
	pages = true
	for l := range f.followers {
		l.meant = true
		if pages = pages && l.owner.Pages; l.tenant.IsZero() {
			all = true
		} else {
			tenants[l.tenant] = true
		}
	}
	if !all {
		for t := range tenants {
			filter.Tenants = append(filter.Tenants, t)
		}
	}
	return filter, pages, f.end
}

// join marks the followers that plan saw before the last reading as joined at f.end, and reports whether there were
// any. The last reading must have got to the end of the stream. Callers must hold mu.
func (f *Feed) join() (joined bool) {
	for l := range f.followers {
		if l.meant && !l.joined {
			l.joined, l.from, joined = true, f.end, true
		}
	}
	return joined
}

// tell wakes all followers that wait. Callers must hold mu.
func (f *Feed) tell() {
	close(f.moved)
	f.moved = make(chan struct{})
}
