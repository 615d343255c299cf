package dashboard

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// records returns the pages that show what was done and counted, for TestPages, and does what they show.
func (w *world) records(s *seeded, tenant string) []struct{ name, path string } {
	w.t.Helper()
	admin := w.admin
	admin.Actor = kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true, Client: netip.MustParseAddr("192.0.2.7")}
	_, err := w.manage.UpdateEndpoint(w.ctx, admin, s.stranger.ID, manage.EndpointChange{Edit: func(e *manage.EndpointSettings) error {
		e.Config.Description, e.Config.Retry.MaxAttempts = strings.Join(hostile[:7], " "), 7
		return nil
	}})
	w.must(err)
	many := manage.DefaultEndpoint()
	many.Config.Name, many.Config.URL = hostile[2]+hostile[6], "https://many.example/in"
	many.Config.Subscriptions = []kapsel.Subscription{
		{Source: s.source.String(), EventTypes: []string{"invoice.*", "order.paid"}}, {Source: s.healthy.ID.String()}, {Source: s.failing.ID.String()}, {Source: kapsel.Publish, Channels: []string{"eu"}},
	}
	many.Config.NoIngest = true
	_, err = w.manage.CreateEndpoint(w.ctx, admin, s.tenant.ID, kapsel.EndpointID{}, many)
	w.must(err)
	customer := manage.DefaultEndpoint()
	customer.Config.Name, customer.Config.URL, customer.App = "customer", "https://customer.example/in", new("shop-1")
	customer.Config.NoIngest, customer.Config.Subscriptions = true, []kapsel.Subscription{{Source: kapsel.Publish}}
	_, err = w.manage.CreateEndpoint(w.ctx, admin, s.tenant.ID, kapsel.EndpointID{}, customer)
	w.must(err)
	_, err = w.manage.UpdateTenant(w.ctx, admin, s.tenant.ID, func(t *manage.TenantSettings) error {
		t.Limits = kapsel.Limits{Own: true, EventsPerMonth: new(int64(30)), Endpoints: new(50)}
		return nil
	})
	w.must(err)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	var first, second kapsel.Header
	for i, text := range hostile {
		first = append(first, kapsel.HeaderField{Name: "X-" + strconv.Itoa(i), Value: text})
		second = append(second, kapsel.HeaderField{Name: "X-" + strconv.Itoa(i), Value: hostile[(i+1)%len(hostile)]})
	}
	attacked := w.event(node, s.healthy, first, "text/plain", hostile[0],
		answered{500, kapsel.HTTPServerError, time.Second, first, strings.Join(hostile, "\n")}, answered{503, kapsel.HTTPServerError, time.Minute, second, strings.Join(hostile[3:], "\n")})
	compare := func(id kapsel.EventID, a, b string) string {
		w.t.Helper()
		e, err := w.manage.Event(w.ctx, admin, id)
		w.must(err)
		return "/deliveries/" + e.Deliveries[0].ID.String() + "/compare" + tenant + "&a=" + a + "&b=" + b
	}
	return []struct{ name, path string }{
		{"changes", "/changes" + tenant},
		{"usage", "/usage" + tenant},
		{"usage-all", "/usage?days=90"},
		{"undelivered", "/undelivered" + tenant},
		{"undelivered-all", "/undelivered?since=1h"},
		{"subscriptions", "/subscriptions" + tenant},
		{"subscriptions-all", "/subscriptions"},
		{"compare", compare(s.dead, "1", "2")},
		{"compare-attacked", compare(attacked, "1", "2")},
		{"send-now", "/replays/new" + tenant + "&since=" + sinceEver + "&statuses=pending&endpoint=" + s.failing.ID.String()},
		{"changes-filtered", "/changes" + tenant + "&verb=update&kind=endpoint&object=" + s.stranger.ID.String()},
	}
}

