// Package rules holds what all stores decide and say alike: which deliveries can be repeated,
// which call is a repetition of another, what has ended, and the words of each refusal. It is
// pure: a store reads rows, asks a rule, and writes what the rule returns. How a delivery
// moves is decided by kapsel.Delivery.After.
package rules

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// IDTaken refuses to create what has the id of something that exists.
func IDTaken() error { return kapsel.Errorf(kapsel.Conflict, "the id is taken") }

// NodeDead refuses a call of a node that was marked dead.
func NodeDead() error {
	return kapsel.Errorf(kapsel.Conflict, "the node was marked dead; join again under a new id")
}

// CircuitChanged refuses a circuit whose version is not the stored one.
func CircuitChanged() error {
	return kapsel.Errorf(kapsel.Conflict, "the circuit was changed meanwhile; read it again")
}

// MetaMissing and MetaChanged refuse to replace a value that is not set, or that is not the
// one that the caller read.
func MetaMissing() error { return kapsel.Errorf(kapsel.Conflict, "the value is not set") }

// MetaChanged is described at MetaMissing.
func MetaChanged() error { return kapsel.Errorf(kapsel.Conflict, "the value was changed by another") }

// TenantUnused refuses to delete a tenant that has endpoints or sources.
func TenantUnused(endpoints, sources int) error {
	switch {
	case endpoints > 0:
		return kapsel.Errorf(kapsel.Conflict, "the tenant has %d endpoints; delete them first", endpoints)
	case sources > 0:
		return kapsel.Errorf(kapsel.Conflict, "the tenant has %d sources; delete them first", sources)
	}
	return nil
}

// EndpointRoom refuses one more endpoint of a tenant that has as many as it may have; 0 is no
// limit.
func EndpointRoom(endpoints, limit int) error {
	if limit > 0 && endpoints >= limit {
		return kapsel.Errorf(kapsel.QuotaExceeded, "the tenant has %d endpoints, which is its limit; delete one or ask for more", endpoints)
	}
	return nil
}

// OlderInUse refuses to change the schema of a database that was to be empty and is not.
func OlderInUse(version int) error {
	return fmt.Errorf("it holds something else already, of the older schema %d, and was left as it is; name a new, empty database", version)
}

// StreamAhead refuses a position of the stream that no event has reached.
func StreamAhead() error {
	return kapsel.Errorf(kapsel.Conflict, "the position is ahead of all events; was the database restored from an old copy?")
}

// NotHeld refuses the completion of an attempt under whose id nothing is held any more.
func NotHeld() error {
	return kapsel.Errorf(kapsel.Conflict, "the delivery is no longer held under this attempt")
}

// SameOutcome reports whether two attempts with one id are the same outcome, so that a
// completion that finds the other one stored is a repeated call. A take-over writes an attempt
// of its own under the id, with another outcome. Times count in microseconds, the precision of
// all stores.
func SameOutcome(a, b *kapsel.Attempt) bool {
	return a.StartedAt.UnixMicro() == b.StartedAt.UnixMicro() && a.Duration == b.Duration &&
		a.StatusCode == b.StatusCode && a.ErrorCode == b.ErrorCode
}

// TakenOver returns a delivery that a dead node held as it is after a take-over, and the
// attempt that is recorded in place of the node's own.
func TakenOver(was *kapsel.Delivery, now time.Time) (kapsel.Delivery, kapsel.Attempt, error) {
	d, err := was.After(kapsel.Lost{Takeover: true}, now)
	if err != nil {
		return kapsel.Delivery{}, kapsel.Attempt{}, err
	}
	return d, kapsel.Attempt{
		ID: was.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID,
		Number: d.Attempts, StartedAt: now, ErrorCode: kapsel.OutcomeUnknown,
		Error: "the node that made this attempt ended before it recorded the outcome",
	}, nil
}

// Remembered reports whether an idempotency key that expires at a time stands for its event
// when another event with the key is received.
func Remembered(expires, received time.Time) bool { return expires.After(received) }

// Ended reports whether an event's deliveries have all ended, so that retention may delete it
// once it is old enough.
func Ended(deliveries []kapsel.Delivery) bool {
	for i := range deliveries {
		if !deliveries[i].Status.Terminal() {
			return false
		}
	}
	return true
}

// deletedBytes bounds the bodies that retention deletes in one transaction: a long one holds up
// the others, and takes time by the bytes that it frees.
const deletedBytes = 16 << 20

// DeletedTogether returns how many of the events with bodies of these sizes, from the first on,
// are deleted in one transaction. It is one at least, if there is any.
func DeletedTogether(sizes []int) int {
	bytes := 0
	for i, size := range sizes {
		if bytes += size; bytes > deletedBytes && i > 0 {
			return i
		}
	}
	return len(sizes)
}

// NextCircuit returns a circuit as it is stored in place of the version that the caller read.
// A circuit without a state is closed.
func NextCircuit(c kapsel.Circuit, revision int64) kapsel.Circuit {
	c.State = cmp.Or(c.State, kapsel.CircuitClosed)
	c.Version++
	c.Revision = revision
	return c
}

// Gone disables an endpoint after a 410 of the destination with this number, and reports
// whether it did: an endpoint that is disabled already, or has another destination by now,
// stays as it is.
func Gone(e *kapsel.Endpoint, destination int, now time.Time) bool {
	if e.State == kapsel.EndpointDisabled || e.Destination != destination {
		return false
	}
	e.State, e.DisabledReason, e.UpdatedAt = kapsel.EndpointDisabled, kapsel.DisabledGone, now
	return true
}

// Rescheduled returns a pending delivery as its endpoint's retry policy and destination have it
// by now. ended is the end of the newest attempt; zero: the delivery was never tried, and is
// due when it came.
func Rescheduled(was *kapsel.Delivery, e *kapsel.Endpoint, ended, now time.Time) (kapsel.Delivery, error) {
	if ended.IsZero() {
		return *was, nil
	}
	return was.After(kapsel.Replan{Ended: ended, Policy: e.Retry, Destination: e.Destination, Random: rand.Float64()}, now)
}
