package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/schema"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EventTypeRef names an event type, an entry of a tenant's catalogue. The admin must name the tenant.
type EventTypeRef struct {
	Tenant kapsel.TenantID // which tenant the admin means; of other callers it is their own
	Name   string
}

// catalogue returns the tenant whose event type a reference names. A name that no type can have stands
// for nothing.
func (ref EventTypeRef) catalogue(c access.Caller) (kapsel.TenantID, error) {
	if t := (kapsel.EventType{Name: ref.Name, EventTypeConfig: kapsel.EventTypeConfig{Validate: kapsel.ValidateOff}}); t.Check() != nil {
		return kapsel.TenantID{}, store.NotFound("event type")
	}
	tenant := c.TenantOr(ref.Tenant)
	if tenant.IsZero() {
		return tenant, refused("tenant_id", "is needed with the admin key and the name of an event type")
	}
	return tenant, nil
}

// EventType returns an event type.
func (m *Manager) EventType(ctx context.Context, c access.Caller, ref EventTypeRef) (kapsel.EventType, error) {
	if err := c.Check(access.Read); err != nil {
		return kapsel.EventType{}, err
	}
	tenant, err := ref.catalogue(c)
	if err != nil {
		return kapsel.EventType{}, err
	}
	return m.Store.EventType(ctx, tenant, ref.Name)
}

// ListEventTypes returns a page of the event types that are not deleted, newest first: of one tenant, or
// of all for an admin who names none.
func (m *Manager) ListEventTypes(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListEventTypes(ctx, c.TenantOr(tenant), p)
}

// CreateEventType makes an event type of a tenant. id is its ID; zero: a new one.
func (m *Manager) CreateEventType(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.EventTypeID, name string, config kapsel.EventTypeConfig) (kapsel.EventType, error) {
	if err := c.Check(access.Write); err != nil {
		return kapsel.EventType{}, err
	}
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return kapsel.EventType{}, err
	}
	now := m.Clock()
	made := kapsel.EventType{ID: orNew(id, kapsel.NewEventTypeID, now), TenantID: t.ID, Name: name, CreatedAt: now}
	if err := describe(&made, config, now); err != nil {
		return kapsel.EventType{}, err
	}
	return settled(m, made, m.by(c, "create").CreateEventType(ctx, made))
}

// PutEventType makes the event type of a name, or replaces what was set on it, and reports whether it
// made one.
func (m *Manager) PutEventType(ctx context.Context, c access.Caller, ref EventTypeRef, config kapsel.EventTypeConfig) (t kapsel.EventType, made bool, err error) {
	if err := c.Check(access.Write); err != nil {
		return t, false, err
	}
	now := m.Clock()
	next := kapsel.EventType{ID: kapsel.NewEventTypeID(now), Name: ref.Name, CreatedAt: now}
	if err := describe(&next, config, now); err != nil { // outside of the store's transaction; a wrong name is found here, too
		return t, false, err
	}
	if next.TenantID, err = ref.catalogue(c); err != nil {
		return t, false, err
	}
	t, made, err = upsert(func() (kapsel.EventType, error) {
		return m.by(c, "update").UpdateEventType(ctx, next.TenantID, next.Name, func(t *kapsel.EventType) error {
			t.EventTypeConfig, t.UpdatedAt = next.EventTypeConfig, now
			return nil
		})
	}, func() (kapsel.EventType, error) {
		return next, m.by(c, "create").CreateEventType(ctx, next)
	}, func() error {
		_, err := m.Store.EventType(ctx, next.TenantID, next.Name)
		return err
	})
	t, err = settled(m, t, err)
	return t, made, err
}

// UpdateEventType changes what is set on an event type. edit may run more than once; its error is
// returned.
func (m *Manager) UpdateEventType(ctx context.Context, c access.Caller, ref EventTypeRef, edit func(*kapsel.EventTypeConfig) error) (kapsel.EventType, error) {
	if err := c.Check(access.Write); err != nil {
		return kapsel.EventType{}, err
	}
	// Once on a copy, so that most mistakes are found outside of the store's transaction.
	t, err := m.EventType(ctx, c, ref)
	if err != nil {
		return kapsel.EventType{}, err
	}
	now := m.Clock()
	change := func(t *kapsel.EventType) error {
		config := t.EventTypeConfig
		if err := edit(&config); err != nil {
			return err
		}
		return describe(t, config, now)
	}
	tenant := t.TenantID
	if err := change(&t); err != nil {
		return kapsel.EventType{}, err
	}
	t, err = m.by(c, "update").UpdateEventType(ctx, tenant, ref.Name, change)
	return settled(m, t, err)
}

// DeleteEventType deletes an event type.
func (m *Manager) DeleteEventType(ctx context.Context, c access.Caller, ref EventTypeRef) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	tenant, err := ref.catalogue(c)
	if err != nil {
		return err
	}
	_, err = settled(m, tenant, m.by(c, "delete").DeleteEventType(ctx, tenant, ref.Name, m.Clock()))
	return err
}

// describe sets a configuration on an event type. It checks the schemas, too.
func describe(t *kapsel.EventType, config kapsel.EventTypeConfig, now time.Time) error {
	t.UpdatedAt, t.EventTypeConfig = now, config
	if t.Validate == "" {
		t.Validate = kapsel.ValidateOff
	}
	wrong := t.Check()
	if wrong == nil {
		_, wrong = schema.New(&t.EventTypeConfig)
	}
	return check(wrong)
}

// Example returns a body that fits a schema of an event type, nil where none is found.
func Example(t *kapsel.EventType, version string) []byte {
	return schema.Example(&t.EventTypeConfig, version)
}
