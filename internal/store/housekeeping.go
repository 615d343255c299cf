package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Housekeeping is what background duties need. Each call is one short transaction.
type Housekeeping interface {
	// CancelWaiting cancels up to limit pending deliveries of a deleted endpoint.
	CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (canceled int, err error)
	// DeletedTenants lists up to limit deleted tenants that still have events, with ids above
	// after, in the order of their ids.
	DeletedTenants(ctx context.Context, after kapsel.TenantID, limit int) ([]kapsel.Tenant, error)
	// DeleteFinished deletes up to limit events of a tenant received before a time whose
	// deliveries are all terminal and made, with their deliveries and attempts.
	DeleteFinished(ctx context.Context, tenant kapsel.TenantID, before time.Time, limit int) (deleted int, err error)
	// Erasing lists up to limit events whose erasure was begun and is not complete; see
	// Archive.EraseEvent.
	Erasing(ctx context.Context, limit int) ([]kapsel.EventID, error)
	// DeleteExpiredKeys forgets up to limit idempotency keys whose window is over at now.
	DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteExpiredGuards forgets up to limit guards whose window is over at now.
	DeleteExpiredGuards(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteExpiredAnswers deletes up to limit reservations that have expired at now, and
	// clears the bodies of up to limit sealed ones made SecretKept ago or earlier. It returns
	// how many rows it changed in all.
	DeleteExpiredAnswers(ctx context.Context, now time.Time, limit int) (changed int, err error)
	// DeleteExpiredSessions deletes up to limit sessions that have expired at now.
	DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteExpiredPortalLinks deletes up to limit portal links that have expired at now.
	DeleteExpiredPortalLinks(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteOldCounters deletes up to limit rows of stats and of usage that at now are older
	// than StatsKept and UsageKept. It returns how many rows it deleted in all.
	DeleteOldCounters(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// Lead makes the node leader of a duty until now+lease and reports whether it is. A lease of another
	// node that ends later than now+2*lease was taken by a wrong clock and counts for nothing.
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	// QueueDepth counts deliveries by state for metrics, at most atMost an endpoint; due is
	// how many of the pending ones are due at now, oldest the due time of the oldest. Those that
	// are scheduled at now (Delivery.Scheduled) do not count.
	QueueDepth(ctx context.Context, now time.Time, atMost int) (QueueDepth, error)
	// BacklogOf counts an endpoint's pending deliveries, at most atMost, and its oldest due time.
	// Those that are scheduled at now do not count.
	BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error)
}

// QueueDepth are counts of deliveries that are not terminal.
type QueueDepth struct {
	Pending, Due, Delivering int
	Oldest                   time.Time // zero: none is due
}
