package manage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Known is what a node knows of the endpoints without asking the store.
type Known interface {
	Endpoints() []*kapsel.Endpoint
	Circuit(id kapsel.EndpointID) kapsel.Circuit
}

// Overview is how an instance, or one tenant of it, does now.
type Overview struct {
	At        time.Time
	Endpoints int
	Paused    int
	Disabled  int
	Open      int          // circuits that are open or half-open
	Attention []Trouble    // what somebody should look at, the worst first; at most maxTroubles
	More      int          // endpoints that Attention leaves out
	Waiting   int          // deliveries that wait, as far as they were counted
	AtLeast   bool         // more wait than were counted
	Oldest    time.Time    // when the oldest of them was due; zero: none is
	Recent    kapsel.Stats // of this hour and the one before
	Dead      int          // dead letters that nobody replayed; counted up to MaxDead
}

// Trouble is an endpoint that somebody should look at.
type Trouble struct {
	Endpoint *kapsel.Endpoint
	Kind     string // disabled, circuit open, probing, failing, throttled, waiting or paused
	Words    string // why, for people
	Since    time.Time
	Waiting  *int // deliveries that wait; nil: not known
}

// Bounds of an overview.
const (
	maxTroubles = 25
	MaxDead     = 100
	countedOf   = 50 // endpoints whose waiting deliveries are counted
	recentAge   = 10 * time.Second
)

// recent is the stats of the last hours and what waits, of all endpoints. It reads the store at most once
// every recentAge, for all overviews of the node together.
type recent struct {
	mu    sync.Mutex // held while the store is read, so that one overview at a time does
	at    time.Time
	stats map[kapsel.EndpointID]*kapsel.Stats
	due   map[kapsel.EndpointID]time.Time
}

func (m *Manager) recently(ctx context.Context, now time.Time) (map[kapsel.EndpointID]*kapsel.Stats, map[kapsel.EndpointID]time.Time, error) {
	r := &m.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := now.Sub(r.at); r.stats != nil && age >= 0 && age < recentAge {
		return r.stats, r.due, nil
	}
	hours, err := m.Store.RecentStats(ctx, kapsel.StatsHour(now).Add(-time.Hour))
	if err != nil {
		return nil, nil, err
	}
	stats := map[kapsel.EndpointID]*kapsel.Stats{}
	for i := range hours {
		if stats[hours[i].EndpointID] == nil {
			stats[hours[i].EndpointID] = &kapsel.Stats{}
		}
		stats[hours[i].EndpointID].Add(&hours[i].Stats)
	}
	backlog, err := m.Store.Backlog(ctx)
	if err != nil {
		return nil, nil, err
	}
	due := make(map[kapsel.EndpointID]time.Time, len(backlog))
	for _, w := range backlog {
		due[w.EndpointID] = w.DueAt
	}
	r.at, r.stats, r.due = now, stats, due
	return stats, due, nil
}

// Overview returns how a tenant does, or the whole instance for an admin who names none. It reads what was
// counted, and never looks for events.
func (m *Manager) Overview(ctx context.Context, c access.Caller, tenant kapsel.TenantID) (Overview, error) {
	if err := c.Check(access.Read); err != nil {
		return Overview{}, err
	}
	now := m.Clock()
	o := Overview{At: now}
	if m.Known == nil {
		return o, nil
	}
	tenant = c.TenantOr(tenant)
	stats, due, err := m.recently(ctx, now)
	if err != nil {
		return o, err
	}
	var waiting []*kapsel.Endpoint
	for _, e := range m.Known.Endpoints() {
		if !tenant.IsZero() && e.TenantID != tenant {
			continue
		}
		o.Endpoints++
		switch e.State {
		case kapsel.EndpointPaused:
			o.Paused++
		case kapsel.EndpointDisabled:
			o.Disabled++
		}
		circuit, s := e.CircuitNow(m.Known.Circuit(e.ID)), stats[e.ID]
		if circuit.State == kapsel.CircuitOpened || circuit.State == kapsel.CircuitHalfOpen {
			o.Open++
		}
		if s != nil {
			o.Recent.Add(s)
		}
		oldest, waits := due[e.ID]
		if waits {
			waiting = append(waiting, e)
			if !oldest.After(now) && (o.Oldest.IsZero() || oldest.Before(o.Oldest)) {
				o.Oldest = oldest
			}
		}
		if t, ok := trouble(e, circuit, s, oldest, now); ok {
			o.Attention = append(o.Attention, t)
		}
	}
	slices.SortFunc(o.Attention, func(a, b Trouble) int {
		return cmp.Or(cmp.Compare(rank[a.Kind], rank[b.Kind]), a.Since.Compare(b.Since), cmp.Compare(a.Endpoint.Name, b.Endpoint.Name))
	})
	if n := len(o.Attention); n > maxTroubles {
		o.Attention, o.More = o.Attention[:maxTroubles], n-maxTroubles
	}
	for i := range o.Attention {
		o.Attention[i].Waiting, _ = m.backlogs.get(ctx, o.Attention[i].Endpoint.ID, now)
	}
	slices.SortFunc(waiting, func(a, b *kapsel.Endpoint) int { return due[a.ID].Compare(due[b.ID]) })
	for i, e := range waiting {
		if i == countedOf {
			o.AtLeast = true
			break
		}
		if n, _ := m.backlogs.get(ctx, e.ID, now); n != nil {
			o.Waiting += *n
			o.AtLeast = o.AtLeast || *n >= backlogMost
		}
	}
	dead, err := m.Store.ListDeliveries(ctx, tenant, store.DeliveryFilter{Status: new(kapsel.DeadLetter), Replayed: new(false)}, store.Page[kapsel.DeliveryID]{Limit: MaxDead})
	o.Dead = len(dead)
	return o, err
}

