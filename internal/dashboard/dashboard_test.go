package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

const adminKey = "an admin key of thirty-two characters or more"

// world is the pages over a store of their own, in real time.
type world struct {
	t      *testing.T
	ctx    context.Context
	store  *sqlite.Store
	manage *manage.Manager
	cache  *settings.Cache
	ring   *secret.Keyring
	pages  *Dashboard
	admin  access.Caller

	mu    sync.Mutex
	asked string // what a browser has asked for and was answered, a line each
}

// visited returns what a browser was answered.
func (w *world) visited() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ring, err := secret.NewKeyring(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	clock, err := clock.New(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w := &world{t: t, ctx: t.Context(), store: s, cache: settings.NewCache(s), ring: ring, admin: access.Caller{Right: access.Operate}}
	events := feed.New(s, clock, log)
	w.cache.OnChange(events.Changed)
	keys := settings.NewKeys(s)
	w.cache.OnChange(keys.Changed)
	following, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { events.Run(following) })
	t.Cleanup(func() { stop(); running.Wait() })
	directory := settings.NewObeyed(s, w.cache)
	show := func(object any, _ time.Time) any {
		switch o := object.(type) {
		case *kapsel.Endpoint:
			return map[string]any{"name": o.Name, "url": o.URL, "description": o.Description, "state": o.State, "retry": map[string]any{"max_attempts": o.Retry.MaxAttempts}, "retry_on": o.RetryOn}
		case *kapsel.PortalLink:
			return map[string]any{"revoked": !o.RevokedAt.IsZero()}
		case *kapsel.Key:
			return map[string]any{"name": o.Name, "scope": o.Scope}
		case *kapsel.Session:
			return map[string]any{"address": o.Address, "browser": o.Agent}
		}
		return map[string]any{}
	}
	guard := access.New(access.Config{
		Keys: keys, Sessions: s, Portals: s, AdminKey: secret.NewText(adminKey), Clock: clock.Now, Log: log,
		SessionsBy: func(by kapsel.Actor, verb string) access.Sessions {
			return s.By(store.Author{Actor: by, Verb: verb, At: clock.Now(), Show: show})
		},
	})
	w.manage = manage.New(manage.Config{
		Store: directory, Vault: secret.NewVault(ring), Keyring: ring, PublicURL: "http://127.0.0.1:8080", Clock: clock.Now, Feed: events,
		CheckURL: func(string) error { return nil }, CheckVerification: signature.Check, PortalToken: guard.NewPortalToken, Known: w.cache,
		Show: show,
		Changed: func() {
			if err := w.cache.Load(t.Context()); err != nil {
				t.Error(err)
			}
		},
	})
	w.pages = New(Config{Manage: w.manage, Guard: guard, Clock: clock.Now, Log: log, Version: "v0.0.0-test"})
	t.Cleanup(w.pages.Stop)
	return w
}

// must fails the test on an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// ask sends a request as a browser on the same machine does, with a session's token unless that is "".
func (w *world) ask(method, target, token string, form url.Values, change func(*http.Request)) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:8080"+target, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if token != "" {
		r.AddCookie(&http.Cookie{Name: plainCookie, Value: token})
	}
	if change != nil {
		change(r)
	}
	rec := httptest.NewRecorder()
	w.pages.ServeHTTP(rec, r)
	return rec
}

// signIn signs in with a key and returns the session's token.
func (w *world) signIn(key string) string {
	w.t.Helper()
	rec := w.ask(http.MethodPost, "/sign-in", "", url.Values{"key": {key}}, nil)
	if rec.Code != http.StatusSeeOther || len(rec.Result().Cookies()) != 1 {
		w.t.Fatalf("the sign-in is answered %d: %s", rec.Code, rec.Body)
	}
	return rec.Result().Cookies()[0].Value
}

// tenant makes a tenant with a key of a scope and returns both.
func (w *world) tenant(name string, scope kapsel.Scope) (kapsel.Tenant, string) {
	w.t.Helper()
	t, err := w.manage.CreateTenant(w.ctx, w.admin, kapsel.TenantID{}, func(s *manage.TenantSettings) error { s.Name = name; return nil })
	w.must(err)
	_, text, err := w.manage.CreateKey(w.ctx, w.admin, t.ID, kapsel.KeyID{}, manage.KeySettings{Name: "k", Scope: scope})
	w.must(err)
	return t, text.Reveal()
}

