package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// How the pages are kept up to date.
const (
	sampleEvery  = 2 * time.Second  // how often a shared view is made anew while somebody watches it
	samplesKept  = 300              // of the charts: ten minutes
	idleFor      = 2 * time.Minute  // a view that nobody watches is forgotten after this
	maxViews     = 200              // shared views: one for each tenant that is watched
	maxViewers   = 500              // streams to browsers, of all kinds
	checkEvery   = 15 * time.Second // how often a stream looks whether its session goes on
	patience     = 10 * time.Second // a browser that does not read for this long is dropped
	rowsAtOnce   = 20               // rows that a live list gets at once; of more it is told how many
	rowsInterval = time.Second      // the time between two of those
)

// live holds the views that viewers share. Each is made by one goroutine, so a hundred readers of one page
// cost the store what one does.
type live struct {
	d       *Dashboard
	mu      sync.Mutex // guards what follows
	views   map[kapsel.TenantID]*view
	viewers int
}

// view is the overview of a tenant, or of all when its key is the zero tenant.
type view struct {
	tenant kapsel.TenantID
	ready  chan struct{} // closed once there is something to show, or once it failed

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	state   *overviewState
	err     error
	watched int
	left    time.Time // when the last viewer left
}

// overviewState is what an overview shows. It is never changed, but replaced.
type overviewState struct {
	manage.Overview
	samples []sample // of the last ten minutes, the oldest first
	message []byte   // what viewers of an open page are sent
}

// sample is what was used of a day up to a time.
type sample struct {
	at  time.Time
	day time.Time
	kapsel.Usage
}

var errCrowded = &kapsel.Error{Code: kapsel.RateLimited, Detail: "too many pages are open at this node; the page is not live, and reloading shows what is new", RetryAfter: 10 * time.Second}

// watch returns the view of a tenant, which goes on until the caller calls leave.
func (l *live) watch(tenant kapsel.TenantID) (v *view, leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v = l.views[tenant]
	if v == nil {
		if len(l.views) >= maxViews {
			return nil, nil, errCrowded
		}
		v = &view{tenant: tenant, ready: make(chan struct{}), changed: make(chan struct{})}
		l.views[tenant] = v
		go l.produce(v)
	}
	v.mu.Lock()
	v.watched++
	v.mu.Unlock()
	return v, sync.OnceFunc(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.watched--
		v.left = time.Now()
	}), nil
}

// produce makes a view anew until nobody has watched it for a while.
func (l *live) produce(v *view) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		l.step(v)
		if first {
			close(v.ready)
		}
		select {
		case <-tick.C:
		case <-l.d.stopped:
			return
		}
		l.mu.Lock()
		v.mu.Lock()
		over := v.watched == 0 && time.Since(v.left) > idleFor
		if over {
			delete(l.views, v.tenant)
		}
		v.mu.Unlock()
		l.mu.Unlock()
		if over {
			return
		}
	}
}

// step makes a view anew and tells its viewers. It acts for the operator: who may see the view is decided
// where the view is shown.
func (l *live) step(v *view) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	state, err := l.read(ctx, v)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err = err; err == nil {
		v.state = state
		close(v.changed)
		v.changed = make(chan struct{})
	}
}

// read returns the next state of a view.
func (l *live) read(ctx context.Context, v *view) (*overviewState, error) {
	operator := access.Caller{Right: access.Operate}
	o, err := l.d.Manage.Overview(ctx, operator, v.tenant)
	if err != nil {
		return nil, err
	}
	used, err := l.d.Manage.UsedToday(ctx, operator, v.tenant)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	had := v.state
	v.mu.Unlock()
	next := &overviewState{Overview: o}
	if had != nil {
		next.samples = had.samples[max(0, len(had.samples)-samplesKept+1):]
	}
	next.samples = append(next.samples[:len(next.samples):len(next.samples)], sample{o.At, kapsel.UsageDay(o.At), used})
	var b bytes.Buffer
	if err := writePart(ctx, &b, "overview-part", overviewPart(&page{d: l.d, tenant: v.tenant, caller: operator}, next)); err != nil {
		return nil, err
	}
	writeEvent(&b, "chart", "rates\n"+next.rates())
	next.message = b.Bytes()
	return next, nil
}

