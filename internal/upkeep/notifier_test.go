package upkeep_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// noticing is a store with a customer and an operator, and notifiers of two nodes.
type noticing struct {
	t        *testing.T
	db       *sqlite.Store
	cache    *settings.Cache
	clock    *clock.Clock
	now      time.Time
	customer kapsel.TenantID
	operator kapsel.TenantID
	node     kapsel.NodeID
	mails    []string
	mailErr  error
	post     func(to []string, subject, text string) (later []string, err error)
}

func newNoticing(t *testing.T) *noticing {
	db, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &noticing{t: t, db: db, cache: settings.NewCache(db), now: time.Date(2026, 3, 2, 12, 30, 0, 0, time.UTC)}
	w.clock, err = clock.New(t.Context(), db)
	w.must(err)
	w.node = kapsel.NewNodeID(w.now)
	w.customer, w.operator = w.tenant("customer"), w.tenant("operator")
	return w
}

func (w *noticing) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *noticing) tenant(name string) kapsel.TenantID {
	made := w.now.Add(-48 * time.Hour)
	t := kapsel.Tenant{ID: kapsel.NewTenantID(made), Name: name, Plan: kapsel.DefaultPlan, CreatedAt: made, UpdatedAt: made}
	w.must(w.db.CreateTenant(w.t.Context(), t))
	return t.ID
}

func (w *noticing) endpoint(tenant kapsel.TenantID, name string, types ...string) kapsel.Endpoint {
	made := w.now.Add(-24 * time.Hour)
	e := kapsel.Endpoint{ID: kapsel.NewEndpointID(made), TenantID: tenant, State: kapsel.EndpointActive, CreatedAt: made, UpdatedAt: made, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint()}
	e.Name, e.Part = name, kapsel.PartOf(e.ID)
	if types != nil {
		e.NoIngest, e.Subscriptions = true, []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: types}}
	}
	w.must(w.db.CreateEndpoint(w.t.Context(), e, 0))
	return e
}

func (w *noticing) circuit(e kapsel.Endpoint, state kapsel.CircuitState) {
	c, err := w.db.Circuit(w.t.Context(), e.ID)
	w.must(err)
	c.Destination, c.State, c.ChangedAt = 1, state, w.now
	_, err = w.db.SaveCircuit(w.t.Context(), c)
	w.must(err)
}

// notifier returns what a node would run.
func (w *noticing) notifier() *upkeep.Notifier {
	return &upkeep.Notifier{
		Store: w.db, Settings: w.cache, Clock: w.clock, Node: w.node, Every: 15 * time.Second, Log: slog.New(slog.DiscardHandler), Operator: w.operator,
		Mail: func(_ context.Context, to []string, subject, text string) ([]string, error) {
			if w.post != nil {
				return w.post(to, subject, text)
			}
			if w.mailErr == nil {
				w.mails = append(w.mails, subject+"\n"+text)
			}
			return nil, w.mailErr
		},
	}
}

// turn makes a notifier look, as a node would that has just started.
func (w *noticing) turn() {
	w.t.Helper()
	w.must(w.cache.Load(w.t.Context()))
	w.must(w.notifier().Turn(w.t.Context(), w.now))
}

// told returns the notices that an endpoint gets, each as "kind state subject", oldest first.
func (w *noticing) told(to kapsel.Endpoint) (all []string) {
	w.t.Helper()
	deliveries, err := w.db.ListDeliveries(w.t.Context(), kapsel.TenantID{}, store.DeliveryFilter{EndpointID: to.ID}, store.Page[kapsel.DeliveryID]{Limit: 100})
	w.must(err)
	for _, d := range deliveries {
		r, err := w.db.Event(w.t.Context(), kapsel.TenantID{}, d.EventID)
		w.must(err)
		var body struct {
			Type string
			Data struct {
				State, Text, Since string
				ObjectID           string `json:"object_id"`
				WhatToDo           string `json:"what_to_do"`
			}
		}
		w.must(json.Unmarshal(r.Event.Body, &body))
		if body.Data.Text == "" || body.Data.Since == "" || (body.Data.WhatToDo == "") != (body.Data.State == "over") || body.Type != r.Event.Type {
			w.t.Errorf("notice %s", r.Event.Body)
		}
		all = append(all, fmt.Sprintf("%s %s %s", strings.TrimPrefix(body.Type, "kapsel.notice."), body.Data.State, body.Data.ObjectID))
	}
	slices.Reverse(all)
	return all
}