// TestHeaders_S15 checks that every kind of answer, errors included, has the headers that keep a page to itself.
func TestHeaders_S15(t *testing.T) {
	w := newWorld(t)
	token := w.signIn(adminKey)
	for _, target := range []string{"/", "/sessions", "/sign-in", "/static/style.css", "/static/nothing", "/nothing", "/sessions/x/../y", "/sessions?before=x"} {
		for _, who := range []string{"", token} {
			rec := w.ask(http.MethodGet, target, who, nil, nil)
			h := rec.Header()
			if h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
				h.Get("Cross-Origin-Opener-Policy") != "same-origin" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("X-Frame-Options") != "DENY" ||
				h.Get("Cache-Control") != "no-store" || h.Get("Permissions-Policy") == "" {
				t.Errorf("%s: %d with the headers %v", target, rec.Code, h)
			}
		}
	}
	if body := w.ask(http.MethodGet, "/", token, nil, nil).Body.String(); !strings.Contains(body, "<h1>Overview</h1>") {
		t.Errorf("the first page is %s", body)
	}
}

// TestReaderGone checks that a page whose reader has gone away before it was written is no error of Kapsel's.
func TestReaderGone(t *testing.T) {
	w := newWorld(t)
	token := w.signIn(adminKey)
	var lines bytes.Buffer
	w.pages.Log = slog.New(slog.NewTextHandler(&lines, nil))
	gone, leave := context.WithCancel(t.Context())
	leave()
	for _, target := range []string{"/", "/sign-in", "/events", "/tenants", "/nothing"} {
		w.ask(http.MethodGet, target, token, nil, func(r *http.Request) { *r = *r.WithContext(gone) })
	}
	if lines.Len() > 0 {
		t.Errorf("the log says %s", &lines)
	}
}

// TestSignIn_S12 checks that a session's cookie is a __Host- one over TLS, that it is a plain one over plain
// HTTP on the reader's own machine, and that nobody signs in over plain HTTP from elsewhere.
func TestSignIn_S12(t *testing.T) {
	w := newWorld(t)
	form := url.Values{"key": {adminKey}, "next": {"/sessions?before=&tenant="}}
	for _, c := range []struct {
		host   string
		https  bool
		cookie string
	}{
		{"127.0.0.1:8080", false, plainCookie},
		{"localhost:8080", false, plainCookie},
		{"[::1]:8080", false, plainCookie},
		{"kapsel.example", true, secureCookie},
		{"127.0.0.1:8080", true, secureCookie},
		{"kapsel.example", false, ""},
		{"192.168.1.2:8080", false, ""},
		{"127.0.0.1.example", false, ""},
		{"localhost.example", false, ""},
	} {
		w.pages.HTTPS = c.https
		rec := w.ask(http.MethodPost, "/sign-in", "", form, func(r *http.Request) { r.Host = c.host })
		cookies := rec.Result().Cookies()
		if c.cookie == "" {
			if rec.Code != http.StatusForbidden || len(cookies) > 0 || !strings.Contains(rec.Body.String(), "plain HTTP") {
				t.Errorf("%+v: %d, %v", c, rec.Code, cookies)
			}
			continue
		}
		if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/sessions?before=&tenant=" || len(cookies) != 1 {
			t.Errorf("%+v: %d to %s, %v", c, rec.Code, rec.Header().Get("Location"), cookies)
			continue
		}
		if k := cookies[0]; k.Name != c.cookie || k.Secure != c.https || !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.Domain != "" || len(k.Value) < 22 {
			t.Errorf("%+v: the cookie is %+v", c, k)
		}
	}
}

