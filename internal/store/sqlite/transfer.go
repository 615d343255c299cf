package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// Transfer returns the store as a copy's source or target. It fails if the schema is not this
// binary's: a newer schema may hold what this binary would leave out.
func (s *Store) Transfer(context.Context) (transfer.Store, error) {
	version, _, err := schemaOf(s.path)
	if err == nil && version != schemaVersion {
		err = fmt.Errorf("the database has schema %d, and this Kapsel copies schema %d only: use the release that made it", version, schemaVersion)
	}
	return transferring{s}, err
}

type transferring struct{ s *Store }

// layout says how a table of this store differs from a transfer.Table. Columns with the same name
// are copied as they are.
type layout struct {
	key    []string          // columns of the transfer.Table by which its rows are ordered
	export map[string]string // a column of the transfer.Table as an expression of its own columns
	into   map[string]string // an own column as an expression of columns of the transfer.Table, in braces
	lacks  []string          // columns of the transfer.Table that this store's table does not have
	where  string            // which rows are read
	repeat string            // what to do if the row exists
}

const (
	// receivedAt selects when the event of a key or a guard was received. If retention has deleted the
	// event, no time is left but the expiry in the row.
	receivedAt = `coalesce((SELECT e.received_at FROM events e WHERE e.id = event_id), expires_at)`
	attemptOf  = ` FROM deliveries d WHERE d.id = delivery_id)`
)

var layouts = map[string]layout{
	"tenants": {key: []string{"id"},
		export: map[string]string{"limits": `CAST(limits AS TEXT)`, "audit": `CAST(audit AS TEXT)`},
		into:   map[string]string{"limits": `CAST({limits} AS BLOB)`, "audit": `CAST({audit} AS BLOB)`}},
	"keys": {key: []string{"id"}},
	"endpoints": {key: []string{"id"},
		export: map[string]string{"config": `CAST(config AS TEXT)`}, into: map[string]string{"config": `CAST({config} AS BLOB)`}},
	"sources": {key: []string{"id"},
		export: map[string]string{"config": `CAST(config AS TEXT)`}, into: map[string]string{"config": `CAST({config} AS BLOB)`}},
	"apps": {key: []string{"id"},
		export: map[string]string{"config": `CAST(config AS TEXT)`}, into: map[string]string{"config": `CAST({config} AS BLOB)`}},
	"event_types": {key: []string{"id"},
		export: map[string]string{"config": `CAST(config AS TEXT)`}, into: map[string]string{"config": `CAST({config} AS BLOB)`}},
	"circuits": {key: []string{"endpoint_id"}, into: map[string]string{"successes": `0`}}, // column is no longer used
	"events": {key: []string{"position", "id"},
		export: map[string]string{
			"position": `n`, "traceparent": `trace_parent`, "delivery_id": `nullif(delivery_id, x'')`,
			// The patch leaves out what is NULL.
			"signature": `json_patch(json_object('scheme', scheme, 'valid', json(iif(valid, 'true', 'false'))),
				json_object('key_id', nullif(secret, ''), 'skew', nullif(skew, 0)))`,
		},
		into: map[string]string{
			"n": `{position}`, "trace_parent": `{traceparent}`, "delivery_id": `coalesce({delivery_id}, x'')`,
			"scheme": `json_extract({signature}, '$.scheme')`, "valid": `json_extract({signature}, '$.valid')`,
			"secret": `coalesce(json_extract({signature}, '$.key_id'), '')`, "skew": `coalesce(json_extract({signature}, '$.skew'), 0)`,
		},
		lacks: []string{"position", "traceparent", "signature"}},
	// A key whose window is over may still have its row beside that of the next event with it.
	"idempotency_keys": {key: []string{"endpoint_id", "key", "event_id"}, lacks: []string{"created_at"},
		export: map[string]string{"created_at": receivedAt},
		where: `expires_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM idempotency_keys o WHERE o.endpoint_id = t.endpoint_id AND o.key = t.key
			AND (o.expires_at, o.event_id) > (t.expires_at, t.event_id))`,
		// Its event has made the row already; see importEvent.
		repeat: `ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at`},
	"guards":     {key: []string{"endpoint_id", "guard"}, lacks: []string{"created_at"}, export: map[string]string{"created_at": receivedAt}},
	"deliveries": {key: []string{"id"}},
	"expansions": {key: []string{"event_id"}},
	"attempts": {key: []string{"id"}, lacks: []string{"event_id", "endpoint_id", "tenant_id"},
		export: map[string]string{
			"event_id": `(SELECT d.event_id` + attemptOf, "endpoint_id": `(SELECT d.endpoint_id` + attemptOf, "tenant_id": `(SELECT d.tenant_id` + attemptOf,
		}},
	"replays":          {key: []string{"id"}, into: map[string]string{"at_event": `zeroblob(16)`}},
	"endpoint_stats":   {key: []string{"endpoint_id", "hour"}},
	"tenant_usage":     {key: []string{"tenant_id", "day"}},
	"answers":          {key: []string{"owner", "key"}},
	"audit_outbox":     {key: []string{"id"}},
	"audit_logs":       {key: []string{"log"}},
	"audit_leaves":     {key: []string{"log", "n"}},
	"audit_tiles":      {key: []string{"log", "level", "n"}},
	"audit_heads":      {key: []string{"log", "size"}},
	"audit_witnessed":  {key: []string{"log"}},
	"changes":          {key: []string{"id"}},
	"portal_logos":     {key: []string{"tenant_id"}},
	"ledger_outbox":    {key: []string{"id"}},
	"ledger_totals":    {key: []string{"tenant_id", "endpoint_id"}},
	"ledger_books":     {key: []string{"tenant_id", "endpoint_id"}},
	"ledger_conflicts": {key: []string{"n"}},
	// stream_base is about the other database's own numbers; see Finish of package postgres. Stores walk
	// for the ledger in orders of their own, so the target walks anew.
	"meta": {key: []string{"name"}, where: `name NOT IN ('` + transfer.MetaName + `', '` + store.WalkName + `', 'stream_base')`},
}

