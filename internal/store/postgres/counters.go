package postgres

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// The statements that write something also count it, and count only what they have written: so
// nothing is counted twice, or counted and not written, however often a batch is run.
//
// Writers add to rows of their own slot, so that no writer waits for another's commit. A process
// draws its pair of slots when it opens the store. If two processes draw the same pair, they wait
// for each other, and nothing else is wrong. A transaction adds to these rows in the order of
// their keys, after all its other rows, so that writers of a slot do not deadlock.
const (
	slotPairs = 16
	poolSlot  = 2 * slotPairs // slot of all transactions that are no group commit
)

// slots returns the slots of the acceptor and the completer.
func slots() (accepts, completions int) {
	n := rand.IntN(slotPairs)
	return 2 * n, 2*n + 1
}

// statsColumns are the counters of endpoint_stats in the order of kapsel.Stats.Counters.
var statsColumns = func() (names []string) {
	names = strings.Fields(`succeeded client_errors server_errors timeouts no_answers unknowns
		delivered failed dead_letters canceled`)
	for i := range (kapsel.Histogram{}) {
		names = append(names, fmt.Sprint("ms", i))
	}
	return append(names, "refused", "unkeyed")
}()

// usageColumns are the counters of tenant_usage.
var usageColumns = []string{"events", "bytes", "attempts", "deliveries", "delivered"}

// eachOf returns a list of the expressions for columns.
func eachOf(columns []string, format func(i int, column string) string) string {
	all := make([]string, len(columns))
	for i, c := range columns {
		all[i] = format(i, c)
	}
	return strings.Join(all, ", ")
}

// plus returns the end of an INSERT that adds to existing rows x.
func plus(key string, columns []string) string {
	return ` ON CONFLICT (` + key + `, slot) DO UPDATE SET ` +
		eachOf(columns, func(_ int, c string) string { return c + " = x." + c + " + excluded." + c })
}

// countEvents returns a statement that inserts events, and counts the inserted ones in the slot
// that is a parameter. If keys are repeated, only the insert knows which events it inserted.
func countEvents(insert, slot string) string {
	return `
		WITH stored AS (` + insert + ` ON CONFLICT DO NOTHING
			RETURNING tenant_id, date_trunc('day', received_at) AS day, octet_length(body) AS size
		)
		INSERT INTO tenant_usage AS x (part, tenant_id, day, slot, ` + strings.Join(usageColumns, ", ") + `)
		SELECT get_byte(uuid_send(tenant_id), 15), tenant_id, day, ` + slot + `, count(*), sum(size), 0, 0, 0
		FROM stored GROUP BY tenant_id, day ORDER BY get_byte(uuid_send(tenant_id), 15), tenant_id, day` +
		plus("part, tenant_id, day", usageColumns)
}

// countEnds returns CTEs that add a tally to the counters of a slot, if a condition holds. Their
// parameters are those of tallied without the slot, and begin at number first. The counters of a
// row of stats come in one array with all others: thirty arrays would cost more than the rest of
// the statement.
func countEnds(first int, slot, where string) string {
	p := func(i int, sqlType string) string { return param(first+i, sqlType) }
	stats := p(3, "integer[]")
	return `stats AS (
			INSERT INTO endpoint_stats AS x (part, endpoint_id, hour, slot, ` + strings.Join(statsColumns, ", ") + `)
			SELECT part, endpoint_id, hour, ` + slot + `, ` +
		eachOf(statsColumns, func(i int, _ string) string { return fmt.Sprintf("(%s)[n + %d]", stats, i) }) + `
			FROM unnest(` + p(0, "smallint[]") + `, ` + p(1, "uuid[]") + `, ` + p(2, "timestamptz[]") + `, ` + p(4, "integer[]") + `)
				AS u (part, endpoint_id, hour, n)
			WHERE ` + where + plus("part, endpoint_id, hour", statsColumns) + `
		), used AS (
			INSERT INTO tenant_usage AS x (part, tenant_id, day, slot, ` + strings.Join(usageColumns, ", ") + `)
			SELECT part, tenant_id, day, ` + slot + `, ` + strings.Join(usageColumns, ", ") + `
			FROM unnest(` + p(5, "smallint[]") + `, ` + p(6, "uuid[]") + `, ` + p(7, "timestamptz[]") + `, ` + p(8, "bigint[]") + `,
				` + p(9, "bigint[]") + `, ` + p(10, "bigint[]") + `, ` + p(11, "bigint[]") + `, ` + p(12, "bigint[]") + `)
				AS u (part, tenant_id, day, ` + strings.Join(usageColumns, ", ") + `)
			WHERE ` + where + plus("part, tenant_id, day", usageColumns) + `
		)`
}

