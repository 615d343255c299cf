package manage

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Delivery is a delivery with what is known of it now.
type Delivery struct {
	kapsel.Delivery
	Endpoint   *kapsel.Endpoint // nil: deleted
	WaitingFor string           // while pending, what keeps the next attempt from starting; "": nothing
}

// ListDeliveries returns a page of the deliveries that pass a filter, newest first: of one tenant, or of
// all for an admin who names none.
func (m *Manager) ListDeliveries(ctx context.Context, c access.Caller, tenant kapsel.TenantID, f store.DeliveryFilter, p store.Page[kapsel.DeliveryID]) ([]Delivery, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	rows, err := m.Store.ListDeliveries(ctx, c.TenantOr(tenant), f, p)
	if err != nil {
		return nil, err
	}
	return m.viewer(ctx).all(rows)
}

// Delivery returns a delivery.
func (m *Manager) Delivery(ctx context.Context, c access.Caller, id kapsel.DeliveryID) (Delivery, error) {
	if err := c.Check(access.Read); err != nil {
		return Delivery{}, err
	}
	d, err := m.Store.Delivery(ctx, c.Tenant, id)
	if err != nil {
		return Delivery{}, err
	}
	return m.viewer(ctx).view(d)
}

// CancelDelivery ends a delivery that is pending.
func (m *Manager) CancelDelivery(ctx context.Context, c access.Caller, id kapsel.DeliveryID) (Delivery, error) {
	if err := c.Check(access.Write); err != nil {
		return Delivery{}, err
	}
	return m.move(ctx, c, "cancel", id, kapsel.Cancel{})
}

// RetryDelivery makes a delivery that is pending due now. It returns Conflict where that would send
// nothing, with what the delivery would wait for.
func (m *Manager) RetryDelivery(ctx context.Context, c access.Caller, id kapsel.DeliveryID) (Delivery, error) {
	if err := c.Check(access.Write); err != nil {
		return Delivery{}, err
	}
	d, err := m.Store.Delivery(ctx, c.Tenant, id)
	if err != nil {
		return Delivery{}, err
	}
	if d.Status == kapsel.Pending {
		switch e, err := m.Store.Endpoint(ctx, d.TenantID, d.EndpointID); {
		case missing(err):
			return Delivery{}, kapsel.Errorf(kapsel.Conflict, "the delivery's endpoint is deleted, and the delivery will be canceled")
		case err != nil:
			return Delivery{}, err
		default:
			if err := m.sendsNow(ctx, &e); err != nil {
				return Delivery{}, err
			}
		}
	}
	return m.move(ctx, c, "retry", id, kapsel.Retry{})
}

func (m *Manager) move(ctx context.Context, c access.Caller, verb string, id kapsel.DeliveryID, t kapsel.Transition) (Delivery, error) {
	d, err := m.by(c, verb).MoveDelivery(ctx, c.Tenant, id, t, m.Clock())
	if err != nil {
		return Delivery{}, err
	}
	if d.Status == kapsel.Pending {
		m.Due(d)
	}
	return m.viewer(ctx).view(d)
}

// Attempt is an attempt with what the audit log has of it.
type Attempt struct {
	kapsel.Attempt
	LeafIndex *int64 // of its leaf in the tenant's audit log; nil: no published head has the leaf
}

// ListAttempts returns up to limit attempts of a delivery with numbers above after, in ascending order.
func (m *Manager) ListAttempts(ctx context.Context, c access.Caller, id kapsel.DeliveryID, after, limit int) ([]Attempt, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	if _, err := m.Store.Delivery(ctx, c.Tenant, id); err != nil {
		return nil, err
	}
	attempts, err := m.Store.ListAttempts(ctx, c.Tenant, id, after, limit)
	if err != nil {
		return nil, err
	}
	return m.withLeaves(ctx, attempts)
}

// Attempt returns an attempt.
func (m *Manager) Attempt(ctx context.Context, c access.Caller, id kapsel.AttemptID) (Attempt, error) {
	if err := c.Check(access.Read); err != nil {
		return Attempt{}, err
	}
	t, err := m.Store.Attempt(ctx, c.Tenant, id)
	if err != nil {
		return Attempt{}, err
	}
	all, err := m.withLeaves(ctx, []kapsel.Attempt{t})
	if err != nil {
		return Attempt{}, err
	}
	return all[0], nil
}

// viewer describes the deliveries of one answer. It reads each endpoint once.
type viewer struct {
	m         *Manager
	ctx       context.Context
	endpoints map[kapsel.EndpointID]*kapsel.Endpoint // nil: deleted
}

func (m *Manager) viewer(ctx context.Context) viewer {
	return viewer{m, ctx, map[kapsel.EndpointID]*kapsel.Endpoint{}}
}

func (v viewer) view(d kapsel.Delivery) (Delivery, error) {
	all, err := v.all([]kapsel.Delivery{d})
	if err != nil {
		return Delivery{}, err
	}
	return all[0], nil
}

func (v viewer) all(rows []kapsel.Delivery) ([]Delivery, error) {
	if err := v.load(rows); err != nil {
		return nil, err
	}
	list := make([]Delivery, len(rows))
	for i, d := range rows {
		e := v.endpoints[d.EndpointID]
		if list[i] = (Delivery{Delivery: d, Endpoint: e}); e != nil && d.Status == kapsel.Pending {
			list[i].WaitingFor = v.m.WaitsFor(e, d)
		}
	}
	return list, nil
}

// load reads the endpoints of deliveries that were not read before.
func (v viewer) load(rows []kapsel.Delivery) error {
	var ids []kapsel.EndpointID
	mixed := false
	for _, d := range rows {
		mixed = mixed || d.TenantID != rows[0].TenantID
		if _, known := v.endpoints[d.EndpointID]; !known {
			v.endpoints[d.EndpointID] = nil // deleted, unless it is found
			ids = append(ids, d.EndpointID)
		}
	}
	if ids == nil {
		return nil
	}
	var tenant kapsel.TenantID
	if !mixed {
		tenant = rows[0].TenantID
	}
	found, err := v.m.Store.Endpoints(v.ctx, tenant, ids)
	for i := range found {
		v.endpoints[found[i].ID] = &found[i]
	}
	return err
}
