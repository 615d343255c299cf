package sqlite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// nextRevision adds one to the settings counter, in the transaction of the change.
func nextRevision(c *conn) (revision int64, err error) {
	_, err = c.query(`UPDATE counters SET value = value + 1 WHERE name = 'settings' RETURNING value`).
		one(func(s *stmt) { revision = s.colInt() })
	return revision, err
}

// page is how many rows one read takes at most.
const page = 1000

// Settings implements store.Directory. It leaves out a row that changes while it reads: that row's
// revision is above the result's, so the next call returns it.
func (s *Store) Settings(ctx context.Context, since int64) (out store.Settings, err error) {
	err = s.read(ctx, func(c *conn) error {
		_, err := c.query(`SELECT value FROM counters WHERE name = 'settings'`).
			one(func(s *stmt) { out.Revision = s.colInt() })
		return err
	})
	if err != nil || out.Revision == since {
		return out, err
	}
	live := ""
	if since == 0 {
		live = " AND deleted_at IS NULL"
	}
	if out.Tenants, err = changed(ctx, s, "tenants", "id", tenantColumns, live, since, out.Revision, scanTenant); err != nil {
		return out, err
	}
	if out.Keys, err = changed(ctx, s, "keys", "id", keyColumns, "", since, out.Revision, scanKey); err != nil {
		return out, err
	}
	if out.Endpoints, err = changed(ctx, s, "endpoints", "id", endpointColumns, live, since, out.Revision, scanEndpoint); err != nil {
		return out, err
	}
	if out.Sources, err = changed(ctx, s, "sources", "id", sourceColumns, live, since, out.Revision, scanSource); err != nil {
		return out, err
	}
	if out.Apps, err = changed(ctx, s, "apps", "id", appColumns, live, since, out.Revision, scanApp); err != nil {
		return out, err
	}
	if out.Types, err = changed(ctx, s, "event_types", "id", typeColumns, live, since, out.Revision, scanType); err != nil {
		return out, err
	}
	out.Circuits, err = changed(ctx, s, "circuits", "endpoint_id", circuitColumns, "", since, out.Revision,
		func(s *stmt) (kapsel.Circuit, error) { return scanCircuit(s), nil })
	return out, err
}

// changed returns a table's rows with revisions above since, up to upTo. It reads them page by
// page.
func changed[T any](ctx context.Context, s *Store, table, id, columns, and string, since, upTo int64, scan func(*stmt) (T, error)) (rows []T, err error) {
	query := fmt.Sprintf(`SELECT revision, %[2]s, %[3]s FROM %[1]s
		WHERE revision >= ? AND (revision, %[2]s) > (?, ?) AND revision <= ?%[4]s ORDER BY revision, %[2]s LIMIT %[5]d`,
		table, id, columns, and, page)
	last := top[:] // so that no row of the revision since itself is read
	for {
		n := 0
		err := s.read(ctx, func(c *conn) error {
			q := c.stmt(query).int(since).int(since).blob(last).int(upTo)
			for q.next() {
				since, last = q.colInt(), q.colBlob()
				row, err := scan(q)
				if err != nil {
					q.end()
					return err
				}
				rows = append(rows, row)
				n++
			}
			return q.end()
		})
		if err != nil || n < page {
			return rows, err
		}
	}
}

