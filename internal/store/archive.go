package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Page asks for up to Limit rows with ids below Before (zero: from the newest), newest first.
type Page[ID any] struct {
	Before ID
	Limit  int
	// Look is how many rows ListEvents looks at, at most about; 0: DefaultLook. Other lists have no such bound.
	Look int
}

// DefaultLook bounds what a page of events costs when few events pass its filter: with it, a page takes some
// tens of milliseconds.
const DefaultLook = 1000

// Looks returns how many rows a list may look at.
func (p Page[ID]) Looks() int { return cmp.Or(p.Look, DefaultLook) }

// Archive is what people read of events, and do to single deliveries. A zero tenant means
// every tenant. Rows of another tenant are NotFound or left out.
type Archive interface {
	// Event reads an event with its body and its deliveries, oldest first.
	Event(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (EventRecord, error)
	// EventHead is Event without the body.
	EventHead(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (EventRecord, error)
	// ListEvents lists events without bodies, headers and queries, each with its deliveries, of
	// which EventRecord.Digest may have left out some. If it ends a page early, because it has looked at
	// Page.Look rows, reached is where it stopped: the page has all events down to that ID which pass the
	// filter, and the next page begins before it. Otherwise reached is zero, and a page with fewer events
	// than Limit is the last.
	ListEvents(ctx context.Context, tenant kapsel.TenantID, f EventFilter, p Page[kapsel.EventID]) (page []EventRecord, reached kapsel.EventID, err error)
	Delivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID) (kapsel.Delivery, error)
	ListDeliveries(ctx context.Context, tenant kapsel.TenantID, f DeliveryFilter, p Page[kapsel.DeliveryID]) ([]kapsel.Delivery, error)
	// MoveDelivery changes a delivery by Delivery.After(t, now), for Retry and Cancel.
	MoveDelivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, t kapsel.Transition, now time.Time) (kapsel.Delivery, error)
	// CancelEvent cancels an event's pending deliveries, only those to one endpoint unless that is
	// zero, as MoveDelivery does, and returns how many. For the zero endpoint it first ends the
	// event's expansion; ended says that there was one. It takes several transactions, and a
	// delivery that starts meanwhile goes on.
	CancelEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (canceled int, ended bool, err error)
	// EraseEvent erases the contents of an event for ever: its body, headers, query and salt, what its
	// attempts keep of requests and answers, and the texts of its attempts' leaves. What stays are IDs,
	// times, states and the idempotency key, and the hashes of the leaves. The transaction that does it
	// writes entries of the outbox from which leaves are made that say so. It returns when the contents
	// were erased; a repeated call does nothing. Conflict: not all of its deliveries are made and ended.
	//
	// If the event has very many attempts, the first transaction erases what the event itself has, and
	// others follow, each with its entry. If one fails, a repeated call goes on behind those before.
	EraseEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, now time.Time) (at time.Time, err error)
	// Replay makes a new pending delivery, due now, that repeats a terminal one: when of is zero the
	// one that rules.Replayable finds. Conflict: it is not terminal, already replayed, its
	// endpoint is deleted, or the event was erased. InvalidRequest: of is zero, and the event does not tell which is meant.
	Replay(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, of kapsel.DeliveryID, now time.Time) (kapsel.Delivery, error)
	// Deliver makes the first delivery of an event to an endpoint, pending and due now. Conflict:
	// the event has a delivery to it, or was erased. NotFound: there is no such event, or the event's tenant
	// has no such endpoint. InvalidRequest: the endpoint belongs to another app than the event.
	Deliver(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (kapsel.Delivery, error)
	Attempt(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) (kapsel.Attempt, error)
	// ListAttempts lists a delivery's attempts by number.
	ListAttempts(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, after int, limit int) ([]kapsel.Attempt, error)
}

// EventRecord is an event with what became of it.
type EventRecord struct {
	Event      kapsel.Event
	Deliveries []kapsel.Delivery // oldest first
	Expanding  bool              // others are still being made; see Expansions
	// Left names the endpoints of the deliveries that Digest has left out.
	Left []kapsel.EndpointID
}

// Status returns the event's status.
func (r *EventRecord) Status() kapsel.EventStatus {
	return kapsel.StatusOfEvent(r.Newest(), r.Expanding)
}

// Newest returns the event's newest delivery to each endpoint: those that no other repeats.
func (r *EventRecord) Newest() []kapsel.Delivery {
	newest := make([]kapsel.Delivery, 0, len(r.Deliveries))
	for _, d := range r.Deliveries {
		if d.ReplayedAs.IsZero() {
			newest = append(newest, d)
		}
	}
	return newest
}

// Digest leaves out deliveries of an event that has more than kapsel.MaxInline, for lists of such
// events. What is left gives the event the same status and the same first delivery.
func (r *EventRecord) Digest() {
	if len(r.Deliveries) <= kapsel.MaxInline {
		return
	}
	type kind struct {
		status kapsel.DeliveryStatus
		tried  bool
	}
	first := -1 // to be delivered
	seen := map[kind]bool{}
	var kept []kapsel.Delivery
	for i, d := range r.Deliveries {
		if d.Status == kapsel.Delivered && (first < 0 || d.FinishedAt.Before(r.Deliveries[first].FinishedAt)) {
			first = i
		}
	}
	for i, d := range r.Deliveries {
		k := kind{d.Status, d.Attempts > 0}
		if newest := d.ReplayedAs.IsZero() && !seen[k]; newest || i == first {
			seen[k] = seen[k] || newest
			kept = append(kept, d)
		} else {
			r.Left = append(r.Left, d.EndpointID)
		}
	}
	r.Deliveries = kept
}

// To reports whether the event has a delivery to an endpoint.
func (r *EventRecord) To(endpoint kapsel.EndpointID) bool {
	return slices.ContainsFunc(r.Deliveries, func(d kapsel.Delivery) bool { return d.EndpointID == endpoint }) || slices.Contains(r.Left, endpoint)
}

// EventFilter narrows ListEvents; zero fields do not. Since and Until compare ReceivedAt, half-open.
type EventFilter struct {
	EndpointID kapsel.EndpointID // events that have a delivery to it
	SourceID   kapsel.SourceID   // events that came in at it
	AppID      kapsel.AppID      // events that were published to it
	Type       string            // events of exactly this type
	// Shared says that other endpoints get events of EndpointID's ingest, so that a status may
	// come from their deliveries; a list of a status then looks at all events of the ingest.
	Shared         bool
	Status         kapsel.EventStatus
	Since, Until   time.Time
	IdempotencyKey []byte
}

// DeliveryFilter narrows ListDeliveries; zero fields do not.
type DeliveryFilter struct {
	EndpointID kapsel.EndpointID
	Status     *kapsel.DeliveryStatus
	Replayed   *bool // whether ReplayedAs is set
}
