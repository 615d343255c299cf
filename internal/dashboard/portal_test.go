package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// customer is an app with an endpoint, an event of its own, and one attempt at it.
type customer struct {
	app      kapsel.App
	endpoint manage.Endpoint
	event    kapsel.EventID
}

// customer makes a customer of a tenant.
func (w *world) customer(t kapsel.Tenant, uid string) (c customer) {
	w.t.Helper()
	var err error
	c.app, err = w.manage.CreateApp(w.ctx, w.admin, t.ID, kapsel.AppID{}, manage.AppSettings{UID: &uid, AppConfig: kapsel.AppConfig{Name: uid}})
	w.must(err)
	s := manage.DefaultEndpoint()
	s.App, s.Config.NoIngest = &uid, true
	s.Config.Name, s.Config.URL = "endpoint of "+uid, "https://"+uid+".example/hook"
	s.Config.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish}}
	c.endpoint, err = w.manage.CreateEndpoint(w.ctx, w.admin, t.ID, kapsel.EndpointID{}, s)
	w.must(err)
	now := time.Now().UTC().Truncate(time.Millisecond)
	part := kapsel.PartOf(t.ID)
	e := kapsel.Event{
		ID: kapsel.NewEventID(now, part), TenantID: t.ID, AppID: c.app.ID, ReceivedAt: now, Type: "invoice.paid",
		Body: []byte(`{"of":"` + uid + `"}`), Size: len(`{"of":""}`) + len(uid), Header: kapsel.Header{{Name: "X-Secret-Of", Value: uid}},
	}
	c.event = e.ID
	_, err = w.store.Accept(w.ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{{
		ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: c.endpoint.ID, TenantID: t.ID, Status: kapsel.Pending, DueAt: now, CreatedAt: now, Size: e.Size,
	}}})
	w.must(err)
	return c
}

// visitor is a browser that came by a link.
type visitor struct {
	w       *world
	session string
}

// visit opens a link and returns the visitor.
func (w *world) visit(c access.Caller, tenant kapsel.TenantID, s manage.PortalLinkSettings) (visitor, kapsel.PortalLink) {
	w.t.Helper()
	link, text, err := w.manage.CreatePortalLink(w.ctx, c, tenant, kapsel.PortalLinkID{}, s)
	w.must(err)
	rec := w.open(link, text.Reveal())
	if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/portal" || len(rec.Result().Cookies()) != 1 {
		w.t.Fatalf("the link is answered %d: %s", rec.Code, rec.Body)
	}
	return visitor{w, rec.Result().Cookies()[0].Value}, link
}

// open sends what the script of the link's page sends.
func (w *world) open(link kapsel.PortalLink, text string) *httptest.ResponseRecorder {
	_, token, _ := strings.Cut(text, "#")
	return w.ask(http.MethodPost, "/portal/open/"+link.ID.String(), "", url.Values{"token": {token}}, nil)
}

// ask sends a request, and with a form the visit that the form's page was of.
func (v visitor) ask(method, target string, form url.Values) *httptest.ResponseRecorder {
	if method == http.MethodPost && !form.Has("visit") {
		form = maps.Clone(form)
		if form == nil {
			form = url.Values{}
		}
		id, _, _ := strings.Cut(v.session, ".")
		form.Set("visit", id)
	}
	return v.w.ask(method, target, "", form, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: plainPortalCookie, Value: v.session}) })
}

