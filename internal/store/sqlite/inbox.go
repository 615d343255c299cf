package sqlite

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Accept implements store.Inbox.
func (s *Store) Accept(_ context.Context, in store.Acceptance) (store.Accepted, error) {
	call := acceptCall{s: s, in: in}
	if err := s.writer.do(&call, max(1, len(in.Deliveries)), len(in.Event.Body)); err != nil {
		return store.Accepted{}, err
	}
	return call.out, nil
}

// Current implements store.Inbox. It returns nil: the file has one process, which is this one.
func (s *Store) Current(context.Context, time.Time) error { return nil }

// acceptCall is one Accept in a batch.
type acceptCall struct {
	s   *Store
	in  store.Acceptance
	out store.Accepted
}

func (a *acceptCall) write(c *conn) error {
	e := &a.in.Event
	a.out = store.Accepted{EventID: e.ID}
	if e.IdempotencyKey != nil || a.in.Guard != nil {
		first, err := remember(c, &a.in)
		if err != nil {
			return err
		}
		if first != e.ID {
			a.out = store.Accepted{EventID: first, Duplicate: true}
			return nil
		}
	}
	if err := a.s.eventSkew.include(c, e.ReceivedAt, e.ID.Time()); err != nil {
		return err
	}
	origin := e.Origin()
	var own kapsel.DeliveryID // the delivery to the endpoint whose ingest the event came in at
	for i := range a.in.Deliveries {
		if d := &a.in.Deliveries[i]; d.EndpointID == e.EndpointID {
			own = d.ID
			if err := a.s.deliverySkew.include(c, own.Time(), e.ID.Time()); err != nil {
				return err
			}
		}
	}
	s := c.stmt(`INSERT INTO events (n, id, tenant_id, endpoint_id, delivery_id, received_at,
			scheme, valid, secret, skew, idempotency_key, trace_parent, content_type, query, header, body, type, extra, unmatched, app_id, salt)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`)
	s.int(a.s.lastN.Add(1)).id(e.ID).id(e.TenantID).id(origin).orNone(own).at(e.ReceivedAt)
	s.text(e.Signature.Scheme).bool(e.Signature.Valid).text(e.Signature.KeyID).int(int64(e.Signature.Skew))
	if e.IdempotencyKey == nil {
		s.null()
	} else {
		s.blob(e.IdempotencyKey)
	}
	s.bytes(e.TraceParent).bytes(e.ContentType).bytes(e.Query).header(e.Header).blob(e.Body)
	s.textOrNull(e.Type).textOrNull(string(e.Extra()))
	if len(a.in.Deliveries) > 0 || !a.in.ExpandAfter.IsZero() {
		s.null()
	} else {
		s.bool(true)
	}
	if s.id(e.AppID); e.Salt == nil {
		s.null()
	} else {
		s.blob(e.Salt)
	}
	if err := s.exec(); err != nil {
		return err
	}
	if c.changes() == 0 {
		return nil // a repeated call, whose first was written
	}
	for i := range a.in.Deliveries {
		d, firstOf := &a.in.Deliveries[i], e.ID
		if d.EndpointID == e.EndpointID {
			firstOf = kapsel.EventID{}
		}
		if err := c.insertDelivery(d, firstOf); err != nil {
			return err
		}
	}
	if !a.in.ExpandAfter.IsZero() {
		err := c.stmt(`INSERT INTO expansions (event_id, tenant_id, after_endpoint) VALUES (?, ?, ?)`).id(e.ID).id(e.TenantID).id(a.in.ExpandAfter).exec()
		if err != nil {
			return err
		}
	}
	if a.in.Change != nil {
		if err := insertChange(c, a.in.Change); err != nil {
			return err
		}
	}
	c.tally.Event(e)
	if c.tally.Told != nil {
		for i := range a.in.Deliveries {
			c.tally.Made(&a.in.Deliveries[i])
		}
	}
	return nil
}

