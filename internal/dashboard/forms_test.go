package dashboard

import (
	"encoding"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/api"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// settable returns the paths of all settings of a request's type.
func settable(t reflect.Type) (paths []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		of := f.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		as := reflect.PointerTo(of)
		opaque := as.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || as.Implements(reflect.TypeFor[json.Unmarshaler]())
		switch {
		case of.Kind() != reflect.Struct || opaque:
			paths = append(paths, name)
		case name == "":
			paths = append(paths, settable(of)...)
		default:
			for _, inner := range settable(of) {
				paths = append(paths, name+"."+inner)
			}
		}
	}
	return paths
}

// TestForms_AllSettings checks that each setting that the API takes has an input of its name on the page that
// makes the object and on the one that changes it.
func TestForms_AllSettings(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	token, at := w.signIn(adminKey), "?tenant="+tenant.ID.String()
	e := w.endpoint(tenant, nil)
	src, err := w.manage.CreateSource(w.ctx, w.admin, tenant.ID, kapsel.SourceID{}, manage.SourceSettings{Name: "s", Intake: kapsel.DefaultIntake()})
	w.must(err)
	_, err = w.manage.CreateEventType(w.ctx, w.admin, tenant.ID, kapsel.EventTypeID{}, "invoice.paid", kapsel.EventTypeConfig{})
	w.must(err)
	app, err := w.manage.CreateApp(w.ctx, w.admin, tenant.ID, kapsel.AppID{}, manage.AppSettings{AppConfig: kapsel.AppConfig{Name: "a"}})
	w.must(err)
	for _, c := range []struct {
		of       reflect.Type
		make     string
		change   string
		not      []string // settings that the page for making does not have
		notAgain []string // settings that are fixed
	}{
		{reflect.TypeFor[api.EndpointPatch](), "/endpoints/new", "/endpoints/" + e.ID.String() + "/edit", []string{"state"}, []string{"app"}},
		{reflect.TypeFor[api.SourcePatch](), "/sources/new", "/sources/" + src.ID.String() + "/edit", []string{"state"}, nil},
		{reflect.TypeFor[api.EventTypePatch](), "/event-types/new", "/event-type/invoice.paid/edit", nil, nil},
		{reflect.TypeFor[api.AppPatch](), "/apps/new", "/apps/" + app.ID.String() + "/edit", nil, nil},
	} {
		paths := settable(c.of)
		if len(paths) < 3 {
			t.Fatalf("%v has the settings %q", c.of, paths)
		}
		for page, not := range map[string][]string{c.make: c.not, c.change: c.notAgain} {
			form := formOf(t, w.ask(http.MethodGet, page+at, token, nil, nil).Body.String(), page)
			for _, path := range paths {
				has := slices.ContainsFunc(slices.Collect(mapsKeys(form)), func(name string) bool { return isOf(name, path) })
				if has == slices.Contains(not, path) {
					t.Errorf("%s: has an input for %s: %t", page, path, has)
				}
			}
		}
	}
}

func mapsKeys(form url.Values) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range form {
			if !yield(name) {
				return
			}
		}
	}
}

// formOf returns what a browser sends for a form of a page, whose action begins with a path.
func formOf(t *testing.T, page, action string) url.Values {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	attr := func(n *html.Node, name string) string {
		for _, a := range n.Attr {
			if a.Key == name {
				return a.Val
			}
		}
		return ""
	}
	has := func(n *html.Node, name string) bool {
		return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
	}
	for form := range doc.Descendants() {
		if form.Data != "form" || !strings.HasPrefix(attr(form, "action"), action) || attr(form, "method") != "post" {
			continue
		}
		sent := url.Values{}
		for n := range form.Descendants() {
			name := attr(n, "name")
			switch {
			case name == "":
			case n.Data == "input" && attr(n, "type") == "checkbox" && !has(n, "checked"):
			case n.Data == "input":
				sent.Add(name, attr(n, "value"))
			case n.Data == "textarea":
				text := ""
				for inner := range n.Descendants() {
					text += inner.Data
				}
				sent.Add(name, strings.ReplaceAll(text, "\n", "\r\n"))
			case n.Data == "select":
				value, first := "", true
				for o := range n.Descendants() {
					if o.Data == "option" && (first || has(o, "selected")) {
						value, first = attr(o, "value"), false
					}
				}
				sent.Add(name, value)
			}
		}
		return sent
	}
	t.Fatalf("no form of the page is sent to %s: %.2000s", action, page)
	return nil
}

