package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// Transfer returns the store as a copy's source or target, on a connection of its own whose
// statements may take long. It fails if the schema is not this binary's: a newer schema may hold
// what this binary would leave out. Callers must call Close of the result.
func (s *Store) Transfer(ctx context.Context) (*Transfer, error) {
	conn, err := pgx.ConnectConfig(ctx, s.from.conn(migrationSession))
	if err != nil {
		return nil, opening(fmt.Errorf("connect to the database: %w", err))
	}
	t := &Transfer{s, conn}
	version, err := currentSchema(ctx, conn)
	if err == nil && version != schemaVersion {
		err = refuse(ErrSchema, "it is of version %d, and this binary copies version %d only; use the release that made it", version, schemaVersion)
	}
	if err == nil {
		// Rows wait in the connection while the other store writes the rows before them.
		_, err = conn.Exec(ctx, "SET tcp_user_timeout = 0")
	}
	if err != nil {
		t.Close()
		return nil, opening(err)
	}
	return t, nil
}

// Transfer is a transfer.Store.
type Transfer struct {
	s    *Store
	conn *pgx.Conn
}

var _ transfer.Store = (*Transfer)(nil)

// Close closes the connection.
func (t *Transfer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return t.conn.Close(ctx)
}

// layout says how a table of this store differs from a transfer.Table. Columns with the same name
// are copied as they are.
type layout struct {
	key    []string                           // columns in whose order it is read: of the transfer.Table, or "part"
	part   func(value func(string) any) uint8 // of a row, whose values are told by name; nil: it has no column for it
	export map[string]string                  // a column of the transfer.Table as an expression of its own columns
	into   map[string]string                  // an own column as an expression of a row u of the transfer.Table
	lacks  []string                           // columns of the transfer.Table that it has no column for
	from   string                             // what is read in the place of the table; "": the table
	where  string                             // which rows are read
	group  bool                               // by its key: it has several rows for one of the transfer.Table
}

// These functions return the part of a row: that of an event's, a delivery's or an attempt's own
// id, of the event that the row is about, of an endpoint, or of a tenant.
func partOfID(value func(string) any) uint8 { return kapsel.EventID(value("id").([16]byte)).Part() }
func partOfEndpoint(value func(string) any) uint8 {
	return kapsel.PartOf(value("endpoint_id").([16]byte))
}
func partOfTenant(value func(string) any) uint8 {
	return uint8(tenantPart(value("tenant_id").([16]byte)))
}
func partOfEvent(value func(string) any) uint8 {
	return kapsel.EventID(value("event_id").([16]byte)).Part()
}

// someTime returns expressions for columns that must have a time in this store, and may be NULL in
// a transfer.Table.
func someTime(columns ...string) map[string]string {
	into := map[string]string{}
	for _, c := range columns {
		into[c] = `coalesce(u.` + c + `, '0001-01-01 00:00:00+00')`
	}
	return into
}

