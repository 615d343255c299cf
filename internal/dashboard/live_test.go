package dashboard

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// serve returns the origin of a server of the pages.
func (w *world) serve() string {
	w.t.Helper()
	server := httptest.NewServer(w.pages)
	w.t.Cleanup(func() { w.pages.Stop(); server.Close() })
	return server.URL
}

// message is a message of a stream.
type message struct{ event, id, data string }

// listening is a stream that a test reads.
type listening struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
}

// listen opens a stream with a session. last is the id of the last message that the browser has had.
func (w *world) listen(origin, path, token, last string) *listening {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.ctx, http.MethodGet, origin+path, nil)
	w.must(err)
	r.AddCookie(&http.Cookie{Name: plainCookie, Value: token})
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(r)
	w.must(err)
	w.t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return &listening{w.t, resp, lines}
}

// next returns the next message with an event, or false at the end of the stream.
func (l *listening) next() (m message, ok bool) {
	l.t.Helper()
	for l.lines.Scan() {
		name, value, _ := strings.Cut(l.lines.Text(), ": ")
		switch name {
		case "event":
			m.event = value
		case "id":
			m.id = value
		case "data":
			m.data += value + "\n"
		case "":
			if m.event != "" {
				return m, true
			}
		}
	}
	return m, false
}

// until returns the next message of a kind, and fails the test if there is none.
func (l *listening) until(event string) message {
	l.t.Helper()
	for {
		m, ok := l.next()
		if !ok {
			l.t.Fatalf("the stream ended without %q: %v", event, l.lines.Err())
		}
		if m.event == event {
			return m
		}
	}
}

// down is a store whose overview and sessions cannot be read while fail is set.
type down struct {
	manage.Store
	fail atomic.Bool
}

func (d *down) Usage(ctx context.Context, tenant kapsel.TenantID, from, to time.Time) ([]store.UsageOfDay, error) {
	if d.fail.Load() {
		return nil, store.Unavailable(errors.New("down"))
	}
	return d.Store.Usage(ctx, tenant, from, to)
}

// noSessions are the sessions of a store that is down.
type noSessions struct {
	access.Sessions
	down *down
}

func (s noSessions) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error) {
	if s.down.fail.Load() {
		return kapsel.Session{}, store.Unavailable(errors.New("down"))
	}
	return s.Sessions.SessionByHash(ctx, hash, now)
}

// TestLive_Bounds checks that one session, or all sessions of one tenant, have a part of the live pages of a
// node, and that others get theirs beside them.
func TestLive_Bounds(t *testing.T) {
	w := newWorld(t)
	origin := w.serve()
	_, greedy := w.tenant("greedy", kapsel.ScopeRead)
	_, other := w.tenant("other", kapsel.ScopeRead)
	one := w.signIn(greedy)
	for i := range maxOfSession {
		if l := w.listen(origin, "/live/overview", one, ""); l.resp.StatusCode != http.StatusOK {
			t.Fatalf("stream %d of a session is answered %d", i, l.resp.StatusCode)
		}
	}
	if l := w.listen(origin, "/live/overview", one, ""); l.resp.StatusCode != http.StatusTooManyRequests || l.resp.Header.Get("Retry-After") == "" {
		t.Errorf("one stream more than a session may have is answered %d", l.resp.StatusCode)
	}
	var refused int
	for range maxOfTenant/maxOfSession + 1 {
		token := w.signIn(greedy)
		for range maxOfSession {
			if l := w.listen(origin, "/live/overview", token, ""); l.resp.StatusCode != http.StatusOK {
				refused++
			}
		}
	}
	if want := (maxOfTenant/maxOfSession+2)*maxOfSession - maxOfTenant; refused != want {
		t.Errorf("%d streams of a tenant were refused, want %d", refused, want)
	}
	for name, token := range map[string]string{"another tenant": w.signIn(other), "the admin": w.signIn(adminKey)} {
		if l := w.listen(origin, "/live/overview", token, ""); l.resp.StatusCode != http.StatusOK {
			t.Errorf("the page of %s is answered %d", name, l.resp.StatusCode)
		}
	}
}

