package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Counters are what was counted of events, attempts and deliveries. What counts is counted in
// the transaction that writes it, so the counters are exact: a duplicate, a call that is
// repeated, a commit that is run again and a completion that is refused count nothing.
//
//   - Accept counts an event and the size of its body, in the usage of the day of ReceivedAt.
//   - Complete counts an attempt and, where it ended the delivery, that, in the hour and the
//     day of the attempt's end. TakeOver does so at now.
//   - MoveDelivery and CancelWaiting count a delivery that they cancel, at now.
//
// Deleting events changes no counter; see DeleteOldCounters for how long they are kept.
type Counters interface {
	// EndpointStats are the stats of endpoints' hours that begin in [since, until), those of one
	// endpoint oldest first, without those in which nothing was counted. Of another tenant's
	// endpoints there are none.
	EndpointStats(ctx context.Context, tenant kapsel.TenantID, endpoints []kapsel.EndpointID, since, until time.Time) ([]StatsOfEndpoint, error)
	// RecentStats are the stats of all endpoints' hours that begin at since or later, in no order.
	RecentStats(ctx context.Context, since time.Time) ([]StatsOfEndpoint, error)
	// LastReceived returns when the newest event of an origin was received; zero: there is none.
	LastReceived(ctx context.Context, origin kapsel.OriginID) (time.Time, error)
	// Usage is what a tenant used on the days (of UTC) that begin in [since, until), oldest
	// first, without those on which nothing was counted. A zero tenant is all of them together.
	Usage(ctx context.Context, tenant kapsel.TenantID, since, until time.Time) ([]UsageOfDay, error)
	// CountArrivals adds to Stats.Refused and Stats.Unkeyed of endpoints, by the hour. It is
	// called seldom, for many requests together. It alone is not exact: after an error it is not
	// known whether the counts were added.
	CountArrivals(ctx context.Context, counts map[StatsKey]Arrivals) error
}

// Arrivals count webhooks of an endpoint: refused ones, and accepted ones without a key where
// the endpoint says where they have one.
type Arrivals struct{ Refused, Unkeyed int64 }

// Plus returns the sum of two counts.
func (a Arrivals) Plus(b Arrivals) Arrivals {
	return Arrivals{a.Refused + b.Refused, a.Unkeyed + b.Unkeyed}
}

// StatsOfHour are an endpoint's stats of the hour that begins at Hour.
type StatsOfHour struct {
	Hour time.Time
	kapsel.Stats
}

// StatsOfEndpoint are an endpoint's stats of an hour.
type StatsOfEndpoint struct {
	EndpointID kapsel.EndpointID
	StatsOfHour
}

// UsageOfDay is what was used on the day that begins at Day.
type UsageOfDay struct {
	Day time.Time
	kapsel.Usage
}

// How long counters are kept after the end of their hour or day.
const (
	StatsKept = 90 * 24 * time.Hour
	UsageKept = 400 * 24 * time.Hour
)
