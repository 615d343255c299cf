package sqlite

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Entries implements store.Journal.
func (s *Store) Entries(ctx context.Context, after store.EntryKey, limit int, without map[kapsel.TenantID]bool) (entries []store.Entry, next store.EntryKey, err error) {
	err = s.read(ctx, func(c *conn) error {
		seen := 0
		q := c.stmt(`SELECT seq, id, entry FROM audit_outbox WHERE seq > ? ORDER BY seq LIMIT ?`).int(after.Row).int(int64(limit))
		for q.next() {
			seen++
			next = store.EntryKey{Row: q.colInt(), AttemptID: q.colID()}
			b := q.view()
			if len(without) == 0 || !without[store.TenantOf(b)] {
				entries = append(entries, store.ReadEntry(next, slices.Clone(b)))
			}
		}
		if seen < limit {
			next = store.EntryKey{}
		}
		return q.end()
	})
	return entries, next, err
}

const logColumns = `log, tenant_id, created_at, closed_at, epoch, size, root, edge, fault, texts_from, dropped_at`

func scanLog(s *stmt) (l store.Log) {
	l.ID, l.TenantID, l.CreatedAt, l.ClosedAt = s.colID(), s.colID(), s.colTime(), s.colTime()
	l.Epoch, l.Size, l.Root, l.Edge, l.Fault = s.colInt(), s.colInt(), s.colHash(), s.colBlob(), s.colText()
	l.TextsFrom, l.DroppedAt = s.colInt(), s.colTime()
	return l
}

// colHash returns the hash in the next column.
func (s *stmt) colHash() (h store.Hash) {
	copy(h[:], s.view())
	return h
}

// TakeLogs implements store.Journal.
func (s *Store) TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) (logs []store.Log, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		logs = make([]store.Log, 0, len(tenants))
		for _, tenant := range tenants {
			err := c.exec(`INSERT INTO audit_logs (log, tenant_id, created_at, epoch, size, root, edge, fault)
				SELECT ?, id, ?, 0, 0, ?, x'', '' FROM tenants WHERE id = ? ON CONFLICT DO NOTHING`, [16]byte(kapsel.NewLogID()), now, [32]byte(rules.EmptyRoot), tenant)
			if err != nil {
				return err
			}
			_, err = c.query(`UPDATE audit_logs SET epoch = epoch + 1 WHERE tenant_id = ? AND closed_at IS NULL RETURNING `+logColumns, tenant).
				one(func(s *stmt) { logs = append(logs, scanLog(s)) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	return logs, err
}

// Append implements store.Journal.
func (s *Store) Append(ctx context.Context, grown []store.Growth) (stale []kapsel.LogID, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		stale = nil
		var taken []int64
		for i := range grown {
			g := &grown[i]
			err := c.stmt(`UPDATE audit_logs SET size = ?, root = ?, edge = ?
				WHERE log = ? AND size = ? AND root = ? AND epoch = ? AND closed_at IS NULL`).
				int(g.Size).blob(g.Root[:]).blob(g.Edge).id(g.Log).int(g.Was.Size).blob(g.Was.Root[:]).int(g.Was.Epoch).exec()
			if err != nil {
				return err
			}
			if c.changes() == 0 {
				stale = append(stale, g.Log)
				continue
			}
			if err := appendTo(c, g); err != nil {
				return err
			}
			for _, key := range g.Taken {
				taken = append(taken, key.Row)
			}
		}
		return take(c, taken)
	})
	return stale, err
}

// take deletes rows of the outbox, those that follow each other by one statement.
func take(c *conn, rows []int64) error {
	slices.Sort(rows)
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n] == rows[0]+int64(n) {
			n++
		}
		if err := c.stmt(`DELETE FROM audit_outbox WHERE seq BETWEEN ? AND ?`).int(rows[0]).int(rows[n-1]).exec(); err != nil {
			return err
		}
		if c.changes() != n {
			return rules.EntryTaken()
		}
		rows = rows[n:]
	}
	return nil
}

// entries are rows for the outbox.
type entries struct {
	ids  []kapsel.AttemptID
	ends []int // of each row's entry in text
	text []byte
}

// add adds a row. text is that of the rows before, with the row's entry appended.
func (e *entries) add(id kapsel.AttemptID, text []byte) {
	e.ids, e.ends, e.text = append(e.ids, id), append(e.ends, len(text)), text
}

func (e *entries) reset() { e.ids, e.ends, e.text = e.ids[:0], e.ends[:0], e.text[:0] }

