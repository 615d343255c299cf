// Package dashboard is the pages of Kapsel: what people see and do in a browser. It translates between
// HTTP and the use cases of package manage, and decides nothing itself.
//
// A page is a file that reads from top to bottom: its routes, what it asks for, and what it shows, the
// latter as a template (templ) of the same name. Pages are complete without scripts; scripts keep them
// up to date, show times in the reader's zone, and draw charts. All files are in the binary, and a page
// asks for nothing from anywhere else.
//
// What destinations answer, and payloads, headers and names are what strangers wrote. Templates escape
// them, no page interprets them, and raw bytes leave as attachments only.
package dashboard

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/store"
)

//go:generate go run ./internal/gen

// Config is what the pages work with. Fields without "may be nil" are needed.
type Config struct {
	Manage *manage.Manager // does what is asked
	Guard  *access.Guard   // says who asks, and keeps the sessions
	Clock  func() time.Time
	Log    *slog.Logger

	// People signs in people who have no key; nil: nobody does.
	People SingleSignOn
	// PublicURL is where browsers reach the pages, without a slash at the end. It is needed with People.
	PublicURL string
	// HTTPS says that browsers reach the pages by TLS, whoever ends it.
	HTTPS bool
	// Dev says that the instance is one of --dev.
	Dev bool
	// Version is Kapsel's, for the foot of the pages.
	Version string
}

// Dashboard serves the pages. It is safe for concurrent use.
type Dashboard struct {
	Config
	mux     *http.ServeMux
	live    live
	used    used
	origins *http.CrossOriginProtection
	stopped chan struct{}
	stop    sync.Once
}

// pages are the first parts of the paths that New's handler has pages for; "" is the path /.
var pages = map[string]bool{
	"": true, "static": true, "live": true, "sign-in": true, "sign-out": true, "sessions": true,
	"events": true, "deliveries": true, "endpoints": true, "dead-letters": true, "replays": true, "sources": true, "event-types": true, "apps": true, "tenants": true, "keys": true, "portal": true,
	"changes": true, "usage": true, "undelivered": true, "subscriptions": true, "attempts": true,
	"portal-logo": true, "providers": true, "event-type": true,
}

// Serves reports whether a path may have a page. No form is posted to /.
func Serves(method, p string) bool {
	if p == "/" {
		return method == http.MethodGet || method == http.MethodHead
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return first != "" && pages[first]
}

// New returns the pages' handler. Callers must call Stop before they wait for requests to end.
func New(cfg Config) *Dashboard {
	d := &Dashboard{Config: cfg, mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(), stopped: make(chan struct{})}
	d.live = live{d: d, views: map[kapsel.TenantID]*view{}, tenants: map[kapsel.TenantID]int{}, sessions: map[kapsel.SessionID]*viewing{}, lists: map[listOf]*liveRows{}}
	d.static()
	d.streams()
	d.signIn()
	d.signOn()
	d.sessions()
	d.overview()
	d.events()
	d.endpoints()
	d.endpointForms()
	d.guides()
	d.replays()
	d.catalogue()
	d.sourceForms()
	d.eventTypeForms()
	d.appForms()
	d.administration()
	d.changes()
	d.usage()
	d.undelivered()
	d.drawing()
	d.diffs()
	d.proofs()
	d.portal()
	d.logoPages()
	return d
}

// Stop ends all streams to browsers, which then look for another node.
func (d *Dashboard) Stop() { d.stop.Do(func() { close(d.stopped) }) }

// policy is what browsers let a page do: nothing but to use Kapsel's own files and paths. Forms and scripts
// inside the page's text, and other sites that frame the page, do nothing.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// ServeHTTP answers a request with a page.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if problem.RequestID(r.Context()) == "" {
		r = r.WithContext(problem.WithRequestID(r.Context(), problem.NewRequestID()))
	}
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		d.Log.ErrorContext(r.Context(), "dashboard: panic", "panic", p, "stack", string(debug.Stack()), "request_id", problem.RequestID(r.Context()))
		d.fail(w, r, nil, errPanic)
	}()
	if err := d.ownOrigin(r); err != nil {
		d.fail(w, r, nil, err)
		return
	}
	if _, pattern := d.mux.Handler(r); pattern == "" || r.URL.Path != path.Clean(r.URL.Path) {
		d.fail(w, r, nil, errNoPage)
		return
	}
	d.mux.ServeHTTP(w, r)
}