// TestLive_Views checks that the overview shows when there is no room for one more view of it, that views
// which nobody watches make room, and that there are none of tenants that do not exist.
func TestLive_Views(t *testing.T) {
	w := newWorld(t)
	origin := w.serve()
	_, key := w.tenant("acme", kapsel.ScopeRead)
	token, admin := w.signIn(key), w.signIn(adminKey)
	missing := kapsel.NewTenantID(time.Now()).String()
	for _, path := range []string{"/?tenant=", "/live/overview?tenant=", "/events?tenant="} {
		if rec := w.ask(http.MethodGet, path+missing, admin, nil, nil); rec.Code != http.StatusNotFound || strings.Contains(rec.Body.String(), missing) {
			t.Errorf("%s of a tenant that does not exist is answered %d: %s", path, rec.Code, rec.Body)
		}
	}
	var leave func()
	for range maxViews {
		_, l, err := w.pages.live.watch(kapsel.NewTenantID(time.Now()))
		w.must(err)
		leave = l
	}
	rec := w.ask(http.MethodGet, "/", token, nil, nil)
	if body := rec.Body.String(); rec.Code != http.StatusOK || !strings.Contains(body, "this one is not live") || strings.Contains(body, "data-live") || !strings.Contains(body, "Needs attention") {
		t.Errorf("without room the overview is answered %d: %s", rec.Code, body)
	}
	if l := w.listen(origin, "/live/overview", token, ""); l.resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("without room the stream is answered %d", l.resp.StatusCode)
	}
	leave()
	rec = w.ask(http.MethodGet, "/", token, nil, nil)
	if body := rec.Body.String(); rec.Code != http.StatusOK || !strings.Contains(body, "data-live") {
		t.Errorf("with a view that nobody watches the overview is answered %d: %s", rec.Code, body)
	}
	w.pages.live.mu.Lock()
	defer w.pages.live.mu.Unlock()
	if n := len(w.pages.live.views); n != maxViews {
		t.Errorf("%d views, want %d", n, maxViews)
	}
}

// TestLive_EndedSession checks that a stream sends nothing of what happened after its session has ended, but
// that it did.
func TestLive_EndedSession(t *testing.T) {
	w := newWorld(t)
	_, key := w.tenant("acme", kapsel.ScopeRead)
	token := w.signIn(key)
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/live/events", nil)
	r.AddCookie(&http.Cookie{Name: plainCookie, Value: token})
	rec := httptest.NewRecorder()
	s := &stream{d: w.pages, w: rec, r: r, control: http.NewResponseController(rec), session: &viewing{at: time.Now().Add(-lookAge)}}
	s.out.WriteString("first\n")
	if !s.send(w.ctx) || rec.Body.String() != "first\n" {
		t.Fatalf("a session that goes on gets %q", rec.Body)
	}
	w.ask(http.MethodPost, "/sign-out", token, nil, nil)
	rec.Body.Reset()
	s.session.at = time.Now().Add(-lookAge)
	s.out.WriteString("second\n")
	if s.send(w.ctx) || rec.Body.String() != signedOut {
		t.Errorf("a session that has ended gets %q", rec.Body)
	}

	origin := w.serve()
	quiet := w.listen(origin, "/live/events", w.signIn(key), "")
	w.ask(http.MethodPost, "/sessions/end-all", w.signIn(key), nil, nil)
	quiet.until("signed-out")
	if l := w.listen(origin, "/live/events", token, ""); l.resp.StatusCode != http.StatusOK {
		t.Errorf("a stream without a session is answered %d, of which a page learns nothing", l.resp.StatusCode)
	} else {
		l.until("signed-out")
	}
}

