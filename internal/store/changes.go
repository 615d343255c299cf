package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Changes keeps who changed what.
type Changes interface {
	// By returns the same store for changes that an author makes. What the methods of Directory,
	// Archive, Replays, PortalLinks, PortalLogos and Sessions change through it leaves a row, written in the transaction of the
	// change; the use of a session, and what CreateSession ends, leave none. A
	// call that fails, or that changes nothing that Author.Show shows, leaves none. CancelEvent leaves
	// one for each of its transactions.
	By(a Author) Store
	// AddChange writes the row of a change that no other method makes, such as one of the instance.
	AddChange(ctx context.Context, c kapsel.Change) error
	// ListChanges lists the changes that pass a filter: those of a tenant, or all for the zero tenant.
	ListChanges(ctx context.Context, tenant kapsel.TenantID, f ChangeFilter, p Page[kapsel.ChangeID]) ([]kapsel.Change, error)
	// DeleteOldChanges deletes up to limit rows of changes that at now are older than
	// kapsel.ChangesKept.
	DeleteOldChanges(ctx context.Context, now time.Time, limit int) (deleted int, err error)
}

// ChangeFilter narrows ListChanges; zero fields do not. Since and Until compare the time of the change to
// the millisecond, half-open.
type ChangeFilter struct {
	Subject      string // the ID of the object
	Kind         string // of the object
	Verb         string
	KeyID        kapsel.KeyID
	Since, Until time.Time
}

// Author is who makes changes through a store, and how they are described.
type Author struct {
	Actor kapsel.Actor
	Verb  string
	At    time.Time
	// Show returns an object as people see it at a time, without secrets, for encoding/json. Show gets a
	// pointer to a tenant, key, endpoint, source, app, event type, delivery, replay, portal link, portal logo or session.
	Show func(object any, at time.Time) any
}

// Seen is an object as it was at one moment of a change.
type Seen struct {
	Tenant  kapsel.TenantID
	Subject kapsel.Subject
	state   map[string]any // nil: the object is not there
}

// See returns an object, which must be one that Show gets, as it is now. An object that is deleted is not
// there. See returns the zero Seen if nobody is the author.
func (a *Author) See(object any) Seen {
	if a == nil {
		return Seen{}
	}
	var s Seen
	deleted := false
	switch o := object.(type) {
	case *kapsel.Tenant:
		s = Seen{o.ID, kapsel.Subject{Kind: kapsel.KindTenant, ID: o.ID.String(), Name: o.Name}, nil}
		deleted = !o.DeletedAt.IsZero()
	case *kapsel.Key:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindKey, ID: o.ID.String(), Name: o.Name}, nil}
	case *kapsel.Endpoint:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindEndpoint, ID: o.ID.String(), Name: o.Name}, nil}
		deleted = !o.DeletedAt.IsZero()
	case *kapsel.Source:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindSource, ID: o.ID.String(), Name: o.Name}, nil}
		deleted = !o.DeletedAt.IsZero()
	case *kapsel.App:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindApp, ID: o.ID.String(), Name: o.Name}, nil}
		deleted = !o.DeletedAt.IsZero()
	case *kapsel.EventType:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindEventType, ID: o.ID.String(), Name: o.Name}, nil}
		deleted = !o.DeletedAt.IsZero()
	case *kapsel.Delivery:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindDelivery, ID: o.ID.String()}, nil}
	case *kapsel.PortalLink:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindPortalLink, ID: o.ID.String()}, nil}
	case *kapsel.PortalLogo:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindPortalLogo, ID: o.TenantID.String()}, nil}
	case *kapsel.Session:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindSession, ID: o.ID.String(), Name: o.Name}, nil}
	case *kapsel.Replay:
		s = Seen{o.TenantID, kapsel.Subject{Kind: kapsel.KindReplay, ID: o.ID.String()}, nil}
	default:
		panic(fmt.Sprintf("see %T", object))
	}
	if !deleted {
		s.state = fields(a.Show(object, a.At))
	}
	return s
}

