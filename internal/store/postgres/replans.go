package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Replanning returns endpoints whose waiting deliveries must be rescheduled; see store.Replans.
func (s *Store) Replanning(ctx context.Context, limit int) ([]kapsel.Endpoint, error) {
	return list(ctx, s, engine, scanEndpoint,
		"SELECT "+endpointColumns+" FROM endpoints WHERE replan > 0 AND deleted_at IS NULL ORDER BY id LIMIT $1", limit)
}

// Replan reschedules deliveries that wait for an endpoint; see store.Replans.
func (s *Store) Replan(ctx context.Context, endpointID kapsel.EndpointID, now time.Time, after store.Due, limit int) (next store.Due, more bool, err error) {
	type waiting struct {
		kapsel.Delivery
		ended time.Time // when the newest attempt ended; zero: there is none
	}
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		next, more = after, false
		e, err := endpoint(ctx, tx, kapsel.TenantID{}, endpointID, "")
		if kapsel.CodeOf(err) == kapsel.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		all, err := collect(ctx, tx, func(r *row) waiting {
			w := waiting{Delivery: scanDelivery(r)}
			if started, took := r.time(), r.duration(); !started.IsZero() {
				w.ended = started.Add(took)
			}
			return w
		}, `
			SELECT `+deliveryColumns+`, a.started_at, a.duration
			FROM (
				SELECT * FROM deliveries
				WHERE endpoint_id = $1 AND status <= 1 AND due_at > $2
					AND due_at >= $3 AND (due_at, id) > ($3, $4) -- the index has due_at only
				ORDER BY due_at, id LIMIT $5 FOR UPDATE SKIP LOCKED
			) d
			LEFT JOIN attempts a ON a.part = d.part AND a.delivery_id = d.id AND a.number = d.attempts
			ORDER BY d.due_at, d.id`, id(endpointID), now, after.At, [16]byte(after.ID), limit)
		if err != nil || len(all) == 0 {
			return err
		}
		last := &all[len(all)-1]
		next, more = store.Due{At: last.DueAt, ID: last.ID}, len(all) == limit
		batch := &pgx.Batch{}
		for _, w := range all {
			d, err := rules.Rescheduled(&w.Delivery, &e, w.ended, now)
			if err != nil {
				return err
			}
			if d != w.Delivery {
				queueDelivery(batch, d)
			}
		}
		if batch.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	return next, more, err
}

// Replanned records that an endpoint's waiting deliveries are rescheduled; see store.Replans.
func (s *Store) Replanned(ctx context.Context, endpointID kapsel.EndpointID, mark int64) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE endpoints SET replan = 0 WHERE id = $1 AND replan = $2", id(endpointID), mark)
		return err
	})
}