// TestSignIn_S11 checks that a wrong key makes no session and is not told from a missing one, that a
// sign-in ends the session before it, that a session ends where its reader says so, and that each of these
// leaves a row that says who it was and from where.
func TestSignIn_S11(t *testing.T) {
	w := newWorld(t)
	tenant, key := w.tenant("acme", kapsel.ScopeRead)
	var wrong string
	for _, k := range []string{"", "x", key[:len(key)-1]} {
		rec := w.ask(http.MethodPost, "/sign-in", "", url.Values{"key": {k}}, nil)
		if body := rec.Body.String(); rec.Code != http.StatusUnauthorized || len(rec.Result().Cookies()) > 0 || wrong != "" && body != wrong {
			t.Errorf("the key %q: %d, %s", k, rec.Code, body)
		} else {
			wrong = body
		}
	}
	in := func(token string) bool {
		return w.ask(http.MethodGet, "/sessions", token, nil, nil).Code == http.StatusOK
	}
	first := w.signIn(key)
	rec := w.ask(http.MethodPost, "/sign-in", first, url.Values{"key": {key}}, nil)
	second := rec.Result().Cookies()[0].Value
	if in(first) || !in(second) || first == second {
		t.Error("a sign-in does not end the session before it")
	}
	third := w.signIn(key)
	w.ask(http.MethodPost, "/sign-out", second, nil, nil)
	if in(second) || !in(third) {
		t.Error("a sign-out does not end its session, or ends another")
	}
	admin := w.signIn(adminKey)
	fourth := w.signIn(key)
	w.ask(http.MethodPost, "/sessions/end-all", third, nil, nil)
	if in(third) || in(fourth) || !in(admin) {
		t.Error("signing out everywhere does not end all sessions of the key, or ends others")
	}
	fifth := w.signIn(key)
	list, err := w.manage.ListSessions(w.ctx, w.admin, tenant.ID, store.Page[kapsel.SessionID]{Limit: 10})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d sessions, %v", len(list), err)
	}
	if rec := w.ask(http.MethodPost, "/sessions/"+list[0].ID.String()+"/end", fifth, nil, nil); rec.Code != http.StatusForbidden || !in(fifth) {
		t.Errorf("who may only read ends a session: %d", rec.Code)
	}
	w.ask(http.MethodPost, "/sessions/"+list[0].ID.String()+"/end", admin, nil, nil)
	if in(fifth) {
		t.Error("the admin does not end a session")
	}
	rows, err := w.manage.ListChanges(w.ctx, w.admin, kapsel.TenantID{}, store.ChangeFilter{Kind: kapsel.KindSession}, store.Page[kapsel.ChangeID]{Limit: 50})
	w.must(err)
	var said []string
	for _, c := range slices.Backward(rows) {
		if c.Actor.Kind != kapsel.ActorSession || c.Actor.Session == "" || !c.Actor.Client.IsValid() || c.Actor.Operator != c.TenantID.IsZero() && c.Verb != "end" {
			t.Errorf("a row of %s has %+v", c.Verb, c)
		}
		said = append(said, c.Verb)
	}
	slices.Sort(said) // those of one millisecond are in no order
	if want := []string{"end", "sign_in", "sign_in", "sign_in", "sign_in", "sign_in", "sign_in", "sign_out", "sign_out", "sign_out", "sign_out"}; !slices.Equal(said, want) {
		t.Errorf("sign-ins and sign-outs left %q, want %q", said, want)
	}
	for _, next := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/v1/events", "", "x"} {
		if to := nextPage(next); to != "/" {
			t.Errorf("after the sign-in %q leads to %q", next, to)
		}
	}
}

// TestForeignRequests_S13 checks that nothing changes by a request of another site, by one that does not
// say where it comes from, by GET, or by a form in another shape.
func TestForeignRequests_S13(t *testing.T) {
	w := newWorld(t)
	token := w.signIn(adminKey)
	for name, change := range map[string]func(*http.Request){
		"another site":             func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a sub-domain":             func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"an old browser elsewhere": func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") },
		"no browser":               func(r *http.Request) { r.Header.Del("Sec-Fetch-Site") },
		"JSON":                     func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		"GET":                      func(r *http.Request) { r.Method = http.MethodGet },
		"a key in a header": func(r *http.Request) {
			r.Header.Del("Cookie")
			r.Header.Set("Authorization", "Bearer "+adminKey)
		},
	} {
		rec := w.ask(http.MethodPost, "/sessions/end-all", token, url.Values{"x": {"y"}}, change)
		if rec.Code < 400 && rec.Header().Get("Location") != "/sign-in" {
			t.Errorf("%s: %d", name, rec.Code)
		}
		if rec := w.ask(http.MethodGet, "/sessions", token, nil, nil); rec.Code != http.StatusOK {
			t.Fatalf("%s: the session has ended", name)
		}
	}
	if rec := w.ask(http.MethodPost, "/sessions/end-all", token, nil, func(r *http.Request) {
		r.Header.Del("Sec-Fetch-Site")
		r.Header.Set("Origin", "http://127.0.0.1:8080")
	}); rec.Code != http.StatusSeeOther {
		t.Errorf("an old browser on a page of ours: %d", rec.Code)
	}
}

// TestGenerated checks that the code of the templates is up to date.
func TestGenerated(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "go", "run", "./internal/gen", "-check").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// TestVendored checks the files of others against the list that says where they are from, and that no file
// is missing in it.
func TestVendored(t *testing.T) {
	list, err := os.ReadFile("static/VENDORED.txt")
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{"app.js": true, "portal.js": true, "theme.js": true, "style.css": true, "icon.svg": true, "VENDORED.txt": true}
	files, err := os.ReadDir("static")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		body, err := os.ReadFile("static/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		if !own[f.Name()] && !strings.HasSuffix(f.Name(), ".LICENSE.txt") && !strings.Contains(string(list), hex.EncodeToString(sum[:])) {
			t.Errorf("static/%s is not as VENDORED.txt says", f.Name())
		}
	}
}

// TestVisible_B47 checks that no name can look like another one, or turn what is beside it around.
func TestVisible_B47(t *testing.T) {
	for name, want := range map[string]string{
		"plain é 名": "plain é 名", "a\u202eb": `a\u{202e}b`, "a\u200bb": `a\u{200b}b`, "\x1b[31m": `\u{1b}[31m`, "\u2066x\u2069": `\u{2066}x\u{2069}`, "a\u2028b": `a\u{2028}b`,
	} {
		if got := visible(name); got != want {
			t.Errorf("%q is shown as %q, want %q", name, got, want)
		}
	}
}
