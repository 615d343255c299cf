package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// appendCounters appends an endpoint's counters of an hour to b, as one value. Thirty columns,
// each bound, read and added to by itself, took as long as all else that a completion writes. The
// counters are in the order of kapsel.Stats.Counters, as varints (encoding/binary). A value may
// end early: the counters that are missing at its end came to Kapsel later, and are 0.
func appendCounters(b []byte, s *kapsel.Stats) []byte {
	for _, n := range s.Counters() {
		b = binary.AppendUvarint(b, uint64(*n))
	}
	return b
}

// addCounters adds to s the counters that appendCounters wrote to b. It fails if b cannot be read.
func addCounters(s *kapsel.Stats, b []byte) error {
	for _, n := range s.Counters() {
		if len(b) == 0 {
			return nil
		}
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return errors.New("the counters of an endpoint cannot be read")
		}
		*n += int64(v)
		b = b[size:]
	}
	return nil
}

// count adds the tally of the transaction under way to the stored counters. Callers must call it
// before the commit.
func (c *conn) count() error {
	for k, s := range c.tally.Stats {
		var unreadable error
		_, err := c.stmt(`SELECT counters FROM endpoint_stats WHERE endpoint_id = ? AND hour = ?`).id(k.Endpoint).int(k.Hour).
			one(func(q *stmt) { unreadable = addCounters(s, q.colBlob()) })
		if err = errors.Join(err, unreadable); err != nil {
			return err
		}
		c.scratch = appendCounters(c.scratch[:0], s)
		err = c.stmt(`INSERT INTO endpoint_stats (endpoint_id, hour, counters) VALUES (?, ?, ?)
			ON CONFLICT (endpoint_id, hour) DO UPDATE SET counters = excluded.counters`).id(k.Endpoint).int(k.Hour).blob(c.scratch).exec()
		if err != nil {
			return err
		}
	}
	for k, u := range c.tally.Usage {
		err := c.stmt(`INSERT INTO tenant_usage (tenant_id, day, events, bytes, attempts, deliveries, delivered) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, day) DO UPDATE SET events = events + excluded.events, bytes = bytes + excluded.bytes,
				attempts = attempts + excluded.attempts, deliveries = deliveries + excluded.deliveries, delivered = delivered + excluded.delivered`).id(k.Tenant).int(k.Day).
			int(u.Events).int(u.Bytes).int(u.Attempts).int(u.Deliveries).int(u.Delivered).exec()
		if err != nil {
			return err
		}
	}
	if c.tally.Told.Empty() {
		return nil
	}
	return c.tell()
}

// CountArrivals implements store.Counters.
func (s *Store) CountArrivals(ctx context.Context, counts map[store.StatsKey]store.Arrivals) error {
	return s.writer.cold(ctx, func(c *conn) error {
		for k, n := range counts {
			c.tally.Arrivals(k, n)
		}
		return nil
	})
}

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

// DeleteOldCounters implements store.Housekeeping.
func (s *Store) DeleteOldCounters(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (deleted int, err error) {
		for _, old := range []struct {
			delete string
			before time.Time
		}{
			// A row has the time of its hour's or day's beginning, and is kept StatsKept or UsageKept from its end.
			{`DELETE FROM endpoint_stats WHERE (endpoint_id, hour) IN (
				SELECT endpoint_id, hour FROM endpoint_stats WHERE hour <= ? ORDER BY hour LIMIT ?)`, now.Add(-store.StatsKept - time.Hour)},
			{`DELETE FROM tenant_usage WHERE (tenant_id, day) IN (
				SELECT tenant_id, day FROM tenant_usage WHERE day <= ? ORDER BY day LIMIT ?)`, now.Add(-store.UsageKept - 24*time.Hour)},
		} {
			if err := c.exec(old.delete, old.before, limit-deleted); err != nil {
				return deleted, err
			}
			deleted += c.changes()
		}
		return deleted, nil
	})
}
