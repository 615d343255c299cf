package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const typeColumns = "id, tenant_id, name, config, created_at, updated_at, deleted_at, revision"

func scanType(r *row) kapsel.EventType {
	t := kapsel.EventType{ID: r.id(), TenantID: r.id(), Name: r.text()}
	scanJSON(r, &t.EventTypeConfig)
	t.CreatedAt, t.UpdatedAt, t.DeletedAt, t.Revision = r.time(), r.time(), r.time(), r.int8()
	return t
}

// eventType returns an event type of a tenant. It fails with NotFound if there is none or it is
// deleted. lock must be "" or a locking clause.
func eventType(ctx context.Context, q querier, tenantID kapsel.TenantID, name, lock string) (kapsel.EventType, error) {
	t, ok, err := first(ctx, q, scanType, `
		SELECT `+typeColumns+` FROM event_types WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL`+lock, id(tenantID), name)
	if err == nil && !ok {
		err = store.NotFound("event type")
	}
	return t, err
}

// CreateEventType stores an event type; see store.Directory. It locks the tenant's row, so that two
// calls at once neither pass the limit together nor take one name.
func (s *Store) CreateEventType(ctx context.Context, t kapsel.EventType) error {
	config, err := json.Marshal(t.EventTypeConfig)
	if err != nil {
		return err
	}
	return s.change(ctx, viewOf(t.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tenant(ctx, tx, t.TenantID, " FOR UPDATE"); err != nil {
			return err
		}
		if err := current(ctx, tx, t.CreatedAt, typesSchema); err != nil {
			return err
		}
		var taken, named bool
		var others int
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT 1 FROM event_types WHERE id = $2), coalesce(bool_or(name = $3), false), count(*)
			FROM event_types WHERE tenant_id = $1 AND deleted_at IS NULL`, id(t.TenantID), id(t.ID), t.Name).Scan(&taken, &named, &others)
		switch {
		case err != nil:
			return err
		case taken:
			return rules.IDTaken()
		case named:
			return rules.NameTaken()
		}
		if err := rules.EventTypeRoom(others); err != nil {
			return err
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		err = created(tx.Exec(ctx, `
			INSERT INTO event_types (id, tenant_id, name, config, created_at, updated_at, revision)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
			id(t.ID), id(t.TenantID), t.Name, string(config), t.CreatedAt, t.UpdatedAt, revision))
		if err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&t))
	})
}

// EventType reads an event type; see store.Directory.
func (s *Store) EventType(ctx context.Context, tenantID kapsel.TenantID, name string) (t kapsel.EventType, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		t, err = eventType(ctx, q, tenantID, name, "")
		return err
	})
	return t, err
}

// UpdateEventType changes an event type; see store.Directory.
func (s *Store) UpdateEventType(ctx context.Context, tenantID kapsel.TenantID, name string, change func(*kapsel.EventType) error) (t kapsel.EventType, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if t, err = eventType(ctx, tx, tenantID, name, " FOR UPDATE"); err != nil {
			return err
		}
		was := s.by.See(&t)
		if err := change(&t); err != nil {
			return callerError{err}
		}
		config, err := json.Marshal(t.EventTypeConfig)
		if err != nil {
			return err
		}
		if t.Revision, err = nextRevision(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE event_types SET config = $2, updated_at = $3, deleted_at = $4, revision = $5 WHERE id = $1",
			id(t.ID), string(config), t.UpdatedAt, at(t.DeletedAt), t.Revision)
		if err != nil {
			return err
		}
		return s.note(ctx, tx, was, s.by.See(&t))
	})
	if err != nil {
		return kapsel.EventType{}, err
	}
	return t, nil
}

// DeleteEventType hides an event type; see store.Directory.
func (s *Store) DeleteEventType(ctx context.Context, tenantID kapsel.TenantID, name string, now time.Time) error {
	_, err := s.UpdateEventType(ctx, tenantID, name, func(t *kapsel.EventType) error {
		t.DeletedAt, t.UpdatedAt = now, now
		return nil
	})
	return err
}

// ListEventTypes returns a tenant's event types, those of all tenants for the zero one; see
// store.Directory.
func (s *Store) ListEventTypes(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error) {
	return list(ctx, s, viewOf(tenantID), scanType, `
		SELECT `+typeColumns+` FROM event_types
		WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1) AND id < $2
		ORDER BY id DESC LIMIT $3`, id(tenantID), before(p.Before), p.Limit)
}
