package kapsel

import (
	"slices"
	"time"
)

// Replay is a stored order to deliver many events again; it survives restarts. Its set holds the
// deliveries of its tenant (and endpoint) that ended in one of Statuses before the replay was
// made, that no later delivery repeats, and whose events were received from Since until before
// Until.
type Replay struct {
	ID         ReplayID
	TenantID   TenantID
	EndpointID EndpointID // zero: all endpoints of the tenant
	Since      time.Time
	Until      time.Time // zero: no end
	Statuses   []DeliveryStatus
	Rate       int // most new deliveries per second
	Status     ReplayStatus
	// Total is how many deliveries were in the set when the replay was made; Created is how many were
	// repeated so far. A delivery that was replayed otherwise in the meantime, or deleted with its
	// endpoint or by retention, is skipped, so Created may stay below Total.
	Total, Created int
	// Delivered and Failed count how the new deliveries ended. Failed includes canceled ones.
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
	if len(r.Statuses) == 0 || open {
		f.add("statuses", "must be among delivered, failed, dead_letter, canceled")
	}
	return f
}

// Move is the replay in another state. To the state that it has, nothing happens; one that
// is canceled or done is a Conflict.
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
// set.
func (r *Replay) Has(d *Delivery, receivedAt time.Time) bool {
	return d.TenantID == r.TenantID && (r.EndpointID.IsZero() || d.EndpointID == r.EndpointID) &&
		slices.Contains(r.Statuses, d.Status) && d.ReplayedAs.IsZero() && !d.FinishedAt.After(r.CreatedAt) &&
		!receivedAt.Before(r.Since) && (r.Until.IsZero() || receivedAt.Before(r.Until))
}