// TestLive_OwnFollowers checks that pages take no stream of the API from the programs of their tenant.
func TestLive_OwnFollowers(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeRead)
	program := access.Caller{Tenant: tenant.ID, Right: access.Read, Actor: kapsel.Actor{Kind: kapsel.ActorKey}}
	person := program
	person.Actor.Kind = kapsel.ActorSession
	for range feed.MaxFollowers {
		l, err := w.manage.Follow(w.ctx, person, tenant.ID, store.StreamFilter{})
		w.must(err)
		defer l.Leave()
	}
	l, err := w.manage.Follow(w.ctx, program, tenant.ID, store.StreamFilter{})
	if err != nil {
		t.Fatalf("beside the pages a program's stream fails: %v", err)
	}
	l.Leave()
}

// TestLive_NoStream checks that a stream which cannot begin is answered with an error and not with an empty
// stream.
func TestLive_NoStream(t *testing.T) {
	w := newWorld(t)
	tenant, key := w.tenant("acme", kapsel.ScopeRead)
	token := w.signIn(key)
	if rec := w.ask(http.MethodGet, "/live/events?source=x", token, nil, nil); rec.Code != http.StatusBadRequest {
		t.Errorf("a stream with a filter that cannot be is answered %d", rec.Code)
	}
	caller := access.Caller{Tenant: tenant.ID, Right: access.Read, Actor: kapsel.Actor{Kind: kapsel.ActorSession}}
	for range feed.MaxFollowers {
		l, err := w.manage.Follow(w.ctx, caller, tenant.ID, store.StreamFilter{})
		w.must(err)
		defer l.Leave()
	}
	if rec := w.ask(http.MethodGet, "/live/events", token, nil, nil); rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" {
		t.Errorf("one follower too many is answered %d", rec.Code)
	}
}

// reader returns the session of a reader of what was seeded, and a node that stores more events.
func (w *world) reader(s seeded) (token string, node kapsel.NodeID) {
	w.t.Helper()
	_, text, err := w.manage.CreateKey(w.ctx, w.admin, s.tenant.ID, kapsel.KeyID{}, manage.KeySettings{Name: "k", Scope: kapsel.ScopeRead})
	w.must(err)
	node = kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	return w.signIn(text.Reveal()), node
}

var dataLive = regexp.MustCompile(`data-live="([^"]*)"`)

// TestLive_NoGap checks that a live list misses no event that came in between its page and its stream, or
// while the browser was not connected, and that it says so where it cannot know.
func TestLive_NoGap(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	origin := w.serve()
	token, node := w.reader(s)
	page := w.ask(http.MethodGet, "/events?endpoint="+s.healthy.ID.String(), token, nil, nil).Body.String()
	found := dataLive.FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("no stream on %s", page)
	}
	path := html.UnescapeString(found[1])
	between := w.event(node, s.healthy, nil, "text/plain", "between the page and its stream")
	m := w.listen(origin, path, token, "").until("rows")
	if !strings.Contains(m.data, between.String()) || strings.Contains(m.data, s.delivered.String()) {
		t.Errorf("the first rows are %s", m.data)
	}
	for range 2 { // however often a browser comes with the same id
		away := w.event(node, s.healthy, nil, "text/plain", "while nobody listened")
		again := w.listen(origin, path, token, m.id).until("rows")
		if !strings.Contains(again.data, away.String()) || strings.Contains(again.data, between.String()) {
			t.Errorf("behind %s the rows are %s", m.id, again.data)
		}
		if again.id == m.id || again.id == "" {
			t.Errorf("the message has the id %q", again.id)
		}
	}
	if m := w.listen(origin, path, token, "999999999999").until("skipped"); !strings.Contains(m.data, "missing") {
		t.Errorf("behind a position of another store: %s", m.data)
	}
}

