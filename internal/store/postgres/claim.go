package postgres

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

var claimStatements = map[string]string{
	"begin":  "BEGIN",
	"commit": "COMMIT",
	// What another claim has locked is passed over, and so is what it has changed since.
	"find due": `
		SELECT ` + deliveryColumns + `
		FROM unnest($1::uuid[], $2::integer[]) WITH ORDINALITY AS w (endpoint_id, most, n)
		CROSS JOIN LATERAL (
			SELECT * FROM deliveries
			WHERE endpoint_id = w.endpoint_id AND status = 0 AND due_at <= $3::timestamptz
			ORDER BY due_at LIMIT w.most FOR UPDATE SKIP LOCKED
		) d
		ORDER BY w.n, d.due_at`,
	"take": `
		UPDATE deliveries d SET status = 1, due_at = NULL, put_off_by = NULL, node = $4::uuid, token = u.token, claims = d.claims + 1
		FROM unnest($1::smallint[], $2::uuid[], $3::uuid[]) AS u (part, id, token)
		WHERE d.part = u.part AND d.id = u.id`,
	"read events": `
		SELECT ` + eventColumns + `
		FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id)
		JOIN events e ON e.part = u.part AND e.id = u.id`,
	"give back": `
		UPDATE deliveries d SET status = 0, due_at = u.due_at, put_off_by = NULL, node = NULL, token = NULL
		FROM unnest($1::smallint[], $2::uuid[], $3::uuid[], $4::timestamptz[]) AS u (part, id, token, due_at)
		WHERE d.part = u.part AND d.id = u.id AND d.token = u.token`,
}

// Claim takes due deliveries for a node; see store.Queue. It is one transaction of two round
// trips: find and lock, then take and read.
func (s *Store) Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) (claimed []store.Claimed, cut kapsel.EndpointID, err error) {
	wanted := newTable(uuidType, int4Type)
	for _, w := range wants {
		if w.Limit > 0 {
			wanted.id(w.EndpointID)
			wanted.int4(w.Limit)
		}
	}
	if wanted.rows() == 0 {
		return nil, cut, nil
	}
	var unread store.Unread
	var bad error
	err = s.claims.use(ctx, func(ctx context.Context, l *lane) (err error) {
		claimed, cut, unread, err = claim(ctx, l, node, now, wanted, maxBytes, false)
		if bad = nil; damaged(err) { // maybe one event is, and must not hold up the others
			bad, err = err, nil
		}
		return err
	})
	if err == nil && bad != nil {
		err = s.claims.use(ctx, func(ctx context.Context, l *lane) (err error) {
			claimed, cut, unread, err = claim(ctx, l, node, now, wanted, maxBytes, true)
			return err
		})
	}
	if err != nil {
		return nil, cut, err
	}
	claimed, back := unread.Split(claimed, now, s.from.log)
	if err := s.GiveBack(ctx, back); err != nil {
		s.from.log.WarnContext(ctx, "deliveries without a readable event could not be given back; this node finds them", "error", err)
	}
	return claimed, cut, nil
}

// mostApart is how many deliveries a claim takes whose events are read one by one. It keeps the claim within
// its time limit.
const mostApart = 32

// claim claims for wanted on a lane. If apart is true, it takes at most mostApart deliveries, and each event
// is read by itself, after the commit: an event that is damaged then fails alone. unread says which events
// could not be read; their deliveries are claimed.
func claim(ctx context.Context, l *lane, node kapsel.NodeID, now time.Time, wanted *table, maxBytes int, apart bool) (claimed []store.Claimed, cut kapsel.EndpointID, unread store.Unread, err error) {
	total := 0
	err = l.run(ctx,
		command{statement: "begin"},
		command{"find due", wanted.params(timeParam(now)), func(r *row) {
			d := scanDelivery(r)
			if total += d.Size; total > maxBytes && len(claimed) > 0 || apart && len(claimed) == mostApart {
				if cut.IsZero() {
					cut = d.EndpointID
				}
				return // neither gets less: this and all that follow are left
			}
			claimed = append(claimed, store.Claimed{Delivery: d, DueSince: d.DueAt})
		}})
	if err != nil {
		return nil, cut, nil, err
	}
	if len(claimed) == 0 {
		return nil, cut, nil, l.run(ctx, command{statement: "commit"})
	}

	taken := newTable(int2Type, uuidType, uuidType)
	events := make(map[kapsel.EventID]kapsel.Event, len(claimed))
	slices.SortStableFunc(claimed, func(a, b store.Claimed) int { return byPart(&a.Delivery, &b.Delivery) })
	for i := range claimed {
		d := &claimed[i].Delivery
		token := kapsel.NewAttemptID(now, d.ID.Part())
		if *d, err = d.After(kapsel.Claim{Node: node, Token: token}, now); err != nil {
			return nil, cut, nil, err
		}
		taken.int2(int(d.ID.Part()))
		taken.id(d.ID)
		taken.id(token)
		events[d.EventID] = kapsel.Event{} // a body is read once, however many deliveries it has
	}
	unread = store.Unread{}
	commands := []command{{"take", taken.params(node[:]), nil}, {statement: "commit"}}
	if !apart {
		commands = slices.Insert(commands, 1, readEvents(slices.Collect(maps.Keys(events)), events, unread))
	}
	if err := l.run(ctx, commands...); err != nil {
		return nil, cut, nil, err
	}
	for id, e := range events {
		if apart {
			err := l.run(ctx, readEvents([]kapsel.EventID{id}, events, unread))
			if err != nil && !damaged(err) {
				return nil, cut, nil, err
			}
			if e = events[id]; err != nil {
				unread[id] = err
			}
		}
		if e.ID.IsZero() && unread[id] == nil {
			unread[id] = store.NotFound("event")
		}
	}
	for i := range claimed {
		claimed[i].Event = events[claimed[i].Delivery.EventID]
	}
	slices.SortStableFunc(claimed, func(a, b store.Claimed) int { return a.DueSince.Compare(b.DueSince) })
	return claimed, cut, unread, nil
}