var layouts = map[string]layout{
	"tenants":     {key: []string{"id"}, into: someTime("created_at", "updated_at")},
	"keys":        {key: []string{"id"}, into: someTime("created_at")},
	"endpoints":   {key: []string{"id"}, into: someTime("created_at", "updated_at")},
	"sources":     {key: []string{"id"}, into: someTime("created_at", "updated_at")},
	"apps":        {key: []string{"id"}, into: someTime("created_at", "updated_at")},
	"event_types": {key: []string{"id"}, into: someTime("created_at", "updated_at")},
	"circuits":    {key: []string{"part", "endpoint_id"}, part: partOfEndpoint},
	"events": {key: []string{"position", "id"}, part: partOfID,
		export: map[string]string{
			"position":    `seq`,
			"delivery_id": `(SELECT d.id FROM deliveries d WHERE d.part = t.part AND d.event_id = t.id AND d.replay_of IS NULL AND d.first_of IS NULL LIMIT 1)`,
		},
		into: map[string]string{"seq": `u.position`}, lacks: []string{"position", "delivery_id"}},
	"idempotency_keys": {key: []string{"part", "endpoint_id", "key"}, part: partOfEvent},
	"guards":           {key: []string{"part", "endpoint_id", "guard"}, part: partOfEvent},
	"deliveries": {key: []string{"endpoint_id", "id"}, part: partOfID, lacks: []string{"last_attempt"},
		export: map[string]string{"last_attempt": `(SELECT a.id FROM attempts a WHERE a.part = t.part AND a.delivery_id = t.id ORDER BY a.number DESC LIMIT 1)`}},
	"expansions": {key: []string{"part", "event_id"}, part: partOfEvent},
	"attempts": {key: []string{"delivery_id", "number"}, part: partOfID, lacks: []string{"previous"},
		export: map[string]string{"previous": `(SELECT a.id FROM attempts a WHERE a.part = t.part AND a.delivery_id = t.delivery_id AND a.number < t.number ORDER BY a.number DESC LIMIT 1)`}},
	"replays": {key: []string{"id"}, into: map[string]string{"at_delivery": `CAST('00000000-0000-0000-0000-000000000000' AS uuid)`}},
	"endpoint_stats": {key: []string{"part", "endpoint_id", "hour"}, part: partOfEndpoint, group: true, lacks: []string{"counters"},
		export: map[string]string{"counters": `ARRAY[` + eachOf(statsColumns, func(_ int, c string) string { return "CAST(sum(" + c + ") AS bigint)" }) + `]`},
		into:   slotted(statsColumns, func(i int, c string) string { return fmt.Sprintf("u.counters[%d]", i+1) })},
	"tenant_usage": {key: []string{"part", "tenant_id", "day"}, part: partOfTenant, group: true,
		export: sums(usageColumns),
		into:   slotted(usageColumns, func(_ int, c string) string { return "u." + c })},
	"answers":         {key: []string{"owner", "key"}},
	"audit_outbox":    {key: []string{"part", "id"}, part: partOfID, from: unpacked},
	"audit_logs":      {key: []string{"log"}},
	"audit_leaves":    {key: []string{"log", "n"}},
	"audit_tiles":     {key: []string{"log", "level", "n"}},
	"audit_heads":     {key: []string{"log", "size"}},
	"audit_witnessed": {key: []string{"log"}},
	"changes":         {key: []string{"id"}},
	"portal_logos":    {key: []string{"tenant_id"}},
	"ledger_outbox":   {key: []string{"part", "id"}, part: partOfID},
	"ledger_totals": {key: []string{"part", "tenant_id", "endpoint_id"}, part: func(value func(string) any) uint8 { return value("endpoint_id").([16]byte)[15] }, group: true,
		export: sums(totalsColumns),
		into:   slotted(totalsColumns, func(_ int, c string) string { return "u." + c })},
	"ledger_books":     {key: []string{"tenant_id", "endpoint_id"}},
	"ledger_conflicts": {key: []string{"n"}},
	// stream_base is about this database's own transactions; see Finish. Stores walk for the ledger in
	// orders of their own, so the target walks anew.
	"meta": {key: []string{"name"}, where: `name NOT IN ('` + transfer.MetaName + `', '` + store.WalkName + `', '` + streamBaseName + `')`},
}

// slotted returns the expressions of counters, all in poolSlot, the slot of transactions that are
// no group commit.
func slotted(columns []string, value func(i int, column string) string) map[string]string {
	into := map[string]string{"slot": fmt.Sprint(poolSlot)}
	for i, c := range columns {
		into[c] = value(i, c)
	}
	return into
}

// sums returns the expressions of counters, summed up over their slots.
func sums(columns []string) map[string]string {
	all := map[string]string{}
	for _, c := range columns {
		all[c] = "CAST(sum(" + c + ") AS bigint)"
	}
	return all
}

// notCopied holds the tables that are not in transfer.Tables, each with the reason, and columns
// that an import leaves at their defaults.
var notCopied = map[string]string{
	"audit_packs":        "audit_outbox is read with what is in them",
	"schema_info":        "the migrations write it",
	"schema_migrations":  "the migrations write it",
	"settings_counter":   "Finish sets it",
	"portal_links":       "their tokens are worth nothing to another instance",
	"nodes":              "the source's nodes are dead to the target",
	"sessions":           "people sign in again",
	"duties":             "the source's nodes are dead to the target",
	"circuits.successes": "it is no longer used",
}

