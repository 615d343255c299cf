package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

const adminKey = "an admin key of thirty-two characters or more"

// world is the API over a store of its own. Its clock stands still until a test moves it.
type world struct {
	why     string    // what manage.Config.WaitsFor says
	rate    time.Time // what manage.Config.RateAllows says
	t       *testing.T
	store   store.Store
	vault   *secret.Vault
	handler http.Handler
	doc     *document31
	now     time.Time
	log     bytes.Buffer
	changed int
	due     []kapsel.DeliveryID // what the API said is due now
	woken   int                 // how often it said that a replay is to go on
	cfg     Config
	uses    manage.Config
	audit   *audit.Writer
	guard   access.Config
	cache   *settings.Cache
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{Ledger: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ring, err := secret.NewKeyring(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: s, vault: secret.NewVault(ring), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), why: "worker"}
	w.audit = audit.NewWriter(audit.Config{
		Store: s, Now: func() time.Time { return w.now }, Node: kapsel.NewNodeID(w.now), Keys: &audit.Keys{Store: s, Seal: ring}, AtOnce: 100, Log: slog.New(slog.NewJSONHandler(&w.log, nil)),
	})
	clock, err := clock.New(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	w.cache = settings.NewCache(s)
	feed := feed.New(s, clock, slog.New(slog.DiscardHandler))
	w.cache.OnChange(feed.Changed)
	keys := settings.NewKeys(s)
	w.cache.OnChange(keys.Changed)
	following, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { feed.Run(following) })
	t.Cleanup(func() { stop(); running.Wait() })
	log, now := slog.New(slog.NewJSONHandler(&w.log, nil)), func() time.Time { return w.now }
	w.uses = manage.Config{
		Ledger: true,
		Store:  s, Vault: w.vault, Keyring: ring, PublicURL: "https://kapsel.example", Clock: now, Feed: feed, Show: Show,
		CheckURL: func(u string) error {
			return egress.CheckURL(u, egress.Config{Self: func(netip.AddrPort) (bool, error) { return false, nil }})
		},
		CheckVerification: signature.Check,
		Changed: func() {
			w.changed++
			if err := w.cache.Load(t.Context()); err != nil {
				t.Error(err)
			}
		},
		WaitsFor:   func(*kapsel.Endpoint, kapsel.Delivery) string { return w.why },
		Due:        func(d kapsel.Delivery) { w.due = append(w.due, d.ID) },
		Replaying:  func() { w.woken++ },
		RateAllows: func(*kapsel.Endpoint) time.Time { return w.rate },
	}
	w.guard = access.Config{Keys: keys, AdminKey: secret.NewText(adminKey), Clock: now, Log: log}
	w.cfg = Config{
		AdminKey: secret.NewText(adminKey), PublicURL: "https://kapsel.example", Version: "1.2.3", Clock: now, Log: log,
		Answers: s, Tenants: s, Vault: w.vault,
	}
	events := w.publisher(clock)
	w.cfg.Publisher, w.cfg.Rates = events, events
	w.handler = w.build()
	w.doc = readDocument(t, w.handler)
	return w
}

// build returns the API over the use cases, as they are configured now.
func (w *world) build() http.Handler {
	w.cfg.Guard = access.New(w.guard)
	w.uses.PortalToken = w.cfg.Guard.NewPortalToken
	w.cfg.Manage = manage.New(w.uses)
	return New(w.cfg)
}

// publishLogs makes leaves of all attempts and publishes the heads of their logs.
func (w *world) publishLogs() {
	w.t.Helper()
	w.audit.Finish(w.t.Context())
	if left, _, err := w.store.Entries(w.t.Context(), store.EntryKey{}, 1, nil); err != nil || len(left) > 0 {
		w.t.Fatalf("the logs lack %d attempts: %v\n%s", len(left), err, w.log.String())
	}
}

