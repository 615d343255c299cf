package dashboard

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// The portal is for the customers of a tenant. A link brings them; see kapsel.PortalLink. Its pages stand in
// a frame of the link's sites, or alone, and know nothing of the dashboard's sessions.

// The cookies of the portal's session. In a frame of another site browsers send only what is Secure, and
// Partitioned keeps the session to that site.
const (
	securePortalCookie = "__Host-kapsel-portal"
	plainPortalCookie  = "kapsel-portal"
)

// portalCookie returns the cookie of a portal's session for the origin of a request, or nil if there may be
// none.
func (d *Dashboard) portalCookie(r *http.Request) *http.Cookie {
	c := d.cookie(r)
	switch {
	case c == nil:
	case c.Secure:
		c.Name, c.SameSite, c.Partitioned = securePortalCookie, http.SameSiteNoneMode, true
	default:
		c.Name = plainPortalCookie
	}
	return c
}

// visit is what every page of the portal knows.
type visit struct {
	d      *Dashboard
	ctx    context.Context
	link   kapsel.PortalLink
	portal manage.Portal
	path   string
	query  url.Values
	form   url.Values
	params func(name string) string // of the path
	title  string
	logo   kapsel.PortalLogo // of the tenant, without its image; zero: none
}

// framedBy is the policy of a page that some sites may frame.
func framedBy(sites []string) string {
	if len(sites) == 0 {
		return policy
	}
	return strings.Replace(policy, "frame-ancestors 'none'", "frame-ancestors "+strings.Join(sites, " "), 1)
}

// frame lets some sites frame the answer.
func frame(w http.ResponseWriter, sites []string) {
	w.Header().Set("Content-Security-Policy", framedBy(sites))
	if len(sites) > 0 {
		w.Header().Del("X-Frame-Options") // which cannot name sites
	}
}

// portal registers the pages of the portal.
func (d *Dashboard) portal() {
	d.mux.HandleFunc("GET /portal/open/{link}", d.enterPortal)
	d.mux.HandleFunc("POST /portal/open/{link}", d.openPortal)
	d.visited("GET /portal", (*visit).endpoints)
	d.visited("GET /portal/new", (*visit).newEndpoint)
	d.visited("POST /portal/new", (*visit).create)
	d.visited("GET /portal/endpoints/{id}", (*visit).endpoint)
	d.visited("POST /portal/endpoints/{id}", (*visit).update)
	d.visited("POST /portal/endpoints/{id}/test", (*visit).test)
	d.visited("POST /portal/endpoints/{id}/{action}", (*visit).act)
	d.visited("GET /portal/events", (*visit).events)
	d.visited("GET /portal/events/{id}", (*visit).event)
	d.visited("POST /portal/events/{id}/send", (*visit).sendAgain)
	d.mux.HandleFunc("GET /portal/logo/{hash}", d.portalLogo)
	d.mux.HandleFunc("POST /portal/leave", d.leavePortal)
}

// enterPortal is the page that a link leads to. The token is in the URL's fragment, which only the page's
// script sees; the script posts it to openPortal.
func (d *Dashboard) enterPortal(w http.ResponseWriter, r *http.Request) {
	v := &visit{d: d, query: r.URL.Query(), title: textOpening}
	sites, err := d.sitesOf(r, r.PathValue("link"))
	if err != nil {
		d.failVisit(w, r, v, err)
		return
	}
	frame(w, sites)
	d.render(w, r, http.StatusOK, portalLayout(v, portalOpening(d.portalCookie(r) != nil)))
}

// sitesOf returns the sites that may frame the pages of the link that a request names.
func (d *Dashboard) sitesOf(r *http.Request, link string) ([]string, error) {
	id, err := kapsel.ParsePortalLinkID(link)
	if err != nil {
		return nil, nil
	}
	return d.Manage.PortalSites(r.Context(), id)
}

