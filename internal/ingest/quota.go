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
	// quotaRefresh is the least time between two readings of a tenant's counters, and so how long this
	// node may not know what other nodes have accepted. If a reading fails, the node goes on with the
	// older counts.
	quotaRefresh = 5 * time.Second
	// quotaWait is the longest Retry-After. It is shorter than a month because an operator may raise
	// the limit before the month ends.
	quotaWait = time.Hour
)

// quotas enforces the monthly event limit of the tenants that have one.
//
// A node adds the events that it accepts to the events that the store has counted. After
// quotaRefresh the next request reads the store's counters again. A node's own events never exceed
// the limit: a request takes a place before its body is read, and gives the place back unless the
// request becomes an event. Several nodes can together exceed the limit by the events that they
// accept between two readings. Events written during a reading may be counted twice until the next
// reading, so a tenant may reach its limit a few seconds early, by that many events.
type quotas struct {
	config *Config

	mu      sync.Mutex // guards tenants, and the fields of each quota but reading
	tenants map[kapsel.TenantID]*quota
}

// quota holds what this node knows about a tenant's current month.
type quota struct {
	reading  sync.Mutex // held by the request that reads the counters
	month    time.Time  // when the month begins
	known    bool       // the counters of this month were read
	reads    int        // number of readings begun
	readAt   time.Time  // when the last reading began
	failed   error      // why the last reading of this month failed; errUnread before the first
	counted  int64      // events that the last successful reading found
	accepted int64      // events accepted by this node since that reading began
	underway int64      // open requests that may become events
}

// errUnread is the error of requests that arrive as a month ends, before the new month's counters
// were read.
var errUnread = store.Unavailable(errors.New("the month ended while its events were counted"))

// place is a request's place in its tenant's quota. It is nil if the tenant has no limit.
type place struct {
	quotas *quotas
	quota  *quota
	used   bool // the request became an event, or may have
}

// take takes a place for one more event of a tenant. It returns nil if limit is nil. Callers must
// call leave when the request ends. take returns QuotaExceeded if the limit is reached, and the
// error of the reading if the month's counters could not be read yet.
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

// refresh reads the counters of a tenant's month. The caller holds mu; refresh releases mu while
// it reads. If several requests call refresh at the same time, one of them reads. If the month's
// counters are not known yet, the others wait for that reading and share its error; otherwise they
// go on with the known counts.
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
	if u.reads != reads || u.known && !known { // another request has read them meanwhile
		return
	}
	u.reads++
	u.readAt = now // set even if the reading fails: once counts are known, the next try is quotaRefresh later
	month, accepted := u.month, u.accepted
	_, next := kapsel.UsageMonth(month)

	var days []store.UsageOfDay
	var err error
	func() {
		q.mu.Unlock()
		defer q.mu.Lock() // also if Usage panics
		days, err = q.config.Counters.Usage(ctx, id, month, next)
	}()
	if !u.month.Equal(month) { // the month ended meanwhile
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

// drop removes the quotas of deleted tenants.
func (q *quotas) drop(deleted []kapsel.TenantID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range deleted {
		delete(q.tenants, id)
	}
}

// settle records whether the request became an event. If that is not known, because the database
// was unavailable, the place stays taken until the counters are read again. Callers must call
// settle before leave.
func (p *place) settle(a store.Accepted, err error) {
	if p != nil {
		p.used = err == nil && !a.Duplicate || kapsel.CodeOf(err) == kapsel.DatabaseUnavailable
	}
}

// leave ends the request, and gives its place back unless settle found that it was used.
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
