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

const replayColumns = `id, tenant_id, endpoint_id, since, until, statuses, rate, status,
	total, created, delivered, failed, created_at, finished_at`

func scanReplay(r *row) kapsel.Replay {
	return kapsel.Replay{
		ID: r.id(), TenantID: r.id(), EndpointID: r.id(), Since: r.time(), Until: r.time(),
		Statuses: rules.StatusesOf(r.int4()), Rate: r.int4(), Status: kapsel.ReplayStatus(r.text()),
		Total: r.int4(), Created: r.int4(), Delivered: r.int4(), Failed: r.int4(), CreatedAt: r.time(), FinishedAt: r.time(),
	}
}

// candidate is a delivery that may be in the set, and when its event was received: the zero time
// if retention has deleted the event.
type candidate struct {
	kapsel.Delivery
	receivedAt time.Time
}

func scanCandidate(r *row) candidate { return candidate{scanDelivery(r), r.time()} }

// replayWalk reads the candidates of a bulk replay: the deliveries of each endpoint.
type replayWalk struct {
	ctx context.Context
	q   querier
	r   *kapsel.Replay
}

// Endpoint implements rules.Candidates.
func (w replayWalk) Endpoint(from kapsel.EndpointID) (found kapsel.EndpointID, ok bool, err error) {
	return first(w.ctx, w.q, func(r *row) kapsel.EndpointID { return r.id() }, `
		SELECT id FROM endpoints
		WHERE tenant_id = $1 AND id >= $2 AND deleted_at IS NULL AND ($3::uuid IS NULL OR id = $3)
		ORDER BY id LIMIT 1`, id(w.r.TenantID), [16]byte(from), id(w.r.EndpointID))
}

// Read implements rules.Candidates.
func (w replayWalk) Read(at rules.Cursor, n int) (set []kapsel.Delivery, seen int, last [16]byte, err error) {
	all, err := replayCandidates(w.ctx, w.q, w.r, at, n)
	for i := range all {
		if w.r.Has(&all[i].Delivery, all[i].receivedAt) {
			set = append(set, all[i].Delivery)
		}
		last = all[i].ID
	}
	return set, len(all), last, err
}

// replayCandidates returns the next n deliveries at a cursor's endpoint that may be in the set, in
// the order of their ids. No such delivery is made before its event is received, nor after the
// replay, except for the difference of the nodes' clocks.
func replayCandidates(ctx context.Context, q querier, r *kapsel.Replay, at rules.Cursor, n int) ([]candidate, error) {
	const room = time.Minute
	from, to := at.Candidate, idAt(r.CreatedAt.Add(room))
	if low := idAt(r.Since.Add(-room)); bytes.Compare(low[:], from[:]) > 0 {
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
		LEFT JOIN events e ON e.part = d.part AND e.id = d.event_id AND d.replay_id IS DISTINCT FROM $5
		ORDER BY d.id`, [16]byte(at.Endpoint), from, to, n, [16]byte(r.ID)) // not null for the zero id
}

// replayPage is how many candidates one read looks at.
const replayPage = 1000

// CountReplay counts the set of a replay; see store.Replays.
func (s *Store) CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error) {
	var at rules.Cursor
	for end := false; !end && count < atMost; {
		var set []kapsel.Delivery
		err := s.read(ctx, viewOf(r.TenantID), func(ctx context.Context, q querier) (err error) {
			set, at, end, err = rules.Walk(replayWalk{ctx, q, &r}, at, replayPage)
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
		return created(tx.Exec(ctx, `
			INSERT INTO replays (`+replayColumns+`, at_endpoint, at_delivery, walked)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, false) ON CONFLICT (id) DO NOTHING`,
			id(r.ID), id(r.TenantID), id(r.EndpointID), r.Since, at(r.Until), rules.StatusBits(r.Statuses), r.Rate, string(r.Status),
			r.Total, r.Created, r.Delivered, r.Failed, r.CreatedAt, at(r.FinishedAt), [16]byte{}))
	})
}

// countedReplays returns a query of replays that counts how their deliveries have ended; the rows
// of replays that are done hold these counts. which is the query's condition.
func countedReplays(which string) string {
	return `
		SELECT id, tenant_id, endpoint_id, since, until, statuses, rate, status, total, created,
			CASE WHEN status = 'done' THEN delivered ELSE ended.ok END, CASE WHEN status = 'done' THEN failed ELSE ended.bad END,
			created_at, finished_at
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
		if r, err = r.Move(to, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE replays SET status = $2, finished_at = $3 WHERE id = $1", id(r.ID), string(r.Status), at(r.FinishedAt))
		return err
	})
	if err != nil {
		return kapsel.Replay{}, err
	}
	return s.ReadReplay(ctx, tenantID, replayID)
}