// openPortal makes the session of a link whose token was sent.
func (d *Dashboard) openPortal(w http.ResponseWriter, r *http.Request) {
	v := &visit{d: d, query: r.URL.Query()}
	sites, err := d.sitesOf(r, r.PathValue("link"))
	if err != nil {
		d.failVisit(w, r, v, err)
		return
	}
	frame(w, sites)
	id, _ := kapsel.ParsePortalLinkID(r.PathValue("link")) // the zero ID is no link's
	form, err := readForm(w, r)
	cookie := d.portalCookie(r)
	if err == nil && cookie == nil {
		err = kapsel.Errorf(kapsel.Forbidden, textPlainHTTP)
	}
	if err == nil {
		var session secret.Text
		var link kapsel.PortalLink
		if link, session, err = d.Guard.OpenPortal(r, id, form.Get("token")); err == nil {
			cookie.Value, cookie.MaxAge = link.ID.String()+"."+session.Reveal(), int(link.ExpiresAt.Sub(d.Clock()).Seconds())
			http.SetCookie(w, cookie)
			http.Redirect(w, r, "/portal", http.StatusSeeOther)
			return
		}
	}
	d.failVisit(w, r, v, err)
}

// leavePortal ends the session. The cookie goes with it, and stays when the session could not be ended, so
// that trying again ends it.
func (d *Dashboard) leavePortal(w http.ResponseWriter, r *http.Request) {
	v := &visit{d: d, query: url.Values{}}
	link, c, err := d.visitor(r)
	frame(w, link.Sites)
	if err == nil {
		err = d.Manage.Portal(c, link).Leave(r.Context())
	}
	ended := err == nil || errors.Is(err, access.ErrPortalEnded)
	if c := d.portalCookie(r); c != nil && ended {
		c.MaxAge = -1
		http.SetCookie(w, c)
	}
	if err != nil {
		d.failVisit(w, r, v, err)
		return
	}
	said := problem.New(r.Context(), access.ErrPortalEnded)
	v.title = said.Title
	d.render(w, r, http.StatusOK, portalLayout(v, portalError(v, said)))
}

// visitor returns the link of a request's session and the caller that it makes. The error is
// access.ErrPortalEnded if there is no session; then the link has nothing but the sites that may frame the
// page which says so, known by the link's ID in the cookie.
func (d *Dashboard) visitor(r *http.Request) (l kapsel.PortalLink, c access.Caller, err error) {
	kind := d.portalCookie(r)
	if kind == nil {
		return l, c, access.ErrPortalEnded
	}
	sent, err := r.Cookie(kind.Name)
	if err != nil {
		return l, c, access.ErrPortalEnded
	}
	id, session, _ := strings.Cut(sent.Value, ".")
	l, c, err = d.Guard.Portal(r, session)
	if errors.Is(err, access.ErrPortalEnded) {
		l, c = kapsel.PortalLink{}, access.Caller{}
		if sites, failed := d.sitesOf(r, id); failed == nil {
			l.Sites = sites
		}
	}
	return l, c, err
}

// errOtherVisit refuses a form of a visit when the browser has begun another one since: they share a cookie.
var errOtherVisit = kapsel.Errorf(kapsel.Conflict, textOtherVisit)

// visited registers a page of the portal, or what one of its forms does.
func (d *Dashboard) visited(pattern string, handle func(*visit) (result, error)) {
	d.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v := &visit{d: d, ctx: r.Context(), path: r.URL.Path, query: r.URL.Query(), params: r.PathValue}
		link, c, err := d.visitor(r)
		v.link, v.portal = link, d.Manage.Portal(c, link)
		frame(w, v.link.Sites)
		if err == nil {
			if v.logo, err = v.portal.Logo(v.ctx); kapsel.CodeOf(err) == kapsel.NotFound {
				err = nil
			}
		}
		if err == nil {
			err = checkText(v.query)
		}
		if err == nil && r.Method == http.MethodPost {
			if v.form, err = readForm(w, r); err == nil && v.form.Get("visit") != v.link.ID.String() {
				err = errOtherVisit
			}
		}
		var res result
		if err == nil {
			res, err = handle(v)
		}
		switch {
		case err != nil:
			d.failVisit(w, r, v, err)
		case res.goTo != "":
			http.Redirect(w, r, res.goTo, http.StatusSeeOther)
		default:
			d.render(w, r, max(res.status, http.StatusOK), portalLayout(v, res.show))
		}
	})
}

// failVisit answers with a page of the portal that says what went wrong.
func (d *Dashboard) failVisit(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	said := d.said(w, r, err)
	v.title = said.Title
	d.render(w, r, said.Status, portalLayout(v, portalError(v, said)))
}

// in reports whether the visitor's session is known.
func (v *visit) in() bool { return !v.link.ID.IsZero() }

// show returns a result that shows a component under a title.
func (v *visit) show(title string, c templ.Component) (result, error) {
	v.title = title
	return result{show: c}, nil
}

