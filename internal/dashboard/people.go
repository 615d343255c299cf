package dashboard

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// SingleSignOn is where people sign in without a key. Its errors are access.Refusals.
type SingleSignOn interface {
	// Label returns what people call it.
	Label() string
	// Begin returns the URL to which a browser goes to sign in, and from which it comes back with state.
	Begin(ctx context.Context, state, nonce, verifier secret.Text, again bool) (string, error)
	// Finish returns the person who came back with parameters, whose state is right.
	Finish(ctx context.Context, query url.Values, nonce, verifier secret.Text) (access.Person, error)
}

// Where a sign-in without a key begins, and where it comes back to.
const (
	signOnPath   = "/sign-in/oidc"
	CallbackPath = signOnPath + "/callback"
)

// flowLife is how long a person may take at the provider.
const flowLife = 10 * time.Minute

// A flow is one sign-in at the provider. Its text is in a cookie of the browser that began it: random
// characters, when it began, and the page to go to afterwards. What goes to the provider is derived from
// the text with a secret of this instance, so every node knows it, nothing is kept here, a cookie with
// another text is worth nothing, and the cookie alone does not tell it.
type flow struct {
	began                  time.Time
	next                   string
	state, nonce, verifier secret.Text
}

// mostNext is how long a page's address may be to be returned to.
const mostNext = 1500

// newFlow returns the text of a new flow.
func newFlow(now time.Time, next string) string {
	var random [32]byte
	rand.Read(random[:])
	if len(next) > mostNext {
		next = "/"
	}
	code := base64.RawURLEncoding.EncodeToString
	return code(random[:]) + "." + strconv.FormatInt(now.Unix(), 10) + "." + code([]byte(next))
}

// flowOf returns the flow of a text.
func (d *Dashboard) flowOf(text string) (f flow, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return f, false
	}
	began, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return f, false
	}
	next, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return f, false
	}
	derive := d.Guard.Derive
	return flow{time.Unix(began, 0), nextPage(string(next)), derive("sign-on state", text), derive("sign-on nonce", text), derive("sign-on verifier", text)}, true
}

// used remembers the flows that came back, so that none does twice. A node knows its own ones; that a
// provider takes each code once holds for all.
type used struct {
	mu sync.Mutex
	at map[string]time.Time // by state; guarded by mu
}

// mostUsed is how many flows are remembered. Who sends more makes Kapsel forget, and providers do not.
const mostUsed = 10_000

// first reports whether a flow comes back for the first time.
func (u *used) first(f *flow, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	state := f.state.Reveal()
	if _, again := u.at[state]; again {
		return false
	}
	if len(u.at) >= mostUsed {
		for state, at := range u.at {
			if now.Sub(at) > flowLife {
				delete(u.at, state)
			}
		}
	}
	if u.at == nil || len(u.at) >= mostUsed {
		u.at = map[string]time.Time{}
	}
	u.at[state] = now
	return true
}

// onURL returns the URL at which a sign-in without a key begins.
func onURL(next string, again bool) templ.SafeURL {
	q := url.Values{}
	if next != "/" {
		q.Set("next", next)
	}
	if again {
		q.Set("as", "other")
	}
	if len(q) == 0 {
		return signOnPath
	}
	return templ.SafeURL(signOnPath + "?" + q.Encode())
}

// flowCookie returns the cookie of a flow for the origin of a request, or nil if there may be none.
func (d *Dashboard) flowCookie(r *http.Request) *http.Cookie {
	c := d.cookie(r) // Lax: browsers send it when the provider leads them back
	if c != nil {
		c.Name += "-sign-on"
	}
	return c
}

func (d *Dashboard) signOn() {
	if d.People == nil {
		return
	}
	d.mux.HandleFunc("GET "+signOnPath, d.beginSignOn)
	d.mux.HandleFunc("GET "+CallbackPath, d.finishSignOn)
}

