package postgres

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// totalsColumns are columns of totals, as totalsOf writes and scanTotals reads them.
var totalsColumns = []string{"accepted", "replayed", "delivered", "failed", "dead_letter", "canceled"}

func totalsOf(t *kapsel.FactTotals) [6]int64 {
	return [...]int64{t.Accepted, t.Replayed, t.Delivered, t.Failed, t.DeadLetter, t.Canceled}
}

func scanTotals(r *row) kapsel.FactTotals {
	return kapsel.FactTotals{
		Accepted: r.int8(), Replayed: r.int8(), Delivered: r.int8(), Failed: r.int8(), DeadLetter: r.int8(), Canceled: r.int8(),
	}
}

// The statements of a store that tells facts, in place of those of the same name. What an acceptance
// tells is made of the rows that were inserted, as store.AppendFact writes facts: a repeated call tells
// nothing again.
var (
	ledgerAcceptStatements = map[string]string{
		"deliveries":       tellMade(insertTold + fromDeliveries + ` ON CONFLICT DO NOTHING`),
		"keyed deliveries": tellMade(insertTold + fromDeliveries + ` WHERE ` + stored + ` ON CONFLICT DO NOTHING`),
	}
	ledgerCompleteStatements = map[string]string{"complete": tellEnds(completeStatements["complete"])}
)

// with returns statements with others in place of those of the same name.
func with(statements, others map[string]string) map[string]string {
	all := maps.Clone(statements)
	maps.Copy(all, others)
	return all
}

// insertTold is insertDeliveries with the bit of what tellMade tells.
var insertTold = strings.Replace(insertDeliveries, "first_of)", "first_of, told)", 1) + ", 1::smallint"

// tellMade returns a statement that inserts deliveries and tells that those that it inserted were
// accepted.
func tellMade(insert string) string {
	return `
		WITH made AS (` + insert + ` RETURNING id, event_id, endpoint_id, tenant_id, created_at
		), told AS (
			INSERT INTO ledger_outbox (part, id, facts)
			SELECT $14::smallint, $15::uuid, string_agg('\x01'::bytea || uuid_send(id) || uuid_send(event_id)
				|| uuid_send(endpoint_id) || uuid_send(tenant_id) || timestamptz_send(created_at), ''::bytea)
			FROM made HAVING count(*) > 0
		)
		INSERT INTO ledger_totals AS x (part, tenant_id, endpoint_id, slot, ` + strings.Join(totalsColumns, ", ") + `)
		SELECT get_byte(uuid_send(endpoint_id), 15), tenant_id, endpoint_id, $16::smallint, count(*), 0, 0, 0, 0, 0
		FROM made GROUP BY tenant_id, endpoint_id ORDER BY get_byte(uuid_send(endpoint_id), 15), endpoint_id` + plus("part, endpoint_id", totalsColumns)
}

// tellEnds returns the statement "complete" with what the batch tells, which is told if the whole batch
// has moved, as its counters are counted.
func tellEnds(complete string) string {
	return strings.NewReplacer(
		"finished_at = u.finished_at\n", "finished_at = u.finished_at,\n"+
			"\t\t\t\ttold = nullif(coalesce(d.told, 0) | CASE WHEN u.status >= 2 THEN 2 ELSE 0 END, 0)\n",
		"SELECT n FROM done", strings.TrimPrefix(tellFacts(44, "(SELECT slot FROM whole)", "(SELECT n FROM whole) > 0"), "WITH ")+" SELECT n FROM done",
	).Replace(strings.Replace(complete, ")\n\t\tSELECT n FROM done", "), SELECT n FROM done", 1))
}

// tellFacts returns CTEs that tell what a Told holds, if a condition holds. Their parameters are those of
// telling and begin at number first.
func tellFacts(first int, slot, where string) string {
	p := func(i int, sqlType string) string { return param(first+i, sqlType) }
	arrays := []string{p(3, "smallint[]"), p(4, "uuid[]"), p(5, "uuid[]")}
	for i := range totalsColumns {
		arrays = append(arrays, p(6+i, "bigint[]"))
	}
	return `WITH told AS (
			INSERT INTO ledger_outbox (part, id, facts)
			SELECT ` + p(0, "smallint") + `, ` + p(1, "uuid") + `, ` + p(2, "bytea") + ` WHERE ` + where + ` AND octet_length(` + p(2, "bytea") + `) > 0
		), totals AS (
			INSERT INTO ledger_totals AS x (part, tenant_id, endpoint_id, slot, ` + strings.Join(totalsColumns, ", ") + `)
			SELECT part, tenant_id, endpoint_id, ` + slot + `, ` + strings.Join(totalsColumns, ", ") + `
			FROM unnest(` + strings.Join(arrays, ", ") + `) AS u (part, tenant_id, endpoint_id, ` + strings.Join(totalsColumns, ", ") + `)
			WHERE ` + where + plus("part, endpoint_id", totalsColumns) + `
		)`
}

