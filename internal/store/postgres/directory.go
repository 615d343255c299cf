package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// nextRevision adds one to the settings counter and returns the sum. The counter's row stays
// locked until the transaction ends, so a reader who sees a revision sees all revisions before it.
// Callers must have locked the rows of the directory that they change: a transaction that holds
// the counter must never wait.
func nextRevision(ctx context.Context, tx pgx.Tx) (revision int64, err error) {
	err = tx.QueryRow(ctx, "UPDATE settings_counter SET value = value + 1 RETURNING value").Scan(&revision)
	return revision, err
}

// Settings returns what has changed; see store.Directory. It reads the counter before the rows: a
// row that changes in between is returned now, and again by the next call.
func (s *Store) Settings(ctx context.Context, since int64) (out store.Settings, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		out = store.Settings{}
		err := q.QueryRow(ctx, "SELECT value FROM settings_counter").Scan(&out.Revision)
		if err != nil || out.Revision == since {
			return err
		}
		live := " AND ($1 > 0 OR deleted_at IS NULL)"
		if out.Tenants, err = collect(ctx, q, scanTenant,
			"SELECT "+tenantColumns+" FROM tenants WHERE revision > $1"+live, since); err != nil {
			return err
		}
		if out.Keys, err = collect(ctx, q, scanKey,
			"SELECT "+keyColumns+" FROM keys WHERE revision > $1 AND ($1 > 0 OR revoked_at IS NULL)", since); err != nil {
			return err
		}
		if out.Endpoints, err = collect(ctx, q, scanEndpoint,
			"SELECT "+endpointColumns+" FROM endpoints WHERE revision > $1"+live, since); err != nil {
			return err
		}
		if out.Sources, err = collect(ctx, q, scanSource,
			"SELECT "+sourceColumns+" FROM sources WHERE revision > $1"+live, since); err != nil {
			return err
		}
		if out.Apps, err = collect(ctx, q, scanApp,
			"SELECT "+appColumns+" FROM apps WHERE revision > $1"+live, since); err != nil {
			return err
		}
		if out.Types, err = collect(ctx, q, scanType,
			"SELECT "+typeColumns+" FROM event_types WHERE revision > $1"+live+" ORDER BY revision", since); err != nil {
			return err
		}
		out.Circuits, err = collect(ctx, q, scanCircuit,
			"SELECT "+circuitColumns+" FROM circuits c WHERE c.revision > $1", since)
		return err
	})
	return out, err
}

// Meta reads a value of the instance; see store.Directory.
func (s *Store) Meta(ctx context.Context, name string) (value []byte, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		err := q.QueryRow(ctx, "SELECT value FROM meta WHERE name = $1", name).Scan(&value)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.NotFound("value")
		}
		return err
	})
	return value, err
}

// SetMeta sets a value that nobody has set; see store.Directory.
func (s *Store) SetMeta(ctx context.Context, name string, value []byte) (kept []byte, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, append([]byte{}, value...))
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT value FROM meta WHERE name = $1", name).Scan(&kept)
	})
	return kept, err
}

// ReplaceMeta sets a value in place of another; see store.Directory.
func (s *Store) ReplaceMeta(ctx context.Context, name string, old, value []byte) error {
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		var found []byte
		err := tx.QueryRow(ctx, "SELECT value FROM meta WHERE name = $1 FOR UPDATE", name).Scan(&found)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return rules.MetaMissing()
		case err != nil:
			return err
		case bytes.Equal(found, value): // a repeated call
			return nil
		case !bytes.Equal(found, old):
			return rules.MetaChanged()
		}
		_, err = tx.Exec(ctx, "UPDATE meta SET value = $2 WHERE name = $1", name, append([]byte{}, value...))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.SeeMeta(name))
	})
}

const tenantColumns = "id, name, plan, limits, audit, data_key, created_at, updated_at, deleted_at, revision"

func scanTenant(r *row) kapsel.Tenant {
	t := kapsel.Tenant{ID: r.id(), Name: r.text(), Plan: r.text()}
	scanJSON(r, &t.Limits)
	scanJSON(r, &t.Audit)
	t.DataKey = r.bytes()
	t.CreatedAt, t.UpdatedAt, t.DeletedAt, t.Revision = r.time(), r.time(), r.time(), r.int8()
	return t
}

