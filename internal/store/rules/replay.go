package rules

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Replayable returns the delivery of an event that a replay repeats: the one with an id, or
// the newest for the zero id. deliveries are the event's, oldest first. missing is returned
// where there is none.
func Replayable(deliveries []kapsel.Delivery, of kapsel.DeliveryID, missing error) (old kapsel.Delivery, err error) {
	for _, d := range deliveries {
		if of.IsZero() || d.ID == of {
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

// EndpointDeleted refuses to replay a delivery to an endpoint that is deleted.
func EndpointDeleted() error {
	return kapsel.Errorf(kapsel.Conflict, "the delivery's endpoint was deleted")
}

// NewReplay returns a pending delivery, due now, that repeats one. Its id sorts after the old
// one's, also within a millisecond and whatever the nodes' clocks say: the order of ids is the
// order of an event's deliveries.
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

// NewDelivery returns the first delivery of an event to an endpoint that had none of it, pending
// and due now. deliveries are the event's. Conflict: one of them is to the endpoint.
func NewDelivery(e *kapsel.Event, deliveries []kapsel.Delivery, to kapsel.EndpointID, now time.Time) (kapsel.Delivery, error) {
	for _, d := range deliveries {
		if d.EndpointID == to {
			return kapsel.Delivery{}, kapsel.Errorf(kapsel.Conflict, "the event has the delivery %s to this endpoint", d.ID)
		}
	}
	return kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, e.ID.Part()), EventID: e.ID, EndpointID: to, TenantID: e.TenantID,
		Status: kapsel.Pending, DueAt: now, Size: e.Size, CreatedAt: now,
	}, nil
}

// Bounds of the deliveries that duplicates of an event make to one endpoint.
const (
	MaxRedeliveries = 10
	RedeliveryPause = time.Minute // from one to the next
)

// Redeliveries returns the deliveries of an event that a duplicate of it repeats at now: of each
// endpoint the newest one, if it was given up, which canceled ones are not, and the bounds allow
// another. deliveries are the event's, oldest first, as is what it returns.
func Redeliveries(deliveries []kapsel.Delivery, now time.Time) (old []kapsel.Delivery) {
	type state struct {
		newest kapsel.Delivery
		made   int       // by duplicates
		last   time.Time // when
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

// NewRedelivery is NewReplay for a duplicate.
func NewRedelivery(old *kapsel.Delivery, now time.Time) kapsel.Delivery {
	d := NewReplay(old, now)
	d.ByDuplicate = true
	return d
}

// Cursor is how far the set of a bulk replay was walked: all endpoints below one, and of that
// one the candidates up to an id.
type Cursor struct {
	Endpoint  kapsel.EndpointID
	Candidate [16]byte
}

// Candidates is what a walk reads from a store. Their ids are of events or of deliveries, as
// the store's indexes have it.
type Candidates interface {
	// Endpoint returns the first of the replay's endpoints with an id from the given one on;
	// deleted endpoints are not among them.
	Endpoint(from kapsel.EndpointID) (id kapsel.EndpointID, found bool, err error)
	// Read returns which of the next n candidates behind a cursor are in the replay's set, how
	// many it looked at, and the id of the last one.
	Read(at Cursor, n int) (set []kapsel.Delivery, seen int, last [16]byte, err error)
}

// Walk looks at the next candidates of a bulk replay, about n of them, and returns those in
// the set, the cursor behind them, and whether the set ends there. An endpoint costs as much
// as a candidate, so a step is short also where many endpoints have none.
func Walk(from Candidates, at Cursor, n int) (set []kapsel.Delivery, next Cursor, end bool, err error) {
	for n > 0 {
		endpoint, found, err := from.Endpoint(at.Endpoint)
		if err != nil || !found {
			return set, at, err == nil, err
		}
		if endpoint != at.Endpoint {
			at = Cursor{Endpoint: endpoint}
		}
		some, seen, last, err := from.Read(at, n)
		if err != nil {
			return nil, at, false, err
		}
		set = append(set, some...)
		if seen < n {
			at = Cursor{Endpoint: following(endpoint)}
		} else {
			at.Candidate = last
		}
		n -= seen + 1
	}
	return set, at, false, nil
}

// following is the next id.
func following(id kapsel.EndpointID) kapsel.EndpointID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// StatusBits is a set of states as a number with a bit for each.
func StatusBits(statuses []kapsel.DeliveryStatus) (bits int) {
	for _, s := range statuses {
		bits |= 1 << s
	}
	return bits
}

// StatusesOf is the set of StatusBits, in the order of the states.
func StatusesOf(bits int) (statuses []kapsel.DeliveryStatus) {
	for s := kapsel.Pending; s <= kapsel.Canceled; s++ {
		if bits&(1<<s) != 0 {
			statuses = append(statuses, s)
		}
	}
	return statuses
}