// telling is a Told as parameters of tellFacts. Only one goroutine may use a telling.
type telling struct {
	totals *table
	keys   []store.Owner
	values [][]byte
}

func newTelling() *telling {
	return &telling{totals: newTable(int2Type, uuidType, uuidType, int8Type, int8Type, int8Type, int8Type, int8Type, int8Type)}
}

// params returns the parameters, with the totals in the order of their keys. They are valid until the
// next call.
func (t *telling) params(told *store.Told) [][]byte {
	t.totals.reset()
	t.keys = slices.AppendSeq(t.keys[:0], maps.Keys(told.Totals))
	slices.SortFunc(t.keys, func(a, b store.Owner) int {
		return cmp.Or(cmp.Compare(a.EndpointID[15], b.EndpointID[15]), bytes.Compare(a.EndpointID[:], b.EndpointID[:]))
	})
	for _, k := range t.keys {
		t.totals.int2(int(k.EndpointID[15]))
		t.totals.id(k.TenantID)
		t.totals.id(k.EndpointID)
		for _, n := range totalsOf(told.Totals[k]) {
			t.totals.int8(n)
		}
	}
	var id kapsel.EntryID
	if !told.Empty() {
		id = told.NewID()
	}
	t.values = append(t.values[:0], int2Param(int(id.Part())), id[:], told.Facts)
	t.values = append(t.values, t.totals.params()...)
	return t.values
}

// newTally returns a tally for a transaction on the pool.
func (s *Store) newTally() store.Tally {
	t := store.NewTally()
	if s.ledger {
		t.Told = store.NewTold()
	}
	return t
}

// tellStatement tells in a transaction on the pool.
var tellStatement = tellFacts(2, "$1::smallint", "true") + " SELECT"

// tell writes what a transaction on the pool tells the ledger, and the bits in the rows of the
// deliveries, which the transaction has locked.
func tell(ctx context.Context, tx pgx.Tx, told *store.Told) error {
	if told.Empty() {
		return nil
	}
	params := append([][]byte{int2Param(poolSlot)}, newTelling().params(told)...)
	if err := tx.Conn().PgConn().ExecParams(ctx, tellStatement, params, nil, binaryForm, nil).Read().Err; err != nil {
		return err
	}
	facts, err := store.ReadFacts(told.Facts)
	if err != nil {
		return err
	}
	var parts, bits []int16
	var ids [][16]byte
	for _, f := range facts {
		bit := int16(store.ToldEnd)
		if f.Kind.Made() {
			bit = store.ToldMade
		}
		// One row is updated once in a statement, so both facts of a delivery are one row.
		if n := len(ids); n > 0 && ids[n-1] == [16]byte(f.DeliveryID) {
			bits[n-1] |= bit
			continue
		}
		parts, ids, bits = append(parts, part(f.DeliveryID)), append(ids, f.DeliveryID), append(bits, bit)
	}
	_, err = tx.Exec(ctx, `
		UPDATE deliveries d SET told = coalesce(d.told, 0) | u.bit
		FROM unnest($1::smallint[], $2::uuid[], $3::smallint[]) AS u (part, id, bit)
		WHERE d.part = u.part AND d.id = u.id`, parts, ids, bits)
	return err
}

// ledgerSchema is the oldest schema that has the ledger.
const ledgerSchema = 24

// KeepBooks says whether this process tells facts; see store.Ledger. Once facts were told, no binary
// that knows no ledger may use the database.
func (s *Store) KeepBooks(ctx context.Context, on bool) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		was, err := walk(ctx, tx, " FOR UPDATE")
		if err != nil {
			return err
		}
		now := was.Kept(on)
		if now == was {
			return nil
		}
		if _, err := tx.Exec(ctx, "UPDATE schema_info SET readable_by = greatest(readable_by, $1)", ledgerSchema); err != nil {
			return err
		}
		return setWalk(ctx, tx, now)
	})
}

// walk reads how far the ledger's walk is.
func walk(ctx context.Context, q querier, lock string) (store.Walk, error) {
	value, _, err := first(ctx, q, (*row).bytes, "SELECT value FROM meta WHERE name = $1"+lock, store.WalkName)
	return store.Walk(value), err
}

