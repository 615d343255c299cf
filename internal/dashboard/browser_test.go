package dashboard

import (
	"encoding/json"
	"fmt"
	"image/color"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/browsertest"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// hostile is what strangers write where they can: into names, payloads, headers and answers.
var hostile = []string{
	`<script>window.__pwn=1</script>`,
	`<img src=x onerror="window.__pwn=1">`,
	`"><svg onload=window.__pwn=1>`,
	`</textarea></pre></code><script>window.__pwn=1</script>`,
	`javascript:window.__pwn=1`,
	`{{7*7}} ${7*7} <%= 7*7 %>`,
	`<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.__pwn=1&gt;">`,
	"a\u2028window.__pwn=1\u2029", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "a\u200bb",
	`' onfocus=window.__pwn=1 autofocus x='`,
	`</script><base href="https://evil.example/">`,
}

// seeded is what the pages of a test show.
type seeded struct {
	tenant                     kapsel.Tenant
	healthy, failing, stranger manage.Endpoint
	delivered, dead, attacked  kapsel.EventID
	replay                     kapsel.ReplayID
	source                     kapsel.SourceID
}

// answered is what a destination did with an attempt.
type answered struct {
	status int
	code   kapsel.Code
	took   time.Duration
	header kapsel.Header
	body   string
}

// seed fills the store with endpoints that do well and badly, events in every state, and what is hostile.
func (w *world) seed() (s seeded) {
	w.t.Helper()
	s.tenant, _ = w.tenant("acme", kapsel.ScopeWrite)
	made := func(name, url string, more func(*manage.EndpointSettings)) manage.Endpoint {
		w.t.Helper()
		settings := manage.DefaultEndpoint()
		settings.Config.Name, settings.Config.URL = name, url
		if more != nil {
			more(&settings)
		}
		e, err := w.manage.CreateEndpoint(w.ctx, w.admin, s.tenant.ID, kapsel.EndpointID{}, settings)
		w.must(err)
		return e
	}
	s.healthy = made("billing", "https://billing.example/hooks", nil)
	s.failing = made("crm", "https://crm.example/webhooks", func(s *manage.EndpointSettings) { s.Config.Retry.MaxAttempts, s.Config.Timeout = 3, 10*time.Second })
	s.stranger = made(strings.Join(hostile[:3], " "), "https://x.example/%3Cscript%3E?"+strings.ReplaceAll(hostile[4], " ", ""), func(s *manage.EndpointSettings) { s.Config.Description = strings.Join(hostile[:7], " ") })
	paused := made("warehouse", "https://warehouse.example/in", nil)
	source := manage.DefaultSource()
	source.Name = hostile[1]
	src, err := w.manage.CreateSource(w.ctx, w.admin, s.tenant.ID, kapsel.SourceID{}, source)
	w.must(err)
	s.source = src.ID
	_, err = w.manage.CreateEventType(w.ctx, w.admin, s.tenant.ID, kapsel.EventTypeID{}, "invoice.paid", kapsel.EventTypeConfig{Description: hostile[0], Validate: kapsel.ValidateOff})
	w.must(err)
	_, err = w.manage.CreateApp(w.ctx, w.admin, s.tenant.ID, kapsel.AppID{}, manage.AppSettings{UID: new("shop-1"), AppConfig: kapsel.AppConfig{Name: hostile[2]}})
	w.must(err)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	event := func(e manage.Endpoint, header kapsel.Header, contentType, body string, answers ...answered) kapsel.EventID {
		w.t.Helper()
		return w.event(node, e, header, contentType, body, answers...)
	}
	json := `{"type":"invoice.paid","id":"in_%03d","data":{"amount":%d,"currency":"eur","big":12345678901234567890,"customer":{"name":"Zoë","tags":["a","b",null,true]},"lines":[{"sku":"x-1","n":2},{"sku":"x-2","n":1}]}}`
	usual := kapsel.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "X-Request-Id", Value: "r-1"}, {Name: "Authorization", Value: "Bearer must-never-be-shown"}}
	ok := answered{200, "", 42 * time.Millisecond, kapsel.Header{{Name: "Content-Type", Value: "text/plain"}}, "ok"}
	broken := answered{503, kapsel.HTTPServerError, 120 * time.Millisecond, kapsel.Header{{Name: "Retry-After", Value: "1"}, {Name: "Set-Cookie", Value: "must-never-be-shown"}}, "<html><h1>503 Service Unavailable</h1></html>"}
	slow := answered{0, kapsel.ConnectionTimeout, 10 * time.Second, nil, ""}
	for i := range 12 {
		s.delivered = event(s.healthy, usual, "application/json", fmt.Sprintf(json, i, 1000+i), ok)
	}
	for i := range 6 {
		s.dead = event(s.failing, usual, "application/json", fmt.Sprintf(json, i, 2000+i), broken, slow, broken)
	}
	event(s.failing, usual, "application/json", `{"type":"ping"}`, broken)
	event(s.healthy, kapsel.Header{{Name: "Content-Type", Value: "application/x-www-form-urlencoded"}}, "application/x-www-form-urlencoded", "a=1&b=%3Cb%3E&c=%E2%80%AE", ok)
	event(s.healthy, kapsel.Header{}, "application/octet-stream", "\x00\x01\xff\xfe binary", ok)
	var header kapsel.Header
	payload := map[string]string{}
	for i, text := range hostile {
		header = append(header, kapsel.HeaderField{Name: fmt.Sprint("X-", i), Value: strings.NewReplacer("\n", "", "\r", "", "\x00", "").Replace(text)})
		payload[text] = text
	}
	s.attacked = event(s.stranger, header, `text/html"><script>window.__pwn=1</script>`, jsonText(payload), answered{404, kapsel.HTTPClientError, 7 * time.Millisecond, header, strings.Join(hostile, "\n")})
	event(s.stranger, header, "text/html", strings.Join(hostile, "\n")+strings.Repeat("x", 1<<20), answered{500, kapsel.HTTPServerError, time.Second, header, strings.Join(hostile, "\n")})
	event(s.stranger, nil, "text/plain", "\xff\xfe"+hostile[0], answered{400, kapsel.HTTPClientError, time.Second, header, "\xff" + hostile[0]})
	_, err = w.manage.PauseEndpoint(w.ctx, w.admin, paused.ID)
	w.must(err)
	event(paused, usual, "application/json", `{"type":"waits"}`)
	_, err = w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: s.failing.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: time.Now().Add(-3 * time.Minute), RetryAt: time.Now().Add(time.Hour)})
	w.must(err)
	w.must(w.cache.Load(w.ctx))
	r, err := w.manage.CreateReplay(w.ctx, w.admin, s.tenant.ID, kapsel.ReplayID{}, manage.ReplayRequest{EndpointID: s.failing.ID, Since: time.Now().Add(-time.Hour)})
	w.must(err)
	s.replay = r.ID
	return s
}

