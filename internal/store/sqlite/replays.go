package sqlite

import (
	"bytes"
	"context"
	"math"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const replayColumns = `id, tenant_id, endpoint_id, since, until, statuses, rate, status,
	total, created, delivered, failed, created_at, finished_at, missing`

func scanReplay(s *stmt) (r kapsel.Replay, _ error) {
	return kapsel.Replay{
		ID: s.colID(), TenantID: s.colID(), EndpointID: s.colID(), Since: s.colTime(), Until: s.colTime(),
		Statuses: rules.StatusesOf(int(s.colInt())), Rate: int(s.colInt()), Status: kapsel.ReplayStatus(s.colText()),
		Total: int(s.colInt()), Created: int(s.colInt()), Delivered: int(s.colInt()), Failed: int(s.colInt()),
		CreatedAt: s.colTime(), FinishedAt: s.colTime(), Missing: s.colBool(),
	}, nil
}

// replayWalk reads the candidates of a bulk replay: the events of each endpoint, or for a replay of
// what is missing those of each endpoint's subscriptions.
type replayWalk struct {
	s   *Store
	c   *conn
	r   *kapsel.Replay
	now time.Time
}

// Endpoint implements rules.Candidates.
func (w replayWalk) Endpoint(from kapsel.EndpointID) (id kapsel.EndpointID, found bool, err error) {
	query, args := `SELECT id FROM endpoints WHERE tenant_id = ? AND id >= ? AND deleted_at IS NULL ORDER BY id LIMIT 1`, []any{w.r.TenantID, from[:]}
	if !w.r.EndpointID.IsZero() {
		query, args = `SELECT id FROM endpoints WHERE tenant_id = ? AND id >= ? AND deleted_at IS NULL AND id = ?`, append(args, w.r.EndpointID)
	}
	found, err = w.c.query(query, args...).one(func(s *stmt) { id = s.colID() })
	return id, found, err
}

// Read implements rules.Candidates.
func (w replayWalk) Read(at rules.Cursor, n, most int) (out rules.Read, err error) {
	if w.r.Missing {
		return w.missing(at, n, most)
	}
	events, err := w.s.replayCandidates(w.c, w.r, at, min(n, most))
	if err != nil {
		return out, err
	}
	unread := 0
	for _, id := range events {
		out.Last = id
		found, err := eventRecord(w.c, w.r.TenantID, id, eventColumns)
		if kapsel.CodeOf(err) == kapsel.NotFound {
			continue
		}
		if unread < mostStay && damaged(err) {
			unread++
			w.passOver(id, err)
			continue
		}
		if err != nil {
			return out, err
		}
		if !found.Event.ErasedAt.IsZero() {
			continue
		}
		for _, d := range found.Newest() {
			if d.EndpointID != at.Endpoint || !w.r.Has(&d, found.Event.ReceivedAt) {
				continue
			}
			if w.r.Waiting() {
				ended, err := lastEnd(w.c, d.ID)
				if err != nil {
					return out, err
				}
				if !w.r.HasWaiting(&d, ended, w.now) {
					continue
				}
			}
			out.Set = append(out.Set, d)
		}
	}
	out.Seen, out.More = len(events), len(events) == min(n, most)
	return out, nil
}

// passOver logs that a replay leaves out an event that cannot be read.
func (w replayWalk) passOver(event kapsel.EventID, err error) {
	w.s.log.Error("an event cannot be read from the database, so a replay passes over it", "event_id", event.String(), "replay_id", w.r.ID.String(), "error", err)
}

// missing is Read for a replay of what is missing.
func (w replayWalk) missing(at rules.Cursor, n, most int) (out rules.Read, err error) {
	e, err := liveEndpoint(w.c, w.r.TenantID, at.Endpoint)
	if err != nil {
		return out, err
	}
	from, to := w.s.replayBounds(w.r, at)
	var events []kapsel.Event
	had := map[kapsel.EventID]bool{} // or will have it by the event's expansion, or cannot be read
	for _, origin := range rules.OriginsOf(&e) {
		q := w.c.query(`SELECT `+eventColumns+`,
				EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint_id = ?1 AND d.first_of = e.id)
				OR EXISTS (SELECT 1 FROM expansions x WHERE x.event_id = e.id)
			FROM events e WHERE endpoint_id = ?2 AND id > ?3 AND id < ?4 ORDER BY id LIMIT ?5`, e.ID, [16]byte(origin), from, to, n)
		for q.next() {
			ev, _, err := scanEvent(q, false)
			if err != nil {
				w.passOver(ev.ID, err)
			}
			if events = append(events, ev); q.colBool() || err != nil {
				had[ev.ID] = true
			}
		}
		if err := q.end(); err != nil {
			return out, err
		}
		slices.SortFunc(events, func(a, b kapsel.Event) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		if len(events) >= n { // of the other origins only what comes before
			events = events[:n]
			to = events[n-1].ID[:]
		}
	}
	out.Set, out.Last, out.More = rules.Lacking(w.r, &e, events, most, func(id kapsel.EventID) bool { return had[id] })
	if out.Seen = len(events); !out.More && len(events) == n {
		out.Last, out.More = events[n-1].ID, true
	}
	return out, nil
}

// lowest sorts ids, lowest first, and returns the first n different ones.
func lowest(ids []kapsel.EventID, n int) []kapsel.EventID {
	slices.SortFunc(ids, func(a, b kapsel.EventID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	return ids[:min(n, len(ids))]
}

// replayBounds returns ids between which the events of a replay are that are behind a cursor.
func (s *Store) replayBounds(r *kapsel.Replay, at rules.Cursor) (from, to []byte) {
	from, to = at.Candidate[:], firstID(r.CreatedAt.Add(s.eventSkew.get()+time.Millisecond)) // events whose deliveries have ended were received before
	if low := firstID(r.Since.Add(-s.eventSkew.get())); bytes.Compare(low, from) > 0 {
		from = low
	}
	if !r.Until.IsZero() {
		if high := firstID(r.Until.Add(s.eventSkew.get() + time.Millisecond)); bytes.Compare(high, to) < 0 {
			to = high
		}
	}
	return from, to
}

// replayCandidates returns the next n events at a cursor's endpoint that may have a delivery in
// the replay's set, in the order of their ids.
func (s *Store) replayCandidates(c *conn, r *kapsel.Replay, at rules.Cursor, n int) (ids []kapsel.EventID, err error) {
	from, to := s.replayBounds(r, at)
	for _, status := range r.Statuses {
		var q *stmt
		switch status {
		case kapsel.Pending: // what was tried and waits
			q = c.stmt(`SELECT event_id FROM deliveries
				WHERE endpoint_id = ? AND status = 0 AND attempts > 0 AND event_id > ? AND event_id < ?
				ORDER BY event_id LIMIT ?`).id(at.Endpoint)
		case kapsel.Delivered:
			q = c.stmt(`SELECT id FROM (
				SELECT id FROM events WHERE endpoint_id = ?1 AND id > ?2 AND id < ?3
				UNION SELECT first_of FROM deliveries WHERE endpoint_id = ?1 AND first_of IS NOT NULL AND first_of > ?2 AND first_of < ?3
			) ORDER BY id LIMIT ?4`).id(at.Endpoint)
		default:
			q = c.stmt(`SELECT event_id FROM deliveries
				WHERE endpoint_id = ? AND status = ? AND status >= 3 AND replayed_as IS NULL AND event_id > ? AND event_id < ?
				ORDER BY event_id LIMIT ?`).id(at.Endpoint).int(int64(status))
		}
		q.blob(from).blob(to).int(int64(n))
		for q.next() {
			ids = append(ids, q.colID())
		}
		if err := q.end(); err != nil {
			return nil, err
		}
	}
	return lowest(ids, n), nil
}

// CountReplay implements store.Replays.
func (s *Store) CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error) {
	var at rules.Cursor
	for end := false; !end && count < atMost; {
		var set []kapsel.Delivery
		err := s.read(ctx, func(c *conn) (err error) {
			set, at, end, err = rules.Walk(replayWalk{s, c, &r, r.CreatedAt}, at, min(page, atMost), math.MaxInt)
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

// CreateReplay implements store.Replays.
func (s *Store) CreateReplay(ctx context.Context, r kapsel.Replay) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if err := absent(c, "replays", r.ID); err != nil {
			return err
		}
		err := c.exec(`INSERT INTO replays (`+replayColumns+`, at_endpoint, at_event, walked)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
			r.ID, r.TenantID, r.EndpointID, r.Since, r.Until, rules.StatusBits(r.Statuses), r.Rate, string(r.Status),
			r.Total, r.Created, r.Delivered, r.Failed, r.CreatedAt, r.FinishedAt, r.Missing, bottom[:], bottom[:])
		if err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&r))
	})
}

// replayOf returns a replay of the tenant, or of any tenant if tenant is zero, with the counts
// that its row holds. It fails with NotFound if there is none.
func replayOf(c *conn, tenant kapsel.TenantID, id kapsel.ReplayID) (kapsel.Replay, error) {
	r, err := live(c.query(`SELECT `+replayColumns+` FROM replays WHERE id = ?`, id), "replay", scanReplay)
	if err == nil && !tenant.IsZero() && r.TenantID != tenant {
		err = store.NotFound("replay")
	}
	return r, err
}

// countEnded adds how many of a replay's deliveries were delivered and how many failed to what its
// row holds of those that retention has deleted. For a replay that is done it does nothing: the row
// holds all.
func countEnded(c *conn, r *kapsel.Replay) error {
	if r.Status == kapsel.ReplayDone {
		return nil
	}
	q := c.query(`SELECT status, count(*) FROM deliveries WHERE replay_id = ? AND status >= 2 GROUP BY status`, r.ID)
	for q.next() {
		status, n := kapsel.DeliveryStatus(q.colInt()), int(q.colInt())
		if status == kapsel.Delivered {
			r.Delivered += n
		} else {
			r.Failed += n
		}
	}
	return q.end()
}

// ReadReplay implements store.Replays.
func (s *Store) ReadReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID) (r kapsel.Replay, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		if r, err = replayOf(c, tenant, id); err != nil {
			return err
		}
		return countEnded(c, &r)
	})
	if err != nil {
		return kapsel.Replay{}, err
	}
	return r, nil
}

// ListReplays implements store.Replays.
func (s *Store) ListReplays(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.ReplayID]) (all []kapsel.Replay, err error) {
	if tenant.IsZero() {
		all, err = list(s, ctx, p.Limit, scanReplay, `SELECT `+replayColumns+` FROM replays
			WHERE id < ? ORDER BY id DESC LIMIT ?`, before(p.Before))
	} else {
		all, err = list(s, ctx, p.Limit, scanReplay, `SELECT `+replayColumns+` FROM replays
			WHERE tenant_id = ? AND id < ? ORDER BY id DESC LIMIT ?`, tenant, before(p.Before))
	}
	for i := range all {
		if err == nil {
			err = s.read(ctx, func(c *conn) error { return countEnded(c, &all[i]) })
		}
	}
	return all, err
}

// MoveReplay implements store.Replays.
func (s *Store) MoveReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID, to kapsel.ReplayStatus, now time.Time) (r kapsel.Replay, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		was, err := replayOf(c, tenant, id)
		if err != nil {
			return err
		}
		if r, err = was.Move(to, now); err != nil {
			return err
		}
		if err := c.exec(`UPDATE replays SET status = ?, finished_at = ? WHERE id = ?`, string(r.Status), r.FinishedAt, id); err != nil {
			return err
		}
		return s.note(c, s.by.See(&was), s.by.See(&r))
	})
	if err != nil {
		return kapsel.Replay{}, err
	}
	return s.ReadReplay(ctx, tenant, id)
}

// RunningReplays implements store.Replays.
func (s *Store) RunningReplays(ctx context.Context, walked bool, after kapsel.ReplayID, limit int) ([]kapsel.Replay, error) {
	return list(s, ctx, limit, scanReplay, `SELECT `+replayColumns+` FROM replays
		WHERE status = 'running' AND walked = ? AND id > ? ORDER BY id LIMIT ?`, walked, after[:])
}

// StepReplay implements store.Replays. It writes the deliveries and the cursor in one transaction:
// a crash before the commit leaves the cursor where it was and none of the deliveries; after a
// later crash, the cursor is behind the deliveries.
func (s *Store) StepReplay(ctx context.Context, id kapsel.ReplayID, now time.Time, limit int) (made int, more bool, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		made, more = 0, false
		r, err := replayOf(c, kapsel.TenantID{}, id)
		if err != nil || r.Status != kapsel.ReplayRunning {
			return err
		}
		var at rules.Cursor
		var walked bool
		_, err = c.query(`SELECT at_endpoint, at_event, walked FROM replays WHERE id = ?`, id).
			one(func(s *stmt) { at = rules.Cursor{Endpoint: s.colID(), Candidate: s.colID()}; walked = s.colBool() })
		if err != nil {
			return err
		}
		if walked {
			return finishReplay(c, &r, now)
		}
		look := limit
		if r.Missing {
			look = rules.MissingWindow
		}
		set, at, end, err := rules.Walk(replayWalk{s, c, &r, now}, at, look, limit)
		if err != nil {
			return err
		}
		for i := range set {
			if err := again(c, &r, &set[i], now); err != nil {
				return err
			}
		}
		made, more = len(set), !end
		return c.exec(`UPDATE replays SET created = created + ?, at_endpoint = ?, at_event = ?, walked = ? WHERE id = ?`,
			made, at.Endpoint[:], at.Candidate[:], end, id)
	})
	if err != nil {
		return 0, false, err
	}
	return made, more, nil
}

// again does what a bulk replay does with an element of its set.
func again(c *conn, r *kapsel.Replay, of *kapsel.Delivery, now time.Time) (err error) {
	var d kapsel.Delivery
	switch {
	case r.Waiting():
		if d, err = of.After(kapsel.Retry{}, now); err != nil {
			return err
		}
		_, err = c.moveDelivery(of.Status, of.Token, &d, now)
		return err
	case r.Missing:
		d = rules.NewMissing(of, now)
		err = c.insertDelivery(&d, d.EventID)
	default:
		d = rules.NewReplay(of, now)
		err = insertReplay(c, &d)
	}
	if err != nil {
		return err
	}
	if r.Missing {
		c.tally.Made(&d)
	}
	return c.exec(`UPDATE deliveries SET replay_id = ? WHERE id = ?`, r.ID, d.ID)
}

// finishReplay makes a replay done if all of its deliveries have ended, else it does nothing. The
// replay's set must have been walked.
func finishReplay(c *conn, r *kapsel.Replay, now time.Time) error {
	open, err := c.query(`SELECT 1 FROM deliveries WHERE replay_id = ? AND status < 2 LIMIT 1`, r.ID).one(func(*stmt) {})
	if err != nil || open {
		return err
	}
	if err := countEnded(c, r); err != nil {
		return err
	}
	done, err := r.Move(kapsel.ReplayDone, now)
	if err != nil {
		return err
	}
	return c.exec(`UPDATE replays SET status = ?, delivered = ?, failed = ?, finished_at = ? WHERE id = ?`,
		string(done.Status), done.Delivered, done.Failed, done.FinishedAt, r.ID)
}
