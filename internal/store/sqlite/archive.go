package sqlite

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Event implements store.Archive.
func (s *Store) Event(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (r store.EventRecord, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		r, err = eventRecord(c, tenant, id, eventColumns+`, `+eventContent)
		return err
	})
	return r, err
}

// EventHead implements store.Archive.
func (s *Store) EventHead(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (r store.EventRecord, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		r, err = eventRecord(c, tenant, id, eventColumns+`, query, header, NULL, salt`)
		return err
	})
	return r, err
}

// eventRecord reads columns of an event, and returns it with its deliveries. It fails
// with NotFound if there is no such event of the tenant, or of any tenant if tenant is zero.
func eventRecord(c *conn, tenant kapsel.TenantID, id kapsel.EventID, columns string) (store.EventRecord, error) {
	e, next, err := eventOf(c, tenant, id, columns)
	if err != nil {
		return store.EventRecord{}, err
	}
	return withDeliveries(c, e, next)
}

// eventOf reads columns of an event, as eventRecord does. first is its delivery to its origin, zero if there is
// none.
func eventOf(c *conn, tenant kapsel.TenantID, id kapsel.EventID, columns string) (e kapsel.Event, first kapsel.DeliveryID, err error) {
	var unreadable error
	found, err := c.query(`SELECT `+columns+` FROM events WHERE id = ?`, id).
		one(func(s *stmt) { e, first, unreadable = scanEvent(s, columns != eventColumns) })
	if err = errors.Join(err, unreadable); err != nil {
		return e, first, err
	}
	if !found || !tenant.IsZero() && e.TenantID != tenant {
		return e, first, store.NotFound("event")
	}
	return e, first, nil
}

