package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// TenantSettings are what the operator sets on a tenant.
type TenantSettings struct {
	Name   string
	Plan   string
	Limits kapsel.Limits // in force instead of the plan's if Own
	Audit  kapsel.AuditSettings
}

// CreateTenant makes a tenant with the settings that edit makes of a plan's defaults. id is the tenant's
// ID; zero: a new one. Only the admin may do that.
func (m *Manager) CreateTenant(ctx context.Context, c access.Caller, id kapsel.TenantID, edit func(*TenantSettings) error) (kapsel.Tenant, error) {
	if err := c.Check(access.Operate); err != nil {
		return kapsel.Tenant{}, err
	}
	now := m.Clock()
	t := kapsel.Tenant{ID: orNew(id, kapsel.NewTenantID, now), Plan: kapsel.DefaultPlan, CreatedAt: now}
	if err := changeTenant(&t, edit, now); err != nil {
		return kapsel.Tenant{}, err
	}
	var err error
	if t.DataKey, err = m.Keyring.NewDataKey(t.ID); err != nil {
		return kapsel.Tenant{}, err
	}
	return settled(m, t, m.by(c, "create").CreateTenant(ctx, t))
}

// ListTenants returns a page of the tenants that are not deleted, newest first. Only the admin may see it.
func (m *Manager) ListTenants(ctx context.Context, c access.Caller, p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error) {
	if err := c.Check(access.Operate); err != nil {
		return nil, err
	}
	return m.Store.ListTenants(ctx, p)
}

// Tenant returns a tenant that the caller may see.
func (m *Manager) Tenant(ctx context.Context, c access.Caller, id kapsel.TenantID) (kapsel.Tenant, error) {
	if err := c.Check(access.Read); err != nil {
		return kapsel.Tenant{}, err
	}
	if c.TenantOr(id) != id {
		return kapsel.Tenant{}, store.NotFound("tenant")
	}
	return m.Store.Tenant(ctx, id)
}

// UpdateTenant changes what is set on a tenant. edit may run more than once; its error is returned. Only
// the admin may do that.
func (m *Manager) UpdateTenant(ctx context.Context, c access.Caller, id kapsel.TenantID, edit func(*TenantSettings) error) (kapsel.Tenant, error) {
	if err := c.Check(access.Operate); err != nil {
		return kapsel.Tenant{}, err
	}
	now := m.Clock()
	t, err := m.by(c, "update").UpdateTenant(ctx, id, func(t *kapsel.Tenant) error { return changeTenant(t, edit, now) })
	return settled(m, t, err)
}

// DeleteTenant deletes a tenant. It returns Conflict while the tenant has endpoints, sources or apps.
// Only the admin may do that.
func (m *Manager) DeleteTenant(ctx context.Context, c access.Caller, id kapsel.TenantID) error {
	if err := c.Check(access.Operate); err != nil {
		return err
	}
	_, err := settled(m, id, m.by(c, "delete").DeleteTenant(ctx, id, m.Clock()))
	return err
}

// changeTenant sets on a tenant what edit makes of its settings.
func changeTenant(t *kapsel.Tenant, edit func(*TenantSettings) error, now time.Time) error {
	s := TenantSettings{t.Name, t.Plan, t.Limits, t.Audit}
	if err := edit(&s); err != nil {
		return err
	}
	t.Name, t.Plan, t.Limits, t.Audit, t.UpdatedAt = s.Name, s.Plan, s.Limits, s.Audit, now
	return check(t.Validate())
}
