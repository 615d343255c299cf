package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EndpointStats implements store.Counters.
func (s *Store) EndpointStats(ctx context.Context, tenant kapsel.TenantID, endpoints []kapsel.EndpointID, since, until time.Time) (hours []store.StatsOfEndpoint, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		hours = nil // what one run finds is not the next one's
		for _, endpoint := range endpoints {
			hours, err = addStats(hours, c.query(`SELECT endpoint_id, hour, counters FROM endpoint_stats
				WHERE endpoint_id = ? AND hour >= ? AND hour < ?
					AND (? OR EXISTS (SELECT 1 FROM endpoints WHERE id = ? AND tenant_id = ?))
				ORDER BY hour`, endpoint, since, until, tenant.IsZero(), endpoint, tenant))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return hours, err
}

// addStats appends all rows of a query for the endpoint, the hour and the counters.
func addStats(all []store.StatsOfEndpoint, q *stmt) ([]store.StatsOfEndpoint, error) {
	for q.next() {
		h := store.StatsOfEndpoint{EndpointID: q.colID(), StatsOfHour: store.StatsOfHour{Hour: q.colTime()}}
		if err := addCounters(&h.Stats, q.colBlob()); err != nil {
			return nil, errors.Join(err, q.end())
		}
		all = append(all, h)
	}
	return all, q.end()
}

// RecentStats implements store.Counters.
func (s *Store) RecentStats(ctx context.Context, since time.Time) (all []store.StatsOfEndpoint, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		all, err = addStats(nil, c.query(`SELECT endpoint_id, hour, counters FROM endpoint_stats WHERE hour >= ?`, since))
		return err
	})
	return all, err
}

// LastReceived implements store.Counters.
func (s *Store) LastReceived(ctx context.Context, origin kapsel.OriginID) (last time.Time, err error) {
	err = s.read(ctx, func(c *conn) error {
		_, err := c.stmt(`SELECT received_at FROM events WHERE endpoint_id = ? ORDER BY id DESC LIMIT 1`).id(origin).
			one(func(s *stmt) { last = s.colTime() })
		return err
	})
	return last, err
}

// Usage implements store.Counters. It reads the usage of all tenants a day at a time, so that no
// read is long.
func (s *Store) Usage(ctx context.Context, tenant kapsel.TenantID, since, until time.Time) (days []store.UsageOfDay, err error) {
	if tenant.IsZero() {
		return s.usageOfAll(ctx, since, until)
	}
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT day, events, bytes, attempts, deliveries, delivered FROM tenant_usage
			WHERE tenant_id = ? AND day >= ? AND day < ? ORDER BY day`, tenant, since, until)
		for q.next() {
			days = append(days, scanUsage(q))
		}
		return q.end()
	})
	return days, err
}

func scanUsage(q *stmt) store.UsageOfDay {
	return store.UsageOfDay{Day: q.colTime(), Usage: kapsel.Usage{
		Events: q.colInt(), Bytes: q.colInt(), Attempts: q.colInt(), Deliveries: q.colInt(), Delivered: q.colInt(),
	}}
}

func (s *Store) usageOfAll(ctx context.Context, since, until time.Time) (days []store.UsageOfDay, err error) {
	for from := since; ; {
		found := false
		err := s.read(ctx, func(c *conn) (err error) {
			found, err = c.query(`SELECT day, sum(events), sum(bytes), sum(attempts), sum(deliveries), sum(delivered) FROM tenant_usage
				WHERE day = (SELECT min(day) FROM tenant_usage WHERE day >= ? AND day < ?) GROUP BY day`, from, until).
				one(func(q *stmt) { days = append(days, scanUsage(q)) })
			return err
		})
		if err != nil || !found {
			return days, err
		}
		from = days[len(days)-1].Day.Add(time.Microsecond)
	}
}
