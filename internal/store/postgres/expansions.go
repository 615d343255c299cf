package postgres

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// OpenExpansions lists events with an open expansion; see store.Expansions.
func (s *Store) OpenExpansions(ctx context.Context, limit int) ([]kapsel.EventID, error) {
	return list(ctx, s, engine, func(r *row) kapsel.EventID { return r.id() },
		"SELECT event_id FROM expansions ORDER BY event_id LIMIT $1", limit)
}

// Expand goes on with an expansion; see store.Expansions. It looks at the next limit endpoints that
// may subscribe. The lock on the expansion's row makes steps follow one another, and keeps the
// event: retention passes it over until the row is gone.
func (s *Store) Expand(ctx context.Context, eventID kapsel.EventID, now time.Time, limit int) (made int, more bool, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		made, more = 0, false
		after, open, err := first(ctx, tx, func(r *row) kapsel.EndpointID { return r.id() },
			"SELECT after_endpoint FROM expansions WHERE part = $1 AND event_id = $2 FOR UPDATE", part(eventID), id(eventID))
		if err != nil || !open {
			return err
		}
		e, found, err := first(ctx, tx, scanEvent, "SELECT "+shortEventColumns+" FROM events e WHERE e.part = $1 AND e.id = $2", part(eventID), id(eventID))
		if err != nil {
			return err
		}
		if !found { // a node of an older release has deleted it
			_, err = tx.Exec(ctx, "DELETE FROM expansions WHERE part = $1 AND event_id = $2", part(eventID), id(eventID))
			return err
		}
		ofApp := "app_id = $5" // which has an index
		if e.AppID.IsZero() {
			ofApp = "app_id IS NOT DISTINCT FROM $5"
		}
		// The text finds the endpoints that subscribe, and few others.
		candidates, err := collect(ctx, tx, scanEndpoint, `
			SELECT `+endpointColumns+` FROM endpoints
			WHERE tenant_id = $1 AND `+ofApp+` AND deleted_at IS NULL AND id > $2 AND strpos(config, $3) > 0
			ORDER BY id LIMIT $4`, id(e.TenantID), [16]byte(after), rules.SubscriptionText(kapsel.OriginID(e.TenantID), e.Origin()), limit, id(e.AppID))
		if err != nil {
			return err
		}
		var all []kapsel.Delivery
		for i := range candidates {
			if d, gets := rules.Expanded(&e, &candidates[i], now); gets {
				all = append(all, d)
			}
		}
		tally := s.newTally()
		if made, err = insertFirsts(ctx, tx, tally, all); err != nil {
			return err
		}
		if err := count(ctx, tx, tally); err != nil {
			return err
		}
		if more = len(candidates) == limit; !more {
			_, err = tx.Exec(ctx, "DELETE FROM expansions WHERE part = $1 AND event_id = $2", part(eventID), id(eventID))
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE expansions SET after_endpoint = $3 WHERE part = $1 AND event_id = $2",
			part(eventID), id(eventID), id(candidates[limit-1].ID))
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return made, more, nil
}

// insertFirsts writes first deliveries of one event, pending, to endpoints at which it did not come
// in, and counts them. Those to endpoints that have one are left out. It returns how many it wrote.
func insertFirsts(ctx context.Context, tx pgx.Tx, tally store.Tally, all []kapsel.Delivery) (made int, err error) {
	if len(all) == 0 {
		return 0, nil
	}
	slices.SortFunc(all, func(a, b kapsel.Delivery) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	ids, endpoints := make([][16]byte, len(all)), make([][16]byte, len(all))
	for i, d := range all {
		ids[i], endpoints[i] = d.ID, d.EndpointID
	}
	d := all[0]
	written, err := collect(ctx, tx, func(r *row) kapsel.DeliveryID { return r.id() }, `
		INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted,
			takeovers, last_status_code, last_error_code, size, created_at, first_of)
		SELECT $1, u.id, $2::uuid, u.endpoint_id, $3, 0, $4, 0, 0, 0, 0, 0, '', $5, $6, $2::uuid
		FROM unnest($7::uuid[], $8::uuid[]) AS u (id, endpoint_id)
		ON CONFLICT DO NOTHING RETURNING id`,
		part(d.EventID), id(d.EventID), id(d.TenantID), d.DueAt, d.Size, d.CreatedAt, ids, endpoints)
	for i := range all {
		if tally.Told != nil && slices.Contains(written, all[i].ID) {
			tally.Made(&all[i])
		}
	}
	return len(written), err
}

// addExpansions sets Expanding in the records of events whose expansion is open. Callers must read
// the events' deliveries afterwards. record returns nil for an event that is not meant.
func addExpansions(ctx context.Context, q querier, events [][16]byte, record func(kapsel.EventID) *store.EventRecord) error {
	open, err := collect(ctx, q, func(r *row) kapsel.EventID { return r.id() }, `
		SELECT x.event_id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, event_id)
		JOIN expansions x ON x.part = u.part AND x.event_id = u.event_id`, partsOf(events), events)
	for _, e := range open {
		if r := record(e); r != nil {
			r.Expanding = true
		}
	}
	return err
}

// CancelEvent cancels what waits of an event; see store.Archive.
func (s *Store) CancelEvent(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, to kapsel.EndpointID, now time.Time) (canceled int, ended bool, err error) {
	const most = 500
	for n := most; n == most; canceled += n {
		var one bool
		if n, one, err = s.cancelSome(ctx, tenantID, eventID, to, now, most); err != nil {
			return canceled, ended, err
		}
		ended = ended || one
	}
	return canceled, ended, nil
}

// cancelSome is a transaction of CancelEvent. It cancels up to limit deliveries, which it locks.
func (s *Store) cancelSome(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, to kapsel.EndpointID, now time.Time, limit int) (canceled int, ended bool, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		canceled, ended = 0, false
		of, found, err := first(ctx, tx, func(r *row) kapsel.TenantID { return r.id() }, `
			SELECT tenant_id FROM events WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3) FOR KEY SHARE`,
			part(eventID), id(eventID), id(tenantID))
		if err == nil && !found {
			err = store.NotFound("event")
		}
		if err != nil {
			return err
		}
		if to.IsZero() { // first, so that nothing is made after the deliveries were looked at
			tag, err := tx.Exec(ctx, "DELETE FROM expansions WHERE part = $1 AND event_id = $2", part(eventID), id(eventID))
			if err != nil {
				return err
			}
			ended = tag.RowsAffected() > 0
		}
		waiting, err := collect(ctx, tx, scanDelivery, `
			SELECT `+deliveryColumns+` FROM deliveries d
			WHERE d.event_id = $1 AND d.part = $2 AND d.status = 0 AND ($3::uuid IS NULL OR d.endpoint_id = $3)
			ORDER BY d.id LIMIT $4 FOR UPDATE`, id(eventID), part(eventID), id(to), limit)
		if err != nil || len(waiting) == 0 && !ended {
			return err
		}
		if err := s.note(ctx, tx, store.Seen{}, s.by.Made(of, kapsel.KindEvent, eventID, "", rules.Canceled(len(waiting), ended))); err != nil {
			return err
		}
		if len(waiting) == 0 {
			return nil
		}
		batch := &pgx.Batch{}
		tally := s.newTally()
		for _, was := range waiting {
			d, err := was.After(kapsel.Cancel{}, now)
			if err != nil {
				return err
			}
			queueDelivery(batch, d)
			tally.End(&d, now)
		}
		canceled = len(waiting)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return count(ctx, tx, tally)
	})
	if err != nil {
		return 0, false, err
	}
	return canceled, ended, nil
}
