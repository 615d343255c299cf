package rules

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Replayable returns the delivery that a replay repeats: the one with the ID of. If of is zero, it is the
// newest of an event that went to one endpoint, and of one that went to several the one that failed, if only
// one did. deliveries must be all of one event, oldest first. If no delivery has the ID, Replayable returns
// missing; if the event does not tell which is meant, an InvalidRequest that asks for an endpoint; if the
// delivery has not ended or was already replayed, a Conflict.
func Replayable(deliveries []kapsel.Delivery, of kapsel.DeliveryID, missing error) (old kapsel.Delivery, err error) {
	if of.IsZero() {
		if old, err = meant(deliveries); err != nil {
			return old, err
		}
	}
	for _, d := range deliveries {
		if d.ID == of {
			old = d
		}
	}
	switch {
	case old.ID.IsZero():
		return old, missing
	case !old.Status.Terminal():
		return old, kapsel.Errorf(kapsel.Conflict, "the delivery is %s; only one that has ended can be replayed", old.Status)
	case !old.ReplayedAs.IsZero():
		return old, kapsel.Errorf(kapsel.Conflict, "the delivery was already replayed as %s", old.ReplayedAs)
	}
	return old, nil
}

// meant returns the delivery that a replay repeats which names none.
func meant(deliveries []kapsel.Delivery) (kapsel.Delivery, error) {
	var newest, failed []kapsel.Delivery // of each endpoint
	for _, d := range deliveries {
		if !d.ReplayedAs.IsZero() {
			continue
		}
		newest = append(newest, d)
		if d.Status == kapsel.DeadLetter || d.Status == kapsel.Failed {
			failed = append(failed, d)
		}
	}
	detail, field := "the event was delivered to no endpoint", "is needed: the event has no delivery that could be repeated"
	switch {
	case len(newest) == 1:
		return newest[0], nil
	case len(failed) == 1:
		return failed[0], nil
	case len(newest) == 0 && len(deliveries) > 0: // somebody repeats it at this moment, and the new one is not seen yet
		return deliveries[len(deliveries)-1], nil
	case len(newest) > 1:
		detail = fmt.Sprintf("the event went to %d endpoints, and %d of these deliveries failed", len(newest), len(failed))
		field = "is needed to say which delivery is meant; POST /v1/replays repeats all that failed"
	}
	return kapsel.Delivery{}, &kapsel.Error{
		Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity, Detail: detail, Fields: []kapsel.FieldError{{Field: "endpoint_id", Detail: field}},
	}
}

// EndpointDeleted returns the error of a replay to a deleted endpoint.
func EndpointDeleted() error {
	return kapsel.Errorf(kapsel.Conflict, "the delivery's endpoint was deleted")
}

// NewReplay returns a new pending delivery, due now, that repeats old. Its ID sorts after old's,
// even within the same millisecond and if the nodes' clocks differ, because the order of IDs is
// the order of an event's deliveries.
func NewReplay(old *kapsel.Delivery, now time.Time) kapsel.Delivery {
	made := now
	if next := old.ID.Time().Add(time.Millisecond); next.After(made) {
		made = next
	}
	return kapsel.Delivery{
		ID: kapsel.NewDeliveryID(made, old.ID.Part()), EventID: old.EventID, EndpointID: old.EndpointID, TenantID: old.TenantID,
		Status: kapsel.Pending, DueAt: now, ReplayOf: old.ID, Size: old.Size, CreatedAt: now,
	}
}