// see returns a page that must be there.
func (v visitor) see(target string) string {
	v.w.t.Helper()
	rec := v.ask(http.MethodGet, target, nil)
	if rec.Code != http.StatusOK {
		v.w.t.Fatalf("%s: %d %s", target, rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// TestPortal_OneApp checks that a customer sees and changes what is their own, and that all of another
// customer is answered, byte for byte, as what does not exist.
func TestPortal_OneApp(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	mine, others := w.customer(tenant, "mine"), w.customer(tenant, "others")
	v, link := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &mine.app.UID, Mode: kapsel.PortalManage})

	for _, target := range []string{"/portal", "/portal/events", "/portal/events/" + mine.event.String(), "/portal/endpoints/" + mine.endpoint.ID.String(), "/portal/events?endpoint=" + mine.endpoint.ID.String()} {
		page := v.see(target)
		for _, secret := range []string{"others", others.endpoint.ID.String(), others.event.String(), "X-Secret-Of"} {
			if strings.Contains(page, secret) {
				t.Errorf("%s shows %q", target, secret)
			}
		}
	}
	if page := v.see("/portal/events/" + mine.event.String()); !strings.Contains(page, "{&#34;of&#34;:&#34;mine&#34;}") || !strings.Contains(page, "endpoint of mine") {
		t.Errorf("the event is shown as %s", page)
	}
	missingEndpoint, missingEvent := kapsel.NewEndpointID(time.Now()), kapsel.NewEventID(time.Now(), 0)
	settings := url.Values{"name": {"x"}, "url": {"https://x.example"}}
	for _, ask := range []struct {
		method, target string
		form           url.Values
	}{
		{"GET", "/portal/endpoints/ENDPOINT", nil}, {"GET", "/portal/events/EVENT", nil}, {"GET", "/portal/events?endpoint=ENDPOINT", nil},
		{"POST", "/portal/endpoints/ENDPOINT", settings}, {"POST", "/portal/endpoints/ENDPOINT/pause", nil}, {"POST", "/portal/endpoints/ENDPOINT/resume", nil},
		{"POST", "/portal/endpoints/ENDPOINT/rotate", nil}, {"POST", "/portal/endpoints/ENDPOINT/delete", nil}, {"POST", "/portal/endpoints/ENDPOINT/test", nil},
		{"POST", "/portal/events/EVENT/send", url.Values{"endpoint": {mine.endpoint.ID.String()}}},
		{"POST", "/portal/events/" + mine.event.String() + "/send", url.Values{"endpoint": {"ENDPOINT"}}},
	} {
		var answers [2]string
		for i, ids := range [2][2]string{{others.endpoint.ID.String(), others.event.String()}, {missingEndpoint.String(), missingEvent.String()}} {
			put := strings.NewReplacer("ENDPOINT", ids[0], "EVENT", ids[1])
			form := url.Values{}
			for name, values := range ask.form {
				form.Set(name, put.Replace(values[0]))
			}
			rec := v.ask(ask.method, put.Replace(ask.target), form)
			if rec.Code != http.StatusNotFound {
				t.Errorf("%s %s: %d", ask.method, ask.target, rec.Code)
			}
			_, body, _ := strings.Cut(rec.Body.String(), "<main")
			before, _, _ := strings.Cut(body, "<code>req_") // each request has an ID of its own
			answers[i] = before
		}
		if answers[0] != answers[1] {
			t.Errorf("%s %s tells another customer's from what is missing:\n%s\n%s", ask.method, ask.target, answers[0], answers[1])
		}
	}
	if e, err := w.manage.Endpoint(w.ctx, w.admin, others.endpoint.ID); err != nil || e.State != kapsel.EndpointActive || e.Name != "endpoint of others" {
		t.Errorf("the other's endpoint is %s %q, %v", e.State, e.Name, err)
	}

	rec := v.ask("POST", "/portal/new", url.Values{"name": {"second"}, "url": {"https://second.example"}, "type": {"invoice.paid"}, "types": {"order.*"}})
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), "whsec_") {
		t.Fatalf("a new endpoint: %d %s", rec.Code, rec.Body)
	}
	all, err := w.manage.ListEndpoints(w.ctx, w.admin, tenant.ID, mine.app.ID, store.Page[kapsel.EndpointID]{Limit: 10})
	w.must(err)
	if len(all) != 2 || all[0].Name != "second" || all[0].AppID != mine.app.ID || strings.Join(all[0].Subscriptions[0].EventTypes, " ") != "invoice.paid order.*" {
		t.Errorf("the customer's endpoints are %+v", all)
	}
	changes, err := w.manage.ListChanges(w.ctx, w.admin, tenant.ID, store.ChangeFilter{Kind: kapsel.KindEndpoint}, store.Page[kapsel.ChangeID]{Limit: 1})
	w.must(err)
	if len(changes) != 1 || changes[0].Subject.ID != all[0].ID.String() || changes[0].Actor.Kind != kapsel.ActorPortal || changes[0].Actor.Session != link.ID.String() {
		t.Errorf("the row of the change is %+v", changes)
	}
	rec = v.ask("POST", "/portal/endpoints/"+mine.endpoint.ID.String()+"/test", nil)
	if page := v.see(rec.Header().Get("Location")); !strings.Contains(page, "kapsel.test") {
		t.Errorf("the test event is shown as %s", page)
	}
	if rec := v.ask("POST", "/portal/new", url.Values{"name": {"third"}, "url": {"nowhere"}}); rec.Code != http.StatusUnprocessableEntity || !strings.Contains(rec.Body.String(), `value="third"`) {
		t.Errorf("a wrong URL: %d %s", rec.Code, rec.Body)
	}
}