// publisher is ingest with an engine that never runs: what is accepted waits in the store.
func (w *world) publisher(clock *clock.Clock) *ingest.Handler {
	bodies, log := budget.New(16<<20), slog.New(slog.DiscardHandler)
	engine := delivery.New(delivery.Config{
		Store: w.store, Settings: w.cache, Clock: clock, Vault: w.vault, Budget: bodies, Workers: 1, Lease: 10 * time.Second, Log: log,
	})
	return ingest.New(ingest.Config{
		Store: w.store, Counters: w.store, Settings: w.cache, Clock: clock, Engine: engine, Vault: w.vault, Budget: bodies,
		PublicURL: w.cfg.PublicURL, Capacity: 1000, Log: log, Endpoints: w.store, MaxBody: 1 << 20,
	})
}

// answered is an answer of the API.
type answered struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. Its options change it; a body that is a string is sent as JSON. Every
// answer is checked for what holds for all of them.
func (w *world) do(method, path, key string, body any, options ...func(*http.Request)) answered {
	w.t.Helper()
	var reader io.Reader
	if body != nil {
		text, isText := body.(string)
		if !isText {
			b, err := json.Marshal(body)
			if err != nil {
				w.t.Fatal(err)
			}
			text = string(b)
		}
		reader = strings.NewReader(text)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for _, o := range options {
		o(r)
	}
	ctx, hangUp := context.WithCancel(r.Context())
	defer hangUp()
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(impatient{rec, hangUp}, r.WithContext(ctx))
	res := rec.Result()
	b, _ := io.ReadAll(res.Body)
	a := answered{res.StatusCode, res.Header, b}
	if got := a.header.Get("X-Content-Type-Options") + "," + a.header.Get("Cache-Control"); got != "nosniff,no-store" {
		w.t.Errorf("%s %s: security headers %q", method, path, got)
	}
	if a.header.Get("Access-Control-Allow-Origin") != "" {
		w.t.Errorf("%s %s: CORS is open", method, path)
	}
	if a.status >= 500 {
		w.t.Errorf("%s %s: %d %s\n%s", method, path, a.status, a.body, &w.log)
	}
	if a.status >= 400 {
		w.checkProblem(method+" "+path, a)
	}
	w.doc.check(w.t, method, r.URL.Path, a)
	return a
}

// impatient records an answer and hangs up at what a stream sends first.
type impatient struct {
	*httptest.ResponseRecorder
	hangUp context.CancelFunc
}

func (i impatient) Flush() {
	i.ResponseRecorder.Flush()
	i.hangUp()
}

func (w *world) checkProblem(what string, a answered) {
	w.t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		w.t.Errorf("%s: content type %q", what, got)
	}
	var p struct {
		Type, Title, Detail, Code string
		Status                    int
		RequestID                 string `json:"request_id"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
	if p.Status != a.status || p.Type == "" || p.Title == "" || p.Detail == "" || p.RequestID == "" || p.Code == "" && a.status < 500 {
		w.t.Errorf("%s: problem %s with status %d", what, a.body, a.status)
	}
	for _, leak := range []string{"sqlite", "SQL", "constraint", "goroutine", ".go", "/tmp", "127.0.0.1"} {
		if bytes.Contains(a.body, []byte(leak)) {
			w.t.Errorf("%s: the answer shows %q: %s", what, leak, a.body)
		}
	}
}

// want sends a request and ends the test unless it is answered with a status. Its JSON
// object comes back.
func (w *world) want(status int, method, path, key string, body any, options ...func(*http.Request)) object {
	w.t.Helper()
	a := w.do(method, path, key, body, options...)
	if a.status != status {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if len(a.body) == 0 {
		return nil
	}
	var o object
	if err := json.Unmarshal(a.body, &o); err != nil {
		w.t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
	}
	return o
}

// refused sends a request that must fail with a code, a status and these fields.
func (w *world) refused(code kapsel.Code, status int, fields []string, method, path, key string, body any, options ...func(*http.Request)) {
	w.t.Helper()
	o := w.want(status, method, path, key, body, options...)
	if o["code"] != string(code) {
		w.t.Errorf("%s %s: %v, want code %s", method, path, o, code)
	}
	var got []string
	for _, e := range o.list("errors") {
		got = append(got, e.text("field"))
	}
	if diff := cmp.Diff(fields, got); diff != "" {
		w.t.Errorf("%s %s: fields (-want +got):\n%s\n%v", method, path, diff, o)
	}
}

// object is an object of JSON.
type object map[string]any

func (o object) text(name string) string { s, _ := o[name].(string); return s }
func (o object) object(name string) object {
	v, _ := o[name].(map[string]any)
	return v
}

func (o object) list(name string) (l []object) {
	values, _ := o[name].([]any)
	for _, v := range values {
		m, _ := v.(map[string]any)
		l = append(l, m)
	}
	return l
}

func (o object) names() []string {
	var names []string
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// house is a tenant with keys of both scopes and an endpoint.
type house struct {
	tenant, read, write, endpoint string
}

func (w *world) newHouse(name string) house {
	w.t.Helper()
	h := house{tenant: w.want(201, "POST", "/v1/tenants", adminKey, object{"name": name}).text("id")}
	for scope, secret := range map[string]*string{"read": &h.read, "write": &h.write} {
		*secret = w.want(201, "POST", "/v1/tenants/"+h.tenant+"/keys", adminKey, object{"name": scope, "scope": scope}).text("secret")
	}
	h.endpoint = w.want(201, "POST", "/v1/endpoints", h.write, object{"name": name, "url": "https://example.com/" + name}).text("id")
	return h
}

// receive stores an event at an endpoint, with a pending delivery.
func (w *world) receive(endpoint string, change func(*kapsel.Event)) (kapsel.Event, kapsel.Delivery) {
	w.t.Helper()
	id, err := kapsel.ParseEndpointID(endpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := w.store.Endpoint(w.t.Context(), kapsel.TenantID{}, id)
	if err != nil {
		w.t.Fatal(err)
	}
	ev := kapsel.Event{
		ID: kapsel.NewEventID(w.now, e.Part), TenantID: e.TenantID, EndpointID: e.ID, ReceivedAt: w.now, ContentType: "application/json",
		Header: kapsel.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "X-Id", Value: "1"}, {Name: "X-Id", Value: "2"}},
		Query:  "a=1&b", Body: []byte(`{"a":1}`), Size: 7, Signature: kapsel.SignatureVerdict{Scheme: "none"},
	}
	if change != nil {
		change(&ev)
		ev.Size = len(ev.Body)
	}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(w.now, e.Part), EventID: ev.ID, EndpointID: e.ID, TenantID: e.TenantID, Status: kapsel.Pending,
		DueAt: w.now, Size: ev.Size, CreatedAt: w.now,
	}
	if _, err := w.store.Accept(w.t.Context(), store.Acceptance{Event: ev, Deliveries: []kapsel.Delivery{d}, Window: time.Hour}); err != nil {
		w.t.Fatal(err)
	}
	return ev, d
}

// attempt makes the next attempt of an endpoint's oldest due delivery end with an answer.
func (w *world) attempt(endpoint string, a kapsel.Answer, change func(*kapsel.Attempt)) kapsel.Attempt {
	w.t.Helper()
	ctx := w.t.Context()
	id, _ := kapsel.ParseEndpointID(endpoint)
	node := kapsel.NewNodeID(w.now)
	if err := w.store.Join(ctx, node, w.now, time.Hour); err != nil {
		w.t.Fatal(err)
	}
	claimed, _, err := w.store.Claim(ctx, node, w.now, []store.Want{{EndpointID: id, Limit: 1}}, 1<<20)
	if err != nil || len(claimed) != 1 {
		w.t.Fatalf("claim: %d, %v", len(claimed), err)
	}
	d := claimed[0].Delivery
	after, err := d.After(a, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	t := kapsel.Attempt{
		ID: d.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, Number: after.Attempts, StartedAt: w.now,
		Duration: 1234567 * time.Nanosecond, StatusCode: a.Status, ErrorCode: a.Code,
		RequestHeaders: kapsel.Header{{Name: "X-Token", Value: "hunter2"}, {Name: "Host", Value: "example.com"}},
		ResponseBody:   []byte("ok"),
	}
	if change != nil {
		change(&t)
	}
	if err := w.store.Complete(ctx, store.Completion{Attempt: t, Delivery: after}); err != nil {
		w.t.Fatal(err)
	}
	return t
}

func TestUnknownPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/nothing", "/v1/tenants/", "/v1//tenants", "/v1/../v1/tenants", "/v1/tenants/..%2f", "/v2/tenants", "/docs/", "/V1/tenants",
		"/v1/events/%2e%2e/payload", "/v1/tenants%00"} {
		if a := w.do("GET", path, adminKey, nil); a.status != 404 || !bytes.Contains(a.body, []byte(`"E1009"`)) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for path, allow := range map[string]string{
		"/v1/tenants": "GET, HEAD, POST", "/v1/events": "GET, HEAD, POST", "/v1/deliveries/x/cancel": "POST", "/openapi.json": "GET, HEAD",
	} {
		for _, method := range []string{"PUT", "OPTIONS", "TRACE", "PROPFIND"} {
			a := w.do(method, path, adminKey, nil)
			if a.status != 405 || a.header.Get("Allow") != allow || !bytes.Contains(a.body, []byte(`"E1006"`)) {
				t.Errorf("%s %s: %d, Allow %q: %s", method, path, a.status, a.header.Get("Allow"), a.body)
			}
		}
	}
}

func TestPanicIsA500(t *testing.T) {
	w := newWorld(t)
	w.uses.CheckURL = func(string) error { panic("secret detail") }
	h := w.build()
	tenant := w.want(201, "POST", "/v1/tenants", adminKey, object{"name": "a"}).text("id")
	r := httptest.NewRequest("POST", "/v1/endpoints?tenant_id="+tenant, strings.NewReader(`{"name":"a","url":"https://example.com"}`))
	r.Header.Set("Authorization", "Bearer "+adminKey)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "secret detail") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if !strings.Contains(w.log.String(), "secret detail") {
		t.Errorf("the log does not say what happened: %s", &w.log)
	}
}

func TestStoreTroubleIs503(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	w.store.Close()
	for _, key := range []string{adminKey, h.read} {
		r := httptest.NewRequest("GET", "/v1/endpoints", nil)
		r.Header.Set("Authorization", "Bearer "+key)
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), "E3001") {
			t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
	}
}

func TestBodies(t *testing.T) {
	w := newWorld(t)
	contentType := func(v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Content-Type", v) }
	}
	const path, fine = "/v1/tenants", `{"name":"a"}`
	w.want(201, "POST", path, adminKey, fine, contentType("application/json; charset=UTF-8"))
	w.want(201, "POST", path, adminKey, fine, contentType("Application/JSON"))
	for _, v := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/merge-patch+json", "json", "a/b, application/json"} {
		w.refused(kapsel.InvalidRequest, 415, nil, "POST", path, adminKey, fine, contentType(v))
	}
	w.refused(kapsel.InvalidRequest, 415, nil, "POST", path, adminKey, fine, func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") })
	w.refused(kapsel.InvalidRequest, 415, nil, "POST", path, adminKey, fine, func(r *http.Request) { r.Header["Content-Type"] = []string{"application/json", "text/plain"} })
	w.refused(kapsel.InvalidRequest, 400, nil, "POST", path, adminKey, "")
	w.refused(kapsel.InvalidRequest, 400, nil, "POST", path, adminKey, "{")
	w.refused(kapsel.InvalidRequest, 400, []string{"(body)"}, "POST", path, adminKey, "[]")
	pad := func(n int) string { return fine + strings.Repeat(" ", n-len(fine)) }
	w.want(201, "POST", path, adminKey, pad(64<<10))
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", path, adminKey, pad(64<<10+1))
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", path, adminKey, pad(1<<20), func(r *http.Request) { r.ContentLength = -1 })

	// Actions need no body and take an empty object.
	h := w.newHouse("b")
	pause := "/v1/endpoints/" + h.endpoint + "/pause"
	w.want(200, "POST", pause, h.write, nil)
	w.want(200, "POST", pause, h.write, "{}")
	w.refused(kapsel.InvalidRequest, 400, []string{"x"}, "POST", pause, h.write, `{"x":1}`)
	w.refused(kapsel.InvalidRequest, 400, nil, "POST", pause, h.write, `garbage`)
}

func TestQueryParameters(t *testing.T) {
	w := newWorld(t)
	for query, fields := range map[string][]string{
		"limitt=1": {"limitt"}, "limit=1&limit=2": {"limit"}, "limit[]=1": {"limit[]"}, "a=1&b=2&limit=3&limit=4": {"a", "b", "limit"},
		"Limit=1": {"Limit"}, "api_key=x": {"api_key"}, "access_token=x": {"access_token"},
	} {
		w.refused(kapsel.InvalidRequest, 400, fields, "GET", "/v1/tenants?"+query, adminKey, nil)
	}
	for path, field := range map[string]string{
		"/v1/tenants?limit=": "limit", "/v1/tenants?cursor=": "cursor", "/v1/events?source_id=": "source_id", "/v1/events?endpoint_id=": "endpoint_id",
		"/v1/events?status=": "status", "/v1/events?since=": "since", "/v1/events?idempotency_key": "idempotency_key", "/v1/events?app_id=": "app_id", "/v1/events?type=": "type",
		"/v1/events?tenant_id=": "tenant_id", "/v1/deliveries?replayed=": "replayed", "/v1/events/stream?after=": "after",
	} {
		w.refused(kapsel.InvalidRequest, 400, []string{field}, "GET", path, adminKey, nil)
	}
	w.refused(kapsel.InvalidRequest, 400, nil, "GET", "/v1/tenants?a=%zz", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, nil, "GET", "/v1/tenants?limit=1;cursor=2", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"x"}, "POST", "/v1/tenants?x=1", adminKey, `{"name":"a"}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"endpoint_id", "since"}, "GET", "/v1/events?endpoint_id=x&since=yesterday", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"status"}, "GET", "/v1/events?status=lost", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"replayed"}, "GET", "/v1/deliveries?replayed=1", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"tenant_id"}, "GET", "/v1/endpoints?tenant_id=ep_01", adminKey, nil)
	for _, at := range []string{"2026-01-01", "0000-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "Infinity", "2026-01-01T24:00:00Z", "2026-01-01t00:00:00z", "1"} {
		w.refused(kapsel.InvalidRequest, 400, []string{"until"}, "GET", "/v1/events?until="+at, adminKey, nil)
	}
}

