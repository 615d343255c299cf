package postgres

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// A batch with guards is six statements in one transaction. Each statement sees what the
// statements before it have written:
//
//  1. "guards" inserts the guards. Each row names the event that stands for the guard, as with keys.
//  2. "guarded keys" inserts the keys of those calls whose guard was not known, the first of each
//     key. Only the database knows which those are.
//  3. "settled guards" makes the guards of calls whose key was known name the key's event.
//  4. "guarded events" inserts what is still its own guard's and key's, and "keyed
//     deliveries" the deliveries of what was inserted.
//  5. "winners of a guard" reads the answers.
//
// An earlier run of the batch that was committed leaves rows from which a later run gets the
// same answers.
const (
	guardsStatement = `
		INSERT INTO guards AS x (part, endpoint_id, guard, event_id, created_at, expires_at)
		SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::timestamptz[])
		ON CONFLICT (part, endpoint_id, guard) DO UPDATE
		SET event_id = excluded.event_id, created_at = excluded.created_at, expires_at = excluded.expires_at
		WHERE x.expires_at <= excluded.created_at`
	guardedKeysStatement = `
		INSERT INTO idempotency_keys AS x (part, endpoint_id, key, event_id, created_at, expires_at)
		SELECT DISTINCT ON (part, endpoint_id, key) part, endpoint_id, key, event_id, created_at, expires_at
		FROM unnest(` + guardedKeyArrays + `) WITH ORDINALITY AS u (part, endpoint_id, key, event_id, created_at, expires_at, guard, n)
		WHERE u.guard IS NULL OR ` + guardWinner + `
		ORDER BY part, endpoint_id, key, n` + takeKey
	settledGuardsStatement = `
		UPDATE guards g SET event_id = known.event_id
		FROM (
			SELECT u.part, u.endpoint_id, u.guard, u.event_id AS own, k.event_id
			FROM unnest(` + guardedKeyArrays + `) AS u (part, endpoint_id, key, event_id, created_at, expires_at, guard)
			JOIN idempotency_keys k ON k.part = u.part AND k.endpoint_id = u.endpoint_id AND k.key = u.key
			WHERE k.event_id <> u.event_id` + fence + `
		) known
		WHERE g.part = known.part AND g.endpoint_id = known.endpoint_id AND g.guard = known.guard AND g.event_id = known.own`
	guardedKeyArrays = `$1::smallint[], $2::uuid[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], $7::bytea[]`

	// The guards are the last parameter, after the parameters of batches without guards.
	guardedEvents = insertEvents + ` FROM unnest(` + eventArrays + `, $21::bytea[]) AS u (` + eventNames + `, guard)
		WHERE ` + guardedAlive
	guardedAlive = `(u.guard IS NULL OR ` + guardWinner + `) AND (u.key IS NULL OR ` + winner + `)`
	guardWinner  = `u.event_id = (SELECT g.event_id FROM guards g
		WHERE g.part = u.part AND g.endpoint_id = u.endpoint_id AND g.guard = u.guard)`

	guardWinnersStatement = `
		SELECT u.n, coalesce(g.event_id, k.event_id)
		FROM unnest($1::smallint[], $2::uuid[], $3::bytea[], $4::bytea[]) WITH ORDINALITY AS u (part, endpoint_id, key, guard, n)
		LEFT JOIN guards g ON g.part = u.part AND g.endpoint_id = u.endpoint_id AND g.guard = u.guard
		LEFT JOIN idempotency_keys k ON k.part = u.part AND k.endpoint_id = u.endpoint_id AND k.key = u.key`
)

// guarding is what an acceptor needs for batches with guards.
type guarding struct {
	guards, keys, winners *table
	column                *table // guards in the order of the events
}

func newGuarding() guarding {
	return guarding{
		guards:  newTable(int2Type, uuidType, bytesType, uuidType, timeType, timeType),
		keys:    newTable(int2Type, uuidType, bytesType, uuidType, timeType, timeType, bytesType),
		winners: newTable(int2Type, uuidType, bytesType, bytesType),
		column:  newTable(bytesType),
	}
}

