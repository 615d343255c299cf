package sqlite

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Lists of events and deliveries are found by walking ids from the newest down: a source
// gives the ids that may be meant, in order and a page at a time, and each row is then looked
// at. There is no index for every filter, only sources that leave out enough.

// source gives up to n ids below before and above floor, highest first.
type source func(c *conn, before, floor []byte, n int) ([][16]byte, error)

// walk offers a source's ids to take, until it has taken limit of them. Each page is a
// transaction of its own.
func (s *Store) walk(ctx context.Context, from source, before, floor []byte, limit int, take func(c *conn, id [16]byte) (bool, error)) error {
	taken := 0
	for n := min(limit, page); taken < limit; n = page {
		var ids [][16]byte
		err := s.read(ctx, func(c *conn) (err error) {
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
		if err != nil || len(ids) < n {
			return err
		}
		before = ids[len(ids)-1][:]
	}
	return nil
}

// ordered is the source that a query gives by itself; its last three parameters are before,
// floor and n.
func ordered(query string, args ...any) source {
	return func(c *conn, before, floor []byte, n int) (ids [][16]byte, err error) {
		q := c.query(query, args...).blob(before).blob(floor).int(int64(n))
		for q.next() {
			ids = append(ids, q.colID())
		}
		return ids, q.end()
	}
}

// merged is the source of many endpoints. Each of their queries begins with the endpoint
// and goes on as in ordered.
func merged(endpoints []kapsel.EndpointID, query string, args ...any) source {
	return func(c *conn, before, floor []byte, n int) (ids [][16]byte, err error) {
		for _, e := range endpoints {
			more, err := ordered(query, append([]any{e}, args...)...)(c, before, floor, n)
			if err != nil {
				return nil, err
			}
			if len(more) == 0 {
				continue
			}
			ids = highest(append(ids, more...), n)
			if len(ids) == n {
				floor = ids[n-1][:] // what is below will not be among them
			}
		}
		return ids, nil
	}
}

// among is the source of a set of ids.
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

// highest sorts ids, highest first, and leaves the first n different ones.
func highest(ids [][16]byte, n int) [][16]byte {
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(b[:], a[:]) })
	ids = slices.Compact(ids)
	return ids[:min(n, len(ids))]
}

// endpointsIn are the endpoints that a list is about, deleted ones included: one, a tenant's
// or all. Another tenant's is none.
func (s *Store) endpointsIn(ctx context.Context, tenant kapsel.TenantID, endpoint kapsel.EndpointID) (ids []kapsel.EndpointID, err error) {
	err = s.read(ctx, func(c *conn) error {
		var q *stmt
		switch {
		case !endpoint.IsZero() && !tenant.IsZero():
			q = c.query(`SELECT id FROM endpoints WHERE id = ? AND tenant_id = ?`, endpoint, tenant)
		case !endpoint.IsZero():
			q = c.query(`SELECT id FROM endpoints WHERE id = ?`, endpoint)
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

// openCap is how many open deliveries a list sorts by itself; where there are more, the
// newest rows have enough of them.
const openCap = 10_000

// open reads a column of the deliveries of endpoints that are pending or delivering, or only
// of the latter; not complete when there are more than openCap.
func (s *Store) open(ctx context.Context, endpoints []kapsel.EndpointID, column string, delivering bool) (ids [][16]byte, complete bool, err error) {
	query := `SELECT ` + column + ` FROM deliveries WHERE endpoint_id = ? AND status <= 1`
	if delivering {
		query += ` AND due_at IS NULL`
	}
	query += ` LIMIT ?`
	err = s.read(ctx, func(c *conn) error {
		for _, e := range endpoints {
			q := c.query(query, e, openCap+1-len(ids))
			for q.next() {
				ids = append(ids, q.colID())
			}
			if err := q.end(); err != nil {
				return err
			}
			if len(ids) > openCap {
				return nil
			}
		}
		return nil
	})
	return ids, len(ids) <= openCap, err
}

// before is where a page begins: below an id, or above every id.
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

// firstID is below the ids of a millisecond and above those of the one before.
func firstID(t time.Time) []byte {
	var id [16]byte
	if ms := t.UnixMilli(); ms > 0 {
		binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16)
	}
	return id[:]
}
