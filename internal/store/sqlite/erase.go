package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// EraseEvent implements store.Archive. It lists the event's attempts on a connection for reads, and a
// transaction that finds something else does nothing. Once the event is erased no attempt of it is made.
func (s *Store) EraseEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, now time.Time) (time.Time, error) {
	for {
		x := erasing{event: event, now: now}
		err := s.read(ctx, func(c *conn) error { return x.look(c, tenant) })
		if err != nil || !x.at.IsZero() && !x.more {
			return x.at, err
		}
		err = s.writer.cold(ctx, func(c *conn) error {
			// What is erased is overwritten in the pages of the file, too.
			if err := c.script(`PRAGMA secure_delete = ON`); err != nil {
				return err
			}
			x.changed = false
			err := s.eraseSome(c, &x)
			return cmp.Or(err, c.script(`PRAGMA secure_delete = OFF`))
		})
		if err != nil && !x.changed {
			return time.Time{}, err
		}
	}
}

// erasing is the erasure of an event, as far as it has come.
type erasing struct {
	event    kapsel.EventID
	tenant   kapsel.TenantID
	now      time.Time
	at       time.Time                  // when the event was erased; zero: it is not yet
	after    []byte                     // the attempt up to which what attempts have is erased
	more     bool                       // of an erased event: others follow
	attempts []kapsel.AttemptID         // the next ones, by their ids
	last     bool                       // there are no others
	entries  map[kapsel.AttemptID]int64 // their rows in the outbox
	lost     map[kapsel.AttemptID]bool  // those that must have a leaf, and are neither in a log nor in the outbox
	changed  bool                       // something is not as it was when it was read
}

// look reads how far the erasure has come, and which attempts are next.
func (x *erasing) look(c *conn, tenant kapsel.TenantID) error {
	r, err := x.record(c, tenant)
	if err != nil || !x.at.IsZero() && !x.more {
		return err
	}
	if x.attempts, err = attemptsIn(c, r.Deliveries); err != nil {
		return err
	}
	x.attempts = slices.DeleteFunc(x.attempts, func(id kapsel.AttemptID) bool { return bytes.Compare(id[:], x.after) <= 0 })
	if x.last = len(x.attempts) <= rules.ErasedTogether; !x.last {
		x.attempts = x.attempts[:rules.ErasedTogether]
	}
	return x.findEntries(c)
}

// record reads the event, and fails if it may not be erased.
func (x *erasing) record(c *conn, tenant kapsel.TenantID) (r store.EventRecord, err error) {
	if r, err = eventRecord(c, tenant, x.event, eventColumns); err != nil {
		return r, err
	}
	x.tenant, x.at = r.Event.TenantID, r.Event.ErasedAt
	if x.at.IsZero() {
		return r, rules.Erasable(r.Deliveries, r.Expanding)
	}
	_, err = c.query(`SELECT erasing FROM events WHERE id = ?`, x.event).one(func(s *stmt) {
		x.after = s.colBlob()
		x.more = x.after != nil
	})
	return r, err
}

