package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// EraseEvent erases the contents of an event; see store.Archive.
func (s *Store) EraseEvent(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, now time.Time) (erased time.Time, err error) {
	for more := true; more && err == nil; {
		erased, more, err = s.eraseSome(ctx, tenantID, eventID, now)
	}
	return erased, err
}

// eraseSome erases what the event has, unless that was done, and what the next attempts have, in one
// transaction. It locks the event's row first: an earlier replay is seen, and a later one waits and finds
// the event erased.
func (s *Store) eraseSome(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, now time.Time) (erased time.Time, more bool, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		type state struct {
			tenant kapsel.TenantID
			at     time.Time
			after  []byte
		}
		was, found, err := first(ctx, tx, func(r *row) state { return state{r.id(), r.time(), r.bytes()} }, `
			SELECT tenant_id, erased_at, uuid_send(erasing) FROM events
			WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3) FOR UPDATE`, part(eventID), id(eventID), id(tenantID))
		if err != nil {
			return err
		}
		if !found {
			return callerError{store.NotFound("event")}
		}
		erased, more = was.at, false
		if fresh := was.at.IsZero(); fresh {
			erased = now
			if err := s.eraseContents(ctx, tx, was.tenant, eventID, now); err != nil {
				return err
			}
		} else if was.after == nil {
			return nil
		}
		var after kapsel.AttemptID
		copy(after[:], was.after)
		all, err := collect(ctx, tx, (*row).id, `
			SELECT a.id FROM `+ofEvent("$1", "$2")+` d CROSS JOIN LATERAL (SELECT id FROM attempts WHERE delivery_id = d.id AND part = $1) a
			WHERE a.id > $3 ORDER BY a.id LIMIT $4`, part(eventID), id(eventID), [16]byte(after), rules.ErasedTogether)
		if err != nil {
			return err
		}
		logged, err := eraseAttempts(ctx, tx, was.tenant, part(eventID), all)
		if err != nil {
			return err
		}
		if was.at.IsZero() || len(logged) > 0 {
			e := store.Erasure{EventID: eventID, Attempts: logged, At: erased.UnixMilli()}
			_, err := tx.Exec(ctx, "INSERT INTO audit_outbox (part, id, entry) VALUES ($1, $2, $3)",
				part(eventID), id(kapsel.NewAttemptID(now, eventID.Part())), store.AppendErasure(nil, &e, was.tenant))
			if err != nil {
				return err
			}
		}
		var next any
		if more = len(all) == rules.ErasedTogether; more {
			next = all[len(all)-1]
		}
		_, err = tx.Exec(ctx, "UPDATE events SET erasing = $3 WHERE part = $1 AND id = $2", part(eventID), id(eventID), next)
		return err
	})
	if err != nil {
		return time.Time{}, false, err
	}
	return erased, more, nil
}

// eraseContents erases what an event itself has, if it may be erased.
func (s *Store) eraseContents(ctx context.Context, tx pgx.Tx, tenantID kapsel.TenantID, eventID kapsel.EventID, now time.Time) error {
	if err := current(ctx, tx, now, erasedSchema); err != nil {
		return callerError{err}
	}
	// In this order; see Event.
	_, expanding, err := first(ctx, tx, (*row).id, "SELECT event_id FROM expansions WHERE part = $1 AND event_id = $2", part(eventID), id(eventID))
	if err != nil {
		return err
	}
	deliveries, err := deliveriesOf(ctx, tx, eventID, "")
	if err != nil {
		return err
	}
	if err := rules.Erasable(deliveries, expanding); err != nil {
		return callerError{err}
	}
	_, err = tx.Exec(ctx, "UPDATE events SET body = '', header = '', query = '', salt = NULL, erased_at = $3 WHERE part = $1 AND id = $2",
		part(eventID), id(eventID), now)
	if err != nil {
		return err
	}
	return s.note(ctx, tx, store.Seen{}, s.by.Made(tenantID, kapsel.KindEvent, eventID, "", rules.ErasedChange(now)))
}

// eraseAttempts erases what attempts have, and the texts of their leaves. It returns those that have, or
// will have, a leaf.
//
// It looks at the outbox first and then at the leaves: if an entry was taken, Append has committed, and its
// leaf is seen. Append takes no entry that was erased since it was read.
func eraseAttempts(ctx context.Context, tx pgx.Tx, tenantID kapsel.TenantID, part int16, attempts [][16]byte) (logged []kapsel.AttemptID, err error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	logged, err = collect(ctx, tx, func(r *row) kapsel.AttemptID { return r.id() }, `
		WITH gone AS (
			UPDATE attempts SET request_headers = '', response_headers = '', response_body = ''
			WHERE part = $1 AND id = ANY ($2::uuid[]) RETURNING id, logged
		)
		SELECT id FROM gone WHERE logged IS NOT NULL ORDER BY id`, part, attempts)
	if err != nil || len(logged) == 0 {
		return nil, err
	}
	type entry struct {
		id    kapsel.AttemptID
		entry []byte
	}
	entries, err := collect(ctx, tx, func(r *row) entry { return entry{r.id(), r.bytes()} }, `
		SELECT id, entry FROM audit_outbox WHERE part = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR UPDATE`, part, attempts)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		erased, changed := store.EraseEntry(e.id, e.entry)
		if !changed {
			continue
		}
		if _, err := tx.Exec(ctx, "UPDATE audit_outbox SET entry = $3 WHERE part = $1 AND id = $2", part, id(e.id), erased); err != nil {
			return nil, err
		}
	}
	if err := erasePacked(ctx, tx, tenantID, attempts); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE audit_leaves x SET text = NULL
		FROM audit_logs l CROSS JOIN unnest($2::uuid[]) AS u (id)
		WHERE l.tenant_id = $1 AND x.log = l.log AND x.attempt_id = u.id AND x.text IS NOT NULL`, id(tenantID), attempts)
	return logged, err
}

// Erasing lists events whose erasure is not complete; see store.Housekeeping.
func (s *Store) Erasing(ctx context.Context, limit int) ([]kapsel.EventID, error) {
	return list(ctx, s, engine, func(r *row) kapsel.EventID { return r.id() }, "SELECT id FROM events WHERE erasing IS NOT NULL LIMIT $1", limit)
}
