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
	ManyNotices      NoticeKind = "many_notices"      // a tenant has more notices than are told
	noticeType                  = "kapsel.notice."    // the types of notices' events begin with it
)

const (
	failingFor  = time.Hour        // EndpointFailing
	manyLetters = 10               // in this hour and the last, DeadLetters
	quotaPart   = 0.8              // of events_per_month, QuotaNear
	noticeRest  = 15 * time.Minute // after a notice's end before the next of its kind and subject begins
	// How many notices are on at once, and how many of one tenant are on or have ended within noticeRest.
	// Others wait until some are over; ManyNotices tells that they do.
	mostNotices  = 1000
	mostOfTenant = 50
	mostOutbox   = 1000 // messages that wait to be told, nearly always by e-mail
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
	// Because says of a notice that is over why: solved, deleted, paused, disabled or not_expected.
	Because string `json:",omitempty"`
	At      time.Time
	// Event is the ID of the event that tells it, and Mailed says that nothing is left to mail.
	Event     kapsel.EventID
	Published bool
	Mailed    bool
	// To lists the recipients that have not got the e-mail yet; empty: all of them. Alone is set when the mail server has refused an e-mail
	// with this message only: from then on it is tried again, and always by itself.
	To    []string  `json:",omitempty"`
	Alone time.Time `json:",omitzero"`
}

// notices is all that the duty knows. It is kept in the store as JSON.
type notices struct {
	On      map[string]notice    // by key
	Held    map[string]time.Time // when conditions with a Hold were first seen, by key
	Resting map[string]rest      // notices that are over and may not begin again yet, by key
	Outbox  []message            // what is not told yet, oldest first
	// Received has when the newest event came in at each origin that expects some, which may be deleted since.
	Received map[string]time.Time
}

// rest is the end of a notice.
type rest struct {
	Tenant kapsel.TenantID
	End    time.Time
}

// update begins and ends notices by the conditions that hold, and reports whether anything changed.
func (n *notices) update(o *observed) (changed bool) {
	if n.On == nil {
		n.On = map[string]notice{}
	}
	if n.Held == nil {
		n.Held = map[string]time.Time{}
	}
	if n.Resting == nil {
		n.Resting = map[string]rest{}
	}
	changed = n.remember(o)
	holding := o.conditions()
	holds := map[string]*condition{}
	for i := range holding {
		holds[holding[i].key()] = &holding[i]
	}
	told := map[kapsel.TenantID]int{} // of each tenant, that are on or rest
	for key, was := range n.On {
		switch {
		case was.Kind == ManyNotices: // below
		case holds[key] == nil:
			n.end(was, o.because(&was), o.now)
			changed = true
		default:
			told[was.Tenant]++
		}
	}
	for key, was := range n.Resting {
		if o.now.Sub(was.End) < noticeRest {
			told[was.Tenant]++
			continue
		}
		delete(n.Resting, key)
		changed = true
	}
	for key := range n.Held {
		if holds[key] == nil {
			delete(n.Held, key)
			changed = true
		}
	}
	slices.SortFunc(holding, func(a, b condition) int { return cmp.Compare(a.key(), b.key()) })
	waiting, held := map[kapsel.TenantID]int{}, map[kapsel.TenantID]int{}
	for _, c := range holding {
		_, on := n.On[c.key()]
		_, resting := n.Resting[c.key()]
		if on || resting || c.Unsure {
			continue
		}
		if c.Hold > 0 {
			if held[c.Tenant]++; held[c.Tenant] > mostOfTenant {
				continue
			}
			if _, seen := n.Held[c.key()]; !seen {
				n.Held[c.key()], changed = o.now, true
			}
			if c.Since = n.Held[c.key()]; o.now.Sub(c.Since) < c.Hold {
				continue
			}
		}
		if told[c.Tenant] >= mostOfTenant || len(n.On) >= mostNotices {
			waiting[c.Tenant]++
			continue
		}
		n.begin(c, o.now)
		told[c.Tenant]++
		changed = true
	}
	return n.many(o, waiting) || changed
}

// many begins and ends the notices that others of a tenant are not told, by how many are not.
func (n *notices) many(o *observed, waiting map[kapsel.TenantID]int) (changed bool) {
	for _, was := range n.On {
		if was.Kind == ManyNotices && waiting[was.Tenant] == 0 {
			n.end(was, o.because(&was), o.now)
			changed = true
		}
	}
	for _, t := range o.tenants {
		c := condition{
			Kind: ManyNotices, Tenant: t.ID, Subject: t.ID.String(), Name: t.Name, Since: o.now,
			Text:   fmt.Sprintf("tenant %s has %d notices more than are told; they are told when others are over", t.Name, waiting[t.ID]),
			Advice: "look at all its endpoints: kapsel endpoints list --tenant " + t.ID.String(),
		}
		_, on := n.On[c.key()]
		_, resting := n.Resting[c.key()]
		if waiting[t.ID] > 0 && !on && !resting && len(n.On) < 2*mostNotices {
			n.begin(c, o.now)
			changed = true
		}
	}
	return changed
}