// TestErased_Pages checks that the pages of an event whose contents were erased show what is kept of it, to
// its tenant and to the tenant's customer.
func TestErased_Pages(t *testing.T) {
	w := newWorld(t)
	tenant, key := w.tenant("acme", kapsel.ScopeWrite)
	c := w.customer(tenant, "mine")
	v, _ := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &c.app.UID, Mode: kapsel.PortalRead})
	_, err := w.manage.CancelEvent(w.ctx, w.admin, c.event, kapsel.EndpointID{})
	w.must(err)
	_, err = w.manage.EraseEvent(w.ctx, w.admin, c.event)
	w.must(err)
	rec := w.ask(http.MethodGet, "/events/"+c.event.String(), w.signIn(key), nil, nil)
	for of, page := range map[string]string{"tenant": rec.Body.String(), "customer": v.see("/portal/events/" + c.event.String())} {
		if !strings.Contains(page, "The contents of this event were erased") || !strings.Contains(page, "endpoint of mine") {
			t.Errorf("the %s sees %s", of, page)
		}
		if strings.Contains(page, "&#34;of&#34;") {
			t.Errorf("the %s sees the payload: %s", of, page)
		}
	}
}

// TestPortal_Bounds checks that a customer cannot use up what their tenant may have: neither its events, by
// test events, nor its endpoints.
func TestPortal_Bounds(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	mine := w.customer(tenant, "mine")
	v, _ := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &mine.app.UID, Mode: kapsel.PortalManage})
	codes := map[int]int{}
	for range 60 {
		rec := v.ask("POST", "/portal/endpoints/"+mine.endpoint.ID.String()+"/test", nil)
		codes[rec.Code]++
		if rec.Code == http.StatusTooManyRequests && rec.Header().Get("Retry-After") == "" {
			t.Error("refused without Retry-After")
		}
	}
	if codes[http.StatusTooManyRequests] == 0 || codes[http.StatusSeeOther] == 0 || len(codes) != 2 {
		t.Errorf("60 tests were answered %v", codes)
	}
	for i := range 60 {
		rec := v.ask("POST", "/portal/new", url.Values{"name": {fmt.Sprint("endpoint ", i)}, "url": {"https://x.example"}})
		if rec.Code == http.StatusOK {
			continue
		}
		if rec.Code != http.StatusForbidden || i != 49 {
			t.Errorf("endpoint %d is answered %d: %s", i, rec.Code, rec.Body)
		}
		return
	}
	t.Error("a customer made 60 endpoints")
}