// TestChanges_Page checks that a change shows with who made it, what it was before and is now, that filters
// narrow the page, and that a tenant's key sees its own changes only, without the operator's address.
func TestChanges_Page(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeRead)
	theirs, _ := w.tenant("other", kapsel.ScopeRead)
	operator := w.admin
	operator.Actor = kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true, Client: netip.MustParseAddr("192.0.2.7")}
	made := func(tenant kapsel.TenantID, name string) manage.Endpoint {
		settings := manage.DefaultEndpoint()
		settings.Config.Name, settings.Config.URL = name, "https://example.com/"+name
		e, err := w.manage.CreateEndpoint(w.ctx, operator, tenant, kapsel.EndpointID{}, settings)
		w.must(err)
		return e
	}
	e := made(mine.ID, "billing")
	made(theirs.ID, "secretive")
	_, err := w.manage.UpdateEndpoint(w.ctx, operator, e.ID, manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error {
		s.Config.URL = "https://example.com/moved"
		return nil
	}})
	w.must(err)
	admin, reader := w.signIn(adminKey), w.signIn(key)
	for _, c := range []struct {
		who, query string
		has, not   []string
	}{
		{admin, "", []string{"<b>create</b>", "billing", "secretive", "the admin key", "192.0.2.7"}, nil},
		{admin, "?tenant=" + theirs.ID.String(), []string{"secretive"}, []string{"billing"}},
		{admin, "?verb=update&kind=endpoint&object=" + e.ID.String() + "&since=1h", []string{"<b>update</b>", "https://example.com/billing", "https://example.com/moved", "<th scope=\"col\">Before</th>"}, []string{"<b>create</b>", "secretive"}},
		{admin, "?until=1h", []string{"No change passes"}, []string{"billing"}},
		{reader, "", []string{"billing", "the admin key"}, []string{"secretive", "192.0.2.7"}},
		{reader, "?tenant=" + theirs.ID.String(), []string{"billing"}, []string{"secretive"}},
	} {
		rec := w.ask(http.MethodGet, "/changes"+c.query, c.who, nil, nil)
		body := rec.Body.String()
		for _, text := range c.has {
			if rec.Code != http.StatusOK || !strings.Contains(body, text) {
				t.Errorf("%q is answered %d without %q: %s", c.query, rec.Code, text, body)
			}
		}
		for _, text := range c.not {
			if strings.Contains(body, text) {
				t.Errorf("%q shows %q", c.query, text)
			}
		}
	}
	for _, query := range []string{"?key=x", "?since=x", "?before=x"} {
		if rec := w.ask(http.MethodGet, "/changes"+query, admin, nil, nil); rec.Code != http.StatusBadRequest && rec.Code != http.StatusNotFound {
			t.Errorf("%q is answered %d", query, rec.Code)
		}
	}
}

// TestFieldChanges checks which fields of a change a page shows, those of objects in objects by their path,
// and that of very many it shows a bounded part.
func TestFieldChanges(t *testing.T) {
	got, whole := fieldChanges([]byte(`{"a":1,"b":{"c":"x","gone":true},"list":[1,{"k":null}]}`), []byte(`{"a":2,"b":{"c":"y"},"new":{}}`))
	want := []fieldChange{{"a", "1", "2"}, {"b.c", `"x"`, `"y"`}, {"b.gone", "true", "–"}, {"list", "[1, {k: null}]", "–"}, {"new", "–", "{}"}}
	if !slices.Equal(got, want) || !whole {
		t.Errorf("the fields are %q, want %q (whole %t)", got, want, whole)
	}
	big := `{"x":0`
	for i := range 2 * shownFields {
		big += fmt.Sprintf(`,"f%d":%d`, i, i)
	}
	if got, whole := fieldChanges(nil, []byte(big+"}")); len(got) != shownFields || whole {
		t.Errorf("%d fields of a large object (whole %t)", len(got), whole)
	}
}

// TestDiff checks that a comparison has all lines of both texts in their order, and keeps what they have in
// common.
func TestDiff(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a b c", "a b c", " a  b  c"},
		{"a b c", "a x c", " a -b +x  c"},
		{"a b", "", "-a -b"},
		{"", "a b", "+a +b"},
		{"a b c d", "b c e d f", "-a  b  c +e  d +f"},
	} {
		lines, whole := diff(strings.Fields(c.a), strings.Fields(c.b))
		var got []string
		for _, l := range lines {
			got = append(got, string(l.sign)+l.text)
		}
		if strings.Join(got, " ") != c.want || !whole || same(lines) != (c.a == c.b) {
			t.Errorf("%q to %q: %q, want %q", c.a, c.b, got, c.want)
		}
	}
	long := make([]string, maxDiff+1)
	if lines, whole := diff(long, long); whole || len(lines) != maxDiff {
		t.Errorf("of a long text %d lines are compared (whole %t)", len(lines), whole)
	}
}

