package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const replayColumns = `id, tenant_id, endpoint_id, since, until, statuses, rate, status,
	total, created, delivered, failed, created_at, finished_at, missing`

func scanReplay(r *row) kapsel.Replay {
	return kapsel.Replay{
		ID: r.id(), TenantID: r.id(), EndpointID: r.id(), Since: r.time(), Until: r.time(),
		Statuses: rules.StatusesOf(r.int4()), Rate: r.int4(), Status: kapsel.ReplayStatus(r.text()),
		Total: r.int4(), Created: r.int4(), Delivered: r.int4(), Failed: r.int4(), CreatedAt: r.time(), FinishedAt: r.time(),
		Missing: r.bool(),
	}
}

// candidate is a delivery that may be in the set, and when its event was received: the zero time
// if retention has deleted the event.
type candidate struct {
	kapsel.Delivery
	receivedAt time.Time
	ended      time.Time // its newest attempt; only of one that waits
}

func scanCandidate(r *row) candidate {
	return candidate{Delivery: scanDelivery(r), receivedAt: r.time()}
}

// replayWalk reads the candidates of a bulk replay: the deliveries of each endpoint, or for a replay
// of what is missing the events of each endpoint's subscriptions.
type replayWalk struct {
	ctx context.Context
	q   querier
	r   *kapsel.Replay
	now time.Time
	log *slog.Logger
}

// Endpoint implements rules.Candidates.
func (w replayWalk) Endpoint(from kapsel.EndpointID) (found kapsel.EndpointID, ok bool, err error) {
	return first(w.ctx, w.q, func(r *row) kapsel.EndpointID { return r.id() }, `
		SELECT id FROM endpoints
		WHERE tenant_id = $1 AND id >= $2 AND deleted_at IS NULL AND ($3::uuid IS NULL OR id = $3)
		ORDER BY id LIMIT 1`, id(w.r.TenantID), [16]byte(from), id(w.r.EndpointID))
}

// Read implements rules.Candidates.
func (w replayWalk) Read(at rules.Cursor, n, most int) (out rules.Read, err error) {
	switch {
	case w.r.Missing:
		return w.missing(at, n, most)
	case w.r.Waiting():
		return w.waiting(at, n, most)
	}
	n = min(n, most)
	all, err := replayCandidates(w.ctx, w.q, w.r, at, n)
	for i := range all {
		if w.r.Has(&all[i].Delivery, all[i].receivedAt) {
			out.Set = append(out.Set, all[i].Delivery)
		}
		out.Last = all[i].ID
	}
	out.Seen, out.More = len(all), len(all) == n
	return out, err
}

// waiting is Read for a replay of what waits. It goes from the deliveries that wait longest down to
// those that are due now, as the index has them. The cursor is a due time: deliveries that have one
// in common are read together.
func (w replayWalk) waiting(at rules.Cursor, n, most int) (out rules.Read, err error) {
	var below *time.Time // nil: begin with the latest
	if us := int64(binary.BigEndian.Uint64(at.Candidate[:8])); us > 0 {
		t := time.UnixMicro(us)
		below = &t
	}
	all, err := collect(w.ctx, w.q, func(r *row) candidate {
		c := scanCandidate(r)
		if started, took := r.time(), r.duration(); !started.IsZero() {
			c.ended = started.Add(took)
		}
		return c
	}, `
		SELECT `+deliveryColumns+`, e.received_at, a.started_at, a.duration
		FROM (
			SELECT * FROM deliveries
			WHERE endpoint_id = $1 AND status = 0 AND claims > 0 AND attempts > 0 AND due_at > $2 AND due_at < coalesce($3::timestamptz, 'infinity')
			ORDER BY due_at DESC FETCH FIRST $4 ROWS WITH TIES
		) d
		LEFT JOIN events e ON e.part = d.part AND e.id = d.event_id
		LEFT JOIN attempts a ON a.part = d.part AND a.delivery_id = d.id AND a.number = d.attempts
		ORDER BY d.due_at DESC`, [16]byte(at.Endpoint), w.now, below, n)
	if err != nil {
		return out, err
	}
	for i := range all {
		c := &all[i]
		if len(out.Set) == most {
			// What this step has of the due time is about to be moved, and the next one reads the rest.
			out.Seen, out.More, out.Last = i, true, dueBelow(all[i-1].DueAt.Add(time.Microsecond))
			return out, nil
		}
		if w.r.Has(&c.Delivery, c.receivedAt) && w.r.HasWaiting(&c.Delivery, c.ended, w.now) {
			out.Set = append(out.Set, c.Delivery)
		}
		out.Last = dueBelow(c.DueAt)
	}
	out.Seen, out.More = len(all), len(all) >= n
	return out, nil
}