func setWalk(ctx context.Context, tx pgx.Tx, w store.Walk) error {
	_, err := tx.Exec(ctx, "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", store.WalkName, []byte(w))
	return err
}

// walkWaits is how long Walk waits for transactions that a dead node may have left, and how often it looks.
const walkWaits, walkLooks = time.Second, 10 * time.Millisecond

// Walk tells facts that were not told; see store.Ledger. It walks one part after the other, and in a call
// it looks at deliveries of one part. The locks on the deliveries make it wait for who ends one of them, and
// the lock on the walk makes walks follow one another.
func (s *Store) Walk(ctx context.Context, limit int) (told int, more bool, err error) {
	if !s.ledger {
		return 0, false, nil
	}
	for waited := time.Duration(0); ; waited += walkLooks {
		waits := false
		err := s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) (err error) {
			told, more, waits, err = s.walkSome(ctx, tx, limit)
			return err
		})
		if err != nil {
			return 0, false, err
		}
		if !waits || waited >= walkWaits {
			return told, more, nil
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(walkLooks):
		}
	}
}

// walkSome is a step of Walk. waits says that the walk begins once other transactions have ended.
func (s *Store) walkSome(ctx context.Context, tx pgx.Tx, limit int) (told int, more, waits bool, err error) {
	w, err := walk(ctx, tx, " FOR UPDATE")
	if err == nil {
		w, err = walkable(ctx, tx, w)
	}
	after, walking := w.After()
	if err != nil || !walking {
		_, waits = w.Behind()
		return 0, false, waits, err
	}
	seen, told, err := s.tellUntold(ctx, tx, `
		SELECT `+untoldColumns+` FROM deliveries d
		WHERE d.part = $1 AND d.id > $2 ORDER BY d.id LIMIT $3 FOR UPDATE`, part(after), [16]byte(after), limit)
	if err != nil {
		return 0, false, false, err
	}
	switch {
	case len(seen) == limit:
		after = seen[limit-1]
	case after.Part() < 255: // an ID of the next part, before all others of it
		after = kapsel.DeliveryID{7: after.Part() + 1}
	default:
		return told, false, false, setWalk(ctx, tx, store.WalkDone)
	}
	return told, true, false, setWalk(ctx, tx, store.WalkFrom(after))
}

// walkable returns the walk as the nodes let it be, which it keeps. While a node that tells nothing is alive,
// the walk has to begin later. Once such nodes are dead it begins anew, when no transaction that one of them
// may have left can still commit what the walk would not see. Their rows are marked as seen in the
// transaction that makes the walk begin anew, so that after a crash neither is lost.
func walkable(ctx context.Context, tx pgx.Tx, was store.Walk) (store.Walk, error) {
	if was == "" {
		return was, nil
	}
	var alive, dead bool
	err := tx.QueryRow(ctx, "SELECT coalesce(bool_or(NOT dead), false), coalesce(bool_or(dead), false) FROM nodes WHERE untold").Scan(&alive, &dead)
	if err != nil {
		return "", err
	}
	now := was
	transaction, waits := was.Behind()
	switch {
	case alive:
		now = store.WalkDue
	case dead || was == store.WalkDue:
		if _, err := tx.Exec(ctx, "UPDATE nodes SET untold = false WHERE untold AND dead"); err != nil {
			return "", err
		}
		var next int64
		if err := tx.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&next); err != nil {
			return "", err
		}
		now = store.WalkBehind(uint64(next))
	case waits:
		var ended bool
		err := tx.QueryRow(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1", int64(transaction)).Scan(&ended)
		if err != nil {
			return "", err
		}
		if ended {
			now = store.WalkFrom(kapsel.DeliveryID{})
		}
	}
	if now == was {
		return was, nil
	}
	return now, setWalk(ctx, tx, now)
}

// untoldColumns are the columns of deliveries d that tellUntold reads.
const untoldColumns = deliveryColumns + ", d.told"

// tellUntold tells the facts that were not told of those deliveries that a query returns. The query must
// lock them.
func (s *Store) tellUntold(ctx context.Context, tx pgx.Tx, sql string, args ...any) (seen []kapsel.DeliveryID, told int, err error) {
	tally := s.newTally()
	seen, err = collect(ctx, tx, func(r *row) kapsel.DeliveryID {
		d, bits := scanDelivery(r), r.int2()
		untold, _ := store.Untold(&d, bits)
		for _, f := range untold {
			tally.Told.Add(f)
		}
		told += len(untold)
		return d.ID
	}, sql, args...)
	if err == nil {
		err = tell(ctx, tx, tally.Told)
	}
	return seen, told, err
}

