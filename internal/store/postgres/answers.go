package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/store"
)

const answerColumns = "owner, key, request, seed, created_at, expires_at, status, made, body, sealed"

func scanAnswer(r *row) (a store.Reservation) {
	a = store.Reservation{Owner: r.id(), Key: r.text()}
	copy(a.Request[:], r.next(len(a.Request)))
	a.Seed, a.CreatedAt, a.ExpiresAt, a.Status, a.Made, a.Body = r.id(), r.time(), r.time(), r.int4(), r.text(), r.bytes()
	a.Sealed = r.bool()
	return a
}

// Reserve stores a reservation unless there is one; see store.Answers. If there is a row, the
// INSERT waits for the transaction that wrote the row and locks it, so that the row does not
// change after Reserve has read it.
func (s *Store) Reserve(ctx context.Context, r store.Reservation, now time.Time) (there store.Reservation, err error) {
	err = s.change(ctx, viewOf(r.Owner), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO answers AS a (`+answerColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			ON CONFLICT (owner, key) DO UPDATE SET
				request = excluded.request, seed = excluded.seed, created_at = excluded.created_at, expires_at = excluded.expires_at,
				status = excluded.status, made = excluded.made, body = excluded.body, sealed = excluded.sealed
			WHERE a.expires_at <= $11`,
			[16]byte(r.Owner), r.Key, r.Request[:], r.Seed, r.CreatedAt, r.ExpiresAt, r.Status, r.Made, r.Body, r.Sealed, now)
		if err != nil {
			return err
		}
		there, _, err = first(ctx, tx, scanAnswer, "SELECT "+answerColumns+" FROM answers WHERE owner = $1 AND key = $2", [16]byte(r.Owner), r.Key)
		return err
	})
	if err != nil {
		return store.Reservation{}, err
	}
	return there, nil
}

// Resume lets a request run again; see store.Answers.
func (s *Store) Resume(ctx context.Context, r store.Reservation, now time.Time) (resumed bool, err error) {
	err = s.change(ctx, viewOf(r.Owner), func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE answers SET status = 0, created_at = $6 WHERE owner = $1 AND key = $2 AND seed = $3 AND status = $4 AND created_at = $5",
			[16]byte(r.Owner), r.Key, r.Seed, r.Status, r.CreatedAt, now)
		resumed = tag.RowsAffected() == 1
		return err
	})
	return resumed && err == nil, err
}

// Settle stores an answer; see store.Answers.
func (s *Store) Settle(ctx context.Context, r store.Reservation) error {
	return s.change(ctx, viewOf(r.Owner), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE answers SET status = $4, made = $5, body = $6, sealed = $7 WHERE owner = $1 AND key = $2 AND seed = $3",
			[16]byte(r.Owner), r.Key, r.Seed, r.Status, r.Made, r.Body, r.Sealed)
		return err
	})
}

// Forget deletes a reservation; see store.Answers.
func (s *Store) Forget(ctx context.Context, r store.Reservation) error {
	return s.change(ctx, viewOf(r.Owner), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM answers WHERE owner = $1 AND key = $2 AND seed = $3", [16]byte(r.Owner), r.Key, r.Seed)
		return err
	})
}

// DeleteExpiredAnswers forgets reservations and their secrets; see store.Housekeeping.
func (s *Store) DeleteExpiredAnswers(ctx context.Context, now time.Time, limit int) (changed int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		deleted, err := tx.Exec(ctx, `
			WITH old AS (
				SELECT owner, key FROM answers WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
			)
			DELETE FROM answers a USING old WHERE a.owner = old.owner AND a.key = old.key`, now, limit)
		if err != nil {
			return err
		}
		cleared, err := tx.Exec(ctx, `
			WITH old AS (
				SELECT owner, key FROM answers WHERE sealed AND body IS NOT NULL AND created_at <= $1
				ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
			)
			UPDATE answers a SET body = NULL FROM old WHERE a.owner = old.owner AND a.key = old.key`, now.Add(-store.SecretKept), limit)
		changed = int(deleted.RowsAffected() + cleared.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return changed, nil
}