// endpoint makes an endpoint of a tenant.
func (w *world) endpoint(t kapsel.Tenant, change func(*manage.EndpointSettings)) manage.Endpoint {
	w.t.Helper()
	s := manage.DefaultEndpoint()
	s.Config.Name, s.Config.URL, s.Config.Verification.Provider = "orders", "https://orders.example/hook", "none"
	if change != nil {
		change(&s)
	}
	e, err := w.manage.CreateEndpoint(w.ctx, w.admin, t.ID, kapsel.EndpointID{}, s)
	w.must(err)
	return e
}

// configOf returns an endpoint's configuration without what is sealed, as JSON.
func (w *world) configOf(id kapsel.EndpointID) string {
	w.t.Helper()
	e, err := w.store.Endpoint(w.ctx, kapsel.TenantID{}, id)
	w.must(err)
	c := e.EndpointConfig
	c.Signing.Secrets = nil
	secrets := c.Verification.Secrets
	c.Verification.Secrets = nil
	for range secrets {
		c.Verification.Secrets = append(c.Verification.Secrets, kapsel.Secret{})
	}
	if c.Verification.VerifyToken != nil {
		c.Verification.VerifyToken = &kapsel.Secret{}
	}
	for name := range c.Headers.Set {
		c.Headers.Set[name] = kapsel.Secret{}
	}
	text, err := json.MarshalIndent([]any{c.UID, c}, "", " ")
	w.must(err)
	return string(text)
}

// full are settings of an endpoint, each of which is not the default.
func full(of kapsel.Verification, source kapsel.SourceID) kapsel.EndpointConfig {
	c := kapsel.EndpointConfig{
		Name: "all set", URL: "https://all.example/hook?a=1", Description: "two\nlines", Metadata: map[string]string{"region": "eu", "two": "a\nb"},
		Intake: kapsel.Intake{
			Verification: of, Response: &kapsel.Response{Status: 202, ContentType: "text/plain", Body: "got\nit"},
			Idempotency: kapsel.Idempotency{Strategy: kapsel.KeyFromSourceID, Header: "X-Key", Path: "$.data.id", Window: 2 * time.Hour}, ExpectEvery: 90 * time.Minute,
		},
		Retry:   kapsel.RetryPolicy{Strategy: kapsel.RetrySchedule, MaxAttempts: 7, Base: 2 * time.Second, Max: time.Hour, Schedule: []time.Duration{time.Second, 90 * time.Second}},
		RetryOn: []int{404, 409}, Timeout: 12 * time.Second, RateLimit: &kapsel.RateLimit{PerSecond: 2.5, Burst: 4}, Concurrency: 9,
		Circuit: kapsel.CircuitPolicy{Disabled: true, Failures: 6, Ratio: 0.75, Window: 31, Minimum: 11, OpenFor: 45 * time.Second, Successes: 4},
		Headers: kapsel.HeaderPolicy{Drop: []string{"X-Drop", "X-Also"}, Keep: []string{"Authorization"}}, Signing: kapsel.Signing{V1a: true}, ForwardQuery: true,
		Subscriptions: []kapsel.Subscription{{Source: source.String(), EventTypes: []string{"a.b", "c.*"}, Channels: []string{"eu"}}, {Source: kapsel.Publish}},
	}
	if of.Provider == "token" {
		c.Challenge, c.Probe = &kapsel.Challenge{From: "query:challenge", To: "body"}, true
	}
	return c
}