// TestDrawn checks that the drawing is bounded and says how many subscriptions it leaves out, and that it
// leaves out endpoints that get only their own events first.
func TestDrawn(t *testing.T) {
	now := time.Now()
	endpoints := make([]kapsel.Endpoint, maxEdges+50)
	for i := range endpoints {
		endpoints[i] = kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: kapsel.NewTenantID(now)}
	}
	last := &endpoints[len(endpoints)-1]
	last.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: []string{"a.*"}, Channels: []string{"eu"}}, {Source: endpoints[0].ID.String()}}
	last.NoIngest = true
	g := drawn(endpoints, nil, nil)
	if len(g.origins) != maxOrigins || len(g.edges)+g.left != len(endpoints)+1 || g.height() < len(g.destinations)*nodeHeight {
		t.Errorf("%d origins, %d lines, %d left out of %d", len(g.origins), len(g.edges), g.left, len(endpoints)+1)
	}
	var got []string
	for _, e := range g.edges[:3] {
		got = append(got, fmt.Sprint(e.from.kind, " ", e.what, " ", e.own, " ", e.to.ID == last.ID))
	}
	slices.Sort(got)
	if want := []string{"ingest everything false true", "ingest everything true false", "published a.* in eu false true"}; !slices.Equal(got, want) {
		t.Errorf("the first lines are %q, want %q", got, want)
	}
}

