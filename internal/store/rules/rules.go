// Package rules holds the decisions and error texts that all stores share: which deliveries can be
// repeated, which call repeats an earlier one, when an event has ended, and how each refusal is
// worded. The rules are pure: a store reads rows, asks a rule, and writes what the rule returns.
// kapsel.Delivery.After decides how a delivery changes state.
package rules

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// IDTaken returns the error for creating something under an ID that exists.
func IDTaken() error { return kapsel.Errorf(kapsel.Conflict, "the id is taken") }

// NodeDead returns the error for a call by a node that was marked dead.
func NodeDead() error {
	return kapsel.Errorf(kapsel.Conflict, "the node was marked dead; join again under a new id")
}

// CircuitChanged returns the error for saving a circuit whose version is not the stored one.
func CircuitChanged() error {
	return kapsel.Errorf(kapsel.Conflict, "the circuit was changed meanwhile; read it again")
}

// MetaMissing returns the error for replacing a value that is not set.
func MetaMissing() error { return kapsel.Errorf(kapsel.Conflict, "the value is not set") }

// MetaChanged returns the error for replacing a value that is no longer the one that the caller
// read.
func MetaChanged() error { return kapsel.Errorf(kapsel.Conflict, "the value was changed by another") }

// TenantUnused returns a Conflict if a tenant has endpoints, sources or apps, and so cannot be
// deleted.
func TenantUnused(endpoints, sources, apps int) error {
	switch {
	case endpoints > 0:
		return kapsel.Errorf(kapsel.Conflict, "the tenant has %s", inTheWay(endpoints, "endpoint"))
	case sources > 0:
		return kapsel.Errorf(kapsel.Conflict, "the tenant has %s", inTheWay(sources, "source"))
	case apps > 0:
		return kapsel.Errorf(kapsel.Conflict, "the tenant has %s", inTheWay(apps, "app"))
	}
	return nil
}

// AppUnused returns a Conflict if an app has endpoints, and so cannot be deleted.
func AppUnused(endpoints int) error {
	if endpoints > 0 {
		return kapsel.Errorf(kapsel.Conflict, "the app has %s", inTheWay(endpoints, "endpoint"))
	}
	return nil
}

// inTheWay says how many things there are that must be deleted first.
func inTheWay(n int, noun string) string {
	if n == 1 {
		return counted(n, noun) + "; delete it first"
	}
	return counted(n, noun) + "; delete them first"
}

// counted returns a number and the noun in its number: "1 endpoint", "2 endpoints".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// UIDTaken returns the error for giving an app the uid of another one.
func UIDTaken() error {
	return kapsel.Errorf(kapsel.Conflict, "another app of the tenant has the uid; choose another, or change that app")
}

// EndpointUIDTaken returns the error for giving an endpoint the uid of another one of its app, or of
// another one without an app.
func EndpointUIDTaken() error {
	return kapsel.Errorf(kapsel.Conflict, "another endpoint has the uid; choose another, or change that endpoint")
}

// EndpointRoom returns QuotaExceeded if a tenant with this many endpoints may have no more. A
// limit of 0 means no limit.
func EndpointRoom(endpoints, limit int) error {
	if limit > 0 && endpoints >= limit {
		return kapsel.Full("the tenant has %s, which is its limit; delete one or ask for more", counted(endpoints, "endpoint"))
	}
	return nil
}

// EventTypeRoom returns QuotaExceeded if a tenant with this many event types may have no more.
func EventTypeRoom(types int) error {
	if types >= kapsel.MaxEventTypes {
		return kapsel.Full("the tenant has %d event types, which is the most that it may have; delete one", types)
	}
	return nil
}

// NameTaken returns the error for creating an event type under the name of another.
func NameTaken() error {
	return kapsel.Errorf(kapsel.Conflict, "the tenant has an event type of this name; change that one")
}

// OlderInUse returns the error for migrating a database that should be empty but is not.
func OlderInUse(version int) error {
	return fmt.Errorf("it holds something else already, of the older schema %d, and was left as it is; name a new, empty database", version)
}

// Thin applies store.StreamFilter.Newest, n, to events in the order of the stream, given by their tenants. It
// returns what Streamed.Left is for each event, or -1 if the event is left out.
func Thin(tenants []kapsel.TenantID, n int) (left []int) {
	left = make([]int, len(tenants))
	if n == 0 {
		return left
	}
	count, oldest := map[kapsel.TenantID]int{}, map[kapsel.TenantID]int{} // oldest: the index of the oldest event that stays
	for i, t := range slices.Backward(tenants) {
		if count[t]++; count[t] <= n {
			oldest[t] = i
		} else {
			left[i] = -1
			left[oldest[t]]++
		}
	}
	return left
}

// StreamAhead returns the error for a stream position that no event has reached.
func StreamAhead() error {
	return kapsel.Errorf(kapsel.Conflict, "the position is ahead of all events; was the database restored from an old copy?")
}

