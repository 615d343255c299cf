package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// statuses are those of events, as the filter offers them.
var statuses = []string{"received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled", "unmatched"}

func (d *Dashboard) events() {
	d.get("/events", access.Read, func(p *page) (result, error) {
		if to, ok := eventNamed(p.query.Get("q")); ok {
			return result{goTo: string(p.link("/events/" + to))}, nil
		}
		f, err := eventFilter(p)
		if err != nil {
			return result{}, err
		}
		before, err := cursor(p, kapsel.ParseEventID)
		if err != nil {
			return result{}, err
		}
		live, err := d.liveEvents(p, f, before)
		if err != nil {
			return result{}, err
		}
		list, reached, err := d.Manage.ListEvents(p.ctx, p.caller, p.tenant, f, store.Page[kapsel.EventID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := moreEvents(list, reached)
		return p.show("/events", "Events", eventsPage(p, list, next, live))
	})
	d.get("/events/{id}", access.Read, func(p *page) (result, error) {
		id, err := kapsel.ParseEventID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		e, err := d.Manage.Event(p.ctx, p.caller, id)
		if err != nil {
			return result{}, err
		}
		if e.Event.ErasedAt.IsZero() {
			full, err := d.Manage.Payload(p.ctx, p.caller, id)
			if err != nil {
				return result{}, err
			}
			e.Event.Body = full.Body
		}
		v := eventView{EventDetail: e, shownAs: p.query.Get("as")}
		for i := len(e.Described) - 1; i >= 0 && len(v.deliveries) < maxShown; i-- {
			one := deliveryView{Delivery: e.Described[i]}
			if one.attempts, err = d.Manage.ListAttempts(p.ctx, p.caller, one.ID, max(0, one.Attempts-attemptsShown), attemptsShown); err != nil {
				return result{}, err
			}
			v.deliveries = append(v.deliveries, one)
		}
		if reasons, err := d.Manage.Why(p.ctx, p.caller, id); err == nil {
			if v.why, err = reasons.Page(store.Page[kapsel.EndpointID]{Limit: maxShown}); err != nil {
				return result{}, err
			}
		}
		return p.show("/events", "Event "+short(id.String()), eventPage(p, &v))
	})
	d.mux.HandleFunc("GET /events/{id}/payload", d.download)
	d.post("/events/{id}/replay", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseEventID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		var to *kapsel.EndpointID
		if text := p.form.Get("endpoint"); text != "" {
			endpoint, err := kapsel.ParseEndpointID(text)
			if err != nil {
				return result{}, errNoPage
			}
			to = &endpoint
		}
		_, err = d.Manage.ReplayEvent(p.ctx, p.caller, id, to)
		return result{goTo: string(p.link("/events/" + id.String()))}, err
	})
	d.post("/events/{id}/cancel", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseEventID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		_, err = d.Manage.CancelEvent(p.ctx, p.caller, id, kapsel.EndpointID{})
		return result{goTo: string(p.link("/events/" + id.String()))}, err
	})
	d.post("/deliveries/{id}/retry", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseDeliveryID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		moved, err := d.Manage.RetryDelivery(p.ctx, p.caller, id)
		return result{goTo: string(p.link("/events/" + moved.EventID.String()))}, err
	})
}

// Bounds of one event's page.
const (
	maxShown      = 20 // deliveries
	attemptsShown = 25 // attempts of each, the newest
)

// eventNamed returns the event that a search names by its id.
func eventNamed(q string) (string, bool) {
	q = strings.TrimSpace(q)
	_, err := kapsel.ParseEventID(q)
	return q, err == nil
}

// eventFilter returns the filter that a page's parameters say. Times are RFC 3339, or a duration before now.
func eventFilter(p *page) (f store.EventFilter, err error) {
	if f.EndpointID, err = filter(p, "endpoint", kapsel.ParseEndpointID); err != nil {
		return f, err
	}
	if f.SourceID, err = filter(p, "source", kapsel.ParseSourceID); err != nil {
		return f, err
	}
	if f.AppID, err = p.d.Manage.AppFilter(p.ctx, p.caller, manage.AppRef{Tenant: p.tenant, Ref: strings.TrimSpace(p.query.Get("app"))}); err != nil {
		return f, err
	}
	f.Type = strings.TrimSpace(p.query.Get("type"))
	f.Status = kapsel.EventStatus(p.query.Get("status"))
	if key := strings.TrimSpace(p.query.Get("q")); key != "" {
		f.IdempotencyKey = []byte(key)
	}
	if f.Since, err = when(p, "since"); err != nil {
		return f, err
	}
	f.Until, err = when(p, "until")
	return f, err
}