// TestPortal_ChosenTypes checks that a customer sees all types that an endpoint gets, whatever subscription
// names them, and that another choice takes the place of all.
func TestPortal_ChosenTypes(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	mine := w.customer(tenant, "mine")
	at := "/portal/endpoints/" + mine.endpoint.ID.String()
	v, _ := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &mine.app.UID, Mode: kapsel.PortalManage})
	_, err := w.manage.UpdateEndpoint(w.ctx, w.admin, mine.endpoint.ID, manage.EndpointChange{Edit: func(e *manage.EndpointSettings) error {
		e.Config.Subscriptions = []kapsel.Subscription{
			{Source: kapsel.Publish, EventTypes: []string{"a.a"}}, {Source: kapsel.Publish, EventTypes: []string{"b.b", "a.a"}, Channels: []string{"eu"}},
		}
		e.UID, e.Config.Metadata = new("uid-of-the-tenant"), map[string]string{"note": "text of the tenant"}
		return nil
	}})
	w.must(err)
	if page := v.see(at); !strings.Contains(page, `value="a.a b.b"`) || strings.Contains(page, "of-the-tenant") || strings.Contains(page, "of the tenant") {
		t.Errorf("the types are shown as %s", page)
	}
	subscribed := func(types string) (all []kapsel.Subscription) {
		rec := v.ask("POST", at, url.Values{"name": {"x"}, "url": {"https://x.example"}, "types": {types}})
		if rec.Code != http.StatusSeeOther {
			t.Fatalf("answered %d: %s", rec.Code, rec.Body)
		}
		e, err := w.manage.Endpoint(w.ctx, w.admin, mine.endpoint.ID)
		w.must(err)
		if e.UID != "uid-of-the-tenant" || e.Metadata["note"] != "text of the tenant" {
			t.Errorf("a customer's change makes the uid %q, the metadata %q", e.UID, e.Metadata)
		}
		return e.Subscriptions
	}
	if all := subscribed("a.a b.b"); len(all) != 2 || len(all[1].Channels) != 1 {
		t.Errorf("saved as it was, the subscriptions are %+v", all)
	}
	stale := url.Values{"name": {"stale"}, "url": {"https://x.example"}, "revision": {"1"}}
	rec := v.ask("POST", at, stale)
	if e, err := w.manage.Endpoint(w.ctx, w.admin, mine.endpoint.ID); err != nil || e.Name == "stale" || rec.Code != http.StatusUnprocessableEntity || !strings.Contains(rec.Body.String(), "somebody changed the settings") {
		t.Errorf("a form that somebody overtook: %d, and the name is %q, %v", rec.Code, e.Name, err)
	}
	if all := subscribed("a.a"); len(all) != 1 || strings.Join(all[0].EventTypes, " ") != "a.a" {
		t.Errorf("after another choice the subscriptions are %+v", all)
	}
}