func (w *noticing) same(what string, want, got []string) {
	w.t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		w.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// TestNotices checks that a circuit that opens is told once, to the endpoints of its tenant that subscribe
// to notices and to the operator's, and told again when it has closed; that no endpoint that subscribes to
// everything, and none that the notice is about, gets it; that a flapping circuit is told no more often
// than every 15 minutes; and that the state is in the store: each turn here is by a node that knows nothing.
func TestNotices(t *testing.T) {
	w := newNoticing(t)
	broken := w.endpoint(w.customer, "broken", "kapsel.notice.*")
	theirs := w.endpoint(w.customer, "theirs", "kapsel.notice.circuit_open")
	other := w.endpoint(w.customer, "other", "kapsel.notice.dead_letters")
	all := w.endpoint(w.customer, "all", []string{}...)
	everything := w.endpoint(w.customer, "everything", "*")
	ours := w.endpoint(w.operator, "ours", "kapsel.*")
	stranger := w.endpoint(w.tenant("stranger"), "stranger", "kapsel.*")
	w.turn()
	w.same("while all is well", nil, w.told(ours))

	w.circuit(broken, kapsel.CircuitOpened)
	begun := "circuit_open begun " + broken.ID.String()
	for range 3 {
		w.turn()
		w.now = w.now.Add(15 * time.Second)
		w.same("the tenant's", []string{begun}, w.told(theirs))
		w.same("the operator's", []string{begun}, w.told(ours))
	}
	for _, e := range []kapsel.Endpoint{broken, other, all, everything, stranger} {
		w.same("to "+e.Name, nil, w.told(e))
	}
	w.circuit(broken, kapsel.CircuitHalfOpen)
	w.turn()
	w.circuit(broken, kapsel.CircuitClosed)
	w.turn()
	over := "circuit_open over " + broken.ID.String()
	w.same("when it is over", []string{begun, over}, w.told(ours))
	w.circuit(broken, kapsel.CircuitOpened)
	w.turn()
	w.same("when it flaps", []string{begun, over}, w.told(ours))
	w.now = w.now.Add(15 * time.Minute)
	w.turn()
	w.same("a quarter of an hour later", []string{begun, over, begun}, w.told(ours))

	w.same("mails", []string{"1"}, []string{fmt.Sprint(min(1, len(w.mails)))})
	if m := w.mails[0]; !strings.HasPrefix(m, "Kapsel: circuit open, broken\n") || !strings.Contains(m, "What to do: ") || !strings.Contains(m, "since Mon, 02 Mar 2026 12:30:00 UTC") {
		t.Errorf("the mail is %q", m)
	}
}

// TestNotices_Mail checks that what cannot be mailed is mailed later, all in one e-mail.
func TestNotices_Mail(t *testing.T) {
	w := newNoticing(t)
	one, two := w.endpoint(w.customer, "one"), w.endpoint(w.customer, "two")
	w.mailErr = errors.New("no route")
	w.circuit(one, kapsel.CircuitOpened)
	w.must(w.cache.Load(t.Context()))
	if err := w.notifier().Turn(t.Context(), w.now); !errors.Is(err, w.mailErr) {
		t.Fatalf("a mail that fails: %v", err)
	}
	w.mailErr, w.now = nil, w.now.Add(time.Minute)
	w.circuit(two, kapsel.CircuitOpened)
	w.turn()
	w.turn()
	if len(w.mails) != 1 || !strings.Contains(w.mails[0], "and 1 more") || !strings.Contains(w.mails[0], "endpoint one") || !strings.Contains(w.mails[0], "endpoint two") {
		t.Errorf("mails: %q", w.mails)
	}
}

// TestNotices_Kinds checks of each other kind of notice when it begins and when it is over.
func TestNotices_Kinds(t *testing.T) {
	w := newNoticing(t)
	ours := w.endpoint(w.operator, "ours", "kapsel.*")
	e := w.endpoint(w.customer, "shop")
	ctx := t.Context()
	attempts := func(a kapsel.Answer, n int) {
		t.Helper()
		for range n {
			ev := kapsel.Event{ID: kapsel.NewEventID(w.now, e.Part), TenantID: w.customer, EndpointID: e.ID, ReceivedAt: w.now, Signature: kapsel.SignatureVerdict{Scheme: "none"}}
			d := kapsel.Delivery{ID: kapsel.NewDeliveryID(w.now, e.Part), EventID: ev.ID, EndpointID: e.ID, TenantID: w.customer, DueAt: w.now, CreatedAt: w.now}
			d.Status, d.Node, d.Token, d.Claims = kapsel.Delivering, w.node, kapsel.NewAttemptID(w.now, e.Part), 1
			_, err := w.db.Accept(ctx, store.Acceptance{Event: ev, Deliveries: []kapsel.Delivery{d}})
			w.must(err)
			after, err := d.After(a, w.now)
			w.must(err)
			w.must(w.db.Complete(ctx, store.Completion{Delivery: after, Attempt: kapsel.Attempt{
				ID: d.Token, DeliveryID: d.ID, EventID: ev.ID, EndpointID: e.ID, TenantID: w.customer, Number: 1, StartedAt: w.now, StatusCode: a.Status, ErrorCode: a.Code,
			}}))
		}
	}
	update := func(change func(*kapsel.Endpoint)) {
		t.Helper()
		_, err := w.db.UpdateEndpoint(ctx, w.customer, e.ID, func(e *kapsel.Endpoint) error { e.UpdatedAt = w.now; change(e); return nil })
		w.must(err)
	}
	var want []string
	expect := func(kind, state, subject string) {
		t.Helper()
		want = append(want, kind+" "+state+" "+subject)
		w.turn()
		w.same(kind+" "+state, slices.Clone(want), w.told(ours))
	}
	still := func(what string) {
		t.Helper()
		w.turn()
		w.same(what, slices.Clone(want), w.told(ours))
	}
	w.must(w.db.Join(ctx, w.node, w.now, 100*time.Hour))
	id := e.ID.String()

	update(func(e *kapsel.Endpoint) { e.State, e.DisabledReason = kapsel.EndpointDisabled, kapsel.DisabledGone })
	expect("endpoint_disabled", "begun", id)
	update(func(e *kapsel.Endpoint) { e.State, e.DisabledReason = kapsel.EndpointActive, "" })
	expect("endpoint_disabled", "over", id)

	refusal := kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError}
	attempts(refusal, 3)
	still("three that were given up")
	w.now = w.now.Add(59 * time.Minute)
	attempts(refusal, 1)
	still("for 59 minutes")
	w.now = w.now.Add(time.Minute)
	expect("endpoint_failing", "begun", id)
	w.now = w.now.Add(3 * time.Hour)
	still("while nothing is tried")
	attempts(refusal, 10)
	expect("dead_letters", "begun", id)
	attempts(kapsel.Answer{Status: 200}, 1)
	expect("endpoint_failing", "over", id)
	w.now = w.now.Add(2 * time.Hour)
	expect("dead_letters", "over", id)

	update(func(e *kapsel.Endpoint) { e.ExpectEvery = 3 * time.Hour })
	still("something came in two hours ago")
	w.now = w.now.Add(time.Hour)
	expect("nothing_received", "begun", id)
	attempts(kapsel.Answer{Status: 200}, 1)
	expect("nothing_received", "over", id)

	limit := int64(21)
	_, err := w.db.UpdateTenant(ctx, w.customer, func(t *kapsel.Tenant) error {
		t.Limits = kapsel.Limits{Own: true, EventsPerMonth: &limit}
		return nil
	})
	w.must(err)
	still("16 of 21 are used")
	attempts(kapsel.Answer{Status: 200}, 1)
	expect("quota_nearly_used", "begun", w.customer.String())
	w.now = time.Date(2026, 4, 1, 0, 0, 1, 0, time.UTC)
	update(func(e *kapsel.Endpoint) { e.ExpectEvery = 0 })
	expect("quota_nearly_used", "over", w.customer.String())
}
