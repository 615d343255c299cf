package manage

import (
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// replaySample is how many deliveries a preview shows.
const replaySample = 10

// ReplayRequest says what a bulk replay is of.
type ReplayRequest struct {
	EndpointID   kapsel.EndpointID       // zero: all endpoints
	Since, Until time.Time               // of events received; Until may be zero: no end
	Statuses     []kapsel.DeliveryStatus // how the deliveries to repeat have ended; nil: the usual ones
	Missing      bool                    // instead of what has ended: what endpoints never got
	Rate         *int                    // new deliveries a second; nil: the usual one
}

// replay returns the running replay that a request asks for.
func (in *ReplayRequest) replay(tenant kapsel.TenantID, now time.Time) (kapsel.Replay, error) {
	r := kapsel.Replay{
		TenantID: tenant, EndpointID: in.EndpointID, Since: in.Since, Until: in.Until, Statuses: kapsel.DefaultReplayStatuses(), Missing: in.Missing,
		Rate: kapsel.DefaultReplayRate, Status: kapsel.ReplayRunning, CreatedAt: now,
	}
	if in.Rate != nil {
		r.Rate = *in.Rate
	}
	if in.Missing {
		r.Statuses = nil
	}
	if in.Statuses != nil {
		r.Statuses = slices.Clone(in.Statuses)
		slices.Sort(r.Statuses)
		r.Statuses = slices.Compact(r.Statuses)
	}
	return r, check(r.Validate())
}

// ReplayPreview is what a replay would do.
type ReplayPreview struct {
	Count   int               // how many deliveries would be repeated; counting stops somewhere above PreviewReplay's atMost
	Sample  []Delivery        // some of them; none of a replay of what is missing
	Missing []kapsel.Delivery // some of the deliveries that would be made of what is missing
}

// PreviewReplay returns what a replay would do, and does nothing. A replay may repeat kapsel.MaxReplay deliveries,
// and counting so many takes a minute; with a smaller atMost it is quick.
func (m *Manager) PreviewReplay(ctx context.Context, c access.Caller, tenant kapsel.TenantID, in ReplayRequest, atMost int) (ReplayPreview, error) {
	r, count, some, err := m.plan(ctx, c, tenant, in, atMost)
	if err != nil {
		return ReplayPreview{}, err
	}
	if r.Missing {
		return ReplayPreview{Count: count, Missing: some}, nil
	}
	sample, err := m.viewer(ctx).all(some)
	return ReplayPreview{Count: count, Sample: sample}, err
}

// CreateReplay makes a replay, which goes on by itself. id is its ID; zero: a new one.
func (m *Manager) CreateReplay(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.ReplayID, in ReplayRequest) (kapsel.Replay, error) {
	r, count, _, err := m.plan(ctx, c, tenant, in, kapsel.MaxReplay)
	if err != nil {
		return kapsel.Replay{}, err
	}
	if count > kapsel.MaxReplay {
		return kapsel.Replay{}, refused("since", "leads to more than 1,000,000 deliveries; make several replays of shorter spans")
	}
	r.ID, r.Total = orNew(id, kapsel.NewReplayID, r.CreatedAt), count
	if err := m.by(c, "create").CreateReplay(ctx, r); err != nil {
		return kapsel.Replay{}, err
	}
	m.Replaying()
	return r, nil
}

// plan returns the replay that a request asks for, how many deliveries it would repeat, and some of them. It stops
// counting somewhere above atMost.
func (m *Manager) plan(ctx context.Context, c access.Caller, tenant kapsel.TenantID, in ReplayRequest, atMost int) (r kapsel.Replay, count int, some []kapsel.Delivery, err error) {
	if err := c.Check(access.Write); err != nil {
		return r, 0, nil, err
	}
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return r, 0, nil, err
	}
	if r, err = in.replay(t.ID, m.Clock()); err != nil {
		return r, 0, nil, err
	}
	if !r.EndpointID.IsZero() {
		if err := m.owns(ctx, t.ID, r.EndpointID); err != nil {
			return r, 0, nil, err
		}
	}
	count, some, err = m.Store.CountReplay(ctx, r, atMost+1, replaySample)
	return r, count, some, err
}

// ListReplays returns a page of the replays, newest first: of one tenant, or of all for an admin who names
// none.
func (m *Manager) ListReplays(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.ReplayID]) ([]kapsel.Replay, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListReplays(ctx, c.TenantOr(tenant), p)
}

// Replay returns a replay.
func (m *Manager) Replay(ctx context.Context, c access.Caller, id kapsel.ReplayID) (kapsel.Replay, error) {
	if err := c.Check(access.Read); err != nil {
		return kapsel.Replay{}, err
	}
	return m.Store.ReadReplay(ctx, c.Tenant, id)
}

// replayVerbs says what somebody does who moves a replay to a status.
var replayVerbs = map[kapsel.ReplayStatus]string{kapsel.ReplayPaused: "pause", kapsel.ReplayRunning: "resume", kapsel.ReplayCanceled: "cancel"}

// MoveReplay pauses, resumes or cancels a replay. It returns Conflict for one that is canceled or done.
func (m *Manager) MoveReplay(ctx context.Context, c access.Caller, id kapsel.ReplayID, to kapsel.ReplayStatus) (kapsel.Replay, error) {
	if err := c.Check(access.Write); err != nil {
		return kapsel.Replay{}, err
	}
	r, err := m.by(c, replayVerbs[to]).MoveReplay(ctx, c.Tenant, id, to, m.Clock())
	if err == nil {
		m.Replaying()
	}
	return r, err
}