// now returns the view's state, once there is one.
func (v *view) now(ctx context.Context) (*overviewState, <-chan struct{}, error) {
	select {
	case <-v.ready:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state == nil {
		return nil, v.changed, v.err
	}
	return v.state, v.changed, nil
}

// rates returns the chart of events and deliveries a second.
func (s *overviewState) rates() string {
	c := chartData{X: []int64{}, Series: []series{{Label: "accepted/s", Values: []*float64{}}, {Label: "delivered/s", Values: []*float64{}}}}
	for i := range s.samples {
		if i == 0 {
			continue
		}
		accepted, delivered, ok := between(&s.samples[i-1], &s.samples[i])
		c.X = append(c.X, s.samples[i].at.Unix())
		if !ok {
			c.Series[0].Values, c.Series[1].Values = append(c.Series[0].Values, nil), append(c.Series[1].Values, nil)
			continue
		}
		c.Series[0].Values, c.Series[1].Values = append(c.Series[0].Values, &accepted), append(c.Series[1].Values, &delivered)
	}
	return c.text()
}

// between returns the rates between two samples, false where they are of different days.
func between(a, b *sample) (accepted, delivered float64, ok bool) {
	seconds := b.at.Sub(a.at).Seconds()
	if a.day != b.day || seconds <= 0 {
		return 0, 0, false
	}
	return float64(b.Events-a.Events) / seconds, float64(b.Delivered-a.Delivered) / seconds, true
}

// rate returns the rates of the last 30 seconds, false while they are not known.
func (s *overviewState) rate() (accepted, delivered float64, ok bool) {
	n := len(s.samples)
	if n < 2 {
		return 0, 0, false
	}
	return between(&s.samples[max(0, n-16)], &s.samples[n-1])
}

// stream answers with server-sent events until the browser has gone, the session or the process ends.
// each is called at once and whenever it asked to be: it writes what is new to the buffer, and returns what
// to wait for.
func (d *Dashboard) stream(w http.ResponseWriter, r *http.Request, each func(ctx context.Context, p *page, b *bytes.Buffer) (<-chan struct{}, error)) {
	p, err := d.open(w, r, access.Read)
	if errors.Is(err, access.ErrSignedOut) {
		d.fail(w, r, nil, err) // no redirect: an EventSource would follow it to a page
		return
	}
	if err == nil {
		err = d.live.enter()
	}
	if err != nil {
		d.fail(w, r, p, err)
		return
	}
	defer d.live.exit()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // reads only notice that the browser has gone
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for proxies that would gather it
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-d.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	var b bytes.Buffer
	b.WriteString("retry: 2000\n\n")
	for {
		wait, err := each(ctx, p, &b)
		if err != nil {
			return
		}
		if err := control.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		if _, err := w.Write(b.Bytes()); err != nil || control.Flush() != nil {
			return
		}
		b.Reset()
		select {
		case <-wait:
		case <-check.C:
			if _, _, err := d.signedIn(r); errors.Is(err, access.ErrSignedOut) {
				_, _ = fmt.Fprint(w, "event: signed-out\ndata:\n\n")
				_ = control.Flush()
				return
			}
			b.WriteString(":\n\n")
		case <-ctx.Done():
			return
		}
	}
}

// enter and exit count the streams to browsers.
func (l *live) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.viewers >= maxViewers {
		return errCrowded
	}
	l.viewers++
	return nil
}

func (l *live) exit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.viewers--
}

// writeEvent writes a message of a stream. A line end in data is one in what the browser gets.
func writeEvent(b *bytes.Buffer, event, data string) {
	b.WriteString("event: " + event + "\n")
	data = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
	for line := range strings.SplitSeq(data, "\n") {
		b.WriteString("data: " + line + "\n")
	}
	b.WriteString("\n")
}

// writePart writes a message that replaces what an element of a page holds.
func writePart(ctx context.Context, b *bytes.Buffer, id string, c templ.Component) error {
	var part strings.Builder
	part.WriteString(id + "\n")
	if err := c.Render(ctx, &part); err != nil {
		return err
	}
	writeEvent(b, "part", part.String())
	return nil
}

func (d *Dashboard) streams() {
	d.mux.HandleFunc("GET /live/overview", func(w http.ResponseWriter, r *http.Request) {
		var v *view
		d.stream(w, r, func(ctx context.Context, p *page, b *bytes.Buffer) (<-chan struct{}, error) {
			if v == nil {
				var leave func()
				var err error
				if v, leave, err = d.live.watch(p.tenant); err != nil {
					return nil, err
				}
				context.AfterFunc(ctx, leave)
			}
			state, changed, err := v.now(ctx)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err == nil {
				b.Write(state.message)
			}
			return changed, nil
		})
	})
	d.mux.HandleFunc("GET /live/events", d.followEvents)
}

// liveEvents returns the stream that keeps a list of events up to date, "" where the list is one of the past
// or has a filter that the stream does not have.
func (d *Dashboard) liveEvents(p *page, f store.EventFilter, before kapsel.EventID) string {
	if !before.IsZero() || f.Status != "" || f.IdempotencyKey != nil || !f.Until.IsZero() || f.Type != "" || !f.AppID.IsZero() {
		return ""
	}
	return string(p.link("/live/events", "endpoint", p.query.Get("endpoint"), "source", p.query.Get("source")))
}

// followEvents sends the rows of new events. It sends a few a second, whatever comes in, and says how many it
// left out.
func (d *Dashboard) followEvents(w http.ResponseWriter, r *http.Request) {
	var next func(context.Context) ([]store.Streamed, error)
	skipped := 0
	d.stream(w, r, func(ctx context.Context, p *page, b *bytes.Buffer) (<-chan struct{}, error) {
		wait := make(chan struct{})
		if next == nil {
			f, err := eventFilter(p)
			if err != nil {
				return nil, err
			}
			follower, err := d.Manage.Follow(ctx, p.caller, p.tenant, store.StreamFilter{EndpointID: f.EndpointID, SourceID: f.SourceID})
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, follower.Leave)
			at, err := d.Manage.StreamFrom(ctx, p.caller, p.tenant, manage.StreamStart{})
			if err != nil {
				return nil, err
			}
			next = func(context.Context) (events []store.Streamed, err error) {
				within, cancel := context.WithTimeout(follower.Context(), checkEvery)
				defer cancel()
				events, at, err = follower.Next(within, at)
				if err != nil && follower.Context().Err() == nil && within.Err() != nil {
					err = nil // nothing came in
				}
				return events, err
			}
			close(wait)
			return wait, nil // what follows waits for events; the browser learns before that the stream is open
		}
		events, err := next(ctx)
		if err != nil {
			return nil, err
		}
		left := max(0, len(events)-rowsAtOnce)
		skipped += left
		var rows strings.Builder
		for i := range events[left:] {
			if err := eventRow(p, &events[left+i].EventRecord).Render(ctx, &rows); err != nil {
				return nil, err
			}
		}
		if rows.Len() > 0 {
			writeEvent(b, "rows", rows.String())
		}
		if skipped > 0 {
			writeEvent(b, "skipped", plural(skipped, "more event")+" came in too fast to show")
		}
		time.AfterFunc(rowsInterval, func() { close(wait) })
		return wait, nil
	})
}