// Meta implements store.Directory.
func (s *Store) Meta(ctx context.Context, name string) (value []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT value FROM meta WHERE name = ?`, name).
			one(func(s *stmt) { value = s.colBlob() })
		if err == nil && !found {
			err = store.NotFound("value")
		}
		return err
	})
	return value, err
}

// SetMeta implements store.Directory.
func (s *Store) SetMeta(ctx context.Context, name string, value []byte) (kept []byte, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		err := c.stmt(`INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`).text(name).blob(value).exec()
		if err != nil {
			return err
		}
		_, err = c.query(`SELECT value FROM meta WHERE name = ?`, name).one(func(s *stmt) { kept = s.colBlob() })
		return err
	})
	return kept, err
}

// ReplaceMeta implements store.Directory.
func (s *Store) ReplaceMeta(ctx context.Context, name string, old, value []byte) error {
	return s.writer.cold(ctx, func(c *conn) error {
		var found []byte
		ok, err := c.query(`SELECT value FROM meta WHERE name = ?`, name).one(func(s *stmt) { found = s.colBlob() })
		switch {
		case err != nil:
			return err
		case !ok:
			return rules.MetaMissing()
		case bytes.Equal(found, value): // a repeated call
			return nil
		case !bytes.Equal(found, old):
			return rules.MetaChanged()
		}
		if err := c.stmt(`UPDATE meta SET value = ? WHERE name = ?`).blob(value).text(name).exec(); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.SeeMeta(name))
	})
}

const tenantColumns = `id, name, plan, limits, audit, data_key, created_at, updated_at, deleted_at, revision`

func scanTenant(s *stmt) (t kapsel.Tenant, err error) {
	t = kapsel.Tenant{ID: s.colID(), Name: s.colText(), Plan: s.colText()}
	if err := json.Unmarshal(s.view(), &t.Limits); err != nil {
		return t, fmt.Errorf("read the tenant's limits: %w", err)
	}
	if err := json.Unmarshal(s.view(), &t.Audit); err != nil {
		return t, fmt.Errorf("read the settings of the tenant's audit log: %w", err)
	}
	t.DataKey, t.CreatedAt, t.UpdatedAt, t.DeletedAt = s.colBlob(), s.colTime(), s.colTime(), s.colTime()
	t.Revision = s.colInt()
	return t, nil
}

// liveTenant returns a tenant. It fails with NotFound if there is none or it is deleted.
func liveTenant(c *conn, id kapsel.TenantID) (t kapsel.Tenant, err error) {
	return live(c.query(`SELECT `+tenantColumns+` FROM tenants WHERE id = ? AND deleted_at IS NULL`, id), "tenant", scanTenant)
}

// live returns a query's only row. It fails with NotFound if there is none.
func live[T any](q *stmt, kind string, scan func(*stmt) (T, error)) (row T, err error) {
	var bad error
	found, err := q.one(func(s *stmt) { row, bad = scan(s) })
	switch {
	case err != nil:
	case !found:
		err = store.NotFound(kind)
	default:
		err = bad
	}
	return row, err
}

// saveTenant writes a tenant, new or not, under the next revision.
func saveTenant(c *conn, t *kapsel.Tenant) (err error) {
	limits, err := json.Marshal(t.Limits)
	if err != nil {
		return fmt.Errorf("write the tenant's limits: %w", err)
	}
	audit, err := json.Marshal(t.Audit)
	if err != nil {
		return fmt.Errorf("write the settings of the tenant's audit log: %w", err)
	}
	if t.Revision, err = nextRevision(c); err != nil {
		return err
	}
	return c.exec(`INSERT OR REPLACE INTO tenants (`+tenantColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		t.ID, t.Name, t.Plan, limits, audit, t.DataKey, t.CreatedAt, t.UpdatedAt, t.DeletedAt, t.Revision)
}

// absent fails with a Conflict if a table has a row with an id.
func absent(c *conn, table string, id any) error {
	taken, err := c.query(`SELECT 1 FROM `+table+` WHERE id = ?`, id).one(func(*stmt) {})
	if err == nil && taken {
		err = rules.IDTaken()
	}
	return err
}

// CreateTenant implements store.Directory.
func (s *Store) CreateTenant(ctx context.Context, t kapsel.Tenant) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if err := absent(c, "tenants", t.ID); err != nil {
			return err
		}
		if err := saveTenant(c, &t); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&t))
	})
}

// Tenant implements store.Directory.
func (s *Store) Tenant(ctx context.Context, id kapsel.TenantID) (t kapsel.Tenant, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		t, err = liveTenant(c, id)
		return err
	})
	return t, err
}

// UpdateTenant implements store.Directory.
func (s *Store) UpdateTenant(ctx context.Context, id kapsel.TenantID, change func(*kapsel.Tenant) error) (kapsel.Tenant, error) {
	return update(s, ctx, func(c *conn) (kapsel.Tenant, error) { return liveTenant(c, id) }, change, saveTenant)
}

// DeleteTenant implements store.Directory.
func (s *Store) DeleteTenant(ctx context.Context, id kapsel.TenantID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		t, err := liveTenant(c, id)
		if err != nil {
			return err
		}
		endpoints, err := countLive(c, "endpoints", id)
		if err != nil {
			return err
		}
		sources, err := countLive(c, "sources", id)
		if err != nil {
			return err
		}
		apps, err := countLive(c, "apps", id)
		if err != nil {
			return err
		}
		if err := rules.TenantUnused(endpoints, sources, apps); err != nil {
			return err
		}
		was := s.by.See(&t)
		t.DeletedAt, t.UpdatedAt = now, now
		if err := saveTenant(c, &t); err != nil {
			return err
		}
		if err := s.note(c, was, s.by.See(&t)); err != nil {
			return err
		}
		err = c.exec(`UPDATE event_types SET deleted_at = ?, updated_at = ?, revision = ? WHERE tenant_id = ? AND deleted_at IS NULL`,
			now, now, t.Revision, id)
		if err != nil {
			return err
		}
		if err := c.exec(`DELETE FROM portal_logos WHERE tenant_id = ?`, id); err != nil {
			return err
		}
		return c.exec(`UPDATE keys SET revoked_at = ?, revision = ? WHERE tenant_id = ? AND revoked_at IS NULL`,
			now, t.Revision, id)
	})
}

// ListTenants implements store.Directory.
func (s *Store) ListTenants(ctx context.Context, p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error) {
	return list(s, ctx, p.Limit, scanTenant, `SELECT `+tenantColumns+` FROM tenants
		WHERE deleted_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?`, before(p.Before))
}

// list returns the rows of a query, at most limit and at most page. The query's last parameter is
// the limit.
func list[T any](s *Store, ctx context.Context, limit int, scan func(*stmt) (T, error), query string, args ...any) (rows []T, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(query, append(args, min(limit, page))...)
		for q.next() {
			row, err := scan(q)
			if err != nil {
				q.end()
				return err
			}
			rows = append(rows, row)
		}
		return q.end()
	})
	return rows, err
}

// listOf returns the rows of a table that are not deleted, newest first: those of a tenant, or all for
// the zero tenant.
func listOf[T any, ID ~[16]byte](s *Store, ctx context.Context, table, columns string, scan func(*stmt) (T, error), tenant kapsel.TenantID, p store.Page[ID]) ([]T, error) {
	query, args := `SELECT `+columns+` FROM `+table+` WHERE deleted_at IS NULL AND id < ?`, []any{before(p.Before)}
	if !tenant.IsZero() {
		query, args = query+` AND tenant_id = ?`, append(args, tenant)
	}
	return list(s, ctx, p.Limit, scan, query+` ORDER BY id DESC LIMIT ?`, args...)
}

const keyColumns = `id, tenant_id, name, scope, prefix, hash, created_at, expires_at, last_used_at, revoked_at, revision`

func scanKey(s *stmt) (k kapsel.Key, _ error) {
	k = kapsel.Key{
		ID: s.colID(), TenantID: s.colID(), Name: s.colText(), Scope: kapsel.Scope(s.colText()), Prefix: s.colText(),
	}
	copy(k.Hash[:], s.view())
	k.CreatedAt, k.ExpiresAt, k.LastUsedAt, k.RevokedAt = s.colTime(), s.colTime(), s.colTime(), s.colTime()
	k.Revision = s.colInt()
	return k, nil
}

// CreateKey implements store.Directory.
func (s *Store) CreateKey(ctx context.Context, k kapsel.Key) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if !k.TenantID.IsZero() {
			if _, err := liveTenant(c, k.TenantID); err != nil {
				return err
			}
		}
		if err := absent(c, "keys", k.ID); err != nil {
			return err
		}
		revision, err := nextRevision(c)
		if err != nil {
			return err
		}
		err = c.exec(`INSERT INTO keys (`+keyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			k.ID, k.TenantID, k.Name, string(k.Scope), k.Prefix, k.Hash,
			k.CreatedAt, k.ExpiresAt, k.LastUsedAt, k.RevokedAt, revision)
		if err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&k))
	})
}

// Key implements store.Directory.
func (s *Store) Key(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID) (k kapsel.Key, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		k, err = keyOf(c, tenant, id)
		return err
	})
	return k, err
}

// keyOf returns a key of the tenant, or of any tenant if tenant is zero. It fails with NotFound if
// there is none.
func keyOf(c *conn, tenant kapsel.TenantID, id kapsel.KeyID) (kapsel.Key, error) {
	k, err := live(c.query(`SELECT `+keyColumns+` FROM keys WHERE id = ?`, id), "key", scanKey)
	if err == nil && !tenant.IsZero() && k.TenantID != tenant {
		return kapsel.Key{}, store.NotFound("key")
	}
	return k, err
}

// KeyByHash implements store.Directory.
func (s *Store) KeyByHash(ctx context.Context, hash [32]byte) (k kapsel.Key, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		k, err = live(c.query(`SELECT `+keyColumns+` FROM keys WHERE hash = ?`, hash), "key", scanKey)
		return err
	})
	return k, err
}

// RevokeKey implements store.Directory. It does not change a key that is already revoked.
func (s *Store) RevokeKey(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		k, err := keyOf(c, tenant, id)
		if err != nil || !k.RevokedAt.IsZero() {
			return err
		}
		revision, err := nextRevision(c)
		if err != nil {
			return err
		}
		was := s.by.See(&k)
		k.RevokedAt = now
		if err := c.exec(`UPDATE keys SET revoked_at = ?, revision = ? WHERE id = ?`, now, revision, id); err != nil {
			return err
		}
		return s.note(c, was, s.by.See(&k))
	})
}

// ListKeys implements store.Directory.
func (s *Store) ListKeys(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	const rows = `SELECT ` + keyColumns + ` FROM keys WHERE id < ?`
	if tenant.IsZero() {
		return list(s, ctx, p.Limit, scanKey, rows+` ORDER BY id DESC LIMIT ?`, before(p.Before))
	}
	return list(s, ctx, p.Limit, scanKey, rows+` AND tenant_id = ? ORDER BY id DESC LIMIT ?`, before(p.Before), tenant)
}

// InstanceKeys implements store.Directory.
func (s *Store) InstanceKeys(ctx context.Context, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	return list(s, ctx, p.Limit, scanKey, `SELECT `+keyColumns+` FROM keys WHERE tenant_id IS NULL AND id < ? ORDER BY id DESC LIMIT ?`, before(p.Before))
}

// TouchKeys implements store.Directory.
func (s *Store) TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		for id, at := range used {
			err := c.exec(`UPDATE keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?`, at, id)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

const endpointColumns = `id, tenant_id, part, state, disabled_reason, config, created_at, updated_at, deleted_at, revision, destination, replan, app_id, uid`

func scanEndpoint(s *stmt) (e kapsel.Endpoint, err error) {
	e = kapsel.Endpoint{
		ID: s.colID(), TenantID: s.colID(), Part: uint8(s.colInt()),
		State: kapsel.EndpointState(s.colText()), DisabledReason: s.colText(),
	}
	if err := json.Unmarshal(s.view(), &e.EndpointConfig); err != nil {
		return e, fmt.Errorf("read the endpoint's configuration: %w", err)
	}
	e.CreatedAt, e.UpdatedAt, e.DeletedAt, e.Revision = s.colTime(), s.colTime(), s.colTime(), s.colInt()
	e.Destination, e.Replan, e.AppID, e.UID = int(s.colInt()), s.colInt(), s.colID(), s.colText()
	return e, nil
}

// liveEndpoint returns an endpoint of the tenant, or of any tenant if tenant is zero. It fails
// with NotFound if there is none or it is deleted.
func liveEndpoint(c *conn, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error) {
	e, err := live(c.query(`SELECT `+endpointColumns+` FROM endpoints WHERE id = ? AND deleted_at IS NULL`, id), "endpoint", scanEndpoint)
	if err == nil && !tenant.IsZero() && e.TenantID != tenant {
		err = store.NotFound("endpoint")
	}
	return e, err
}

// saveEndpoint writes an endpoint under the next revision. from must be the endpoint as it was
// before, or nil for a new one. It fails with a Conflict if another endpoint has the uid.
func saveEndpoint(c *conn, e, from *kapsel.Endpoint) (err error) {
	if e.UID != "" && e.DeletedAt.IsZero() {
		taken, err := c.query(`SELECT 1 FROM endpoints WHERE tenant_id = ? AND ifnull(app_id, x'') = ifnull(?, x'') AND uid = ? AND deleted_at IS NULL AND id <> ?`,
			e.TenantID, e.AppID, e.UID, e.ID).one(func(*stmt) {})
		if err != nil {
			return err
		}
		if taken {
			return rules.EndpointUIDTaken()
		}
	}
	config, err := json.Marshal(e.EndpointConfig)
	if err != nil {
		return fmt.Errorf("write the endpoint's configuration: %w", err)
	}
	if e.Revision, err = nextRevision(c); err != nil {
		return err
	}
	if from != nil {
		e.Follow(from)
	}
	return c.query(`INSERT OR REPLACE INTO endpoints (`+endpointColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.ID, e.TenantID, int(e.Part), string(e.State), e.DisabledReason, config,
		e.CreatedAt, e.UpdatedAt, e.DeletedAt, e.Revision, e.Destination, e.Replan, e.AppID).textOrNull(e.UID).exec()
}

// countLive returns how many of a tenant's rows in a table are not deleted.
func countLive(c *conn, table string, tenant kapsel.TenantID) (n int, err error) {
	_, err = c.query(`SELECT count(*) FROM `+table+` WHERE tenant_id = ? AND deleted_at IS NULL`, tenant).
		one(func(s *stmt) { n = int(s.colInt()) })
	return n, err
}

// update changes a row that get reads by a function of it, and saves it, in one transaction. If
// anything fails, it changes nothing and returns a zero row.
func update[T any](s *Store, ctx context.Context, get func(*conn) (T, error), change func(*T) error, save func(*conn, *T) error) (row T, err error) {
	err = s.writer.cold(ctx, func(c *conn) (err error) {
		if row, err = get(c); err != nil {
			return err
		}
		was := s.by.See(&row)
		if err := change(&row); err != nil {
			return err
		}
		if err := save(c, &row); err != nil {
			return err
		}
		return s.note(c, was, s.by.See(&row))
	})
	if err != nil {
		return *new(T), err
	}
	return row, nil
}

// CreateEndpoint implements store.Directory.
func (s *Store) CreateEndpoint(ctx context.Context, e kapsel.Endpoint, max int) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if _, err := liveTenant(c, e.TenantID); err != nil {
			return err
		}
		if err := absent(c, "endpoints", e.ID); err != nil {
			return err
		}
		if max > 0 {
			n, err := countLive(c, "endpoints", e.TenantID)
			if err != nil {
				return err
			}
			if err := rules.EndpointRoom(n, max); err != nil {
				return err
			}
		}
		if err := rules.Subscribe(subscribing{c, e.TenantID, e.AppID}, &e, nil); err != nil {
			return err
		}
		if err := saveEndpoint(c, &e, nil); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&e))
	})
}

// subscribing is a tenant's directory as a rule needs it; see rules.Origins.
type subscribing struct {
	c      *conn
	tenant kapsel.TenantID
	app    kapsel.AppID // whose endpoints may be the subscribers; zero: those without an app
}

// published returns the Publisher of the endpoints that may be the subscribers.
func (s subscribing) published() kapsel.OriginID {
	return (&kapsel.Endpoint{TenantID: s.tenant, EndpointConfig: kapsel.EndpointConfig{AppID: s.app}}).Publisher()
}

func (s subscribing) App(id kapsel.AppID) (kapsel.App, error) { return liveApp(s.c, s.tenant, id) }

func (s subscribing) Endpoint(id kapsel.EndpointID) (kapsel.Endpoint, error) {
	return liveEndpoint(s.c, s.tenant, id)
}

func (s subscribing) Source(id kapsel.SourceID) (kapsel.Source, error) {
	return liveSource(s.c, s.tenant, id)
}

func (s subscribing) Subscribers(origin kapsel.OriginID) (n int, err error) {
	// The text finds the endpoints that subscribe, and few others.
	rows := s.c.query(`SELECT `+endpointColumns+` FROM endpoints
		WHERE tenant_id = ? AND app_id IS ? AND deleted_at IS NULL AND instr(CAST(config AS TEXT), ?) > 0`,
		s.tenant, s.app, rules.SubscriptionText(s.published(), origin))
	for rows.next() {
		e, err := scanEndpoint(rows)
		if err != nil {
			return 0, errors.Join(err, rows.end())
		}
		if e.Subscribes(origin) {
			n++
		}
	}
	return n, rows.end()
}

func (s subscribing) Mentions(origin kapsel.OriginID) (n int, err error) {
	_, err = s.c.query(`SELECT count(*) FROM endpoints
		WHERE tenant_id = ? AND app_id IS ? AND deleted_at IS NULL AND instr(CAST(config AS TEXT), ?) > 0`,
		s.tenant, s.app, rules.SubscriptionText(s.published(), origin)).
		one(func(q *stmt) { n = int(q.colInt()) })
	return n, err
}

func (s subscribing) Share(e *kapsel.Endpoint) error {
	from := *e
	return saveEndpoint(s.c, e, &from)
}

// Current implements rules.Origins. It returns nil: the file has one process.
func (subscribing) Current() error { return nil }

// Endpoint implements store.Directory.
func (s *Store) Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (e kapsel.Endpoint, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		e, err = liveEndpoint(c, tenant, id)
		return err
	})
	return e, err
}

// Endpoints implements store.Directory.
func (s *Store) Endpoints(ctx context.Context, tenant kapsel.TenantID, ids []kapsel.EndpointID) (found []kapsel.Endpoint, err error) {
	err = s.read(ctx, func(c *conn) error {
		found = nil // what one run finds is not the next one's
		for _, id := range ids {
			e, err := liveEndpoint(c, tenant, id)
			if kapsel.CodeOf(err) == kapsel.NotFound {
				continue
			}
			if err != nil {
				return err
			}
			found = append(found, e)
		}
		return nil
	})
	return found, err
}

// UpdateEndpoint implements store.Directory.
func (s *Store) UpdateEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (e kapsel.Endpoint, err error) {
	err = s.writer.cold(ctx, func(c *conn) (err error) {
		if e, err = liveEndpoint(c, tenant, id); err != nil {
			return err
		}
		from, was := e, s.by.See(&e)
		from.Retry.Schedule, from.Subscriptions = slices.Clone(e.Retry.Schedule), slices.Clone(e.Subscriptions)
		if err := change(&e); err != nil {
			return err
		}
		if err := rules.Subscribe(subscribing{c, e.TenantID, e.AppID}, &e, &from); err != nil {
			return err
		}
		if err := saveEndpoint(c, &e, &from); err != nil {
			return err
		}
		return s.note(c, was, s.by.See(&e))
	})
	if err != nil {
		return kapsel.Endpoint{}, err
	}
	return e, nil
}

// DeleteEndpoint implements store.Directory.
func (s *Store) DeleteEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		e, err := liveEndpoint(c, tenant, id)
		if err != nil {
			return err
		}
		if err := rules.EndpointUnused(subscribing{c: c, tenant: e.TenantID}, e.ID); err != nil {
			return err
		}
		return s.deleteEndpoint(c, e, now)
	})
}

// deleteEndpoint hides an endpoint.
func (s *Store) deleteEndpoint(c *conn, e kapsel.Endpoint, now time.Time) error {
	from, was := e, s.by.See(&e)
	e.DeletedAt, e.UpdatedAt = now, now
	if err := saveEndpoint(c, &e, &from); err != nil {
		return err
	}
	return s.note(c, was, s.by.See(&e))
}

// KeepIngest implements store.Directory.
func (s *Store) KeepIngest(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time, change func(*kapsel.Source) error) (src kapsel.Source, err error) {
	err = s.writer.cold(ctx, func(c *conn) error {
		e, err := liveEndpoint(c, tenant, id)
		if err != nil {
			return err
		}
		if src, err = rules.KeptIngest(&e, now); err != nil {
			return err
		}
		if err := change(&src); err != nil {
			return err
		}
		if err := absent(c, "sources", src.ID); err != nil {
			return err
		}
		if err := s.deleteEndpoint(c, e, now); err != nil {
			return err
		}
		if err := saveSource(c, &src); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&src))
	})
	if err != nil {
		return kapsel.Source{}, err
	}
	return src, nil
}

// ListEndpoints implements store.Directory.
func (s *Store) ListEndpoints(ctx context.Context, tenant kapsel.TenantID, app kapsel.AppID, p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error) {
	rows, args := `SELECT `+endpointColumns+` FROM endpoints WHERE deleted_at IS NULL AND id < ?`, []any{before(p.Before)}
	if !tenant.IsZero() {
		rows, args = rows+` AND tenant_id = ?`, append(args, tenant)
	}
	if !app.IsZero() {
		rows, args = rows+` AND app_id = ?`, append(args, app)
	}
	return list(s, ctx, p.Limit, scanEndpoint, rows+` ORDER BY id DESC LIMIT ?`, args...)
}
