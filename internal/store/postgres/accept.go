package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// acceptance is a call of Accept with its answer.
type acceptance struct {
	store.Acceptance
	accepted store.Accepted
}

// Accept stores an event and its delivery; see store.Inbox.
func (s *Store) Accept(_ context.Context, in store.Acceptance) (store.Accepted, error) {
	a := acceptance{Acceptance: in}
	if err := s.acceptor.do(&a, max(1, len(in.Deliveries)), len(in.Event.Body)); err != nil {
		return store.Accepted{}, err
	}
	return a.accepted, nil
}

// Remembered looks for an event's key; see store.Inbox.
func (s *Store) Remembered(ctx context.Context, e *kapsel.Event) (original kapsel.EventID, ok bool, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		original, ok, err = first(ctx, q, func(r *row) kapsel.EventID { return r.id() }, `
			SELECT event_id FROM idempotency_keys WHERE part = $1 AND endpoint_id = $2 AND key = $3 AND expires_at > $4`,
			part(e.ID), [16]byte(e.KeyScope()), e.IdempotencyKey, e.ReceivedAt)
		return err
	})
	return original, ok, err
}

// Current implements store.Inbox.
func (s *Store) Current(ctx context.Context, now time.Time) error {
	return s.read(ctx, engine, func(ctx context.Context, q querier) error { return current(ctx, q, now, sourcesSchema) })
}

// A batch with keys is four statements, and one without keys is the second and third of these, in
// one transaction. A key's row names the event that stands for the key. That is the call's own
// event if the key is new, if its window is over, or if an earlier run of this batch has stored
// the event. If transactions insert one key at the same time, the later transaction waits until
// the earlier one commits, and then finds its row. Batches with guards are in guards.go.
var acceptStatements = map[string]string{
	"keys": `
		INSERT INTO idempotency_keys AS x (part, endpoint_id, key, event_id, created_at, expires_at)
		SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::timestamptz[])` + takeKey,
	"events":           countEvents(insertEvents+fromEvents, eventSlot),
	"keyed events":     countEvents(insertEvents+fromEvents+` WHERE u.key IS NULL OR `+winner, eventSlot),
	"deliveries":       insertDeliveries + fromDeliveries + ` ON CONFLICT DO NOTHING`,
	"keyed deliveries": insertDeliveries + fromDeliveries + ` WHERE ` + stored + ` ON CONFLICT DO NOTHING`,
	// An expansion is opened with its event. If an earlier run of this batch has stored the event, its
	// expansion may have ended since, and is not opened again.
	"expansions": `
		INSERT INTO expansions (part, event_id, tenant_id, after_endpoint)
		SELECT u.part, u.event_id, u.tenant_id, u.after_endpoint
		FROM unnest($1::smallint[], $2::uuid[], $3::uuid[], $4::uuid[]) AS u (part, event_id, tenant_id, after_endpoint)
		JOIN events e ON e.part = u.part AND e.id = u.event_id
		WHERE e.seq = (SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) + $5::bigint)`,
	// Changes that people made by hand, such as test events. A repeated batch finds its rows there.
	"changes": `
		INSERT INTO changes (` + changeColumns + `)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::uuid[], $6::text[],
			$7::text[], $8::text[], $9::text[], $10::text[], $11::text[]) ON CONFLICT (id) DO NOTHING`,
	"winners of a key": `
		SELECT u.n, k.event_id
		FROM unnest($1::smallint[], $2::uuid[], $3::bytea[]) WITH ORDINALITY AS u (part, endpoint_id, key, n)
		JOIN idempotency_keys k ON k.part = u.part AND k.endpoint_id = u.endpoint_id AND k.key = u.key`,

	"guards":             guardsStatement,
	"guarded keys":       guardedKeysStatement,
	"settled guards":     settledGuardsStatement,
	"guarded events":     countEvents(guardedEvents, eventSlot),
	"winners of a guard": guardWinnersStatement,

	"begin":    "BEGIN",
	"rollback": "ROLLBACK",
}

