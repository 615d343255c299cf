package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// How the pages are kept up to date.
const (
	sampleEvery  = 2 * time.Second  // how often a shared view is made anew while somebody watches it
	samplesKept  = 300              // of the charts: ten minutes
	idleFor      = 2 * time.Minute  // a view that nobody watches is forgotten after this
	maxViews     = 200              // shared views: one for each tenant that is watched
	maxViewers   = 500              // streams to browsers, of all kinds
	maxOfTenant  = 50               // of them, those to the readers of one tenant, or to all admins
	maxOfSession = 20               // of them, those to one session
	lookEvery    = 5 * time.Second  // how often a quiet stream looks whether its session goes on
	lookAge      = time.Second      // a session whose last look is older is looked at again before a stream of it sends anything
	patience     = 10 * time.Second // a browser that does not read for this long is dropped
	rowsAtOnce   = 20               // rows that a live list gets at once; of more it is told how many
	rowsInterval = time.Second      // the time between two of those
)

// live holds the views that viewers share. Each is made by one goroutine, so a hundred readers of one page
// cost the store what one does.
type live struct {
	d        *Dashboard
	mu       sync.Mutex // guards what follows
	views    map[kapsel.TenantID]*view
	viewers  int
	tenants  map[kapsel.TenantID]int // viewers by tenant; the zero tenant's are admins
	sessions map[kapsel.SessionID]*viewing
	lists    map[listOf]*liveRows // live lists by what they show
}

// viewing counts the streams of one session and holds what their last look at the session found.
type viewing struct {
	streams int // guarded by live.mu

	mu  sync.Mutex // held during a look
	at  time.Time  // when the last look began, or ended with err
	err error      // nil: the session went on
}

