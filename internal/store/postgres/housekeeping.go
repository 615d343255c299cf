package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// CancelWaiting cancels pending deliveries of a deleted endpoint; see store.Housekeeping.
func (s *Store) CancelWaiting(ctx context.Context, endpointID kapsel.EndpointID, now time.Time, limit int) (canceled int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		waiting, err := collect(ctx, tx, scanDelivery, `
			SELECT `+deliveryColumns+` FROM deliveries d
			WHERE d.endpoint_id = $1 AND d.status = 0 AND d.due_at IS NOT NULL
			ORDER BY d.due_at LIMIT $2 FOR UPDATE SKIP LOCKED`, id(endpointID), limit)
		if err != nil || len(waiting) == 0 {
			return err
		}
		batch := &pgx.Batch{}
		ended := s.newTally()
		for _, d := range waiting {
			d, err := d.After(kapsel.Cancel{}, now)
			if err != nil {
				return err
			}
			queueDelivery(batch, d)
			ended.End(&d, now)
		}
		canceled = len(waiting)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return count(ctx, tx, ended)
	})
	if err != nil {
		return 0, err
	}
	return canceled, nil
}

// DeletedTenants lists deleted tenants with events; see store.Housekeeping.
func (s *Store) DeletedTenants(ctx context.Context, after kapsel.TenantID, limit int) ([]kapsel.Tenant, error) {
	return list(ctx, s, engine, scanTenant, `
		SELECT `+tenantColumns+` FROM tenants t
		WHERE deleted_at IS NOT NULL AND id > $1 AND EXISTS (
			SELECT 1 FROM `+origins+` CROSS JOIN LATERAL (SELECT 1 FROM events WHERE endpoint_id = origins.id LIMIT 1) one
			WHERE origins.tenant_id = t.id)
		ORDER BY id LIMIT $2`, [16]byte(after), limit)
}

// DeleteFinished deletes old events whose deliveries have all ended; see store.Housekeeping. It walks the origins
// of a tenant in turns, a page of each, so that no statement reads all that waits at one of them, and
// what waits there does not hide what has ended at others.
func (s *Store) DeleteFinished(ctx context.Context, tenantID kapsel.TenantID, olderThan time.Time, limit int) (deleted int, err error) {
	walks, err := s.old(ctx, tenantID, olderThan)
	if err != nil {
		return 0, err
	}
	for len(walks) > 0 && deleted < limit {
		turn := walks[:min(len(walks), walkedTogether)]
		found, further, err := s.finished(ctx, tenantID, turn, olderThan, max(walkedLeast, (limit-deleted)/len(turn)))
		if err != nil {
			return deleted, err
		}
		walks = append(walks[len(turn):], further...)
		found = found[:min(len(found), limit-deleted)]
		for len(found) > 0 {
			sizes := make([]int, len(found))
			for i, e := range found {
				sizes[i] = e.size
			}
			unit := rules.DeletedTogether(sizes)
			n, err := s.deleteSome(ctx, tenantID, found[:unit])
			if err != nil {
				return deleted, err
			}
			deleted += n
			found = found[unit:]
		}
	}
	return deleted, nil
}

// An originWalk goes through the old events of an origin by their ids.
type originWalk struct{ origin, after [16]byte }

// oldEvent is an event that retention has come to.
type oldEvent struct {
	part int16
	id   [16]byte
	size int // of its body
}

const (
	walkedTogether = 16 // origins, at most, that one statement looks at
	walkedLeast    = 32 // events of each, at least
)

// old returns a walk through each origin of a tenant with events that were received before a time.
func (s *Store) old(ctx context.Context, tenantID kapsel.TenantID, olderThan time.Time) ([]originWalk, error) {
	return list(ctx, s, viewOf(tenantID), func(r *row) originWalk { return originWalk{origin: r.id()} }, `
		SELECT DISTINCT origins.id FROM `+origins+` CROSS JOIN LATERAL (
			SELECT 1 FROM events WHERE endpoint_id = origins.id AND id < $2 LIMIT 1) one
		WHERE origins.tenant_id = $1`, id(tenantID), idAt(olderThan.Add(time.Millisecond)))
}