// tenantTexts returns the columns of a tenant that hold JSON.
func tenantTexts(t *kapsel.Tenant) (limits, audit string, err error) {
	l, err := json.Marshal(t.Limits)
	if err != nil {
		return "", "", err
	}
	a, err := json.Marshal(t.Audit)
	return string(l), string(a), err
}

// created returns the error of an INSERT that does nothing if the id exists, and fails if it did
// nothing.
func created(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		return rules.IDTaken()
	}
	return err
}

// CreateTenant stores a tenant; see store.Directory.
func (s *Store) CreateTenant(ctx context.Context, t kapsel.Tenant) error {
	limits, audit, err := tenantTexts(&t)
	if err != nil {
		return err
	}
	return s.change(ctx, viewOf(t.ID), func(ctx context.Context, tx pgx.Tx) error {
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		err = created(tx.Exec(ctx, `
			INSERT INTO tenants (id, name, plan, limits, data_key, created_at, updated_at, revision, audit)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING`,
			id(t.ID), t.Name, t.Plan, limits, t.DataKey, t.CreatedAt, t.UpdatedAt, revision, audit))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&t))
	})
}

// tenant returns a tenant. It fails with NotFound if there is none or it is deleted. lock must be
// "" or a locking clause.
func tenant(ctx context.Context, q querier, tenantID kapsel.TenantID, lock string) (kapsel.Tenant, error) {
	t, ok, err := first(ctx, q, scanTenant,
		"SELECT "+tenantColumns+" FROM tenants WHERE id = $1 AND deleted_at IS NULL"+lock, id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("tenant")
	}
	return t, err
}

// Tenant reads a tenant; see store.Directory.
func (s *Store) Tenant(ctx context.Context, tenantID kapsel.TenantID) (t kapsel.Tenant, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		t, err = tenant(ctx, q, tenantID, "")
		return err
	})
	return t, err
}

// UpdateTenant changes a tenant; see store.Directory.
func (s *Store) UpdateTenant(ctx context.Context, tenantID kapsel.TenantID, change func(*kapsel.Tenant) error) (t kapsel.Tenant, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if t, err = tenant(ctx, tx, tenantID, " FOR UPDATE"); err != nil {
			return err
		}
		was := s.by.See(&t)
		if err := change(&t); err != nil {
			return callerError{err}
		}
		limits, audit, err := tenantTexts(&t)
		if err != nil {
			return err
		}
		if t.Revision, err = nextRevision(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tenants SET name = $2, plan = $3, limits = $4, data_key = $5, updated_at = $6, revision = $7, audit = $8 WHERE id = $1",
			id(tenantID), t.Name, t.Plan, limits, t.DataKey, t.UpdatedAt, t.Revision, audit)
		if err != nil {
			return err
		}
		return s.note(ctx, tx, was, s.by.See(&t))
	})
	if err != nil {
		return kapsel.Tenant{}, err
	}
	return t, nil
}

// DeleteTenant hides a tenant without endpoints, sources and apps; see store.Directory.
func (s *Store) DeleteTenant(ctx context.Context, tenantID kapsel.TenantID, now time.Time) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		t, err := tenant(ctx, tx, tenantID, " FOR UPDATE")
		if err != nil {
			return err
		}
		var endpoints, sources, apps int
		err = tx.QueryRow(ctx, `
			SELECT (SELECT count(*) FROM endpoints WHERE tenant_id = $1 AND deleted_at IS NULL),
				(SELECT count(*) FROM sources WHERE tenant_id = $1 AND deleted_at IS NULL),
				(SELECT count(*) FROM apps WHERE tenant_id = $1 AND deleted_at IS NULL)`, id(tenantID)).Scan(&endpoints, &sources, &apps)
		if err != nil {
			return err
		}
		if err := rules.TenantUnused(endpoints, sources, apps); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT 1 FROM keys WHERE tenant_id = $1 ORDER BY id FOR UPDATE", id(tenantID)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT 1 FROM event_types WHERE tenant_id = $1 ORDER BY id FOR UPDATE", id(tenantID)); err != nil {
			return err
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE event_types SET deleted_at = $2, updated_at = $2, revision = $3 WHERE tenant_id = $1 AND deleted_at IS NULL",
			id(tenantID), now, revision); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE keys SET revoked_at = $2, revision = $3 WHERE tenant_id = $1 AND revoked_at IS NULL",
			id(tenantID), now, revision); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM portal_logos WHERE tenant_id = $1", id(tenantID)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tenants SET deleted_at = $2, updated_at = $2, revision = $3 WHERE id = $1", id(tenantID), now, revision)
		if err != nil {
			return err
		}
		return s.note(ctx, tx, s.by.See(&t), store.Seen{})
	})
}

