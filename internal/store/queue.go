package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Queue is what the delivery engine needs.
type Queue interface {
	// Join makes a node known, alive until now+lease. On SQLite, whose file has one process,
	// it also marks all other nodes dead; elsewhere it adds one to the settings counter, so
	// that the others soon know.
	Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	// Renew extends the node's lease, on a connection of its own. It returns a Conflict if the node
	// was marked dead; the node must then stop all work and join again under a new ID.
	Renew(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	// Leave ends the node's lease at once; what it still holds is taken over by others.
	Leave(ctx context.Context, node kapsel.NodeID) error
	// Nodes returns the nodes alive at now, in the order of their IDs.
	Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error)
	// Demands tells what a node demands of shared limits, in place of what it told before, and
	// returns what each node alive at now has told, in the order of their ids. What is told
	// goes with the node's lease, and nothing is told for a node that is dead. At most
	// MaxDemands are kept. The row of the node itself may be what it told before.
	Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []Demand) ([]NodeDemands, error)
	// TakeOver marks nodes whose lease ended before now as dead (compare-and-set), and moves
	// up to limit of the deliveries that dead nodes hold: each gets an attempt row
	// OutcomeUnknown under its claim token and goes to where Lost{Takeover: true} leads.
	// Circuits whose probe a dead node held are free to probe again. It returns how many
	// deliveries it moved; below limit, no more are held by nodes dead at now.
	TakeOver(ctx context.Context, now time.Time, limit int) (moved int, err error)

	// Backlog lists the endpoints that have pending deliveries, each with the due time of its
	// oldest one, due or not. It reads one index entry an endpoint, however long the backlog.
	Backlog(ctx context.Context) ([]Waiting, error)
	// Claim takes due pending deliveries for a node, the oldest of each endpoint first, up to
	// each want's limit and until their bodies reach maxBytes together (one always fits).
	// Each comes back as delivering, with a new token, and with its event. Deliveries that
	// another claim is taking are passed over, not waited for. A delivery whose event cannot be read,
	// because the database is damaged there, is logged and waits a minute; Claim returns the others.
	// cut is the endpoint at which the claim ended early, as for want of bytes: it and those after it in
	// wants may have more that is due. It is zero if the claim came to the end of wants.
	Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []Want, maxBytes int) (claimed []Claimed, cut kapsel.EndpointID, err error)
	// Complete records an attempt and moves its delivery, in one group commit with the
	// other calls of the moment, but only while the delivery is still delivering under the
	// attempt's id. Otherwise (it was taken over) nothing changes and the error is Conflict.
	// A repeated call whose first was written returns nil.
	Complete(ctx context.Context, done Completion) error
	// GiveBack gives back deliveries that the node holds and has not sent. They are pending again,
	// due at their DueAt, with no attempt. GiveBack skips those no longer held under their token.
	GiveBack(ctx context.Context, held []kapsel.Delivery) error
	// Held lists the deliveries that a node holds in the store, for the engine to find
	// those that it does not know of (an acceptance whose commit was not confirmed).
	Held(ctx context.Context, node kapsel.NodeID) ([]kapsel.Delivery, error)

	// SaveCircuit writes a circuit whose Version is the one that the caller read (0: no row
	// yet), adds one to the version and stamps the settings counter. Conflict: the row has
	// another version; read it again.
	SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error)
	// Circuit returns an endpoint's circuit. If there is no row, it returns a zero Circuit with the
	// endpoint's ID.
	Circuit(ctx context.Context, id kapsel.EndpointID) (kapsel.Circuit, error)
	// DisableGone disables an active or paused endpoint after the destination with this number
	// answered 410. It does nothing if the endpoint has another destination by now.
	DisableGone(ctx context.Context, id kapsel.EndpointID, destination int, now time.Time) error
}

// Waiting is an endpoint with pending deliveries. DueAt is when the oldest of them is due.
type Waiting struct {
	EndpointID kapsel.EndpointID
	DueAt      time.Time
}

// Want asks Claim for at most Limit deliveries of an endpoint.
type Want struct {
	EndpointID kapsel.EndpointID
	Limit      int
}

// Claimed is a delivery that this node now holds, with its event. DueSince is when the delivery
// was due.
type Claimed struct {
	Delivery kapsel.Delivery
	Event    kapsel.Event
	DueSince time.Time
}

// Completion is the end of an attempt: the attempt's row, and the delivery as it is after the
// attempt. The store keeps the commitments for the audit log only.
type Completion struct {
	Attempt     kapsel.Attempt
	Delivery    kapsel.Delivery
	Commitments kapsel.Commitments
}