// tallied is a tally as parameters. It is used again and again. Only one goroutine may use a
// tallied.
type tallied struct {
	slot                   []byte
	stats, counters, usage *table
	values                 [][]byte
	statsKeys              []store.StatsKey
	usageKeys              []store.UsageKey
}

func newTallied(slot int) *tallied {
	return &tallied{
		slot:     int2Param(slot),
		stats:    newTable(int2Type, uuidType, timeType, int4Type),
		counters: newTable(int4Type),
		usage:    newTable(int2Type, uuidType, timeType, int8Type, int8Type, int8Type, int8Type, int8Type),
	}
}

// params returns a tally's parameters for countEnds, with its rows in the order of their keys.
// They are valid until the next call.
func (p *tallied) params(t store.Tally) [][]byte {
	p.stats.reset()
	p.counters.reset()
	p.usage.reset()
	p.statsKeys = slices.AppendSeq(p.statsKeys[:0], maps.Keys(t.Stats))
	slices.SortFunc(p.statsKeys, func(a, b store.StatsKey) int {
		return cmp.Or(cmp.Compare(kapsel.PartOf(a.Endpoint), kapsel.PartOf(b.Endpoint)),
			bytes.Compare(a.Endpoint[:], b.Endpoint[:]), cmp.Compare(a.Hour, b.Hour))
	})
	for _, k := range p.statsKeys {
		p.stats.int2(int(kapsel.PartOf(k.Endpoint)))
		p.stats.id(k.Endpoint)
		p.stats.time(time.UnixMicro(k.Hour))
		p.stats.int4(p.counters.rows() + 1)
		for _, n := range t.Stats[k].Counters() {
			p.counters.int4(int(*n))
		}
	}
	p.usageKeys = slices.AppendSeq(p.usageKeys[:0], maps.Keys(t.Usage))
	slices.SortFunc(p.usageKeys, func(a, b store.UsageKey) int {
		return cmp.Or(cmp.Compare(tenantPart(a.Tenant), tenantPart(b.Tenant)),
			bytes.Compare(a.Tenant[:], b.Tenant[:]), cmp.Compare(a.Day, b.Day))
	})
	for _, k := range p.usageKeys {
		u := t.Usage[k]
		p.usage.int2(tenantPart(k.Tenant))
		p.usage.id(k.Tenant)
		p.usage.time(time.UnixMicro(k.Day))
		for _, n := range []int64{u.Events, u.Bytes, u.Attempts, u.Deliveries, u.Delivered} {
			p.usage.int8(n)
		}
	}
	stats := p.stats.params()
	p.values = append(append(append(p.values[:0], p.slot), stats[:3]...), p.counters.params()...)
	p.values = append(append(p.values, stats[3]), p.usage.params()...)
	return p.values
}

// tenantPart returns the part of a tenant's usage.
func tenantPart(id kapsel.TenantID) int { return int(id[15]) }

// endsStatement counts a tally of a transaction on the pool.
var endsStatement = "WITH " + countEnds(2, "$1::smallint", "true") + " SELECT"

// count adds what a transaction has written to the counters. Callers must call it last in the
// transaction.
func count(ctx context.Context, tx pgx.Tx, t store.Tally) error {
	if len(t.Stats) > 0 {
		params := newTallied(poolSlot).params(t)
		if err := tx.Conn().PgConn().ExecParams(ctx, endsStatement, params, nil, binaryForm, nil).Read().Err; err != nil {
			return err
		}
	}
	return tell(ctx, tx, t.Told)
}

// CountArrivals adds counts of webhooks; see store.Counters.
func (s *Store) CountArrivals(ctx context.Context, counts map[store.StatsKey]store.Arrivals) error {
	tally := store.NewTally()
	for k, n := range counts {
		tally.Arrivals(k, n)
	}
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error { return count(ctx, tx, tally) })
}