// withDeliveries returns an event with its deliveries. first is that to its origin, zero if there is none.
func withDeliveries(c *conn, e kapsel.Event, first kapsel.DeliveryID) (store.EventRecord, error) {
	r := store.EventRecord{Event: e}
	var err error
	if r.Deliveries, err = deliveries(c.query(`SELECT `+deliveryColumns+` FROM deliveries WHERE first_of = ?`, e.ID)); err != nil {
		return r, err
	}
	repeated := []kapsel.DeliveryID{first}
	for i := range r.Deliveries {
		if again := r.Deliveries[i].ReplayedAs; !again.IsZero() {
			repeated = append(repeated, again)
		}
	}
	for _, next := range repeated { // each delivery names the one that repeats it
		for !next.IsZero() {
			d, found, err := c.delivery(next)
			if err != nil {
				return r, err
			}
			if !found {
				break
			}
			r.Deliveries = append(r.Deliveries, d)
			next = d.ReplayedAs
		}
	}
	slices.SortFunc(r.Deliveries, func(a, b kapsel.Delivery) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	r.Expanding, err = c.query(`SELECT 1 FROM expansions WHERE event_id = ?`, e.ID).one(func(*stmt) {})
	return r, err
}

// ListEvents implements store.Archive.
func (s *Store) ListEvents(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter, p store.Page[kapsel.EventID]) (records []store.EventRecord, reached kapsel.EventID, err error) {
	high, low := before(p.Before), bottom[:]
	if !f.Until.IsZero() {
		if id := firstID(f.Until.Add(s.eventSkew.get() + time.Millisecond)); bytes.Compare(id, high) < 0 {
			high = id
		}
	}
	if !f.Since.IsZero() {
		low = firstID(f.Since.Add(-s.eventSkew.get()))
	}
	from, err := s.eventSource(ctx, tenant, f)
	if err == nil && f.IdempotencyKey == nil {
		from, err = s.better(ctx, tenant, f, from, high, low, min(p.Looks(), page))
	}
	if err != nil {
		return nil, reached, err
	}
	reached, err = s.walk(ctx, from, high, low, p.Limit, p.Looks(), func(c *conn, id [16]byte) (bool, error) {
		e, first, err := eventOf(c, tenant, id, eventColumns)
		if kapsel.CodeOf(err) == kapsel.NotFound {
			return false, nil
		}
		if err != nil || !passes(f, &e) {
			return false, err
		}
		r, err := withDeliveries(c, e, first)
		if err != nil || !meets(f, &r) {
			return false, err
		}
		r.Digest()
		records = append(records, r)
		return true, nil
	})
	return records, reached, err
}

// meets reports whether a filter lets an event through.
func meets(f store.EventFilter, r *store.EventRecord) bool {
	return passes(f, &r.Event) && (f.EndpointID.IsZero() || r.To(f.EndpointID)) && (f.Status == "" || r.Status() == f.Status)
}

// passes reports whether a filter may let an event through, whatever its deliveries are.
func passes(f store.EventFilter, e *kapsel.Event) bool {
	return (f.SourceID.IsZero() || e.SourceID == f.SourceID) &&
		(f.AppID.IsZero() || e.AppID == f.AppID) &&
		(f.Type == "" || e.Type == f.Type) &&
		(f.Since.IsZero() || !e.ReceivedAt.Before(f.Since)) &&
		(f.Until.IsZero() || e.ReceivedAt.Before(f.Until)) &&
		(f.IdempotencyKey == nil || e.IdempotencyKey != nil && bytes.Equal(e.IdempotencyKey, f.IdempotencyKey))
}

// eventSource returns a source of all events that a filter may let through, whatever type it names, and perhaps
// of others.
func (s *Store) eventSource(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter) (source, error) {
	if !f.AppID.IsZero() && f.EndpointID.IsZero() && f.IdempotencyKey == nil {
		return ordered(`SELECT id FROM events WHERE app_id = ? AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`, f.AppID), nil
	}
	if all := tenant.IsZero() && f.EndpointID.IsZero() && f.SourceID.IsZero(); all && f.IdempotencyKey == nil && (f.Status == "" || f.Status == delivered) {
		return ordered(`SELECT id FROM events WHERE id < ? AND id > ? ORDER BY id DESC LIMIT ?`), nil
	}
	if f.Status == kapsel.EventUnmatched && f.IdempotencyKey == nil {
		return s.unmatched(ctx, tenant, f)
	}
	endpoints, err := s.endpointsIn(ctx, tenant, f.EndpointID)
	if err != nil {
		return nil, err
	}
	if f.IdempotencyKey != nil { // from all origins, even if the filter names one endpoint
		all, err := s.originsOf(ctx, tenant, f)
		if err != nil {
			return nil, err
		}
		return merged(all, `SELECT event_id FROM idempotency_keys
			WHERE endpoint_id = ? AND key = ? AND event_id < ? AND event_id > ? ORDER BY event_id DESC LIMIT ?`, f.IdempotencyKey), nil
	}
	events, elsewhere := merged(endpoints, cameIn), source(none)
	if f.EndpointID.IsZero() {
		all, err := s.originsOf(ctx, tenant, f)
		if err != nil {
			return nil, err
		}
		events = merged(all, cameIn)
	} else { // events that came in elsewhere
		elsewhere = merged(endpoints, `SELECT first_of FROM deliveries
			WHERE endpoint_id = ? AND first_of IS NOT NULL AND first_of < ? AND first_of > ? ORDER BY first_of DESC LIMIT ?`)
		events = either(events, elsewhere)
	}
	if f.Status == "" || f.Status == delivered || f.Shared {
		return events, nil
	}
	from, err := s.byStatus(ctx, f, endpoints, events, elsewhere)
	if err != nil || f.Status != delivering && f.Status != received {
		return from, err
	}
	// An event that is being expanded has one of these statuses, whatever its deliveries are.
	return either(from, ordered(`SELECT event_id FROM expansions WHERE event_id < ? AND event_id > ? ORDER BY event_id DESC LIMIT ?`)), nil
}

// byStatus returns a source of all events that a filter with a status lets through by their
// deliveries. events is the source of the events of the filter's endpoints or of its tenant, and
// elsewhere of those that came in at no ingest of these endpoints.
func (s *Store) byStatus(ctx context.Context, f store.EventFilter, endpoints []kapsel.EndpointID, events, elsewhere source) (source, error) {
	if f.Status == pending {
		fanned, err := s.fanned(ctx)
		if err != nil {
			return nil, err
		}
		if !fanned { // each event has one delivery, and that delivery was tried
			return merged(endpoints, `SELECT event_id FROM deliveries
				WHERE endpoint_id = ? AND status = 0 AND attempts > 0 AND event_id < ? AND event_id > ?
				ORDER BY event_id DESC LIMIT ?`), nil
		}
	}
	// Where the ingest is not shared, a delivery to another endpoint can give an event its
	// status only if the event came in elsewhere.
	if status, err := kapsel.ParseDeliveryStatus(string(f.Status)); err == nil && status > kapsel.Delivered {
		return either(elsewhere, merged(endpoints, `SELECT event_id FROM deliveries
			WHERE endpoint_id = ? AND status = ? AND status >= 3 AND replayed_as IS NULL AND event_id < ? AND event_id > ?
			ORDER BY event_id DESC LIMIT ?`, int(status))), nil
	}
	open, err := s.openSource(ctx, endpoints, "event_id", f.Status != delivering, true, events)
	return either(elsewhere, open), err
}

// originsOf returns the ids of everything at which the events of a list came in: the filter's
// source, or all of a tenant's origins.
func (s *Store) originsOf(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter) ([]kapsel.OriginID, error) {
	if !f.SourceID.IsZero() {
		return []kapsel.OriginID{kapsel.OriginID(f.SourceID)}, nil
	}
	return s.originsIn(ctx, tenant)
}

// unmatched returns the source of the events that had no delivery when they came in. If the filter
// names an endpoint, it returns the source none, because such events go to no endpoint.
func (s *Store) unmatched(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter) (source, error) {
	if !f.EndpointID.IsZero() {
		return none, nil
	}
	tenants, err := s.tenantsIn(ctx, tenant)
	return merged(tenants, `SELECT id FROM events
		WHERE tenant_id = ? AND unmatched = 1 AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`), err
}

// better returns the best source for a filter: that of the events of its type, that of the events that came in at
// its source, or others, which is the source for the filter's other conditions. The best one has the fewest ids:
// the first n of them reach further back than those of the others do.
func (s *Store) better(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter, others source, high, low []byte, n int) (source, error) {
	hasIndex := f.Status != "" && f.Status != delivered || !f.EndpointID.IsZero() || !f.AppID.IsZero()
	var all []source
	if f.Type != "" {
		tenants, err := s.tenantsIn(ctx, tenant)
		if err != nil {
			return nil, err
		}
		all = append(all, merged(tenants, `SELECT id FROM events
			WHERE tenant_id = ? AND type = ? AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`, f.Type))
	}
	if !f.SourceID.IsZero() && f.EndpointID.IsZero() && f.AppID.IsZero() {
		all = append(all, merged([]kapsel.SourceID{f.SourceID}, cameIn))
	}
	if hasIndex || all == nil {
		all = append(all, others)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	best, reached := all[0], top[:]
	err := s.readPage(ctx, func(c *conn) error {
		for _, from := range all {
			ids, err := from(c, high, low, n)
			if err != nil {
				return err
			}
			if len(ids) < n { // which is all of them
				best = from
				return nil
			}
			if end := ids[n-1][:]; bytes.Compare(end, reached) < 0 {
				best, reached = from, end
			}
		}
		return nil
	})
	return best, err
}

// cameIn is the query of a source: the events that came in at an origin.
const cameIn = `SELECT id FROM events
	WHERE endpoint_id = ? AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`

// tenantsIn returns the tenant that a list is about; for the zero one all, deleted ones included.
func (s *Store) tenantsIn(ctx context.Context, tenant kapsel.TenantID) (tenants []kapsel.TenantID, err error) {
	if !tenant.IsZero() {
		return []kapsel.TenantID{tenant}, nil
	}
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT id FROM tenants`)
		for q.next() {
			tenants = append(tenants, q.colID())
		}
		return q.end()
	})
	return tenants, err
}

// fanned reports whether any event has a delivery to an endpoint other than its origin.
func (s *Store) fanned(ctx context.Context) (some bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		some, err = c.query(`SELECT 1 FROM deliveries WHERE first_of IS NOT NULL LIMIT 1`).one(func(*stmt) {})
		return err
	})
	return some, err
}

// The statuses of events that ListEvents looks for in special ways.
var (
	received   = kapsel.EventReceived
	delivered  = kapsel.EventStatus(kapsel.Delivered.String())
	delivering = kapsel.EventStatus(kapsel.Delivering.String())
	pending    = kapsel.EventStatus(kapsel.Pending.String())
)

// Delivery implements store.Archive.
func (s *Store) Delivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID) (d kapsel.Delivery, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		d, err = deliveryOf(c, tenant, id)
		return err
	})
	return d, err
}

// deliveryOf returns a delivery of the tenant, or of any tenant if tenant is zero. It fails with
// NotFound if there is none.
func deliveryOf(c *conn, tenant kapsel.TenantID, id kapsel.DeliveryID) (kapsel.Delivery, error) {
	d, found, err := c.delivery(id)
	if err == nil && (!found || !tenant.IsZero() && d.TenantID != tenant) {
		return kapsel.Delivery{}, store.NotFound("delivery")
	}
	return d, err
}

// ListDeliveries implements store.Archive.
func (s *Store) ListDeliveries(ctx context.Context, tenant kapsel.TenantID, f store.DeliveryFilter, p store.Page[kapsel.DeliveryID]) (list []kapsel.Delivery, err error) {
	from, err := s.deliverySource(ctx, tenant, f)
	if err != nil {
		return nil, err
	}
	_, err = s.walk(ctx, from, before(p.Before), bottom[:], p.Limit, math.MaxInt, func(c *conn, id [16]byte) (bool, error) {
		d, found, err := c.delivery(id)
		if err != nil || !found ||
			!tenant.IsZero() && d.TenantID != tenant ||
			!f.EndpointID.IsZero() && d.EndpointID != f.EndpointID ||
			f.Status != nil && d.Status != *f.Status ||
			f.Replayed != nil && d.ReplayedAs.IsZero() == *f.Replayed {
			return false, err
		}
		list = append(list, d)
		return true, nil
	})
	return list, err
}

// deliverySource returns a source of all deliveries that a filter may let through, and perhaps of
// others.
func (s *Store) deliverySource(ctx context.Context, tenant kapsel.TenantID, f store.DeliveryFilter) (source, error) {
	wasReplayed := f.Replayed != nil && *f.Replayed
	common := !wasReplayed && (f.Status == nil || *f.Status == kapsel.Delivered)
	if common && tenant.IsZero() && f.EndpointID.IsZero() {
		return ordered(`SELECT id FROM deliveries WHERE id < ? AND id > ? ORDER BY id DESC LIMIT ?`), nil
	}
	endpoints, err := s.endpointsIn(ctx, tenant, f.EndpointID)
	if err != nil {
		return nil, err
	}
	replayed := merged(endpoints, `SELECT id FROM deliveries
		WHERE endpoint_id = ? AND replayed_as IS NOT NULL AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`)
	switch {
	case wasReplayed:
		return replayed, nil
	case common:
		return mergedBy(endpoints, s.deliveriesOf), nil
	case *f.Status > kapsel.Delivered:
		ended := merged(endpoints, `SELECT id FROM deliveries
			WHERE endpoint_id = ? AND status = ? AND status >= 3 AND replayed_as IS NULL AND id < ? AND id > ?
			ORDER BY id DESC LIMIT ?`, int(*f.Status))
		if f.Replayed != nil {
			return ended, nil
		}
		return either(ended, replayed), nil
	default:
		return s.openSource(ctx, endpoints, "id", *f.Status == kapsel.Pending, *f.Status == kapsel.Delivering, mergedBy(endpoints, s.deliveriesOf))
	}
}

// MoveDelivery implements store.Archive.
func (s *Store) MoveDelivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, t kapsel.Transition, now time.Time) (d kapsel.Delivery, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		was, err := deliveryOf(c, tenant, id)
		if err != nil {
			return err
		}
		if d, err = was.After(t, now); err != nil {
			return err
		}
		if _, err := c.moveDelivery(was.Status, was.Token, &d, now); err != nil {
			return err
		}
		return s.note(c, s.by.See(&was), s.by.See(&d))
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return d, nil
}

// CancelEvent implements store.Archive. It looks for what is pending on a connection for reads, and
// the transactions that cancel look again.
func (s *Store) CancelEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (canceled int, ended bool, err error) {
	var r store.EventRecord
	read := func(c *conn) (err error) {
		r, err = eventRecord(c, tenant, event, eventColumns)
		return err
	}
	if err := s.read(ctx, read); err != nil {
		return 0, false, err
	}
	if r.Expanding && to.IsZero() {
		err := s.writer.cold(ctx, func(c *conn) error {
			err := c.exec(`DELETE FROM expansions WHERE event_id = ?`, event)
			if ended = c.changes() > 0; err != nil || !ended {
				return err
			}
			return s.note(c, store.Seen{}, s.by.Made(r.Event.TenantID, kapsel.KindEvent, event, "", rules.Canceled(0, true)))
		})
		if err == nil {
			err = s.read(ctx, read) // what the expansion has made meanwhile
		}
		if err != nil {
			return 0, ended, err
		}
	}
	var pending []kapsel.DeliveryID
	for _, d := range r.Deliveries {
		if d.Status == kapsel.Pending && (to.IsZero() || d.EndpointID == to) {
			pending = append(pending, d.ID)
		}
	}
	for unit := range slices.Chunk(pending, 100) {
		n := 0
		err := s.writer.cold(ctx, func(c *conn) error {
			n = 0
			for _, id := range unit {
				was, found, err := c.delivery(id)
				if err != nil {
					return err
				}
				if !found || was.Status != kapsel.Pending {
					continue
				}
				d, err := was.After(kapsel.Cancel{}, now)
				if err != nil {
					return err
				}
				if _, err := c.moveDelivery(was.Status, was.Token, &d, now); err != nil {
					return err
				}
				n++
			}
			if n == 0 {
				return nil
			}
			return s.note(c, store.Seen{}, s.by.Made(r.Event.TenantID, kapsel.KindEvent, event, "", rules.Canceled(n, false)))
		})
		if err != nil {
			return canceled, ended, err
		}
		canceled += n
	}
	return canceled, ended, nil
}

// Replay implements store.Archive.
func (s *Store) Replay(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, of kapsel.DeliveryID, now time.Time) (d kapsel.Delivery, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		r, err := eventRecord(c, tenant, event, eventColumns)
		if err != nil {
			return err
		}
		if !r.Event.ErasedAt.IsZero() {
			return rules.Erased()
		}
		old, err := rules.Replayable(r.Deliveries, of, store.NotFound("delivery"))
		if err != nil {
			return err
		}
		if _, err := liveEndpoint(c, kapsel.TenantID{}, old.EndpointID); kapsel.CodeOf(err) == kapsel.NotFound {
			return rules.EndpointDeleted()
		} else if err != nil {
			return err
		}
		d = rules.NewReplay(&old, now)
		if err := insertReplay(c, &d); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.Made(d.TenantID, kapsel.KindEvent, event, "", &d))
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return d, nil
}

// Deliver implements store.Archive.
func (s *Store) Deliver(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (d kapsel.Delivery, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		r, err := eventRecord(c, tenant, event, eventColumns)
		if err != nil {
			return err
		}
		e, err := liveEndpoint(c, r.Event.TenantID, to)
		if err != nil {
			return err
		}
		if d, err = rules.NewDelivery(&r.Event, r.Deliveries, &e, now); err != nil {
			return err
		}
		own, err := liveEndpoint(c, r.Event.TenantID, r.Event.EndpointID)
		switch {
		case kapsel.CodeOf(err) == kapsel.NotFound: // the event came in at no endpoint, or at a deleted one
		case err != nil:
			return err
		case !own.Shared:
			from := own
			own.Shared = true
			if err := saveEndpoint(c, &own, &from); err != nil {
				return err
			}
		}
		c.tally.Made(&d)
		if err := c.insertDelivery(&d, event); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.Made(d.TenantID, kapsel.KindEvent, event, "", &d))
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return d, nil
}

// insertReplay writes d, a new delivery that repeats another, and names d in the row of that
// other.
func insertReplay(c *conn, d *kapsel.Delivery) error {
	if err := c.insertDelivery(d, kapsel.EventID{}); err != nil {
		return err
	}
	c.tally.Made(d)
	return c.exec(`UPDATE deliveries SET replayed_as = ? WHERE id = ?`, d.ID, d.ReplayOf)
}

// Redeliver implements store.Inbox. Most duplicates are of events that need no new delivery. So it
// looks at the event on a connection for reads, and asks the writer, which looks again at what is to
// be repeated, only if a new delivery is needed.
func (s *Store) Redeliver(ctx context.Context, event kapsel.EventID, now time.Time) (made []kapsel.Delivery, err error) {
	var old []kapsel.Delivery
	err = s.read(ctx, func(c *conn) error {
		r, err := eventRecord(c, kapsel.TenantID{}, event, eventColumns)
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound { // retention may have deleted it
			return err
		}
		if r.Event.ErasedAt.IsZero() {
			old = rules.Redeliveries(r.Deliveries, now)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return nil, err
	}
	err = s.writer.cold(ctx, func(c *conn) error {
		made = nil
		if erased, err := c.query(`SELECT 1 FROM events WHERE id = ? AND erased_at IS NOT NULL`, event).one(func(*stmt) {}); err != nil || erased {
			return err
		}
		for i := range old {
			if len(made) == kapsel.MaxInline {
				break
			}
			// Whoever else repeats it names the new delivery here; retention may have deleted it.
			if d, found, err := c.delivery(old[i].ID); err != nil {
				return err
			} else if !found || !d.ReplayedAs.IsZero() {
				continue
			}
			if _, err := liveEndpoint(c, kapsel.TenantID{}, old[i].EndpointID); kapsel.CodeOf(err) == kapsel.NotFound {
				continue
			} else if err != nil {
				return err
			}
			d := rules.NewRedelivery(&old[i], now)
			if err := insertReplay(c, &d); err != nil {
				return err
			}
			made = append(made, d)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// Attempt implements store.Archive.
func (s *Store) Attempt(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) (a kapsel.Attempt, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(attemptByID, id).
			one(func(s *stmt) { a = scanAttempt(s) })
		if err == nil && (!found || !tenant.IsZero() && a.TenantID != tenant) {
			a, err = kapsel.Attempt{}, store.NotFound("attempt")
		}
		return err
	})
	return a, err
}

// ListAttempts implements store.Archive.
func (s *Store) ListAttempts(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, after int, limit int) (list []kapsel.Attempt, err error) {
	err = s.read(ctx, func(c *conn) error {
		if _, err := deliveryOf(c, tenant, id); err != nil {
			return err
		}
		ids, err := attemptsOf(c, id)
		if err != nil {
			return err
		}
		for _, a := range ids {
			if a.number <= after || len(list) >= min(limit, page) {
				continue
			}
			_, err := c.query(attemptByID, a.id).one(func(s *stmt) { list = append(list, scanAttempt(s)) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

const attemptByID = `SELECT ` + attemptColumns + ` FROM attempts a JOIN deliveries d ON d.id = a.delivery_id WHERE a.id = ?`

// attemptRef names an attempt.
type attemptRef struct {
	id     kapsel.AttemptID
	number int
}

// attemptsOf returns a delivery's attempts, first to last.
func attemptsOf(c *conn, id kapsel.DeliveryID) (refs []attemptRef, err error) {
	var a attemptRef
	_, err = c.query(`SELECT last_attempt FROM deliveries WHERE id = ?`, id).one(func(s *stmt) { a.id = s.colID() })
	for err == nil && !a.id.IsZero() {
		var previous kapsel.AttemptID
		_, err = c.query(`SELECT number, previous FROM attempts WHERE id = ?`, a.id).
			one(func(s *stmt) { a.number, previous = int(s.colInt()), s.colID() })
		refs = append(refs, a)
		a.id = previous
	}
	slices.Reverse(refs)
	return refs, err
}
