package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
)

// Join makes a node known; see store.Queue. An id that was marked dead stays so.
func (s *Store) Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return s.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO nodes (id, lease_until) VALUES ($1, $2)
			ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until WHERE NOT nodes.dead`,
			id(node), now.Add(lease))
		if err == nil && tag.RowsAffected() == 0 {
			err = errDead()
		}
		return err
	})
}

func errDead() error {
	return kapsel.Errorf(kapsel.Conflict, "the node was marked dead; it has to join again under a new id")
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
			err = errDead()
		}
		return err
	})
}

// Leave ends a node's lease; see store.Queue.
func (s *Store) Leave(ctx context.Context, node kapsel.NodeID) error {
	return s.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE nodes SET dead = true WHERE id = $1", id(node))
		return err
	})
}

// Nodes lists the nodes alive at now; see store.Queue.
func (s *Store) Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error) {
	return list(ctx, s, func(r *row) kapsel.NodeID { return r.id() },
		"SELECT id FROM nodes WHERE NOT dead AND lease_until >= $1 ORDER BY id", now)
}

// Lead makes a node the leader of a duty; see store.Housekeeping.
func (s *Store) Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (leads bool, err error) {
	err = s.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO duties AS d (name, node, lease_until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET node = excluded.node, lease_until = excluded.lease_until
			WHERE d.node = excluded.node OR d.lease_until <= $4`,
			duty, id(node), now.Add(lease), now)
		leads = tag.RowsAffected() > 0
		return err
	})
	return leads, err
}
