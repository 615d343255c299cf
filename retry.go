package kapsel

import (
	"slices"
	"time"
)

// RetryPolicy says how long a delivery waits after its n-th attempt, and how many there are.
type RetryPolicy struct {
	Strategy    string          `json:"strategy"` // one of the strategies below
	MaxAttempts int             `json:"max_attempts"`
	Base        time.Duration   `json:"base"`
	Max         time.Duration   `json:"max"`
	Schedule    []time.Duration `json:"schedule,omitempty"` // for RetrySchedule
}

// The retry strategies: the delay after attempt n, before jitter.
const (
	RetryExponential = "exponential" // base · 2^(n−1)
	RetryLinear      = "linear"      // base · n
	RetryFixed       = "fixed"       // base
	RetrySchedule    = "schedule"    // the n-th entry; the last repeats
)

// DefaultRetry tries 20 times within about 24 hours: after 1, 2, 4, … 512 s, then up to 4 h apart.
func DefaultRetry() RetryPolicy {
	return RetryPolicy{Strategy: RetryExponential, MaxAttempts: 20, Base: time.Second, Max: 4 * time.Hour}
}

// Equal reports whether two policies say the same.
func (p RetryPolicy) Equal(q RetryPolicy) bool {
	return p.Strategy == q.Strategy && p.MaxAttempts == q.MaxAttempts && p.Base == q.Base && p.Max == q.Max &&
		slices.Equal(p.Schedule, q.Schedule)
}

// MaxRetryAfter is the longest Retry-After of a destination that is followed.
const MaxRetryAfter = 24 * time.Hour

// Delay is how long to wait after counted attempt n (1, 2, …). random, in [0, 1), spreads
// the delay over [0.75, 1.25) of itself, so that what failed together does not return together.
func (p RetryPolicy) Delay(n int, random float64) time.Duration {
	d := p.Max
	switch p.Strategy {
	case RetryLinear:
		if time.Duration(n) <= p.Max/p.Base {
			d = p.Base * time.Duration(n)
		}
	case RetryFixed:
		d = p.Base
	case RetrySchedule:
		if len(p.Schedule) > 0 {
			d = p.Schedule[min(n, len(p.Schedule))-1]
		}
	default:
		if shift := n - 1; shift < 62 && p.Base <= p.Max>>shift {
			d = p.Base << shift
		}
	}
	d = min(d, p.Max)
	return d - d/4 + time.Duration(float64(d/2)*random)
}
