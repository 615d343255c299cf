package manage

import (
	"context"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Bounds of reading backlogs: counting rows is work for the store. Up to backlogExact they are
// counted at each read, so that a person who waits for the last few sees them go. A larger
// number is only one to look at, and may be backlogAge old.
const (
	backlogExact = 100
	backlogMost  = 10_000
	backlogAge   = 15 * time.Second
	backlogTime  = 250 * time.Millisecond
)

// backlogs counts what waits for endpoints, and remembers long backlogs for a while.
type backlogs struct {
	of func(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error)

	mu   sync.Mutex
	last map[kapsel.EndpointID]backlog // guarded by mu; long ones
}

type backlog struct {
	count  int
	oldest time.Time
	known  bool // false: the store did not answer in time
	at     time.Time
}

// get returns an endpoint's backlog and when its oldest delivery is due; nil when it is not
// known.
func (b *backlogs) get(ctx context.Context, id kapsel.EndpointID, now time.Time) (*int, time.Time) {
	b.mu.Lock()
	l, ok := b.last[id]
	b.mu.Unlock()
	ok = ok && now.Sub(l.at) < backlogAge
	if !ok || l.known {
		switch short := b.count(ctx, id, backlogExact, now); {
		case !short.known && !ok: // the store is in trouble: leave it alone for a while
			l = b.remember(id, short)
		case short.known && short.count < backlogExact:
			return &short.count, short.oldest
		case !ok:
			l = b.remember(id, b.count(ctx, id, backlogMost, now))
		}
	}
	if !l.known {
		return nil, time.Time{}
	}
	return &l.count, l.oldest
}

// count asks the store.
func (b *backlogs) count(ctx context.Context, id kapsel.EndpointID, atMost int, now time.Time) backlog {
	ctx, cancel := context.WithTimeout(ctx, backlogTime)
	defer cancel()
	count, oldest, err := b.of(ctx, id, now, atMost)
	return backlog{count, oldest, err == nil, now}
}

// remember keeps what get is to answer for backlogAge, and returns it.
func (b *backlogs) remember(id kapsel.EndpointID, l backlog) backlog {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil || len(b.last) >= backlogMost {
		b.last = map[kapsel.EndpointID]backlog{} // it only spares work
	}
	b.last[id] = l
	return l
}
