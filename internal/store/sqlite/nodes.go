package sqlite

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Join implements store.Queue.
func (s *Store) Join(_ context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return s.writer.hotly(func(c *conn) error {
		if err := c.exec(`DELETE FROM nodes WHERE id <> ?`, node); err != nil {
			return err
		}
		s.orphans.Store(true)
		return c.exec(`INSERT INTO nodes (id, lease_until) VALUES (?, ?)
			ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until`, node, now.Add(lease))
	})
}

// Renew implements store.Queue. It uses the writer's connection: the lock on the file keeps other
// processes out whatever the lease says.
func (s *Store) Renew(_ context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return s.writer.hotly(func(c *conn) error {
		if err := c.exec(`UPDATE nodes SET lease_until = ? WHERE id = ?`, now.Add(lease), node); err != nil {
			return err
		}
		if c.changes() == 0 {
			return rules.NodeDead()
		}
		return nil
	})
}

// Leave implements store.Queue.
func (s *Store) Leave(_ context.Context, node kapsel.NodeID) error {
	return s.writer.hotly(func(c *conn) error {
		s.orphans.Store(true)
		return c.exec(`DELETE FROM nodes WHERE id = ?`, node)
	})
}

// Nodes implements store.Queue.
func (s *Store) Nodes(ctx context.Context, now time.Time) (nodes []kapsel.NodeID, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT id FROM nodes WHERE lease_until >= ? ORDER BY id`, now)
		for q.next() {
			nodes = append(nodes, q.colID())
		}
		return q.end()
	})
	return nodes, err
}

// Follow implements store.Directory. It does nothing: the file has one process, so nobody asks
// what a node has read.
func (s *Store) Follow(context.Context, kapsel.NodeID, int64) error { return nil }

// Behind implements store.Directory. It returns 0: the file has one process.
func (s *Store) Behind(context.Context, kapsel.NodeID, time.Time, int64) (int, error) { return 0, nil }

// Demands implements store.Queue. It stores nothing: the file has one process, which shares limits
// with nobody.
func (s *Store) Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []store.Demand) (all []store.NodeDemands, err error) {
	alive, err := s.Nodes(ctx, now)
	for _, id := range alive {
		one := store.NodeDemands{Node: id}
		if id == node {
			one.At, one.Demands = now, own[:min(len(own), store.MaxDemands)]
		}
		all = append(all, one)
	}
	return all, err
}

// TakeOver implements store.Queue.
func (s *Store) TakeOver(ctx context.Context, now time.Time, limit int) (moved int, err error) {
	moved, err = s.inUnits(ctx, limit, 100, func(c *conn, limit int) (int, error) { return s.takeOver(c, now, limit) })
	if err != nil {
		s.orphans.Store(true)
	}
	return moved, err
}

func (s *Store) takeOver(c *conn, now time.Time, limit int) (moved int, err error) {
	if err := c.exec(`DELETE FROM nodes WHERE lease_until < ?`, now); err != nil {
		return 0, err
	}
	// Join and Leave set orphans again for a node that dies later: they run on the writer, as takeOver
	// does.
	if orphans := s.orphans.Swap(false); !orphans && c.changes() == 0 {
		return 0, nil
	}
	if err := freeProbes(c); err != nil {
		return 0, err
	}
	held, err := deliveries(c.query(`SELECT `+deliveryColumns+` FROM deliveries INDEXED BY deliveries_held
		WHERE status = 1 AND node NOT IN (SELECT id FROM nodes) LIMIT ?`, limit))
	if err != nil {
		return 0, err
	}
	for i := range held {
		d, attempt, err := rules.TakenOver(&held[i], now)
		if err != nil {
			return 0, err
		}
		if _, err := c.endAttempt(&attempt, &d, &kapsel.Commitments{}); err != nil {
			return 0, err
		}
	}
	if len(held) == limit {
		s.orphans.Store(true)
	}
	return len(held), nil
}

// Held implements store.Queue.
func (s *Store) Held(ctx context.Context, node kapsel.NodeID) (held []kapsel.Delivery, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		held, err = deliveries(c.query(`SELECT `+deliveryColumns+` FROM deliveries WHERE status = 1 AND node = ?`, node))
		return err
	})
	return held, err
}

// Lead implements store.Housekeeping.
func (s *Store) Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (leads bool, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		err := c.exec(`INSERT INTO duties (name, node, lease_until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET node = excluded.node, lease_until = excluded.lease_until
			WHERE node = excluded.node OR lease_until < ? OR lease_until > ?`, duty, node, now.Add(lease), now, now.Add(2*lease))
		leads = c.changes() == 1
		return err
	})
	return leads && err == nil, store.Unavailable(err)
}