// finished looks at the next events of each walk, up to page of them. It returns those whose deliveries have all
// ended, and where the walks go on that are not at their end.
func (s *Store) finished(ctx context.Context, tenantID kapsel.TenantID, walks []originWalk, olderThan time.Time, page int) (found []oldEvent, further []originWalk, err error) {
	var at, after [][16]byte
	for _, w := range walks {
		at, after = append(at, w.origin), append(after, w.after)
	}
	type seen struct {
		originWalk
		oldEvent
		ended bool
	}
	events, err := list(ctx, s, viewOf(tenantID), func(r *row) seen {
		origin := r.id()
		e := oldEvent{int16(r.int2()), r.id(), r.int4()}
		return seen{originWalk{origin, e.id}, e, r.bool()}
	}, `
		SELECT w.origin, e.part, e.id, e.size, e.ended FROM unnest($1::uuid[], $2::uuid[]) AS w (origin, after) CROSS JOIN LATERAL (
			SELECT part, id, octet_length(body) AS size, received_at < $4
				AND NOT EXISTS (SELECT 1 FROM `+ofEvent("events.part", "events.id")+` d WHERE d.status <= 1)
				AND NOT EXISTS (SELECT 1 FROM expansions x WHERE x.part = events.part AND x.event_id = events.id`+fence+`) AS ended
			FROM events WHERE endpoint_id = w.origin AND id > w.after AND id < $3
			ORDER BY id LIMIT $5
		) e
		ORDER BY w.origin, e.id`, at, after, idAt(olderThan.Add(time.Millisecond)), olderThan, page)
	n := 0 // of the same walk
	for i, e := range events {
		if i == 0 || e.origin != events[i-1].origin {
			n = 0
		}
		if n++; n == page {
			further = append(further, e.originWalk)
		}
		if e.ended {
			found = append(found, e.oldEvent)
		}
	}
	return found, further, err
}

// deleteSome deletes those of the events whose deliveries have still all ended, in one transaction. It first locks
// the events and then looks at them: it sees an earlier replay, and a later replay waits and finds nothing. What
// a bulk replay made of them is added to the counts in the replay's row, unless they hold it already because it is
// done. An event that another transaction holds stays for the next time, and so does one of a replay that another
// transaction goes on with: that transaction may wait for the event.
func (s *Store) deleteSome(ctx context.Context, tenantID kapsel.TenantID, events []oldEvent) (deleted int, err error) {
	parts, ids := keysOf(events)
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		deleted = 0
		locked, err := collect(ctx, tx, func(r *row) oldEvent { return oldEvent{part: int16(r.int2()), id: r.id()} }, `
			SELECT e.part, e.id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id) CROSS JOIN LATERAL (
				SELECT part, id FROM events WHERE part = u.part AND id = u.id FOR UPDATE SKIP LOCKED) e`, parts, ids)
		if err != nil || len(locked) == 0 {
			return err
		}
		parts, ids := keysOf(locked)
		if s.ledger { // what was not told yet never could be
			_, _, err := s.tellUntold(ctx, tx, `
				SELECT `+untoldColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
				CROSS JOIN LATERAL `+ofEvent("u.part", "u.id")+` d
				WHERE coalesce(d.told, 0) <> 3 FOR UPDATE OF d`, parts, ids)
			if err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `
			WITH ended AS (
				SELECT u.part, u.id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
				WHERE NOT EXISTS (SELECT 1 FROM `+ofEvent("u.part", "u.id")+` d WHERE d.status <= 1)
					AND NOT EXISTS (SELECT 1 FROM expansions x WHERE x.part = u.part AND x.event_id = u.id)
			), made AS MATERIALIZED (
				SELECT ended.id AS event_id, d.replay_id FROM ended CROSS JOIN LATERAL `+ofEvent("ended.part", "ended.id")+` d WHERE d.replay_id IS NOT NULL
			), counted AS MATERIALIZED (
				SELECT id FROM replays WHERE id = ANY (ARRAY(SELECT replay_id FROM made)) AND status <> 'done' FOR UPDATE SKIP LOCKED
			), busy AS MATERIALIZED (
				SELECT id FROM replays WHERE id = ANY (ARRAY(SELECT replay_id FROM made)) AND status <> 'done' AND id <> ALL (ARRAY(SELECT id FROM counted))
			), gone AS MATERIALIZED (
				SELECT part, id FROM ended
				WHERE NOT EXISTS (SELECT 1 FROM made WHERE made.event_id = ended.id AND made.replay_id = ANY (ARRAY(SELECT id FROM busy)))
			), gone_deliveries AS (
				DELETE FROM deliveries d USING gone WHERE d.part = gone.part AND d.event_id = gone.id RETURNING d.part, d.id, d.status, d.replay_id
			), gone_replayed AS (
				UPDATE replays r SET
					delivered = delivered + (SELECT count(*) FROM gone_deliveries d WHERE d.replay_id = r.id AND d.status = 2),
					failed = failed + (SELECT count(*) FROM gone_deliveries d WHERE d.replay_id = r.id AND d.status > 2)
				WHERE id = ANY (ARRAY(SELECT id FROM counted))
			), gone_attempts AS (
				DELETE FROM attempts a USING gone_deliveries d WHERE a.part = d.part AND a.delivery_id = d.id
			), gone_events AS (
				DELETE FROM events e USING gone WHERE e.part = gone.part AND e.id = gone.id RETURNING 1
			)
			SELECT count(*) FROM gone_events`, parts, ids).Scan(&deleted)
	})
	if err != nil {
		return 0, err
	}
	return deleted, nil
}

func keysOf(events []oldEvent) (parts []int16, ids [][16]byte) {
	for _, e := range events {
		parts, ids = append(parts, e.part), append(ids, e.id)
	}
	return parts, ids
}

// DeleteExpiredKeys forgets idempotency keys; see store.Housekeeping.
func (s *Store) DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH old AS (
				SELECT part, endpoint_id, key FROM idempotency_keys WHERE expires_at <= $1
				ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
			)
			DELETE FROM idempotency_keys k USING old
			WHERE k.part = old.part AND k.endpoint_id = old.endpoint_id AND k.key = old.key`, now, limit)
		deleted = int(tag.RowsAffected())
		return err
	})
	return deleted, err
}