// readEvents returns a command that puts some events into the map events, or the reason why a row cannot
// be understood into unread.
func readEvents(ids []kapsel.EventID, events map[kapsel.EventID]kapsel.Event, unread store.Unread) command {
	read := newTable(int2Type, uuidType)
	for _, id := range ids {
		read.int2(int(id.Part()))
		read.id(id)
	}
	return command{"read events", read.params(), func(r *row) {
		e := scanEvent(r)
		if r.err != nil && !e.ID.IsZero() {
			unread[e.ID], r.err = r.err, nil
			return
		}
		events[e.ID] = e
	}}
}

// damaged reports whether the server could not read what it has stored.
func damaged(err error) bool {
	state := sqlState(err)
	return strings.HasPrefix(state, "XX") || strings.HasPrefix(state, "58")
}

// byPart compares deliveries by their keys.
func byPart(a, b *kapsel.Delivery) int {
	return cmp.Or(cmp.Compare(a.ID.Part(), b.ID.Part()), bytes.Compare(a.ID[:], b.ID[:]))
}

// GiveBack returns deliveries that were not sent; see store.Queue.
func (s *Store) GiveBack(ctx context.Context, held []kapsel.Delivery) error {
	if len(held) == 0 {
		return nil
	}
	back := newTable(int2Type, uuidType, uuidType, timeType)
	for _, d := range slices.SortedFunc(slices.Values(held), func(a, b kapsel.Delivery) int { return byPart(&a, &b) }) {
		back.int2(int(d.ID.Part()))
		back.id(d.ID)
		back.id(d.Token)
		back.time(d.DueAt)
	}
	return s.claims.use(ctx, func(ctx context.Context, l *lane) error {
		return l.run(ctx, command{"give back", back.params(), nil})
	})
}

// Held returns the deliveries that a node holds; see store.Queue.
func (s *Store) Held(ctx context.Context, node kapsel.NodeID) ([]kapsel.Delivery, error) {
	return list(ctx, s, engine, scanDelivery, openEndpoints+`
		SELECT `+deliveryColumns+`
		FROM open CROSS JOIN LATERAL (
			SELECT * FROM deliveries
			WHERE endpoint_id = open.endpoint_id AND status = 1 AND due_at IS NULL AND node = $1
		) d
		ORDER BY d.part, d.id`, id(node))
}

// openEndpoints selects the endpoints with deliveries that are not terminal. It finds each by one
// step down the index: what lies between two endpoints is not read.
const openEndpoints = `
	WITH RECURSIVE open AS (
		(SELECT endpoint_id FROM deliveries WHERE status <= 1 ORDER BY endpoint_id LIMIT 1)
		UNION ALL
		SELECT next.endpoint_id FROM open CROSS JOIN LATERAL (
			SELECT endpoint_id FROM deliveries
			WHERE status <= 1 AND endpoint_id > open.endpoint_id ORDER BY endpoint_id LIMIT 1
		) next
	)`

// Backlog returns the endpoints with pending deliveries; see store.Queue.
func (s *Store) Backlog(ctx context.Context) ([]store.Waiting, error) {
	return list(ctx, s, engine, func(r *row) store.Waiting {
		return store.Waiting{EndpointID: r.id(), DueAt: r.time()}
	}, openEndpoints+`
		SELECT open.endpoint_id, d.due_at
		FROM open CROSS JOIN LATERAL (
			SELECT due_at FROM deliveries
			WHERE status <= 1 AND endpoint_id = open.endpoint_id AND due_at IS NOT NULL ORDER BY due_at LIMIT 1
		) d`)
}
