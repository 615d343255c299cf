package manage

import (
	"context"
	"math"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Published is what became of an event that was published.
type Published struct {
	store.EventRecord                     // without an ID for a dry run; of a first event that retention has deleted only the ID and the time
	Destinations      int                 // to how many endpoints it goes
	Duplicate         bool                // the event is the first one with the same key
	DryRun            bool                // nothing was stored
	Warnings          []kapsel.FieldError // how it differs from the tenant's catalogue, which did not refuse it
	Err               error               // if not nil, the event was refused, or it is not known whether it was stored
}

// Publish publishes events of a tenant. store gets the tenant that publishes and stores the events; it is
// ingest's Publish with the request of the face, whose body is read only when there is room for it. If
// Publish returns an error, nothing was stored.
func (m *Manager) Publish(ctx context.Context, c access.Caller, tenant kapsel.TenantID, store func(kapsel.TenantID) ([]kapsel.Published, error)) ([]Published, error) {
	if err := c.Check(access.Write); err != nil {
		return nil, err
	}
	owner := c.Tenant
	if c.IsAdmin() {
		t, err := m.owner(ctx, c, tenant)
		if err != nil {
			return nil, err
		}
		owner = t.ID
	}
	stored, err := store(owner)
	if err != nil {
		return nil, err
	}
	list := make([]Published, len(stored))
	for i := range stored {
		list[i] = m.published(ctx, owner, stored[i])
	}
	return list, nil
}

// published returns what became of one event.
func (m *Manager) published(ctx context.Context, tenant kapsel.TenantID, p kapsel.Published) Published {
	dry := p.Err == nil && p.Event.ID.IsZero()
	made := Published{
		EventRecord: store.EventRecord{Event: p.Event, Deliveries: p.Deliveries, Expanding: p.Others > 0 && !dry},
		Duplicate:   p.Duplicate, DryRun: dry, Warnings: p.Warnings, Err: p.Err,
	}
	if p.Err == nil && p.Duplicate {
		made.EventRecord, made.Err = m.Store.EventHead(ctx, tenant, p.Event.ID)
		if missing(made.Err) { // retention was shorter than the key is remembered
			made.EventRecord, made.Err = store.EventRecord{Event: kapsel.Event{ID: p.Event.ID, TenantID: tenant, ReceivedAt: p.Event.ID.Time()}}, nil
		}
		if made.Err == nil && made.Expanding {
			p.Others, made.Err = m.others(ctx, &made.EventRecord)
		}
	}
	made.Destinations = len(made.Newest()) + p.Others
	return made
}

// others returns to how many endpoints deliveries of an event that is being expanded are still made.
func (m *Manager) others(ctx context.Context, r *store.EventRecord) (n int, err error) {
	all, err := m.concerned(ctx, r, store.Page[kapsel.EndpointID]{Limit: math.MaxInt})
	for _, c := range all {
		if c.delivery == nil && c.endpoint.Gets(&r.Event) {
			n++
		}
	}
	return n, err
}
