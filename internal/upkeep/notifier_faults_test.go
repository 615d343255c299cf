package upkeep_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// TestNotices_Retention checks that an event that retention deletes is remembered: expect_every may be longer
// than events are kept. What was deleted before anybody looked may have come in until then.
func TestNotices_Retention(t *testing.T) {
	const day = 24 * time.Hour
	w := newNoticing(t)
	ours := w.endpoint(w.operator, "ours", "kapsel.*")
	made := w.now.Add(-60 * day)
	var both []string
	for _, deleted := range []bool{false, true} {
		e := kapsel.Endpoint{ID: kapsel.NewEndpointID(made), TenantID: w.customer, State: kapsel.EndpointActive, CreatedAt: made, UpdatedAt: made, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint()}
		e.Name, e.Part, e.ExpectEvery = fmt.Sprint("deleted before: ", deleted), kapsel.PartOf(e.ID), 10*day
		w.must(w.db.CreateEndpoint(t.Context(), e, 0))
		both = append(both, "nothing_received begun "+e.ID.String())
		if deleted {
			continue
		}
		at := w.now.Add(-8 * day)
		ev := kapsel.Event{ID: kapsel.NewEventID(at, e.Part), TenantID: w.customer, EndpointID: e.ID, ReceivedAt: at, Salt: kapsel.NewSalt()}
		d := kapsel.Delivery{ID: kapsel.NewDeliveryID(at, e.Part), EventID: ev.ID, EndpointID: e.ID, TenantID: w.customer, CreatedAt: at, DueAt: at, Status: kapsel.Pending}
		_, err := w.db.Accept(t.Context(), store.Acceptance{Event: ev, Deliveries: []kapsel.Delivery{d}})
		w.must(err)
		_, err = w.db.MoveDelivery(t.Context(), w.customer, d.ID, kapsel.Cancel{}, at)
		w.must(err)
	}
	retention := 7 * day
	_, err := w.db.UpdateTenant(t.Context(), w.customer, func(t *kapsel.Tenant) error {
		t.Limits = kapsel.Limits{Own: true, Retention: &retention}
		return nil
	})
	w.must(err)
	w.turn()
	n, err := w.db.DeleteFinished(t.Context(), w.customer, w.now.Add(-retention), 500)
	w.must(err)
	if n != 1 {
		t.Fatalf("%d events were deleted", n)
	}
	w.turn()
	w.same("8 days after the last event", nil, w.told(ours))
	w.now = w.now.Add(10*day - retention + time.Hour)
	w.turn()
	w.same("after more than expect_every", both, w.told(ours))
}

// TestNotices_OneTenant checks that a tenant with many notices is told that there are more, and keeps no
// other tenant's from being told.
func TestNotices_OneTenant(t *testing.T) {
	w := newNoticing(t)
	ours := w.endpoint(w.operator, "ours", "kapsel.notice.many_notices")
	var all []kapsel.Endpoint
	for i := range 60 {
		all = append(all, w.endpoint(w.customer, fmt.Sprint("broken ", i)))
		w.circuit(all[i], kapsel.CircuitOpened)
	}
	other := w.tenant("other")
	theirs := w.endpoint(other, "theirs", "kapsel.*")
	one := w.endpoint(other, "one")
	w.circuit(one, kapsel.CircuitOpened)
	w.turn()
	w.same("another tenant's", []string{"circuit_open begun " + one.ID.String()}, w.told(theirs))
	w.same("the operator's", []string{"many_notices begun " + w.customer.String()}, w.told(ours))
	told := strings.Count(w.mails[0], "Notice: ")
	if told != 50+1+1 || !strings.Contains(w.mails[0], "customer has 10 notices more") {
		t.Errorf("%d notices are mailed: %s", told, w.mails[0])
	}
	for i := range all[:30] { // what rests counts, so that a flapping tenant has no more
		w.circuit(all[i], kapsel.CircuitClosed)
	}
	w.turn()
	w.now = w.now.Add(16 * time.Minute)
	w.turn()
	w.same("later", []string{"many_notices begun " + w.customer.String(), "many_notices over " + w.customer.String()}, w.told(ours))
}