// ListTenants lists tenants; see store.Directory.
func (s *Store) ListTenants(ctx context.Context, p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error) {
	return list(ctx, s, viewOf(kapsel.TenantID{}), scanTenant, `
		SELECT `+tenantColumns+` FROM tenants
		WHERE deleted_at IS NULL AND id < $1 ORDER BY id DESC LIMIT $2`, before(p.Before), p.Limit)
}

const keyColumns = "id, tenant_id, name, scope, prefix, hash, created_at, expires_at, last_used_at, revoked_at, revision"

func scanKey(r *row) kapsel.Key {
	k := kapsel.Key{ID: r.id(), TenantID: r.id(), Name: r.text(), Scope: kapsel.Scope(r.text()), Prefix: r.text()}
	copy(k.Hash[:], r.next(len(k.Hash)))
	k.CreatedAt, k.ExpiresAt, k.LastUsedAt, k.RevokedAt, k.Revision = r.time(), r.time(), r.time(), r.time(), r.int8()
	return k
}

// CreateKey stores a key; see store.Directory.
func (s *Store) CreateKey(ctx context.Context, k kapsel.Key) error {
	return s.change(ctx, viewOf(k.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if !k.TenantID.IsZero() {
			if _, err := tenant(ctx, tx, k.TenantID, " FOR SHARE"); err != nil {
				return err
			}
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		err = created(tx.Exec(ctx, `
			INSERT INTO keys (id, tenant_id, name, scope, prefix, hash, created_at, expires_at, last_used_at, revoked_at, revision)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING`,
			id(k.ID), id(k.TenantID), k.Name, string(k.Scope), k.Prefix, k.Hash[:], k.CreatedAt, at(k.ExpiresAt),
			at(k.LastUsedAt), at(k.RevokedAt), revision))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&k))
	})
}

// Key reads a key of a tenant; see store.Directory.
func (s *Store) Key(ctx context.Context, tenantID kapsel.TenantID, keyID kapsel.KeyID) (k kapsel.Key, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		k, err = key(ctx, q, tenantID, keyID, "")
		return err
	})
	return k, err
}

func key(ctx context.Context, q querier, tenantID kapsel.TenantID, keyID kapsel.KeyID, lock string) (kapsel.Key, error) {
	k, ok, err := first(ctx, q, scanKey,
		"SELECT "+keyColumns+" FROM keys WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2)"+lock, id(keyID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("key")
	}
	return k, err
}

// KeyByHash finds a key by its secret's hash; see store.Directory.
func (s *Store) KeyByHash(ctx context.Context, hash [32]byte) (k kapsel.Key, err error) {
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		var ok bool
		k, ok, err = first(ctx, q, scanKey, "SELECT "+keyColumns+" FROM keys WHERE hash = $1", hash[:])
		if err == nil && !ok {
			err = store.NotFound("key")
		}
		return err
	})
	return k, err
}

// RevokeKey ends a key's validity; see store.Directory. It does not change a key that is already
// revoked.
func (s *Store) RevokeKey(ctx context.Context, tenantID kapsel.TenantID, keyID kapsel.KeyID, now time.Time) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		k, err := key(ctx, tx, tenantID, keyID, " FOR UPDATE")
		if err != nil || !k.RevokedAt.IsZero() {
			return err
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE keys SET revoked_at = $2, revision = $3 WHERE id = $1", id(keyID), now, revision); err != nil {
			return err
		}
		was := s.by.See(&k)
		k.RevokedAt = now
		return s.note(ctx, tx, was, s.by.See(&k))
	})
}

// ListKeys lists a tenant's keys; see store.Directory.
func (s *Store) ListKeys(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	return list(ctx, s, viewOf(tenantID), scanKey, `
		SELECT `+keyColumns+` FROM keys
		WHERE ($1::uuid IS NULL OR tenant_id = $1) AND id < $2 ORDER BY id DESC LIMIT $3`,
		id(tenantID), before(p.Before), p.Limit)
}

// InstanceKeys lists the keys of no tenant; see store.Directory.
func (s *Store) InstanceKeys(ctx context.Context, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	return list(ctx, s, engine, scanKey, "SELECT "+keyColumns+" FROM keys WHERE tenant_id IS NULL AND id < $1 ORDER BY id DESC LIMIT $2", before(p.Before), p.Limit)
}

