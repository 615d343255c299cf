package kapsel

import (
	"slices"
	"time"
)

// RetryPolicy says how many attempts a delivery gets and how long it waits between them.
type RetryPolicy struct {
	Strategy    string          `json:"strategy"` // a Retry… constant
	MaxAttempts int             `json:"max_attempts"`
	Base        time.Duration   `json:"base"`
	Max         time.Duration   `json:"max"`
	Schedule    []time.Duration `json:"schedule,omitempty"` // used by RetrySchedule only
}

// The retry strategies. Each comment gives the delay after counted attempt n, before the limit Max
// and the jitter.
const (
	RetryExponential = "exponential" // base · 2^(n−1)
	RetryLinear      = "linear"      // base · n
	RetryFixed       = "fixed"       // base
	RetrySchedule    = "schedule"    // the n-th entry; the last repeats
)

// DefaultRetry returns a policy of 20 attempts within about 24 hours: after 1, 2, 4, … 512 s, then
// up to 4 h apart.
func DefaultRetry() RetryPolicy {
	return RetryPolicy{Strategy: RetryExponential, MaxAttempts: 20, Base: time.Second, Max: 4 * time.Hour}
}

// Equal reports whether both policies are the same.
func (p RetryPolicy) Equal(q RetryPolicy) bool {
	return p.Strategy == q.Strategy && p.MaxAttempts == q.MaxAttempts && p.Base == q.Base && p.Max == q.Max &&
		slices.Equal(p.Schedule, q.Schedule)
}

// MaxRetryAfter is the longest Retry-After of a destination that Kapsel follows.
const MaxRetryAfter = 24 * time.Hour

// Delay returns how long to wait after counted attempt n (1, 2, …). random, in [0, 1), spreads the
// delay over [0.75, 1.25) of its length, so that deliveries that failed together are not retried
// together.
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