// Walked reports whether all facts were told; see store.Ledger.
func (s *Store) Walked(ctx context.Context) (done bool, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, `
			SELECT EXISTS (SELECT 1 FROM meta WHERE name = $1 AND value = $2) AND NOT EXISTS (SELECT 1 FROM nodes WHERE untold)`,
			store.WalkName, []byte(store.WalkDone)).Scan(&done)
	})
	return done, err
}

// OthersTell reports whether only others tell facts; see store.Ledger.
func (s *Store) OthersTell(ctx context.Context) (others bool, err error) {
	if s.ledger {
		return false, nil
	}
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM nodes WHERE NOT dead AND NOT untold)").Scan(&others)
	})
	return others, err
}

// FactEntries reads the outbox; see store.Ledger.
func (s *Store) FactEntries(ctx context.Context, limit, atMost int) (entries []store.FactEntry, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		entries, err = factEntries(ctx, q, limit, atMost)
		return err
	})
	return entries, err
}

func factEntries(ctx context.Context, q querier, limit, atMost int) ([]store.FactEntry, error) {
	return collect(ctx, q, func(r *row) (e store.FactEntry) {
		e.ID = r.id()
		facts, err := store.ReadFacts(r.bytes())
		if e.Facts = facts; err != nil && r.err == nil {
			r.err = err
		}
		return e
	}, `
		SELECT id, facts FROM (
			SELECT id, facts, sum(octet_length(facts)) OVER (ORDER BY id) - octet_length(facts) AS before
			FROM (SELECT id, facts FROM ledger_outbox ORDER BY id LIMIT $1) oldest
		) o WHERE before < $2 ORDER BY id`, limit, int64(min(atMost, 1<<40))*store.FactSize)
}

