package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Entries returns entries of the outbox, those first that are in no pack, in the order of their parts; see
// store.Journal. The entries of the tenants in without are passed over without a look at what is in them; those
// in packs do not count towards limit.
func (s *Store) Entries(ctx context.Context, after store.EntryKey, limit int, without map[kapsel.TenantID]bool) (entries []store.Entry, next store.EntryKey, err error) {
	others := make([][]byte, 0, len(without))
	for tenant := range without {
		others = append(others, tenant[:])
	}
	seen := 0
	read := func(r *row) store.Entry {
		key := store.EntryKey{Pack: r.id(), AttemptID: r.id()}
		next, seen = key, seen+1
		if b := r.bytes(); b != nil {
			return store.ReadEntry(key, b)
		}
		return store.Entry{EntryKey: key}
	}
	if after.Pack.IsZero() {
		entries, err = list(ctx, s, engine, read, `
			SELECT CAST(NULL AS uuid), id, CASE WHEN substr(entry, octet_length(entry) - 15) = ANY ($4::bytea[]) THEN NULL ELSE entry END
			FROM audit_outbox WHERE (part, id) > ($1, $2) ORDER BY part, id LIMIT $3`,
			part(after.AttemptID), [16]byte(after.AttemptID), limit, others)
		if err != nil {
			return nil, store.EntryKey{}, err
		}
	}
	if seen < limit {
		packed, err := list(ctx, s, engine, read, `
			SELECT p.id, u.id, u.entry FROM audit_packs p, LATERAL unnest(p.attempts, p.entries) AS u (id, entry)
			WHERE (p.part, p.id) >= ($1, $2) AND (p.id <> $2 OR u.id > $3) AND uuid_send(p.tenant_id) <> ALL ($5::bytea[])
			ORDER BY p.part, p.id, u.id LIMIT $4`,
			part(after.Pack), [16]byte(after.Pack), [16]byte(after.AttemptID), limit-seen, others)
		if err != nil {
			return nil, store.EntryKey{}, err
		}
		entries = append(entries, packed...)
	}
	if seen < limit {
		next = store.EntryKey{}
	}
	return slices.DeleteFunc(entries, func(e store.Entry) bool { return e.Record == nil }), next, nil
}

const logColumns = `l.log, l.tenant_id, l.created_at, l.closed_at, l.epoch, l.size, l.root, l.edge, l.fault, l.texts_from, l.dropped_at`

func scanLog(r *row) (l store.Log) {
	l.ID, l.TenantID, l.CreatedAt, l.ClosedAt = r.id(), r.id(), r.time(), r.time()
	l.Epoch, l.Size, l.Root, l.Edge, l.Fault = r.int8(), r.int8(), r.hash(), r.bytes(), r.text()
	l.TextsFrom, l.DroppedAt = r.int8(), r.time()
	return l
}

// hash returns a hash of a log.
func (r *row) hash() (h store.Hash) {
	copy(h[:], r.next(store.HashSize))
	return h
}