// TouchKeys records when keys were last used; see store.Directory. Times only go forward.
func (s *Store) TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	ids := make([][16]byte, 0, len(used))
	for keyID := range used {
		ids = append(ids, keyID)
	}
	slices.SortFunc(ids, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	times := make([]time.Time, len(ids))
	for i := range ids {
		times[i] = used[ids[i]]
	}
	return s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue("SET LOCAL synchronous_commit = off")
		batch.Queue("SELECT 1 FROM keys WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", ids)
		batch.Queue(`
			UPDATE keys SET last_used_at = greatest(last_used_at, u.at)
			FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, at) WHERE keys.id = u.id`, ids, times)
		return tx.SendBatch(ctx, batch).Close()
	})
}

const endpointColumns = "id, tenant_id, part, state, disabled_reason, config, created_at, updated_at, deleted_at, revision, destination, replan, app_id, uid"

func scanEndpoint(r *row) kapsel.Endpoint {
	e := kapsel.Endpoint{
		ID: r.id(), TenantID: r.id(), Part: uint8(r.int2()), State: kapsel.EndpointState(r.text()), DisabledReason: r.text(),
	}
	scanJSON(r, &e.EndpointConfig)
	e.CreatedAt, e.UpdatedAt, e.DeletedAt, e.Revision = r.time(), r.time(), r.time(), r.int8()
	e.Destination, e.Replan, e.AppID, e.UID = r.int4(), r.int8(), r.id(), r.text()
	return e
}

// CreateEndpoint stores an endpoint; see store.Directory. It locks the tenant's row, so that two
// calls at once do not pass the limit together.
func (s *Store) CreateEndpoint(ctx context.Context, e kapsel.Endpoint, limit int) error {
	return s.change(ctx, viewOf(e.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tenant(ctx, tx, e.TenantID, " FOR UPDATE"); err != nil {
			return err
		}
		if limit > 0 {
			var others int
			var taken bool
			err := tx.QueryRow(ctx, `
				SELECT count(*), EXISTS (SELECT 1 FROM endpoints WHERE id = $2)
				FROM endpoints WHERE tenant_id = $1 AND deleted_at IS NULL`,
				id(e.TenantID), id(e.ID)).Scan(&others, &taken)
			if err != nil {
				return err
			}
			if taken {
				return rules.IDTaken()
			}
			if err := rules.EndpointRoom(others, limit); err != nil {
				return err
			}
		}
		if err := rules.Subscribe(subscribing{ctx, tx, e.TenantID, e.AppID, e.UpdatedAt}, &e, nil); err != nil {
			return err
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		config, err := json.Marshal(e.EndpointConfig)
		if err != nil {
			return err
		}
		err = uidTaken(created(tx.Exec(ctx, `
			INSERT INTO endpoints (id, tenant_id, part, state, disabled_reason, config, created_at, updated_at, revision, destination, app_id, uid)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, '')) ON CONFLICT (id) DO NOTHING`,
			id(e.ID), id(e.TenantID), int16(kapsel.PartOf(e.ID)), string(e.State), e.DisabledReason, string(config), e.CreatedAt, e.UpdatedAt, revision, e.Destination, id(e.AppID), e.UID)))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&e))
	})
}

// subscribing is a tenant's directory as a rule needs it; see rules.Origins. Rows that it reads
// stay locked: they are not deleted while another endpoint begins to subscribe to them.
type subscribing struct {
	ctx    context.Context
	tx     pgx.Tx
	tenant kapsel.TenantID
	app    kapsel.AppID // whose endpoints may be the subscribers; zero: those without an app
	now    time.Time
}

// published returns the Publisher of the endpoints that may be the subscribers.
func (s subscribing) published() kapsel.OriginID {
	return (&kapsel.Endpoint{TenantID: s.tenant, EndpointConfig: kapsel.EndpointConfig{AppID: s.app}}).Publisher()
}

func (s subscribing) App(id kapsel.AppID) (kapsel.App, error) {
	return app(s.ctx, s.tx, s.tenant, id, " FOR SHARE")
}

func (s subscribing) Endpoint(id kapsel.EndpointID) (kapsel.Endpoint, error) {
	return endpoint(s.ctx, s.tx, s.tenant, id, " FOR UPDATE")
}