// remember returns the event that an acceptance stands for: the event of its guard, else the event
// of its key, else its own. It remembers the guard and the key for that event. If the guard stands
// for another event, remember changes neither.
func remember(c *conn, in *store.Acceptance) (first kapsel.EventID, err error) {
	e := &in.Event
	if in.Guard != nil {
		found, err := c.stmt(`SELECT event_id FROM guards WHERE endpoint_id = ? AND guard = ? AND expires_at > ?`).
			id(e.Origin()).blob(in.Guard).at(e.ReceivedAt).
			one(func(s *stmt) { first = s.colID() })
		if err != nil || found && first != e.ID { // its own event: a repeated call, whose first was written
			return first, err
		}
	}
	first = e.ID
	if e.IdempotencyKey != nil {
		if first, err = rememberKey(c, e, in.Window); err != nil {
			return first, err
		}
	}
	if in.Guard != nil {
		err = c.stmt(`INSERT INTO guards (endpoint_id, guard, event_id, expires_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (endpoint_id, guard) DO UPDATE SET event_id = excluded.event_id, expires_at = excluded.expires_at`).
			id(e.Origin()).blob(in.Guard).id(first).at(e.ReceivedAt.Add(in.GuardWindow)).exec()
	}
	return first, err
}

// rehearse writes an event that belongs to nobody, within a transaction, and takes it back. So it
// finds what would keep the next event from being stored before that event comes.
func (s *Store) rehearse(c *conn) error {
	if err := c.exec("SAVEPOINT rehearsal"); err != nil {
		return err
	}
	call := acceptCall{s: s, in: store.Rehearsal()}
	if err := call.write(c); err != nil {
		return err
	}
	if err := c.count(); err != nil {
		return err
	}
	c.tally.Reset()
	return c.script("ROLLBACK TO rehearsal; RELEASE rehearsal")
}

// rememberKey returns the event that an event's idempotency key stands for: the remembered one,
// else e itself, which it then remembers for the window.
//
// The key is remembered in its scope. If the scope is not the event's origin, rememberKey also
// writes a row of the origin, by which lists find the event. That row stands for no event from the
// first.
func rememberKey(c *conn, e *kapsel.Event, window time.Duration) (first kapsel.EventID, err error) {
	scope := e.KeyScope()
	first, found, err := remembered(c, e)
	if found || err != nil {
		return first, err
	}
	const insert = `INSERT INTO idempotency_keys (endpoint_id, key, event_id, expires_at) VALUES (?, ?, ?, ?)
		ON CONFLICT DO NOTHING`
	err = c.stmt(insert).id(scope).blob(e.IdempotencyKey).id(e.ID).at(e.ReceivedAt.Add(window)).exec()
	if origin := e.Origin(); err == nil && scope != origin {
		err = c.stmt(insert).id(origin).blob(e.IdempotencyKey).id(e.ID).null().exec()
	}
	return e.ID, err
}

// remembered returns the event that an event's key stands for, if it is remembered.
func remembered(c *conn, e *kapsel.Event) (first kapsel.EventID, found bool, err error) {
	found, err = c.stmt(`SELECT event_id FROM idempotency_keys WHERE endpoint_id = ? AND key = ? AND expires_at > ?`).
		id(e.KeyScope()).blob(e.IdempotencyKey).at(e.ReceivedAt).
		one(func(s *stmt) { first = s.colID() })
	return first, found, err
}

// Remembered implements store.Inbox.
func (s *Store) Remembered(ctx context.Context, e *kapsel.Event) (first kapsel.EventID, ok bool, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		first, ok, err = remembered(c, e)
		return err
	})
	return first, ok, err
}

// skew is an upper bound of how many milliseconds two times of one event were ever apart. It only
// grows.
type skew struct {
	counter string // its row in counters
	ms      atomic.Int64
}

// load reads the stored bound. Callers must call it at start and after a rollback.
func (k *skew) load(c *conn) error {
	_, err := c.query(`SELECT value FROM counters WHERE name = ?`, k.counter).
		one(func(s *stmt) { k.ms.Store(s.colInt()) })
	return err
}

// include widens the bound for an event about to be written, in its transaction.
func (k *skew) include(c *conn, a, b time.Time) error {
	apart := a.Sub(b).Abs()
	if apart <= k.get() {
		return nil
	}
	ms := int64(apart/time.Millisecond) + 1
	if err := c.exec(`UPDATE counters SET value = ? WHERE name = ?`, ms, k.counter); err != nil {
		return err
	}
	k.ms.Store(ms)
	return nil
}

func (k *skew) get() time.Duration { return time.Duration(k.ms.Load()) * time.Millisecond }