// TakeLogs makes the caller the only writer of some tenants' logs; see store.Journal.
func (s *Store) TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) (logs []store.Log, err error) {
	all, fresh := make([][16]byte, len(tenants)), make([][16]byte, len(tenants))
	for i, t := range tenants {
		all[i], fresh[i] = t, kapsel.NewLogID()
	}
	slices.SortFunc(all, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO audit_logs (log, tenant_id, created_at, epoch, size, root, edge, fault)
			SELECT u.log, u.tenant_id, $3, 0, 0, $4, '', '' FROM unnest($1::uuid[], $2::uuid[]) AS u (log, tenant_id)
				JOIN tenants t ON t.id = u.tenant_id
			ON CONFLICT DO NOTHING`, fresh, all, now, rules.EmptyRoot[:])
		if err != nil {
			return err
		}
		logs, err = collect(ctx, tx, scanLog, `
			UPDATE audit_logs l SET epoch = l.epoch + 1 FROM unnest($1::uuid[]) AS u (tenant_id)
			WHERE l.tenant_id = u.tenant_id AND l.closed_at IS NULL RETURNING `+logColumns, all)
		return err
	})
	slices.SortFunc(logs, func(a, b store.Log) int {
		return slices.Index(tenants, a.TenantID) - slices.Index(tenants, b.TenantID)
	})
	return logs, err
}

// Append makes leaves of entries; see store.Journal. The logs' rows are changed first, so that two
// writers never wait for each other's leaves.
func (s *Store) Append(ctx context.Context, grown []store.Growth) (stale []kapsel.LogID, err error) {
	grown = slices.Clone(grown)
	slices.SortFunc(grown, func(a, b store.Growth) int { return bytes.Compare(a.Log[:], b.Log[:]) })
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		stale = nil
		var logs [][16]byte
		var wasSize, epoch, size []int64
		var wasRoot, root, edge [][]byte
		for i := range grown {
			g := &grown[i]
			logs, wasSize, epoch, size = append(logs, g.Log), append(wasSize, g.Was.Size), append(epoch, g.Was.Epoch), append(size, g.Size)
			wasRoot, root, edge = append(wasRoot, g.Was.Root[:]), append(root, g.Root[:]), append(edge, append([]byte{}, g.Edge...))
		}
		found, err := collect(ctx, tx, (*row).id, `
			UPDATE audit_logs l SET size = u.size, root = u.root, edge = u.edge
			FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[])
				AS u (log, was_size, was_root, epoch, size, root, edge)
			WHERE l.log = u.log AND l.size = u.was_size AND l.root = u.was_root AND l.epoch = u.epoch AND l.closed_at IS NULL
			RETURNING l.log`, logs, wasSize, wasRoot, epoch, size, root, edge)
		if err != nil {
			return err
		}
		var a appended
		for i := range grown {
			if slices.Contains(found, [16]byte(grown[i].Log)) {
				a.add(&grown[i])
			} else {
				stale = append(stale, grown[i].Log)
			}
		}
		return a.write(ctx, tx)
	})
	return stale, err
}

// appended are the rows of an append, one array for each column.
type appended struct {
	taken []store.EntryKey

	leafLogs, attempts [][16]byte
	leafNs             []int64
	hashes, texts      [][]byte
	tileLogs           [][16]byte
	tileLevels, tileNs []int64
	tileHashes         [][]byte
}

func (a *appended) add(g *store.Growth) {
	a.taken = append(a.taken, g.Taken...)
	for i := range g.Leaves {
		l := &g.Leaves[i]
		a.leafLogs, a.leafNs, a.attempts = append(a.leafLogs, g.Log), append(a.leafNs, l.Index), append(a.attempts, l.AttemptID)
		a.hashes, a.texts = append(a.hashes, l.Hash[:]), append(a.texts, l.Record)
	}
	for _, t := range g.Tiles {
		a.tileLogs, a.tileLevels, a.tileNs = append(a.tileLogs, g.Log), append(a.tileLevels, int64(t.Level)), append(a.tileNs, t.N)
		a.tileHashes = append(a.tileHashes, t.Hashes)
	}
}

func (a *appended) write(ctx context.Context, tx pgx.Tx) error {
	var taken [][16]byte
	var parts []int16
	var erased []bool
	var packed []store.EntryKey
	for _, key := range a.taken {
		if key.Pack.IsZero() {
			taken, parts, erased = append(taken, key.AttemptID), append(parts, part(key.AttemptID)), append(erased, key.Erased)
		} else {
			packed = append(packed, key)
		}
	}
	if err := takePacked(ctx, tx, packed); err != nil {
		return err
	}
	// An entry that was erased since it was read (store.IsErased) stays, and so all do.
	tag, err := tx.Exec(ctx, `
		DELETE FROM audit_outbox o USING unnest($1::smallint[], $2::uuid[], $3::boolean[]) AS u (part, id, erased)
		WHERE o.part = u.part AND o.id = u.id AND (substr(o.entry, 1, 1) = '\x03') = u.erased`, parts, taken, erased)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != int64(len(taken)) {
		return callerError{rules.EntryTaken()}
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO audit_leaves (log, n, attempt_id, hash, text)
		SELECT u.log, u.n, nullif(u.attempt_id, '00000000-0000-0000-0000-000000000000'), u.hash, u.text
		FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bytea[], $5::bytea[]) AS u (log, n, attempt_id, hash, text)`,
		a.leafLogs, a.leafNs, a.attempts, a.hashes, a.texts)
	if sqlState(err) == "23505" {
		return callerError{rules.EntryTaken()}
	}
	if err != nil || len(a.tileLogs) == 0 {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO audit_tiles (log, level, n, hashes)
		SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bytea[])
		ON CONFLICT (log, level, n) DO UPDATE SET hashes = excluded.hashes`, a.tileLogs, a.tileLevels, a.tileNs, a.tileHashes)
	return err
}

// Publish stores signed heads; see store.Journal. It locks the logs' rows, so that no writer with
// another epoch begins meanwhile.
func (s *Store) Publish(ctx context.Context, heads []store.SignedHead) (stale []kapsel.LogID, err error) {
	heads = slices.Clone(heads)
	slices.SortFunc(heads, func(a, b store.SignedHead) int { return bytes.Compare(a.Log[:], b.Log[:]) })
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		stale = nil
		var logs [][16]byte
		var epochs, sizes []int64
		var roots, notes [][]byte
		var times []time.Time
		for i := range heads {
			h := &heads[i]
			logs, epochs, sizes = append(logs, h.Log), append(epochs, h.Epoch), append(sizes, h.Size)
			roots, notes, times = append(roots, h.Root[:]), append(notes, h.Note), append(times, h.SignedAt)
		}
		found, err := collect(ctx, tx, (*row).id, `
			SELECT l.log FROM audit_logs l JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[]) AS u (log, epoch, size, root)
				ON l.log = u.log AND l.epoch = u.epoch AND l.size = u.size AND l.root = u.root
			WHERE l.closed_at IS NULL AND l.fault = ''
			ORDER BY l.log FOR SHARE OF l`, logs, epochs, sizes, roots)
		if err != nil {
			return err
		}
		for _, log := range logs {
			if !slices.Contains(found, log) {
				stale = append(stale, log)
			}
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO audit_heads (log, size, root, signed_at, note)
			SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[], $5::bytea[]) AS u (log, size, root, signed_at, note)
			WHERE u.log = ANY ($6::uuid[]) ON CONFLICT DO NOTHING`, logs, sizes, roots, times, notes, found)
		return err
	})
	return stale, err
}