// TestForms_Endpoint checks that a form that nobody changed changes nothing, whatever is set, and that what is
// entered is set: the form of one endpoint, sent as a new one, makes another with the same settings.
func TestForms_Endpoint(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	session, at := w.signIn(adminKey), "?tenant="+tenant.ID.String()
	source := manage.DefaultSource()
	source.Name = "shop"
	src, err := w.manage.CreateSource(w.ctx, w.admin, tenant.ID, kapsel.SourceID{}, source)
	w.must(err)
	for name, of := range map[string]struct {
		v      kapsel.Verification
		secret string
	}{
		"hmac": {kapsel.Verification{Provider: "hmac", Tolerance: 7 * time.Minute, Header: "X-Sig", Algorithm: "sha512", Encoding: "base64", Prefix: "v2=", Signed: "{time}.{body}", Format: "pairs",
			TimeUnit: "milliseconds", KeyEncoding: "hex", Decompress: true}, "00ff"},
		"hmac with a time": {kapsel.Verification{Provider: "hmac", TimeHeader: "X-Time", Signed: "{time}{body}", Prefix: "a b "}, "key"},
		"token":            {kapsel.Verification{Provider: "token", In: "header:X-Token"}, "tok-8d1f2c"},
		"aws-sns":          {kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{"arn:aws:sns:eu-west-1:123456789012:orders", "arn:aws:sns:eu-west-1:123456789012:refunds"}}, ""},
		"google-oidc":      {kapsel.Verification{Provider: "google-oidc", Audience: "https://hooks.example/x", Email: "push@project.iam.gserviceaccount.com"}, ""},
		"meta":             {kapsel.Verification{Provider: "meta"}, "app-8d1f2c"},
		"linear":           {kapsel.Verification{Provider: "linear"}, "secret"},
		"none":             {kapsel.Verification{Provider: "none"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := w.endpoint(tenant, func(s *manage.EndpointSettings) {
				s.Config = full(of.v, src.ID)
				s.Config.Subscriptions = nil // as the form does, once there is an ingest
				s.UID = new("first-" + strings.ReplaceAll(name, " ", "-"))
				if of.secret != "" {
					s.Secrets = manage.IntakeSecrets{Replace: true, List: []manage.SecretSetting{{Text: secret.NewText(of.secret)}}}
				}
				if name == "meta" {
					s.Secrets.ReplaceToken, s.Secrets.VerifyToken = true, new(secret.NewText("verify"))
				}
				s.Headers.Set = map[string]*secret.Text{"X-Api-Key": new(secret.NewText("must-never-be-shown")), "X-B": new(secret.NewText("b"))}
			})
			e, err = w.manage.UpdateEndpoint(w.ctx, w.admin, e.ID, manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error {
				s.Config.Subscriptions = full(of.v, src.ID).Subscriptions
				return nil
			}})
			w.must(err)
			path := "/endpoints/" + e.ID.String() + "/edit"
			page := w.ask(http.MethodGet, path+at, session, nil, nil).Body.String()
			for _, text := range []string{"must-never-be-shown", of.secret} {
				if len(text) > 8 && strings.Contains(page, text) {
					t.Errorf("the form shows the secret %s", text)
				}
			}
			before, form := w.configOf(e.ID), formOf(t, page, path)
			if rec := w.ask(http.MethodPost, path+at, session, form, nil); rec.Code != http.StatusSeeOther {
				t.Fatalf("an unchanged form is answered %d: %s", rec.Code, faultsOf(t, rec.Body.String()))
			}
			if after := w.configOf(e.ID); after != before {
				t.Errorf("an unchanged form makes %s out of %s", after, before)
			}

			form = formOf(t, w.ask(http.MethodGet, path+at, session, nil, nil).Body.String(), path)
			form.Del(revision)
			form.Del(keptSecret)
			form.Set("verification.secrets", of.secret)
			form.Set("headers.set", "X-Api-Key: x\r\nX-B: b")
			if name == "meta" {
				form.Set("verification.verify_token", "verify")
			}
			form.Set(hasIngest, "true")
			subscribedTo := form[fromSource]
			form[fromSource] = []string{""} // subscriptions make an endpoint without an ingest
			form.Set("uid", strings.Replace(form.Get("uid"), "first-", "second-", 1))
			rec := w.ask(http.MethodPost, "/endpoints/new"+at, session, form, nil)
			form[fromSource] = subscribedTo
			id := madeEndpoint(t, rec.Body.String())
			path = "/endpoints/" + id.String() + "/edit"
			again := formOf(t, w.ask(http.MethodGet, path+at, session, nil, nil).Body.String(), path)
			again[fromSource], again[fromTypes], again[fromChannels] = form[fromSource], form[fromTypes], form[fromChannels]
			if rec := w.ask(http.MethodPost, path+at, session, again, nil); rec.Code != http.StatusSeeOther {
				t.Fatalf("subscriptions are answered %d: %s", rec.Code, faultsOf(t, rec.Body.String()))
			}
			if after := strings.Replace(w.configOf(id), "second-", "first-", 1); after != before {
				t.Errorf("the form makes an endpoint with %s, and not with %s", after, before)
			}
		})
	}
}