// TestParameters_NoText checks that a query parameter that no store can compare as text is refused by its
// name on every route, and that no path with such a text leads anywhere.
func TestParameters_NoText(t *testing.T) {
	w := newWorld(t)
	parameter := regexp.MustCompile(`\{[^}]+\}`)
	queries, paths := 0, 0
	for template, operations := range w.doc.Paths {
		for method, op := range operations {
			for _, text := range []string{"%00", "%ff", "a%00b"} {
				tenant := w.newHouse("a").tenant
				for _, p := range op.Parameters {
					if p.In != "query" {
						continue
					}
					path := parameter.ReplaceAllString(template, "x") + "?" + p.Name + "=" + text
					w.refused(kapsel.InvalidRequest, 400, []string{p.Name}, strings.ToUpper(method), path, adminKey, nil)
					queries++
				}
				if path := parameter.ReplaceAllString(template, text); path != template && op.Access != "anyone" {
					if a := w.do(strings.ToUpper(method), path+"?tenant_id="+tenant, adminKey, "{}"); a.status < 400 || a.status >= 500 {
						t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
					}
					paths++
				}
			}
		}
	}
	if queries < 100 || paths < 100 {
		t.Errorf("only %d queries and %d paths were tried", queries, paths)
	}
}

// TestBadInput_B46_LongStrings checks that a text that is too long is refused by the name of
// its field, and a body of more than 64 KiB with 413.
func TestBadInput_B46_LongStrings(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	long := strings.Repeat("a", 30_000) // with 64 KiB for a body, none can be longer
	fields := map[string]object{
		"name":                    {"name": long, "url": "https://example.com"},
		"url":                     {"name": "a", "url": "https://example.com/" + long},
		"description":             {"name": "a", "url": "https://example.com", "description": long},
		"idempotency.header":      {"name": "a", "url": "https://example.com", "idempotency": object{"header": long}},
		"idempotency.path":        {"name": "a", "url": "https://example.com", "idempotency": object{"path": "$." + long}},
		"idempotency.strategy":    {"name": "a", "url": "https://example.com", "idempotency": object{"strategy": long}},
		"retry.strategy":          {"name": "a", "url": "https://example.com", "retry": object{"strategy": long}},
		"headers.set.X":           {"name": "a", "url": "https://example.com", "headers": object{"set": object{"X": long}}},
		"headers.drop[0]":         {"name": "a", "url": "https://example.com", "headers": object{"drop": []string{long}}},
		"verification.secrets[0]": {"name": "a", "url": "https://example.com", "verification": object{"provider": "github", "secrets": []string{long}}},
		"verification.provider":   {"name": "a", "url": "https://example.com", "verification": object{"provider": long}},
	}
	for field, body := range fields {
		w.refused(kapsel.InvalidRequest, 422, []string{field}, "POST", "/v1/endpoints", h.write, body)
	}
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", "/v1/endpoints", h.write, object{"name": strings.Repeat("a", 1<<20), "url": "https://example.com"})
}

