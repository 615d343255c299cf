package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// The stream's order is the order of the ids of the transactions that wrote the events (seq), and
// the order of the events' ids within one transaction. A transaction may end after others that
// began later, so a reader stops at the horizon: the oldest transaction that runs and may still
// write events. An event below the horizon is committed, and in the reader's snapshot, or never
// will be.
//
// Not every old transaction may write events. The ids are the server's, and a migration of another
// database that runs for hours must not hold the stream for hours. So the horizon passes over a
// transaction whose session is known to be in another database, or which began more than a minute
// ago: Kapsel's own are over after half of that (session's time-outs). Only roles with
// pg_read_all_stats are told when another role's transaction began. Nothing is known of a
// transaction that ended since the snapshot, and it counts until the next reading.
const streamPassed = time.Minute

// streamHorizon is the query of the horizon. $1 is the time before which a transaction must have
// begun to be passed over, $2 the base of seq, and $3 a horizon that was found before: the horizon
// never goes back.
const streamHorizon = `
	SELECT greatest($3::bigint, $2::bigint + CAST(CAST(coalesce((
		SELECT running FROM pg_snapshot_xip(snapshot) running
		WHERE CAST(running AS xid) <> ALL (ARRAY(
			SELECT backend_xid FROM pg_stat_get_activity(NULL)
			WHERE backend_xid IS NOT NULL AND (
				datid <> (SELECT oid FROM pg_database WHERE datname = current_database()) OR xact_start < $1::timestamptz)))
		ORDER BY running LIMIT 1), pg_snapshot_xmax(snapshot)) AS text) AS bigint)) AS seq,
		$2::bigint + CAST(CAST(pg_snapshot_xmax(snapshot) AS text) AS bigint) AS top
	FROM pg_current_snapshot() snapshot`

// streamArgs returns the arguments of streamHorizon.
func (s *Store) streamArgs(now time.Time) []any {
	return []any{now.Add(-streamPassed), s.seqBase, s.horizon.Load()}
}

// reached records a horizon and returns the position before it.
func (s *Store) reached(horizon int64) store.Position {
	for {
		known := s.horizon.Load()
		if horizon <= known || s.horizon.CompareAndSwap(known, horizon) {
			return store.Position{Seq: horizon - 1, ID: store.EndOfSeq}
		}
	}
}