// notCopied holds the tables that are not in transfer.Tables, each with the reason.
var notCopied = map[string]string{
	"schema_info":      "the migrations write it",
	"goose_db_version": "the migrations write it",
	"sqlite_sequence":  "it is SQLite's, for the migrations' table",
	"audit_outbox.seq": "the target numbers its entries itself",
	"counters":         "Finish sets them, and importEvent widens the skews",
	"portal_links":     "their tokens are worth nothing to another instance",
	"nodes":            "the source's nodes are dead to the target",
	"sessions":         "people sign in again",
	"duties":           "the source's nodes are dead to the target",
}

// own returns the columns of the table that an import writes, each with its expression.
func (l layout) own(t *transfer.Table) (columns, values []string) {
	for _, c := range t.Columns {
		if _, special := l.into[c.Name]; !special && !slices.Contains(l.lacks, c.Name) {
			columns, values = append(columns, c.Name), append(values, "{"+c.Name+"}")
		}
	}
	for _, column := range slices.Sorted(maps.Keys(l.into)) { // always in the same order, so that there is one statement
		columns, values = append(columns, column), append(values, l.into[column])
	}
	return columns, values
}

// read returns the expression that reads a column of the transfer.Table.
func (l layout) read(column string) string {
	if e := l.export[column]; e != "" {
		return e
	}
	return column
}

