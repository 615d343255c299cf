package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// listOf is what a live list shows and how its rows are written. Lists with equal values get equal rows.
type listOf struct {
	tenant   kapsel.TenantID // zero: all tenants
	admin    bool            // links name the tenant
	endpoint kapsel.EndpointID
	source   kapsel.SourceID
}

// liveRows is shared by the lists with equal listOf values. It holds the last message of rows, which is made once
// for all lists that show the same events next.
type liveRows struct {
	lists int // guarded by live.mu

	mu   sync.Mutex // held while a message is made
	of   []store.Position
	made string
}

// list returns the rows that a live list shares with others. The list must call leave when it ends.
func (l *live) list(of listOf) (r *liveRows, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r = l.lists[of]
	if r == nil {
		r = &liveRows{}
		l.lists[of] = r
	}
	r.lists++
	return r, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if r.lists--; r.lists == 0 {
			delete(l.lists, of)
		}
	}
}

// message returns the message with the rows of some events, at least one, for a page whose list shares r.
func (r *liveRows) message(ctx context.Context, p *page, events []store.Streamed) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.EqualFunc(events, r.of, func(e store.Streamed, at store.Position) bool { return e.At == at }) {
		return r.made, nil
	}
	var rows strings.Builder
	at := make([]store.Position, len(events))
	for i := range events {
		if err := eventRow(p, &events[i].EventRecord).Render(ctx, &rows); err != nil {
			return "", err
		}
		at[i] = events[i].At
	}
	var b bytes.Buffer
	b.WriteString("id: " + at[len(at)-1].String() + "\n")
	writeEvent(&b, "rows", rows.String())
	r.of, r.made = at, b.String()
	return r.made, nil
}

// liveEvents returns the stream that keeps a list of events up to date, "" where the list is one of the past
// or has a filter that the stream does not have. It must be called before the list is read: the stream begins
// where the store is now.
func (d *Dashboard) liveEvents(p *page, f store.EventFilter, before kapsel.EventID) (string, error) {
	if !before.IsZero() || f.Status != "" || f.IdempotencyKey != nil || !f.Until.IsZero() || f.Type != "" || !f.AppID.IsZero() {
		return "", nil
	}
	at, err := d.Manage.StreamFrom(p.ctx, p.caller, p.tenant, manage.StreamStart{})
	if err != nil {
		return "", err
	}
	return string(p.link("/live/events", "endpoint", p.query.Get("endpoint"), "source", p.query.Get("source"), "after", at.String())), nil
}

// eventsFrom returns the position that a live list goes on behind: that of the last message which a browser
// has had, else where the page was made. gap says that the store does not know that position any more.
func (d *Dashboard) eventsFrom(ctx context.Context, p *page, last string) (at store.Position, gap bool, err error) {
	var from manage.StreamStart
	if at, ok := store.ParsePosition(cmp.Or(last, p.query.Get("after"))); ok {
		from.Position = &at
	}
	at, err = d.Manage.StreamFrom(ctx, p.caller, p.tenant, from)
	if gap = kapsel.CodeOf(err) == kapsel.Conflict; gap {
		at, err = d.Manage.StreamFrom(ctx, p.caller, p.tenant, manage.StreamStart{})
	}
	return at, gap, err
}

// followEvents sends the rows of new events. It sends a few a second, whatever comes in, and says how many it
// left out; a page reads the store for itself only until it has caught up. Each message has the position behind
// it, from which a browser that connects again goes on.
func (d *Dashboard) followEvents(ctx context.Context, p *page, last string) (follow, error) {
	f, err := eventFilter(p)
	if err != nil {
		return nil, err
	}
	at, gap, err := d.eventsFrom(ctx, p, last)
	if err != nil {
		return nil, err
	}
	follower, err := d.Manage.Follow(ctx, p.caller, p.tenant, store.StreamFilter{EndpointID: f.EndpointID, SourceID: f.SourceID})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, follower.Leave)
	shared, leave := d.live.list(listOf{p.tenant, p.caller.IsAdmin(), f.EndpointID, f.SourceID})
	context.AfterFunc(ctx, leave)
	skipped, said := 0, ""
	return func(ctx context.Context, s *stream) (<-chan struct{}, error) {
		within, cancel := context.WithTimeout(follower.Context(), lookEvery)
		defer cancel()
		b, err := follower.Newest(within, at, rowsAtOnce)
		if follower.Context().Err() != nil {
			return nil, follower.Context().Err()
		}
		s.old = err != nil && within.Err() == nil // else nothing came in
		skipped, gap = skipped+b.Left, gap || b.Gap
		if len(b.Events) > 0 {
			message, err := shared.message(ctx, p, b.Events)
			if err != nil {
				return nil, err
			}
			s.out.WriteString(message)
		}
		if b.At != at && b.At.ID == store.EndOfSeq { // another one names an event, which may be another tenant's
			s.out.WriteString("id: " + b.At.String() + "\n\n")
		}
		at = b.At
		if now := leftOut(skipped, gap); now != said {
			writeEvent(&s.out, "skipped", now)
			said = now
		}
		wait := make(chan struct{})
		time.AfterFunc(rowsInterval, func() { close(wait) })
		return wait, nil
	}, nil
}

// leftOut says what a live list does not show. Behind a gap it is not known how much that is.
func leftOut(skipped int, gap bool) string {
	switch {
	case gap && skipped > 0:
		return "At least " + plural(skipped, "more event") + " came in and are not shown; reload the page to see the newest"
	case gap:
		return "Some events may be missing here; reload the page to see them"
	case skipped > 0:
		return plural(skipped, "more event") + " came in too fast to show"
	}
	return ""
}