// own returns the columns of the table that an import writes, each with its expression.
func (l layout) own(t *transfer.Table) (columns, values []string) {
	if l.part != nil {
		columns, values = append(columns, "part"), append(values, "u.part")
	}
	for _, c := range t.Columns {
		if _, special := l.into[c.Name]; !special && !slices.Contains(l.lacks, c.Name) {
			columns, values = append(columns, c.Name), append(values, "u."+c.Name)
		}
	}
	for _, column := range slices.Sorted(maps.Keys(l.into)) {
		columns, values = append(columns, column), append(values, l.into[column])
	}
	return columns, values
}

// read returns the expression that reads a column of the transfer.Table.
func (l layout) read(column string) string {
	if e := l.export[column]; e != "" {
		return e
	}
	return "t." + column
}

// Survey returns the state of the database; see transfer.Store.
func (t *Transfer) Survey(ctx context.Context) (v transfer.Survey, err error) {
	var top int64
	// A server that starts adds one to the settings counter and writes a node.
	err = t.conn.QueryRow(ctx, `
		SELECT concat_ws('/',
				(SELECT encode(value, 'hex') FROM meta WHERE name = 'encryption_key_check'),
				(SELECT value FROM settings_counter),
				(SELECT string_agg(id || ' ' || lease_until, ',' ORDER BY id) FROM nodes),
				(SELECT string_agg(name || ' ' || node || ' ' || lease_until, ',' ORDER BY name) FROM duties),
				(SELECT concat_ws(' ', seq, id) FROM events ORDER BY seq DESC, id DESC LIMIT 1)),
			(SELECT count(*) FROM nodes WHERE NOT dead AND lease_until >= clock_timestamp()),
			(SELECT value FROM settings_counter),
			CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),
			(SELECT value FROM meta WHERE name = $1)`, transfer.MetaName).
		Scan(&v.Mark, &v.Servers, &v.Counters.Revision, &top, &v.Progress)
	if err != nil {
		return v, err
	}
	v.Counters.StreamEnd = t.s.seqBase + top
	for _, table := range transfer.Tables {
		where := ""
		if table.Name == "meta" {
			where = " WHERE " + layouts["meta"].where
		}
		var some bool
		if err := t.conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM "+cmp.Or(layouts[table.Name].from, table.Name)+" t"+where+")").Scan(&some); err != nil {
			return v, err
		}
		if some {
			v.Holds = table.Name
			break
		}
	}
	return v, nil
}

// Export reads a table; see transfer.Store.
func (t *Transfer) Export(ctx context.Context, table *transfer.Table, after transfer.Key, yield func(transfer.Row, transfer.Key) error) error {
	l := layouts[table.Name]
	var columns, order, marks, where []string
	for _, c := range table.Columns {
		columns = append(columns, l.read(c.Name))
	}
	args := make([]any, len(after))
	for i, name := range l.key {
		order, marks = append(order, l.read(name)), append(marks, fmt.Sprintf("$%d", i+1))
		if after != nil {
			args[i] = fromNeutral(after[i], keyKind(table, name))
		}
	}
	keys := strings.Join(order, ", ")
	if l.where != "" {
		where = append(where, l.where)
	}
	if after != nil {
		where = append(where, "("+keys+") > ("+strings.Join(marks, ", ")+")")
	}
	sql := "SELECT " + strings.Join(columns, ", ") + " FROM " + cmp.Or(l.from, table.Name) + " t"
	if where != nil {
		sql += " WHERE " + strings.Join(where, " AND ")
	}
	if l.group {
		sql += " GROUP BY " + keys
	}
	ctx, cancel := context.WithCancel(ctx) // if yield fails, the rest is not read
	defer cancel()
	rows, err := t.conn.Query(ctx, sql+" ORDER BY "+keys, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		r := make(transfer.Row, len(values))
		for i, v := range values {
			if r[i], err = toNeutral(v); err != nil {
				return fmt.Errorf("read %s: %w", table.Columns[i].Name, err)
			}
		}
		value := func(name string) any { return r[table.Column(name)] }
		k := make(transfer.Key, len(l.key))
		for i, name := range l.key {
			if name == "part" {
				k[i] = int64(l.part(value))
			} else {
				k[i] = value(name)
			}
		}
		if err := yield(r, k); err != nil {
			cancel()
			return err
		}
	}
	return rows.Err()
}

// keyKind returns the kind of a column of a key.
func keyKind(t *transfer.Table, name string) transfer.Kind {
	if i := t.Column(name); i >= 0 {
		return t.Columns[i].Kind
	}
	return transfer.Int // part
}

