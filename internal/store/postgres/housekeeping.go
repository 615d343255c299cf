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

// DeleteFinished deletes old events whose deliveries have all ended; see store.Housekeeping. It
// first locks the events and then looks at them: it sees an earlier replay, and a later replay
// waits and finds nothing.
func (s *Store) DeleteFinished(ctx context.Context, tenantID kapsel.TenantID, olderThan time.Time, limit int) (deleted int, err error) {
	for more := true; more && deleted < limit; {
		n := 0
		if n, more, err = s.deleteSome(ctx, tenantID, olderThan, limit-deleted); err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// deleteSome deletes up to limit finished events in one transaction. more says that it deleted
// some events and left others because of the size of their bodies. What a bulk replay made of them
// is added to the counts in the replay's row, unless they hold it already because it is done. An
// event of a replay that another transaction goes on with stays for the next time: that transaction
// may wait for the event.
func (s *Store) deleteSome(ctx context.Context, tenantID kapsel.TenantID, olderThan time.Time, limit int) (deleted int, more bool, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		deleted, more = 0, false
		var parts []int16
		var ids [][16]byte
		sizes, err := collect(ctx, tx, func(r *row) int {
			parts, ids = append(parts, int16(r.int2())), append(ids, r.id())
			return r.int4()
		}, `
			SELECT e.part, e.id, e.size FROM `+origins+` CROSS JOIN LATERAL (
				SELECT part, id, octet_length(body) AS size FROM events
				WHERE endpoint_id = origins.id AND id < $2 AND received_at < $3 AND NOT EXISTS (
					SELECT 1 FROM `+ofEvent("events.part", "events.id")+` d WHERE d.status <= 1)
					AND NOT EXISTS (SELECT 1 FROM expansions x WHERE x.part = events.part AND x.event_id = events.id)
				ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED
			) e
			WHERE origins.tenant_id = $1 LIMIT $4`, id(tenantID), idAt(olderThan.Add(time.Millisecond)), olderThan, limit)
		if err != nil || len(ids) == 0 {
			return err
		}
		n := rules.DeletedTogether(sizes)
		if s.ledger { // what was not told yet never could be
			_, _, err := s.tellUntold(ctx, tx, `
				SELECT `+untoldColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
				CROSS JOIN LATERAL `+ofEvent("u.part", "u.id")+` d
				WHERE coalesce(d.told, 0) <> 3 FOR UPDATE OF d`, parts[:n], ids[:n])
			if err != nil {
				return err
			}
		}
		err = tx.QueryRow(ctx, `
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
			SELECT count(*) FROM gone_events`, parts[:n], ids[:n]).Scan(&deleted)
		more = n < len(ids) && deleted > 0
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return deleted, more, nil
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