var (
	errPanic     = errors.New("a panic") // shown as a bug, of which a page says nothing
	errNoTenant  = kapsel.Errorf(kapsel.NotFound, "there is no such tenant")
	errForeign   = kapsel.Errorf(kapsel.Forbidden, "another site sent this request; open the page again and repeat what you did")
	errTooMuch   = &kapsel.Error{Code: kapsel.PayloadTooLarge, Status: http.StatusRequestEntityTooLarge, Detail: "the form is too large"}
	errForm      = kapsel.Invalid(http.StatusBadRequest, kapsel.FieldError{Field: "form", Detail: "cannot be read"})
	errText      = kapsel.Invalid(http.StatusBadRequest, kapsel.FieldError{Field: "request", Detail: "must be UTF-8 without NUL"})
	errMediaType = &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusUnsupportedMediaType, Detail: "send the form as application/x-www-form-urlencoded"}
)

// ownOrigin refuses a request that changes something and does not come from a page of this origin. Unlike
// http.CrossOriginProtection it also refuses one of which no header says where it comes from: what calls
// Kapsel without a browser uses the API.
func (d *Dashboard) ownOrigin(r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return errForeign
	}
	if d.origins.Check(r) != nil {
		return errForeign
	}
	return nil
}

//go:embed static
var static embed.FS

// static serves the files that pages use. A page names a file with its version, so browsers may keep it.
func (d *Dashboard) static() {
	files := http.FileServerFS(static)
	d.mux.HandleFunc("GET /static/{file}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := fs.Stat(static, "static/"+r.PathValue("file")); err != nil {
			d.fail(w, r, nil, errNoPage)
			return
		}
		if r.URL.Query().Get("v") == staticVersion {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		files.ServeHTTP(w, r)
	})
}

// page is what every page knows: who looks, at which tenant, and where the page is.
type page struct {
	d       *Dashboard
	ctx     context.Context
	caller  access.Caller
	session kapsel.Session
	tenant  kapsel.TenantID // whose objects are shown; zero: all tenants'
	tenants []kapsel.Tenant // that the admin may choose
	path    string
	query   url.Values
	form    url.Values
	files   map[string][]*multipart.FileHeader // that the form sent
	params  func(name string) string           // of the path
	now     time.Time
	title   string
	section string // the path of the navigation's entry that the page belongs to
}

// result is what a page's handler returns: something to show, or where to go on.
type result struct {
	show   templ.Component
	goTo   string // with the method GET
	status int    // 0: 200
}

// get registers a page. The handler reads only.
func (d *Dashboard) get(pattern string, need access.Right, handle func(*page) (result, error)) {
	d.mux.HandleFunc("GET "+pattern, d.handler(need, handle))
}

// post registers what a form does. The handler goes on to a page.
func (d *Dashboard) post(pattern string, need access.Right, handle func(*page) (result, error)) {
	d.mux.HandleFunc("POST "+pattern, d.handler(need, handle))
}

// chosen is how many tenants the admin may choose from at the head of the pages, beside the one that is shown.
const chosen = 200

func (d *Dashboard) handler(need access.Right, handle func(*page) (result, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := d.open(w, r, need)
		if errors.Is(err, access.ErrSignedOut) {
			toSignIn(w, r)
			return
		}
		var res result
		if err == nil {
			res, err = handle(p)
		}
		if err != nil {
			d.fail(w, r, p, err)
			return
		}
		if res.goTo != "" {
			http.Redirect(w, r, res.goTo, http.StatusSeeOther)
			return
		}
		d.render(w, r, max(res.status, http.StatusOK), layout(p, res.show))
	}
}

// open returns the page of a request, once it is known who looks and what was sent.
func (d *Dashboard) open(w http.ResponseWriter, r *http.Request, need access.Right) (*page, error) {
	session, caller, err := d.signedIn(r)
	if err != nil {
		return nil, err
	}
	p := &page{d: d, ctx: r.Context(), caller: caller, session: session, path: r.URL.Path, query: r.URL.Query(), params: r.PathValue, now: d.Clock(), tenant: caller.Tenant}
	if err := checkText(p.query); err != nil {
		return p, err
	}
	if r.Method == http.MethodPost {
		if p.form, err = readForm(w, r); err != nil {
			return p, err
		}
		if r.MultipartForm != nil {
			p.files = r.MultipartForm.File
		}
	}
	if caller.IsAdmin() {
		if p.tenants, err = d.Manage.ListTenants(r.Context(), caller, store.Page[kapsel.TenantID]{Limit: chosen}); err != nil {
			return p, err
		}
		if text := p.query.Get("tenant"); text != "" {
			if err = p.choose(text); err != nil {
				return p, err
			}
		}
	}
	return p, caller.Check(need)
}

