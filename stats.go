package kapsel

import (
	"math/bits"
	"time"
)

// Stats count what became of an endpoint's attempts and deliveries in a while, and how many
// webhooks it refused or accepted without a key.
type Stats struct {
	Outcomes [OutcomeCount]int64 // attempts by Outcome
	Ended    [EndedCount]int64   // deliveries by their terminal state, Delivered first
	// Latency counts the attempts whose destination answered or let them run into the
	// time-out, by how long they took.
	Latency Histogram
	// Refused counts webhooks that were answered with an error and not stored.
	Refused int64
	// Unkeyed counts webhooks that were accepted without an idempotency key where the endpoint
	// says where they have one.
	Unkeyed int64
}

// EndedCount is how many terminal states there are.
const EndedCount = int(Canceled-Delivered) + 1

// Outcome is a class of what attempts end with.
type Outcome uint8

// The outcomes.
const (
	Succeeded    Outcome = iota // answered 2xx
	ClientErrors                // answered 3xx or 4xx
	ServerErrors                // answered 5xx
	Timeouts                    // no answer in time
	NoAnswers                   // refused, DNS, TLS, blocked, not HTTP, or the connection was lost
	Unknowns                    // the node that made it was lost
	OutcomeCount = iota
)

// OutcomeOf is the class of an attempt's error code.
func OutcomeOf(code Code) Outcome {
	switch code {
	case "":
		return Succeeded
	case HTTPClientError:
		return ClientErrors
	case HTTPServerError:
		return ServerErrors
	case ConnectionTimeout:
		return Timeouts
	case OutcomeUnknown:
		return Unknowns
	}
	return NoAnswers
}

// Timed reports whether attempts of an outcome say how long the destination takes.
func (o Outcome) Timed() bool { return o <= Timeouts }

// AddAttempt counts an attempt.
func (s *Stats) AddAttempt(code Code, took time.Duration) {
	o := OutcomeOf(code)
	s.Outcomes[o]++
	if o.Timed() {
		s.Latency[BucketOf(took)]++
	}
}

// AddEnd counts a delivery that has come into a state; only terminal ones count.
func (s *Stats) AddEnd(to DeliveryStatus) {
	if to.Terminal() {
		s.Ended[to-Delivered]++
	}
}

// Add adds what another has counted.
func (s *Stats) Add(o *Stats) {
	mine, theirs := s.Counters(), o.Counters()
	for i := range mine {
		*mine[i] += *theirs[i]
	}
}

// Counters are all counters in the order in which stores keep them: outcomes, ends, latency,
// refused, unkeyed. A new counter goes to the end.
func (s *Stats) Counters() (all [StatsCounters]*int64) {
	n := 0
	for _, some := range [][]int64{s.Outcomes[:], s.Ended[:], s.Latency[:]} {
		for i := range some {
			all[n] = &some[i]
			n++
		}
	}
	all[n], all[n+1] = &s.Refused, &s.Unkeyed
	return all
}

// StatsCounters is how many counters Stats have.
const StatsCounters = OutcomeCount + EndedCount + len(Histogram{}) + 2

// Attempts is how many attempts were counted.
func (s *Stats) Attempts() (n int64) {
	for _, o := range s.Outcomes {
		n += o
	}
	return n
}

// Histogram counts durations in buckets that double: the first holds all up to 1 ms, the
// next those up to 2 ms, and so on; the last all above 262,144 ms. What is stored has these
// buckets, so they can never change.
type Histogram [20]int64

// BucketOf is the bucket that a duration is counted in.
func BucketOf(d time.Duration) int {
	if d <= time.Millisecond {
		return 0
	}
	ms := (d - 1) / time.Millisecond // of 1 ms and more: 1 ms to 2 ms is 1
	return min(bits.Len64(uint64(ms)), len(Histogram{})-1)
}

// Quantile estimates the duration that a share q (0 to 1) of those counted do not exceed. The
// true one is in the same bucket, so the estimate is less than twice, and more than half of
// it. false: nothing was counted.
func (h *Histogram) Quantile(q float64) (time.Duration, bool) {
	var total int64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0, false
	}
	rank := q * float64(total)
	below := 0.0
	for i, n := range h {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		// As if those of a bucket lay in it at equal distances.
		low, high := time.Millisecond<<i/2, time.Millisecond<<i
		if i == 0 {
			low = 0
		}
		return low + time.Duration((rank-below)/float64(n)*float64(high-low)), true
	}
	return time.Millisecond << (len(h) - 1), true
}

// StatsHour is where the stats of a moment are counted: the hour that it is in.
func StatsHour(t time.Time) time.Time { return t.UTC().Truncate(time.Hour) }

// Usage is what a tenant used in a while.
type Usage struct {
	Events     int64 // accepted; duplicates are none
	Bytes      int64 // of their bodies
	Attempts   int64
	Deliveries int64 // that ended, in whatever state
	Delivered  int64 // of these
}

// Add adds what another has counted.
func (u *Usage) Add(o Usage) {
	u.Events += o.Events
	u.Bytes += o.Bytes
	u.Attempts += o.Attempts
	u.Deliveries += o.Deliveries
	u.Delivered += o.Delivered
}

// AddEnd counts a delivery that has come into a state; only terminal ones count.
func (u *Usage) AddEnd(to DeliveryStatus) {
	if to.Terminal() {
		u.Deliveries++
	}
	if to == Delivered {
		u.Delivered++
	}
}

// UsageDay is where the usage of a moment is counted: the day that it is in, in UTC.
func UsageDay(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// UsageMonth is the calendar month that a moment is in, in UTC, half-open.
func UsageMonth(t time.Time) (first, next time.Time) {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
}
