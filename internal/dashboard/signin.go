package dashboard

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// The cookie of a session. Browsers take one with the prefix __Host- only over TLS, for this host alone, and
// for all of its paths. Over plain HTTP to the reader's own machine, the only place where that is allowed,
// the cookie goes without the prefix.
const (
	secureCookie = "__Host-kapsel"
	plainCookie  = "kapsel"
)

// cookie returns the cookie of a session for the origin of a request, or nil if there may be none.
func (d *Dashboard) cookie(r *http.Request) *http.Cookie {
	c := &http.Cookie{Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	switch {
	case d.HTTPS || r.TLS != nil:
		c.Name, c.Secure = secureCookie, true
	case isLoopback(r.Host):
		c.Name = plainCookie
	default:
		return nil
	}
	return c
}

// isLoopback reports whether a Host header names the browser's own machine, so that what the browser
// sends passes no network. A browser always sends the host of the page's address.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

// signedIn returns the session of a request and who has it. The error is access.ErrSignedOut if there is
// none. A key in a header counts for nothing here: programs use the API.
func (d *Dashboard) signedIn(r *http.Request) (s kapsel.Session, c access.Caller, err error) {
	kind := d.cookie(r)
	if kind == nil {
		return s, c, access.ErrSignedOut
	}
	sent, err := r.Cookie(kind.Name)
	if err != nil {
		return s, c, access.ErrSignedOut
	}
	byItself := strings.HasPrefix(r.URL.Path, "/live/") || r.Header.Get("HX-Request") != ""
	if s, c, err = d.Guard.Session(r, sent.Value, !byItself); err == nil {
		c.Actor.Client = d.Guard.Client(r)
	}
	return s, c, err
}

// toSignIn leads to the sign-in page, and from there back to the page that was asked for.
func toSignIn(w http.ResponseWriter, r *http.Request) {
	to := "/sign-in"
	if r.Method == http.MethodGet && r.URL.Path != "/" {
		to += "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// nextPage returns the page to go to after the sign-in: a path of ours, or the first page.
func nextPage(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") || !Serves(http.MethodGet, u.Path) {
		return "/"
	}
	return next
}

func (d *Dashboard) signIn() {
	d.mux.HandleFunc("GET /sign-in", func(w http.ResponseWriter, r *http.Request) {
		next := nextPage(r.URL.Query().Get("next"))
		if _, _, err := d.signedIn(r); err == nil {
			http.Redirect(w, r, next, http.StatusSeeOther)
			return
		}
		d.showSignIn(w, r, http.StatusOK, next, "")
	})
	d.mux.HandleFunc("POST /sign-in", d.tryKey)
	d.mux.HandleFunc("POST /sign-out", func(w http.ResponseWriter, r *http.Request) {
		switch s, c, err := d.signedIn(r); {
		case err == nil:
			if err := d.Guard.SignOut(r.Context(), s, c); err != nil {
				d.fail(w, r, nil, err)
				return
			}
		case err != access.ErrSignedOut:
			d.fail(w, r, nil, err)
			return
		}
		d.forget(w, r)
		http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
	})
}

// tryKey makes a session of a key that a person entered. Nothing tells a key that is missing from one that
// is wrong, revoked or expired.
func (d *Dashboard) tryKey(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(w, r)
	if err != nil {
		d.fail(w, r, nil, err)
		return
	}
	next, cookie := nextPage(form.Get("next")), d.cookie(r)
	if cookie == nil {
		d.showSignIn(w, r, http.StatusForbidden, next, "")
		return
	}
	if err := d.leave(r); err != nil {
		d.fail(w, r, nil, err)
		return
	}
	_, token, err := d.Guard.SignIn(r, strings.TrimSpace(form.Get("key")))
	if err != nil {
		said := problem.New(r.Context(), err)
		text := said.Detail
		if kapsel.CodeOf(err) == kapsel.Unauthorized {
			text = "This is no key that is valid here. Keys of a tenant begin with kap_; the admin key is in KAPSEL_ADMIN_KEY, or in the file admin.key beside the database."
		}
		if after := problem.RetryAfter(err, said.Status); after != "" {
			w.Header().Set("Retry-After", after)
		}
		d.showSignIn(w, r, said.Status, next, text)
		return
	}
	enter(w, r, cookie, token, next)
}

// leave ends the session of a request, if there is one: a session is never taken over by another key or
// person.
func (d *Dashboard) leave(r *http.Request) error {
	old, c, err := d.signedIn(r)
	if err != nil {
		return nil
	}
	return d.Guard.SignOut(r.Context(), old, c)
}

// enter gives a browser the cookie of a session that has begun, and leads it to a page.
func enter(w http.ResponseWriter, r *http.Request, cookie *http.Cookie, token secret.Text, next string) {
	cookie.Value, cookie.MaxAge = token.Reveal(), int(kapsel.SessionLife.Seconds())
	http.SetCookie(w, cookie)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (d *Dashboard) showSignIn(w http.ResponseWriter, r *http.Request, status int, next, wrong string) {
	again := status == http.StatusForbidden && wrong != "" // the provider knows somebody, who may do nothing here
	p := &page{d: d, query: url.Values{}, path: "/sign-in", title: "Sign in"}
	d.render(w, r, status, layout(p, signInPage(p, next, wrong, d.cookie(r) != nil, again)))
}

// forget takes the session's cookie away.
func (d *Dashboard) forget(w http.ResponseWriter, r *http.Request) {
	if c := d.cookie(r); c != nil {
		c.MaxAge = -1
		http.SetCookie(w, c)
	}
}

func (d *Dashboard) sessions() {
	d.get("/sessions", access.Read, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseSessionID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListSessions(p.ctx, p.caller, p.tenant, store.Page[kapsel.SessionID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, older := more(list, func(s kapsel.Session) string { return s.ID.String() })
		return p.show("/sessions", "Sessions", sessionsPage(p, list, older))
	})
	d.post("/sessions/end-all", access.Read, func(p *page) (result, error) {
		return result{goTo: "/sign-in"}, d.Manage.SignOutEverywhere(p.ctx, p.caller)
	})
	d.post("/sessions/{id}/end", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseSessionID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		return result{goTo: string(p.link("/sessions"))}, d.Manage.DeleteSession(p.ctx, p.caller, id)
	})
}

// keyed says in words which key a session was made with, or who signed in without one.
func keyed(s *kapsel.Session) string {
	switch {
	case s.Subject != "":
		return s.Name
	case s.TenantID.IsZero():
		return "the admin key"
	}
	return s.KeyID.String()
}

// mayDo says in words what a person who signed in without a key may do.
func mayDo(s *kapsel.Session) string {
	switch {
	case s.TenantID.IsZero():
		return "as the operator"
	case s.Scope == kapsel.ScopeWrite:
		return "may change things"
	}
	return "may only read"
}