// dueBelow is the cursor of a walk that goes on with what is due before a time.
func dueBelow(t time.Time) (candidate [16]byte) {
	binary.BigEndian.PutUint64(candidate[:8], uint64(t.UnixMicro()))
	return candidate
}

// missing is Read for a replay of what is missing.
func (w replayWalk) missing(at rules.Cursor, n, most int) (out rules.Read, err error) {
	e, err := endpoint(w.ctx, w.q, w.r.TenantID, at.Endpoint, "")
	if kapsel.CodeOf(err) == kapsel.NotFound { // deleted meanwhile
		return out, nil
	}
	if err != nil {
		return out, err
	}
	var of [][16]byte
	for _, o := range rules.OriginsOf(&e) {
		of = append(of, o)
	}
	from, to := replayBounds(w.r, at)
	had := map[kapsel.EventID]bool{} // or will have it by the event's expansion, or cannot be read
	events, err := collect(w.ctx, w.q, func(r *row) kapsel.Event {
		e := scanEvent(r)
		if r.err != nil && !e.ID.IsZero() {
			w.log.ErrorContext(w.ctx, "an event cannot be read from the database, so a replay passes over it", "event_id", e.ID.String(), "replay_id", w.r.ID.String(), "error", r.err)
			had[e.ID], r.err = true, nil
		}
		return e
	}, `
		SELECT `+shortEventColumns+` FROM unnest($1::uuid[]) AS origins (id) CROSS JOIN LATERAL (
			SELECT * FROM events WHERE endpoint_id = origins.id AND id > $2 AND id < $3 ORDER BY id LIMIT $4
		) e
		ORDER BY e.id LIMIT $4`, of, from, to, n)
	if err != nil || len(events) == 0 {
		return out, err
	}
	parts, ids := make([]int16, len(events)), make([][16]byte, len(events))
	for i := range events {
		parts[i], ids[i] = part(events[i].ID), events[i].ID
	}
	_, err = collect(w.ctx, w.q, func(r *row) bool { had[r.id()] = true; return true }, `
		SELECT u.id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		WHERE EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint_id = $3 AND d.first_of = u.id AND d.part = u.part`+fence+`)
			OR EXISTS (SELECT 1 FROM expansions x WHERE x.part = u.part AND x.event_id = u.id`+fence+`)`, parts, ids, [16]byte(e.ID))
	if err != nil {
		return out, err
	}
	out.Set, out.Last, out.More = rules.Lacking(w.r, &e, events, most, func(id kapsel.EventID) bool { return had[id] })
	if out.Seen = len(events); !out.More && len(events) == n {
		out.Last, out.More = events[n-1].ID, true
	}
	return out, nil
}

// replayCandidates returns the next n deliveries at a cursor's endpoint that may be in the set, in
// the order of their ids. No such delivery is made before its event is received, nor after the
// replay, except for the difference of the nodes' clocks.
func replayCandidates(ctx context.Context, q querier, r *kapsel.Replay, at rules.Cursor, n int) ([]candidate, error) {
	from, to := at.Candidate, idAt(r.CreatedAt.Add(clockRoom))
	if low := idAt(r.Since.Add(-clockRoom)); bytes.Compare(low[:], from[:]) > 0 {
		from = low
	}
	ended := "d.status IN (3, 4, 5)"
	if slices.Contains(r.Statuses, kapsel.Delivered) {
		ended = "d.status >= 2"
	}
	// Deliveries that the replay itself has made are not in the set, though they may end in the
	// replay's millisecond.
	return collect(ctx, q, scanCandidate, `
		SELECT `+deliveryColumns+`, e.received_at
		FROM (
			SELECT * FROM deliveries d
			WHERE d.endpoint_id = $1 AND d.id > $2 AND d.id < $3 AND `+ended+`
			ORDER BY d.id LIMIT $4
		) d
		LEFT JOIN events e ON e.part = d.part AND e.id = d.event_id AND e.erased_at IS NULL AND d.replay_id IS DISTINCT FROM $5
		ORDER BY d.id`, [16]byte(at.Endpoint), from, to, n, [16]byte(r.ID)) // not null for the zero id
}

// clockRoom is more than the nodes' clocks differ by.
const clockRoom = time.Minute