func jsonText(v any) string {
	b, _ := json.Marshal(v) // texts always encode
	return string(b)
}

// event stores an event of an endpoint with its attempts: as many as there are answers, after which it
// waits. An event sorts after those that were made before it.
func (w *world) event(node kapsel.NodeID, e manage.Endpoint, header kapsel.Header, contentType, body string, answers ...answered) kapsel.EventID {
	w.t.Helper()
	time.Sleep(time.Millisecond) // IDs of one millisecond have no order
	now := time.Now()
	id := kapsel.NewEventID(now, e.Part)
	d := kapsel.Delivery{ID: kapsel.NewDeliveryID(now, e.Part), EventID: id, EndpointID: e.ID, TenantID: e.TenantID, DueAt: now, Size: len(body), CreatedAt: now}
	_, err := w.store.Accept(w.ctx, store.Acceptance{Deliveries: []kapsel.Delivery{d}, Event: kapsel.Event{
		ID: id, TenantID: e.TenantID, EndpointID: e.ID, ReceivedAt: now, ContentType: contentType, Header: header, Body: []byte(body), Size: len(body),
		Query: "a=1&b=<b>", Signature: kapsel.SignatureVerdict{Scheme: "stripe", Valid: true, Skew: 240 * time.Millisecond},
	}})
	w.must(err)
	for _, a := range answers {
		held, _, err := w.store.Claim(w.ctx, node, time.Now(), []store.Want{{EndpointID: e.ID, Limit: 1}}, 1)
		w.must(err)
		was := held[0].Delivery
		done, err := was.After(kapsel.Answer{Status: a.status, Code: a.code, Retry: a.code != "" && a.code != kapsel.HTTPClientError, MaxAttempts: 3}, time.Now())
		w.must(err)
		text := ""
		if a.code != "" {
			text = "the destination did not do as it should <b>"
		}
		w.must(w.store.Complete(w.ctx, store.Completion{Delivery: done, Attempt: kapsel.Attempt{
			ID: was.Token, DeliveryID: was.ID, EventID: id, EndpointID: e.ID, TenantID: e.TenantID, Number: done.Attempts, StartedAt: time.Now().Add(-a.took), Duration: a.took,
			StatusCode: a.status, ErrorCode: a.code, Error: text, RequestHeaders: header, ResponseHeaders: a.header, ResponseBody: []byte(a.body),
		}}))
	}
	return id
}