// choose shows the objects of the tenant with an ID. The error is NotFound if there is none.
func (p *page) choose(text string) error {
	id, err := kapsel.ParseTenantID(text)
	if err != nil {
		return errNoTenant
	}
	if !slices.ContainsFunc(p.tenants, func(t kapsel.Tenant) bool { return t.ID == id }) {
		t, err := p.d.Manage.Tenant(p.ctx, p.caller, id)
		if kapsel.CodeOf(err) == kapsel.NotFound {
			return errNoTenant
		}
		if err != nil {
			return err
		}
		p.tenants = append(p.tenants, t)
	}
	p.tenant = id
	return nil
}

// maxForm is how many bytes a form may have.
const maxForm = 256 << 10

// readForm returns what a form sent.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	kind = strings.TrimSpace(kind)
	parse := r.ParseForm
	switch {
	case kind == "multipart/form-data": // it has a file
		parse = func() error { return r.ParseMultipartForm(maxForm) } // all of it stays in memory
	case kind != "application/x-www-form-urlencoded" && r.ContentLength != 0:
		return nil, errMediaType
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	var large *http.MaxBytesError
	switch err := parse(); {
	case errors.As(err, &large):
		return nil, errTooMuch
	case err != nil:
		return nil, errForm
	}
	return r.PostForm, checkText(r.PostForm)
}

// checkText refuses values that no store can keep or compare as text.
func checkText(values url.Values) error {
	for name, all := range values {
		if !kapsel.IsText(name) || slices.ContainsFunc(all, func(v string) bool { return !kapsel.IsText(v) }) {
			return errText
		}
	}
	return nil
}

// render writes a component. It is complete before the first byte goes out, so that a failure is an error
// page and not half of one.
func (d *Dashboard) render(w http.ResponseWriter, r *http.Request, status int, c templ.Component) {
	var b bytes.Buffer
	if err := c.Render(r.Context(), &b); err != nil {
		if r.Context().Err() == nil { // else the reader has gone away
			d.Log.ErrorContext(r.Context(), "dashboard: write a page", "path", r.URL.Path, "error", err)
		}
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // who has gone away misses nothing
	}
}

// said returns what a page says of an error. A bug it only logs, and not if the reader has gone away, because
// that may be its only cause.
func (d *Dashboard) said(w http.ResponseWriter, r *http.Request, err error) problem.Document {
	said := problem.New(r.Context(), err)
	if said.Code == "" && r.Context().Err() == nil {
		d.Log.ErrorContext(r.Context(), "dashboard: a page failed", "path", r.URL.Path, "error", err, "request_id", said.RequestID)
	}
	if after := problem.RetryAfter(err, said.Status); after != "" {
		w.Header().Set("Retry-After", after)
	}
	return said
}

// fail answers with a page that says what went wrong. p is nil where nobody is signed in.
func (d *Dashboard) fail(w http.ResponseWriter, r *http.Request, p *page, err error) {
	said := d.said(w, r, err)
	if p == nil {
		p = &page{d: d, query: url.Values{}}
	}
	p.title = said.Title
	d.render(w, r, said.Status, layout(p, errorPage(said)))
}

// link returns the URL of a page for the tenant that is shown, with parameters as name and value in turn.
// A parameter without a value is left out.
func (p *page) link(to string, params ...string) templ.SafeURL {
	q := url.Values{}
	if p.caller.IsAdmin() && !p.tenant.IsZero() {
		q.Set("tenant", p.tenant.String())
	}
	for i := 0; i+1 < len(params); i += 2 {
		if params[i+1] != "" {
			q.Set(params[i], params[i+1])
		} else {
			q.Del(params[i])
		}
	}
	if len(q) == 0 {
		return templ.SafeURL(to)
	}
	return templ.SafeURL(to + "?" + q.Encode())
}

// here returns the URL of this page with some parameters changed, as link does.
func (p *page) here(params ...string) templ.SafeURL {
	all := []string{}
	for name := range p.query {
		all = append(all, name, p.query.Get(name))
	}
	return p.link(p.path, append(all, params...)...)
}

// show returns a result that shows a component under a title.
func (p *page) show(section, title string, c templ.Component) (result, error) {
	p.section, p.title = section, title
	return result{show: c}, nil
}

// may reports whether the reader may change things.
func (p *page) may() bool { return p.caller.May(access.Write) }
