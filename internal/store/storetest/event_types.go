package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// typeOf is an event type to create.
func (w *world) typeOf(t kapsel.Tenant, name string) kapsel.EventType {
	return kapsel.EventType{
		ID: kapsel.NewEventTypeID(w.now), TenantID: t.ID, Name: name, CreatedAt: w.now, UpdatedAt: w.now,
		EventTypeConfig: kapsel.EventTypeConfig{Validate: kapsel.ValidateOff},
	}
}

// newType makes an event type of the world's tenant.
func (w *world) newType(name string) kapsel.EventType {
	w.t.Helper()
	e := w.typeOf(w.tenant, name)
	w.must(w.store.CreateEventType(w.ctx, e))
	return e
}

// cataloguing are the promises about event types, and about keys of what a catalogue refuses.
var cataloguing = []promise{
	{"an event type comes back as it was made, and as it was changed", func(w *world) {
		e := w.typeOf(w.tenant, "invoice.paid")
		e.EventTypeConfig = kapsel.EventTypeConfig{
			Description: "Bezahlt ✓", Group: "invoices", Schemas: map[string]json.RawMessage{"1": json.RawMessage(`{"const":"\u0000"}`)},
			Validate: kapsel.ValidateRefuse, Archived: true, Deprecated: true,
		}
		before := w.settings(0).Revision
		w.must(w.store.CreateEventType(w.ctx, e))
		e.Revision = before + 1
		got, err := w.store.EventType(w.ctx, w.tenant.ID, e.Name)
		w.must(err)
		w.same("made", e, got)
		w.same("in the settings", []kapsel.EventType{e}, w.settings(before).Types)
		w.refusedAs(w.store.CreateEventType(w.ctx, e), rules.IDTaken(), "made again")
		w.refusedAs(w.store.CreateEventType(w.ctx, w.typeOf(w.tenant, e.Name)), rules.NameTaken(), "of the same name")

		w.pass(time.Second)
		change := func(e *kapsel.EventType) error {
			e.EventTypeConfig, e.UpdatedAt = kapsel.EventTypeConfig{Validate: kapsel.ValidateWarn}, w.now
			return nil
		}
		changed, err := w.store.UpdateEventType(w.ctx, w.tenant.ID, e.Name, change)
		w.must(err)
		w.must(change(&e))
		e.Revision = before + 2
		w.same("changed", e, changed)
		refusal := kapsel.Errorf(kapsel.Conflict, "no")
		_, err = w.store.UpdateEventType(w.ctx, w.tenant.ID, e.Name, func(e *kapsel.EventType) error { e.Group = "x"; return refusal })
		w.refusedAs(err, refusal, "a change that fails")
		got, err = w.store.EventType(w.ctx, w.tenant.ID, e.Name)
		w.must(err)
		w.same("after it", e, got)

		w.must(w.store.DeleteEventType(w.ctx, w.tenant.ID, e.Name, w.now))
		_, err = w.store.EventType(w.ctx, w.tenant.ID, e.Name)
		w.refused(err, kapsel.NotFound, "a deleted one")
		w.refused(w.store.DeleteEventType(w.ctx, w.tenant.ID, e.Name, w.now), kapsel.NotFound, "deleting it again")
		again := w.newType(e.Name) // the name is free
		e.DeletedAt, e.Revision, again.Revision = w.now, before+3, before+4
		w.same("deleted and made again, in the settings", []kapsel.EventType{e, again}, w.settings(before+2).Types)
		w.same("for who begins", []kapsel.EventType{again}, w.settings(0).Types)
	}},

	{"a tenant's event types are listed, and another's are as missing ones", func(w *world) {
		other := w.newTenant()
		w.must(w.store.CreateEventType(w.ctx, w.typeOf(other, "theirs")))
		w.must(w.store.CreateEventType(w.ctx, w.typeOf(other, "t1")))
		var want []string
		for i := range 5 {
			w.pass(time.Millisecond)
			want = append(want, w.newType(fmt.Sprint("t", i)).Name)
		}
		w.must(w.store.DeleteEventType(w.ctx, w.tenant.ID, want[2], w.now))
		want = slices.Delete(want, 2, 3)
		slices.Reverse(want)
		var got []string
		for p := (store.Page[kapsel.EventTypeID]{Limit: 3}); ; {
			page, err := w.store.ListEventTypes(w.ctx, w.tenant.ID, p)
			w.must(err)
			for _, e := range page {
				got, p.Before = append(got, e.Name), e.ID
			}
			if len(page) < p.Limit {
				break
			}
		}
		w.same("listed", want, got)
		all, err := w.store.ListEventTypes(w.ctx, kapsel.TenantID{}, store.Page[kapsel.EventTypeID]{Limit: 100})
		w.must(err)
		w.same("of all tenants", 6, len(all))

		_, missing := w.store.EventType(w.ctx, w.tenant.ID, "none")
		w.refused(missing, kapsel.NotFound, "reading a missing one")
		_, err = w.store.EventType(w.ctx, w.tenant.ID, "theirs")
		w.refusedAs(err, missing, "reading another's")
		_, err = w.store.UpdateEventType(w.ctx, w.tenant.ID, "theirs", func(*kapsel.EventType) error { return nil })
		w.refusedAs(err, missing, "changing another's")
		w.refusedAs(w.store.DeleteEventType(w.ctx, w.tenant.ID, "theirs", w.now), missing, "deleting another's")
		w.refused(w.store.CreateEventType(w.ctx, w.typeOf(kapsel.Tenant{ID: kapsel.NewTenantID(w.now)}, "a")), kapsel.NotFound, "of a tenant that is missing")
	}},

	{"a tenant has a bounded number of event types, and is deleted with them", func(w *world) {
		tenant := w.newTenant()
		for i := range kapsel.MaxEventTypes {
			w.must(w.store.CreateEventType(w.ctx, w.typeOf(tenant, fmt.Sprint("t", i))))
		}
		w.refusedAs(w.store.CreateEventType(w.ctx, w.typeOf(tenant, "more")), rules.EventTypeRoom(kapsel.MaxEventTypes), "one more")
		w.must(w.store.DeleteEventType(w.ctx, tenant.ID, "t7", w.now))
		w.must(w.store.CreateEventType(w.ctx, w.typeOf(tenant, "more")))
		before := w.settings(0).Revision
		w.must(w.store.DeleteTenant(w.ctx, tenant.ID, w.now))
		_, err := w.store.EventType(w.ctx, tenant.ID, "more")
		w.refused(err, kapsel.NotFound, "reading one of a tenant that is deleted")
		_, err = w.store.UpdateEventType(w.ctx, tenant.ID, "more", func(*kapsel.EventType) error { return nil })
		w.refused(err, kapsel.NotFound, "changing one of a tenant that is deleted")
		listed, err := w.store.ListEventTypes(w.ctx, tenant.ID, store.Page[kapsel.EventTypeID]{Limit: 1})
		w.must(err)
		w.same("listed", 0, len(listed))
		w.same("changed settings", kapsel.MaxEventTypes, len(w.settings(before).Types))
	}},

	{"the event that a key stands for is found without another", func(w *world) {
		first := w.arrived(published, key("k"), ordering("o"))
		repeat := w.arrival(published, key("k"), ordering("o"))
		id, ok, err := w.store.Remembered(w.ctx, &repeat.Event)
		w.must(err)
		w.same("remembered", true, ok)
		w.same("the event", first.Event.ID, id)
		for _, in := range []store.Acceptance{w.arrival(published, key("k")), w.arrival(published, key("l"), ordering("o"))} {
			_, ok, err := w.store.Remembered(w.ctx, &in.Event)
			w.must(err)
			w.same("another key or scope", false, ok)
			got, err := w.store.Accept(w.ctx, in)
			w.must(err)
			w.same("accepted afterwards", store.Accepted{EventID: in.Event.ID}, got)
		}
		w.pass(25 * time.Hour)
		late := w.arrival(published, key("k"), ordering("o"))
		_, ok, err = w.store.Remembered(w.ctx, &late.Event)
		w.must(err)
		w.same("after its window", false, ok)
	}},
}
