package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"

	"github.com/kapsel-hq/kapsel/internal/feed"
)

// message is one of a stream; event is nil for one that has only an id.
type message struct {
	id    string
	event object
}

// reader reads a stream over a real connection.
type reader struct {
	w     *world
	resp  *http.Response
	lines *bufio.Reader
}

// streams serves the API for streams; open asks for one.
func (w *world) streams() (open func(query, key string, options ...func(*http.Request)) *reader) {
	server := httptest.NewServer(w.handler)
	w.t.Cleanup(func() { w.uses.Feed.Stop(); server.Close() })
	return func(query, key string, options ...func(*http.Request)) *reader {
		w.t.Helper()
		r, err := http.NewRequestWithContext(w.t.Context(), "GET", server.URL+"/v1/events/stream"+query, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		for _, o := range options {
			o(r)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { resp.Body.Close() })
		return &reader{w, resp, bufio.NewReader(resp.Body)}
	}
}

// begun is a stream that has begun: its first message was read.
func (r *reader) begun() *reader {
	r.w.t.Helper()
	if got := r.resp.Header.Get("Content-Type"); r.resp.StatusCode != 200 || got != "text/event-stream" {
		r.w.t.Fatalf("%s, %s", r.resp.Status, got)
	}
	if m := r.next(); m.event != nil {
		r.w.t.Fatalf("the stream begins with %v", m)
	}
	return r
}

// next reads a message.
func (r *reader) next() (m message) {
	r.w.t.Helper()
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			r.w.t.Fatal(err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch name {
		case "id":
			m.id = strings.TrimSpace(value)
		case "data":
			if err := json.Unmarshal([]byte(value), &m.event); err != nil {
				r.w.t.Fatal(err)
			}
		case "":
			if line == "\n" {
				return m
			}
		}
	}
}

// events reads the next events' ids.
func (r *reader) events(n int) (ids, at []string) {
	r.w.t.Helper()
	for len(ids) < n {
		if m := r.next(); m.event != nil {
			ids, at = append(ids, m.event.text("id")), append(at, m.id)
		}
	}
	return ids, at
}

// end reads to the end, which must be a clean one.
func (r *reader) end() string {
	r.w.t.Helper()
	rest, err := io.ReadAll(r.lines)
	if err != nil {
		r.w.t.Fatalf("the stream ended with %v", err)
	}
	return string(rest)
}

func (w *world) same(what string, want, got any) {
	w.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func lastID(id string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Last-Event-ID", id) }
}

func TestStreamResumes(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	open := w.streams()
	var all []string
	for range 3 {
		e, _ := w.receive(h.endpoint, nil)
		all = append(all, e.ID.String())
	}
	now := open("", h.read).begun()
	w.now = w.now.Add(time.Second)
	e, _ := w.receive(h.endpoint, nil)
	all = append(all, e.ID.String())
	m := now.next()
	w.same("the event", w.want(200, "GET", "/v1/events", h.read, nil).list("data")[0], m.event)

	got, at := open("?after=0", h.read).begun().events(4)
	w.same("from the beginning", all, got)
	for i := range 3 {
		for name, query := range map[string]string{"an event's id": all[i], "a message's id": at[i]} {
			got, _ := open("?after="+query, h.read).begun().events(3 - i)
			w.same("behind "+name, all[i+1:], got)
		}
		got, _ := open("?after=0", h.read, lastID(at[i])).begun().events(3 - i)
		w.same("behind Last-Event-ID", all[i+1:], got)
	}
	// The message at the beginning tells where that is.
	first := open("", h.read)
	began := first.next().id
	e, _ = w.receive(h.endpoint, nil)
	got, _ = open("?after="+began, h.read).begun().events(1)
	w.same("behind the beginning of another stream", []string{e.ID.String()}, got)

	other := w.want(201, "POST", "/v1/endpoints", h.write, object{"name": "b", "url": "https://example.com"}).text("id")
	mine, _ := w.receive(other, nil)
	got, _ = open("?after=0&endpoint_id="+other, h.read).begun().events(1)
	w.same("of an endpoint", []string{mine.ID.String()}, got)
}

func TestStreamRefuses(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("a"), w.newHouse("b")
	theirs, _ := w.receive(other.endpoint, nil)
	none := kapsel.NewEventID(w.now, 1).String()
	for _, bad := range []string{"x", "-1", "01", "%2B1", "1.5", "evt_", "ep_01m84yz4zqfgjtcypmsesbpznb", none + ".", none + ".x", none + "x", "." + "1", "18446744073709551615", "%00", none} {
		w.refused(kapsel.InvalidRequest, 400, []string{"after"}, "GET", "/v1/events/stream?after="+bad, h.read, nil)
	}
	w.refused(kapsel.InvalidRequest, 400, []string{"Last-Event-ID"}, "GET", "/v1/events/stream?after=0", h.read, nil, lastID("x"))
	w.refused(kapsel.InvalidRequest, 400, []string{"Last-Event-ID"}, "GET", "/v1/events/stream", h.read, nil, lastID(strings.Repeat("1", 101)))
	w.refused(kapsel.Conflict, 409, nil, "GET", "/v1/events/stream?after=999999999", h.read, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/events/stream?tenant_id="+other.tenant, h.read, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"limit"}, "GET", "/v1/events/stream?limit=1", h.read, nil)

	a := w.do("GET", "/v1/events/stream?after="+none, h.read, nil)
	b := w.do("GET", "/v1/events/stream?after="+theirs.ID.String(), h.read, nil)
	w.same("another tenant's event as a position", anonymous(a), anonymous(b))
}

// TestIsolation_B79_Stream checks that a tenant's stream of events has no byte of another
// tenant's, from whatever position it starts.
func TestIsolation_B79_Stream(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.newHouse("mine"), w.newHouse("theirs")
	open := w.streams()
	live := open("", mine.read)
	adminLive := open("?tenant_id="+theirs.tenant, adminKey)
	var ours, others, all []string
	receive := func(h house, to *[]string) {
		e, _ := w.receive(h.endpoint, func(e *kapsel.Event) { e.ContentType = "text/x-" + h.tenant })
		*to, all = append(*to, e.ID.String()), append(all, e.ID.String())
	}
	for range 3 {
		receive(theirs, &others)
		receive(mine, &ours)
	}
	position := func(id string) string {
		e, err := kapsel.ParseEventID(id)
		if err != nil {
			t.Fatal(err)
		}
		at, err := w.store.StreamPosition(t.Context(), kapsel.TenantID{}, e)
		if err != nil {
			t.Fatal(err)
		}
		return at.String()
	}
	got, _ := open("?after=0", adminKey).begun().events(6)
	w.same("the admin's", all, got)
	got, _ = open("?after=0&tenant_id="+theirs.tenant, adminKey).begun().events(3)
	w.same("the admin's of a tenant", others, got)
	got, _ = adminLive.begun().events(3)
	w.same("the admin's of a tenant, from now on", others, got)

	streams := map[string]*reader{
		"live": live, "from the beginning": open("?after=0", mine.read), "of a foreign endpoint": open("?after=0&endpoint_id="+theirs.endpoint, mine.read),
		// A message's id of another tenant is a place in the stream and shows nothing.
		"behind a foreign place": open("?after="+position(others[0]), mine.read),
	}
	for name, r := range streams {
		if name != "of a foreign endpoint" {
			got, _ := r.begun().events(3)
			w.same(name, ours, got)
		}
	}
	w.uses.Feed.Stop()
	for name, r := range streams {
		rest := r.end()
		for _, mark := range append([]string{theirs.tenant, theirs.endpoint}, others...) {
			if strings.Contains(rest, mark) {
				t.Errorf("%s: the stream shows %s", name, mark)
			}
		}
	}
}

func TestStreamEnds(t *testing.T) {
	w := newWorld(t)
	h, gone := w.newHouse("a"), w.newHouse("gone")
	open := w.streams()
	keys := "/v1/tenants/" + h.tenant + "/keys"
	short := w.want(201, "POST", keys, h.write, object{"name": "short", "scope": "read", "expires_at": w.now.Add(50 * time.Millisecond)})
	expiring := open("", short.text("secret")).begun()
	expiring.end()

	key := w.want(201, "POST", keys, h.write, object{"name": "revoked", "scope": "read"})
	revoked, stays := open("", key.text("secret")).begun(), open("", h.read).begun()
	w.want(204, "DELETE", keys+"/"+key.text("id"), h.write, nil)
	revoked.end()

	w.want(204, "DELETE", "/v1/endpoints/"+gone.endpoint, gone.write, nil)
	deleted, watched := open("", gone.read).begun(), open("?tenant_id="+gone.tenant, adminKey).begun()
	w.want(204, "DELETE", "/v1/tenants/"+gone.tenant, adminKey, nil)
	deleted.end()
	watched.end()

	e, _ := w.receive(h.endpoint, nil) // the others go on
	got, _ := stays.events(1)
	w.same("the next event", []string{e.ID.String()}, got)
	w.uses.Feed.Stop()
	stays.end()
	if r := open("", h.read); r.resp.StatusCode != 503 || !strings.Contains(r.end(), string(kapsel.ShuttingDown)) {
		t.Errorf("after the stop: %s", r.resp.Status)
	}
}

// TestBadInput_B118_Caps checks that a tenant has a bounded number of streams, and one more
// gets 429 without taking any from another tenant.
func TestBadInput_B118_Caps(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("a"), w.newHouse("b")
	open := w.streams()
	var first *reader
	for i := range feed.MaxFollowers {
		if r := open("", h.read).begun(); i == 0 {
			first = r
		}
	}
	r := open("", h.write)
	if r.resp.StatusCode != 429 || r.resp.Header.Get("Retry-After") == "" || !strings.Contains(r.end(), string(kapsel.RateLimited)) {
		t.Errorf("one more: %s %v", r.resp.Status, r.resp.Header)
	}
	open("", other.read).begun()
	first.resp.Body.Close()
	for open("", h.read).resp.StatusCode != 200 { // once the server has noticed
	}
}

// pipes is a listener for one connection.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestBadInput_B118_SlowReaders checks that a stream whose client does not read ends within 10
// s, while one that is read stays open past the server's time-outs and gets a heartbeat every
// 15 s.
func TestBadInput_B118_SlowReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.now = time.Now()
		h := w.newHouse("a")
		server := &http.Server{Handler: w.handler, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second}
		listener := make(pipes)
		go server.Serve(listener)
		connect := func() net.Conn {
			client, served := net.Pipe()
			listener <- served
			fmt.Fprintf(client, "GET /v1/events/stream HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer %s\r\n\r\n", h.read)
			return client
		}
		slow, good := connect(), connect()
		var beats int
		var read strings.Builder
		done := make(chan struct{})
		go func() {
			defer close(done)
			lines := bufio.NewScanner(good)
			for lines.Scan() {
				if lines.Text() == ":" {
					beats++
				}
				read.WriteString(lines.Text() + "\n")
			}
		}()
		began := time.Now()
		time.Sleep(streamPatience + time.Second)
		synctest.Wait()
		if _, err := io.ReadAll(slow); err != nil {
			t.Errorf("the slow one reads %v", err)
		}
		if took := time.Since(began); took > streamPatience+time.Second {
			t.Errorf("the slow one was dropped after %v", took)
		}
		time.Sleep(5 * time.Minute)
		e, _ := w.receive(h.endpoint, nil)
		time.Sleep(time.Second)
		w.uses.Feed.Stop()
		server.Close()
		<-done
		if want := int((5*time.Minute + 11*time.Second) / streamBeat); beats != want || !strings.Contains(read.String(), e.ID.String()) {
			t.Errorf("the good one has %d heartbeats, want %d, and:\n%s", beats, want, &read)
		}
	})
}