// madeEndpoint returns the ID of the endpoint that a page says was made.
func madeEndpoint(t *testing.T, page string) kapsel.EndpointID {
	t.Helper()
	_, rest, ok := strings.Cut(page, "/endpoints/ep_")
	if !ok || !strings.Contains(page, "whsec_") {
		t.Fatalf("no endpoint was made: %s", faultsOf(t, page))
	}
	id, err := kapsel.ParseEndpointID("ep_" + rest[:26])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// faultsOf returns what a page says is wrong, a line each.
func faultsOf(t *testing.T, page string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for n := range doc.Descendants() {
		for _, a := range n.Attr {
			if a.Key == "class" && (strings.Contains(a.Val, "fault") || a.Val == "alert" || a.Val == "lead") {
				text := n.Parent.FirstChild.Data + " " + a.Val + ":"
				for _, b := range n.Attr {
					if b.Key == "id" {
						text += " " + b.Val
					}
				}
				for inner := range n.Descendants() {
					if inner.Type == html.TextNode {
						text += " " + strings.TrimSpace(inner.Data)
					}
				}
				all = append(all, text)
			}
		}
	}
	return strings.Join(all, "\n")
}

// TestForms_Wrong checks that a form with something wrong changes nothing, says all that is wrong beside its
// fields in the words of the API, keeps what was entered, and shows no secret again.
func TestForms_Wrong(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	session, at := w.signIn(adminKey), "?tenant="+tenant.ID.String()
	e := w.endpoint(tenant, nil)
	path := "/endpoints/" + e.ID.String() + "/edit"
	before := w.configOf(e.ID)
	form := formOf(t, w.ask(http.MethodGet, path+at, session, nil, nil).Body.String(), path)
	groups := endpointGroups(&page{query: url.Values{}}, nil)
	said := map[string]string{
		"name": "must not be empty", "url": "must begin with https:// or http://", "timeout": "must be a duration such as", "concurrency": "must be a whole number",
		"verification.provider": "no such provider", "retry.schedule": "must be a duration", "retry_on": "must be whole numbers", "circuit.ratio": "must be a number",
		"rate_limit.per_second": "must be a number", "rate_limit.burst": "must be 1 to", "headers.set": "must be lines of Name: value", "headers.drop": "is not the name of a header",
		"response.status": "must be a whole number", "idempotency.strategy": "must be one of", "expect_every": "must be a duration", "subscriptions": "must be the id of a source",
		"verification.tolerance": "must be a duration", "uid": "must be 1 to 255 letters", "metadata": "a name twice",
	}
	for _, g := range groups {
		for _, x := range g.fields {
			if x.kind != flag && form.Has(x.name) {
				form.Set(x.name, "never right\x01")
			}
		}
	}
	form.Set("name", " ")
	form.Set("url", "nowhere")
	form.Set("rate_limit.burst", "")
	form.Set("verification.secrets", "must-never-be-shown")
	form[fromSource] = []string{"nothing"}
	form[metadataName], form[metadataText] = []string{"a", "a"}, []string{"1", "2"}
	rec := w.ask(http.MethodPost, path+at, session, form, nil)
	page := rec.Body.String()
	if rec.Code != http.StatusUnprocessableEntity || strings.Contains(page, "must-never-be-shown") {
		t.Errorf("%d, %s", rec.Code, faultsOf(t, page))
	}
	for name, text := range said {
		_, beside, ok := strings.Cut(page, `id="`+inputID(name)+`-wrong"`)
		beside, _, _ = strings.Cut(beside, "</ul>")
		if !ok || !strings.Contains(beside, text) {
			t.Errorf("beside %s the page says %q, want %q", name, beside, text)
		}
	}
	kept := formOf(t, page, path)
	for _, name := range []string{"name", "url", "description", "timeout", "concurrency", "rate_limit.per_second", "retry.schedule", "retry_on", "headers.drop", "response.body", "idempotency.path", fromTypes} {
		if kept.Get(name) != form.Get(name) {
			t.Errorf("%s was entered as %q and is kept as %q", name, form.Get(name), kept.Get(name))
		}
	}
	if after := w.configOf(e.ID); after != before {
		t.Errorf("a wrong form changes %s to %s", before, after)
	}
	// What cannot be read is refused by itself, too, and not taken for something else.
	good := formOf(t, w.ask(http.MethodGet, path+at, session, nil, nil).Body.String(), path)
	for _, g := range groups {
		for _, x := range g.fields {
			switch x.name {
			case "name", "description", "url", "app", hasIngest, "verification.secrets", "verification.awaiting_handshake", "verification.verify_token", "response.body":
				continue
			}
			if x.kind == flag || !good.Has(x.name) {
				continue
			}
			one := url.Values{}
			for name, values := range good {
				one[name] = values
			}
			one.Set(x.name, "never right\x01")
			if rec := w.ask(http.MethodPost, path+at, session, one, nil); rec.Code != http.StatusUnprocessableEntity {
				t.Errorf("%s = never right: %d", x.name, rec.Code)
			}
		}
	}
	if after := w.configOf(e.ID); after != before {
		t.Errorf("a wrong field changes %s to %s", before, after)
	}
	stale := formOf(t, w.ask(http.MethodGet, path+at, session, nil, nil).Body.String(), path)
	_, err := w.manage.UpdateEndpoint(w.ctx, w.admin, e.ID, manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error { s.Config.Concurrency = 3; return nil }})
	w.must(err)
	stale.Set("name", "renamed")
	rec = w.ask(http.MethodPost, path+at, session, stale, nil)
	if again := formOf(t, rec.Body.String(), path); rec.Code != http.StatusUnprocessableEntity || !strings.Contains(rec.Body.String(), "Somebody changed the settings") || again.Get("name") != "renamed" {
		t.Errorf("a form that is out of date: %d %s", rec.Code, faultsOf(t, rec.Body.String()))
	}
}