// view is the overview of a tenant, or of all when its key is the zero tenant.
type view struct {
	tenant kapsel.TenantID
	ready  chan struct{} // closed once there is something to show, or once it failed
	gone   chan struct{} // closed when the view has made room for another one

	mu      sync.Mutex    // guards what follows
	changed chan struct{} // closed and replaced when there is a new state, and when there is none any more
	state   *overviewState
	err     error // why there is nothing newer than state
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

// Why a page is not live.
var (
	errCrowded  = &kapsel.Error{Code: kapsel.RateLimited, Detail: "too many pages are open at this node; the page is not live, and reloading shows what is new", RetryAfter: 10 * time.Second}
	errManyOpen = &kapsel.Error{Code: kapsel.RateLimited, Detail: "too many pages of yours are open; close some, or reload the page to see what is new", RetryAfter: 10 * time.Second}
)

// watch returns the view of a tenant, which goes on until the caller calls leave. A new view takes the place
// of the one that nobody has watched for longest if there is no other room. The error is errCrowded if there
// is no such view either.
func (l *live) watch(tenant kapsel.TenantID) (v *view, leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v = l.views[tenant]
	if v == nil {
		if len(l.views) >= maxViews && !l.makeRoom() {
			return nil, nil, errCrowded
		}
		v = &view{tenant: tenant, ready: make(chan struct{}), gone: make(chan struct{}), changed: make(chan struct{})}
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

// makeRoom forgets the view that nobody has watched for longest, and reports whether there was one. Callers
// must hold l.mu.
func (l *live) makeRoom() bool {
	var oldest *view
	var since time.Time
	for _, v := range l.views {
		v.mu.Lock()
		if v.watched == 0 && (oldest == nil || v.left.Before(since)) {
			oldest, since = v, v.left
		}
		v.mu.Unlock()
	}
	if oldest == nil {
		return false
	}
	delete(l.views, oldest.tenant)
	close(oldest.gone)
	return true
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
		case <-v.gone:
			return
		case <-l.d.stopped:
			return
		}
		l.mu.Lock()
		v.mu.Lock()
		over := v.watched == 0 && time.Since(v.left) > idleFor
		if over && l.views[v.tenant] == v {
			delete(l.views, v.tenant)
		}
		v.mu.Unlock()
		l.mu.Unlock()
		if over {
			return
		}
	}
}

// step makes a view anew and tells its viewers, or tells them that it failed. It acts for the operator: who
// may see the view is decided where the view is shown.
func (l *live) step(v *view) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	state, err := l.read(ctx, v)
	v.mu.Lock()
	defer v.mu.Unlock()
	failed := v.err != nil
	if v.err = err; err == nil {
		v.state = state
	} else if failed {
		return // the viewers know
	}
	close(v.changed)
	v.changed = make(chan struct{})
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

// now returns the view's newest state, once there is one, and what is closed when there is something new to
// say. With an error the state is an old one, or nil.
func (v *view) now(ctx context.Context) (*overviewState, <-chan struct{}, error) {
	select {
	case <-v.ready:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state, v.changed, v.err
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

// stream is the server-sent events of one page that is open.
type stream struct {
	d       *Dashboard
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	session *viewing
	out     bytes.Buffer // what is sent next
	old     bool         // the page shows something old, because the store cannot be read
	told    bool         // the page knows that
}

// follow writes what is new to a stream, and returns what to wait for before it is called again.
type follow func(context.Context, *stream) (<-chan struct{}, error)

// Messages of streams of all kinds.
const (
	signedOut = "event: signed-out\ndata:\n\n"
	beat      = ":\n\n"
)

// stream answers with server-sent events until the browser has gone, the session or the process ends. begin
// prepares the stream: its errors are answered instead.
func (d *Dashboard) stream(w http.ResponseWriter, r *http.Request, begin func(context.Context, *page) (follow, error)) {
	looked := time.Now()
	p, err := d.open(w, r, access.Read)
	w.Header().Set("X-Accel-Buffering", "no") // for proxies that would gather it
	if errors.Is(err, access.ErrSignedOut) {
		// An EventSource would follow a redirect, and tells its page nothing of another status.
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, signedOut)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var session *viewing
	var each follow
	if err == nil {
		if session, err = d.live.enter(p, looked); err == nil {
			defer d.live.exit(p)
			each, err = begin(ctx, p)
		}
	}
	if err != nil {
		d.fail(w, r, p, err)
		return
	}
	go func() {
		select {
		case <-d.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	s := &stream{d: d, w: w, r: r, control: http.NewResponseController(w), session: session}
	_ = s.control.SetReadDeadline(time.Time{}) // reads only notice that the browser has gone
	quiet := time.NewTicker(lookEvery)
	defer quiet.Stop()
	for going := s.write("retry: 2000\n\n"); going; {
		wait, err := each(ctx, s)
		if err != nil || !s.send(ctx) {
			return
		}
		for waiting := true; waiting && going; {
			select {
			case <-wait:
				waiting = false
			case <-quiet.C:
				going = s.send(ctx)
			case <-ctx.Done():
				return
			}
		}
	}
}

// write writes a text at once and reports whether the browser still reads.
func (s *stream) write(text string) bool {
	if err := s.control.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	_, err := io.WriteString(s.w, text)
	return err == nil && s.control.Flush() == nil
}

// send writes what is in the buffer, or a beat, and reports whether the stream goes on. While nobody can say
// whether the session does, it sends nothing but that the page is out of date.
func (s *stream) send(ctx context.Context) bool {
	for {
		err := s.look()
		if err == nil {
			break
		}
		if errors.Is(err, access.ErrSignedOut) {
			s.write(signedOut)
			return false
		}
		if !s.write(s.tell(true)) {
			return false
		}
		select {
		case <-time.After(sampleEvery):
		case <-ctx.Done():
			return false
		}
	}
	text := s.tell(s.old) + s.out.String()
	s.out.Reset()
	return s.write(cmp.Or(text, beat))
}

// look returns nil if the stream's session goes on, else the error of signedIn. A look that is less than lookAge
// old, of any stream of the session, stands for a new one.
func (s *stream) look() error {
	v := s.session
	v.mu.Lock()
	defer v.mu.Unlock()
	began := time.Now()
	if began.Sub(v.at) < lookAge {
		return v.err
	}
	_, _, err := s.d.signedIn(s.r)
	switch {
	case err == nil:
		v.at, v.err = began, nil
	case s.r.Context().Err() == nil: // else the browser has gone
		v.at, v.err = time.Now(), err
	}
	return err
}

// tell returns the message that what the page shows has become old, or is new again; "" if the page knows.
func (s *stream) tell(old bool) string {
	if s.told == old {
		return ""
	}
	s.told = old
	var b bytes.Buffer
	if old {
		writeEvent(&b, "stale", "out of date: the database does not answer")
	} else {
		writeEvent(&b, "fresh", "live")
	}
	return b.String()
}

// enter and exit count the streams to browsers. No session and no tenant has all of them. looked is when the
// page's session was last known to go on.
func (l *live) enter(p *page, looked time.Time) (*viewing, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.sessions[p.session.ID]
	switch {
	case v != nil && v.streams >= maxOfSession || l.tenants[p.caller.Tenant] >= maxOfTenant:
		return nil, errManyOpen
	case l.viewers >= maxViewers:
		return nil, errCrowded
	}
	if v == nil {
		v = &viewing{at: looked}
		l.sessions[p.session.ID] = v
	}
	l.viewers++
	v.streams++
	l.tenants[p.caller.Tenant]++
	return v, nil
}

func (l *live) exit(p *page) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.viewers--
	v := l.sessions[p.session.ID]
	if v.streams--; v.streams == 0 {
		delete(l.sessions, p.session.ID)
	}
	if l.tenants[p.caller.Tenant]--; l.tenants[p.caller.Tenant] == 0 {
		delete(l.tenants, p.caller.Tenant)
	}
}

// lineEnds replaces each kind of line end by a newline.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// writeEvent writes a message of a stream. A line end in data is one in what the browser gets.
func writeEvent(b *bytes.Buffer, event, data string) {
	b.WriteString("event: " + event + "\n")
	for line := range strings.SplitSeq(lineEnds.Replace(data), "\n") {
		b.WriteString("data: ")
		b.WriteString(line)
		b.WriteByte('\n')
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
		d.stream(w, r, func(ctx context.Context, p *page) (follow, error) {
			v, leave, err := d.live.watch(p.tenant)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, leave)
			var sent *overviewState
			return func(ctx context.Context, s *stream) (<-chan struct{}, error) {
				state, changed, err := v.now(ctx)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if s.old = err != nil; !s.old && state != sent {
					s.out.Write(state.message)
					sent = state
				}
				return changed, nil
			}, nil
		})
	})
	d.mux.HandleFunc("GET /live/events", func(w http.ResponseWriter, r *http.Request) {
		d.stream(w, r, func(ctx context.Context, p *page) (follow, error) {
			return d.followEvents(ctx, p, r.Header.Get("Last-Event-ID"))
		})
	})
}