// rank orders kinds of trouble, the worst first.
var rank = map[string]int{"disabled": 1, "circuit open": 2, "failing": 3, "probing": 4, "waiting": 5, "throttled": 6, "paused": 7}

// dueLong is how long a delivery of a healthy endpoint may have been due before somebody should look.
const dueLong = time.Minute

// trouble returns what is wrong with an endpoint, false if nothing is. s may be nil: nothing was sent.
func trouble(e *kapsel.Endpoint, c kapsel.Circuit, s *kapsel.Stats, oldest, now time.Time) (t Trouble, ok bool) {
	t = Trouble{Endpoint: e, Since: c.ChangedAt}
	if s == nil {
		s = &kapsel.Stats{}
	}
	failed, all := s.Attempts()-s.Outcomes[kapsel.Succeeded], s.Attempts()
	late := !oldest.IsZero() && now.Sub(oldest) > dueLong
	switch {
	case e.State == kapsel.EndpointDisabled && e.DisabledReason == kapsel.DisabledGone:
		t.Kind, t.Words, t.Since = "disabled", "the destination answered 410 Gone, so nothing is sent until a person resumes it", e.UpdatedAt
	case e.State == kapsel.EndpointDisabled:
		t.Kind, t.Words, t.Since = "disabled", "the operator disabled it", e.UpdatedAt
	case c.State == kapsel.CircuitOpened:
		t.Kind, t.Words = "circuit open", "the destination fails"+mostly(s)+"; the next probe may start at "+c.RetryAt.UTC().Format("15:04:05 MST")
	case c.State == kapsel.CircuitHalfOpen:
		t.Kind, t.Words = "probing", "the destination failed"+mostly(s)+", and single deliveries try whether it works again"
	case all >= 5 && failed*5 >= all:
		t.Kind, t.Words, t.Since = "failing", fmt.Sprintf("%d of %d attempts since %s failed%s", failed, all, kapsel.StatsHour(now).Add(-time.Hour).Format("15:04 MST"), mostly(s)), time.Time{}
	case c.HoldUntil.After(now):
		t.Kind, t.Words, t.Since = "throttled", "the destination asked for quiet (429 with Retry-After) until "+c.HoldUntil.UTC().Format("15:04:05 MST"), time.Time{}
	case e.State == kapsel.EndpointPaused && !oldest.IsZero():
		t.Kind, t.Words, t.Since = "paused", "a person paused it, and deliveries wait", e.UpdatedAt
	case e.State == kapsel.EndpointActive && late:
		t.Kind, t.Words, t.Since = "waiting", "deliveries are due and have not started: its rate, its concurrency or the workers are at their limit", oldest
	default:
		return t, false
	}
	return t, true
}

// outcomes are the classes of failures in words that follow a colon.
var outcomes = [kapsel.OutcomeCount]string{
	kapsel.ClientErrors: "it refuses with 3xx or 4xx", kapsel.ServerErrors: "it answers 5xx", kapsel.Timeouts: "no answer comes in time",
	kapsel.NoAnswers: "there is no connection, TLS or valid HTTP", kapsel.Unknowns: "nodes died meanwhile",
}

// mostly returns the most frequent class of failures, with a colon before it; "" without one.
func mostly(s *kapsel.Stats) string {
	best := kapsel.ClientErrors
	for o := range s.Outcomes {
		if o != int(kapsel.Succeeded) && s.Outcomes[o] > s.Outcomes[best] {
			best = kapsel.Outcome(o)
		}
	}
	if s.Outcomes[best] == 0 {
		return ""
	}
	return ": " + outcomes[best]
}