func (n *notices) begin(c condition, now time.Time) {
	begun := notice{condition: c, ID: "ntc_" + kapsel.NewChangeID(now).String()[len("chg_"):], Begun: now}
	n.On[c.key()] = begun
	n.tell(message{notice: begun}, now)
}

func (n *notices) end(was notice, because string, now time.Time) {
	delete(n.On, was.key())
	n.Resting[was.key()] = rest{was.Tenant, now}
	n.tell(message{notice: was, Over: true, Because: because}, now)
}

func (n *notices) tell(m message, now time.Time) {
	m.At, m.Event = now, kapsel.NewEventID(now, kapsel.PartOf(m.Tenant))
	n.Outbox = append(n.Outbox, m)
}

// trim gives up messages while there are too many, the oldest of the tenant that has most, and returns them.
func (n *notices) trim() (lost []message) {
	count := map[kapsel.TenantID]int{}
	for i := range n.Outbox {
		count[n.Outbox[i].Tenant]++
	}
	for len(n.Outbox) > mostOutbox {
		most := kapsel.TenantID{}
		for t, c := range count {
			if c > count[most] {
				most = t
			}
		}
		i := slices.IndexFunc(n.Outbox, func(m message) bool { return m.Tenant == most })
		lost = append(lost, n.Outbox[i])
		n.Outbox = slices.Delete(n.Outbox, i, i+1)
		count[most]--
	}
	return lost
}

// remember keeps when something came in last, and puts it in place of what the store says where the store has
// less, because the event was deleted. It is kept to a twentieth of expect_every, so that the state changes
// seldom, and is taken as late as it may have been. What was deleted before it could be remembered may have
// come in as late as retention allows.
func (n *notices) remember(o *observed) (changed bool) {
	kept := map[string]time.Time{}
	for _, e := range o.expecting {
		key, slack := e.id, e.every/20
		was, known := n.Received[key]
		last := o.received[e.origin]
		if !known && last.IsZero() {
			if was = o.now.Add(-e.retention); was.Before(e.created) {
				was = e.created
			}
			was, changed = was.Add(-slack), true
		}
		switch {
		case last.Before(was):
			o.received[e.origin], last = was.Add(slack), was
		case known && last.Sub(was) < slack:
			last = was
		default:
			changed = true
		}
		kept[key] = last
	}
	changed = changed || len(kept) != len(n.Received)
	n.Received = kept
	return changed
}

// observed is what the conditions are found in.
type observed struct {
	now       time.Time
	endpoints []*kapsel.Endpoint
	circuit   func(kapsel.EndpointID) kapsel.Circuit
	stats     []store.StatsOfEndpoint // of this hour and the last
	expecting []expecting
	received  map[kapsel.OriginID]time.Time // of expecting
	sources   []*kapsel.Source
	tenants   []*kapsel.Tenant
	used      map[kapsel.TenantID]int64 // events of the month, of tenants with a limit
}

// expecting is an origin with expect_every.
type expecting struct {
	id               string // of the endpoint or source
	origin           kapsel.OriginID
	every, retention time.Duration
	created          time.Time
}

// because returns why a notice is over.
func (o *observed) because(n *notice) string {
	const deleted, solved = "deleted", "solved"
	if n.Kind == QuotaNear || n.Kind == ManyNotices {
		if !slices.ContainsFunc(o.tenants, func(t *kapsel.Tenant) bool { return t.ID == n.Tenant }) {
			return deleted
		}
		return solved
	}
	expects, state := false, deleted
	for _, e := range o.endpoints {
		if e.ID.String() == n.Subject {
			expects, state = e.Ingests() && e.ExpectEvery > 0, string(e.State)
		}
	}
	for _, s := range o.sources {
		if s.ID.String() == n.Subject {
			expects, state = s.ExpectEvery > 0, string(s.State)
			if s.State != kapsel.SourceActive {
				return state
			}
		}
	}
	switch {
	case state == deleted:
		return deleted
	case n.Kind == NothingReceived && !expects:
		return "not_expected"
	case n.Kind == NothingReceived || n.Kind == EndpointDisabled || state == string(kapsel.EndpointActive):
		return solved
	}
	return state
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