// Unpublished returns logs that have grown since their last head; see store.Journal.
func (s *Store) Unpublished(ctx context.Context, after kapsel.LogID, limit int) ([]store.Log, error) {
	return list(ctx, s, engine, scanLog, `
		SELECT `+logColumns+` FROM audit_logs l
		WHERE l.log > $1 AND l.size > 0 AND l.closed_at IS NULL AND l.fault = ''
			AND l.size > coalesce((SELECT h.size FROM audit_heads h WHERE h.log = l.log ORDER BY h.size DESC LIMIT 1), 0)
		ORDER BY l.log LIMIT $2`, [16]byte(after), limit)
}

// Fault sets why no head of a log is signed; see store.Journal.
func (s *Store) Fault(ctx context.Context, log kapsel.LogID, epoch int64, reason string) (set bool, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE audit_logs SET fault = $3 WHERE log = $1 AND epoch = $2 AND closed_at IS NULL", [16]byte(log), epoch, reason)
		set = tag.RowsAffected() == 1
		return err
	})
	return set && err == nil, err
}

// ReplaceFault sets why no head of a log is signed, if that is still as it was; see store.Journal.
func (s *Store) ReplaceFault(ctx context.Context, log kapsel.LogID, was, reason string) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE audit_logs SET fault = $3 WHERE log = $1 AND fault = $2", [16]byte(log), was, reason)
		return err
	})
}

// CloseLog ends a log; see store.Journal.
func (s *Store) CloseLog(ctx context.Context, log kapsel.LogID, now time.Time) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE audit_logs SET closed_at = $2 WHERE log = $1 AND closed_at IS NULL", [16]byte(log), now)
		return err
	})
}

