package sqlite

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// A list of events or deliveries is found by walking ids from the newest down. A source gives the
// ids that may be meant, in order and a page at a time, and the walk then looks at each row. There
// is no index for every filter, only sources that leave out enough.

// source returns up to n ids below before and above floor, highest first.
type source func(c *conn, before, floor []byte, n int) ([][16]byte, error)

// walk calls take with each id of a source until take has accepted limit of them. It reads each
// page in a transaction of its own; each page is twice as long as the last one, at most 1000 ids
// (the constant page). After looks ids it stops and returns the last of them; otherwise it returns
// the zero id.
func (s *Store) walk(ctx context.Context, from source, before, floor []byte, limit, looks int, take func(c *conn, id [16]byte) (bool, error)) (reached [16]byte, err error) {
	taken := 0
	for n := min(limit, page, looks); taken < limit; n = min(2*n, page, looks) {
		var ids [][16]byte
		err := s.readPage(ctx, func(c *conn) (err error) {
			if ids, err = from(c, before, floor, n); err != nil {
				return err
			}
			for _, id := range ids {
				ok, err := take(c, id)
				if err != nil {
					return err
				}
				if ok {
					if taken++; taken == limit {
						return nil
					}
				}
			}
			return nil
		})
		if err != nil || len(ids) < n || taken == limit {
			return reached, err
		}
		if looks -= n; looks == 0 {
			return ids[n-1], nil
		}
		before = ids[n-1][:]
	}
	return reached, nil
}

// readPage runs f as read does, for a page of a list. It lets only some pages be read at once:
// reading them is computing, and a client that turns all pages of a long list would leave the
// writer no processor.
func (s *Store) readPage(ctx context.Context, f func(c *conn) error) error {
	select {
	case s.pages <- struct{}{}:
	case <-ctx.Done():
		return store.Unavailable(ctx.Err())
	}
	defer func() { <-s.pages }()
	return s.read(ctx, f)
}

// ordered returns the source of one query, whose last three parameters are before, floor and n.
func ordered(query string, args ...any) source {
	return func(c *conn, before, floor []byte, n int) (ids [][16]byte, err error) {
		q := c.query(query, args...).blob(before).blob(floor).int(int64(n))
		for q.next() {
			ids = append(ids, q.colID())
		}
		return ids, q.end()
	}
}

// merged returns the source of many endpoints, origins or tenants. Each of them has a query whose
// first parameter is its id and whose further parameters are as in ordered.
func merged[ID ~[16]byte](owners []ID, query string, args ...any) source {
	return mergedBy(owners, func(id ID) source {
		return ordered(query, append([]any{[16]byte(id)}, args...)...)
	})
}

// mergedBy returns the source of many owners. of returns the source of one. It asks each owner for its share of
// the ids, and again those that may have more among the highest n.
func mergedBy[ID ~[16]byte](owners []ID, of func(ID) source) source {
	type owned struct {
		from   source
		before []byte // where it goes on
	}
	return func(c *conn, before, floor []byte, n int) (ids [][16]byte, err error) {
		open := make([]owned, len(owners))
		for i, owner := range owners {
			open[i] = owned{of(owner), before}
		}
		sift := func() {
			if ids = highest(ids, n); len(ids) == n {
				end := ids[n-1]
				floor = end[:] // ids below will not be among the result
			}
		}
		for share := 2*n/max(1, len(owners)) + 8; len(open) > 0; share *= 2 {
			share = min(share, n)
			var more []owned
			for _, o := range open {
				some, err := o.from(c, o.before, floor, share)
				if err != nil {
					return nil, err
				}
				if ids = append(ids, some...); len(ids) >= 4*n {
					sift()
				}
				if len(some) == share {
					more = append(more, owned{o.from, some[share-1][:]})
				}
			}
			sift()
			open = slices.DeleteFunc(more, func(o owned) bool { return bytes.Compare(o.before, floor) <= 0 })
		}
		return ids, nil
	}
}

// none is the source that returns no ids.
func none(*conn, []byte, []byte, int) ([][16]byte, error) { return nil, nil }

// either returns the source of all that two sources give.
func either(a, b source) source {
	return func(c *conn, before, floor []byte, n int) ([][16]byte, error) {
		ids, err := a(c, before, floor, n)
		if err != nil {
			return nil, err
		}
		more, err := b(c, before, floor, n)
		return highest(append(ids, more...), n), err
	}
}

// deliveriesOf returns the source of an endpoint's deliveries. The first deliveries of events are
// in the order of the events, except for delivery_skew; the replays have an index of their own.
func (s *Store) deliveriesOf(endpoint kapsel.EndpointID) source {
	return either(s.ownDeliveriesOf(endpoint), ordered(`SELECT id FROM deliveries
		WHERE endpoint_id = ? AND first_of IS NOT NULL AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`, endpoint))
}

// ownDeliveriesOf returns the source of the deliveries of an endpoint's own ingest and of its
// replays.
func (s *Store) ownDeliveriesOf(endpoint kapsel.EndpointID) source {
	return func(c *conn, before, floor []byte, n int) (ids [][16]byte, err error) {
		ids, err = ordered(`SELECT id FROM deliveries
			WHERE endpoint_id = ? AND replay_of IS NOT NULL AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`, endpoint)(c, before, floor, n)
		if err != nil {
			return nil, err
		}
		skew := s.deliverySkew.get() + time.Millisecond // ids hold whole milliseconds
		high, low := firstID(timeOf(before).Add(skew)), firstID(timeOf(floor).Add(-skew))
		for {
			rows := 0
			q := c.stmt(`SELECT id, delivery_id FROM events
				WHERE endpoint_id = ? AND id < ? AND id > ? ORDER BY id DESC LIMIT ?`).
				id(endpoint).blob(high).blob(low).int(int64(n))
			for q.next() {
				rows++
				event, id := q.colID(), q.colID()
				high = event[:]
				if bytes.Compare(id[:], before) < 0 && bytes.Compare(id[:], floor) > 0 {
					ids = append(ids, id)
				}
			}
			if err := q.end(); err != nil {
				return nil, err
			}
			// Deliveries of the events below may still come before some of these ids.
			ids = highest(ids, len(ids))
			sure, _ := slices.BinarySearchFunc(ids, firstID(timeOf(high).Add(skew)),
				func(id [16]byte, bound []byte) int { return bytes.Compare(bound, id[:]) })
			if rows < n || sure >= n {
				return highest(ids, n), nil
			}
		}
	}
}