// DeleteExpiredGuards forgets guards; see store.Housekeeping.
func (s *Store) DeleteExpiredGuards(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH old AS (
				SELECT part, endpoint_id, guard FROM guards WHERE expires_at <= $1
				ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
			)
			DELETE FROM guards g USING old
			WHERE g.part = old.part AND g.endpoint_id = old.endpoint_id AND g.guard = old.guard`, now, limit)
		deleted = int(tag.RowsAffected())
		return err
	})
	return deleted, err
}

// QueueDepth counts open deliveries; see store.Housekeeping.
func (s *Store) QueueDepth(ctx context.Context, now time.Time, atMost int) (depth store.QueueDepth, err error) {
	counts, err := list(ctx, s, engine, func(r *row) store.QueueDepth {
		return store.QueueDepth{Pending: int(r.int8()), Due: int(r.int8()), Delivering: int(r.int8()), Oldest: r.time()}
	}, openEndpoints+`
		SELECT least(due.n + later.n, $2::bigint), due.n, held.n, due.oldest
		FROM open
		CROSS JOIN LATERAL `+waiting+`
		CROSS JOIN LATERAL (
			SELECT count(*) AS n FROM (
				SELECT 1 FROM deliveries
				WHERE status <= 1 AND endpoint_id = open.endpoint_id AND due_at IS NULL LIMIT $2
			) h
		) held`, now, atMost)
	for _, c := range counts {
		depth.Pending += c.Pending
		depth.Due += c.Due
		depth.Delivering += c.Delivering
		if !c.Oldest.IsZero() && (depth.Oldest.IsZero() || c.Oldest.Before(depth.Oldest)) {
			depth.Oldest = c.Oldest
		}
	}
	return depth, err
}

// waiting counts the pending deliveries of endpoints open, each at most $2: due are those that are
// due at $1, and later those that a node took before and are due later. The rest are scheduled. Each has
// the due time of its oldest one.
const waiting = `(
			SELECT count(*) AS n, min(due_at) AS oldest FROM (
				SELECT due_at FROM deliveries
				WHERE status <= 1 AND endpoint_id = open.endpoint_id AND due_at <= $1::timestamptz ORDER BY due_at LIMIT $2
			) p
		) due
		CROSS JOIN LATERAL (
			SELECT count(*) AS n, min(due_at) AS oldest FROM (
				SELECT due_at FROM deliveries
				WHERE status = 0 AND claims > 0 AND endpoint_id = open.endpoint_id AND due_at > $1::timestamptz ORDER BY due_at LIMIT $2
			) p
		) later`

// BacklogOf counts an endpoint's pending deliveries; see store.Housekeeping.
func (s *Store) BacklogOf(ctx context.Context, endpointID kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		var first *time.Time
		err := q.QueryRow(ctx, `
			SELECT least(due.n + later.n, $2::bigint), coalesce(due.oldest, later.oldest)
			FROM (SELECT $3::uuid AS endpoint_id) open CROSS JOIN LATERAL `+waiting, now, atMost, id(endpointID)).Scan(&count, &first)
		if err == nil && first != nil {
			oldest = first.UTC()
		}
		return err
	})
	return count, oldest, err
}

// DeleteOldCounters deletes rows that are too old; see store.Housekeeping.
func (s *Store) DeleteOldCounters(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	for _, old := range []struct {
		table, time, key string
		before           time.Time
	}{
		// A row has the time of its hour's or day's beginning, and is kept StatsKept or UsageKept from its
		// end.
		{"endpoint_stats", "hour", "part, endpoint_id, hour, slot", now.Add(-store.StatsKept - time.Hour)},
		{"tenant_usage", "day", "part, tenant_id, day, slot", now.Add(-store.UsageKept - 24*time.Hour)},
	} {
		var n int
		err := s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `
				WITH old AS (
					SELECT `+old.key+` FROM `+old.table+` WHERE `+old.time+` <= $1
					ORDER BY `+old.time+` LIMIT $2 FOR UPDATE SKIP LOCKED
				)
				DELETE FROM `+old.table+` USING old WHERE `+same(old.table, old.key), old.before, limit-deleted)
			n = int(tag.RowsAffected())
			return err
		})
		if err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// same returns the condition that a row of a table and one of old have the same key.
func same(table, key string) string {
	var all []string
	for _, column := range strings.Split(key, ", ") {
		all = append(all, table+"."+column+" = old."+column)
	}
	return strings.Join(all, " AND ")
}