// TestPortal_Ends checks that a link opens once, and that its session ends with the link, with its key, and by
// being revoked; and that who may only read changes nothing.
func TestPortal_Ends(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	mine := w.customer(tenant, "mine")
	key, _, err := w.manage.CreateKey(w.ctx, w.admin, tenant.ID, kapsel.KeyID{}, manage.KeySettings{Name: "links", Scope: kapsel.ScopeWrite})
	w.must(err)
	caller := access.Caller{Right: access.Write, Tenant: tenant.ID, Key: key.ID}
	settings := manage.PortalLinkSettings{App: &mine.app.UID, Mode: kapsel.PortalRead}

	link, text, err := w.manage.CreatePortalLink(w.ctx, caller, kapsel.TenantID{}, kapsel.PortalLinkID{}, settings)
	w.must(err)
	for i := range 300 { // who opens a used link again and again is told so, and guesses nothing
		want := http.StatusUnauthorized
		if i == 0 {
			want = http.StatusSeeOther
		}
		if rec := w.open(link, text.Reveal()); rec.Code != want {
			t.Fatalf("opened the %d. time: %d", i+1, rec.Code)
		}
	}
	if rec := w.open(link, "#guess"); rec.Code != http.StatusUnauthorized {
		t.Errorf("a guess: %d", rec.Code)
	}

	reader, _ := w.visit(caller, kapsel.TenantID{}, settings)
	reader.see("/portal")
	for _, target := range []string{"/portal/new", "/portal/endpoints/" + mine.endpoint.ID.String(), "/portal/endpoints/" + mine.endpoint.ID.String() + "/pause",
		"/portal/endpoints/" + mine.endpoint.ID.String() + "/test", "/portal/endpoints/" + mine.endpoint.ID.String() + "/rotate"} {
		if rec := reader.ask("POST", target, url.Values{"name": {"x"}, "url": {"https://x.example"}}); rec.Code != http.StatusForbidden {
			t.Errorf("%s by who may only read: %d", target, rec.Code)
		}
	}
	if rec := reader.ask("POST", "/portal/events/"+mine.event.String()+"/send", url.Values{"endpoint": {mine.endpoint.ID.String()}}); rec.Code != http.StatusForbidden {
		t.Errorf("sent again by who may only read: %d", rec.Code)
	}
	foreign := w.ask("POST", "/portal/endpoints/"+mine.endpoint.ID.String()+"/pause", "", nil, func(r *http.Request) {
		r.AddCookie(&http.Cookie{Name: plainPortalCookie, Value: reader.session})
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	})
	if foreign.Code != http.StatusForbidden {
		t.Errorf("from another site: %d", foreign.Code)
	}

	revoked, revokedLink := w.visit(caller, kapsel.TenantID{}, settings)
	w.must(w.manage.RevokePortalLink(w.ctx, caller, revokedLink.ID))
	w.must(w.manage.RevokeKey(w.ctx, w.admin, tenant.ID, key.ID))
	for name, v := range map[string]visitor{"revoked": revoked, "of a revoked key": reader, "of nobody": {w, "x"}} {
		rec := v.ask("GET", "/portal", nil)
		if rec.Code != http.StatusUnauthorized || strings.Contains(rec.Body.String(), "endpoint of mine") {
			t.Errorf("a session %s: %d", name, rec.Code)
		}
	}
	leaving, _ := w.visit(w.admin, tenant.ID, settings)
	leaving.ask("POST", "/portal/leave", nil)
	left, err := w.manage.ListChanges(w.ctx, w.admin, kapsel.TenantID{}, store.ChangeFilter{Verb: "leave"}, store.Page[kapsel.ChangeID]{Limit: 10})
	w.must(err)
	if len(left) != 1 || left[0].Actor.Kind != kapsel.ActorPortal {
		t.Errorf("who leaves the portal leaves the changes %+v", left)
	}
	if rec := leaving.ask("GET", "/portal", nil); rec.Code != http.StatusUnauthorized {
		t.Errorf("a session that was left: %d", rec.Code)
	}
	byAdmin, _ := w.visit(w.admin, tenant.ID, settings)
	byAdmin.see("/portal")
	if rec := byAdmin.ask("GET", "/", nil); rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/sign-in" {
		t.Errorf("the dashboard by a session of the portal: %d", rec.Code)
	}
	if rec := w.ask("GET", "/portal", w.signIn(adminKey), nil, nil); rec.Code != http.StatusUnauthorized {
		t.Errorf("the portal by a session of the dashboard: %d", rec.Code)
	}
}

// TestPortal_EndedInFrame checks that the page which says that a visit has ended is shown in the frame that
// the visit was in, and in no other.
func TestPortal_EndedInFrame(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	v, link := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{Mode: kapsel.PortalRead, Sites: []string{"https://shop.example"}})
	w.must(w.manage.RevokePortalLink(w.ctx, w.admin, link.ID))
	rec := v.ask("GET", "/portal", nil)
	if rec.Code != http.StatusUnauthorized || !strings.Contains(rec.Body.String(), "your visit has ended") {
		t.Errorf("a visit that has ended: %d %s", rec.Code, rec.Body)
	}
	if got := rec.Header(); !strings.Contains(got.Get("Content-Security-Policy"), "frame-ancestors https://shop.example") || got.Get("X-Frame-Options") != "" {
		t.Errorf("it may be framed by %q, %q", got.Get("Content-Security-Policy"), got.Get("X-Frame-Options"))
	}
	stranger := visitor{w, kapsel.NewPortalLinkID(time.Now()).String() + ".x"}
	if got := stranger.ask("GET", "/portal", nil).Header(); !strings.Contains(got.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("the page of a link that there is not may be framed: %q", got.Get("Content-Security-Policy"))
	}
}