// NewDelivery returns the first delivery of an event to the endpoint to, pending and due now.
// deliveries must be all of the event's. If one of them goes to the endpoint, NewDelivery returns
// a Conflict, as of an event that was erased; if the event was not published to the endpoint's app, an InvalidRequest.
func NewDelivery(e *kapsel.Event, deliveries []kapsel.Delivery, to *kapsel.Endpoint, now time.Time) (kapsel.Delivery, error) {
	if !e.ErasedAt.IsZero() {
		return kapsel.Delivery{}, Erased()
	}
	for _, d := range deliveries {
		if d.EndpointID == to.ID {
			return kapsel.Delivery{}, kapsel.Errorf(kapsel.Conflict, "the event has the delivery %s to this endpoint", d.ID)
		}
	}
	if e.AppID != to.AppID {
		return kapsel.Delivery{}, &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity, Detail: "the event is not of the endpoint's app",
			Fields: []kapsel.FieldError{{Field: "endpoint_id", Detail: "is of another app: an app's endpoints get what is published to the app and nothing else, and no other endpoint gets that"}},
		}
	}
	return newFirst(e, to.ID, now, now), nil
}

// newFirst returns a first delivery of an event.
func newFirst(e *kapsel.Event, to kapsel.EndpointID, due, now time.Time) kapsel.Delivery {
	return kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, e.ID.Part()), EventID: e.ID, EndpointID: to, TenantID: e.TenantID,
		Status: kapsel.Pending, DueAt: due, Size: e.Size, CreatedAt: now,
	}
}

// Expanded returns the delivery that an expansion of an event makes to an endpoint. gets is false
// if the endpoint gets none; see kapsel.Endpoint.Gets.
// The delivery is due now, or when the event is.
func Expanded(e *kapsel.Event, to *kapsel.Endpoint, now time.Time) (d kapsel.Delivery, gets bool) {
	if !to.Gets(e) {
		return kapsel.Delivery{}, false
	}
	return newFirst(e, to.ID, e.FirstDue(now), now), true
}

// MissingWindow is how many events a step of a replay of what is missing looks at: most of them may
// have been delivered.
const MissingWindow = 256

// Lacking returns those of a tenant's events, in the order of their IDs, that belong to the set of a
// replay of what is missing at an endpoint, as first deliveries without an ID, up to most. had
// reports whether an event has a delivery to the endpoint, or an open expansion that may make one.
// more says that events after the last one returned were not looked at.
func Lacking(r *kapsel.Replay, e *kapsel.Endpoint, events []kapsel.Event, most int, had func(kapsel.EventID) bool) (set []kapsel.Delivery, last [16]byte, more bool) {
	for i := range events {
		if len(set) == most {
			return set, last, true
		}
		ev := &events[i]
		last = ev.ID
		if ev.ErasedAt.IsZero() && r.Lacks(e, ev) && !had(ev.ID) {
			set = append(set, kapsel.Delivery{EventID: ev.ID, EndpointID: e.ID, TenantID: e.TenantID, DueAt: ev.DeliverAt, Size: ev.Size})
		}
	}
	return set, last, false
}

// NewMissing returns the delivery that a replay of what is missing makes of an element of its set:
// pending, and due now, or when its event was published for.
func NewMissing(lacking *kapsel.Delivery, now time.Time) kapsel.Delivery {
	d := *lacking
	d.ID, d.Status, d.CreatedAt = kapsel.NewDeliveryID(now, d.EventID.Part()), kapsel.Pending, now
	if !d.DueAt.After(now) {
		d.DueAt = now
	}
	return d
}

// OriginsOf returns the origins of the events that an endpoint subscribes to, each once. That of
// what is published to an app is the tenant.
func OriginsOf(e *kapsel.Endpoint) (origins []kapsel.OriginID) {
	for i := range e.Subscriptions {
		if o := e.Subscriptions[i].Origin(kapsel.OriginID(e.TenantID)); !slices.Contains(origins, o) {
			origins = append(origins, o)
		}
	}
	return origins
}

// Bounds of the deliveries to one endpoint that duplicates of an event cause.
const (
	MaxRedeliveries = 10
	RedeliveryPause = time.Minute // least time between two of them
)

