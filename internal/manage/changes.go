package manage

import (
	"context"
	"net/netip"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// author returns the author of what a caller changes. verb says what the caller does, as the rows of
// changes have it.
func (m *Manager) author(c access.Caller, verb string) *store.Author {
	return &store.Author{Actor: c.Actor, Verb: verb, At: m.Clock(), Show: m.Show}
}

// by returns the store for what a caller changes.
func (m *Manager) by(c access.Caller, verb string) store.Store { return m.Store.By(*m.author(c, verb)) }

// ListChanges returns a page of the changes that pass a filter, newest first: of one tenant's objects, or
// of all for an admin who names none. To a tenant an operator's changes do not show from where they were
// made, nor by whom.
func (m *Manager) ListChanges(ctx context.Context, c access.Caller, tenant kapsel.TenantID, f store.ChangeFilter, p store.Page[kapsel.ChangeID]) ([]kapsel.Change, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	list, err := m.Store.ListChanges(ctx, c.TenantOr(tenant), f, p)
	for i := range list {
		if a := &list[i].Actor; !c.IsAdmin() && a.Operator {
			a.Client = netip.Addr{}
			if a.Subject != "" {
				a.Subject, a.Name = "", ""
			}
		}
	}
	return list, err
}