func (g *guarding) reset() {
	for _, t := range []*table{g.guards, g.keys, g.winners, g.column} {
		t.reset()
	}
}

// answer sets which event stands for the acceptance. That is the acceptance's own event also if an
// earlier call with the same ids stored it.
func (a *acceptance) answer(stored kapsel.EventID) {
	a.accepted = store.Accepted{EventID: stored, Duplicate: stored != a.Event.ID}
}

// hasGuard reports whether a call has a guard.
func hasGuard(c *batch.Call[*acceptance]) bool { return c.In.Guard != nil }

// guardKey is a guard's key.
type guardKey struct {
	origin kapsel.OriginID
	guard  string
}

// writeGuarded stores a batch. At least one of its calls must have a guard.
func (a *acceptor) writeGuarded(ctx context.Context, l *lane, calls []*batch.Call[*acceptance]) error {
	g := &a.guarding
	g.reset()
	// The first of the calls with the same guard is written, and the others share its answer.
	firsts := map[guardKey]*batch.Call[*acceptance]{}
	repeats := map[*batch.Call[*acceptance]]*batch.Call[*acceptance]{}
	a.calls = a.calls[:0]
	for _, c := range calls {
		c.Err = nil
		c.In.accepted = store.Accepted{EventID: c.In.Event.ID}
		if hasGuard(c) {
			key := guardKey{c.In.Event.Origin(), string(c.In.Guard)}
			if first := firsts[key]; first != nil {
				repeats[c] = first
				continue
			}
			firsts[key] = c
		}
		a.calls = append(a.calls, c)
	}
	for _, c := range slices.SortedFunc(maps.Values(firsts), byGuard) {
		g.addGuard(c)
	}
	slices.SortStableFunc(a.calls, byKey)
	var answered []*batch.Call[*acceptance] // row n of winners
	for _, c := range a.calls {
		if c.In.Event.IdempotencyKey != nil {
			g.addKey(c)
		}
		if c.In.Event.IdempotencyKey != nil || hasGuard(c) {
			g.addWinner(c)
			answered = append(answered, c)
		}
	}
	if err := a.addEvents(); err != nil {
		return err
	}
	for _, c := range a.calls {
		g.column.optional(c.In.Guard)
	}
	column := g.column.params()[0]
	err := l.run(ctx, a.expanding(
		command{"guards", g.guards.params(), nil},
		command{"guarded keys", g.keys.params(), nil},
		command{"settled guards", g.keys.params(), nil},
		command{"guarded events", a.events.params(a.seqBase, a.slot, column), nil},
		command{"keyed deliveries", a.deliveries.params(a.entry...), nil},
		command{"winners of a guard", g.winners.params(), func(r *row) {
			answered[r.int8()-1].In.answer(r.id())
		}})...)
	for c, first := range repeats {
		c.In.answer(first.In.accepted.EventID)
	}
	return err
}

// byGuard compares calls by their rows in guards.
func byGuard(x, y *batch.Call[*acceptance]) int {
	a, b := x.In, y.In
	originA, originB := a.Event.Origin(), b.Event.Origin()
	return cmp.Or(
		cmp.Compare(a.Event.ID.Part(), b.Event.ID.Part()),
		bytes.Compare(originA[:], originB[:]),
		bytes.Compare(a.Guard, b.Guard))
}

func (g *guarding) addGuard(c *batch.Call[*acceptance]) {
	e, t := &c.In.Event, g.guards
	t.int2(int(e.ID.Part()))
	t.id(e.Origin())
	t.bytes(c.In.Guard)
	t.id(e.ID)
	t.time(e.ReceivedAt)
	t.time(e.ReceivedAt.Add(c.In.GuardWindow))
}

func (g *guarding) addKey(c *batch.Call[*acceptance]) {
	addKey(g.keys, c)
	g.keys.optional(c.In.Guard)
}

func (g *guarding) addWinner(c *batch.Call[*acceptance]) {
	e, t := &c.In.Event, g.winners
	t.int2(int(e.ID.Part()))
	t.id(e.KeyScope()) // the scope is the origin if there is a guard
	t.optional(e.IdempotencyKey)
	t.optional(c.In.Guard)
}