// TestNotices_Over checks that a notice that is over says why: an endpoint that was deleted, or takes nothing,
// is not well.
func TestNotices_Over(t *testing.T) {
	w := newNoticing(t)
	ctx := t.Context()
	names := []string{"closed", "gone", "stopped", "removed"}
	ends := map[string]func(kapsel.Endpoint){
		"closed": func(e kapsel.Endpoint) { w.circuit(e, kapsel.CircuitClosed) },
		"gone": func(e kapsel.Endpoint) {
			_, err := w.db.UpdateEndpoint(ctx, w.customer, e.ID, func(e *kapsel.Endpoint) error {
				e.State, e.DisabledReason = kapsel.EndpointDisabled, kapsel.DisabledGone
				return nil
			})
			w.must(err)
		},
		"stopped": func(e kapsel.Endpoint) {
			_, err := w.db.UpdateEndpoint(ctx, w.customer, e.ID, func(e *kapsel.Endpoint) error { e.State = kapsel.EndpointPaused; return nil })
			w.must(err)
		},
		"removed": func(e kapsel.Endpoint) { w.must(w.db.DeleteEndpoint(ctx, w.customer, e.ID, w.now)) },
	}
	all := map[string]kapsel.Endpoint{}
	for _, name := range names {
		all[name] = w.endpoint(w.customer, name)
		w.circuit(all[name], kapsel.CircuitOpened)
	}
	silent := kapsel.Source{ID: kapsel.NewSourceID(w.now), TenantID: w.customer, State: kapsel.SourceActive, CreatedAt: w.now.Add(-24 * time.Hour), UpdatedAt: w.now}
	silent.Name, silent.ExpectEvery = "silent", time.Hour
	w.must(w.db.CreateSource(ctx, silent))
	w.turn()
	for name, end := range ends {
		end(all[name])
	}
	_, err := w.db.UpdateSource(ctx, w.customer, silent.ID, func(s *kapsel.Source) error { s.State = kapsel.SourceDisabled; return nil })
	w.must(err)
	w.now = w.now.Add(time.Minute)
	w.turn()
	if len(w.mails) != 2 {
		t.Fatalf("mails: %q", w.mails)
	}
	for _, want := range []string{
		"Over (solved): the circuit of endpoint closed ", "Over (disabled): the circuit of endpoint gone ", "Notice: endpoint gone was disabled",
		"Over (paused): the circuit of endpoint stopped ", "Over (deleted): the circuit of endpoint removed ", "Over (disabled): nothing came in at source silent ",
	} {
		if !strings.Contains(w.mails[1], want) {
			t.Errorf("the e-mail lacks %q: %s", want, w.mails[1])
		}
	}
	w.must(w.db.DeleteEndpoint(ctx, w.customer, all["gone"].ID, w.now))
	w.now = w.now.Add(time.Minute)
	w.turn()
	if want := "Over (deleted): endpoint gone was disabled"; !strings.Contains(w.mails[2], want) {
		t.Errorf("the e-mail lacks %q: %s", want, w.mails[2])
	}
}

// TestNotices_MailRefused checks that a recipient that takes nothing for now gets what the others have got
// when it does, and that a message that the mail server refuses keeps no other from being mailed.
func TestNotices_MailRefused(t *testing.T) {
	w := newNoticing(t)
	type letter struct {
		to   []string
		text string
	}
	var sent []letter
	full, refuse := true, false
	w.post = func(to []string, _, text string) (later []string, err error) {
		switch {
		case refuse && strings.Contains(text, "poison"):
			return nil, fmt.Errorf("%w: 554", upkeep.ErrLetter)
		case full && len(to) > 0:
			return nil, errors.New("mailbox full")
		case full:
			later = []string{"full@example.com"}
		}
		sent = append(sent, letter{to, text})
		return later, nil
	}
	n := w.notifier()
	turn := func() {
		t.Helper()
		w.must(w.cache.Load(t.Context()))
		_ = n.Turn(t.Context(), w.now) // a failure is in what was sent
		w.now = w.now.Add(time.Minute)
	}
	one := w.endpoint(w.customer, "one")
	w.circuit(one, kapsel.CircuitOpened)
	turn()
	turn()
	if len(sent) != 1 || sent[0].to != nil {
		t.Fatalf("sent %q", sent)
	}
	full = false
	turn()
	turn()
	if len(sent) != 2 || !slices.Equal(sent[1].to, []string{"full@example.com"}) || sent[1].text != sent[0].text {
		t.Fatalf("sent %q", sent)
	}

	refuse = true
	for _, name := range []string{"two", "three", "poison", "four", "five"} {
		w.circuit(w.endpoint(w.customer, name), kapsel.CircuitOpened)
	}
	turn()
	turn()
	text := ""
	for _, l := range sent[2:] {
		text += l.text
	}
	for _, name := range []string{"two", "three", "four", "five"} {
		if strings.Count(text, "the circuit of endpoint "+name+" ") != 1 {
			t.Errorf("%s is not mailed once: %s", name, text)
		}
	}
	refuse, sent = false, nil
	turn()
	if len(sent) > 0 {
		t.Errorf("the message that was refused is mailed before an hour is over: %q", sent)
	}
	w.now = w.now.Add(time.Hour)
	turn()
	turn()
	text = ""
	for _, l := range sent {
		text += l.text
	}
	if strings.Count(text, "the circuit of endpoint poison ") != 1 {
		t.Errorf("the message that was refused is not mailed once: %s", text)
	}
}
