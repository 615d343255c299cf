package manage

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// StreamStart says behind what a stream begins. The zero StreamStart is now.
type StreamStart struct {
	Event    kapsel.EventID  // behind an event
	Position *store.Position // behind a position; nil: none
}

// StreamFrom returns the position that a stream begins behind: of one tenant's events, or of all for an
// admin who names none. It returns NotFound for an event that is not there, and InvalidRequest for a
// position that is not of this store.
func (m *Manager) StreamFrom(ctx context.Context, c access.Caller, tenant kapsel.TenantID, from StreamStart) (at store.Position, err error) {
	if err := c.Check(access.Read); err != nil {
		return at, err
	}
	switch {
	case !from.Event.IsZero():
		return m.Store.StreamPosition(ctx, c.TenantOr(tenant), from.Event)
	case from.Position != nil:
		_, _, _, err = m.Store.StreamEvents(ctx, store.StreamFilter{}, *from.Position, m.Clock(), 1) // is it one of this store?
		return *from.Position, err
	}
	return m.Store.StreamEnd(ctx, m.Clock())
}

// Follow returns a follower of the events that pass a filter: of one tenant, or of all for an admin who
// names none. The follower ends when the caller's key is revoked after Follow has returned; one that was
// revoked before shows when the caller is looked up again. Followers of people's sessions are counted apart
// from those of programs. Callers must call the follower's Leave.
func (m *Manager) Follow(ctx context.Context, c access.Caller, tenant kapsel.TenantID, f store.StreamFilter) (*feed.Follower, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	var endpoint *kapsel.Endpoint
	if !f.EndpointID.IsZero() {
		switch e, err := m.Store.Endpoint(ctx, c.TenantOr(tenant), f.EndpointID); {
		case err == nil:
			endpoint = &e
		case !missing(err):
			return nil, err
		}
	}
	return m.Feed.Follow(ctx, feed.Owner{Tenant: c.Tenant, Pages: c.Actor.Kind == kapsel.ActorSession}, c.Key, c.TenantOr(tenant), f, endpoint)
}