// Import writes rows; see transfer.Store. It sends them by COPY, the fastest way, into a table of
// the session, because COPY itself neither converts values nor works with row-level security.
func (t *Transfer) Import(ctx context.Context, table *transfer.Table, rows []transfer.Row, was, now []byte) error {
	l := layouts[table.Name]
	names, types := []string{}, []string{}
	for _, c := range table.Columns {
		names, types = append(names, c.Name), append(types, c.Name+" "+sqlTypes[c.Kind])
	}
	if l.part != nil && table.Column("part") < 0 {
		names, types = append(names, "part"), append(types, "part smallint")
	}
	columns, values := l.own(table)
	passing := "transfer_" + table.Name
	return pgx.BeginFunc(ctx, t.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE IF NOT EXISTS "+passing+" ("+strings.Join(types, ", ")+") ON COMMIT DELETE ROWS", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{passing}, names, pgx.CopyFromSlice(len(rows), func(n int) ([]any, error) {
			out := make([]any, 0, len(names))
			for i, v := range rows[n] {
				out = append(out, fromNeutral(v, table.Columns[i].Kind))
			}
			if len(names) > len(out) {
				out = append(out, int64(l.part(func(name string) any { return rows[n][table.Column(name)] })))
			}
			return out, nil
		}))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO "+table.Name+" ("+strings.Join(columns, ", ")+") SELECT "+strings.Join(values, ", ")+" FROM "+passing+" u")
		if err != nil {
			return err
		}
		return setProgress(ctx, tx, was, now)
	})
}

// setProgress replaces the progress of a copy. It fails if the stored progress is not was.
func setProgress(ctx context.Context, tx pgx.Tx, was, now []byte) error {
	var found []byte
	err := tx.QueryRow(ctx, "SELECT value FROM meta WHERE name = $1 FOR UPDATE", transfer.MetaName).Scan(&found)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if !bytes.Equal(found, was) {
		return errors.New("another copy to the same database has gone on meanwhile")
	}
	if found == nil { // if two copies begin at once, the second fails here
		_, err = tx.Exec(ctx, "INSERT INTO meta (name, value) VALUES ($1, $2)", transfer.MetaName, now)
	} else {
		_, err = tx.Exec(ctx, "UPDATE meta SET value = $2 WHERE name = $1", transfer.MetaName, now)
	}
	return err
}

// Finish sets the counters; see transfer.Store. It makes the base of the stream so large that new
// events come behind all positions that the source has given.
func (t *Transfer) Finish(ctx context.Context, c transfer.Counters, was, now []byte) error {
	return pgx.BeginFunc(ctx, t.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE settings_counter SET value = greatest(value, $1)", c.Revision); err != nil {
			return err
		}
		base := fmt.Sprint(max(t.s.seqBase, c.StreamEnd))
		if _, err := tx.Exec(ctx, "UPDATE meta SET value = $2 WHERE name = $1", streamBaseName, []byte(base)); err != nil {
			return err
		}
		return setProgress(ctx, tx, was, now)
	})
}

// sqlTypes are the types of the kinds of a transfer.Table.
var sqlTypes = map[transfer.Kind]string{
	transfer.ID: "uuid", transfer.Time: "timestamptz", transfer.Int: "bigint", transfer.Bool: "boolean",
	transfer.Text: "text", transfer.Bytes: "bytea", transfer.Counts: "bigint[]",
}

// fromNeutral returns a value of a transfer.Row as a parameter.
func fromNeutral(v any, kind transfer.Kind) any {
	if n, ok := v.(int64); ok && kind == transfer.Time {
		return time.UnixMicro(n).UTC()
	}
	return v
}

// toNeutral returns what the driver has read as a value of a transfer.Row.
func toNeutral(v any) (any, error) {
	switch v := v.(type) {
	case nil, [16]byte, bool, string, []byte, int64:
		return v, nil
	case int16:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case time.Time:
		return v.UnixMicro(), nil
	case []any:
		counts := make([]int64, len(v))
		for i := range v {
			n, ok := v[i].(int64)
			if !ok {
				return nil, fmt.Errorf("an element is a %T", v[i])
			}
			counts[i] = n
		}
		return counts, nil
	}
	return nil, fmt.Errorf("it is a %T", v)
}