var (
	insertEntries = insertOf(`INSERT INTO audit_outbox (id, entry) VALUES `, `(?, ?)`)
	insertLeaves  = insertOf(`INSERT INTO audit_leaves (log, n, attempt_id, hash, text) VALUES `, `(?, ?, ?, ?, ?)`)
)

// writeEntries writes the entries of the transaction under way. Callers must call it before the commit.
func (c *conn) writeEntries() error {
	e := &c.entries
	begin := 0
	return c.insert(len(e.ids), insertEntries, func(s *stmt, i int) {
		s.id(e.ids[i]).blob(e.text[begin:e.ends[i]])
		begin = e.ends[i]
	})
}

func appendTo(c *conn, g *store.Growth) error {
	err := c.insert(len(g.Leaves), insertLeaves, func(s *stmt, i int) {
		l := &g.Leaves[i]
		s.id(g.Log).int(l.Index).id(l.AttemptID).blob(l.Hash[:]).bind(l.Record)
	})
	if rowsFault(err) {
		return rules.EntryTaken()
	}
	if err != nil {
		return err
	}
	for _, t := range g.Tiles {
		err := c.stmt(`INSERT INTO audit_tiles (log, level, n, hashes) VALUES (?, ?, ?, ?)
			ON CONFLICT (log, level, n) DO UPDATE SET hashes = excluded.hashes`).
			id(g.Log).int(int64(t.Level)).int(t.N).blob(t.Hashes).exec()
		if err != nil {
			return err
		}
	}
	return nil
}

// Publish implements store.Journal.
func (s *Store) Publish(ctx context.Context, heads []store.SignedHead) (stale []kapsel.LogID, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		stale = nil
		for i := range heads {
			h := &heads[i]
			found, err := c.stmt(`SELECT 1 FROM audit_logs
				WHERE log = ? AND epoch = ? AND size = ? AND root = ? AND closed_at IS NULL AND fault = ''`).
				id(h.Log).int(h.Epoch).int(h.Size).blob(h.Root[:]).one(func(*stmt) {})
			if err != nil {
				return err
			}
			if !found {
				stale = append(stale, h.Log)
				continue
			}
			err = c.stmt(`INSERT INTO audit_heads (log, size, root, signed_at, note) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`).
				id(h.Log).int(h.Size).blob(h.Root[:]).at(h.SignedAt).blob(h.Note).exec()
			if err != nil {
				return err
			}
		}
		return nil
	})
	return stale, err
}

// Unpublished implements store.Journal.
func (s *Store) Unpublished(ctx context.Context, after kapsel.LogID, limit int) ([]store.Log, error) {
	return s.logs(ctx, `SELECT `+logColumns+` FROM audit_logs l
		WHERE log > ? AND size > 0 AND closed_at IS NULL AND fault = ''
			AND size > coalesce((SELECT max(h.size) FROM audit_heads h WHERE h.log = l.log), 0)
		ORDER BY log LIMIT ?`, after[:], limit)
}

// Logs implements store.Journal.
func (s *Store) Logs(ctx context.Context, after kapsel.LogID, limit int) ([]store.Log, error) {
	return s.logs(ctx, `SELECT `+logColumns+` FROM audit_logs WHERE log > ? ORDER BY log LIMIT ?`, after[:], limit)
}

// logs reads all rows of a query for logColumns.
func (s *Store) logs(ctx context.Context, sql string, args ...any) (logs []store.Log, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(sql, args...)
		for q.next() {
			logs = append(logs, scanLog(q))
		}
		return q.end()
	})
	return logs, err
}

// Fault implements store.Journal.
func (s *Store) Fault(ctx context.Context, log kapsel.LogID, epoch int64, reason string) (set bool, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		err := c.exec(`UPDATE audit_logs SET fault = ? WHERE log = ? AND epoch = ? AND closed_at IS NULL`, reason, [16]byte(log), epoch)
		set = err == nil && c.changes() == 1
		return err
	})
	return set && err == nil, err
}

// ReplaceFault implements store.Journal.
func (s *Store) ReplaceFault(ctx context.Context, log kapsel.LogID, was, reason string) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.exec(`UPDATE audit_logs SET fault = ? WHERE log = ? AND fault = ?`, reason, [16]byte(log), was)
	})
}

// CloseLog implements store.Journal.
func (s *Store) CloseLog(ctx context.Context, log kapsel.LogID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		return c.exec(`UPDATE audit_logs SET closed_at = ? WHERE log = ? AND closed_at IS NULL`, now, [16]byte(log))
	})
}

