package manage

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// ListSessions returns a page of the sessions that have not ended, newest first: those of one
// tenant, or all of them for an admin who names none.
func (m *Manager) ListSessions(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.SessionID]) ([]kapsel.Session, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListSessions(ctx, c.TenantOr(tenant), m.Clock(), p)
}

// DeleteSession ends a session of the caller's tenant, or any for the admin.
func (m *Manager) DeleteSession(ctx context.Context, c access.Caller, id kapsel.SessionID) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	return m.by(c, "end").DeleteSession(ctx, c.Tenant, id)
}

// SignOutEverywhere ends all sessions made with the caller's own key, or all of a person who signed in
// without one. It needs no right to change anything else.
func (m *Manager) SignOutEverywhere(ctx context.Context, c access.Caller) error {
	if err := c.Check(access.Read); err != nil {
		return err
	}
	if c.Actor.Subject != "" {
		return m.by(c, "sign_out").DeleteSessionsOf(ctx, c.Actor.Subject)
	}
	return m.by(c, "sign_out").DeleteSessions(ctx, c.Tenant, c.Key)
}
