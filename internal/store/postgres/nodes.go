package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Join makes a node known; see store.Queue. An id that was marked dead stays dead.
func (s *Store) Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO nodes (id, lease_until, schema, untold) VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, untold = nodes.untold OR excluded.untold WHERE NOT nodes.dead`,
			id(node), now.Add(lease), schemaVersion, !s.ledger)
		if err == nil && tag.RowsAffected() == 0 {
			err = rules.NodeDead()
		}
		if err == nil {
			_, err = nextRevision(ctx, tx)
		}
		return err
	})
}

var renewStatements = map[string]string{
	"renew": "UPDATE nodes SET lease_until = $2::timestamptz WHERE id = $1::uuid AND NOT dead RETURNING true",
}

// Renew extends a node's lease; see store.Queue.
func (s *Store) Renew(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return s.renewals.use(ctx, func(ctx context.Context, l *lane) error {
		alive := false
		err := l.run(ctx, command{"renew", [][]byte{node[:], timeParam(now.Add(lease))}, func(*row) { alive = true }})
		if err == nil && !alive {
			err = rules.NodeDead()
		}
		return err
	})
}

// Leave ends a node's lease; see store.Queue.
func (s *Store) Leave(ctx context.Context, node kapsel.NodeID) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE nodes SET dead = true WHERE id = $1", id(node))
		return err
	})
}

// Nodes returns the nodes alive at now; see store.Queue.
func (s *Store) Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error) {
	return list(ctx, s, engine, func(r *row) kapsel.NodeID { return r.id() },
		"SELECT id FROM nodes WHERE NOT dead AND lease_until >= $1 ORDER BY id", now)
}

// Demands publishes what a node demands and returns what all nodes demand; see store.Queue. It is
// one statement, so that a process that is stopped in the middle holds no lock on its row.
func (s *Store) Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []store.Demand) ([]store.NodeDemands, error) {
	return list(ctx, s, engine, func(r *row) store.NodeDemands {
		return store.NodeDemands{Node: r.id(), At: r.time(), Demands: store.DecodeDemands(r.next(-1))}
	}, `
		WITH told AS (UPDATE nodes SET demands = $3, told_at = $2 WHERE id = $1 AND NOT dead)
		SELECT id, told_at, demands FROM nodes WHERE NOT dead AND lease_until >= $2 ORDER BY id`,
		id(node), now, store.EncodeDemands(own))
}

// Follow publishes which revision of the settings a node uses; see store.Directory. It is one
// statement, as Demands is.
func (s *Store) Follow(ctx context.Context, node kapsel.NodeID, revision int64) error {
	_, err := list(ctx, s, engine, func(r *row) kapsel.NodeID { return r.id() },
		"UPDATE nodes SET revision = $2 WHERE id = $1 AND NOT dead RETURNING id", id(node), revision)
	return err
}

// Behind returns how many nodes do not yet use a revision; see store.Directory. A node of an older
// release never publishes its revision, and counts.
func (s *Store) Behind(ctx context.Context, node kapsel.NodeID, now time.Time, revision int64) (behind int, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, `
			SELECT count(*) FROM nodes WHERE NOT dead AND lease_until >= $2 AND id <> $1 AND coalesce(revision, 0) < $3`,
			id(node), now, revision).Scan(&behind)
	})
	return behind, err
}

// TakeOver frees what dead nodes hold; see store.Queue. It looks for such deliveries in all parts, and
// then moves those that it has found, by their keys. It passes over a delivery on which a dead node's
// last statement still works; the next call finds that delivery. If it fails, it returns how many
// deliveries it has moved before.
func (s *Store) TakeOver(ctx context.Context, now time.Time, limit int) (moved int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		// Nodes that are long dead hold nothing. What they might hold all the same is found without their
		// rows: a node that is not known to be alive is dead. What they did not tell the ledger is told by a walk
		// that begins later, or else their rows have to stay until one does.
		_, err := tx.Exec(ctx, `
			DELETE FROM nodes WHERE dead AND lease_until < $1
				AND (NOT untold OR NOT EXISTS (SELECT 1 FROM meta WHERE name = $2 AND value <> $3))`,
			now.Add(-24*time.Hour), store.WalkName, []byte(store.WalkDue))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE nodes SET dead = true WHERE NOT dead AND lease_until < $1", now); err != nil {
			return err
		}
		return freeProbes(ctx, tx)
	})
	if err != nil {
		return 0, err
	}
	seen := [][16]byte{} // what was found before, and was moved or passed over
	for more := true; more && moved < limit; {
		found, err := list(ctx, s, engine, (*row).id, openEndpoints+`
			SELECT d.id
			FROM open CROSS JOIN LATERAL (
				SELECT id FROM deliveries
				WHERE endpoint_id = open.endpoint_id AND status = 1 AND due_at IS NULL AND id <> ALL ($2::uuid[])
					AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = node AND NOT n.dead)
				LIMIT $1
			) d
			LIMIT $1`, limit-moved, seen)
		if err != nil || len(found) == 0 {
			return moved, err
		}
		more = len(found) == limit-moved
		n, err := s.takeOver(ctx, found, now)
		if err != nil {
			return moved, err
		}
		moved, seen = moved+n, append(seen, found...)
	}
	return moved, nil
}

// takeOver frees those of some deliveries that dead nodes hold and that no transaction has locked.
func (s *Store) takeOver(ctx context.Context, found [][16]byte, now time.Time) (moved int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		moved = 0
		lost, err := collect(ctx, tx, scanDelivery, `
			SELECT `+deliveryColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
			JOIN deliveries d ON d.part = u.part AND d.id = u.id
			WHERE d.status = 1 AND d.due_at IS NULL AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = d.node AND NOT n.dead)
			FOR UPDATE OF d SKIP LOCKED`, partsOf(found), found)
		if err != nil || len(lost) == 0 {
			return err
		}
		slices.SortFunc(lost, func(a, b kapsel.Delivery) int { return byPart(&a, &b) })
		batch := &pgx.Batch{}
		tally := s.newTally()
		for i := range lost {
			free, attempt, err := rules.TakenOver(&lost[i], now)
			if err != nil {
				return err
			}
			queueDelivery(batch, free)
			batch.Queue(`
				INSERT INTO attempts (part, id, delivery_id, event_id, endpoint_id, tenant_id, number, started_at, duration,
					status_code, error_code, error, request_headers, response_headers, response_body, logged)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9, $10, '', '', '', true)`,
				part(free.ID), id(attempt.ID), id(free.ID), id(free.EventID), id(free.EndpointID), id(free.TenantID),
				attempt.Number, attempt.StartedAt, string(attempt.ErrorCode), []byte(attempt.Error))
			batch.Queue("INSERT INTO audit_outbox (part, id, entry) VALUES ($1, $2, $3)",
				part(attempt.ID), id(attempt.ID), store.AppendEntry(nil, &attempt, &kapsel.Commitments{}))
			tally.Attempt(&attempt, &free)
		}
		moved = len(lost)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return count(ctx, tx, tally)
	})
	if err != nil {
		return 0, err
	}
	return moved, nil
}

// Lead makes a node the leader of a duty; see store.Housekeeping.
func (s *Store) Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (leads bool, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO duties AS d (name, node, lease_until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET node = excluded.node, lease_until = excluded.lease_until
			WHERE d.node = excluded.node OR d.lease_until < $4 OR d.lease_until > $5`,
			duty, id(node), now.Add(lease), now, now.Add(2*lease))
		leads = tag.RowsAffected() > 0
		return err
	})
	return leads && err == nil, err
}
