package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Inbox is what ingest needs.
type Inbox interface {
	// Accept stores an event and its first deliveries, all or none of them. Calls at the same time
	// share a group commit. If the key is remembered in its scope (Event.KeyScope) and its window
	// is not over, Accept stores nothing and returns the first event's ID with Duplicate set. If
	// several calls have the same key at the same time, one stores its event and the others are
	// duplicates of that event.
	//
	// The same holds for a guard, which takes precedence over a key: a call whose guard is
	// remembered is a duplicate of the guard's event and leaves its own key free for other events.
	// If a call is a duplicate by its key alone, its guard is remembered for the key's event.
	//
	// The commit continues if ctx ends. If Accept returns DatabaseUnavailable, the event may be
	// stored. A row that violates a constraint fails only its own call.
	Accept(ctx context.Context, in Acceptance) (Accepted, error)
	// Remembered returns the event that an event's key stands for, if it is remembered in its scope
	// and its window is not over. It changes nothing.
	Remembered(ctx context.Context, e *kapsel.Event) (first kapsel.EventID, ok bool, err error)
	// Current returns a Conflict while a node is alive whose release knows only the events of
	// endpoints' ingests; see rules.OlderNodes. Once Current has returned nil it never returns a
	// Conflict again, because such a release does not start on this release's schema.
	Current(ctx context.Context, now time.Time) error
	// Redeliver makes new deliveries of an event after a duplicate of the event came in. They are
	// pending, due now and ByDuplicate, and made as Archive.Replay makes them: one for each endpoint
	// whose newest delivery of the event was given up (failed or dead_letter), within the bounds of
	// rules.Redeliveries, at most kapsel.MaxInline; if it made as many, there may be more to make.
	// Redeliver returns the deliveries that it made, usually none. If several calls for one event
	// come at the same time, one of them makes the deliveries.
	Redeliver(ctx context.Context, event kapsel.EventID, now time.Time) ([]kapsel.Delivery, error)
}

// Acceptance is an event to store with its first deliveries, at most one for each endpoint. A
// delivery is either pending, or delivering with a node and a token if this node will send the
// delivery itself. An event without deliveries is unmatched.
type Acceptance struct {
	Event      kapsel.Event // IdempotencyKey nil: none
	Deliveries []kapsel.Delivery
	Window     time.Duration // how long the key is remembered, from Event.ReceivedAt

	// ExpandAfter says that the event also goes to endpoints with IDs above this one; zero: it
	// does not. Accept then opens an expansion of the event, which makes those deliveries.
	ExpandAfter kapsel.EndpointID

	// Guard identifies what the sender signed, whatever the key says; nil: none. It is
	// remembered for the event's origin, for GuardWindow from Event.ReceivedAt.
	Guard       []byte
	GuardWindow time.Duration

	// Change is written with the event, if somebody made it by hand; nil: nobody did.
	Change *kapsel.Change
}

// Rehearsal returns an acceptance of an event that belongs to nobody. A store writes it and rolls
// it back to find out whether Accept would succeed.
func Rehearsal() Acceptance {
	now := time.Now().UTC().Truncate(time.Millisecond) // the precision of IDs
	endpoint := kapsel.NewEndpointID(now)
	part := kapsel.PartOf(endpoint)
	e := kapsel.Event{
		ID: kapsel.NewEventID(now, part), TenantID: kapsel.NewTenantID(now), EndpointID: endpoint,
		ReceivedAt: now, IdempotencyKey: []byte("rehearsal"), Salt: kapsel.NewSalt(),
	}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: endpoint, TenantID: e.TenantID,
		DueAt: now, CreatedAt: now,
	}
	return Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Minute}
}

// Accepted names the event that Accept stored or, if Duplicate is set, the event that an earlier
// call stored.
type Accepted struct {
	EventID   kapsel.EventID
	Duplicate bool
}
