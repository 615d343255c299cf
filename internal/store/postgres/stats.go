package postgres

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EndpointStats reads stats by hour; see store.Counters.
func (s *Store) EndpointStats(ctx context.Context, tenantID kapsel.TenantID, endpoints []kapsel.EndpointID, since, until time.Time) ([]store.StatsOfEndpoint, error) {
	parts, ids := make([]int16, len(endpoints)), make([][16]byte, len(endpoints))
	for i, e := range endpoints {
		parts[i], ids[i] = int16(kapsel.PartOf(e)), e
	}
	return list(ctx, s, viewOf(tenantID), scanStats, `
		SELECT endpoint_id, hour, `+summedStats+` FROM endpoint_stats
		WHERE part = ANY ($1) AND endpoint_id = ANY ($2) AND hour >= $3 AND hour < $4
			AND ($5::uuid IS NULL OR endpoint_id IN (SELECT id FROM endpoints WHERE id = ANY ($2) AND tenant_id = $5))
		GROUP BY endpoint_id, hour ORDER BY endpoint_id, hour`,
		parts, ids, since, until, id(tenantID))
}

// summedStats are the sums of the columns of stats, which scanStats reads behind an endpoint and its hour.
var summedStats = eachOf(statsColumns, func(_ int, c string) string { return "sum(" + c + ")" })

func scanStats(r *row) (h store.StatsOfEndpoint) {
	h.EndpointID, h.Hour = r.id(), r.time()
	for _, n := range h.Counters() {
		*n = r.int8()
	}
	return h
}

// RecentStats reads the stats of all endpoints; see store.Counters.
func (s *Store) RecentStats(ctx context.Context, since time.Time) ([]store.StatsOfEndpoint, error) {
	return list(ctx, s, engine, scanStats, `
		SELECT endpoint_id, hour, `+summedStats+` FROM endpoint_stats
		WHERE hour >= $1 GROUP BY endpoint_id, hour`, since)
}

// LastReceived reads when an origin's newest event was received; see store.Counters.
func (s *Store) LastReceived(ctx context.Context, origin kapsel.OriginID) (last time.Time, err error) {
	found, err := list(ctx, s, engine, func(r *row) time.Time { return r.time() },
		"SELECT received_at FROM events WHERE part = $1 AND endpoint_id = $2 ORDER BY id DESC LIMIT 1", int16(kapsel.PartOf(origin)), id(origin))
	if err == nil && len(found) > 0 {
		last = found[0]
	}
	return last, err
}

// Usage reads usage by day; see store.Counters.
func (s *Store) Usage(ctx context.Context, tenantID kapsel.TenantID, since, until time.Time) ([]store.UsageOfDay, error) {
	where, args := "day >= $1 AND day < $2", []any{since, until}
	if !tenantID.IsZero() {
		where, args = "part = $3 AND tenant_id = $4 AND "+where, append(args, int16(tenantPart(tenantID)), id(tenantID))
	}
	scan := func(r *row) store.UsageOfDay {
		return store.UsageOfDay{Day: r.time(), Usage: kapsel.Usage{
			Events: r.int8(), Bytes: r.int8(), Attempts: r.int8(), Deliveries: r.int8(), Delivered: r.int8(),
		}}
	}
	return list(ctx, s, viewOf(tenantID), scan, `
		SELECT day, CAST(sum(events) AS bigint), CAST(sum(bytes) AS bigint), CAST(sum(attempts) AS bigint),
			CAST(sum(deliveries) AS bigint), CAST(sum(delivered) AS bigint)
		FROM tenant_usage WHERE `+where+` GROUP BY day ORDER BY day`, args...)
}