// LogOf returns the open log of a tenant; see store.Journal.
func (s *Store) LogOf(ctx context.Context, tenant kapsel.TenantID) (store.Log, error) {
	return only("audit log", func() ([]store.Log, error) {
		return list(ctx, s, viewOf(tenant), scanLog, "SELECT "+logColumns+" FROM audit_logs l WHERE l.tenant_id = $1 AND l.closed_at IS NULL", [16]byte(tenant))
	})
}

// Log returns a log; see store.Journal.
func (s *Store) Log(ctx context.Context, log kapsel.LogID) (store.Log, error) {
	return only("audit log", func() ([]store.Log, error) {
		return list(ctx, s, engine, scanLog, "SELECT "+logColumns+" FROM audit_logs l WHERE l.log = $1", [16]byte(log))
	})
}

// OwnerOf returns the tenant of a log; see store.Journal.
func (s *Store) OwnerOf(ctx context.Context, log kapsel.LogID) (kapsel.Tenant, error) {
	return only("audit log", func() ([]kapsel.Tenant, error) {
		return list(ctx, s, engine, scanTenant, "SELECT "+tenantColumns+" FROM tenants WHERE id = (SELECT tenant_id FROM audit_logs WHERE log = $1)", [16]byte(log))
	})
}

// only returns the only row of a list, NotFound if the list is empty.
func only[T any](kind string, read func() ([]T, error)) (v T, err error) {
	rows, err := read()
	switch {
	case err != nil:
		return v, err
	case len(rows) == 0:
		return v, store.NotFound(kind)
	}
	return rows[0], nil
}

// Logs returns logs by their IDs; see store.Journal.
func (s *Store) Logs(ctx context.Context, after kapsel.LogID, limit int) ([]store.Log, error) {
	return list(ctx, s, engine, scanLog, "SELECT "+logColumns+" FROM audit_logs l WHERE l.log > $1 ORDER BY l.log LIMIT $2", [16]byte(after), limit)
}

const headColumns = `h.log, h.size, h.root, h.signed_at, h.note`

func scanHead(r *row) store.SignedHead {
	return store.SignedHead{Log: r.id(), Size: r.int8(), Root: r.hash(), SignedAt: r.time(), Note: r.bytes()}
}

// Head returns the newest head of a log; see store.Journal.
func (s *Store) Head(ctx context.Context, log kapsel.LogID) (store.SignedHead, error) {
	return only("head of this audit log", func() ([]store.SignedHead, error) {
		return list(ctx, s, engine, scanHead, "SELECT "+headColumns+" FROM audit_heads h WHERE h.log = $1 ORDER BY h.size DESC LIMIT 1", [16]byte(log))
	})
}

// Heads returns heads of a log by size; see store.Journal.
func (s *Store) Heads(ctx context.Context, log kapsel.LogID, after int64, limit int) ([]store.SignedHead, error) {
	return list(ctx, s, engine, scanHead, "SELECT "+headColumns+" FROM audit_heads h WHERE h.log = $1 AND h.size > $2 ORDER BY h.size LIMIT $3", [16]byte(log), after, limit)
}