const (
	takeKey = ` ON CONFLICT (part, endpoint_id, key) DO UPDATE
		SET event_id = excluded.event_id, created_at = excluded.created_at, expires_at = excluded.expires_at
		WHERE x.expires_at <= excluded.created_at`
	insertEvents = `
		INSERT INTO events (part, id, tenant_id, endpoint_id, received_at, content_type, header, query, body,
			idempotency_key, signature, traceparent, type, extra, unmatched, app_id, salt, seq)
		SELECT ` + eventValues + `, (SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) + $19::bigint)`
	eventSlot   = "$20::smallint"
	fromEvents  = ` FROM unnest(` + eventArrays + `) AS u (` + eventNames + `)`
	eventArrays = `$1::smallint[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::bytea[],
			$7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[], $11::text[], $12::bytea[],
			$13::text[], $14::text[], $15::boolean[], $16::uuid[], $17::bytea[], $18::uuid[]`
	eventValues = `part, event_id, tenant_id, endpoint_id, received_at, content_type, header, query, body,
			key, signature, traceparent, type, extra, unmatched, app_id, salt`
	// scope is what the key belongs to, which for a published event is not its origin.
	eventNames       = eventValues + `, scope`
	insertDeliveries = `
		INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, due_at, node, token, claims,
			attempts, counted, takeovers, last_status_code, last_error_code, size, created_at, first_of)
		SELECT part, id, event_id, endpoint_id, tenant_id, status, due_at, node, token, claims,
			0, 0, 0, 0, '', size, created_at, first_of`
	fromDeliveries = ` FROM unnest(` + deliveryArrays + `) AS u (` + deliveryNames + `)`
	deliveryArrays = `$1::smallint[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::smallint[],
			$7::timestamptz[], $8::uuid[], $9::uuid[], $10::integer[], $11::integer[], $12::timestamptz[], $13::uuid[]`
	deliveryNames = `part, id, event_id, endpoint_id, tenant_id, status, due_at, node, token, claims, size, created_at, first_of`
	// stored says of a delivery that its event is there: no other event stands for the event's key or
	// guard.
	stored = `EXISTS (SELECT 1 FROM events e WHERE e.part = u.part AND e.id = u.event_id)`
	// winner says of an event that it stands for its key. It is not EXISTS, which the planner may
	// answer, beside an OR, by reading the table whole into a hash table. It compares columns and
	// nothing else: behind row-level security, PostgreSQL looks up no expression such as
	// coalesce in an index, as the expression might tell what a hidden row holds.
	winner = `u.event_id = (SELECT k.event_id FROM idempotency_keys k
		WHERE k.part = u.part AND k.endpoint_id = u.scope AND k.key = u.key)`
)

// deliveryRow is a delivery to write. own says that its event came in at the ingest of the
// delivery's endpoint.
type deliveryRow struct {
	*kapsel.Delivery
	own bool
}

// acceptor writes batches of acceptances. Only the committer's goroutine may use it.
type acceptor struct {
	keys, events, deliveries, winners *table
	expansions, changes               *table // usually empty
	seqBase                           []byte // see streamBase; a parameter
	slot                              []byte // of its counters, as a parameter
	guarding                          guarding
	ledger                            bool                       // the statements are those of ledgerAcceptStatements
	entry                             [][]byte                   // of the batch in the ledger's outbox: what the statements' parameters are; nil: none
	calls                             []*batch.Call[*acceptance] // of the batch, sorted
	rows                              []deliveryRow              // of the batch, sorted
}

func newAcceptor(seqBase int64, slot int) *acceptor {
	return &acceptor{
		seqBase: binary.BigEndian.AppendUint64(nil, uint64(seqBase)),
		slot:    int2Param(slot),
		keys:    newTable(int2Type, uuidType, bytesType, uuidType, timeType, timeType),
		events: newTable(int2Type, uuidType, uuidType, uuidType, timeType, bytesType,
			bytesType, bytesType, bytesType, bytesType, textType, bytesType,
			textType, textType, boolType, uuidType, bytesType, uuidType),
		deliveries: newTable(int2Type, uuidType, uuidType, uuidType, uuidType, int2Type,
			timeType, uuidType, uuidType, int4Type, int4Type, timeType, uuidType),
		winners:    newTable(int2Type, uuidType, bytesType),
		expansions: newTable(int2Type, uuidType, uuidType, uuidType),
		changes: newTable(uuidType, uuidType, timeType, textType, uuidType, textType,
			textType, textType, textType, textType, textType),
		guarding: newGuarding(),
	}
}