// StreamEvents returns the next events; see store.Stream. It reads the horizon, and then the page
// before it: what the horizon's snapshot has below the horizon, each later snapshot has too. The page
// is of all tenants, so that it ends however few of its events are meant; StreamEvents then reads the
// meant events in the tenant's view.
func (s *Store) StreamEvents(ctx context.Context, f store.StreamFilter, after store.Position, now time.Time, limit int) (events []store.Streamed, next store.Position, more bool, err error) {
	type entry struct {
		seq    int64
		part   int16
		id     [16]byte
		tenant kapsel.TenantID
		meant  bool
	}
	tenants := make([][16]byte, len(f.Tenants))
	for i, t := range f.Tenants {
		tenants[i] = t
	}
	var ids [][16]byte
	var parts []int16
	place := map[kapsel.EventID]store.Streamed{} // without their records
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		type reach struct{ horizon, top int64 }
		found, _, err := first(ctx, q, func(r *row) reach { return reach{r.int8(), r.int8()} }, streamHorizon, s.streamArgs(now)...)
		if err != nil {
			return err
		}
		if after.Seq > found.top {
			return rules.StreamAhead()
		}
		page, err := collect(ctx, q, func(r *row) entry {
			return entry{r.int8(), int16(r.int2()), r.id(), r.id(), r.bool()}
		}, `
			SELECT e.seq, e.part, e.id, e.tenant_id,
				coalesce((cardinality($5::uuid[]) = 0 OR e.tenant_id = ANY ($5)) AND ($6::uuid IS NULL OR e.endpoint_id = $6 AND NOT `+atSource+`
					OR EXISTS (SELECT 1 FROM deliveries d WHERE d.part = e.part AND d.first_of = e.id AND d.endpoint_id = $6`+fence+`)
					OR EXISTS (SELECT 1 FROM expansions x WHERE x.part = e.part AND x.event_id = e.id AND x.after_endpoint < $6`+fence+`))
					AND ($7::uuid IS NULL OR e.endpoint_id = $7 AND `+atSource+`), false)
			FROM (
				SELECT seq, part, id, tenant_id, endpoint_id, extra FROM events
				WHERE seq >= $1 AND (seq > $1 OR id > $2) AND seq < $3
				ORDER BY seq, id LIMIT $4
			) e
			ORDER BY e.seq, e.id`,
			after.Seq, [16]byte(after.ID), found.horizon, limit, tenants, id(f.EndpointID), id(f.SourceID))
		if err != nil {
			return err
		}
		next, more = after.Later(s.reached(found.horizon)), false
		if len(page) >= limit {
			last := page[len(page)-1]
			next, more = store.Position{Seq: last.seq, ID: last.id}, true
		}
		page = slices.DeleteFunc(page, func(e entry) bool { return !e.meant })
		owners := make([]kapsel.TenantID, len(page))
		for i, e := range page {
			owners[i] = e.tenant
		}
		for i, left := range rules.Thin(owners, f.Newest) {
			if e := page[i]; left >= 0 {
				ids, parts = append(ids, e.id), append(parts, e.part)
				place[e.id] = store.Streamed{At: store.Position{Seq: e.seq, ID: e.id}, Left: left}
			}
		}
		return nil
	})
	if err != nil || len(ids) == 0 {
		return nil, next, more, err
	}
	v := engine
	if len(f.Tenants) == 1 {
		v = viewOf(f.Tenants[0])
	}
	err = s.read(ctx, v, func(ctx context.Context, q querier) error {
		records, err := collect(ctx, q, scanEvent, `
			SELECT `+shortEventColumns+` FROM unnest($1::smallint[], $2::uuid[]) WITH ORDINALITY AS u (part, id, n)
			JOIN events e ON e.part = u.part AND e.id = u.id ORDER BY u.n`, parts, ids)
		if err != nil {
			return err
		}
		index := make(map[kapsel.EventID]int, len(records))
		events = make([]store.Streamed, len(records))
		for i, e := range records {
			events[i] = place[e.ID]
			events[i].Event, index[e.ID] = e, i
		}
		record := func(id kapsel.EventID) *store.EventRecord {
			if i, ok := index[id]; ok {
				return &events[i].EventRecord
			}
			return nil // the event was deleted meanwhile
		}
		return addDeliveries(ctx, q, ids, record)
	})
	if err != nil {
		return nil, store.Position{}, false, err
	}
	return events, next, more, nil
}

// StreamEnd returns the position before the horizon; see store.Stream.
func (s *Store) StreamEnd(ctx context.Context, now time.Time) (end store.Position, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		horizon, _, err := first(ctx, q, (*row).int8, streamHorizon, s.streamArgs(now)...)
		end = s.reached(horizon)
		return err
	})
	return end, err
}

// StreamPosition returns the position of an event; see store.Stream.
func (s *Store) StreamPosition(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID) (p store.Position, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		seq, ok, err := first(ctx, q, (*row).int8, `
			SELECT seq FROM events WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3)`,
			part(eventID), id(eventID), id(tenantID))
		if err == nil && !ok {
			err = store.NotFound("event")
		}
		p = store.Position{Seq: seq, ID: eventID}
		return err
	})
	if err != nil {
		return store.Position{}, err
	}
	return p, nil
}

// streamBaseName is the name of the instance's value that holds the stream's base.
const streamBaseName = "stream_base"

// streamBase returns by how much the seq of an event is ahead of its transaction's id. That is 0
// until the database is the target of a copy (see Transfer.Finish), or is moved to another server
// by a dump, where transaction ids may be lower than those that wrote the events. The base then
// becomes so large that new events come behind the existing ones.
func (s *Store) streamBase(ctx context.Context) (base int64, err error) {
	const name = streamBaseName
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		var kept []byte
		if _, err := tx.Exec(ctx, "INSERT INTO meta (name, value) VALUES ($1, '0') ON CONFLICT DO NOTHING", name); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT value FROM meta WHERE name = $1 FOR UPDATE", name).Scan(&kept); err != nil {
			return err
		}
		var newest, top int64
		err := tx.QueryRow(ctx, `
			SELECT coalesce((SELECT seq FROM events ORDER BY seq DESC LIMIT 1), 0),
				CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)`).Scan(&newest, &top)
		if err != nil {
			return err
		}
		if base, err = strconv.ParseInt(string(kept), 10, 64); err != nil {
			return errors.New("the value " + name + " in the table meta is no number")
		}
		if newest < base+top {
			return nil
		}
		base = newest
		_, err = tx.Exec(ctx, "UPDATE meta SET value = $2 WHERE name = $1", name, []byte(strconv.FormatInt(base, 10)))
		return err
	})
	return base, err
}