// NotHeld returns the error for completing an attempt that no longer holds its delivery.
func NotHeld() error {
	return kapsel.Errorf(kapsel.Conflict, "the delivery is no longer held under this attempt")
}

// SameOutcome reports whether two attempts with the same ID have the same outcome. If so, a
// completion that finds the other one stored is a repeated call; if not, a take-over has stored an
// attempt of its own under that ID. Start times are compared to the microsecond, the precision of
// all stores.
func SameOutcome(a, b *kapsel.Attempt) bool {
	return a.StartedAt.UnixMicro() == b.StartedAt.UnixMicro() && a.Duration == b.Duration &&
		a.StatusCode == b.StatusCode && a.ErrorCode == b.ErrorCode
}

// TakenOver returns a delivery that a dead node held, as it is after the take-over, and the
// attempt to record in place of the dead node's.
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

// Remembered reports whether an idempotency key that expires at expires still stands for its event
// when another event with the key is received.
func Remembered(expires, received time.Time) bool { return expires.After(received) }

// Ended reports whether all deliveries of an event are made and have ended, so that retention may
// delete the event once it is old enough.
func Ended(deliveries []kapsel.Delivery, expanding bool) bool {
	for i := range deliveries {
		if !deliveries[i].Status.Terminal() {
			return false
		}
	}
	return !expanding
}

// deletedBytes bounds the total size of the bodies that retention deletes in one transaction. The
// time of a deletion grows with the bytes that it frees, and other writers wait meanwhile.
const deletedBytes = 16 << 20

// DeletedTogether returns how many events, counted from the first, to delete in one transaction,
// given the sizes of their bodies. It returns at least 1, unless sizes is empty.
func DeletedTogether(sizes []int) int {
	bytes := 0
	for i, size := range sizes {
		if bytes += size; bytes > deletedBytes && i > 0 {
			return i
		}
	}
	return len(sizes)
}

// NextCircuit returns the circuit to store in place of the version that the caller read. An empty
// state becomes closed.
func NextCircuit(c kapsel.Circuit, revision int64) kapsel.Circuit {
	c.State = cmp.Or(c.State, kapsel.CircuitClosed)
	c.Version++
	c.Revision = revision
	return c
}

// Gone disables an endpoint whose destination answered 410, and reports whether it did. It leaves
// an endpoint alone that is disabled already or that has another destination now.
func Gone(e *kapsel.Endpoint, destination int, now time.Time) bool {
	if e.State == kapsel.EndpointDisabled || e.Destination != destination {
		return false
	}
	e.State, e.DisabledReason, e.UpdatedAt = kapsel.EndpointDisabled, kapsel.DisabledGone, now
	return true
}

// Rescheduled returns a pending delivery, adapted to its endpoint's current retry policy and
// destination. ended is the end of the newest attempt. If ended is zero, the delivery was never
// tried and is returned unchanged.
func Rescheduled(was *kapsel.Delivery, e *kapsel.Endpoint, ended, now time.Time) (kapsel.Delivery, error) {
	if ended.IsZero() {
		return *was, nil
	}
	return was.After(kapsel.Replan{Ended: ended, Policy: e.Retry, Destination: e.Destination, Random: rand.Float64()}, now)
}

// Erasable returns a Conflict unless the contents of an event may be erased: all of its deliveries are made
// and have ended. What waits is not canceled with it, because who erases may not know of it.
func Erasable(deliveries []kapsel.Delivery, expanding bool) error {
	open := 0
	for i := range deliveries {
		if !deliveries[i].Status.Terminal() {
			open++
		}
	}
	switch {
	case expanding:
		return kapsel.Errorf(kapsel.Conflict, "deliveries of the event are still being made; cancel the event first")
	case open > 0:
		return kapsel.Errorf(kapsel.Conflict, "of the event's deliveries %d have not ended; cancel the event, or let them end, and then erase it", open)
	}
	return nil
}

// ErasedTogether is how many attempts one transaction erases: few enough for one leaf to name them, and for
// other writers not to wait.
const ErasedTogether = 100

// Erased is the error of delivering an event again whose contents were erased.
func Erased() error {
	return kapsel.Errorf(kapsel.Conflict, "the contents of the event were erased, so there is nothing to deliver")
}

// ErasedChange is what the row of a change says of an event that was erased.
func ErasedChange(at time.Time) map[string]any { return map[string]any{"erased_at": at.UTC()} }

// EmptyRoot is the root of an audit log without leaves: SHA-256 of nothing (RFC 6962).
var EmptyRoot = sha256.Sum256(nil)

// EntryTaken is the error of an append whose entry is no longer in the outbox, or whose leaf exists.
func EntryTaken() error {
	return kapsel.Errorf(kapsel.Conflict, "an attempt is a leaf already, or is not in the audit log's outbox")
}

// Canceled returns what the row of a change says of an event: how many pending deliveries were canceled,
// and whether those that were not made yet were.
func Canceled(n int, expansion bool) map[string]any {
	return map[string]any{"canceled": n, "canceled_expansion": expansion}
}