// LogOf implements store.Journal.
func (s *Store) LogOf(ctx context.Context, tenant kapsel.TenantID) (store.Log, error) {
	return one(s.logs(ctx, `SELECT `+logColumns+` FROM audit_logs WHERE tenant_id = ? AND closed_at IS NULL`, tenant))
}

// Log implements store.Journal.
func (s *Store) Log(ctx context.Context, id kapsel.LogID) (store.Log, error) {
	return one(s.logs(ctx, `SELECT `+logColumns+` FROM audit_logs WHERE log = ?`, [16]byte(id)))
}

// OwnerOf implements store.Journal.
func (s *Store) OwnerOf(ctx context.Context, log kapsel.LogID) (t kapsel.Tenant, err error) {
	err = s.read(ctx, func(c *conn) error {
		var unreadable error
		found, err := c.query(`SELECT `+tenantColumns+` FROM tenants WHERE id = (SELECT tenant_id FROM audit_logs WHERE log = ?)`, [16]byte(log)).
			one(func(s *stmt) { t, unreadable = scanTenant(s) })
		if err == nil && !found {
			err = store.NotFound("audit log")
		}
		return errors.Join(err, unreadable)
	})
	return t, err
}

// one returns the only log of a list, NotFound if the list is empty.
func one(logs []store.Log, err error) (store.Log, error) {
	switch {
	case err != nil:
		return store.Log{}, err
	case len(logs) == 0:
		return store.Log{}, store.NotFound("audit log")
	}
	return logs[0], nil
}

// Head implements store.Journal.
func (s *Store) Head(ctx context.Context, log kapsel.LogID) (store.SignedHead, error) {
	heads, err := s.heads(ctx, `SELECT log, size, root, signed_at, note FROM audit_heads WHERE log = ? ORDER BY size DESC LIMIT 1`, [16]byte(log))
	if err == nil && len(heads) == 0 {
		err = store.NotFound("head of this audit log")
	}
	if err != nil {
		return store.SignedHead{}, err
	}
	return heads[0], nil
}

// Heads implements store.Journal.
func (s *Store) Heads(ctx context.Context, log kapsel.LogID, after int64, limit int) ([]store.SignedHead, error) {
	return s.heads(ctx, `SELECT log, size, root, signed_at, note FROM audit_heads WHERE log = ? AND size > ? ORDER BY size LIMIT ?`,
		[16]byte(log), after, limit)
}

func (s *Store) heads(ctx context.Context, sql string, args ...any) (heads []store.SignedHead, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(sql, args...)
		for q.next() {
			heads = append(heads, store.SignedHead{Log: q.colID(), Size: q.colInt(), Root: q.colHash(), SignedAt: q.colTime(), Note: q.colBlob()})
		}
		return q.end()
	})
	return heads, err
}