// TestProof_Page checks that the page of an event leads to the proof of an attempt that is under a published
// head, that the proof is a file, and that nobody gets the proof of another tenant's attempt.
func TestProof_Page(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeRead)
	_, stranger := w.tenant("other", kapsel.ScopeRead)
	settings := manage.DefaultEndpoint()
	settings.Config.Name, settings.Config.URL = "billing", "https://example.com/in"
	e, err := w.manage.CreateEndpoint(w.ctx, w.admin, mine.ID, kapsel.EndpointID{}, settings)
	w.must(err)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	id := w.event(node, e, nil, "text/plain", "x", answered{200, "", time.Millisecond, nil, "ok"})
	event, err := w.manage.Event(w.ctx, w.admin, id)
	w.must(err)
	attempts, err := w.manage.ListAttempts(w.ctx, w.admin, event.Deliveries[0].ID, 0, 1)
	w.must(err)
	path := "/attempts/" + attempts[0].ID.String() + "/proof"
	reader := w.signIn(key)
	if rec := w.ask(http.MethodGet, path, reader, nil, nil); rec.Code != http.StatusConflict {
		t.Errorf("before it is published the proof is answered %d: %s", rec.Code, rec.Body)
	}
	if page := w.ask(http.MethodGet, "/events/"+id.String(), reader, nil, nil).Body.String(); strings.Contains(page, path) {
		t.Error("the page leads to a proof that there is not")
	}
	writer := audit.NewWriter(audit.Config{
		Store: w.store, Now: time.Now, Node: node, Keys: &audit.Keys{Store: w.store, Seal: w.ring}, AtOnce: 100, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	writer.Finish(w.ctx)
	if page := w.ask(http.MethodGet, "/events/"+id.String(), reader, nil, nil).Body.String(); !strings.Contains(page, path) {
		t.Errorf("the page does not lead to the proof: %s", page)
	}
	rec := w.ask(http.MethodGet, path, reader, nil, nil)
	var proven struct {
		Leaf  string `json:"leaf"`
		Proof any    `json:"inclusion_proof"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &proven); err != nil || !strings.Contains(proven.Leaf, attempts[0].ID.String()) || proven.Proof == nil {
		t.Errorf("the proof is %s: %v", rec.Body, err)
	}
	if got := rec.Header().Get("Content-Disposition"); got != `attachment; filename="`+attempts[0].ID.String()+`.proof.json"` {
		t.Errorf("the proof is sent as %q", got)
	}
	for who, want := range map[string]int{w.signIn(stranger): http.StatusNotFound, "": http.StatusSeeOther} {
		if rec := w.ask(http.MethodGet, path, who, nil, nil); rec.Code != want || strings.Contains(rec.Body.String(), "leaf_hash") {
			t.Errorf("another gets %d, want %d", rec.Code, want)
		}
	}
	if rec := w.ask(http.MethodGet, "/attempts/x/proof", reader, nil, nil); rec.Code != http.StatusNotFound {
		t.Errorf("no attempt is answered %d", rec.Code)
	}
}

// TestUndelivered_Page checks that what did not arrive is counted by endpoint and cause, with what waits and
// what nobody wanted, and without what arrived, what is on its way for the first time, and what is older.
func TestUndelivered_Page(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	token := w.signIn(adminKey)
	tenant := "?tenant=" + s.tenant.ID.String()
	page := func(query string) string {
		t.Helper()
		rec := w.ask(http.MethodGet, "/undelivered"+tenant+query, token, nil, nil)
		if rec.Code != http.StatusOK {
			t.Fatalf("%q is answered %d: %s", query, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	got := page("")
	for _, text := range []string{"crm", "6 deliveries", "Answered 503.", "Answered 404.", "statuses=dead_letter", "/replays/new?"} {
		if !strings.Contains(got, text) {
			t.Errorf("the page lacks %q: %s", text, got)
		}
	}
	if strings.Contains(got, ">billing<") {
		t.Error("the page has an endpoint to which everything was delivered")
	}
	if got := page("&endpoint=" + s.healthy.ID.String()); !strings.Contains(got, "Everything has arrived") {
		t.Errorf("of a healthy endpoint the page says %s", got)
	}
	if got := page("&since=1ns"); !strings.Contains(got, "Everything has arrived") {
		t.Errorf("since just now the page says %s", got)
	}
	if rec := w.ask(http.MethodGet, "/undelivered?since=x", token, nil, nil); rec.Code != http.StatusBadRequest {
		t.Errorf("a wrong time is answered %d", rec.Code)
	}
}

// TestUsage_Page checks that the page has a row for each day, and a tenant's use against its limits.
func TestUsage_Page(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	_, err := w.manage.UpdateTenant(w.ctx, w.admin, s.tenant.ID, func(t *manage.TenantSettings) error {
		t.Limits = kapsel.Limits{Own: true, EventsPerMonth: new(int64(40)), IngestPerSecond: new(5.0), IngestBurst: new(10)}
		return nil
	})
	w.must(err)
	used, err := w.manage.Usage(w.ctx, w.admin, s.tenant.ID, time.Time{}, time.Time{})
	w.must(err)
	if used.Total.Events == 0 {
		t.Fatal("nothing was used")
	}
	token := w.signIn(adminKey)
	got := w.ask(http.MethodGet, "/usage?days=30&tenant="+s.tenant.ID.String(), token, nil, nil).Body.String()
	for _, text := range []string{fmt.Sprintf("of 40, %d left", 40-used.Events.Used), "5 a second, 10 at once", fmt.Sprintf(">%d<", used.Total.Events)} {
		if !strings.Contains(got, text) {
			t.Errorf("the page lacks %q: %s", text, got)
		}
	}
	if rows := strings.Count(got, `<th scope="row">`); rows != 30 {
		t.Errorf("the page has %d days, want 30", rows)
	}
	if got := w.ask(http.MethodGet, "/usage", token, nil, nil).Body.String(); !strings.Contains(got, "all tenants") || strings.Contains(got, "of 40") {
		t.Errorf("of all tenants the page says %s", got)
	}
	if rec := w.ask(http.MethodGet, "/usage?days=7x", token, nil, nil); rec.Code != http.StatusBadRequest {
		t.Errorf("a wrong span is answered %d", rec.Code)
	}
}

// TestSendNow_Page checks that an endpoint's page leads to a replay of all that waits, with a look first,
// after which what was tried is due at once.
func TestSendNow_Page(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeWrite)
	settings := manage.DefaultEndpoint()
	settings.Config.Name, settings.Config.URL = "billing", "https://example.com/in"
	e, err := w.manage.CreateEndpoint(w.ctx, w.admin, mine.ID, kapsel.EndpointID{}, settings)
	w.must(err)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	id := w.event(node, e, nil, "text/plain", "x")
	held, _, err := w.store.Claim(w.ctx, node, time.Now(), []store.Want{{EndpointID: e.ID, Limit: 1}}, 1)
	w.must(err)
	was := held[0].Delivery
	done, err := was.After(kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 9, Delay: time.Hour}, time.Now())
	w.must(err)
	w.must(w.store.Complete(w.ctx, store.Completion{Delivery: done, Attempt: kapsel.Attempt{
		ID: was.Token, DeliveryID: was.ID, EventID: id, EndpointID: e.ID, TenantID: mine.ID, Number: 1, StartedAt: time.Now(), StatusCode: 503, ErrorCode: kapsel.HTTPServerError,
	}}))
	token := w.signIn(key)
	link := "/replays/new?endpoint=" + e.ID.String() + "&since=" + sinceEver + "&statuses=pending"
	if page := w.ask(http.MethodGet, "/endpoints/"+e.ID.String(), token, nil, nil).Body.String(); !strings.Contains(page, strings.ReplaceAll(link, "&", "&amp;")) {
		t.Fatalf("the endpoint's page does not lead to the replay: %s", page)
	}
	look := w.ask(http.MethodGet, link, token, nil, nil)
	if body := look.Body.String(); look.Code != http.StatusOK || !strings.Contains(body, "1 next attempt") || !strings.Contains(body, "Send 1 now") {
		t.Fatalf("the look first is answered %d: %s", look.Code, body)
	}
	rec := w.ask(http.MethodPost, "/replays", token, url.Values{"endpoint": {e.ID.String()}, "since": {sinceEver}, "statuses": {"pending"}}, nil)
	list, err := w.manage.ListReplays(w.ctx, w.admin, mine.ID, store.Page[kapsel.ReplayID]{Limit: 10})
	w.must(err)
	if rec.Code != http.StatusSeeOther || len(list) != 1 || !list[0].Waiting() || list[0].Total != 1 || rec.Header().Get("Location") != "/replays/"+list[0].ID.String() {
		t.Errorf("the replay is answered %d, and there are %+v", rec.Code, list)
	}
}

// TestEventFilters_Page checks that the page of events narrows them by type and by app, and that it is not
// live then.
func TestEventFilters_Page(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeRead)
	app, err := w.manage.CreateApp(w.ctx, w.admin, mine.ID, kapsel.AppID{}, manage.AppSettings{UID: new("shop-1"), AppConfig: kapsel.AppConfig{Name: "shop"}})
	w.must(err)
	publish := func(kind string, app kapsel.AppID) string {
		now := time.Now()
		e := kapsel.Event{ID: kapsel.NewEventID(now, 1), TenantID: mine.ID, AppID: app, Type: kind, ReceivedAt: now, ContentType: "application/json", Body: []byte("{}"), Size: 2}
		_, err := w.store.Accept(w.ctx, store.Acceptance{Event: e})
		w.must(err)
		return e.ID.String()
	}
	paid, sent, theirs := publish("invoice.paid", kapsel.AppID{}), publish("invoice.sent", kapsel.AppID{}), publish("invoice.paid", app.ID)
	admin, reader := w.signIn(adminKey), w.signIn(key)
	for query, want := range map[string][]string{
		"":                                   {paid, sent, theirs},
		"type=invoice.paid":                  {paid, theirs},
		"type=invoice.*":                     {},
		"app=shop-1":                         {theirs},
		"app=" + app.ID.String():             {theirs},
		"app=shop-1&type=invoice.sent":       {},
		"type=invoice.paid&status=unmatched": {paid, theirs},
	} {
		for token, tenant := range map[string]string{reader: "", admin: "&tenant=" + mine.ID.String()} {
			rec := w.ask(http.MethodGet, "/events?"+query+tenant, token, nil, nil)
			var got []string
			for _, id := range []string{paid, sent, theirs} {
				if strings.Contains(rec.Body.String(), "/events/"+id) {
					got = append(got, id)
				}
			}
			if rec.Code != http.StatusOK || !slices.Equal(got, want) && len(got)+len(want) > 0 {
				t.Errorf("%q is answered %d with %q, want %q", query, rec.Code, got, want)
			}
			if live := strings.Contains(rec.Body.String(), "data-live="); live != (query == "") {
				t.Errorf("%q is live: %t", query, live)
			}
		}
	}
	if rec := w.ask(http.MethodGet, "/events?app=nobody", reader, nil, nil); rec.Code < 400 {
		t.Errorf("an app that there is not is answered %d", rec.Code)
	}
}

// TestPayload_Memory checks that the bodies which people read are charged to the memory of bodies until they
// were answered: what does not fit is refused for now, and the page's other parts cost nothing.
func TestPayload_Memory(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	w.manage.Bodies = budget.New(4 << 20)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	id := w.event(node, s.healthy, nil, "text/plain", strings.Repeat("x", 8<<20))
	origin, token := w.serve(), w.signIn(adminKey)
	path := "/events/" + id.String()
	slow := w.listen(origin, path+"/payload", token, "") // it does not read
	if slow.resp.StatusCode != http.StatusOK || w.manage.Bodies.Used() != 8<<20 {
		t.Fatalf("a download is answered %d, and %d bytes are held", slow.resp.StatusCode, w.manage.Bodies.Used())
	}
	for _, p := range []string{path + "/payload", path} {
		l := w.listen(origin, p, token, "")
		body, _ := io.ReadAll(l.resp.Body)
		if l.resp.StatusCode != http.StatusServiceUnavailable || l.resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "E3003") {
			t.Errorf("%s beside a slow reader is answered %d: %s", p, l.resp.StatusCode, body)
		}
	}
	if _, err := w.manage.Event(w.ctx, w.admin, id); err != nil {
		t.Errorf("an event without its body needs memory: %v", err)
	}
	slow.resp.Body.Close()
	for w.manage.Bodies.Used() != 0 { // once the server has noticed
		if t.Context().Err() != nil {
			t.Fatal("the memory is not given back")
		}
		time.Sleep(time.Millisecond)
	}
	if l := w.listen(origin, path+"/payload", token, ""); l.resp.StatusCode != http.StatusOK {
		t.Errorf("with memory a download is answered %d", l.resp.StatusCode)
	}
}

// TestEvents_SearchedSoFar checks that a list of events which has looked at as many as it may says how far it
// searched, and goes on from there to the end.
func TestEvents_SearchedSoFar(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeRead)
	app, err := w.manage.CreateApp(w.ctx, w.admin, mine.ID, kapsel.AppID{}, manage.AppSettings{UID: new("shop-1"), AppConfig: kapsel.AppConfig{Name: "shop"}})
	w.must(err)
	var all errgroup.Group
	for range 100 {
		all.Go(func() error {
			for range store.DefaultLook/100 + 1 {
				now := time.Now()
				e := kapsel.Event{ID: kapsel.NewEventID(now, 1), TenantID: mine.ID, AppID: app.ID, ReceivedAt: now, ContentType: "application/json", Body: []byte("{}"), Size: 2}
				if _, err := w.store.Accept(w.ctx, store.Acceptance{Event: e}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.must(all.Wait())
	token := w.signIn(key)
	rec := w.ask(http.MethodGet, "/events?app=shop-1&status=delivered", token, nil, nil)
	on := regexp.MustCompile(`Searched back to[^<]*<time.*href="(/events\?[^"]*before=evt_[^"]*)">Search on<`).FindStringSubmatch(rec.Body.String())
	if rec.Code != http.StatusOK || on == nil || !strings.Contains(rec.Body.String(), "None of the newest events passes these filters.") {
		t.Fatalf("the first page is answered %d: %s", rec.Code, rec.Body)
	}
	rec = w.ask(http.MethodGet, html.UnescapeString(on[1]), token, nil, nil)
	if body := rec.Body.String(); rec.Code != http.StatusOK || strings.Contains(body, "Searched back to") || !strings.Contains(body, "No event passes these filters.") {
		t.Errorf("the last page is answered %d: %s", rec.Code, body)
	}
}