// when returns the time that a parameter says, zero where it is not given.
func when(p *page, name string) (time.Time, error) {
	text := strings.TrimSpace(p.query.Get(name))
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return p.now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, kapsel.Invalid(http.StatusBadRequest, kapsel.FieldError{Field: name, Detail: "must be a time such as 2026-01-02T15:04:05Z, or how long ago, such as 24h"})
	}
	return t, nil
}

// eventView is an event as its page shows it.
type eventView struct {
	manage.EventDetail
	deliveries []deliveryView // the newest first
	why        []manage.Reason
	shownAs    string // how the payload is shown
}

// deliveryView is a delivery with its attempts, the oldest first.
type deliveryView struct {
	manage.Delivery
	attempts []manage.Attempt
}

// isNewest reports whether an attempt is the delivery's last.
func (d *deliveryView) isNewest(a *attempt) bool { return a.Number == d.Attempts }

// endpointName returns what a delivery's endpoint is called.
func (d *deliveryView) endpointName() string {
	if d.Endpoint == nil {
		return "a deleted endpoint"
	}
	return d.Endpoint.Name
}

// reason returns why a delivery is where it is, in words, "" if there is nothing to say.
func (v *eventView) reason(d *deliveryView) string {
	for _, r := range v.why {
		if r.EndpointID == d.EndpointID && r.Delivery != nil && r.Delivery.ID == d.ID {
			return r.Words
		}
	}
	return ""
}

// unserved returns the reasons of endpoints that have no delivery of the event.
func (v *eventView) unserved() (list []manage.Reason) {
	for _, r := range v.why {
		if r.Delivery == nil {
			list = append(list, r)
		}
	}
	return list
}

// replayable reports whether a delivery can be repeated.
func (d *deliveryView) replayable() bool {
	return d.Status.Terminal() && d.ReplayedAs.IsZero() && d.Endpoint != nil
}

// waits reports whether any delivery of the event can be canceled.
func (v *eventView) waits() bool {
	for i := range v.deliveries {
		if v.deliveries[i].Status == kapsel.Pending {
			return true
		}
	}
	return v.Expanding
}

// download sends an event's body as a file. No browser shows it as a page.
func (d *Dashboard) download(w http.ResponseWriter, r *http.Request) {
	p, err := d.open(w, r, access.Read)
	if err == access.ErrSignedOut {
		toSignIn(w, r)
		return
	}
	if err == nil {
		var id kapsel.EventID
		if id, err = kapsel.ParseEventID(r.PathValue("id")); err != nil {
			err = errNoPage
		} else {
			var e kapsel.Event
			if e, err = d.Manage.Payload(p.ctx, p.caller, id); err == nil {
				w.Header().Set("Content-Type", "application/octet-stream")
				w.Header().Set("Content-Disposition", `attachment; filename="`+id.String()+`"`)
				_, _ = w.Write(e.Body) // who has gone away misses nothing
				return
			}
		}
	}
	d.fail(w, r, p, err)
}

// shownHeader returns a header's fields as pages show them: values that may be credentials redacted, and all
// of it text.
func shownHeader(h kapsel.Header) []field {
	list := make([]field, len(h))
	for i, f := range h {
		if secret.InHeader(f.Name) {
			f.Value = secret.Redacted
		}
		list[i] = field{Name: visible(strings.ToValidUTF8(f.Name, "\uFFFD")), Value: visible(strings.ToValidUTF8(f.Value, "\uFFFD"))}
	}
	return list
}

// field is a header field as it is shown.
type field = kapsel.HeaderField

// shownKey returns an idempotency key as a page shows it.
func shownKey(key []byte) string {
	if !utf8.Valid(key) {
		return fmt.Sprintf("sha256:%x", key)
	}
	return visible(string(key))
}

// outcome returns what came of an attempt, in a few words.
func outcome(a *manage.Attempt) string {
	switch {
	case a.ErrorCode == "":
		return fmt.Sprintf("answered %d", a.StatusCode)
	case a.StatusCode != 0:
		return fmt.Sprintf("answered %d", a.StatusCode)
	}
	return cause(0, a.ErrorCode)
}