// SetWitnessed implements store.Journal.
func (s *Store) SetWitnessed(ctx context.Context, all []store.Witnessed) error {
	return s.writer.cold(ctx, func(c *conn) error {
		for i := range all {
			w := &all[i]
			err := c.stmt(`INSERT INTO audit_witnessed (log, size, root, signed_at, note, states) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (log) DO UPDATE SET states = excluded.states,
					root = iif(excluded.size >= size, excluded.root, root),
					signed_at = iif(excluded.size >= size, excluded.signed_at, signed_at),
					note = iif(excluded.size >= size, excluded.note, note),
					size = max(size, excluded.size)`).
				id(w.Log).int(w.Size).blob(w.Root[:]).at(w.SignedAt).blob(append([]byte{}, w.Note...)).blob(w.States).exec()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Witnessed implements store.Journal.
func (s *Store) Witnessed(ctx context.Context, log kapsel.LogID) (w store.Witnessed, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT log, size, root, signed_at, note, states FROM audit_witnessed WHERE log = ?`, [16]byte(log)).
			one(func(s *stmt) {
				w.SignedHead = store.SignedHead{Log: s.colID(), Size: s.colInt(), Root: s.colHash(), SignedAt: s.colTime(), Note: s.colBlob()}
				w.States = s.colBlob()
			})
		if err == nil && !found {
			err = store.NotFound("head that witnesses have signed")
		}
		return err
	})
	return w, err
}

// Tile implements store.Journal.
func (s *Store) Tile(ctx context.Context, log kapsel.LogID, level int, n int64) (hashes []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		_, err := c.stmt(`SELECT hashes FROM audit_tiles WHERE log = ? AND level = ? AND n = ?`).id(log).int(int64(level)).int(n).
			one(func(s *stmt) { hashes = s.colBlob() })
		return err
	})
	return hashes, err
}

// Hashes implements store.Journal.
func (s *Store) Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) (hashes []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.stmt(`SELECT hash FROM audit_leaves WHERE log = ? AND n >= ? ORDER BY n LIMIT ?`).id(log).int(n).int(int64(limit))
		for q.next() {
			hashes = append(hashes, q.view()...)
		}
		return q.end()
	})
	return hashes, err
}

// Leaves implements store.Journal.
func (s *Store) Leaves(ctx context.Context, log kapsel.LogID, n int64, limit int) (leaves []store.Leaf, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.stmt(`SELECT n, attempt_id, hash, text FROM audit_leaves WHERE log = ? AND n >= ? ORDER BY n LIMIT ?`).id(log).int(n).int(int64(limit))
		for q.next() {
			leaves = append(leaves, scanLeaf(q))
		}
		return q.end()
	})
	return leaves, err
}

func scanLeaf(s *stmt) store.Leaf {
	return store.Leaf{Index: s.colInt(), AttemptID: s.colID(), Hash: s.colHash(), Record: s.colBlob()}
}

// LeafOf implements store.Journal.
func (s *Store) LeafOf(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (l store.Log, leaf store.Leaf, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT x.log, x.n, x.attempt_id, x.hash, x.text
			FROM audit_logs l JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = ? WHERE l.tenant_id = ?`, attempt, tenant).
			one(func(s *stmt) { l.ID, leaf = s.colID(), scanLeaf(s) })
		if err == nil && !found {
			err = store.NotFound("attempt")
		}
		return err
	})
	if err == nil {
		l, err = s.Log(ctx, l.ID)
	}
	return l, leaf, err
}

// LeafIndexes implements store.Journal.
func (s *Store) LeafIndexes(ctx context.Context, tenant kapsel.TenantID, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]store.Place, error) {
	places := make(map[kapsel.AttemptID]store.Place, len(attempts))
	err := s.read(ctx, func(c *conn) error {
		for _, id := range attempts {
			_, err := c.query(`SELECT x.log, x.n FROM audit_logs l JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = ? WHERE l.tenant_id = ?`, id, tenant).
				one(func(s *stmt) { places[id] = store.Place{Log: s.colID(), Index: s.colInt()} })
			if err != nil {
				return err
			}
		}
		return nil
	})
	return places, err
}

// Logged implements store.Journal.
func (s *Store) Logged(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (logged bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT a.logged IS NOT NULL FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
			WHERE a.id = ? AND (? IS NULL OR d.tenant_id = ?)`, attempt, tenant, tenant).
			one(func(s *stmt) { logged = s.colBool() })
		if err == nil && !found {
			err = store.NotFound("attempt")
		}
		return err
	})
	return logged, err
}

// Salt implements store.Journal.
func (s *Store) Salt(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID) (salt []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT salt FROM events WHERE id = ? AND (? IS NULL OR tenant_id = ?)`, event, tenant, tenant).
			one(func(s *stmt) { salt = s.colBlob() })
		if err == nil && !found {
			err = store.NotFound("event")
		}
		return err
	})
	return salt, err
}

