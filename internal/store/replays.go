package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Replays makes many deliveries again, at a rate, whatever happens to the process.
//
// The set of a replay is fixed by its fields, and Replay.Has, HasWaiting and Lacks say what is in
// it; the store walks it in an order of its own with a cursor that it keeps with the replay. As
// only what is older than the replay is in the set, and what was replayed, moved or delivered leaves
// it, a step that is repeated makes nothing twice.
type Replays interface {
	// CountReplay counts the set of a replay that need not be stored, at most about atMost,
	// and gives up to sample of its deliveries; those of a replay of what is missing have no ID
	// yet. Deleted endpoints have none. It is many short reads: what changes meanwhile is counted
	// or not.
	CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error)
	// CreateReplay stores a replay. Conflict: its id is there already, or it is of what is missing
	// or waits, and a node of a release that knows no such replays is alive.
	CreateReplay(ctx context.Context, r kapsel.Replay) error
	// ReadReplay reads a replay with its counts, which retention does not change.
	ReadReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID) (kapsel.Replay, error)
	ListReplays(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.ReplayID]) ([]kapsel.Replay, error)
	// MoveReplay changes a replay by Replay.Move(to, now).
	MoveReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID, to kapsel.ReplayStatus, now time.Time) (kapsel.Replay, error)
	// RunningReplays lists up to limit replays that are running, with IDs above after, in the order of
	// their IDs, without what became of their deliveries: those that may make more deliveries, or, if
	// walked is set, those that have made all and end once these have ended.
	RunningReplays(ctx context.Context, walked bool, after kapsel.ReplayID, limit int) ([]kapsel.Replay, error)
	// StepReplay goes on with a running replay: of the next candidates, up to limit that are
	// still in the set get a new pending delivery, due now, as Archive.Replay or, for a replay of
	// what is missing, Archive.Deliver makes one; those of a replay of what waits are due now.
	// The deliveries, the replay's count and its cursor are one transaction. An event has at most
	// one first delivery to an endpoint: what another call has made is passed over and not
	// counted. more is whether
	// there may be more to make. At the end of the set the replay is done once all that was
	// made has ended, and its counts stay as they are then. One that is not running is left
	// as it is, with no error.
	StepReplay(ctx context.Context, id kapsel.ReplayID, now time.Time, limit int) (made int, more bool, err error)
}

// Replans reschedules what waits for an endpoint after its retry policy or its destination has
// changed. UpdateEndpoint leaves the mark for it, Endpoint.Replan, in its own transaction.
type Replans interface {
	// Replanning lists up to limit endpoints that are marked and not deleted.
	Replanning(ctx context.Context, limit int) ([]kapsel.Endpoint, error)
	// Replan moves those of an endpoint's deliveries that wait past now to where
	// Delivery.After(kapsel.Replan{…}) leads, by the endpoint as it is in the same transaction.
	// It looks at up to limit of them, in the order of Due, behind after; next is the last one
	// that it looked at, and more whether others may follow. A deleted endpoint has none.
	// Deliveries that another call is changing may be passed over.
	Replan(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, after Due, limit int) (next Due, more bool, err error)
	// Replanned takes the mark away, unless a later change has set it again.
	Replanned(ctx context.Context, endpoint kapsel.EndpointID, mark int64) error
}

// Due is a place among an endpoint's pending deliveries. The zero Due is before all of them.
type Due struct {
	At time.Time
	ID kapsel.DeliveryID
}