// RunningReplays returns replays to go on with; see store.Replays.
func (s *Store) RunningReplays(ctx context.Context, limit int) ([]kapsel.Replay, error) {
	return list(ctx, s, engine, scanReplay, "SELECT "+replayColumns+" FROM replays WHERE status = 'running' ORDER BY id LIMIT $1", limit)
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
		set, cursor, end, err := rules.Walk(replayWalk{ctx, tx, &r}, cursor, limit)
		if err != nil {
			return err
		}
		if made, err = repeat(ctx, tx, set, r.ID, now); err != nil {
			return err
		}
		more = !end
		_, err = tx.Exec(ctx, "UPDATE replays SET created = created + $2, at_endpoint = $3, at_delivery = $4, walked = $5 WHERE id = $1",
			id(r.ID), made, [16]byte(cursor.Endpoint), cursor.Candidate, end)
		return err
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
func repeat(ctx context.Context, tx pgx.Tx, set []kapsel.Delivery, replay kapsel.ReplayID, now time.Time) (int, error) {
	if len(set) == 0 {
		return 0, nil
	}
	parts, ids, events := make([]int16, len(set)), make([][16]byte, len(set)), make([][16]byte, len(set))
	for i, d := range set {
		parts[i], ids[i], events[i] = part(d.ID), d.ID, d.EventID
	}
	locked, err := collect(ctx, tx, func(r *row) kapsel.EventID { return r.id() }, `
		SELECT e.id FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN events e ON e.part = u.part AND e.id = u.id
		ORDER BY e.part, e.id FOR KEY SHARE OF e`, parts, events)
	if err != nil {
		return 0, err
	}
	there := make(map[kapsel.EventID]bool, len(locked))
	for _, id := range locked {
		there[id] = true
	}
	old, err := collect(ctx, tx, scanDelivery, `
		SELECT `+deliveryColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN deliveries d ON d.part = u.part AND d.id = u.id
		WHERE d.replayed_as IS NULL
		ORDER BY d.part, d.id FOR UPDATE OF d`, parts, ids)
	if err != nil {
		return 0, err
	}
	live := map[kapsel.EndpointID]bool{}
	batch, made := &pgx.Batch{}, 0
	for _, d := range old {
		if _, known := live[d.EndpointID]; !known {
			_, err := endpoint(ctx, tx, kapsel.TenantID{}, d.EndpointID, " FOR SHARE")
			if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
				return 0, err
			}
			live[d.EndpointID] = err == nil
		}
		if there[d.EventID] && live[d.EndpointID] {
			queueNew(batch, rules.NewReplay(&d, now), replay)
			made++
		}
	}
	return made, tx.SendBatch(ctx, batch).Close()
}

// finishReplay makes a replay done if all of its deliveries have ended, else it does nothing. The
// replay's set must have been walked.
func finishReplay(ctx context.Context, tx pgx.Tx, r *kapsel.Replay, now time.Time) error {
	var open bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM deliveries WHERE replay_id = $1 AND status < 2)", id(r.ID)).Scan(&open)
	if err != nil || open {
		return err
	}
	done, err := r.Move(kapsel.ReplayDone, now)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE replays SET status = $2, finished_at = $3, delivered = ended.ok, failed = ended.bad FROM (
			SELECT count(*) FILTER (WHERE status = 2) AS ok, count(*) FILTER (WHERE status > 2) AS bad
			FROM deliveries WHERE replay_id = $1
		) ended
		WHERE id = $1`, id(r.ID), string(done.Status), done.FinishedAt)
	return err
}