// among returns the source of a set of ids.
func among(set [][16]byte) source {
	set = highest(set, len(set))
	return func(_ *conn, before, floor []byte, n int) ([][16]byte, error) {
		var ids [][16]byte
		for _, id := range set {
			if len(ids) < n && bytes.Compare(id[:], before) < 0 && bytes.Compare(id[:], floor) > 0 {
				ids = append(ids, id)
			}
		}
		return ids, nil
	}
}

// highest sorts ids, highest first, and returns the first n different ones.
func highest(ids [][16]byte, n int) [][16]byte {
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(b[:], a[:]) })
	ids = slices.Compact(ids)
	return ids[:min(n, len(ids))]
}

// endpointsIn returns the endpoints that a list is about, deleted ones included: the given one, a
// tenant's, or all. It returns none if the endpoint is another tenant's.
func (s *Store) endpointsIn(ctx context.Context, tenant kapsel.TenantID, endpoint kapsel.EndpointID) (ids []kapsel.EndpointID, err error) {
	if tenant.IsZero() && !endpoint.IsZero() {
		return []kapsel.EndpointID{endpoint}, nil
	}
	err = s.read(ctx, func(c *conn) error {
		var q *stmt
		switch {
		case !endpoint.IsZero():
			q = c.query(`SELECT id FROM endpoints WHERE id = ? AND tenant_id = ?`, endpoint, tenant)
		case !tenant.IsZero():
			q = c.query(`SELECT id FROM endpoints WHERE tenant_id = ?`, tenant)
		default:
			q = c.query(`SELECT id FROM endpoints`)
		}
		for q.next() {
			ids = append(ids, q.colID())
		}
		return q.end()
	})
	return ids, err
}

// origins selects everything at which events came in, deleted or not: endpoints, sources, and the
// tenants for published events. An endpoint and the source that goes on with its ingest have one
// id, which is there twice.
const origins = `(SELECT id, tenant_id FROM endpoints
	UNION ALL SELECT id, tenant_id FROM sources
	UNION ALL SELECT id, id FROM tenants)`

// atSource is the condition that an event e came in at a source; see kapsel.Event.Extra.
const atSource = `(e.extra IS NOT NULL AND json_extract(e.extra, '$.source') IS NOT NULL)`

// originsIn returns the ids of everything at which a tenant's events came in, deleted or not, each
// once. For the zero tenant it returns those of all tenants.
func (s *Store) originsIn(ctx context.Context, tenant kapsel.TenantID) (ids []kapsel.OriginID, err error) {
	err = s.read(ctx, func(c *conn) error {
		var q *stmt
		if tenant.IsZero() {
			q = c.query(`SELECT id FROM ` + origins)
		} else {
			q = c.query(`SELECT id FROM `+origins+` WHERE tenant_id = ?`, tenant)
		}
		for q.next() {
			ids = append(ids, q.colID())
		}
		return q.end()
	})
	slices.SortFunc(ids, func(a, b kapsel.OriginID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids), err
}

// openCap is how many held deliveries a list sorts itself.
const openCap = 10_000

// openSource returns the source of a column, id or event_id, of the deliveries that are pending at endpoints, or
// that are held, or both. If more than openCap are held, enough of the newest rows are open: then it returns
// otherwise.
func (s *Store) openSource(ctx context.Context, endpoints []kapsel.EndpointID, column string, pending, held bool, otherwise source) (source, error) {
	waiting := merged(endpoints, `SELECT `+column+` FROM deliveries
		WHERE endpoint_id = ? AND status = 0 AND `+column+` < ? AND `+column+` > ? ORDER BY `+column+` DESC LIMIT ?`)
	if !held {
		return waiting, nil
	}
	var set [][16]byte
	err := s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT `+column+` FROM deliveries WHERE status = 1 LIMIT ?`, openCap+1)
		for q.next() {
			set = append(set, q.colID())
		}
		return q.end()
	})
	switch {
	case err != nil || len(set) > openCap:
		return otherwise, err
	case pending:
		return either(among(set), waiting), nil
	}
	return among(set), nil
}

// before returns the id below which a page begins: id, or for the zero id one above every id.
func before[ID ~[16]byte](id ID) []byte {
	if id == (ID{}) {
		return top[:]
	}
	return id[:]
}

var (
	bottom [16]byte                                                                  // below every id
	top    = [16]byte{0: 0xff, 1: 0xff, 2: 0xff, 3: 0xff, 4: 0xff, 5: 0xff, 6: 0xff} // above every version 7 UUID
)

// firstID returns an id below all ids of t's millisecond and above all ids of the millisecond
// before.
func firstID(t time.Time) []byte {
	id := bottom
	switch ms := t.UnixMilli(); {
	case ms >= 1<<48:
		id = top
	case ms > 0:
		binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16)
	}
	return id[:]
}

// timeOf returns the millisecond in an id.
func timeOf(id []byte) time.Time { return kapsel.EventID(id).Time() }
