package sqlite

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// statsColumns are the counters of endpoint_stats in the order of kapsel.Stats.Counters.
var statsColumns = func() (names []string) {
	names = strings.Fields(`succeeded client_errors server_errors timeouts no_answers unknowns
		delivered failed dead_letters canceled`)
	for i := range (kapsel.Histogram{}) {
		names = append(names, fmt.Sprint("ms", i))
	}
	return names
}()

// Statements that add to a row.
var (
	addStats = adding("endpoint_stats", "endpoint_id, hour", statsColumns)
	addUsage = adding("tenant_usage", "tenant_id, day", []string{"events", "bytes", "attempts", "deliveries", "delivered"})
)

// adding is a statement that adds to the row with a key.
func adding(table, key string, columns []string) string {
	sums := make([]string, len(columns))
	for i, c := range columns {
		sums[i] = c + " = " + c + " + excluded." + c
	}
	return `INSERT INTO ` + table + ` (` + key + `, ` + strings.Join(columns, ", ") + `)
		VALUES (?, ?` + strings.Repeat(", ?", len(columns)) + `)
		ON CONFLICT (` + key + `) DO UPDATE SET ` + strings.Join(sums, ", ")
}

// count adds a transaction's tally to the counters, before its commit.
func (c *conn) count() error {
	for k, s := range c.tally.Stats {
		row := c.stmt(addStats).id(k.Endpoint).int(k.Hour)
		for _, n := range s.Counters() {
			row.int(*n)
		}
		if err := row.exec(); err != nil {
			return err
		}
	}
	for k, u := range c.tally.Usage {
		err := c.stmt(addUsage).id(k.Tenant).int(k.Day).
			int(u.Events).int(u.Bytes).int(u.Attempts).int(u.Deliveries).int(u.Delivered).exec()
		if err != nil {
			return err
		}
	}
	return nil
}

// EndpointStats implements store.Counters.
func (s *Store) EndpointStats(ctx context.Context, tenant kapsel.TenantID, endpoint kapsel.EndpointID, since, until time.Time) (hours []store.StatsOfHour, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT hour, `+strings.Join(statsColumns, ", ")+` FROM endpoint_stats
			WHERE endpoint_id = ? AND hour >= ? AND hour < ?
				AND (? OR EXISTS (SELECT 1 FROM endpoints WHERE id = ? AND tenant_id = ?))
			ORDER BY hour`, endpoint, since, until, tenant.IsZero(), endpoint, tenant)
		for q.next() {
			h := store.StatsOfHour{Hour: q.colTime()}
			for _, n := range h.Counters() {
				*n = q.colInt()
			}
			hours = append(hours, h)
		}
		return q.end()
	})
	return hours, err
}

// Usage implements store.Counters. That of all tenants is read a day at a time, so that no
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
			// Compared by their beginning: an hour has ended for so long.
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