// browser opens the pages of one origin.
type browser struct {
	*browsertest.Browser
	t   *testing.T
	own string // the origin of our pages
}

// valueOf returns the value of an expression in the page.
func valueOf[T any](b *browser, expression string) T {
	b.t.Helper()
	return browsertest.Value[T](b.Browser, expression)
}

// open opens a page and fails the test for what went wrong on it.
func (b *browser) open(path string) {
	b.t.Helper()
	b.Do(chromedp.Navigate(b.own + path))
	if pwn := valueOf[bool](b, `window.__pwn !== undefined || document.querySelector("main script, main img:not(.logo), main svg:not(.u-over):not(.drawn), base") !== null`); pwn {
		b.t.Errorf("%s: what a stranger wrote became a part of the page", path)
	}
	b.AllWell(path)
}

// accessible fails the test for serious findings of axe-core on the page that is open, and for a page that is
// wider than the window.
func (b *browser) accessible(axe, path string) {
	b.t.Helper()
	b.Do(chromedp.Evaluate[chromedp.Void](axe + ";undefined"))
	found := valueOf[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(" | ")))`)
	for _, f := range found {
		b.t.Errorf("%s: axe: %s", path, f)
	}
	b.fits(path)
}

// fits fails the test if the page that is open is wider than the window.
func (b *browser) fits(path string) {
	b.t.Helper()
	if wide := valueOf[int](b, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); wide > 0 {
		b.t.Errorf("%s: the page is %d pixels wider than the window", path, wide)
	}
}

// look is how a page is shown.
type look struct {
	width int64
	theme string
}

func (l look) String() string { return fmt.Sprint(l.width, "-", l.theme) }

// pageLooks returns how each page is tried: wide and light, narrow and dark. With KAPSEL_CHAOS=full, and for
// pictures, the other two looks follow.
func pageLooks() []look {
	all := []look{{1280, "light"}, {390, "dark"}, {1280, "dark"}, {390, "light"}}
	if os.Getenv("KAPSEL_CHAOS") == "full" || os.Getenv("KAPSEL_PICTURES") != "" {
		return all
	}
	return all[:2]
}

// TestPages_B121_S16 checks that no page, at two widths and in both themes, runs what a stranger wrote, asks
// for anything elsewhere, breaks its own policy, or keeps people from using it. With KAPSEL_PICTURES it
// leaves pictures of the pages in that directory.
func TestPages_B121_S16(t *testing.T) {
	w := newWorld(t)
	s := w.seed()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.pages.ServeHTTP(rw, r)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked += r.Method + " " + r.URL.Path + "\n"
	}))
	defer server.Close()
	defer w.pages.Stop()
	b := &browser{browsertest.Open(t, false, server.URL), t, server.URL}
	axe, err := os.ReadFile("testdata/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	pictures := os.Getenv("KAPSEL_PICTURES")
	keep := func(name string) {
		if pictures != "" {
			w.must(os.WriteFile(filepath.Join(pictures, name+".png"), b.Picture(), 0o644))
		}
	}
	b.Look(1280, "light")
	b.open("/sign-in")
	b.accessible(string(axe), "/sign-in")
	keep("sign-in")
	b.Do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.getElementById("key").value = %q; document.querySelector("main form").requestSubmit()`, adminKey)))
	b.WaitFor(`location.pathname === "/" && document.getElementById("overview-part") !== null`)

	tenant := "?tenant=" + s.tenant.ID.String()
	paths := []struct{ name, path string }{
		{"overview", "/"},
		{"events", "/events" + tenant},
		{"event", "/events/" + s.dead.String() + tenant},
		{"event-delivered", "/events/" + s.delivered.String() + tenant},
		{"event-attacked", "/events/" + s.attacked.String() + tenant},
		{"event-attacked-text", "/events/" + s.attacked.String() + tenant + "&as=text"},
		{"event-attacked-hex", "/events/" + s.attacked.String() + tenant + "&as=hex"},
		{"endpoints", "/endpoints" + tenant},
		{"endpoint", "/endpoints/" + s.failing.ID.String() + tenant},
		{"endpoint-attacked", "/endpoints/" + s.stranger.ID.String() + tenant},
		{"endpoint-edit", "/endpoints/" + s.stranger.ID.String() + "/edit" + tenant},
		{"endpoint-new", "/endpoints/new" + tenant},
		{"dead-letters", "/dead-letters" + tenant},
		{"replays", "/replays" + tenant},
		{"replay", "/replays/" + s.replay.String() + tenant},
		{"replay-new", "/replays/new" + tenant + "&since=1h&endpoint=" + s.failing.ID.String()},
		{"sources", "/sources" + tenant},
		{"source", "/sources/" + s.source.String() + tenant},
		{"event-types", "/event-types" + tenant},
		{"apps", "/apps" + tenant},
		{"tenants", "/tenants"},
		{"portal-logo", "/portal-logo" + tenant},
		{"keys", "/keys" + tenant},
		{"sessions", "/sessions"},
	}
	paths = append(paths, w.records(&s, tenant)...)
	paths = append(paths, w.forms(&s, tenant)...)
	all := pageLooks()
	for l, look := range all {
		b.Look(look.width, look.theme)
		for i, p := range paths {
			b.open(p.path)
			if where := p.path + " at " + look.String(); len(all) == 2 && (l+i)%2 == 1 { // seen by axe-core in the other look
				b.fits(where)
			} else {
				b.accessible(string(axe), where)
			}
			keep(p.name + "-" + look.String())
			if text := valueOf[string](b, `document.documentElement.outerHTML`); strings.Contains(text, "must-never-be-shown") {
				t.Errorf("%s shows a secret", p.path)
			}
		}
	}
	shown := valueOf[string](b, `fetch("/events/`+s.attacked.String()+`").then(r => r.text())`)
	for _, text := range []string{"\u202e", "\u200b", "\x1b", "\u2028"} {
		if strings.Contains(shown, text) {
			t.Errorf("the event's page has %q as it is", text)
		}
	}
	names := valueOf[[]string](b, `fetch("/events/`+s.attacked.String()+`/payload").then(async r => [r.headers.get("content-type"), r.headers.get("content-disposition"), r.headers.get("x-content-type-options"), await r.text()])`)
	if !slices.Equal(names[:3], []string{"application/octet-stream", `attachment; filename="` + s.attacked.String() + `"`, "nosniff"}) || !strings.Contains(names[3], `\u003cscript\u003e`) {
		t.Errorf("the download is %.300q", names)
	}
	b.fillForms(&s, string(axe), keep)
	b.liveUpdates(w, &s)
	b.visitPortal(w, &s, string(axe), keep)
}

