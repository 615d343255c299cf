package ingest

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	// quotaRefresh is how old this node's knowledge of what the others have accepted may be.
	quotaRefresh = 5 * time.Second
	// quotaWait is the longest Retry-After: until the month is over an operator may have
	// raised the limit.
	quotaWait = time.Hour
)

// quotas hold tenants to their events of a month, where they have such a limit.
//
// A node counts what it lets through on top of what the store has counted, and reads that
// again every quotaRefresh, by one request that comes in then. Of its own events none passes
// the limit: a request takes its place in the count before its body is read, and gives it
// back unless it becomes an event. Several nodes can exceed the limit together by what they
// accept between two readings. What was written during a reading may be counted twice until
// the next one, so a tenant may meet its limit a few seconds early, by as many events.
type quotas struct {
	config *Config

	mu      sync.Mutex // guards tenants, and the fields of each quota but reading
	tenants map[kapsel.TenantID]*quota
}

// quota is what is known of a tenant's month.
type quota struct {
	reading  sync.Mutex // held by the one that reads the counters
	month    time.Time  // its beginning
	known    bool       // the counters of this month were read
	reads    int        // how often that was tried
	readAt   time.Time  // when it was last begun
	failed   error      // why it failed then
	counted  int64      // events, as read
	accepted int64      // here, since that reading began
	underway int64      // requests that may become events
}

// errUnread is for requests at the very change of a month, whose turn to read never came.
var errUnread = store.Unavailable(errors.New("the month ended while its events were counted"))

// place is a request's place in its tenant's quota. nil: the tenant has none.
type place struct {
	quotas *quotas
	quota  *quota
	used   bool // it may have become an event
}

// take finds a place for one more event of a tenant with a limit (nil: none), to be left when
// the request ends.
func (q *quotas) take(ctx context.Context, id kapsel.TenantID, limit *int64) (*place, error) {
	if limit == nil {
		return nil, nil
	}
	now := q.config.Clock.Now()
	month, next := kapsel.UsageMonth(now)
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.tenants[id]
	if u == nil {
		if q.tenants == nil {
			q.tenants = map[kapsel.TenantID]*quota{}
		}
		u = &quota{}
		q.tenants[id] = u
	}
	if month.After(u.month) {
		u.month, u.accepted = month, 0
		u.known, u.failed = false, errUnread
	}
	if !u.known || now.Sub(u.readAt) >= quotaRefresh {
		q.refresh(ctx, id, u, now)
		if !u.known {
			return nil, u.failed
		}
	}
	if u.counted+u.accepted+u.underway >= *limit {
		return nil, &kapsel.Error{
			Code: kapsel.QuotaExceeded, Status: http.StatusTooManyRequests, RetryAfter: min(max(next.Sub(now), time.Second), quotaWait),
			Detail: "the tenant has used up its events_per_month; the next month begins at " + next.Format(time.RFC3339) + ", and the operator can raise the limit",
		}
	}
	u.underway++
	return &place{quotas: q, quota: u}, nil
}

// refresh reads the counters of a tenant's month, without mu meanwhile. Of requests at the same
// time one does: the others wait for it, and share its error, where nothing is known yet, and
// go on with what is known otherwise.
func (q *quotas) refresh(ctx context.Context, id kapsel.TenantID, u *quota, now time.Time) {
	known, reads := u.known, u.reads
	q.mu.Unlock()
	mine := u.reading.TryLock()
	if !mine && !known {
		u.reading.Lock()
		mine = true
	}
	q.mu.Lock()
	if !mine {
		return
	}
	defer u.reading.Unlock()
	if u.reads != reads { // another has read meanwhile
		return
	}
	u.reads++
	u.readAt = now // also when it fails: the next try is quotaRefresh later
	month, accepted := u.month, u.accepted
	_, next := kapsel.UsageMonth(month)

	var days []store.UsageOfDay
	var err error
	func() {
		q.mu.Unlock()
		defer q.mu.Lock() // also when it panics
		days, err = q.config.Counters.Usage(ctx, id, month, next)
	}()
	if !u.month.Equal(month) { // it ended meanwhile
		return
	}
	if u.failed = err; err != nil {
		return
	}
	u.counted, u.known = 0, true
	for _, d := range days {
		u.counted += d.Events
	}
	u.accepted -= accepted
}

// drop forgets tenants that were deleted.
func (q *quotas) drop(deleted []kapsel.TenantID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range deleted {
		delete(q.tenants, id)
	}
}

// settle says what became of the request's event. One of which it is not known whether it was
// stored keeps its place until the counters are read again.
func (p *place) settle(a store.Accepted, err error) {
	if p != nil {
		p.used = err == nil && !a.Duplicate || kapsel.CodeOf(err) == kapsel.DatabaseUnavailable
	}
}

// leave ends the request.
func (p *place) leave() {
	if p == nil {
		return
	}
	p.quotas.mu.Lock()
	defer p.quotas.mu.Unlock()
	p.quota.underway--
	if p.used {
		p.quota.accepted++
	}
}