// Survey implements transfer.Store. The store's lock on the file proves that no server uses it.
func (t transferring) Survey(ctx context.Context) (v transfer.Survey, err error) {
	err = t.s.read(ctx, func(c *conn) error {
		// A server that starts writes a node, one that runs leads duties and tries whether it can write.
		_, err := c.query(`SELECT concat_ws('/',
				(SELECT hex(value) FROM meta WHERE name = 'encryption_key_check'),
				(SELECT group_concat(name || '=' || value) FROM counters),
				(SELECT group_concat(hex(id) || lease_until) FROM nodes),
				(SELECT group_concat(name || hex(node) || lease_until) FROM duties),
				(SELECT hex(id) FROM events ORDER BY n DESC LIMIT 1)),
			(SELECT value FROM counters WHERE name = 'settings'), (` + newestN + `)`).
			one(func(q *stmt) {
				v.Mark, v.Counters.Revision, v.Counters.StreamEnd = q.colText(), q.colInt(), q.colInt()
			})
		if err != nil {
			return err
		}
		if _, err = c.query(`SELECT value FROM meta WHERE name = ?`, transfer.MetaName).one(func(q *stmt) { v.Progress = q.colBlob() }); err != nil {
			return err
		}
		for _, table := range transfer.Tables {
			where := ""
			if w := layouts[table.Name].where; table.Name == "meta" {
				where = " WHERE " + w
			}
			some, err := c.query(`SELECT 1 FROM ` + table.Name + where + ` LIMIT 1`).one(func(*stmt) {})
			if err != nil {
				return err
			}
			if some {
				v.Holds = table.Name
				break
			}
		}
		return nil
	})
	return v, err
}

// Export implements transfer.Store.
func (t transferring) Export(ctx context.Context, table *transfer.Table, after transfer.Key, yield func(transfer.Row, transfer.Key) error) error {
	l := layouts[table.Name]
	var columns, order, marks, where []string
	at := make([]int, len(l.key)) // the key's columns in a row
	for _, c := range table.Columns {
		columns = append(columns, l.read(c.Name))
	}
	for i, name := range l.key {
		at[i] = table.Column(name)
		order, marks = append(order, l.read(name)), append(marks, "?")
	}
	keys := strings.Join(order, ", ")
	if l.where != "" {
		where = append(where, l.where)
	}
	if after != nil {
		where = append(where, "("+keys+") > ("+strings.Join(marks, ", ")+")")
	}
	sql := `SELECT ` + strings.Join(columns, ", ") + ` FROM ` + table.Name + ` t`
	if where != nil {
		sql += ` WHERE ` + strings.Join(where, " AND ")
	}
	sql += ` ORDER BY ` + keys
	return t.s.read(ctx, func(c *conn) error {
		q := c.stmt(sql)
		for _, v := range after {
			q.neutral(v)
		}
		for q.next() {
			r := make(transfer.Row, len(table.Columns))
			for i, col := range table.Columns {
				v, err := q.colNeutral(col.Kind)
				if err != nil {
					return errors.Join(err, q.end())
				}
				r[i] = v
			}
			k := make(transfer.Key, len(at))
			for i, n := range at {
				k[i] = r[n]
			}
			if err := errors.Join(yield(r, k), ctx.Err()); err != nil {
				return errors.Join(err, q.end())
			}
		}
		return q.end()
	})
}

// Import implements transfer.Store.
func (t transferring) Import(ctx context.Context, table *transfer.Table, rows []transfer.Row, was, now []byte) error {
	l := layouts[table.Name]
	columns, values := l.own(table)
	sql := `INSERT INTO ` + table.Name + ` (` + strings.Join(columns, ", ") + `) VALUES (` + strings.Join(values, ", ") + `) ` + l.repeat
	for i, c := range table.Columns {
		sql = strings.ReplaceAll(sql, "{"+c.Name+"}", fmt.Sprintf("?%d", i+1))
	}
	return t.s.writer.cold(ctx, func(c *conn) error {
		for _, r := range rows {
			if table.Name == "events" {
				if err := t.importEvent(c, table, r); err != nil {
					return err
				}
			}
			q := c.stmt(sql)
			for _, v := range r {
				q.neutral(v)
			}
			if err := q.exec(); err != nil {
				return err
			}
		}
		return c.progress(was, now)
	})
}