// attemptsIn returns the attempts of deliveries, by their ids.
func attemptsIn(c *conn, deliveries []kapsel.Delivery) (ids []kapsel.AttemptID, err error) {
	for _, d := range deliveries {
		of, err := attemptsOf(c, d.ID)
		if err != nil {
			return nil, err
		}
		for _, a := range of {
			ids = append(ids, a.id)
		}
	}
	slices.SortFunc(ids, func(a, b kapsel.AttemptID) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

// findEntries finds the rows that the attempts have in the outbox. The outbox has no index of attempts, so
// it is read only if one of them has no leaf.
func (x *erasing) findEntries(c *conn) error {
	waiting := map[kapsel.AttemptID]bool{}
	for _, id := range x.attempts {
		leaf, logged, err := x.leaf(c, id)
		if err != nil {
			return err
		}
		if logged && leaf == nil {
			waiting[id] = true
		}
	}
	x.entries, x.lost = map[kapsel.AttemptID]int64{}, waiting
	if len(waiting) == 0 {
		return nil
	}
	q := c.query(`SELECT seq, id FROM audit_outbox`)
	for q.next() {
		if seq, id := q.colInt(), kapsel.AttemptID(q.colID()); waiting[id] {
			x.entries[id] = seq
			delete(x.lost, id)
		}
	}
	return q.end()
}

// leaf returns where the leaf of an attempt is, nil if there is none, and whether there is or will be one.
func (x *erasing) leaf(c *conn, id kapsel.AttemptID) (place *store.Place, logged bool, err error) {
	_, err = c.query(`SELECT a.logged IS NOT NULL, x.log, x.n FROM attempts a
		LEFT JOIN (audit_logs l JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = ?1) ON l.tenant_id = ?2 WHERE a.id = ?1`, id, x.tenant).
		one(func(s *stmt) {
			if logged = s.colBool(); !s.colNull() {
				place = &store.Place{Log: s.colID(), Index: s.colInt()}
			}
		})
	return place, logged, err
}

// eraseSome erases what the event has, unless that was done, and what the next attempts have, if they are
// as they were when x looked.
func (s *Store) eraseSome(c *conn, x *erasing) error {
	was := *x
	r, err := x.record(c, x.tenant)
	if err != nil {
		return err
	}
	if x.at != was.at || !bytes.Equal(x.after, was.after) {
		x.changed = true
		return nil
	}
	var logged []kapsel.AttemptID
	if first := x.at.IsZero(); first {
		x.at = x.now
		err := c.exec(`UPDATE events SET body = x'', header = x'', query = x'', salt = NULL, erased_at = ? WHERE id = ?`, x.at, x.event)
		if err != nil {
			return err
		}
		if err := s.note(c, store.Seen{}, s.by.Made(x.tenant, kapsel.KindEvent, x.event, "", rules.ErasedChange(x.at))); err != nil {
			return err
		}
		// If there are many attempts, or others than x has seen, the next transaction begins with them.
		var all []kapsel.AttemptID
		if x.last {
			if all, err = attemptsIn(c, r.Deliveries); err != nil {
				return err
			}
		}
		if !x.last || !slices.Equal(all, x.attempts) {
			x.attempts, x.last, x.after = nil, false, bottom[:]
		}
	}
	for _, id := range x.attempts {
		is, err := x.erase(c, id)
		if err != nil {
			return err
		}
		if is {
			logged = append(logged, id)
		}
		x.after = id[:]
	}
	e := store.Erasure{EventID: x.event, Attempts: logged, At: x.at.UnixMilli()}
	if was.at.IsZero() || len(logged) > 0 {
		err := c.exec(`INSERT INTO audit_outbox (id, entry) VALUES (?, ?)`,
			kapsel.NewAttemptID(x.now, x.event.Part()), store.AppendErasure(nil, &e, x.tenant))
		if err != nil {
			return err
		}
	}
	if x.last {
		x.after = nil
	}
	return c.exec(`UPDATE events SET erasing = ? WHERE id = ?`, x.after, x.event)
}

// erase erases what an attempt has, and the text of its leaf. It reports whether the attempt has, or will
// have, a leaf.
//
// An entry that is not a leaf yet is replaced by one under another number: who has read the former one
// can make no leaf of it any more.
func (x *erasing) erase(c *conn, id kapsel.AttemptID) (logged bool, err error) {
	if err := c.exec(`UPDATE attempts SET request_headers = x'', response_headers = x'', response_body = x'' WHERE id = ?`, id); err != nil {
		return false, err
	}
	leaf, logged, err := x.leaf(c, id)
	switch {
	case err != nil || !logged:
		return false, err
	case x.lost[id]: // somebody has changed the database, which fsck finds
		return true, nil
	case leaf != nil:
		return true, c.exec(`UPDATE audit_leaves SET text = NULL WHERE log = ? AND n = ?`, [16]byte(leaf.Log), leaf.Index)
	}
	var entry []byte
	_, err = c.query(`SELECT entry FROM audit_outbox WHERE seq = ? AND id = ?`, x.entries[id], id).one(func(s *stmt) { entry = s.colBlob() })
	if err != nil {
		return false, err
	}
	if entry == nil {
		x.changed = true
		return false, rules.EntryTaken()
	}
	erased, changed := store.EraseEntry(id, entry)
	if !changed {
		return true, nil
	}
	// In this order: the number of the last row would be used again.
	if err := c.exec(`INSERT INTO audit_outbox (id, entry) VALUES (?, ?)`, id, erased); err != nil {
		return false, err
	}
	return true, c.exec(`DELETE FROM audit_outbox WHERE seq = ?`, x.entries[id])
}

// Erasing implements store.Housekeeping.
func (s *Store) Erasing(ctx context.Context, limit int) (ids []kapsel.EventID, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT id FROM events WHERE erasing IS NOT NULL AND id > ? LIMIT ?`, bottom[:], limit)
		for q.next() {
			ids = append(ids, q.colID())
		}
		return q.end()
	})
	return ids, err
}