// TestPortal_OtherVisit checks that a form of one visit does nothing in another one, which the same browser
// has opened since.
func TestPortal_OtherVisit(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	one, two := w.customer(tenant, "one"), w.customer(tenant, "two")
	_, first := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &one.app.UID, Mode: kapsel.PortalManage})
	v, _ := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{App: &two.app.UID, Mode: kapsel.PortalManage})
	rec := v.ask("POST", "/portal/new", url.Values{"visit": {first.ID.String()}, "name": {"x"}, "url": {"https://x.example"}})
	all, err := w.manage.ListEndpoints(w.ctx, w.admin, tenant.ID, two.app.ID, store.Page[kapsel.EndpointID]{Limit: 10})
	w.must(err)
	if rec.Code != http.StatusConflict || len(all) != 1 {
		t.Errorf("a form of another visit: %d, and %d endpoints", rec.Code, len(all))
	}
}

// TestPortal_Framed checks which sites may frame the pages, and how the session's cookie goes.
func TestPortal_Framed(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	v, link := w.visit(w.admin, tenant.ID, manage.PortalLinkSettings{Mode: kapsel.PortalRead, Sites: []string{"https://app.example", "https://b.example:8443"}})
	const sites = "frame-ancestors https://app.example https://b.example:8443;"
	for _, rec := range []*httptest.ResponseRecorder{v.ask("GET", "/portal", nil), v.ask("GET", "/portal/endpoints/x", nil), w.ask("GET", "/portal/open/"+link.ID.String(), "", nil, nil)} {
		if p := rec.Header().Get("Content-Security-Policy"); !strings.Contains(p, sites) || rec.Header().Get("X-Frame-Options") != "" {
			t.Errorf("the policy is %s, with X-Frame-Options %q", p, rec.Header().Get("X-Frame-Options"))
		}
	}
	for _, target := range []string{"/portal", "/portal/open/x", "/portal/open/" + kapsel.NewPortalLinkID(time.Now()).String(), "/sign-in"} {
		if rec := w.ask("GET", target, "", nil, nil); rec.Header().Get("Content-Security-Policy") != policy {
			t.Errorf("%s without a session: %s", target, rec.Header().Get("Content-Security-Policy"))
		}
	}
	fresh, text, err := w.manage.CreatePortalLink(w.ctx, w.admin, tenant.ID, kapsel.PortalLinkID{}, manage.PortalLinkSettings{Mode: kapsel.PortalRead})
	w.must(err)
	_, token, _ := strings.Cut(text.Reveal(), "#")
	remote := func(r *http.Request) { r.Host = "kapsel.example" }
	if rec := w.ask("POST", "/portal/open/"+fresh.ID.String(), "", url.Values{"token": {token}}, remote); rec.Code != http.StatusForbidden || len(rec.Result().Cookies()) > 0 {
		t.Errorf("over plain HTTP from another machine: %d", rec.Code)
	}
	w.pages.HTTPS = true
	rec := w.ask("POST", "/portal/open/"+fresh.ID.String(), "", url.Values{"token": {token}}, remote)
	if cookies := rec.Result().Cookies(); rec.Code != http.StatusSeeOther || len(cookies) != 1 || cookies[0].Name != securePortalCookie || !cookies[0].Secure ||
		!cookies[0].Partitioned || cookies[0].SameSite != http.SameSiteNoneMode || !cookies[0].HttpOnly {
		t.Errorf("over HTTPS: %d %+v", rec.Code, cookies)
	}
}