// write stores a batch. It writes rows in the order of their keys: two transactions that insert
// the same rows in different orders would deadlock.
func (a *acceptor) write(ctx context.Context, l *lane, calls []*batch.Call[*acceptance]) error {
	defer func() { clear(a.calls) }()
	if slices.ContainsFunc(calls, hasGuard) {
		return a.writeGuarded(ctx, l, calls)
	}
	a.calls = append(a.calls[:0], calls...)

	// Calls with the same key are neighbours, the earliest first. Only the earliest is written, and
	// the others share its answer: leaders[i] is the call that answers for keyed[i].
	slices.SortStableFunc(a.calls, byKey)
	var keyed, leaders []*batch.Call[*acceptance]
	for _, c := range a.calls {
		if c.In.Event.IdempotencyKey == nil {
			continue
		}
		leader := c
		if n := len(leaders); n > 0 && byKey(leaders[n-1], c) == 0 {
			leader = leaders[n-1]
		}
		keyed, leaders = append(keyed, c), append(leaders, leader)
	}
	a.keys.reset()
	a.winners.reset()
	var written []*batch.Call[*acceptance] // row n of keys and winners
	for i, c := range keyed {
		if leaders[i] == c {
			addKey(a.keys, c)
			a.addWinner(c)
			written = append(written, c)
		}
	}

	for _, c := range a.calls {
		c.Err = nil
		c.In.accepted = store.Accepted{EventID: c.In.Event.ID}
	}
	if err := a.addEvents(); err != nil {
		return err
	}
	if len(keyed) == 0 {
		return l.run(ctx, a.expanding(
			command{"events", a.events.params(a.seqBase, a.slot), nil},
			command{"deliveries", a.deliveries.params(a.entry...), nil})...)
	}
	err := l.run(ctx, a.expanding(
		command{"keys", a.keys.params(), nil},
		command{"keyed events", a.events.params(a.seqBase, a.slot), nil},
		command{"keyed deliveries", a.deliveries.params(a.entry...), nil},
		command{"winners of a key", a.winners.params(), func(r *row) {
			written[r.int8()-1].In.accepted.EventID = r.id()
		}})...)
	for i, c := range keyed {
		c.In.answer(leaders[i].In.accepted.EventID)
	}
	return err
}

// expanding adds to a batch's commands those that open expansions and write changes, if there are any.
func (a *acceptor) expanding(commands ...command) []command {
	if a.expansions.rows() > 0 {
		commands = append(commands, command{"expansions", a.expansions.params(a.seqBase), nil})
	}
	if a.changes.rows() > 0 {
		commands = append(commands, command{"changes", a.changes.params(), nil})
	}
	return commands
}

// rehearse writes an event that belongs to nobody and takes it back. So it finds what would keep
// the next event from being stored before that event comes. It takes three round trips and leaves
// a few dead rows.
func (a *acceptor) rehearse(ctx context.Context, l *lane) error {
	if err := l.run(ctx, command{statement: "begin"}); err != nil {
		return err
	}
	one := &batch.Call[*acceptance]{In: &acceptance{Acceptance: store.Rehearsal()}}
	if err := a.write(ctx, l, []*batch.Call[*acceptance]{one}); err != nil {
		return err
	}
	return l.run(ctx, command{statement: "rollback"})
}

// byKey compares calls by their rows in idempotency_keys.
func byKey(x, y *batch.Call[*acceptance]) int {
	a, b := &x.In.Event, &y.In.Event
	scopeA, scopeB := a.KeyScope(), b.KeyScope()
	return cmp.Or(
		cmp.Compare(a.ID.Part(), b.ID.Part()),
		bytes.Compare(scopeA[:], scopeB[:]),
		bytes.Compare(a.IdempotencyKey, b.IdempotencyKey))
}

// byEvent compares calls by their rows in events.
func byEvent(x, y *batch.Call[*acceptance]) int {
	a, b := &x.In.Event.ID, &y.In.Event.ID
	return cmp.Or(cmp.Compare(a.Part(), b.Part()), bytes.Compare(a[:], b[:]))
}