// TestBadInput_B45_B47_B120_StringsAreLiteral checks that SQL, wildcards, markup and control
// characters in names come back unchanged, and a search takes them literally.
func TestBadInput_B45_B47_B120_StringsAreLiteral(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	for _, name := range []string{"'; DROP TABLE events; --", "%", "_", `\`, "$1", "a\u202eb\u200bc", "<script>alert(1)</script>", "{{7*7}}", "%s%n", "𝔘𝔫𝔦"} {
		e := w.want(201, "POST", "/v1/endpoints", h.write, object{"name": name, "url": "https://example.com", "description": name})
		if got := w.want(200, "GET", "/v1/endpoints/"+e.text("id"), h.read, nil); got.text("name") != name || got.text("description") != name {
			t.Errorf("%q came back as %q, %q", name, got.text("name"), got.text("description"))
		}
	}
	w.receive(h.endpoint, func(e *kapsel.Event) { e.IdempotencyKey = []byte("order_1") })
	for key, want := range map[string]int{"order_1": 1, "order%251": 0, "order_": 0, "%25": 0, "_": 0, "ORDER_1": 0, "'%20OR%201=1--": 0} {
		if got := len(w.want(200, "GET", "/v1/events?idempotency_key="+key, h.read, nil).list("data")); got != want {
			t.Errorf("idempotency_key=%s: %d events, want %d", key, got, want)
		}
	}
}

func ids(list []object) string {
	var b strings.Builder
	for _, o := range list {
		fmt.Fprintf(&b, "%s ", o.text("id"))
	}
	return strings.TrimSpace(b.String())
}
