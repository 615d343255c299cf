package dashboard

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// vouching is a provider for tests of the pages: it vouches for a person, or refuses.
type vouching struct {
	person   access.Person
	refusal  error
	down     error
	began    url.Values // of the last sign-in
	finished int
}

func (v *vouching) Label() string { return "Example <b>" }

func (v *vouching) Begin(_ context.Context, state, nonce, verifier secret.Text, again bool) (string, error) {
	v.began = url.Values{"state": {state.Reveal()}, "nonce": {nonce.Reveal()}, "verifier": {verifier.Reveal()}}
	if again {
		v.began.Set("again", "1")
	}
	return "https://login.example/auth?state=" + state.Reveal(), v.down
}

func (v *vouching) Finish(_ context.Context, _ url.Values, nonce, verifier secret.Text) (access.Person, error) {
	v.finished++
	if nonce.Reveal() != v.began.Get("nonce") || verifier.Reveal() != v.began.Get("verifier") {
		return access.Person{}, errors.New("the nonce or the verifier is of another sign-in")
	}
	return v.person, v.refusal
}

// newPeopleWorld returns a world with a provider.
func newPeopleWorld(t *testing.T) (*world, *vouching) {
	w := newWorld(t)
	v := &vouching{}
	cfg := w.pages.Config
	guard := cfg.Guard.Config
	guard.People = [32]byte{1}
	cfg.Guard, cfg.People, cfg.PublicURL = access.New(guard), v, "http://127.0.0.1:8080"
	w.pages = New(cfg)
	t.Cleanup(w.pages.Stop)
	return w, v
}

// begin begins a sign-in and returns the cookie of its flow.
func (w *world) begin(target string) *http.Cookie {
	w.t.Helper()
	rec := w.ask(http.MethodGet, target, "", nil, nil)
	cookies := rec.Result().Cookies()
	if rec.Code != http.StatusSeeOther || len(cookies) != 1 || !strings.HasPrefix(rec.Header().Get("Location"), "https://login.example/auth?") {
		w.t.Fatalf("%s is answered %d, %v", target, rec.Code, rec.Header())
	}
	if c := cookies[0]; c.Name != plainCookie+"-sign-on" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 600 {
		w.t.Errorf("the flow's cookie is %+v", c)
	}
	return cookies[0]
}

// back comes back from the provider.
func (w *world) back(state string, flow *http.Cookie, more string) *httptest.ResponseRecorder {
	w.t.Helper()
	return w.ask(http.MethodGet, CallbackPath+"?code=c&state="+state+more, "", nil, func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		if flow != nil {
			r.AddCookie(flow)
		}
	})
}

// session returns the token of the session that an answer begins, "" if it begins none.
func sessionOf(rec *httptest.ResponseRecorder) string {
	for _, c := range rec.Result().Cookies() {
		if c.Name == plainCookie {
			return c.Value
		}
	}
	return ""
}