// TestLive_SharedRows checks that lists of the same tenant get the same rows, that the admin's rows lead to the
// tenant that the admin chose, and that nothing is kept of lists that have ended.
func TestLive_SharedRows(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	origin := w.serve()
	token, node := w.reader(s)
	admin := w.signIn(adminKey)
	chosen := "?tenant=" + s.tenant.ID.String()
	lists := []*listening{
		w.listen(origin, "/live/events", token, ""), w.listen(origin, "/live/events", token, ""),
		w.listen(origin, "/live/events"+chosen, admin, ""), w.listen(origin, "/live/events?endpoint="+s.failing.ID.String(), token, ""),
	}
	id := w.event(node, s.healthy, nil, "text/plain", "shown by three lists")
	other := w.event(node, s.failing, nil, "text/plain", "shown by all lists")
	link := "/events/" + id.String()
	for i, l := range lists {
		var data string
		for !strings.Contains(data, other.String()) {
			data += l.until("rows").data
		}
		plain, named := strings.Contains(data, `"`+link+`"`), strings.Contains(data, `"`+link+chosen+`"`)
		if plain != (i < 2) || named != (i == 2) {
			t.Errorf("list %d has a link to the event %t, and one with the tenant %t: %s", i, plain, named, data)
		}
	}
	left := func() int {
		w.pages.live.mu.Lock()
		defer w.pages.live.mu.Unlock()
		return len(w.pages.live.lists)
	}
	if n := left(); n != 3 {
		t.Errorf("%d kinds of rows, want 3", n)
	}
	for _, l := range lists {
		l.resp.Body.Close()
	}
	for deadline := time.Now().Add(time.Minute); left() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := left(); n > 0 {
		t.Errorf("%d kinds of rows are kept of lists that have ended", n)
	}
}

// looks are sessions whose reading is counted, and fails while down is set.
type looks struct {
	access.Sessions
	n    atomic.Int64
	down atomic.Bool
}

func (l *looks) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error) {
	l.n.Add(1)
	if l.down.Load() {
		return kapsel.Session{}, store.Unavailable(errors.New("down"))
	}
	return l.Sessions.SessionByHash(ctx, hash, now)
}

// TestLive_SharedLooks checks that the streams of one session look once at the session for all of them, and that
// all of them end with it.
func TestLive_SharedLooks(t *testing.T) {
	w := newWorld(t)
	counted := &looks{Sessions: w.store}
	w.pages.Guard.Sessions = counted
	_, key := w.tenant("acme", kapsel.ScopeRead)
	token := w.signIn(key)
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/live/events", nil)
	r.AddCookie(&http.Cookie{Name: plainCookie, Value: token})
	session := &viewing{at: time.Now().Add(-lookAge)}
	streams := make([]*stream, maxOfSession)
	for i := range streams {
		rec := httptest.NewRecorder()
		streams[i] = &stream{d: w.pages, w: rec, r: r, control: http.NewResponseController(rec), session: session}
	}
	counted.n.Store(0)
	began := time.Now()
	for _, s := range streams {
		if !s.send(w.ctx) {
			t.Error("a stream of a session that goes on has ended")
		}
	}
	if n, most := counted.n.Load(), 1+int64(time.Since(began)/lookAge); n < 1 || n > most {
		t.Errorf("%d streams looked %d times at their session, want at most %d", len(streams), n, most)
	}
	w.ask(http.MethodPost, "/sign-out", token, nil, nil)
	session.at = time.Now().Add(-lookAge)
	for _, s := range streams {
		if s.send(w.ctx) {
			t.Error("a stream goes on after its session")
		}
	}

	counted.down.Store(true)
	counted.n.Store(0)
	began = time.Now()
	session = &viewing{}
	for _, s := range streams {
		s.session = session
		if err := s.look(); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Errorf("a look at a session while the store is down: %v", err)
		}
	}
	if n, most := counted.n.Load(), 1+int64(time.Since(began)/lookAge); n < 1 || n > most {
		t.Errorf("%d streams looked %d times at their session while the store was down, want at most %d", len(streams), n, most)
	}
	gone, leave := context.WithCancel(w.ctx)
	leave()
	session = &viewing{}
	if err := (&stream{d: w.pages, r: r.WithContext(gone), session: session}).look(); err == nil || session.err != nil {
		t.Errorf("the look of a browser that has gone: %v, and the others get %v", err, session.err)
	}
}