// SeeCircuit returns an endpoint with no more of it than its circuit, as it is stored.
func (a *Author) SeeCircuit(e *kapsel.Endpoint, row kapsel.Circuit) Seen {
	now := e.CircuitNow(row)
	circuit := map[string]any{"state": now.State}
	state := map[string]any{"circuit": circuit}
	if !now.RetryAt.IsZero() {
		circuit["retry_at"] = now.RetryAt
	}
	if now.HoldUntil.After(a.At) {
		state["throttled_until"] = now.HoldUntil
	}
	return a.Made(e.TenantID, kapsel.KindEndpoint, e.ID, e.Name, state)
}

// SeeMeta returns the instance with the name of a value of it that was replaced.
func (a *Author) SeeMeta(name string) Seen {
	return a.Made(kapsel.TenantID{}, kapsel.KindInstance, kapsel.TenantID{}, "", map[string]any{"replaced": name})
}

// Made returns what somebody did to an object that is not shown itself, such as the delivery that a replay
// of an event made. state is for encoding/json; an object of Show is shown.
func (a *Author) Made(tenant kapsel.TenantID, kind string, id fmt.Stringer, name string, state any) Seen {
	if a == nil {
		return Seen{}
	}
	if d, ok := state.(*kapsel.Delivery); ok {
		state = a.Show(d, a.At)
	}
	return Seen{tenant, kapsel.Subject{Kind: kind, ID: id.String(), Name: name}, fields(state)}
}

// fields returns the fields of what encoding/json makes an object of.
func fields(v any) (m map[string]any) {
	text, err := json.Marshal(v)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		err = dec.Decode(&m)
	}
	if err != nil || m == nil {
		panic(fmt.Sprintf("%T is shown as no JSON object: %v", v, err))
	}
	delete(m, "updated_at") // it says no more than the row's own time
	return m
}

// Change returns the row of a change of an object from one state to another, and reports whether there is
// one: nobody may be the author, and the states may be equal. before is the zero Seen if the object is
// made.
func (a *Author) Change(before, after Seen) (kapsel.Change, bool) {
	if a == nil || before.state == nil && after.state == nil {
		return kapsel.Change{}, false
	}
	named := before
	if before.state == nil {
		named = after
	}
	c := kapsel.Change{ID: kapsel.NewChangeID(a.At), TenantID: named.Tenant, At: a.At, Actor: a.Actor, Verb: a.Verb, Subject: named.Subject}
	was, is := before.state, after.state
	if was != nil && is != nil {
		if was, is = differing(was, is); was == nil {
			return kapsel.Change{}, false
		}
	}
	c.Before, c.After = stored(was), stored(is)
	return c, true
}

// stored returns the JSON of a state; nil for none.
func stored(state map[string]any) []byte {
	if state == nil {
		return nil
	}
	return text(state)
}

// text returns the JSON of what came from JSON, so that equal values have the same text.
func text(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// differing returns of two objects the fields that differ, nil if none do. Of fields that are objects in
// both it returns their fields that differ.
func differing(a, b map[string]any) (was, is map[string]any) {
	put := func(m *map[string]any, name string, v any) {
		if *m == nil {
			*m = map[string]any{}
		}
		(*m)[name] = v
	}
	for name, v := range a {
		w, there := b[name]
		if there && string(text(v)) == string(text(w)) {
			continue
		}
		x, isObject := v.(map[string]any)
		y, both := w.(map[string]any)
		if isObject && both {
			inWas, inIs := differing(x, y)
			v, w = inWas, inIs
		}
		put(&was, name, v)
		put(&is, name, w)
	}
	for name, w := range b {
		if _, there := a[name]; !there {
			put(&was, name, nil)
			put(&is, name, w)
		}
	}
	return was, is
}
