package upkeep

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// NoticeKind says what a notice is about.
type NoticeKind string

// The kinds of notices.
const (
	CircuitOpen      NoticeKind = "circuit_open"      // an endpoint's circuit is not closed
	EndpointFailing  NoticeKind = "endpoint_failing"  // no attempt of an endpoint succeeded for an hour
	EndpointDisabled NoticeKind = "endpoint_disabled" // an endpoint is disabled
	DeadLetters      NoticeKind = "dead_letters"      // deliveries of an endpoint are given up
	NothingReceived  NoticeKind = "nothing_received"  // nothing came in for as long as expect_every says
	QuotaNear        NoticeKind = "quota_nearly_used" // a tenant has used most of its events of the month
	noticeType                  = "kapsel.notice."    // the types of notices' events begin with it
)

const (
	failingFor  = time.Hour        // EndpointFailing
	manyLetters = 10               // in this hour and the last, DeadLetters
	quotaPart   = 0.8              // of events_per_month, QuotaNear
	noticeRest  = 15 * time.Minute // after a notice's end before the next of its kind and subject begins
	mostNotices = 1000             // that are on at once; others wait until some are over
)

// condition is something that a notice tells, as it is now.
type condition struct {
	Kind    NoticeKind
	Tenant  kapsel.TenantID
	Subject string // the ID of the endpoint, source or tenant
	Name    string // of the subject
	Since   time.Time
	Text    string // what is the matter
	Advice  string // what to do
	// Unsure keeps a notice on that is on, and begins none: it is not known whether the condition holds.
	Unsure bool `json:"-"`
	// Hold is how long the condition must hold before it is told; Since is then when it was first seen.
	Hold time.Duration `json:"-"`
}

func (c *condition) key() string { return string(c.Kind) + " " + c.Subject }

// notice is a condition that was told.
type notice struct {
	condition
	ID    string    // of the notice, the same when it begins and when it is over
	Begun time.Time // when it was noticed
}

// message is what one notice tells once: that it begins, or that it is over.
type message struct {
	notice
	Over bool
	At   time.Time
	// Event is the ID of the event that tells it, and Mailed says that nothing is left to mail.
	Event     kapsel.EventID
	Published bool
	Mailed    bool
}

// notices is all that the duty knows. It is kept in the store as JSON.
type notices struct {
	On     map[string]notice    // by key
	Held   map[string]time.Time // when conditions with a Hold were first seen, by key
	Rested map[string]time.Time // when notices that are over ended, by key
	Outbox []message            // what is not told yet, oldest first
}

// update begins and ends notices by the conditions that hold at a time, and reports whether anything
// changed.
func (n *notices) update(now time.Time, holding []condition) (changed bool) {
	if n.On == nil {
		n.On, n.Held, n.Rested = map[string]notice{}, map[string]time.Time{}, map[string]time.Time{}
	}
	holds := map[string]*condition{}
	for i := range holding {
		holds[holding[i].key()] = &holding[i]
	}
	for key, was := range n.On {
		if holds[key] == nil {
			delete(n.On, key)
			n.Rested[key] = now
			n.tell(was, true, now)
			changed = true
		}
	}
	for key, end := range n.Rested {
		if now.Sub(end) >= noticeRest {
			delete(n.Rested, key)
			changed = true
		}
	}
	for key := range n.Held {
		if holds[key] == nil {
			delete(n.Held, key)
			changed = true
		}
	}
	slices.SortFunc(holding, func(a, b condition) int { return cmp.Compare(a.key(), b.key()) })
	for _, c := range holding {
		_, on := n.On[c.key()]
		_, resting := n.Rested[c.key()]
		if on || resting || c.Unsure || len(n.On) >= mostNotices {
			continue
		}
		if c.Hold > 0 {
			if _, seen := n.Held[c.key()]; !seen {
				n.Held[c.key()], changed = now, true
			}
			if c.Since = n.Held[c.key()]; now.Sub(c.Since) < c.Hold {
				continue
			}
		}
		begun := notice{condition: c, ID: "ntc_" + kapsel.NewChangeID(now).String()[len("chg_"):], Begun: now}
		n.On[c.key()] = begun
		n.tell(begun, false, now)
		changed = true
	}
	return changed
}

func (n *notices) tell(about notice, over bool, now time.Time) {
	n.Outbox = append(n.Outbox, message{notice: about, Over: over, At: now, Event: kapsel.NewEventID(now, kapsel.PartOf(about.Tenant))})
}

// observed is what the conditions are found in.
type observed struct {
	now       time.Time
	endpoints []*kapsel.Endpoint
	circuit   func(kapsel.EndpointID) kapsel.Circuit
	stats     []store.StatsOfEndpoint       // of this hour and the last
	received  map[kapsel.OriginID]time.Time // of what expects something
	sources   []*kapsel.Source
	tenants   []*kapsel.Tenant
	used      map[kapsel.TenantID]int64 // events of the month, of tenants with a limit
}