// TestLive_Stale checks that an open page learns when the store cannot be read, and when it can again, that
// nothing else is sent meanwhile, and that a page that is opened then says how old it is.
func TestLive_Stale(t *testing.T) {
	w := newWorld(t)
	d := &down{Store: w.manage.Store}
	w.manage.Store = d
	w.pages.Guard.Sessions = noSessions{w.store, d}
	origin := w.serve()
	token := w.signIn(adminKey)
	overview, events := w.listen(origin, "/live/overview", token, ""), w.listen(origin, "/live/events", token, "")
	overview.until("part")
	d.fail.Store(true)
	overview.until("stale")
	events.until("stale")
	d.fail.Store(false)
	overview.until("fresh")
	overview.until("part")
	events.until("fresh")

	v, leave, err := w.pages.live.watch(kapsel.TenantID{})
	w.must(err)
	defer leave()
	state, _, err := v.now(w.ctx)
	w.must(err)
	var b bytes.Buffer
	w.must(overviewPage(&page{d: w.pages, caller: w.admin}, state, nil, store.Unavailable(errors.New("down"))).Render(w.ctx, &b))
	if !strings.Contains(b.String(), "The database does not answer. These figures are of") {
		t.Errorf("an old overview is shown as %s", b.String())
	}
}

// TestTenantMenu checks that the menu at the head of a page has the tenant that the page shows, however many
// newer ones there are.
func TestTenantMenu(t *testing.T) {
	w := newWorld(t)
	oldest, _ := w.tenant("the oldest", kapsel.ScopeRead)
	for range chosen {
		w.must(w.store.CreateTenant(w.ctx, kapsel.Tenant{ID: kapsel.NewTenantID(time.Now()), Name: "newer"}))
	}
	body := w.ask(http.MethodGet, "/events?tenant="+oldest.ID.String(), w.signIn(adminKey), nil, nil).Body.String()
	if !strings.Contains(body, `<option value="`+oldest.ID.String()+`" selected>the oldest</option>`) || strings.Count(body, " selected>") != 1+strings.Count(body, `<option value="" selected>any`) {
		t.Errorf("the menu of the page is %s", body)
	}
}