// causes are the codes of failed attempts in words.
var causes = map[kapsel.Code]string{
	kapsel.ConnectionRefused: "connection refused", kapsel.ConnectionTimeout: "no answer in time", kapsel.HTTPClientError: "refused by the destination (3xx, 4xx)",
	kapsel.HTTPServerError: "error of the destination (5xx)", kapsel.CircuitOpen: "circuit open", kapsel.TLSError: "TLS failed", kapsel.DNSError: "the name was not found",
	kapsel.BadResponse: "no valid HTTP, or the connection was lost", kapsel.DialBlocked: "blocked: a private address", kapsel.OutcomeUnknown: "outcome unknown: the node died meanwhile",
}

// cause returns why a delivery's last attempt failed, in words.
func cause(status int, code kapsel.Code) string {
	if status != 0 && code != "" {
		return fmt.Sprintf("answered %d", status)
	}
	if words := causes[code]; words != "" {
		return words
	}
	if code == "" {
		return "–"
	}
	return strings.ToLower(strings.ReplaceAll(code.Name(), "_", " "))
}

// verdict returns what the signature check said.
func verdict(s kapsel.SignatureVerdict) string {
	switch {
	case s.Scheme == "" || s.Scheme == "none":
		return "not checked"
	case s.Valid:
		return s.Scheme + ": valid"
	}
	return s.Scheme + ": not valid"
}

// origin returns where an event came in, and the page of that; "" without one.
func (p *page) origin(e *kapsel.Event) (what, to string) {
	switch {
	case !e.EndpointID.IsZero():
		return e.EndpointID.String(), string(p.link("/endpoints/" + e.EndpointID.String()))
	case !e.SourceID.IsZero():
		return e.SourceID.String(), string(p.link("/sources/" + e.SourceID.String()))
	}
	return "published", ""
}

// curl returns a command that sends an event's body to an URL again, for a shell. It carries the content
// type and none of the event's other headers, which may be credentials. A body with characters that a reader
// would not see is not part of the command.
func curl(e *kapsel.Event, url string) string {
	if !typed(e.Body) {
		return fmt.Sprintf("# download the payload as %s first\ncurl -sS -H %s --data-binary %s %s", e.ID, quoted("Content-Type: "+e.ContentType), quoted("@"+e.ID.String()), quoted(url))
	}
	// curl reads a value that begins with @ from a file.
	return fmt.Sprintf("printf %%s %s | curl -sS -H %s --data-binary @- %s", quoted(string(e.Body)), quoted("Content-Type: "+e.ContentType), quoted(url))
}

// typed reports whether a body can be part of a command that a person reads.
func typed(body []byte) bool {
	return len(body) <= maxCurl && utf8.Valid(body) && visible(string(body)) == string(body)
}

// maxCurl is the size, in bytes, of the largest body that a command shows in full.
const maxCurl = 16 << 10

// quoted returns a text as one word of a POSIX shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// attempt is an attempt as the pages show it.
type attempt = manage.Attempt

// attemptTone returns how an attempt is coloured.
func attemptTone(a *attempt) string {
	switch a.ErrorCode {
	case "":
		return "ok"
	case kapsel.OutcomeUnknown:
		return "wait"
	}
	return "bad"
}

// ended returns how a delivery ended.
func ended(s kapsel.DeliveryStatus) string {
	return map[kapsel.DeliveryStatus]string{kapsel.Delivered: "Delivered", kapsel.Failed: "Refused", kapsel.DeadLetter: "Given up", kapsel.Canceled: "Canceled"}[s]
}

// earlier says to which side of our time a signed time was.
func earlier(skew time.Duration) string {
	if skew < 0 {
		return "in the future"
	}
	return "before it came in"
}

func deliveriesTitle(n int) string {
	if n == 1 {
		return "1 delivery"
	}
	return count(n) + " deliveries"
}

// lastFailure returns why the first delivery of an event that has not arrived failed last.
func lastFailure(r *store.EventRecord) string {
	for _, d := range r.Newest() {
		if d.LastErrorCode != "" && d.Status != kapsel.Delivered {
			return cause(d.LastStatusCode, d.LastErrorCode)
		}
	}
	return ""
}

// answerText returns what a destination answered, as text, or in hexadecimal where it is none.
func answerText(body []byte) string {
	if !utf8.Valid(body) {
		return hexText(body)
	}
	return plainText(body)
}

// withoutQuery returns a destination's URL without what may hold a credential.
func withoutQuery(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "https://destination.example/"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// erasedAt returns a time as the page of an erased event has it.
func erasedAt(t time.Time) string { return t.UTC().Format(time.RFC3339) }
