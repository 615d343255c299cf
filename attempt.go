package kapsel

import "time"

// Attempt is one try of a delivery: at most one request on the wire.
type Attempt struct {
	ID              AttemptID // also the claim token under which it was made
	DeliveryID      DeliveryID
	EventID         EventID
	EndpointID      EndpointID
	TenantID        TenantID
	Number          int // 1, 2, …; as X-Kapsel-Delivery-Attempt said
	StartedAt       time.Time
	Duration        time.Duration
	StatusCode      int    // 0: no status line
	ErrorCode       Code   // "": delivered
	Error           string // what happened, for people; no address, no secret
	RequestHeaders  Header // as sent, secret values redacted
	ResponseHeaders Header
	ResponseBody    []byte // the first 4 KiB, raw
}

// EndedAt returns when the attempt ended.
func (a *Attempt) EndedAt() time.Time { return a.StartedAt.Add(a.Duration) }