// Redeliveries returns the deliveries of an event that a duplicate of the event, received at now,
// repeats. For each endpoint that is the newest delivery, if it failed (a canceled one does not
// count), was not replayed, and the bounds above allow another. deliveries must be all of the
// event's, oldest first; the result has the same order, and may have deliveries to deleted endpoints,
// which get nothing. One call of the store makes at most kapsel.MaxInline deliveries of it.
func Redeliveries(deliveries []kapsel.Delivery, now time.Time) (old []kapsel.Delivery) {
	type state struct {
		newest kapsel.Delivery
		made   int       // number of deliveries caused by duplicates
		last   time.Time // when the newest of those was made
	}
	byEndpoint := map[kapsel.EndpointID]state{}
	for _, d := range deliveries {
		s := byEndpoint[d.EndpointID]
		s.newest = d
		if d.ByDuplicate {
			s.made++
			s.last = d.CreatedAt
		}
		byEndpoint[d.EndpointID] = s
	}
	for _, d := range deliveries {
		s := byEndpoint[d.EndpointID]
		givenUp := d.Status == kapsel.Failed || d.Status == kapsel.DeadLetter
		if d.ID == s.newest.ID && givenUp && d.ReplayedAs.IsZero() &&
			s.made < MaxRedeliveries && (s.made == 0 || now.Sub(s.last) >= RedeliveryPause) {
			old = append(old, d)
		}
	}
	return old
}

// NewRedelivery is NewReplay for a delivery that a duplicate of the event caused.
func NewRedelivery(old *kapsel.Delivery, now time.Time) kapsel.Delivery {
	d := NewReplay(old, now)
	d.ByDuplicate = true
	return d
}

// Cursor is the position of a walk over a bulk replay's set: past all endpoints below Endpoint,
// and past the candidates of Endpoint up to Candidate.
type Cursor struct {
	Endpoint  kapsel.EndpointID
	Candidate [16]byte
}

// Candidates reads a store for Walk. A candidate is an event or a delivery, whichever the store's
// indexes favour; Cursor.Candidate is its ID.
type Candidates interface {
	// Endpoint returns the first of the replay's endpoints with an ID at or after from. It skips
	// deleted endpoints.
	Endpoint(from kapsel.EndpointID) (id kapsel.EndpointID, found bool, err error)
	// Read reads up to n candidates after a cursor, and returns up to most of them that are in the
	// replay's set.
	Read(at Cursor, n, most int) (Read, error)
}

// Read is what Candidates.Read found.
type Read struct {
	Set  []kapsel.Delivery
	Seen int      // how many candidates were read
	Last [16]byte // Cursor.Candidate after them
	More bool     // whether the endpoint may have more
}

// Walk reads about n more candidates of a bulk replay. It returns up to most of them that are in
// the set, the cursor after them, and whether the set ends there. Each endpoint counts as one more
// candidate, so a step stays short if many endpoints have none. If err is not nil, the other
// results mean nothing and the caller must repeat the step.
func Walk(from Candidates, at Cursor, n, most int) (set []kapsel.Delivery, next Cursor, end bool, err error) {
	for n > 0 && len(set) < most {
		endpoint, found, err := from.Endpoint(at.Endpoint)
		if err != nil || !found {
			return set, at, err == nil, err
		}
		if endpoint != at.Endpoint {
			at = Cursor{Endpoint: endpoint}
		}
		read, err := from.Read(at, n, most-len(set))
		if err != nil {
			return nil, at, false, err
		}
		set = append(set, read.Set...)
		if read.More {
			at.Candidate = read.Last
		} else {
			at = Cursor{Endpoint: following(endpoint)}
		}
		n -= read.Seen + 1
	}
	return set, at, false, nil
}

// following returns the next greater ID.
func following(id kapsel.EndpointID) kapsel.EndpointID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// StatusBits returns a set of statuses as a number with one bit per status.
func StatusBits(statuses []kapsel.DeliveryStatus) (bits int) {
	for _, s := range statuses {
		bits |= 1 << s
	}
	return bits
}

// StatusesOf returns the statuses in a number from StatusBits, in the order of the constants.
func StatusesOf(bits int) (statuses []kapsel.DeliveryStatus) {
	for s := kapsel.Pending; s <= kapsel.Canceled; s++ {
		if bits&(1<<s) != 0 {
			statuses = append(statuses, s)
		}
	}
	return statuses
}