// TestPeople_S11 checks that a person without a key has the rights that the provider's claims give, is named
// where sessions and changes are listed, and that all sessions of a person end together.
func TestPeople_S11(t *testing.T) {
	w, v := newPeopleWorld(t)
	acme, key := w.tenant("acme", kapsel.ScopeWrite)
	other, _ := w.tenant("other", kapsel.ScopeWrite)
	enter := func(p access.Person) string {
		t.Helper()
		v.person = p
		flow := w.begin("/sign-in/oidc?next=%2Fsessions%3Ftenant%3D")
		rec := w.back(v.began.Get("state"), flow, "")
		token := sessionOf(rec)
		if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/sessions?tenant=" || token == "" {
			t.Fatalf("%+v: %d to %s, %s", p, rec.Code, rec.Header().Get("Location"), rec.Body)
		}
		return token
	}
	get := func(token, target string) (int, string) {
		rec := w.ask(http.MethodGet, target, token, nil, nil)
		return rec.Code, rec.Body.String()
	}
	in := func(token string) bool { code, _ := get(token, "/sessions"); return code == http.StatusOK }
	if _, body := get("", "/sign-in"); !strings.Contains(body, "Sign in with Example &lt;b&gt;") {
		t.Error("the sign-in page has no button")
	}

	reader := enter(access.Person{Subject: "sub-bob", Name: hostile[1], Right: access.Read, Tenant: acme.ID})
	writer := enter(access.Person{Subject: "sub-ann", Name: "ann@example.com", Right: access.Write, Tenant: acme.ID})
	admin := enter(access.Person{Subject: "sub-eve", Name: "eve@example.com", Right: access.Operate})
	byKey := w.signIn(key)
	_, body := get(reader, "/sessions")
	for _, want := range []string{"ann@example.com", "may change things", "&lt;img src=x", "may only read", "key_"} {
		if !strings.Contains(body, want) {
			t.Errorf("the tenant's list of sessions has no %q", want)
		}
	}
	if strings.Contains(body, "<img src=x") || strings.Contains(body, "eve@example.com") {
		t.Error("the tenant's list of sessions has what it must not")
	}
	if _, body := get(admin, "/sessions"); !strings.Contains(body, "eve@example.com") || !strings.Contains(body, "as the operator") || !strings.Contains(body, "ann@example.com") {
		t.Error("the admin's list of sessions lacks somebody")
	}
	for token, want := range map[string]int{reader: http.StatusForbidden, writer: http.StatusForbidden, admin: http.StatusSeeOther} {
		if rec := w.ask(http.MethodPost, "/tenants", token, url.Values{"name": {"made"}}, nil); rec.Code != want {
			t.Errorf("making a tenant is answered %d, want %d", rec.Code, want)
		}
	}
	for token, want := range map[string]int{reader: http.StatusForbidden, writer: http.StatusOK} {
		if rec := w.ask(http.MethodPost, "/keys", token, url.Values{"name": {"by hand"}, "scope": {"read"}}, nil); rec.Code != want {
			t.Errorf("making a key is answered %d, want %d", rec.Code, want)
		}
	}
	list, err := w.manage.ListChanges(w.ctx, access.Caller{Right: access.Read, Tenant: acme.ID}, acme.ID, store.ChangeFilter{Kind: kapsel.KindKey}, store.Page[kapsel.ChangeID]{Limit: 1})
	if err != nil || len(list) != 1 || list[0].Actor.Subject != "sub-ann" || list[0].Actor.Name != "ann@example.com" || list[0].Actor.Kind != kapsel.ActorSession {
		t.Errorf("the change is by %+v, %v", list, err)
	}

	moved := enter(access.Person{Subject: "sub-ann", Name: "ann@example.com", Right: access.Read, Tenant: other.ID})
	w.ask(http.MethodPost, "/sessions/end-all", moved, nil, nil)
	if in(moved) || in(writer) || !in(reader) || !in(admin) || !in(byKey) {
		t.Error("signing out everywhere does not end all sessions of the person, or ends others")
	}
	w.ask(http.MethodPost, "/sessions/end-all", byKey, nil, nil)
	if in(byKey) || !in(reader) {
		t.Error("signing out everywhere with a key ends more than the key's sessions")
	}
	last := enter(access.Person{Subject: "sub-ann", Name: "ann@example.com", Right: access.Read, Tenant: other.ID})
	w.must(w.manage.DeleteTenant(w.ctx, w.admin, other.ID))
	if in(last) {
		t.Error("a session goes on without its tenant")
	}
	v.person.Tenant = other.ID
	flow := w.begin("/sign-in/oidc")
	if rec := w.back(v.began.Get("state"), flow, ""); rec.Code != http.StatusForbidden || sessionOf(rec) != "" || !strings.Contains(rec.Body.String(), "not there, or no longer") {
		t.Errorf("a sign-in to a tenant that is gone is answered %d: %s", rec.Code, rec.Body)
	}

	// Other settings of the provider end the sessions that the former ones made.
	guard := w.pages.Guard.Config
	for _, people := range [][32]byte{{2}, {}} {
		guard.People = people
		w.pages.Guard = access.New(guard)
		if in(reader) || in(admin) {
			t.Error("sessions outlive the settings that made them")
		}
	}
}