// addKey writes the columns of a call's row in idempotency_keys.
func addKey(t *table, c *batch.Call[*acceptance]) {
	e := &c.In.Event
	t.int2(int(e.ID.Part()))
	t.id(e.KeyScope())
	t.bytes(e.IdempotencyKey)
	t.id(e.ID)
	t.time(e.ReceivedAt)
	t.time(e.ReceivedAt.Add(c.In.Window))
}

func (a *acceptor) addWinner(c *batch.Call[*acceptance]) {
	e, t := &c.In.Event, a.winners
	t.int2(int(e.ID.Part()))
	t.id(e.KeyScope())
	t.bytes(e.IdempotencyKey)
}

// addEvents writes the rows of the batch's events and deliveries, in the order of their keys.
func (a *acceptor) addEvents() error {
	slices.SortFunc(a.calls, byEvent)
	a.events.reset()
	a.deliveries.reset()
	a.expansions.reset()
	a.changes.reset()
	a.rows = a.rows[:0]
	for _, c := range a.calls {
		if err := a.addEvent(&c.In.Acceptance); err != nil {
			return err
		}
		for i := range c.In.Deliveries {
			d := &c.In.Deliveries[i]
			a.rows = append(a.rows, deliveryRow{d, d.EndpointID == c.In.Event.EndpointID})
		}
		if e, after := &c.In.Event, c.In.ExpandAfter; !after.IsZero() {
			t := a.expansions
			t.int2(int(e.ID.Part()))
			t.id(e.ID)
			t.id(e.TenantID)
			t.id(after)
		}
		if ch := c.In.Change; ch != nil {
			if err := a.addChange(ch); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(a.rows, func(x, y deliveryRow) int { return byPart(x.Delivery, y.Delivery) })
	if a.ledger {
		a.newEntry()
	}
	for _, d := range a.rows {
		a.addDelivery(d)
	}
	clear(a.rows)
	return nil
}

func (a *acceptor) addChange(ch *kapsel.Change) error {
	actor, err := json.Marshal(ch.Actor)
	if err != nil {
		return err
	}
	t := a.changes
	t.id(ch.ID)
	t.id(ch.TenantID)
	t.time(ch.At)
	t.bytes(actor)
	t.id(ch.Actor.KeyID)
	t.text(ch.Verb)
	t.text(ch.Subject.Kind)
	t.text(ch.Subject.ID)
	t.text(ch.Subject.Name)
	t.textOrNull(string(ch.Before))
	t.textOrNull(string(ch.After))
	return nil
}

// newEntry makes the parameters of tellMade. The time and the part of the entry's ID are those of the
// batch's first delivery.
func (a *acceptor) newEntry() {
	var id kapsel.EntryID
	if len(a.rows) > 0 {
		id = kapsel.NewEntryID(a.rows[0].CreatedAt, a.rows[0].ID.Part())
	}
	a.entry = append(a.entry[:0], int2Param(int(id.Part())), id[:], a.slot)
}

func (a *acceptor) addEvent(in *store.Acceptance) error {
	e, t := &in.Event, a.events
	verdict, err := json.Marshal(e.Signature)
	if err != nil {
		return err
	}
	t.int2(int(e.ID.Part()))
	t.id(e.ID)
	t.id(e.TenantID)
	t.id(e.Origin())
	t.time(e.ReceivedAt)
	t.text(e.ContentType)
	t.header(e.Header)
	t.text(e.Query)
	t.bytes(e.Body)
	t.optional(e.IdempotencyKey)
	t.bytes(verdict)
	t.text(e.TraceParent)
	t.textOrNull(e.Type)
	t.optional(e.Extra())
	t.trueOrNull(len(in.Deliveries) == 0 && in.ExpandAfter.IsZero())
	t.id(e.AppID)
	t.optional(e.Salt)
	t.id(e.KeyScope())
	return nil
}

func (a *acceptor) addDelivery(d deliveryRow) {
	t := a.deliveries
	t.int2(int(d.ID.Part()))
	t.id(d.ID)
	t.id(d.EventID)
	t.id(d.EndpointID)
	t.id(d.TenantID)
	t.int2(int(d.Status))
	t.time(d.DueAt)
	t.id(d.Node)
	t.id(d.Token)
	t.int4(d.Claims)
	t.int4(d.Size)
	t.time(d.CreatedAt)
	if d.own {
		t.null()
	} else {
		t.id(d.EventID)
	}
}