// TestForms_Catalogue checks that sources, event types and apps are made, changed and deleted by their forms,
// that a form that nobody changed changes nothing, that all that is wrong is said beside its field, and what a
// form conflicts with above it, with what was entered kept.
func TestForms_Catalogue(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	session, at := w.signIn(adminKey), "?tenant="+tenant.ID.String()
	stored := func(what string) string {
		t.Helper()
		var v any
		var err error
		switch kind, id, _ := strings.Cut(strings.TrimPrefix(what, "/"), "/"); kind {
		case "sources":
			src, wrong := kapsel.ParseSourceID(id)
			w.must(wrong)
			var s kapsel.Source
			s, err = w.store.Source(w.ctx, tenant.ID, src)
			v = s.SourceConfig
		case "event-type":
			var x kapsel.EventType
			x, err = w.store.EventType(w.ctx, tenant.ID, id)
			v = x.EventTypeConfig
		case "apps":
			app, wrong := kapsel.ParseAppID(id)
			w.must(wrong)
			var x kapsel.App
			x, err = w.store.App(w.ctx, tenant.ID, app)
			v = []any{x.UID, x.AppConfig}
		}
		if err != nil {
			return err.Error()
		}
		text, err := json.Marshal(v)
		w.must(err)
		return string(text)
	}
	for name, c := range map[string]struct {
		make, listed string
		entered      url.Values
		has          []string // in what is stored
		wrong        url.Values
		said         map[string]string // by the field
	}{
		"source": {"/sources/new", "/sources", url.Values{"name": {"shop"}, "verification.provider": {"github"}, "verification.secrets": {"gh-secret"}, "type.from": {"header:X-GitHub-Event"}, "idempotency.window": {"2h"}},
			[]string{`"name":"shop"`, `"provider":"github"`, `"sealed":`, `"type":{"from":"header:X-GitHub-Event"}`, `"window":7200000000000`},
			url.Values{"name": {""}, "verification.provider": {"stripe"}, "verification.secrets": {""}, "type.from": {"nowhere"}, "expect_every": {"soon"}},
			map[string]string{"name": "must not be empty", "verification.secrets": "at least one secret", "type.from": "must be header:NAME", "expect_every": "must be a duration"}},
		"event type": {"/event-types/new", "/event-types", url.Values{"name": {"invoice.paid"}, "group": {"invoices"}, "description": {"It was paid."}, "validate": {"refuse"}, "deprecated": {"true"},
			schemaVersion: {"1", "2", ""}, schemaText: {`{"type": "object"}`, "{\r\n \"required\": [\"id\"]\r\n}", ""}},
			[]string{`"group":"invoices"`, `"validate":"refuse"`, `"deprecated":true`, `"1":{"type":"object"}`, `"2":{"required":["id"]}`},
			url.Values{"validate": {"perhaps"}, schemaVersion: {"1", "x y", "3"}, schemaText: {`{"type": "nothing"}`, `{}`, ""}},
			map[string]string{"validate": "must be one of", "schemas": "must be named by versions"}},
		"app": {"/apps/new", "/apps", url.Values{"name": {"Customer"}, "uid": {"customer-1"}, "rate_limit.per_second": {"2.5"}, "rate_limit.burst": {"5"}, metadataName: {"plan", ""}, metadataText: {"gold", ""}},
			[]string{`"customer-1"`, `"name":"Customer"`, `"metadata":{"plan":"gold"}`, `"per_second":2.5`},
			url.Values{"name": {""}, "uid": {"not one"}, "rate_limit.per_second": {"x"}, metadataName: {"a", "a"}, metadataText: {"1", "2"}},
			map[string]string{"name": "must not be empty", "uid": "must be 1 to 255 letters", "rate_limit.per_second": "must be a number", "metadata": "a name twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			form := formOf(t, w.ask(http.MethodGet, c.make+at, session, nil, nil).Body.String(), c.make)
			for name, values := range c.entered {
				form[name] = values
			}
			rec := w.ask(http.MethodPost, c.make+at, session, form, nil)
			where, _, _ := strings.Cut(rec.Header().Get("Location"), "?")
			if rec.Code != http.StatusSeeOther {
				t.Fatalf("%d: %s", rec.Code, faultsOf(t, rec.Body.String()))
			}
			made := stored(where)
			for _, text := range c.has {
				if !strings.Contains(made, text) {
					t.Errorf("what was entered is stored as %s, without %s", made, text)
				}
			}
			if page := w.ask(http.MethodGet, where+at, session, nil, nil); page.Code != http.StatusOK || strings.Contains(page.Body.String(), "gh-secret") {
				t.Errorf("its page: %d %s", page.Code, page.Body)
			}
			if list := w.ask(http.MethodGet, c.listed+at, session, nil, nil); !strings.Contains(list.Body.String(), where) {
				t.Errorf("the list does not lead to %s", where)
			}
			edit := where + "/edit"
			same := formOf(t, w.ask(http.MethodGet, edit+at, session, nil, nil).Body.String(), edit)
			if rec := w.ask(http.MethodPost, edit+at, session, same, nil); rec.Code != http.StatusSeeOther || stored(where) != made {
				t.Errorf("an unchanged form: %d, and %s became %s: %s", rec.Code, made, stored(where), faultsOf(t, rec.Body.String()))
			}
			wrong := formOf(t, w.ask(http.MethodGet, edit+at, session, nil, nil).Body.String(), edit)
			for name, values := range c.wrong {
				wrong[name] = values
			}
			rec = w.ask(http.MethodPost, edit+at, session, wrong, nil)
			page := rec.Body.String()
			if rec.Code != http.StatusUnprocessableEntity || stored(where) != made {
				t.Errorf("a wrong form: %d, and %s became %s", rec.Code, made, stored(where))
			}
			for name, text := range c.said {
				_, beside, _ := strings.Cut(page, `id="`+inputID(name)+`-wrong"`)
				if beside, _, _ = strings.Cut(beside, "</ul>"); !strings.Contains(beside, text) {
					t.Errorf("beside %s the page says %q, want %q: %s", name, beside, text, faultsOf(t, page))
				}
			}
			kept := formOf(t, page, edit)
			for name, values := range c.wrong {
				if !slices.Equal(kept[name][:len(values)], values) && name != "validate" {
					t.Errorf("%s was entered as %q and is kept as %q", name, values, kept[name])
				}
			}
			if name != "source" { // whose name may be another's
				rec := w.ask(http.MethodPost, c.make+at, session, form, nil)
				if rec.Code != http.StatusUnprocessableEntity || !strings.Contains(rec.Body.String(), "Nothing was saved yet") || formOf(t, rec.Body.String(), c.make).Get("name") != c.entered.Get("name") {
					t.Errorf("a second one: %d %s", rec.Code, faultsOf(t, rec.Body.String()))
				}
			}
			remove := where + "/delete"
			asked := formOf(t, w.ask(http.MethodGet, remove+at, session, nil, nil).Body.String(), remove)
			if rec := w.ask(http.MethodPost, remove+at, session, asked, nil); rec.Code != http.StatusSeeOther || w.ask(http.MethodGet, where+at, session, nil, nil).Code != http.StatusNotFound {
				t.Errorf("it is not deleted: %d %s", rec.Code, faultsOf(t, rec.Body.String()))
			}
		})
	}
}