// importEvent writes what this store keeps beside an event: its idempotency key, by which lists
// find it, and by how much its times differ. It also gives the event an n that no other event has,
// even if events of the source share a position. The n is never less than the position, so that a
// client that goes on from a position misses no event, though some events may come again.
func (t transferring) importEvent(c *conn, table *transfer.Table, r transfer.Row) error {
	value := func(name string) any { return r[table.Column(name)] }
	n := max(value("position").(int64), t.s.lastN.Load()+1)
	t.s.lastN.Store(n)
	r[table.Column("position")] = n
	id := kapsel.EventID(value("id").([16]byte))
	if key, ok := value("idempotency_key").([]byte); ok {
		// The row is the origin's. A scope other than the origin, in which the key is remembered, has a
		// row of its own.
		err := c.stmt(`INSERT INTO idempotency_keys (endpoint_id, key, event_id) VALUES (?, ?, ?)`).
			neutral(value("endpoint_id")).blob(key).id(id).exec()
		if err != nil {
			return err
		}
	}
	if err := t.s.eventSkew.include(c, time.UnixMicro(value("received_at").(int64)), id.Time()); err != nil {
		return err
	}
	first, ok := value("delivery_id").([16]byte)
	if !ok {
		return nil
	}
	return t.s.deliverySkew.include(c, kapsel.DeliveryID(first).Time(), id.Time())
}

// progress replaces the progress of a copy, in the transaction under way. It fails if the stored
// progress is not was.
func (c *conn) progress(was, now []byte) error {
	var found []byte
	_, err := c.query(`SELECT value FROM meta WHERE name = ?`, transfer.MetaName).one(func(q *stmt) { found = q.colBlob() })
	if err != nil {
		return err
	}
	if !bytes.Equal(found, was) {
		return errors.New("another copy to the same database has gone on meanwhile")
	}
	return c.exec(`INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)`, transfer.MetaName, now)
}

// Finish implements transfer.Store.
func (t transferring) Finish(ctx context.Context, counters transfer.Counters, was, now []byte) error {
	return t.s.writer.cold(ctx, func(c *conn) error {
		err := c.exec(`UPDATE counters SET value = max(value, ?) WHERE name = 'settings'`, counters.Revision)
		if err == nil {
			err = c.exec(`UPDATE counters SET value = max(value, ?) WHERE name = 'event_n'`, counters.StreamEnd)
		}
		if err == nil {
			err = c.progress(was, now)
		}
		return err
	})
}

// neutral binds a value of a transfer.Row.
func (s *stmt) neutral(v any) *stmt {
	switch v := v.(type) {
	case nil:
		return s.null()
	case [16]byte: // all zeros are no NULL here
		return s.blob(v[:])
	case []int64:
		var stats kapsel.Stats
		for i, n := range stats.Counters() {
			if i < len(v) {
				*n = v[i]
			}
		}
		s.c.scratch = appendCounters(s.c.scratch[:0], &stats)
		return s.blob(s.c.scratch)
	default:
		return s.bind(v)
	}
}

// colNeutral returns the next column as a value of a transfer.Row.
func (s *stmt) colNeutral(kind transfer.Kind) (any, error) {
	if s.colNull() {
		s.col++
		return nil, nil
	}
	switch kind {
	case transfer.ID:
		return s.colID(), nil
	case transfer.Bool:
		return s.colBool(), nil
	case transfer.Text:
		return s.colText(), nil
	case transfer.Bytes:
		return s.colBlob(), nil
	case transfer.Counts:
		var stats kapsel.Stats
		err := addCounters(&stats, s.view())
		counts := make([]int64, 0, kapsel.StatsCounters)
		for _, n := range stats.Counters() {
			counts = append(counts, *n)
		}
		return counts, err
	}
	return s.colInt(), nil
}
