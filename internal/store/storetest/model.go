package storetest

import (
	"bytes"
	"cmp"
	"flag"
	"os"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// queueing are the promises of the queue as a whole.
var queueing = []promise{
	{"F-A10 nodes that work and die at the same time lose nothing, and end nothing twice", checkStorm},

	{"whatever is done to one endpoint's queue, in whatever order, it is as a list in memory would be", func(w *world) {
		test := w.t
		defer flag.Set("rapid.checks", flag.Lookup("rapid.checks").Value.String())
		flag.Set("rapid.checks", sequences())
		rapid.Check(test, func(t *rapid.T) {
			w.t = t
			defer func() { w.t = test }()
			m := newQueue(w)
			t.Repeat(map[string]func(*rapid.T){
				"time passes":    m.timePasses,
				"accept":         m.accept,
				"accept again":   m.acceptAgain,
				"claim":          m.claim,
				"complete":       m.complete,
				"complete again": m.completeAgain,
				"complete late":  m.completeLate,
				"give back":      m.giveBack,
				"node dies":      m.nodeDies,
				"person moves":   m.personMoves,
				"replay":         m.replay,
				"":               m.check,
			})
			m.checkCounters()
		})
	}},
}

// sequences returns how many sequences of calls are tried: more with KAPSEL_CHAOS=full.
func sequences() string {
	if os.Getenv("KAPSEL_CHAOS") == "full" {
		return "200"
	}
	return "30"
}

// queue is the model of one endpoint's queue: what its store must hold.
type queue struct {
	*world
	entries []*entry // in the order in which they were made
	keys    map[string]remembered
	guards  map[string]remembered
}

// newQueue makes an empty queue of a new endpoint, and a node that holds nothing of those
// before it.
func newQueue(w *world) *queue {
	w.t.Helper()
	w.must(w.store.Leave(w.ctx, w.node))
	w.pass(time.Hour)
	for w.takeOver(1000) > 0 {
	}
	w.node = w.join(1000 * time.Hour)
	w.endpoint = w.newEndpoint(w.tenant)
	return &queue{world: w, keys: map[string]remembered{}, guards: map[string]remembered{}}
}

// entry is a delivery and what led to it.
type entry struct {
	in       store.Acceptance // zero: a replay
	want     kapsel.Delivery
	attempts []kapsel.Attempt
	done     []store.Completion
	late     []kapsel.Delivery // as it was held for attempts that did not complete
}

// remembered is an idempotency key.
type remembered struct {
	event kapsel.EventID
	until time.Time
}

// How long the model's keys and guards are remembered.
const (
	window      = 3 * time.Second
	guardWindow = 5 * time.Second
)

// pick draws one of the entries that fit, and skips the action when none does.
func (m *queue) pick(t *rapid.T, fits func(*entry) bool) *entry {
	var all []*entry
	for _, e := range m.entries {
		if fits(e) {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		t.Skip("nothing fits")
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
}

func held(e *entry) bool { return e.want.Status == kapsel.Delivering }

func (m *queue) timePasses(t *rapid.T) {
	m.pass(time.Duration(rapid.Int64Range(1, 5_000_000).Draw(t, "µs")) * time.Microsecond)
}

func (m *queue) accept(t *rapid.T) {
	k := rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(t, "key")
	in := m.acceptance(m.endpoint, due(m.now.Add(time.Duration(rapid.IntRange(-2, 3).Draw(t, "due in"))*time.Second)),
		func(in *store.Acceptance) { in.Window = window })
	if k != "" {
		key(k)(&in)
	}
	g := rapid.SampledFrom([]string{"", "", "g", "h"}).Draw(t, "guard")
	if g != "" {
		in.Guard, in.GuardWindow = []byte(g), guardWindow
	}
	if rapid.Bool().Draw(t, "held") {
		heldBy(m.node)(&in)
	}
	got, err := m.store.Accept(m.ctx, in)
	m.must(err)
	if r, ok := m.guards[g]; ok && m.now.Before(r.until) {
		m.same("accepted", store.Accepted{EventID: r.event, Duplicate: true}, got)
		return
	}
	want := store.Accepted{EventID: in.Event.ID}
	if r, ok := m.keys[k]; ok && m.now.Before(r.until) {
		want = store.Accepted{EventID: r.event, Duplicate: true}
	} else if k != "" {
		m.keys[k] = remembered{in.Event.ID, m.now.Add(window)}
	}
	m.same("accepted", want, got)
	if g != "" {
		m.guards[g] = remembered{want.EventID, m.now.Add(guardWindow)}
	}
	if !want.Duplicate {
		m.entries = append(m.entries, &entry{in: in, want: in.Deliveries[0]})
	}
}

// acceptAgain repeats a call whose answer got lost, while its key and its guard are remembered.
func (m *queue) acceptAgain(t *rapid.T) {
	e := m.pick(t, func(e *entry) bool { return !e.in.Event.ID.IsZero() && m.now.Before(e.in.Event.ReceivedAt.Add(window)) })
	got, err := m.store.Accept(m.ctx, e.in)
	m.must(err)
	m.same("accepted again", store.Accepted{EventID: e.in.Event.ID}, got)
}

func (m *queue) claim(t *rapid.T) {
	var dues []*entry
	for _, e := range m.entries {
		if e.want.Status == kapsel.Pending && !e.want.DueAt.After(m.now) {
			dues = append(dues, e)
		}
	}
	slices.SortStableFunc(dues, func(a, b *entry) int { return a.want.DueAt.Compare(b.want.DueAt) })
	limit := rapid.IntRange(1, 5).Draw(t, "limit")
	got, _, err := m.store.Claim(m.ctx, m.node, m.now, []store.Want{{EndpointID: m.endpoint.ID, Limit: limit}}, 1<<20)
	m.must(err)
	m.same("claimed", min(limit, len(dues)), len(got))
	slices.SortStableFunc(got, func(a, b store.Claimed) int { return a.DueSince.Compare(b.DueSince) })
	for i, c := range got {
		m.same("due since", dues[i].want.DueAt, c.DueSince) // of those due at one time, any
		j := slices.IndexFunc(dues, func(e *entry) bool { return e.want.ID == c.Delivery.ID })
		if j < 0 {
			t.Fatalf("%s was claimed, and is not due", c.Delivery.ID)
		}
		want, err := dues[j].want.After(kapsel.Claim{Node: m.node, Token: c.Delivery.Token}, m.now)
		m.must(err)
		m.same("claimed", want, c.Delivery)
		defer func() { dues[j].want = want }() // when all were compared
	}
}

func (m *queue) complete(t *rapid.T) {
	e := m.pick(t, held)
	answers := map[string]kapsel.Answer{"delivered": ok, "failed": refusal, "to retry": again, "out of attempts": useless}
	a := answers[rapid.SampledFrom([]string{"to retry", "delivered", "failed", "out of attempts", "to retry"}).Draw(t, "answer")]
	if a.Retry {
		a.Delay = time.Duration(rapid.Int64Range(0, 5_000_000).Draw(t, "delay")) * time.Microsecond
	}
	done := m.completion(e.want, a)
	m.must(m.store.Complete(m.ctx, done))
	e.want = done.Delivery
	e.done = append(e.done, done)
	e.attempts = append(e.attempts, done.Attempt)
}

func (m *queue) completeAgain(t *rapid.T) {
	e := m.pick(t, func(e *entry) bool { return len(e.done) > 0 })
	i := rapid.IntRange(0, len(e.done)-1).Draw(t, "attempt")
	m.must(m.store.Complete(m.ctx, e.done[i]))
}

func (m *queue) completeLate(t *rapid.T) {
	e := m.pick(t, func(e *entry) bool { return len(e.late) > 0 })
	i := rapid.IntRange(0, len(e.late)-1).Draw(t, "attempt")
	m.refused(m.store.Complete(m.ctx, m.completion(e.late[i], ok)), kapsel.Conflict, "late completion")
}

func (m *queue) giveBack(t *rapid.T) {
	at := m.now.Add(time.Duration(rapid.IntRange(-1, 2).Draw(t, "due in")) * time.Second)
	var back []kapsel.Delivery
	for _, e := range m.entries {
		if len(e.late) > 0 && rapid.Bool().Draw(t, "late") {
			old := e.late[0]
			old.DueAt = at
			back = append(back, old)
		}
		if !held(e) || rapid.Bool().Draw(t, "keep") {
			continue
		}
		d := e.want
		d.DueAt = at
		back = append(back, d)
		var err error
		e.late = append(e.late, e.want)
		e.want, err = e.want.After(kapsel.GiveBack{Due: at}, m.now)
		m.must(err)
	}
	m.must(m.store.GiveBack(m.ctx, back))
}

func (m *queue) nodeDies(*rapid.T) {
	m.must(m.store.Leave(m.ctx, m.node))
	m.node = m.join(1000 * time.Hour)
	m.pass(time.Millisecond)
	lost := 0
	for _, e := range m.entries {
		if !held(e) {
			continue
		}
		lost++
		after, err := e.want.After(kapsel.Lost{Takeover: true}, m.now)
		m.must(err)
		e.attempts = append(e.attempts, unknownAttempt(e.want))
		e.late = append(e.late, e.want)
		e.want = after
	}
	for ; lost >= 0; lost -= 2 {
		m.same("moved", min(2, lost), m.takeOver(2))
	}
}

func (m *queue) personMoves(t *rapid.T) {
	e := m.pick(t, func(*entry) bool { return true })
	var h kapsel.Transition = kapsel.Retry{}
	if rapid.IntRange(0, 4).Draw(t, "cancel") == 0 {
		h = kapsel.Cancel{}
	}
	after, refused := e.want.After(h, m.now)
	got, err := m.store.MoveDelivery(m.ctx, m.tenant.ID, e.want.ID, h, m.now)
	if refused != nil {
		m.refused(err, kapsel.Conflict, "move")
		return
	}
	m.must(err)
	m.same("moved", after, got)
	e.want = after
}

func (m *queue) replay(t *rapid.T) {
	e := m.pick(t, func(*entry) bool { return true })
	got, err := m.store.Replay(m.ctx, m.tenant.ID, e.want.EventID, e.want.ID, m.now)
	if !e.want.Status.Terminal() || !e.want.ReplayedAs.IsZero() {
		m.refused(err, kapsel.Conflict, "replay")
		return
	}
	m.must(err)
	want := kapsel.Delivery{
		ID: got.ID, EventID: e.want.EventID, EndpointID: e.want.EndpointID, TenantID: e.want.TenantID, Status: kapsel.Pending,
		DueAt: m.now, ReplayOf: e.want.ID, Size: e.want.Size, CreatedAt: m.now,
	}
	m.same("replay", want, got)
	e.want.ReplayedAs = got.ID
	m.entries = append(m.entries, &entry{want: want})
}

// check compares all that can be read of the queue with the model.
func (m *queue) check(*rapid.T) {
	m.pass(time.Microsecond) // so that few are due at the same time
	byID := func(a, b kapsel.Delivery) int { return bytes.Compare(b.ID[:], a.ID[:]) }
	var all, mine []kapsel.Delivery
	var oldest, oldestCounted time.Time
	waiting, counted := 0, 0
	for _, e := range m.entries {
		all = append(all, e.want)
		switch e.want.Status {
		case kapsel.Pending:
			if waiting++; oldest.IsZero() || e.want.DueAt.Before(oldest) {
				oldest = e.want.DueAt
			}
			if e.want.Scheduled(m.now) {
				break
			}
			if counted++; oldestCounted.IsZero() || e.want.DueAt.Before(oldestCounted) {
				oldestCounted = e.want.DueAt
			}
		case kapsel.Delivering:
			mine = append(mine, e.want)
		}
		got := m.world.attempts(e.want.ID)
		for i := range got {
			if got[i].ErrorCode == kapsel.OutcomeUnknown {
				got[i].StartedAt, got[i].Duration, got[i].Error = time.Time{}, 0, ""
			}
		}
		m.same("attempts", e.attempts, got)
	}
	slices.SortFunc(all, byID)
	m.same("deliveries", all, m.deliveries(m.endpoint))

	heldNow, err := m.store.Held(m.ctx, m.node)
	m.must(err)
	slices.SortFunc(mine, byID)
	slices.SortFunc(heldNow, byID)
	m.same("held", mine, heldNow)

	count, due, err := m.store.BacklogOf(m.ctx, m.endpoint.ID, m.now, 1000)
	m.must(err)
	m.same("backlog", counted, count)
	m.checkTold()
	m.same("oldest", oldestCounted, due)
	backlog, err := m.store.Backlog(m.ctx)
	m.must(err)
	i := slices.IndexFunc(backlog, func(b store.Waiting) bool { return b.EndpointID == m.endpoint.ID })
	if cmp.Compare(waiting, 0) != cmp.Compare(i, -1) {
		m.t.Fatalf("%d are waiting, and the endpoint is at %d of the backlog", waiting, i)
	}
	if i >= 0 {
		m.same("oldest in the backlog", oldest, backlog[i].DueAt)
	}
}

// checkCounters compares what was counted with the model.
func (m *queue) checkCounters() {
	want := map[time.Time]kapsel.Stats{}
	count := func(at time.Time, add func(*kapsel.Stats)) {
		s := want[kapsel.StatsHour(at)]
		add(&s)
		want[kapsel.StatsHour(at)] = s
	}
	for _, e := range m.entries {
		for _, a := range m.world.attempts(e.want.ID) {
			count(a.EndedAt(), func(s *kapsel.Stats) { s.AddAttempt(a.ErrorCode, a.Duration) })
		}
		if e.want.Status.Terminal() {
			count(e.want.FinishedAt, func(s *kapsel.Stats) { s.AddEnd(e.want.Status) })
		}
	}
	got := map[time.Time]kapsel.Stats{}
	for _, h := range m.stats(m.endpoint.ID) {
		got[h.Hour] = h.Stats
	}
	m.same("stats", want, got)
}
