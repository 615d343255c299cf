package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// KeySettings are what people set on a key, once.
type KeySettings struct {
	Name      string
	Scope     kapsel.Scope
	ExpiresAt time.Time // zero: never
}

// CreateKey makes a key of a tenant and returns it with its text, which is nowhere else. id is the key's
// ID; zero: a new one.
func (m *Manager) CreateKey(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.KeyID, s KeySettings) (kapsel.Key, secret.Text, error) {
	if err := c.Check(access.Write); err != nil { // no scope is above that of a caller who may write
		return kapsel.Key{}, secret.Text{}, err
	}
	t, err := m.Tenant(ctx, c, tenant)
	if err != nil {
		return kapsel.Key{}, secret.Text{}, err
	}
	return m.newKey(ctx, c, t.ID, id, s)
}

// newKey makes a key of a tenant, or of the instance for the zero one.
func (m *Manager) newKey(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.KeyID, s KeySettings) (kapsel.Key, secret.Text, error) {
	now := m.Clock()
	k := kapsel.Key{ID: orNew(id, kapsel.NewKeyID, now), TenantID: tenant, Name: s.Name, Scope: s.Scope, ExpiresAt: s.ExpiresAt, CreatedAt: now}
	if err := check(k.Validate(now)); err != nil {
		return kapsel.Key{}, secret.Text{}, err
	}
	text, hash, prefix := secret.NewAPIKey()
	k.Hash, k.Prefix = hash, prefix
	k, err := settled(m, k, m.by(c, "create").CreateKey(ctx, k))
	return k, text, err
}

// ListKeys returns a page of a tenant's keys, newest first, revoked ones included.
func (m *Manager) ListKeys(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	t, err := m.Tenant(ctx, c, tenant)
	if err != nil {
		return nil, err
	}
	return m.Store.ListKeys(ctx, t.ID, p)
}

// RevokeKey revokes a key of a tenant.
func (m *Manager) RevokeKey(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.KeyID) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	t, err := m.Tenant(ctx, c, tenant)
	if err != nil {
		return err
	}
	_, err = settled(m, id, m.by(c, "revoke").RevokeKey(ctx, t.ID, id, m.Clock()))
	return err
}

// CreateInstanceKey makes a key of the instance, which is of no tenant. Only the admin may do that.
func (m *Manager) CreateInstanceKey(ctx context.Context, c access.Caller, id kapsel.KeyID, s KeySettings) (kapsel.Key, secret.Text, error) {
	if err := c.Check(access.Operate); err != nil {
		return kapsel.Key{}, secret.Text{}, err
	}
	return m.newKey(ctx, c, kapsel.TenantID{}, id, s)
}

// ListInstanceKeys returns a page of the instance's keys, newest first, revoked ones included. Only the admin
// may see it.
func (m *Manager) ListInstanceKeys(ctx context.Context, c access.Caller, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
	if err := c.Check(access.Operate); err != nil {
		return nil, err
	}
	return m.Store.InstanceKeys(ctx, p)
}

// RevokeInstanceKey revokes a key of the instance. Only the admin may do that.
func (m *Manager) RevokeInstanceKey(ctx context.Context, c access.Caller, id kapsel.KeyID) error {
	if err := c.Check(access.Operate); err != nil {
		return err
	}
	k, err := m.Store.Key(ctx, kapsel.TenantID{}, id)
	if err == nil && !k.TenantID.IsZero() {
		err = store.NotFound("key")
	}
	if err != nil {
		return err
	}
	_, err = settled(m, id, m.by(c, "revoke").RevokeKey(ctx, kapsel.TenantID{}, id, m.Clock()))
	return err
}
