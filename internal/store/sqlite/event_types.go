package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const typeColumns = `id, tenant_id, name, config, created_at, updated_at, deleted_at, revision`

func scanType(s *stmt) (t kapsel.EventType, err error) {
	t = kapsel.EventType{ID: s.colID(), TenantID: s.colID(), Name: s.colText()}
	if err := json.Unmarshal(s.view(), &t.EventTypeConfig); err != nil {
		return t, fmt.Errorf("read the event type's configuration: %w", err)
	}
	t.CreatedAt, t.UpdatedAt, t.DeletedAt, t.Revision = s.colTime(), s.colTime(), s.colTime(), s.colInt()
	return t, nil
}

// liveType returns an event type of a tenant. It fails with NotFound if there is none or it is
// deleted.
func liveType(c *conn, tenant kapsel.TenantID, name string) (kapsel.EventType, error) {
	return live(c.query(`SELECT `+typeColumns+` FROM event_types WHERE tenant_id = ? AND name = ? AND deleted_at IS NULL`, tenant, name), "event type", scanType)
}

// saveType writes an event type, new or not, under the next revision.
func saveType(c *conn, t *kapsel.EventType) (err error) {
	config, err := json.Marshal(t.EventTypeConfig)
	if err != nil {
		return fmt.Errorf("write the event type's configuration: %w", err)
	}
	if t.Revision, err = nextRevision(c); err != nil {
		return err
	}
	return c.exec(`INSERT OR REPLACE INTO event_types (`+typeColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		t.ID, t.TenantID, t.Name, config, t.CreatedAt, t.UpdatedAt, t.DeletedAt, t.Revision)
}

// CreateEventType implements store.Directory.
func (s *Store) CreateEventType(ctx context.Context, t kapsel.EventType) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if _, err := liveTenant(c, t.TenantID); err != nil {
			return err
		}
		if err := absent(c, "event_types", t.ID); err != nil {
			return err
		}
		if _, err := liveType(c, t.TenantID, t.Name); err == nil {
			return rules.NameTaken()
		} else if kapsel.CodeOf(err) != kapsel.NotFound {
			return err
		}
		n, err := countLive(c, "event_types", t.TenantID)
		if err != nil {
			return err
		}
		if err := rules.EventTypeRoom(n); err != nil {
			return err
		}
		if err := saveType(c, &t); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&t))
	})
}

// EventType implements store.Directory.
func (s *Store) EventType(ctx context.Context, tenant kapsel.TenantID, name string) (t kapsel.EventType, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		t, err = liveType(c, tenant, name)
		return err
	})
	return t, err
}

// UpdateEventType implements store.Directory.
func (s *Store) UpdateEventType(ctx context.Context, tenant kapsel.TenantID, name string, change func(*kapsel.EventType) error) (kapsel.EventType, error) {
	return update(s, ctx, func(c *conn) (kapsel.EventType, error) { return liveType(c, tenant, name) }, change, saveType)
}

// DeleteEventType implements store.Directory.
func (s *Store) DeleteEventType(ctx context.Context, tenant kapsel.TenantID, name string, now time.Time) error {
	_, err := s.UpdateEventType(ctx, tenant, name, func(t *kapsel.EventType) error {
		t.DeletedAt, t.UpdatedAt = now, now
		return nil
	})
	return err
}

// ListEventTypes implements store.Directory.
func (s *Store) ListEventTypes(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error) {
	return listOf(s, ctx, "event_types", typeColumns, scanType, tenant, p)
}