// replayBounds returns ids between which the events of a replay are that are behind a cursor.
func replayBounds(r *kapsel.Replay, at rules.Cursor) (from, to [16]byte) {
	from, to = at.Candidate, idAt(r.CreatedAt.Add(clockRoom))
	if low := idAt(r.Since.Add(-clockRoom)); bytes.Compare(low[:], from[:]) > 0 {
		from = low
	}
	if !r.Until.IsZero() {
		if high := idAt(r.Until.Add(clockRoom)); bytes.Compare(high[:], to[:]) < 0 {
			to = high
		}
	}
	return from, to
}

// replayPage is how many candidates one read looks at.
const replayPage = 1000

// CountReplay counts the set of a replay; see store.Replays.
func (s *Store) CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error) {
	var at rules.Cursor
	for end := false; !end && count < atMost; {
		var set []kapsel.Delivery
		err := s.read(ctx, viewOf(r.TenantID), func(ctx context.Context, q querier) (err error) {
			set, at, end, err = rules.Walk(replayWalk{ctx, q, &r, r.CreatedAt, s.from.log}, at, min(replayPage, atMost), math.MaxInt)
			return err
		})
		if err != nil {
			return 0, nil, err
		}
		some = append(some, set[:min(len(set), sample-len(some))]...)
		count += len(set)
	}
	return count, some, nil
}

// CreateReplay stores a replay; see store.Replays.
func (s *Store) CreateReplay(ctx context.Context, r kapsel.Replay) error {
	return s.change(ctx, viewOf(r.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if r.Missing || r.Waiting() {
			if err := current(ctx, tx, r.CreatedAt, keptSchema); err != nil {
				return err
			}
		}
		err := created(tx.Exec(ctx, `
			INSERT INTO replays (`+replayColumns+`, at_endpoint, at_delivery, walked)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, false) ON CONFLICT (id) DO NOTHING`,
			id(r.ID), id(r.TenantID), id(r.EndpointID), r.Since, at(r.Until), rules.StatusBits(r.Statuses), r.Rate, string(r.Status),
			r.Total, r.Created, r.Delivered, r.Failed, r.CreatedAt, at(r.FinishedAt), r.Missing, [16]byte{}))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&r))
	})
}

// countedReplays returns a query of replays that adds how their deliveries have ended to what their
// rows hold of those that retention has deleted; the rows of replays that are done hold all. which
// is the query's condition.
func countedReplays(which string) string {
	return `
		SELECT id, tenant_id, endpoint_id, since, until, statuses, rate, status, total, created,
			delivered + ended.ok, failed + ended.bad, created_at, finished_at, missing
		FROM (SELECT * FROM replays ` + which + `) r
		CROSS JOIN LATERAL (
			SELECT (count(*) FILTER (WHERE d.status = 2))::integer AS ok, (count(*) FILTER (WHERE d.status > 2))::integer AS bad
			FROM deliveries d WHERE d.replay_id = r.id AND d.status >= 2 AND r.status <> 'done'
		) ended
		ORDER BY id DESC`
}

// ReadReplay reads a replay; see store.Replays.
func (s *Store) ReadReplay(ctx context.Context, tenantID kapsel.TenantID, replayID kapsel.ReplayID) (kapsel.Replay, error) {
	found, err := list(ctx, s, viewOf(tenantID), scanReplay, countedReplays("WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2)"), id(replayID), id(tenantID))
	if err == nil && len(found) == 0 {
		err = store.NotFound("replay")
	}
	if err != nil {
		return kapsel.Replay{}, err
	}
	return found[0], nil
}

// ListReplays lists replays; see store.Replays.
func (s *Store) ListReplays(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.ReplayID]) ([]kapsel.Replay, error) {
	return list(ctx, s, viewOf(tenantID), scanReplay, countedReplays("WHERE ($1::uuid IS NULL OR tenant_id = $1) AND id < $2 ORDER BY id DESC LIMIT $3"),
		id(tenantID), before(p.Before), p.Limit)
}

// lockReplay locks a replay and returns it with the counts that its row holds.
func lockReplay(ctx context.Context, tx pgx.Tx, tenantID kapsel.TenantID, replayID kapsel.ReplayID) (kapsel.Replay, error) {
	r, ok, err := first(ctx, tx, scanReplay,
		"SELECT "+replayColumns+" FROM replays WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) FOR UPDATE", id(replayID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("replay")
	}
	return r, err
}

// MoveReplay changes a replay's state; see store.Replays.
func (s *Store) MoveReplay(ctx context.Context, tenantID kapsel.TenantID, replayID kapsel.ReplayID, to kapsel.ReplayStatus, now time.Time) (kapsel.Replay, error) {
	err := s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		r, err := lockReplay(ctx, tx, tenantID, replayID)
		if err != nil {
			return err
		}
		was := s.by.See(&r)
		if r, err = r.Move(to, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE replays SET status = $2, finished_at = $3 WHERE id = $1", id(r.ID), string(r.Status), at(r.FinishedAt))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, was, s.by.See(&r))
	})
	if err != nil {
		return kapsel.Replay{}, err
	}
	return s.ReadReplay(ctx, tenantID, replayID)
}