// TestPeople_S13 checks that only the browser that began a sign-in can finish it, once and in time, and that
// nothing leads away from the pages.
func TestPeople_S13(t *testing.T) {
	w, v := newPeopleWorld(t)
	v.person = access.Person{Subject: "sub-eve", Name: "eve", Right: access.Operate}
	refused := func(what string, rec *httptest.ResponseRecorder, status int) {
		t.Helper()
		if rec.Code != status || sessionOf(rec) != "" || !strings.Contains(rec.Body.String(), `role="alert"`) {
			t.Errorf("%s: %d, %v", what, rec.Code, rec.Result().Cookies())
		}
	}
	flow := w.begin("/sign-in/oidc")
	state := v.began.Get("state")
	if v.began.Get("nonce") == state || len(state) < 43 || len(v.began.Get("verifier")) < 43 || strings.Contains(flow.Value, state) {
		t.Errorf("the flow is %v, %v", flow, v.began)
	}
	changed := *flow
	changed.Value = "A" + flow.Value[1:]
	if changed.Value == flow.Value {
		changed.Value = "B" + flow.Value[1:]
	}
	refused("without the cookie", w.back(state, nil, ""), http.StatusBadRequest)
	refused("with a changed cookie", w.back(state, &changed, ""), http.StatusBadRequest)
	for _, value := range []string{"", "x", "a.b.c", "a.1.%", flow.Value + "." + flow.Value} {
		refused("with a cookie that is none", w.back(state, &http.Cookie{Name: flow.Name, Value: value}, ""), http.StatusBadRequest)
	}
	for _, other := range []string{"", "x", state[1:], state + "A", state + "&state=" + state} {
		refused("with another state", w.back(other, flow, ""), http.StatusBadRequest)
	}
	if v.finished > 0 {
		t.Fatal("the provider was asked")
	}
	if sessionOf(w.back(state, flow, "")) == "" {
		t.Fatal("no session begins")
	}
	refused("again", w.back(state, flow, ""), http.StatusBadRequest)
	flow = w.begin("/sign-in/oidc")
	now := w.pages.Clock()
	w.pages.Clock = func() time.Time { return now.Add(flowLife + 2*time.Second) }
	refused("too late", w.back(v.began.Get("state"), flow, ""), http.StatusBadRequest)
	w.pages.Clock = func() time.Time { return now }
	if v.finished != 1 {
		t.Errorf("the provider was asked %d times, want once", v.finished)
	}

	for _, next := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/v1/events", "/" + strings.Repeat("x", 3000), "/sign-in\r\nX: y"} {
		flow := w.begin("/sign-in/oidc?" + url.Values{"next": {next}}.Encode())
		if rec := w.back(v.began.Get("state"), flow, ""); rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/" {
			t.Errorf("%.40q leads to %q, %d", next, rec.Header().Get("Location"), rec.Code)
		}
	}

	// A browser at another name of this machine is led to the public URL, where the cookie must be.
	rec := w.ask(http.MethodGet, "/sign-in/oidc?next=%2Fevents", "", nil, func(r *http.Request) { r.Host = "localhost:8080" })
	if to := rec.Header().Get("Location"); to != "http://127.0.0.1:8080/sign-in/oidc?here=1&next=%2Fevents" || len(rec.Result().Cookies()) > 0 {
		t.Errorf("from another host it goes to %q", to)
	}
	// Over plain HTTP from elsewhere nobody signs in.
	for _, target := range []string{"/sign-in/oidc", CallbackPath + "?state=" + state} {
		rec := w.ask(http.MethodGet, target, "", nil, func(r *http.Request) { r.Host = "kapsel.example"; r.AddCookie(flow) })
		if rec.Code != http.StatusForbidden || len(rec.Result().Cookies()) > 0 {
			t.Errorf("%s over plain HTTP from elsewhere: %d", target, rec.Code)
		}
	}

	v.refusal = &access.Refusal{Status: http.StatusForbidden, Text: `It says: "<script>window.__pwn=1</script>"`}
	flow = w.begin("/sign-in/oidc?as=other")
	rec = w.back(v.began.Get("state"), flow, "&error=access_denied")
	refused("refused by the provider", rec, http.StatusForbidden)
	if body := rec.Body.String(); strings.Contains(body, "<script>window") || !strings.Contains(body, "as somebody else") || v.began.Get("again") == "" {
		t.Errorf("the page of a refusal is %s", body)
	}
	v.refusal = &access.Refusal{Status: http.StatusUnauthorized, Text: "no"}
	limited := 0
	for range 150 {
		flow := w.begin("/sign-in/oidc")
		if rec := w.back(v.began.Get("state"), flow, ""); rec.Code == http.StatusTooManyRequests && rec.Header().Get("Retry-After") != "" {
			limited++
		}
	}
	if limited < 20 {
		t.Errorf("%d of 150 sign-ins that failed were refused without asking the provider", limited)
	}
	v.down = &access.Refusal{Status: http.StatusServiceUnavailable, Text: "does not answer"}
	refused("a provider that is down", w.ask(http.MethodGet, "/sign-in/oidc", "", nil, nil), http.StatusServiceUnavailable)

	alone := newWorld(t)
	if rec := alone.ask(http.MethodGet, "/sign-in/oidc", "", nil, nil); rec.Code != http.StatusNotFound {
		t.Errorf("without a provider: %d", rec.Code)
	}
	if body := alone.ask(http.MethodGet, "/sign-in", "", nil, nil).Body.String(); strings.Contains(body, "Sign in with") {
		t.Error("without a provider there is a button")
	}
}