func (v *visit) endpoints() (result, error) {
	before, err := idIn(v.query, "before", kapsel.ParseEndpointID)
	if err != nil {
		return result{}, err
	}
	list, err := v.portal.Endpoints(v.ctx, store.Page[kapsel.EndpointID]{Before: before, Limit: perPage + 1})
	if err != nil {
		return result{}, err
	}
	list, next := more(list, func(e manage.Endpoint) string { return e.ID.String() })
	return v.show(textEndpoints, portalEndpoints(v, list, next))
}

// maxCatalogue is how many event types a form offers.
const maxCatalogue = 200

// catalogue returns the names of the event types that a customer may choose from.
func (v *visit) catalogue() (names []string, err error) {
	all, err := v.portal.Types(v.ctx, store.Page[kapsel.EventTypeID]{Limit: maxCatalogue})
	for _, t := range all {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return names, err
}

// settingsForm is the form of an endpoint's settings: what was entered, and what is wrong with it.
type settingsForm struct {
	manage.PortalEndpoint
	catalogue []string
	wrong     []kapsel.FieldError
}

// chosenType reports whether the form has an event type.
func (f settingsForm) chosenType(name string) bool { return slices.Contains(f.Types, name) }

// others returns the types of the form that are not in the catalogue, such as patterns.
func (f settingsForm) others() (names []string) {
	for _, t := range f.Types {
		if !slices.Contains(f.catalogue, t) {
			names = append(names, t)
		}
	}
	return names
}

// entered returns the settings that a form sent.
func (v *visit) entered() manage.PortalEndpoint {
	s := manage.PortalEndpoint{
		Name: strings.TrimSpace(v.form.Get("name")), Description: strings.TrimSpace(v.form.Get("description")), URL: strings.TrimSpace(v.form.Get("url")),
		Types: v.form["type"],
	}
	s.Types = append(s.Types, words(v.form.Get("types"))...)
	return s
}

func (v *visit) newEndpoint() (result, error) {
	if !v.portal.May() {
		return result{}, errNoPage
	}
	names, err := v.catalogue()
	if err != nil {
		return result{}, err
	}
	return v.show(textAddEndpoint, portalNew(v, settingsForm{catalogue: names}))
}

// again shows a form whose settings were refused; other errors are the page's.
func (v *visit) again(refused error, s manage.PortalEndpoint, page func(settingsForm) (result, error)) (result, error) {
	var wrong *kapsel.Error
	if !errors.As(refused, &wrong) || wrong.Code != kapsel.InvalidRequest && wrong.Code != kapsel.DestinationBlocked && wrong.Code != kapsel.Conflict {
		return result{}, refused
	}
	names, err := v.catalogue()
	if err != nil {
		return result{}, err
	}
	f := settingsForm{s, names, wrong.Fields}
	switch {
	case wrong.Code == kapsel.Conflict:
		f.wrong = []kapsel.FieldError{{Detail: wrong.Detail}}
	case len(f.wrong) == 0:
		f.wrong = []kapsel.FieldError{{Field: "url", Detail: wrong.Detail}}
	}
	res, err := page(f)
	res.status = http.StatusUnprocessableEntity
	return res, err
}

func (v *visit) create() (result, error) {
	s := v.entered()
	e, err := v.portal.CreateEndpoint(v.ctx, s)
	if err != nil {
		return v.again(err, s, func(f settingsForm) (result, error) { return v.show(textAddEndpoint, portalNew(v, f)) })
	}
	return v.show(e.Name, portalSecret(v, e))
}

// endpointID returns the endpoint that the path names.
func (v *visit) endpointID() (kapsel.EndpointID, error) {
	id, err := kapsel.ParseEndpointID(v.params("id"))
	if err != nil {
		err = store.NotFound("endpoint")
	}
	return id, err
}

func (v *visit) endpoint() (result, error) {
	id, err := v.endpointID()
	if err != nil {
		return result{}, err
	}
	e, err := v.portal.Endpoint(v.ctx, id)
	if err != nil {
		return result{}, err
	}
	names, err := v.catalogue()
	if err != nil {
		return result{}, err
	}
	s := manage.PortalEndpoint{Name: e.Name, Description: e.Description, URL: e.URL}
	s.Types, _ = manage.PublishedTypes(e.Subscriptions)
	return v.endpointPage(e, settingsForm{PortalEndpoint: s, catalogue: names})
}

func (v *visit) endpointPage(e manage.Endpoint, f settingsForm) (result, error) {
	latest, _, err := v.portal.Events(v.ctx, e.ID, "", store.Page[kapsel.EventID]{Limit: 10})
	if err != nil {
		return result{}, err
	}
	return v.show(e.Name, portalEndpoint(v, e, f, latest))
}

func (v *visit) update() (result, error) {
	id, err := v.endpointID()
	if err != nil {
		return result{}, err
	}
	s := v.entered()
	was, err := v.portal.Endpoint(v.ctx, id)
	if err != nil {
		return result{}, err
	}
	r := reading{form: v.form}
	if err = r.unchanged(was.Revision); err == nil {
		_, err = v.portal.UpdateEndpoint(v.ctx, id, s)
	}
	if err == nil {
		return result{goTo: "/portal/endpoints/" + id.String()}, nil
	}
	return v.again(err, s, func(f settingsForm) (result, error) {
		e, err := v.portal.Endpoint(v.ctx, id)
		if err != nil {
			return result{}, err
		}
		return v.endpointPage(e, f)
	})
}

func (v *visit) act() (result, error) {
	id, err := v.endpointID()
	if err != nil {
		return result{}, err
	}
	action := manage.PortalAction(v.params("action"))
	e, err := v.portal.Act(v.ctx, id, action)
	switch {
	case err != nil:
		return result{}, err
	case action == manage.PortalDelete:
		return result{goTo: "/portal"}, nil
	case action == manage.PortalRotate:
		return v.show(e.Name, portalSecret(v, e))
	}
	return result{goTo: "/portal/endpoints/" + id.String()}, nil
}

func (v *visit) test() (result, error) {
	id, err := v.endpointID()
	if err != nil {
		return result{}, err
	}
	r, err := v.portal.Test(v.ctx, id)
	return result{goTo: "/portal/events/" + r.Event.ID.String()}, err
}

func (v *visit) events() (result, error) {
	before, err := idIn(v.query, "before", kapsel.ParseEventID)
	if err != nil {
		return result{}, err
	}
	endpoint, err := idIn(v.query, "endpoint", kapsel.ParseEndpointID)
	if err != nil {
		return result{}, err
	}
	status := kapsel.EventStatus(v.query.Get("status"))
	if status != "" && !slices.Contains(portalStatuses, status) {
		return result{}, errNoPage
	}
	list, reached, err := v.portal.Events(v.ctx, endpoint, status, store.Page[kapsel.EventID]{Before: before, Limit: perPage + 1})
	if err != nil {
		return result{}, err
	}
	list, next := moreEvents(list, reached)
	return v.show(textEvents, portalEvents(v, list, status, next))
}

// portalStatuses are the statuses that customers filter by.
var portalStatuses = []kapsel.EventStatus{"pending", "delivered", "failed", "dead_letter"}

// maxAttemptsShown is how many attempts of a delivery a page shows.
const maxAttemptsShown = 50

func (v *visit) event() (result, error) {
	id, err := kapsel.ParseEventID(v.params("id"))
	if err != nil {
		return result{}, store.NotFound("event")
	}
	e, tried, err := v.portal.Tried(v.ctx, id, maxShown, maxAttemptsShown)
	if err != nil {
		return result{}, err
	}
	if e.Event.ErasedAt.IsZero() {
		full, err := v.portal.Payload(v.ctx, id)
		if err != nil {
			return result{}, err
		}
		e.Event.Body = full.Body
	}
	return v.show(textEvent, portalEvent(v, e, tried))
}

func (v *visit) sendAgain() (result, error) {
	id, err := kapsel.ParseEventID(v.params("id"))
	if err != nil {
		return result{}, store.NotFound("event")
	}
	endpoint, err := kapsel.ParseEndpointID(v.form.Get("endpoint"))
	if err != nil {
		return result{}, store.NotFound("endpoint")
	}
	_, err = v.portal.SendAgain(v.ctx, id, endpoint)
	return result{goTo: "/portal/events/" + id.String()}, err
}

// readable returns the beginning of a body as text that shows all of its characters.
func readable(body []byte) string {
	const most = 64 << 10
	text := strings.ToValidUTF8(string(body[:min(len(body), most)]), "\uFFFD")
	if len(body) > most {
		text += "…"
	}
	return visible(text)
}