// RunningReplays returns replays to go on with; see store.Replays.
func (s *Store) RunningReplays(ctx context.Context, walked bool, after kapsel.ReplayID, limit int) ([]kapsel.Replay, error) {
	return list(ctx, s, engine, scanReplay, "SELECT "+replayColumns+" FROM replays WHERE status = 'running' AND walked = $1 AND id > $2 ORDER BY id LIMIT $3",
		walked, [16]byte(after), limit)
}

// StepReplay goes on with a replay; see store.Replays. A crash before the commit leaves the cursor
// where it was and none of the deliveries; after a later crash, the cursor is behind the
// deliveries.
func (s *Store) StepReplay(ctx context.Context, replayID kapsel.ReplayID, now time.Time, limit int) (made int, more bool, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		made, more = 0, false
		r, err := lockReplay(ctx, tx, kapsel.TenantID{}, replayID)
		if err != nil || r.Status != kapsel.ReplayRunning {
			return err
		}
		var cursor rules.Cursor
		var walked bool
		err = tx.QueryRow(ctx, "SELECT at_endpoint, at_delivery, walked FROM replays WHERE id = $1", id(r.ID)).
			Scan((*[16]byte)(&cursor.Endpoint), &cursor.Candidate, &walked)
		if err != nil {
			return err
		}
		if walked {
			return finishReplay(ctx, tx, &r, now)
		}
		look := limit
		if r.Missing {
			look = rules.MissingWindow
		}
		set, cursor, end, err := rules.Walk(replayWalk{ctx, tx, &r, now, s.from.log}, cursor, look, limit)
		if err != nil {
			return err
		}
		tally := s.newTally()
		switch {
		case len(set) == 0:
		case r.Missing:
			made, err = fill(ctx, tx, tally, set, r.ID, now)
		case r.Waiting():
			made, err = hasten(ctx, tx, set, now)
		default:
			made, err = repeat(ctx, tx, tally, set, r.ID, now)
		}
		if err != nil {
			return err
		}
		more = !end
		_, err = tx.Exec(ctx, "UPDATE replays SET created = created + $2, at_endpoint = $3, at_delivery = $4, walked = $5 WHERE id = $1",
			id(r.ID), made, [16]byte(cursor.Endpoint), cursor.Candidate, end)
		if err != nil {
			return err
		}
		return count(ctx, tx, tally)
	})
	if err != nil {
		return 0, false, err
	}
	return made, more, nil
}