// conditions returns what there is to tell.
func (o *observed) conditions() (all []condition) {
	type recent struct{ last, this kapsel.Stats }
	hour := kapsel.StatsHour(o.now)
	stats := map[kapsel.EndpointID]*recent{}
	for i := range o.stats {
		s := &o.stats[i]
		if stats[s.EndpointID] == nil {
			stats[s.EndpointID] = &recent{}
		}
		if s.Hour.Before(hour) {
			stats[s.EndpointID].last.Add(&s.Stats)
		} else {
			stats[s.EndpointID].this.Add(&s.Stats)
		}
	}
	for _, e := range o.endpoints {
		about := func(kind NoticeKind, since time.Time, text, advice string) condition {
			return condition{Kind: kind, Tenant: e.TenantID, Subject: e.ID.String(), Name: e.Name, Since: since, Text: text, Advice: advice}
		}
		if e.State == kapsel.EndpointDisabled {
			why := "because the destination answered 410"
			if e.DisabledReason != kapsel.DisabledGone {
				why = "by the operator"
			}
			all = append(all, about(EndpointDisabled, e.UpdatedAt, fmt.Sprintf("endpoint %s was disabled %s; its events are accepted and wait", e.Name, why),
				"resume the endpoint when the destination takes webhooks again: kapsel endpoints resume "+e.ID.String()))
		}
		open := false
		if e.State == kapsel.EndpointActive {
			c := e.CircuitNow(o.circuit(e.ID))
			if open = c.State != kapsel.CircuitClosed; open {
				all = append(all, about(CircuitOpen, c.ChangedAt, fmt.Sprintf("the circuit of endpoint %s is open: its destination fails, and deliveries wait", e.Name),
					"look at the latest attempts: kapsel endpoints get "+e.ID.String()+". Deliveries go on by themselves once the destination answers"))
			}
		}
		r := stats[e.ID]
		if r == nil {
			r = &recent{}
		}
		attempts := func(s *kapsel.Stats) (n int64) {
			for _, o := range s.Outcomes {
				n += o
			}
			return n
		}
		if e.State == kapsel.EndpointActive {
			tried := attempts(&r.last)+attempts(&r.this) > 0
			succeeded := r.last.Outcomes[kapsel.Succeeded]+r.this.Outcomes[kapsel.Succeeded] > 0
			c := about(EndpointFailing, o.now, fmt.Sprintf("no attempt to deliver to endpoint %s has succeeded for an hour", e.Name),
				"mend the destination, or pause the endpoint; then deliver again what was given up: kapsel replays create --endpoint "+e.ID.String()+" --since 24h")
			c.Hold, c.Unsure = failingFor, !open && !tried // when nothing is tried, nothing is known
			if !succeeded {
				all = append(all, c)
			}
		}
		given := func(s *kapsel.Stats) int64 {
			return s.Ended[kapsel.DeadLetter-kapsel.Delivered] + s.Ended[kapsel.Failed-kapsel.Delivered]
		}
		if n := given(&r.last) + given(&r.this); n > 0 {
			c := about(DeadLetters, hour.Add(-time.Hour), fmt.Sprintf("%d deliveries to endpoint %s were given up in this hour and the last", n, e.Name),
				"see why: kapsel deliveries list --endpoint "+e.ID.String()+" --status dead_letter,failed --replayed false; then deliver them again with kapsel replays create")
			c.Unsure = n < manyLetters
			all = append(all, c)
		}
		if e.Ingests() && e.ExpectEvery > 0 {
			all = append(all, o.silent(kapsel.OriginID(e.ID), e.TenantID, e.ID.String(), "endpoint", e.Name, e.ExpectEvery, e.CreatedAt)...)
		}
	}
	for _, s := range o.sources {
		if s.State == kapsel.SourceActive && s.ExpectEvery > 0 {
			all = append(all, o.silent(kapsel.OriginID(s.ID), s.TenantID, s.ID.String(), "source", s.Name, s.ExpectEvery, s.CreatedAt)...)
		}
	}
	for _, t := range o.tenants {
		limit, used := t.Effective().EventsPerMonth, o.used[t.ID]
		if limit == nil || *limit == 0 || float64(used) < quotaPart*float64(*limit) {
			continue
		}
		all = append(all, condition{
			Kind: QuotaNear, Tenant: t.ID, Subject: t.ID.String(), Name: t.Name, Since: o.now,
			Text:   fmt.Sprintf("tenant %s has used %d of its %d events of this month; when they are used up, its events are refused with E1011", t.Name, used, *limit),
			Advice: "raise events_per_month of the tenant, or have its senders send less",
		})
	}
	return all
}

// silent returns the condition of an ingest at which nothing came in for too long, if it is so.
func (o *observed) silent(origin kapsel.OriginID, tenant kapsel.TenantID, id, word, name string, every time.Duration, created time.Time) []condition {
	last := o.received[origin]
	if last.Before(created) {
		last = created
	}
	if o.now.Sub(last) < every {
		return nil
	}
	return []condition{{
		Kind: NothingReceived, Tenant: tenant, Subject: id, Name: name, Since: last,
		Text:   fmt.Sprintf("nothing came in at %s %s since %s; it expects something every %s", word, name, last.UTC().Format(time.RFC3339), every),
		Advice: "see whether the sender still sends to the ingest URL, and what it was told: its page of webhooks, and the endpoint's refusals",
	}}
}