// TestSignInPages_B121_S16 checks that the sign-in page, with the button of the single sign-on and as it
// refuses a key, runs nothing that a stranger wrote, asks for nothing elsewhere, and keeps nobody from using
// it, at two widths and in both themes.
func TestSignInPages_B121_S16(t *testing.T) {
	w, _ := newPeopleWorld(t)
	server := httptest.NewServer(w.pages)
	defer server.Close()
	b := &browser{browsertest.Open(t, false, server.URL), t, server.URL}
	axe, err := os.ReadFile("testdata/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, path string) {
		t.Helper()
		for _, look := range pageLooks() {
			b.Look(look.width, look.theme)
			if path != "" {
				b.open(path)
			}
			b.accessible(string(axe), name+" at "+look.String())
			if pictures := os.Getenv("KAPSEL_PICTURES"); pictures != "" {
				w.must(os.WriteFile(filepath.Join(pictures, name+"-"+look.String()+".png"), b.Picture(), 0o644))
			}
		}
	}
	check("sign-in-oidc", "/sign-in")
	if link := valueOf[string](b, `document.querySelector("main a.primary").textContent+" "+document.querySelector("main a.primary").getAttribute("href")`); link != "Sign in with Example <b> "+signOnPath {
		t.Errorf("the button is %q", link)
	}
	b.Do(chromedp.Evaluate[chromedp.Void](`document.getElementById("key").value = "no key"; document.querySelector("main form").requestSubmit()`))
	b.WaitFor(`document.getElementById("wrong") !== null`)
	b.Wrong() // the browser logs the status
	check("sign-in-refused", "")
	b.AllWell("the refusal")
}

