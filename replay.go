package kapsel

import (
	"slices"
	"time"
)

// Replay is a stored order to deliver many events again; it survives restarts. It is for one tenant
// (and endpoint), and for events that were received from Since until before Until, and before the
// replay was made. Its set is one of these:
//
//   - The deliveries that ended in one of Statuses before the replay was made and that no later
//     delivery repeats. Each is repeated by a new one.
//   - Where Statuses is Pending alone: the deliveries that were tried before the replay was made,
//     and waited then for a later time. Each is due at once, and no new one is made. What was never
//     tried waits for the time that its publisher chose, and is not in the set.
//   - Where Missing is set: the events that an endpoint's subscriptions match and that it never got.
//     Each gets its first delivery to the endpoint.
type Replay struct {
	ID         ReplayID
	TenantID   TenantID
	EndpointID EndpointID // zero: all endpoints of the tenant
	Since      time.Time
	Until      time.Time // zero: no end
	Statuses   []DeliveryStatus
	Missing    bool // Statuses is empty
	Rate       int  // most new deliveries per second
	Status     ReplayStatus
	// Total is how many were in the set when the replay was made; Created is how many deliveries were
	// made, or moved, so far. What left the set in the meantime, because it was replayed otherwise or
	// deleted with its endpoint or by retention, is skipped, so Created may stay below Total.
	Total, Created int
	// Delivered and Failed count how the new deliveries ended, those too that retention has deleted
	// since. Failed includes canceled ones.
	Delivered, Failed int
	CreatedAt         time.Time
	FinishedAt        time.Time // when the replay became canceled or done; zero before
}

// ReplayStatus is the state of a replay. Canceled and done are final.
type ReplayStatus string

// The states of a replay.
const (
	ReplayRunning  ReplayStatus = "running"
	ReplayPaused   ReplayStatus = "paused"   // makes no new deliveries; those already made go on
	ReplayCanceled ReplayStatus = "canceled" // makes no more deliveries; those already made go on
	ReplayDone     ReplayStatus = "done"     // all new deliveries were made and have ended
)

// Bounds and defaults of replays.
const (
	DefaultReplayRate = 50
	MaxReplayRate     = 1000
	// MaxReplay is the most deliveries that one replay may make.
	MaxReplay = 1_000_000
)

// DefaultReplayStatuses returns the statuses that a replay repeats if it names none.
func DefaultReplayStatuses() []DeliveryStatus { return []DeliveryStatus{Failed, DeadLetter} }

// Validate checks a replay before it is made, and returns all wrong fields; nil if none is wrong.
func (r *Replay) Validate() []FieldError {
	var f fields
	switch {
	case r.Since.IsZero():
		f.add("since", "is needed")
	case !r.Until.IsZero() && !r.Since.Before(r.Until):
		f.add("until", "must be after since")
	}
	f.between("rate", r.Rate, 1, MaxReplayRate)
	open := slices.ContainsFunc(r.Statuses, func(s DeliveryStatus) bool { return !s.Terminal() })
	switch {
	case r.Missing && len(r.Statuses) > 0:
		f.add("statuses", "does not go with missing, which is about what has no delivery")
	case !r.Missing && !r.Waiting() && (len(r.Statuses) == 0 || open):
		f.add("statuses", "must be among delivered, failed, dead_letter, canceled, or be pending alone")
	}
	return f
}

// Waiting reports whether the replay moves deliveries that wait, and makes none.
func (r *Replay) Waiting() bool { return len(r.Statuses) == 1 && r.Statuses[0] == Pending }

// Move returns the replay in another state. It returns the replay as it is if it is in that state, and a
// Conflict if it is canceled or done.
//
//	running ◄─► paused
//	running ──► done
//	running, paused ──► canceled
func (r Replay) Move(to ReplayStatus, now time.Time) (Replay, error) {
	switch {
	case to == r.Status:
		return r, nil
	case r.Status == ReplayCanceled || r.Status == ReplayDone:
		return r, Errorf(Conflict, "the replay is %s", r.Status)
	}
	r.Status = to
	if to == ReplayCanceled || to == ReplayDone {
		r.FinishedAt = now
	}
	return r, nil
}

// Has reports whether the delivery d, of an event received at receivedAt, belongs to the replay's
// set. Of a delivery that waits, callers must also ask HasWaiting.
func (r *Replay) Has(d *Delivery, receivedAt time.Time) bool {
	return d.TenantID == r.TenantID && (r.EndpointID.IsZero() || d.EndpointID == r.EndpointID) &&
		slices.Contains(r.Statuses, d.Status) && d.ReplayedAs.IsZero() && !d.FinishedAt.After(r.CreatedAt) && r.spans(receivedAt)
}

// HasWaiting reports whether a pending delivery whose newest attempt ended at ended waits at now for
// what the replay ends. A delivery that was tried since the replay was made waits anew, and is not
// moved again. ended is zero if it was never tried.
func (r *Replay) HasWaiting(d *Delivery, ended, now time.Time) bool {
	return !ended.IsZero() && !ended.After(r.CreatedAt) && d.DueAt.After(now)
}

// Lacks reports whether an event that has no delivery to the endpoint e belongs to the set of a
// replay of what is missing.
func (r *Replay) Lacks(e *Endpoint, ev *Event) bool {
	return r.Missing && e.TenantID == r.TenantID && ev.TenantID == r.TenantID && (r.EndpointID.IsZero() || e.ID == r.EndpointID) &&
		!ev.ReceivedAt.After(r.CreatedAt) && r.spans(ev.ReceivedAt) && e.Wants(ev.Audience(), ev.Type, ev.Channels)
}

// spans reports whether the replay is for events received at receivedAt.
func (r *Replay) spans(receivedAt time.Time) bool {
	return !receivedAt.Before(r.Since) && (r.Until.IsZero() || receivedAt.Before(r.Until))
}
