package postgres

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// The outbox of the audit log has two tables. What a batch of completions writes is a row of audit_packs for each
// tenant, because a row for each attempt would slow delivery down more than the log may. What is written alone, or
// was erased, is a row of audit_outbox. A pack only shrinks.

// logEnds returns CTEs that write the outbox's entries of a batch, if a condition holds. The tables refuse a slot
// below 0. The parameters are those of packing and begin at number first. A node that knows no packs does not read
// them, so none are made while one is alive.
func logEnds(first int, slot, where string) string {
	checked := func(part string) string { return "CASE WHEN " + slot + " < 0 THEN -1 ELSE " + part + " END" }
	p := func(i int, sqlType string) string { return param(first+i, sqlType) }
	attempts, entries := p(5, "uuid[]"), p(6, "bytea[]")
	return `older AS (
			SELECT EXISTS (SELECT 1 FROM nodes WHERE NOT dead AND coalesce(schema, 0) < ` + strconv.Itoa(packsSchema) + `) AS found
		), packed AS (
			INSERT INTO audit_packs (part, id, tenant_id, attempts, entries)
			SELECT ` + checked("part") + `, id, tenant_id, (` + attempts + `)[first:last], (` + entries + `)[first:last]
			FROM unnest(` + p(0, "smallint[]") + `, ` + p(1, "uuid[]") + `, ` + p(2, "uuid[]") + `, ` + p(3, "integer[]") + `, ` + p(4, "integer[]") + `)
				AS u (part, id, tenant_id, first, last)
			WHERE ` + where + ` AND NOT (SELECT found FROM older)
		), logged AS (
			INSERT INTO audit_outbox (part, id, entry)
			SELECT ` + checked("get_byte(uuid_send(id), 7)") + `, id, entry FROM unnest(` + attempts + `, ` + entries + `) AS u (id, entry)
			WHERE ` + where + ` AND (SELECT found FROM older)
		)`
}

// packing is what logEnds writes of a batch, as parameters. Only one goroutine may use a packing.
type packing struct {
	packs, entries *table
	sorted         []*store.Completion // by tenant and attempt
	entry          []byte              // scratch
	values         [][]byte
}

func newPacking() *packing {
	return &packing{packs: newTable(int2Type, uuidType, uuidType, int4Type, int4Type), entries: newTable(uuidType, bytesType)}
}

// params returns the parameters. They are valid until the next call.
func (p *packing) params(calls []*batch.Call[*completion]) [][]byte {
	p.packs.reset()
	p.entries.reset()
	p.sorted = p.sorted[:0]
	for _, c := range calls {
		p.sorted = append(p.sorted, &c.In.Completion)
	}
	defer clear(p.sorted)
	slices.SortFunc(p.sorted, func(a, b *store.Completion) int {
		return cmp.Or(bytes.Compare(a.Attempt.TenantID[:], b.Attempt.TenantID[:]), bytes.Compare(a.Attempt.ID[:], b.Attempt.ID[:]))
	})
	for i, first := 0, 0; i < len(p.sorted); i++ {
		a := &p.sorted[i].Attempt
		p.entry = store.AppendEntry(p.entry[:0], a, &p.sorted[i].Commitments)
		p.entries.id(a.ID)
		p.entries.bytes(p.entry)
		if i+1 == len(p.sorted) || p.sorted[i+1].Attempt.TenantID != a.TenantID {
			id := p.sorted[first].Attempt.ID
			p.packs.int2(int(id.Part()))
			p.packs.id(id)
			p.packs.id(a.TenantID)
			p.packs.int4(first + 1)
			p.packs.int4(i + 1)
			first = i + 1
		}
	}
	p.values = append(append(p.values[:0], p.packs.params()...), p.entries.params()...)
	return p.values
}

// unpacked are all entries of the outbox, as audit_outbox has them.
const unpacked = `(SELECT part, id, entry FROM audit_outbox UNION ALL
		SELECT CAST(get_byte(uuid_send(u.id), 7) AS smallint), u.id, u.entry FROM audit_packs p, unnest(p.attempts, p.entries) AS u (id, entry))`