// beginSignOn leads the browser to the provider.
func (d *Dashboard) beginSignOn(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	next, cookie := nextPage(q.Get("next")), d.flowCookie(r)
	if cookie == nil {
		d.showSignIn(w, r, http.StatusForbidden, next, "")
		return
	}
	// The provider leads back to the public URL, so the cookie must be that host's. Behind a proxy that
	// changes the host it looks like another one, so the browser is led there once.
	if public, err := url.Parse(d.PublicURL); err == nil && !strings.EqualFold(public.Host, r.Host) && q.Get("here") == "" {
		q.Set("here", "1")
		http.Redirect(w, r, d.PublicURL+signOnPath+"?"+q.Encode(), http.StatusSeeOther)
		return
	}
	cookie.Value = newFlow(d.Clock(), next)
	f, _ := d.flowOf(cookie.Value)
	to, err := d.People.Begin(r.Context(), f.state, f.nonce, f.verifier, q.Get("as") == "other")
	if err != nil {
		d.refuseSignOn(w, r, next, err)
		return
	}
	cookie.MaxAge = int(flowLife.Seconds())
	http.SetCookie(w, cookie)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// finishSignOn makes a session of the person whom the provider sent back.
func (d *Dashboard) finishSignOn(w http.ResponseWriter, r *http.Request) {
	cookie, kind := d.cookie(r), d.flowCookie(r)
	if cookie == nil {
		d.showSignIn(w, r, http.StatusForbidden, "/", "")
		return
	}
	sent, err := r.Cookie(kind.Name)
	if err != nil {
		d.refuseSignOn(w, r, "/", errNoFlow)
		return
	}
	kind.MaxAge = -1
	http.SetCookie(w, kind)
	q, now := r.URL.Query(), d.Clock()
	f, ok := d.flowOf(sent.Value)
	age := now.Sub(f.began)
	if !ok || len(q["state"]) != 1 || !hmac.Equal([]byte(q["state"][0]), []byte(f.state.Reveal())) || age > flowLife || age < -flowLife || !d.used.first(&f, now) {
		d.refuseSignOn(w, r, "/", errNoFlow)
		return
	}
	if err := d.Guard.MayTry(r); err != nil {
		d.refuseSignOn(w, r, f.next, err)
		return
	}
	person, err := d.People.Finish(r.Context(), q, f.nonce, f.verifier)
	if err != nil {
		if refusal := (*access.Refusal)(nil); errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized {
			d.Guard.Failed(r)
		}
		d.refuseSignOn(w, r, f.next, err)
		return
	}
	if err := d.leave(r); err != nil {
		d.fail(w, r, nil, err)
		return
	}
	s, token, err := d.Guard.SignInPerson(r, person)
	if err != nil {
		d.refuseSignOn(w, r, f.next, err)
		return
	}
	d.Log.InfoContext(r.Context(), "dashboard: a person signed in", "session_id", s.ID, "tenant_id", s.TenantID, "subject", s.Subject, "right", person.Right, "client", s.Address)
	enter(w, r, cookie, token, f.next)
}

// errNoFlow refuses a browser that comes from the provider without a flow of its own.
var errNoFlow = &access.Refusal{Status: http.StatusBadRequest, Text: "This sign-in did not begin in this browser, took longer than 10 minutes, or was used already. Begin again."}

// refuseSignOn shows the sign-in page with why somebody was not signed in.
func (d *Dashboard) refuseSignOn(w http.ResponseWriter, r *http.Request, next string, err error) {
	if refusal := (*access.Refusal)(nil); errors.As(err, &refusal) {
		d.showSignIn(w, r, refusal.Status, next, refusal.Text)
		return
	}
	if kapsel.CodeOf(err) == kapsel.RateLimited {
		said := problem.New(r.Context(), err)
		w.Header().Set("Retry-After", problem.RetryAfter(err, said.Status))
		d.showSignIn(w, r, said.Status, next, "Too many sign-ins from this address have failed. Try again later.")
		return
	}
	d.fail(w, r, nil, err)
}