func (s subscribing) Source(id kapsel.SourceID) (kapsel.Source, error) {
	return source(s.ctx, s.tx, s.tenant, id, " FOR UPDATE")
}

func (s subscribing) Subscribers(origin kapsel.OriginID) (n int, err error) {
	// The text finds the endpoints that subscribe, and few others.
	found, err := collect(s.ctx, s.tx, scanEndpoint, `
		SELECT `+endpointColumns+` FROM endpoints
		WHERE tenant_id = $1 AND app_id IS NOT DISTINCT FROM $3 AND deleted_at IS NULL AND strpos(config, $2) > 0`,
		id(s.tenant), rules.SubscriptionText(s.published(), origin), id(s.app))
	for i := range found {
		if found[i].Subscribes(origin) {
			n++
		}
	}
	return n, err
}

func (s subscribing) Mentions(origin kapsel.OriginID) (n int, err error) {
	err = s.tx.QueryRow(s.ctx, `
		SELECT count(*) FROM endpoints
		WHERE tenant_id = $1 AND app_id IS NOT DISTINCT FROM $3 AND deleted_at IS NULL AND strpos(config, $2) > 0`,
		id(s.tenant), rules.SubscriptionText(s.published(), origin), id(s.app)).Scan(&n)
	return n, err
}

func (s subscribing) Share(e *kapsel.Endpoint) error {
	from := *e
	return saveEndpoint(s.ctx, s.tx, e, &from)
}

func (s subscribing) Current() error { return current(s.ctx, s.tx, s.now, sourcesSchema) }

// The schemas of the first binaries that know what all nodes must know before one of them uses it.
const (
	sourcesSchema = 8  // sources, subscriptions to them and published events
	keptSchema    = 12 // sources that go on with an endpoint's ingest, and replays of what is missing or waits
	appsSchema    = 14 // apps
	typesSchema   = 17 // event types
	erasedSchema  = 29 // events whose contents were erased, and keys of the instance
	packsSchema   = 35 // packs in the audit log's outbox
)

// current fails with a Conflict while a node is alive that knows only schemas older than one.
func current(ctx context.Context, q querier, now time.Time, schema int) error {
	var older int
	err := q.QueryRow(ctx, "SELECT count(*) FROM nodes WHERE NOT dead AND lease_until >= $1 AND coalesce(schema, 0) < $2", now, schema).Scan(&older)
	if err != nil {
		return err
	}
	return rules.OlderNodes(older)
}

// saveEndpoint writes a changed endpoint under the next revision. from must be the endpoint as it
// was before.
func saveEndpoint(ctx context.Context, tx pgx.Tx, e, from *kapsel.Endpoint) (err error) {
	config, err := json.Marshal(e.EndpointConfig)
	if err != nil {
		return err
	}
	if e.Revision, err = nextRevision(ctx, tx); err != nil {
		return err
	}
	e.Follow(from)
	_, err = tx.Exec(ctx, `
		UPDATE endpoints SET state = $2, disabled_reason = $3, config = $4, updated_at = $5, deleted_at = $6, revision = $7,
			destination = $8, replan = $9, uid = nullif($10, '') WHERE id = $1`,
		id(e.ID), string(e.State), e.DisabledReason, string(config), e.UpdatedAt, at(e.DeletedAt), e.Revision, e.Destination, e.Replan, e.UID)
	return uidTaken(err)
}

// endpoint returns an endpoint of the tenant, or of any tenant for the zero one. It fails with
// NotFound if there is none or it is deleted. lock must be "" or a locking clause.
func endpoint(ctx context.Context, q querier, tenantID kapsel.TenantID, endpointID kapsel.EndpointID, lock string) (kapsel.Endpoint, error) {
	e, ok, err := first(ctx, q, scanEndpoint, `
		SELECT `+endpointColumns+` FROM endpoints
		WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) AND deleted_at IS NULL`+lock, id(endpointID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("endpoint")
	}
	return e, err
}

// Endpoint reads an endpoint; see store.Directory.
func (s *Store) Endpoint(ctx context.Context, tenantID kapsel.TenantID, endpointID kapsel.EndpointID) (e kapsel.Endpoint, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		e, err = endpoint(ctx, q, tenantID, endpointID, "")
		return err
	})
	return e, err
}