// TestForms_Rights checks that who may only read gets no form and no button that leads to one, and changes
// nothing by sending one; and that the objects of another tenant are answered as what there is not.
func TestForms_Rights(t *testing.T) {
	w := newWorld(t)
	tenant, _ := w.tenant("acme", kapsel.ScopeWrite)
	_, read := w.tenant("reader", kapsel.ScopeRead)
	_, write := w.tenant("writer", kapsel.ScopeWrite)
	e := w.endpoint(tenant, nil)
	src, err := w.manage.CreateSource(w.ctx, w.admin, tenant.ID, kapsel.SourceID{}, manage.SourceSettings{Name: "s", Intake: kapsel.DefaultIntake()})
	w.must(err)
	reader, writer := w.signIn(read), w.signIn(write)
	for _, page := range []string{"/endpoints", "/sources", "/event-types", "/apps"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if rec := w.ask(method, page+"/new", reader, url.Values{"name": {"x"}, "url": {"https://x.example"}}, nil); rec.Code != http.StatusForbidden {
				t.Errorf("%s %s/new of who may only read: %d", method, page, rec.Code)
			}
		}
		if rec := w.ask(http.MethodGet, page, reader, nil, nil); rec.Code != http.StatusOK || strings.Contains(rec.Body.String(), page+"/new") {
			t.Errorf("%s leads who may only read to a form: %d", page, rec.Code)
		}
	}
	for _, of := range []string{"/endpoints/" + e.ID.String(), "/sources/" + src.ID.String()} {
		for _, action := range []string{"", "/edit", "/delete"} {
			if rec := w.ask(http.MethodGet, of+action, writer, nil, nil); rec.Code != http.StatusNotFound {
				t.Errorf("%s%s of another tenant: %d", of, action, rec.Code)
			}
			if rec := w.ask(http.MethodPost, of+action, writer, url.Values{"name": {"x"}}, nil); action != "" && rec.Code != http.StatusNotFound {
				t.Errorf("POST %s%s of another tenant: %d", of, action, rec.Code)
			}
		}
	}
	for _, about := range signature.Describe() {
		page := w.ask(http.MethodGet, "/providers/"+about.Name, reader, nil, nil).Body.String()
		for _, text := range []string{about.Paste, about.Events, about.Sources[0]} {
			if text, _, _ = strings.Cut(text, "`"); !strings.Contains(page, html.EscapeString(text)) {
				t.Errorf("the guide of %s does not say %q", about.Name, text)
			}
		}
	}
	for _, page := range []string{"/providers", "/providers/stripe"} {
		if rec := w.ask(http.MethodGet, page, reader, nil, nil); rec.Code != http.StatusOK || strings.Contains(rec.Body.String(), "/new") {
			t.Errorf("%s of who may only read: %d", page, rec.Code)
		}
	}
}
