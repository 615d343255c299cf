package dashboard

import (
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// previewed is how many deliveries the page before a replay counts unless it is asked to count all.
const previewed = 500

// counted says how many things there are, or that there are more.
func counted(n int, more bool, noun string) string {
	if more {
		return "at least " + plural(n, noun)
	}
	return plural(n, noun)
}

// allOr returns a number, or "all" if there are more.
func allOr(n int, more bool) string {
	if more {
		return "all"
	}
	return count(n)
}

func (d *Dashboard) replays() {
	d.get("/dead-letters", access.Read, func(p *page) (result, error) {
		v, err := d.deadLetters(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/dead-letters", "Dead letters", deadLettersPage(p, v))
	})
	d.post("/dead-letters/replay", access.Write, d.replaySelected)
	d.get("/replays", access.Read, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseReplayID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListReplays(p.ctx, p.caller, p.tenant, store.Page[kapsel.ReplayID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(r kapsel.Replay) string { return r.ID.String() })
		return p.show("/replays", "Replays", replaysPage(p, list, next))
	})
	d.get("/replays/new", access.Write, func(p *page) (result, error) {
		in, err := replayRequest(p, p.query.Get)
		if err != nil {
			return result{}, err
		}
		if in.Until.IsZero() { // what comes in between the look and the replay is not part of it
			in.Until = p.now
		}
		atMost := previewed
		if p.query.Get("count") == "all" {
			atMost = kapsel.MaxReplay
		}
		preview, err := d.Manage.PreviewReplay(p.ctx, p.caller, p.tenant, in, atMost)
		if err != nil {
			return result{}, err
		}
		return p.show("/replays", "Replay", newReplayPage(p, &in, &preview, preview.Count > atMost))
	})
	d.post("/replays", access.Write, func(p *page) (result, error) {
		in, err := replayRequest(p, p.form.Get)
		if err != nil {
			return result{}, err
		}
		r, err := d.Manage.CreateReplay(p.ctx, p.caller, p.tenant, kapsel.ReplayID{}, in)
		return result{goTo: string(p.link("/replays/" + r.ID.String()))}, err
	})
	d.get("/replays/{id}", access.Read, func(p *page) (result, error) {
		id, err := kapsel.ParseReplayID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		r, err := d.Manage.Replay(p.ctx, p.caller, id)
		if err != nil {
			return result{}, err
		}
		return p.show("/replays", "Replay "+short(id.String()), replayPage(p, &r))
	})
	for action, to := range map[string]kapsel.ReplayStatus{"pause": kapsel.ReplayPaused, "resume": kapsel.ReplayRunning, "cancel": kapsel.ReplayCanceled} {
		d.post("/replays/{id}/"+action, access.Write, func(p *page) (result, error) {
			id, err := kapsel.ParseReplayID(p.params("id"))
			if err != nil {
				return result{}, errNoPage
			}
			_, err = d.Manage.MoveReplay(p.ctx, p.caller, id, to)
			return result{goTo: string(p.link("/replays/" + id.String()))}, err
		})
	}
}

// sinceEver is longer ago than any event was received that is kept.
const sinceEver = "87600h"

// maxLetters is how many of the newest dead letters are grouped by endpoint and cause.
const maxLetters = 200

// deadLetters is what was given up or refused and not replayed since.
type deadLetters struct {
	status kapsel.DeliveryStatus
	list   []manage.Delivery
	groups []letterGroup
	next   string

	partial bool // older ones were not looked at
}

// letterGroup is how many dead letters an endpoint has for one cause.
type letterGroup struct {
	endpoint *kapsel.Endpoint // nil: deleted
	id       kapsel.EndpointID
	cause    string
	n        int
	newest   time.Time
}

func (d *Dashboard) deadLetters(p *page) (*deadLetters, error) {
	v := &deadLetters{status: kapsel.DeadLetter}
	if p.query.Get("status") == kapsel.Failed.String() {
		v.status = kapsel.Failed
	}
	endpoint, err := filter(p, "endpoint", kapsel.ParseEndpointID)
	if err != nil {
		return nil, err
	}
	before, err := cursor(p, kapsel.ParseDeliveryID)
	if err != nil {
		return nil, err
	}
	list, err := d.Manage.ListDeliveries(p.ctx, p.caller, p.tenant, store.DeliveryFilter{EndpointID: endpoint, Status: &v.status, Replayed: new(false)},
		store.Page[kapsel.DeliveryID]{Before: before, Limit: maxLetters})
	if err != nil {
		return nil, err
	}
	v.partial = len(list) == maxLetters
	for i := range list {
		v.count(&list[i])
	}
	wanted := p.query.Get("cause")
	for i := range list {
		if wanted == "" || cause(list[i].LastStatusCode, list[i].LastErrorCode) == wanted {
			v.list = append(v.list, list[i])
		}
	}
	if len(v.list) > perPage {
		v.list = v.list[:perPage]
		v.next = v.list[perPage-1].ID.String()
	} else if v.partial {
		v.next = list[maxLetters-1].ID.String()
	}
	return v, nil
}

func (v *deadLetters) count(d *manage.Delivery) {
	c := cause(d.LastStatusCode, d.LastErrorCode)
	for i := range v.groups {
		if g := &v.groups[i]; g.id == d.EndpointID && g.cause == c {
			g.n++
			return
		}
	}
	v.groups = append(v.groups, letterGroup{d.Endpoint, d.EndpointID, c, 1, d.FinishedAt})
}

// replaySelected repeats the deliveries that a person has selected. One that was replayed meanwhile is
// passed over.
func (d *Dashboard) replaySelected(p *page) (result, error) {
	chosen := p.form["delivery"]
	for _, text := range chosen[:min(len(chosen), perPage)] {
		id, err := kapsel.ParseDeliveryID(text)
		if err != nil {
			return result{}, errNoPage
		}
		one, err := d.Manage.Delivery(p.ctx, p.caller, id)
		if err != nil {
			return result{}, err
		}
		if !one.ReplayedAs.IsZero() {
			continue
		}
		if _, err := d.Manage.ReplayEvent(p.ctx, p.caller, one.EventID, &one.EndpointID); err != nil && kapsel.CodeOf(err) != kapsel.Conflict {
			return result{}, err
		}
	}
	return result{goTo: string(p.link("/dead-letters", "endpoint", p.form.Get("endpoint"), "cause", p.form.Get("cause"), "status", p.form.Get("status")))}, nil
}

// replayRequest returns the replay that a form or a link asks for.
func replayRequest(p *page, get func(string) string) (in manage.ReplayRequest, err error) {
	if text := get("endpoint"); text != "" {
		if in.EndpointID, err = kapsel.ParseEndpointID(text); err != nil {
			return in, errNoPage
		}
	}
	values := page{query: map[string][]string{"since": {get("since")}, "until": {get("until")}}, now: p.now}
	if in.Since, err = when(&values, "since"); err != nil {
		return in, err
	}
	if in.Until, err = when(&values, "until"); err != nil {
		return in, err
	}
	switch status := get("statuses"); status {
	case "":
	case "missing":
		in.Missing = true
	default:
		s, err := kapsel.ParseDeliveryStatus(status)
		if err != nil {
			return in, kapsel.Invalid(400, kapsel.FieldError{Field: "statuses", Detail: "is no status of a delivery"})
		}
		in.Statuses = []kapsel.DeliveryStatus{s}
	}
	return in, nil
}

// asked returns what a replay is of, in words.
func asked(r *manage.ReplayRequest) string {
	switch {
	case r.Missing:
		return "what it never got"
	case waiting(r):
		return "what waits (due now)"
	case r.Statuses == nil:
		return "dead letters and refused deliveries"
	}
	return replayOf(r.Statuses, r.Missing)
}

// waiting reports whether a replay is of what waits.
func waiting(r *manage.ReplayRequest) bool {
	return len(r.Statuses) == 1 && r.Statuses[0] == kapsel.Pending
}

func replayOf(statuses []kapsel.DeliveryStatus, missing bool) string {
	if missing {
		return "what was missing"
	}
	var words []string
	for _, s := range statuses {
		words = append(words, worded(s.String()))
	}
	return strings.Join(words, ", ")
}

// goesOn reports whether a replay is not over.
func goesOn(r *kapsel.Replay) bool {
	return r.Status == kapsel.ReplayRunning || r.Status == kapsel.ReplayPaused
}

// failedTone colours a count of failures, if there are any.
func failedTone(n int) string {
	if n > 0 {
		return "bad"
	}
	return ""
}

// withTenant returns a link as page.link does, for the admin with a tenant where all are shown.
func withTenant(p *page, tenant kapsel.TenantID, to string, params ...string) templ.SafeURL {
	if p.caller.IsAdmin() {
		params = append(params, "tenant", tenant.String())
	}
	return p.link(to, params...)
}
