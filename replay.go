package kapsel

import (
	"slices"
	"time"
)

// Replay is an order to make many deliveries again, which outlives the process: those of its
// tenant that have ended in one of Statuses before it was made, that no later delivery
// repeats, and whose events were received from Since until before Until.
type Replay struct {
	ID         ReplayID
	TenantID   TenantID
	EndpointID EndpointID // zero: all endpoints of the tenant
	Since      time.Time
	Until      time.Time // zero: no end
	Statuses   []DeliveryStatus
	Rate       int // new deliveries a second at most
	Status     ReplayStatus
	// Total is how many deliveries were in the set when the replay was made, and Created how
	// many were repeated so far. Those that another replayed meanwhile, or that went with
	// their endpoint or with retention, are passed over: Created may stay below Total.
	Total, Created int
	// Delivered and Failed are how the new deliveries ended; what was canceled failed.
	Delivered, Failed int
	CreatedAt         time.Time
	FinishedAt        time.Time // when it was canceled or done
}

// ReplayStatus is the state of a replay. The last two never change.
type ReplayStatus string

// The states.
const (
	ReplayRunning  ReplayStatus = "running"
	ReplayPaused   ReplayStatus = "paused"   // makes no new deliveries; those made go on
	ReplayCanceled ReplayStatus = "canceled" // makes none any more; those made go on
	ReplayDone     ReplayStatus = "done"     // all new deliveries were made and have ended
)

// Bounds and defaults of replays.
const (
	DefaultReplayRate = 50
	MaxReplayRate     = 1000
	// MaxReplay is how many deliveries one replay may have.
	MaxReplay = 1_000_000
)

// DefaultReplayStatuses are the states that are replayed where none are named.
func DefaultReplayStatuses() []DeliveryStatus { return []DeliveryStatus{Failed, DeadLetter} }

// Validate says what is wrong with a replay that someone wants to make.
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

// Has reports whether a delivery of an event received at a time belongs to the replay's set.
func (r *Replay) Has(d *Delivery, receivedAt time.Time) bool {
	return d.TenantID == r.TenantID && (r.EndpointID.IsZero() || d.EndpointID == r.EndpointID) &&
		slices.Contains(r.Statuses, d.Status) && d.ReplayedAs.IsZero() && !d.FinishedAt.After(r.CreatedAt) &&
		!receivedAt.Before(r.Since) && (r.Until.IsZero() || receivedAt.Before(r.Until))
}