// SetWitnessed remembers what witnesses have signed; see store.Journal.
func (s *Store) SetWitnessed(ctx context.Context, all []store.Witnessed) error {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b store.Witnessed) int { return bytes.Compare(a.Log[:], b.Log[:]) })
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		var logs [][16]byte
		var sizes []int64
		var roots, notes, states [][]byte
		var times []time.Time
		for i := range all {
			w := &all[i]
			logs, sizes, times = append(logs, w.Log), append(sizes, w.Size), append(times, w.SignedAt)
			roots, notes, states = append(roots, w.Root[:]), append(notes, append([]byte{}, w.Note...)), append(states, append([]byte{}, w.States...))
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO audit_witnessed AS w (log, size, root, signed_at, note, states)
			SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[], $5::bytea[], $6::bytea[])
			ON CONFLICT (log) DO UPDATE SET states = excluded.states,
				root = CASE WHEN excluded.size >= w.size THEN excluded.root ELSE w.root END,
				signed_at = CASE WHEN excluded.size >= w.size THEN excluded.signed_at ELSE w.signed_at END,
				note = CASE WHEN excluded.size >= w.size THEN excluded.note ELSE w.note END,
				size = greatest(w.size, excluded.size)`, logs, sizes, roots, times, notes, states)
		return err
	})
}

// Witnessed returns what witnesses have signed of a log; see store.Journal.
func (s *Store) Witnessed(ctx context.Context, log kapsel.LogID) (store.Witnessed, error) {
	return only("head that witnesses have signed", func() ([]store.Witnessed, error) {
		return list(ctx, s, engine, func(r *row) store.Witnessed {
			return store.Witnessed{SignedHead: scanHead(r), States: r.bytes()}
		}, "SELECT "+headColumns+", h.states FROM audit_witnessed h WHERE h.log = $1", [16]byte(log))
	})
}

// Tile returns the hashes of a tile; see store.Journal.
func (s *Store) Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error) {
	tiles, err := list(ctx, s, engine, (*row).bytes, "SELECT hashes FROM audit_tiles WHERE log = $1 AND level = $2 AND n = $3", [16]byte(log), level, n)
	if err != nil || len(tiles) == 0 {
		return nil, err
	}
	return tiles[0], nil
}

// Hashes returns hashes of leaves; see store.Journal.
func (s *Store) Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error) {
	all, err := list(ctx, s, engine, (*row).hash, "SELECT hash FROM audit_leaves WHERE log = $1 AND n >= $2 ORDER BY n LIMIT $3", [16]byte(log), n, limit)
	hashes := make([]byte, 0, len(all)*store.HashSize)
	for i := range all {
		hashes = append(hashes, all[i][:]...)
	}
	return hashes, err
}

const leafColumns = `n, attempt_id, hash, text`

func scanLeaf(r *row) store.Leaf {
	return store.Leaf{Index: r.int8(), AttemptID: r.id(), Hash: r.hash(), Record: r.bytes()}
}

// Leaves returns leaves by their indexes; see store.Journal.
func (s *Store) Leaves(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]store.Leaf, error) {
	return list(ctx, s, engine, scanLeaf, "SELECT "+leafColumns+" FROM audit_leaves WHERE log = $1 AND n >= $2 ORDER BY n LIMIT $3", [16]byte(log), n, limit)
}

// LeafOf returns the leaf of an attempt; see store.Journal.
func (s *Store) LeafOf(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (store.Log, store.Leaf, error) {
	logs, err := s.logsOf(ctx, tenant)
	if err != nil || len(logs) == 0 {
		return store.Log{}, store.Leaf{}, cmp.Or(err, store.NotFound("attempt"))
	}
	type found struct {
		log  [16]byte
		leaf store.Leaf
	}
	f, err := only("attempt", func() ([]found, error) {
		return list(ctx, s, engine, func(r *row) found { return found{r.id(), scanLeaf(r)} }, `
			SELECT x.log, x.n, x.attempt_id, x.hash, x.text FROM audit_leaves x WHERE x.log = ANY($1) AND x.attempt_id = $2`, idsOf(logs), [16]byte(attempt))
	})
	if err != nil {
		return store.Log{}, store.Leaf{}, err
	}
	return logs[slices.IndexFunc(logs, func(l store.Log) bool { return l.ID == f.log })], f.leaf, nil
}

// logsOf returns the logs of a tenant, closed ones included. Leaves are seen by the engine alone, so whose
// they are is decided here.
func (s *Store) logsOf(ctx context.Context, tenant kapsel.TenantID) ([]store.Log, error) {
	return list(ctx, s, viewOf(tenant), scanLog, "SELECT "+logColumns+" FROM audit_logs l WHERE l.tenant_id = $1", [16]byte(tenant))
}

func idsOf(logs []store.Log) [][16]byte {
	ids := make([][16]byte, len(logs))
	for i, l := range logs {
		ids[i] = l.ID
	}
	return ids
}

// LeafIndexes returns where attempts' leaves are; see store.Journal.
func (s *Store) LeafIndexes(ctx context.Context, tenant kapsel.TenantID, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]store.Place, error) {
	type found struct {
		attempt kapsel.AttemptID
		place   store.Place
	}
	ids := make([][16]byte, len(attempts))
	for i, id := range attempts {
		ids[i] = id
	}
	logs, err := s.logsOf(ctx, tenant)
	if err != nil || len(logs) == 0 {
		return map[kapsel.AttemptID]store.Place{}, err
	}
	all, err := list(ctx, s, engine, func(r *row) found { return found{r.id(), store.Place{Log: r.id(), Index: r.int8()}} }, `
		SELECT x.attempt_id, x.log, x.n FROM unnest($1::uuid[]) AS l (log) CROSS JOIN unnest($2::uuid[]) AS u (id)
			JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = u.id`, idsOf(logs), ids)
	places := make(map[kapsel.AttemptID]store.Place, len(all))
	for _, f := range all {
		places[f.attempt] = f.place
	}
	return places, err
}

// Logged reports whether an attempt has a leaf or will have one; see store.Journal.
func (s *Store) Logged(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (bool, error) {
	return only("attempt", func() ([]bool, error) {
		return list(ctx, s, viewOf(tenant), (*row).bool, `
			SELECT logged IS NOT NULL FROM attempts WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3)`, part(attempt), id(attempt), id(tenant))
	})
}

// Salt returns the salt of an event; see store.Journal.
func (s *Store) Salt(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID) ([]byte, error) {
	return only("event", func() ([][]byte, error) {
		return list(ctx, s, viewOf(tenant), (*row).bytes, `
			SELECT salt FROM events WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3)`, part(event), id(event), id(tenant))
	})
}

// Recorded returns attempts that are stored; see store.Journal.
func (s *Store) Recorded(ctx context.Context, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]kapsel.Attempt, error) {
	ids := make([][16]byte, len(attempts))
	for i, id := range attempts {
		ids[i] = id
	}
	all, err := list(ctx, s, engine, func(r *row) kapsel.Attempt {
		return kapsel.Attempt{
			ID: r.id(), DeliveryID: r.id(), EventID: r.id(), EndpointID: r.id(), TenantID: r.id(),
			Number: r.int4(), StartedAt: r.time(), Duration: r.duration(), StatusCode: r.int4(), ErrorCode: kapsel.Code(r.text()),
		}
	}, `
		SELECT a.id, a.delivery_id, a.event_id, a.endpoint_id, a.tenant_id, a.number, a.started_at, a.duration, a.status_code, a.error_code
		FROM unnest($1::smallint[], $2::uuid[]) AS u (part, id) JOIN attempts a ON a.part = u.part AND a.id = u.id`, partsOf(ids), ids)
	recorded := make(map[kapsel.AttemptID]kapsel.Attempt, len(all))
	for _, a := range all {
		recorded[a.ID] = a
	}
	return recorded, err
}

// Strays looks for attempts that lack a leaf; see store.Journal. It walks
// through one part after the other.
func (s *Store) Strays(ctx context.Context, after kapsel.AttemptID, limit int) (strays []kapsel.AttemptID, older int, next kapsel.AttemptID, err error) {
	type looked struct {
		id            kapsel.AttemptID
		logged, found bool
	}
	all, err := list(ctx, s, engine, func(r *row) looked { return looked{r.id(), r.bool(), r.bool()} }, `
		SELECT a.id, a.logged IS NOT NULL,
			EXISTS (SELECT 1 FROM audit_outbox o WHERE o.part = a.part AND o.id = a.id) OR EXISTS (SELECT 1
				FROM audit_logs l JOIN audit_leaves x ON x.log = l.log AND x.attempt_id = a.id WHERE l.tenant_id = a.tenant_id)
				OR a.id IN (SELECT unnest(attempts) FROM audit_packs)
		FROM attempts a WHERE (a.part, a.id) > ($1, $2) ORDER BY a.part, a.id LIMIT $3`, part(after), [16]byte(after), limit)
	for _, a := range all {
		next = a.id
		switch {
		case !a.logged:
			older++
		case !a.found:
			strays = append(strays, a.id)
		}
	}
	if len(all) < limit {
		next = kapsel.AttemptID{}
	}
	return strays, older, next, err
}

// DeleteTexts deletes the texts of old leaves; see store.Journal. It locks the log's row first, as Append
// does.
func (s *Store) DeleteTexts(ctx context.Context, log kapsel.LogID, before time.Time, limit int) (passed int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		passed = 0
		var from, size int64
		err := tx.QueryRow(ctx, "SELECT texts_from, size FROM audit_logs WHERE log = $1 FOR NO KEY UPDATE", [16]byte(log)).Scan(&from, &size)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		attempts, err := collect(ctx, tx, func(r *row) kapsel.AttemptID { return r.id() }, `
			SELECT attempt_id FROM audit_leaves WHERE log = $1 AND n >= $2 AND n < $3 ORDER BY n LIMIT $4`, [16]byte(log), from, size, limit)
		if err != nil {
			return err
		}
		for passed < len(attempts) && (attempts[passed].IsZero() || attempts[passed].Time().Before(before)) {
			passed++
		}
		if passed == 0 {
			return nil
		}
		end := from + int64(passed)
		_, err = tx.Exec(ctx, "UPDATE audit_leaves SET text = NULL WHERE log = $1 AND n >= $2 AND n < $3 AND attempt_id IS NOT NULL AND text IS NOT NULL",
			[16]byte(log), from, end)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE audit_logs SET texts_from = $2 WHERE log = $1", [16]byte(log), end)
		return err
	})
	if err != nil {
		return 0, err
	}
	return passed, nil
}

// DropLog deletes what a log holds; see store.Journal. A writer that begins an append waits for the
// log's row, and finds the log closed.
func (s *Store) DropLog(ctx context.Context, log kapsel.LogID, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		deleted = 0
		_, err := tx.Exec(ctx, `
			UPDATE audit_logs SET closed_at = coalesce(closed_at, $2), dropped_at = coalesce(dropped_at, $2) WHERE log = $1`, [16]byte(log), now)
		if err != nil {
			return err
		}
		for _, sql := range []string{
			`DELETE FROM audit_heads WHERE log = $1 AND size = ANY (ARRAY(SELECT size FROM audit_heads WHERE log = $1 ORDER BY size LIMIT $2))`,
			`DELETE FROM audit_witnessed WHERE log = $1 AND $2 > 0`,
			`DELETE FROM audit_tiles t USING (SELECT level, n FROM audit_tiles WHERE log = $1 LIMIT $2) o
				WHERE t.log = $1 AND t.level = o.level AND t.n = o.n`,
			`DELETE FROM audit_leaves WHERE log = $1 AND n = ANY (ARRAY(SELECT n FROM audit_leaves WHERE log = $1 ORDER BY n LIMIT $2))`,
		} {
			if deleted >= limit {
				return nil
			}
			tag, err := tx.Exec(ctx, sql, [16]byte(log), limit-deleted)
			if err != nil {
				return err
			}
			deleted += int(tag.RowsAffected())
		}
		if deleted < limit {
			_, err = tx.Exec(ctx, "UPDATE audit_logs SET size = 0, root = $2, edge = '', fault = '' WHERE log = $1", [16]byte(log), rules.EmptyRoot[:])
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return deleted, nil
}

// DeleteOldHeads decides which heads stay; see store.Journal.
func (s *Store) DeleteOldHeads(ctx context.Context, before time.Time, limit int) (decided int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			WITH old AS (
				SELECT h.log, h.size, NOT EXISTS (SELECT 1 FROM audit_heads n
					WHERE n.log = h.log AND n.size > h.size AND n.signed_at < date_trunc('hour', h.signed_at) + interval '1 hour') AS last
				FROM audit_heads h WHERE h.kept IS NULL AND h.signed_at < $1 ORDER BY h.signed_at LIMIT $2
			), stay AS (
				UPDATE audit_heads h SET kept = true FROM old WHERE h.log = old.log AND h.size = old.size AND old.last
			), gone AS (
				DELETE FROM audit_heads h USING old WHERE h.log = old.log AND h.size = old.size AND NOT old.last
			)
			SELECT count(*) FROM old`, before, limit).Scan(&decided)
	})
	return decided, err
}