// takePacked takes entries out of their packs, and deletes packs that are empty then. The error is rules.EntryTaken
// if an entry is no longer in its pack. Callers must name the entries of a pack one after the other; packs of which
// all are named, in ascending order, go by one statement.
func takePacked(ctx context.Context, tx pgx.Tx, keys []store.EntryKey) error {
	type pack struct {
		id    kapsel.AttemptID
		first int // of its attempts that are taken
	}
	var packs []pack
	attempts := make([][16]byte, len(keys))
	for i, key := range keys {
		attempts[i] = key.AttemptID
		if n := len(packs); n == 0 || packs[n-1].id != key.Pack {
			packs = append(packs, pack{key.Pack, i})
		}
	}
	if len(packs) == 0 {
		return nil
	}
	ids, firsts, lasts := make([][16]byte, len(packs)), make([]int32, len(packs)), make([]int32, len(packs))
	for i, p := range packs {
		ids[i], firsts[i], lasts[i] = p.id, int32(p.first+1), int32(len(keys))
		if i > 0 {
			lasts[i-1] = int32(p.first)
		}
	}
	whole, err := collect(ctx, tx, (*row).int4, `
		DELETE FROM audit_packs p USING unnest($1::smallint[], $2::uuid[], $3::integer[], $4::integer[]) AS u (part, id, first, last)
		WHERE p.part = u.part AND p.id = u.id AND p.attempts = ($5::uuid[])[u.first:u.last] RETURNING u.first`, partsOf(ids), ids, firsts, lasts, attempts)
	if err != nil || len(whole) == len(packs) {
		return err
	}
	gone := make(map[int32]bool, len(whole))
	for _, first := range whole {
		gone[int32(first)] = true
	}
	for i := range packs {
		if gone[firsts[i]] {
			continue
		}
		// The two conditions exclude each other, so that one statement takes what the other does not.
		taken, n := attempts[firsts[i]-1:lasts[i]], int64(0)
		for _, sql := range []string{`
			UPDATE audit_packs p SET
				attempts = ARRAY(SELECT u.id FROM unnest(p.attempts) WITH ORDINALITY AS u (id, n) WHERE u.id <> ALL ($3::uuid[]) ORDER BY u.n),
				entries = ARRAY(SELECT u.entry FROM unnest(p.attempts, p.entries) WITH ORDINALITY AS u (id, entry, n) WHERE u.id <> ALL ($3::uuid[]) ORDER BY u.n)
			WHERE p.part = $1 AND p.id = $2 AND p.attempts @> $3::uuid[] AND NOT p.attempts <@ $3::uuid[]`, `
			DELETE FROM audit_packs p WHERE p.part = $1 AND p.id = $2 AND p.attempts @> $3::uuid[] AND p.attempts <@ $3::uuid[]`,
		} {
			tag, err := tx.Exec(ctx, sql, part(packs[i].id), ids[i], taken)
			if err != nil {
				return err
			}
			if n = tag.RowsAffected(); n > 0 {
				break
			}
		}
		if n == 0 {
			return callerError{rules.EntryTaken()}
		}
	}
	return nil
}

// erasePacked moves the entries that some attempts of a tenant have in packs to audit_outbox, without what their
// leaves say.
func erasePacked(ctx context.Context, tx pgx.Tx, tenant kapsel.TenantID, attempts [][16]byte) error {
	type entry struct {
		store.EntryKey
		entry []byte
	}
	found, err := collect(ctx, tx, func(r *row) entry {
		return entry{store.EntryKey{Pack: r.id(), AttemptID: r.id()}, r.bytes()}
	}, `
		SELECT p.id, u.id, u.entry FROM audit_packs p, LATERAL unnest(p.attempts, p.entries) AS u (id, entry)
		WHERE p.tenant_id = $1 AND p.attempts && $2::uuid[] AND u.id = ANY ($2::uuid[]) ORDER BY p.part, p.id, u.id FOR UPDATE OF p`, id(tenant), attempts)
	if err != nil {
		return err
	}
	var keys []store.EntryKey
	for _, e := range found {
		erased, changed := store.EraseEntry(e.AttemptID, e.entry)
		if !changed {
			continue
		}
		_, err := tx.Exec(ctx, "INSERT INTO audit_outbox (part, id, entry) VALUES ($1, $2, $3)", part(e.AttemptID), id(e.AttemptID), erased)
		if err != nil {
			return err
		}
		keys = append(keys, e.EntryKey)
	}
	return takePacked(ctx, tx, keys)
}