// Endpoints reads endpoints; see store.Directory.
func (s *Store) Endpoints(ctx context.Context, tenantID kapsel.TenantID, endpoints []kapsel.EndpointID) ([]kapsel.Endpoint, error) {
	ids := make([][16]byte, len(endpoints))
	for i, e := range endpoints {
		ids[i] = e
	}
	return list(ctx, s, viewOf(tenantID), scanEndpoint, `
		SELECT `+endpointColumns+` FROM endpoints
		WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1) AND id = ANY ($2)`, id(tenantID), ids)
}

// UpdateEndpoint changes an endpoint; see store.Directory.
func (s *Store) UpdateEndpoint(ctx context.Context, tenantID kapsel.TenantID, endpointID kapsel.EndpointID, change func(*kapsel.Endpoint) error) (e kapsel.Endpoint, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if e, err = endpoint(ctx, tx, tenantID, endpointID, " FOR UPDATE"); err != nil {
			return err
		}
		from, was := e, s.by.See(&e)
		from.Retry.Schedule, from.Subscriptions = slices.Clone(e.Retry.Schedule), slices.Clone(e.Subscriptions)
		if err := change(&e); err != nil {
			return callerError{err}
		}
		if err := rules.Subscribe(subscribing{ctx, tx, e.TenantID, e.AppID, e.UpdatedAt}, &e, &from); err != nil {
			return err
		}
		if err := saveEndpoint(ctx, tx, &e, &from); err != nil {
			return err
		}
		return s.note(ctx, tx, was, s.by.See(&e))
	})
	if err != nil {
		return kapsel.Endpoint{}, err
	}
	return e, nil
}

// DeleteEndpoint hides an endpoint; see store.Directory.
func (s *Store) DeleteEndpoint(ctx context.Context, tenantID kapsel.TenantID, endpointID kapsel.EndpointID, now time.Time) error {
	return s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		e, err := endpoint(ctx, tx, tenantID, endpointID, " FOR UPDATE")
		if err != nil {
			return err
		}
		if err := rules.EndpointUnused(subscribing{ctx: ctx, tx: tx, tenant: e.TenantID, now: now}, e.ID); err != nil {
			return err
		}
		_, err = s.deleteEndpoint(ctx, tx, e, now)
		return err
	})
}

// deleteEndpoint hides an endpoint, and returns the revision of the change.
func (s *Store) deleteEndpoint(ctx context.Context, tx pgx.Tx, e kapsel.Endpoint, now time.Time) (revision int64, err error) {
	from, was := e, s.by.See(&e)
	e.DeletedAt, e.UpdatedAt = now, now
	if err := saveEndpoint(ctx, tx, &e, &from); err != nil {
		return 0, err
	}
	return e.Revision, s.note(ctx, tx, was, s.by.See(&e))
}

// KeepIngest deletes an endpoint and makes its ingest a source; see store.Directory. It locks the
// tenant's row before the endpoint's, in the order of CreateSource, because the source's row refers
// to it.
func (s *Store) KeepIngest(ctx context.Context, tenantID kapsel.TenantID, endpointID kapsel.EndpointID, now time.Time, change func(*kapsel.Source) error) (src kapsel.Source, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		e, err := endpoint(ctx, tx, tenantID, endpointID, "")
		if err != nil {
			return err
		}
		if _, err := tenant(ctx, tx, e.TenantID, " FOR UPDATE"); err != nil {
			return err
		}
		if e, err = endpoint(ctx, tx, tenantID, endpointID, " FOR UPDATE"); err != nil {
			return err
		}
		if err := current(ctx, tx, now, keptSchema); err != nil {
			return err
		}
		if src, err = rules.KeptIngest(&e, now); err != nil {
			return err
		}
		if err := change(&src); err != nil {
			return callerError{err}
		}
		if src.Revision, err = s.deleteEndpoint(ctx, tx, e, now); err != nil {
			return err
		}
		if err := insertSource(ctx, tx, &src); err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&src))
	})
	if err != nil {
		return kapsel.Source{}, err
	}
	return src, nil
}

// ListEndpoints returns the endpoints of a tenant and of an app, those of all for a zero ID; see
// store.Directory.
func (s *Store) ListEndpoints(ctx context.Context, tenantID kapsel.TenantID, appID kapsel.AppID, p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error) {
	return list(ctx, s, viewOf(tenantID), scanEndpoint, `
		SELECT `+endpointColumns+` FROM endpoints
		WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1) AND ($4::uuid IS NULL OR app_id = $4) AND id < $2
		ORDER BY id DESC LIMIT $3`, id(tenantID), before(p.Before), p.Limit, id(appID))
}