// TestDeadLetters_Pages checks that a cause which the newest dead letters do not have is looked for on the
// next pages, that who may only read has nothing to select, and that a replay is made of what its preview
// shows: all causes of the endpoint, from the first event to the time of the look.
func TestDeadLetters_Pages(t *testing.T) {
	w := newWorld(t)
	tenant, key := w.tenant("acme", kapsel.ScopeRead)
	settings := manage.DefaultEndpoint()
	settings.Config.Name, settings.Config.URL = "billing", "https://billing.example/"
	e, err := w.manage.CreateEndpoint(w.ctx, w.admin, tenant.ID, kapsel.EndpointID{}, settings)
	w.must(err)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	gone := w.event(node, e, nil, "text/plain", "x", answered{status: 410, code: kapsel.HTTPClientError})
	for range maxLetters {
		w.event(node, e, nil, "text/plain", "x", answered{status: 400, code: kapsel.HTTPClientError})
	}
	admin, reader := w.signIn(adminKey), w.signIn(key)
	get := func(path, token string) string {
		t.Helper()
		rec := w.ask(http.MethodGet, path, token, nil, nil)
		if rec.Code != http.StatusOK {
			t.Fatalf("%s is answered %d: %s", path, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	first := get("/dead-letters?status=failed&cause=answered+410", reader)
	older := regexp.MustCompile(`class="pager"><a class="button" href="([^"]*)"`).FindStringSubmatch(first)
	if older == nil || strings.Contains(first, "Every delivery has arrived") || strings.Contains(first, gone.String()) {
		t.Fatalf("the first page of a rare cause is %s", first)
	}
	next := get(html.UnescapeString(older[1]), reader)
	if !strings.Contains(next, gone.String()) {
		t.Errorf("the next page does not have the delivery: %s", next)
	}
	if strings.Contains(next, `type="checkbox"`) || !strings.Contains(get("/dead-letters?status=failed", admin), `type="checkbox"`) {
		t.Error("a reader has boxes to select, or the admin none")
	}
	link := regexp.MustCompile(`href="(/replays/new[^"]*)"`).FindStringSubmatch(get("/dead-letters?status=failed", admin))
	if link == nil {
		t.Fatal("no replay is offered")
	}
	preview := get(html.UnescapeString(link[1]), admin)
	if !strings.Contains(preview, "<b>201 deliveries</b>") || !strings.Contains(preview, "whatever the cause") || !strings.Contains(preview, " and before ") {
		t.Errorf("the preview is %s", preview)
	}
	sent := regexp.MustCompile(`name="until" value="([^"]*)"`).FindStringSubmatch(preview)
	if at, err := time.Parse(time.RFC3339Nano, sent[1]); err != nil || at.IsZero() || at.After(time.Now()) {
		t.Errorf("the form sends the end %q", sent[1])
	}
	for range previewed - maxLetters + 20 {
		w.event(node, e, nil, "text/plain", "x", answered{status: 400, code: kapsel.HTTPClientError})
	}
	preview = get(html.UnescapeString(link[1]), admin)
	all := regexp.MustCompile(`href="([^"]*)">Count them all`).FindStringSubmatch(preview)
	if !strings.Contains(preview, fmt.Sprintf("<b>at least %d deliveries</b>", previewed+1)) || !strings.Contains(preview, "Replay all") || all == nil {
		t.Fatalf("the preview of many is %s", preview)
	}
	preview = get(html.UnescapeString(all[1]), admin)
	if want := fmt.Sprintf("<b>%d deliveries</b>", previewed+21); !strings.Contains(preview, want) || strings.Contains(preview, "Count them all") {
		t.Errorf("the preview of all has not %q: %s", want, preview)
	}
}

// TestEventPage_LargeBody checks that the page of a large JSON body reads and shows its beginning and says so,
// and that the command to send it again is there once a delivery.
func TestEventPage_LargeBody(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	large := `{"first":"shown","list":[` + strings.Repeat(`"a text, of many",`, 1<<20/17) + `{"last":1}]}`
	failed := answered{status: 500, code: kapsel.HTTPServerError}
	id := w.event(node, s.healthy, nil, "application/json", large, failed, failed, failed)
	body := w.ask(http.MethodGet, "/events/"+id.String(), w.signIn(adminKey), nil, nil).Body.String()
	if !strings.Contains(body, "&#34;shown&#34;") || !strings.Contains(body, "Only the beginning is shown") {
		t.Errorf("the page is %.3000s", body)
	}
	if n := strings.Count(body, "curl -sS"); n != 1 {
		t.Errorf("%d commands for 3 attempts", n)
	}
	for text, want := range map[string][]string{
		large:                            {asJSON, asText, asHex},
		`{"a":` + large:                  {asJSON, asText, asHex}, // as far as a page reads
		`{"a" 1,` + large:                {asText, asHex},
		`"` + strings.Repeat("é", 1<<20): {asText, asHex},
		"\xff" + large:                   {asHex},
		strings.Repeat("x", shownText-1) + "é" + "\xff": {asText, asHex},
	} {
		if got := formsOf([]byte(text), "application/json"); !slices.Equal(got, want) {
			t.Errorf("%.20q… is shown as %q, want %q", text, got, want)
		}
	}
}