// repeat makes new deliveries that repeat those in set for a bulk replay, and returns how many it
// made. As Replay does, it locks events against retention, then the deliveries against other
// replays, then their endpoints against being deleted. It passes over what was deleted since it
// was read.
func repeat(ctx context.Context, tx pgx.Tx, tally store.Tally, set []kapsel.Delivery, replay kapsel.ReplayID, now time.Time) (int, error) {
	there, err := lockEvents(ctx, tx, set)
	if err != nil {
		return 0, err
	}
	parts, ids := make([]int16, len(set)), make([][16]byte, len(set))
	for i, d := range set {
		parts[i], ids[i] = part(d.ID), d.ID
	}
	old, err := collect(ctx, tx, scanDelivery, `
		SELECT `+deliveryColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN deliveries d ON d.part = u.part AND d.id = u.id
		WHERE d.replayed_as IS NULL
		ORDER BY d.part, d.id FOR UPDATE OF d`, parts, ids)
	if err != nil {
		return 0, err
	}
	live, err := lockEndpoints(ctx, tx, old)
	if err != nil {
		return 0, err
	}
	batch, made := &pgx.Batch{}, 0
	for _, d := range old {
		if there[d.EventID] && live[d.EndpointID] {
			queueNew(batch, tally, rules.NewReplay(&d, now), replay)
			made++
		}
	}
	return made, tx.SendBatch(ctx, batch).Close()
}

// fill makes the deliveries that are missing for a bulk replay, and returns how many it made. It
// locks as repeat does. A delivery that was made meanwhile is passed over: the index of first
// deliveries has each event and endpoint once.
func fill(ctx context.Context, tx pgx.Tx, tally store.Tally, set []kapsel.Delivery, replay kapsel.ReplayID, now time.Time) (made int, err error) {
	there, err := lockEvents(ctx, tx, set)
	if err != nil {
		return 0, err
	}
	live, err := lockEndpoints(ctx, tx, set)
	if err != nil {
		return 0, err
	}
	batch := &pgx.Batch{}
	for i := range set {
		if d := rules.NewMissing(&set[i], now); there[d.EventID] && live[d.EndpointID] {
			batch.Queue(insertNew+" ON CONFLICT (endpoint_id, first_of, part) WHERE first_of IS NOT NULL DO NOTHING", newArgs(d, replay)...).
				Exec(func(tag pgconn.CommandTag) error {
					if tag.RowsAffected() > 0 {
						made++
						tally.Made(&d)
					}
					return nil
				})
		}
	}
	return made, tx.SendBatch(ctx, batch).Close()
}

// hasten makes deliveries that wait due now, and returns how many it moved. It passes over those
// that wait no more, and those that another transaction is changing.
func hasten(ctx context.Context, tx pgx.Tx, set []kapsel.Delivery, now time.Time) (moved int, err error) {
	parts, ids := make([]int16, len(set)), make([][16]byte, len(set))
	for i, d := range set {
		parts[i], ids[i] = part(d.ID), d.ID
	}
	waiting, err := collect(ctx, tx, scanDelivery, `
		SELECT `+deliveryColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN deliveries d ON d.part = u.part AND d.id = u.id
		WHERE d.status = 0 AND d.due_at > $3
		ORDER BY d.part, d.id FOR UPDATE OF d SKIP LOCKED`, parts, ids, now)
	if err != nil {
		return 0, err
	}
	batch := &pgx.Batch{}
	for _, d := range waiting {
		d, err := d.After(kapsel.Retry{}, now)
		if err != nil {
			return 0, err
		}
		queueDelivery(batch, d)
	}
	return len(waiting), tx.SendBatch(ctx, batch).Close()
}

// lockEvents locks the events of deliveries against retention, and returns those that are there and not
// erased.
func lockEvents(ctx context.Context, tx pgx.Tx, set []kapsel.Delivery) (there map[kapsel.EventID]bool, err error) {
	parts, events := make([]int16, len(set)), make([][16]byte, len(set))
	for i, d := range set {
		parts[i], events[i] = part(d.EventID), d.EventID
	}
	locked, err := collect(ctx, tx, func(r *row) kapsel.EventID { return r.id() }, `
		SELECT e.id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN events e ON e.part = u.part AND e.id = u.id
		WHERE e.erased_at IS NULL
		ORDER BY e.part, e.id FOR KEY SHARE OF e`, parts, events)
	there = make(map[kapsel.EventID]bool, len(locked))
	for _, id := range locked {
		there[id] = true
	}
	return there, err
}

// lockEndpoints locks the endpoints of deliveries against being deleted, and returns those that are not deleted.
func lockEndpoints(ctx context.Context, tx pgx.Tx, set []kapsel.Delivery) (live map[kapsel.EndpointID]bool, err error) {
	endpoints := make([][16]byte, len(set))
	for i, d := range set {
		endpoints[i] = d.EndpointID
	}
	locked, err := collect(ctx, tx, func(r *row) kapsel.EndpointID { return r.id() },
		"SELECT id FROM endpoints WHERE id = ANY ($1::uuid[]) AND deleted_at IS NULL ORDER BY id FOR SHARE", endpoints)
	live = make(map[kapsel.EndpointID]bool, len(locked))
	for _, id := range locked {
		live[id] = true
	}
	return live, err
}

// finishReplay makes a replay done if all of its deliveries have ended, else it does nothing. The
// replay's set must have been walked.
func finishReplay(ctx context.Context, tx pgx.Tx, r *kapsel.Replay, now time.Time) error {
	var open bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM deliveries WHERE replay_id = $1 AND status < 2)", id(r.ID)).Scan(&open)
	if err != nil || open {
		return err
	}
	done, err := r.Move(kapsel.ReplayDone, now)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE replays SET status = $2, finished_at = $3, delivered = delivered + ended.ok, failed = failed + ended.bad FROM (
			SELECT count(*) FILTER (WHERE status = 2) AS ok, count(*) FILTER (WHERE status > 2) AS bad
			FROM deliveries WHERE replay_id = $1
		) ended
		WHERE id = $1`, id(r.ID), string(done.Status), done.FinishedAt)
	return err
}