// Recorded implements store.Journal.
func (s *Store) Recorded(ctx context.Context, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]kapsel.Attempt, error) {
	recorded := make(map[kapsel.AttemptID]kapsel.Attempt, len(attempts))
	err := s.read(ctx, func(c *conn) error {
		for _, id := range attempts {
			_, err := c.stmt(`SELECT a.id, a.delivery_id, d.event_id, d.endpoint_id, d.tenant_id, a.number, a.started_at, a.duration, a.status_code, a.error_code
				FROM attempts a JOIN deliveries d ON d.id = a.delivery_id WHERE a.id = ?`).id(id).
				one(func(s *stmt) {
					recorded[id] = kapsel.Attempt{
						ID: s.colID(), DeliveryID: s.colID(), EventID: s.colID(), EndpointID: s.colID(), TenantID: s.colID(),
						Number: int(s.colInt()), StartedAt: s.colTime(), Duration: time.Duration(s.colInt()),
						StatusCode: int(s.colInt()), ErrorCode: kapsel.Code(s.colText()),
					}
				})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return recorded, err
}

// Strays implements store.Journal.
func (s *Store) Strays(ctx context.Context, after kapsel.AttemptID, limit int) (strays []kapsel.AttemptID, older int, next kapsel.AttemptID, err error) {
	err = s.read(ctx, func(c *conn) error {
		seen := 0
		q := c.stmt(`SELECT a.id, a.logged IS NOT NULL,
				EXISTS (SELECT 1
					FROM deliveries d JOIN audit_logs l ON l.tenant_id = d.tenant_id JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = a.id
					WHERE d.id = a.delivery_id)
				OR a.id IN (SELECT id FROM audit_outbox)
			FROM attempts a WHERE a.id > ? ORDER BY a.id LIMIT ?`).blob(after[:]).int(int64(limit))
		for q.next() {
			seen++
			next = q.colID()
			switch logged, found := q.colBool(), q.colBool(); {
			case !logged:
				older++
			case !found:
				strays = append(strays, next)
			}
		}
		if seen < limit {
			next = kapsel.AttemptID{}
		}
		return q.end()
	})
	return strays, older, next, err
}

// DeleteTexts implements store.Journal.
func (s *Store) DeleteTexts(ctx context.Context, log kapsel.LogID, before time.Time, limit int) (passed int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (passed int, err error) {
		var from, size int64
		_, err = c.query(`SELECT texts_from, size FROM audit_logs WHERE log = ?`, [16]byte(log)).one(func(s *stmt) { from, size = s.colInt(), s.colInt() })
		if err != nil {
			return 0, err
		}
		q := c.query(`SELECT attempt_id FROM audit_leaves WHERE log = ? AND n >= ? AND n < ? ORDER BY n LIMIT ?`, [16]byte(log), from, size, limit)
		for q.next() {
			if id := kapsel.AttemptID(q.colID()); !id.IsZero() && !id.Time().Before(before) {
				break
			}
			passed++
		}
		if err := q.end(); err != nil || passed == 0 {
			return 0, err
		}
		end := from + int64(passed)
		err = c.exec(`UPDATE audit_leaves SET text = NULL WHERE log = ? AND n >= ? AND n < ? AND attempt_id IS NOT NULL`, [16]byte(log), from, end)
		if err != nil {
			return 0, err
		}
		return passed, c.exec(`UPDATE audit_logs SET texts_from = ? WHERE log = ?`, end, [16]byte(log))
	})
}

// DropLog implements store.Journal.
func (s *Store) DropLog(ctx context.Context, log kapsel.LogID, now time.Time, limit int) (deleted int, err error) {
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (deleted int, err error) {
		err = c.exec(`UPDATE audit_logs SET closed_at = coalesce(closed_at, ?1), dropped_at = coalesce(dropped_at, ?1) WHERE log = ?2`, now, [16]byte(log))
		for _, rows := range []string{
			`audit_heads WHERE (log, size) IN (SELECT log, size FROM audit_heads WHERE log = ? LIMIT ?)`,
			`audit_witnessed WHERE log IN (SELECT log FROM audit_witnessed WHERE log = ? LIMIT ?)`,
			`audit_tiles WHERE (log, level, n) IN (SELECT log, level, n FROM audit_tiles WHERE log = ? LIMIT ?)`,
			`audit_leaves WHERE (log, n) IN (SELECT log, n FROM audit_leaves WHERE log = ? LIMIT ?)`,
		} {
			if err == nil && deleted < limit {
				err = c.exec(`DELETE FROM `+rows, [16]byte(log), limit-deleted)
				deleted += c.changes()
			}
		}
		if err == nil && deleted < limit {
			err = c.exec(`UPDATE audit_logs SET size = 0, root = ?, edge = x'', fault = '' WHERE log = ?`, [32]byte(rules.EmptyRoot), [16]byte(log))
		}
		return deleted, err
	})
}

// DeleteOldHeads implements store.Journal.
func (s *Store) DeleteOldHeads(ctx context.Context, before time.Time, limit int) (decided int, err error) {
	type head struct {
		log  [16]byte
		size int64
		last bool
	}
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		var heads []head
		q := c.query(`SELECT log, size, NOT EXISTS (SELECT 1 FROM audit_heads n
				WHERE n.log = h.log AND n.size > h.size AND n.signed_at < (h.signed_at / ? + 1) * ?)
			FROM audit_heads h WHERE kept IS NULL AND signed_at < ? ORDER BY signed_at LIMIT ?`,
			time.Hour.Microseconds(), time.Hour.Microseconds(), before, limit)
		for q.next() {
			heads = append(heads, head{q.colID(), q.colInt(), q.colBool()})
		}
		if err := q.end(); err != nil {
			return 0, err
		}
		for _, h := range heads {
			decision := `DELETE FROM audit_heads`
			if h.last {
				decision = `UPDATE audit_heads SET kept = 1`
			}
			if err := c.exec(decision+` WHERE log = ? AND size = ?`, h.log, h.size); err != nil {
				return 0, err
			}
		}
		return len(heads), nil
	})
}
