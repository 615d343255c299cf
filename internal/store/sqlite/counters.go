package sqlite

import (
	"context"
	"encoding/binary"
	"errors"

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