// Booked takes entries out of the outbox; see store.Ledger.
func (s *Store) Booked(ctx context.Context, entries []kapsel.EntryID, conflicts []store.BookConflict) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		ids := make([][16]byte, len(entries))
		for i, e := range entries {
			ids[i] = e
		}
		slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
		batch := &pgx.Batch{}
		batch.Queue("DELETE FROM ledger_outbox o USING unnest($1::smallint[], $2::uuid[]) AS u (part, id) WHERE o.part = u.part AND o.id = u.id", partsOf(ids), ids)
		for _, c := range conflicts {
			f := &c.Fact
			batch.Queue(`
				INSERT INTO ledger_conflicts (kind, delivery_id, event_id, endpoint_id, tenant_id, at, answer, found_at)
				SELECT $1, $2, coalesce(d.event_id, $3), coalesce(d.endpoint_id, $4), coalesce(d.tenant_id, $5), $6, $7, $8
				FROM (VALUES ($9::smallint, $2::uuid)) AS u (part, id) LEFT JOIN deliveries d ON d.part = u.part AND d.id = u.id
				WHERE d.id IS NOT NULL OR EXISTS (SELECT 1 FROM ledger_totals WHERE tenant_id = $5 AND endpoint_id = $4)
				ON CONFLICT (delivery_id, kind) DO NOTHING`,
				int16(f.Kind), id(f.DeliveryID), [16]byte(f.EventID), [16]byte(f.EndpointID), [16]byte(f.TenantID), f.At, c.Answer, c.At, part(f.DeliveryID))
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

// BookConflicts lists conflicts; see store.Ledger.
func (s *Store) BookConflicts(ctx context.Context, tenantID kapsel.TenantID, after int64, limit int) ([]store.BookConflict, error) {
	return list(ctx, s, viewOf(tenantID), func(r *row) store.BookConflict {
		return store.BookConflict{
			Number: r.int8(),
			Fact:   kapsel.Fact{Kind: kapsel.FactKind(r.int2()), DeliveryID: r.id(), EventID: r.id(), EndpointID: r.id(), TenantID: r.id(), At: r.time()},
			Answer: r.text(), At: r.time(),
		}
	}, `
		SELECT n, kind, delivery_id, event_id, endpoint_id, tenant_id, at, answer, found_at FROM ledger_conflicts
		WHERE ($1::uuid IS NULL OR tenant_id = $1) AND n > $2 ORDER BY n LIMIT $3`, id(tenantID), after, limit)
}

// ReportBooks keeps what the books say; see store.Ledger.
func (s *Store) ReportBooks(ctx context.Context, reports []store.BookReport) error {
	sorted := slices.SortedFunc(slices.Values(reports), func(a, b store.BookReport) int { return a.Owner.Compare(b.Owner) })
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for i := range sorted {
			r := &sorted[i]
			batch.Queue(`
				INSERT INTO ledger_books (tenant_id, endpoint_id, books, cut, reported_at) SELECT $1::uuid, $2::uuid, $3::bytea, $4::bytea, $5::timestamptz
				WHERE EXISTS (SELECT 1 FROM ledger_totals WHERE tenant_id = $1 AND ($6 OR endpoint_id = $2))
				ON CONFLICT (tenant_id, endpoint_id) DO UPDATE SET books = excluded.books, cut = excluded.cut, reported_at = excluded.reported_at`,
				[16]byte(r.TenantID), [16]byte(r.EndpointID), store.AppendTotals(nil, &r.Books), store.AppendTotals(nil, &r.Cut), r.At, r.EndpointID.IsZero())
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

// summed are the totals of rows of ledger_totals together, over their slots and whatever else.
var summed = eachOf(totalsColumns, func(_ int, c string) string { return "CAST(coalesce(sum(" + c + "), 0) AS bigint)" })

// Accounts lists what was told and booked; see store.Ledger.
func (s *Store) Accounts(ctx context.Context, tenantID kapsel.TenantID, after store.Owner, limit int) (page []store.OwnerAccount, err error) {
	err = s.atOneMoment(ctx, func(ctx context.Context, tx pgx.Tx) error {
		page, err = collect(ctx, tx, func(r *row) store.OwnerAccount {
			return store.OwnerAccount{Owner: store.Owner{TenantID: r.id(), EndpointID: r.id()}, Told: scanTotals(r)}
		}, `
			SELECT tenant_id, endpoint_id, `+summed+` FROM ledger_totals
			WHERE ($1::uuid IS NULL OR tenant_id = $1) AND (tenant_id, endpoint_id) > ($2, $3)
			GROUP BY tenant_id, endpoint_id ORDER BY tenant_id, endpoint_id LIMIT $4`,
			id(tenantID), [16]byte(after.TenantID), [16]byte(after.EndpointID), limit)
		if err != nil {
			return err
		}
		page, err = store.WithTenants(page, after, limit, func(owner kapsel.TenantID) (kapsel.FactTotals, error) {
			t, _, err := first(ctx, tx, scanTotals, "SELECT "+summed+" FROM ledger_totals WHERE tenant_id = $1", id(owner))
			return t, err
		})
		if err != nil {
			return err
		}
		return addReports(ctx, tx, page)
	})
	return page, err
}

// AccountOf reads one owner's account; see store.Ledger.
func (s *Store) AccountOf(ctx context.Context, owner store.Owner) (a store.OwnerAccount, err error) {
	err = s.atOneMoment(ctx, func(ctx context.Context, tx pgx.Tx) error {
		told, found, err := first(ctx, tx, scanTotals, "SELECT "+summed+" FROM ledger_totals WHERE tenant_id = $1 AND endpoint_id = $2 HAVING count(*) > 0",
			[16]byte(owner.TenantID), [16]byte(owner.EndpointID))
		if err == nil && !found {
			err = callerError{store.NotFound("account")}
		}
		if err != nil {
			return err
		}
		page := []store.OwnerAccount{{Owner: owner, Told: told}}
		err = addReports(ctx, tx, page)
		a = page[0]
		return err
	})
	return a, err
}

// atOneMoment runs reads that all see the database as it is at one moment.
func (s *Store) atOneMoment(ctx context.Context, run func(context.Context, pgx.Tx) error) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"); err != nil {
			return err
		}
		return run(ctx, tx)
	})
}

// addReports sets what the outbox and the books have of a page's owners.
func addReports(ctx context.Context, q querier, page []store.OwnerAccount) error {
	var tenants, endpoints [][16]byte
	for _, p := range page {
		tenants, endpoints = append(tenants, p.TenantID), append(endpoints, p.EndpointID)
	}
	type report struct {
		n int
		store.BookReport
	}
	found, err := collect(ctx, q, func(r *row) report {
		return report{int(r.int8()), store.BookReport{Books: store.ReadTotals(r.bytes()), Cut: store.ReadTotals(r.bytes()), At: r.time()}}
	}, `
		SELECT u.n, b.books, b.cut, b.reported_at FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS u (tenant_id, endpoint_id, n)
		JOIN ledger_books b ON b.tenant_id = u.tenant_id AND b.endpoint_id = u.endpoint_id`, tenants, endpoints)
	if err != nil {
		return err
	}
	for _, r := range found {
		p := &page[r.n-1]
		r.Owner = p.Owner
		p.Report = &r.BookReport
	}
	entries, err := factEntries(ctx, q, store.MaxUnbooked+1, 1<<40)
	if err == nil && len(entries) <= store.MaxUnbooked {
		store.AddUnbooked(page, entries)
	}
	return err
}