// visitPortal checks the portal's pages as those of the dashboard, and that a site of a link, and no other,
// frames them.
func (b *browser) visitPortal(w *world, s *seeded, axe string, keep func(name string)) {
	b.t.Helper()
	c := w.customer(s.tenant, "embedded")
	rename := func(name, description string) {
		b.t.Helper()
		_, err := w.manage.UpdateEndpoint(w.ctx, w.admin, c.endpoint.ID, manage.EndpointChange{Edit: func(e *manage.EndpointSettings) error {
			e.Config.Name, e.Config.Description = name, description
			return nil
		}})
		w.must(err)
	}
	logo, alt := picture(b.t, 120, 40, color.RGBA{50, 80, 200, 255}), hostile[1]
	_, err := w.manage.SetPortalLogo(w.ctx, w.admin, s.tenant.ID, logo, alt)
	w.must(err)
	rename(strings.Join(hostile[:3], " "), strings.Join(hostile[3:7], " "))
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	held, _, err := w.store.Claim(w.ctx, node, time.Now(), []store.Want{{EndpointID: c.endpoint.ID, Limit: 1}}, 1)
	w.must(err)
	was := held[0].Delivery
	done, err := was.After(kapsel.Answer{Status: 400, Code: kapsel.HTTPClientError, MaxAttempts: 3}, time.Now())
	w.must(err)
	w.must(w.store.Complete(w.ctx, store.Completion{Delivery: done, Attempt: kapsel.Attempt{
		ID: was.Token, DeliveryID: was.ID, EventID: c.event, EndpointID: c.endpoint.ID, TenantID: s.tenant.ID, Number: 1, StartedAt: time.Now(), Duration: time.Second,
		StatusCode: 400, ErrorCode: kapsel.HTTPClientError, Error: hostile[0], ResponseBody: []byte(strings.Join(hostile, "\n")),
	}}))
	own := b.own
	link := func(sites ...string) string {
		b.t.Helper()
		_, text, err := w.manage.CreatePortalLink(w.ctx, w.admin, s.tenant.ID, kapsel.PortalLinkID{}, manage.PortalLinkSettings{App: &c.app.UID, Mode: kapsel.PortalManage, Sites: sites})
		w.must(err)
		_, path, _ := strings.Cut(text.Reveal(), "/portal/")
		return own + "/portal/" + path
	}
	b.Do(chromedp.Navigate(link()))
	b.WaitFor(`location.pathname === "/portal"`)
	for _, look := range pageLooks() {
		b.Look(look.width, look.theme)
		for name, path := range map[string]string{
			"portal": "/portal", "portal-new": "/portal/new", "portal-endpoint": "/portal/endpoints/" + c.endpoint.ID.String(),
			"portal-events": "/portal/events", "portal-event": "/portal/events/" + c.event.String(),
		} {
			b.open(path)
			if shown := valueOf[string](b, `(l => l.alt + " " + l.naturalWidth)(document.querySelector("header img.logo"))`); shown != alt+" 120" {
				b.t.Errorf("%s: the logo is shown as %q", path, shown)
			}
			b.accessible(axe, path+" at "+look.String())
			keep(name + "-" + look.String())
		}
	}

	rename("orders", "")
	var framed string
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<!DOCTYPE html><title>shop</title><h1>Webhooks</h1><iframe src=%q width="1000" height="700"></iframe>`, framed)
	}))
	defer site.Close()
	b.Look(1280, "light")
	b.Do(chromedp.Navigate("about:blank"))
	b.May("http://127.0.0.1:")
	b.Wrong()
	visits := func() int { return strings.Count(w.visited(), "GET /portal\n") }
	before := visits()
	framed = link(site.URL)
	b.Do(chromedp.Navigate(site.URL))
	b.Until("the portal opens in a frame", func() bool { return visits() > before })
	keep("portal-framed")
	b.AllWell("in a frame")
	framed = link("https://another.example")
	b.Do(chromedp.Navigate(site.URL))
	b.Until("a site that the link does not name is refused", func() bool {
		return slices.ContainsFunc(b.Wrong(), func(s string) bool { return strings.Contains(s, "frame-ancestors") })
	})
}

// liveUpdates checks that pages show what happens without being opened again.
func (b *browser) liveUpdates(w *world, s *seeded) {
	b.t.Helper()
	b.Look(1280, "light")
	b.open("/events?tenant=" + s.tenant.ID.String())
	b.WaitFor(`document.getElementById("live-state").textContent === "live"`)
	node := kapsel.NewNodeID(time.Now())
	w.must(w.store.Join(w.ctx, node, time.Now(), time.Hour))
	id := w.event(node, s.healthy, nil, "text/plain", hostile[0])
	b.WaitFor(fmt.Sprintf(`document.getElementById(%q) !== null`, id.String()))

	crowd := func(n int) {
		w.pages.live.mu.Lock()
		defer w.pages.live.mu.Unlock()
		w.pages.live.viewers += n
	}
	crowd(maxViewers)
	b.Do(chromedp.Navigate(b.own + "/"))
	b.WaitFor(`document.getElementById("live-state").textContent === "not live; trying again"`)
	crowd(-maxViewers)
	b.WaitFor(`document.getElementById("live-state").textContent === "live"`)
	b.Wrong() // the browser logs that it was refused

	b.open("/")
	b.WaitFor(`document.getElementById("live-state").textContent === "live"`)
	_, err := w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: s.healthy.ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: time.Now(), RetryAt: time.Now().Add(time.Hour)})
	w.must(err)
	w.must(w.cache.Load(w.ctx))
	b.WaitFor(`[...document.querySelectorAll(".attention li")].some(li => li.textContent.includes("billing") && li.textContent.includes("circuit open"))`)
	if pwn := valueOf[bool](b, `window.__pwn !== undefined`); pwn {
		b.t.Error("a live row ran what a stranger wrote")
	}
}
