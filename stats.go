package kapsel

import (
	"math/bits"
	"time"
)

// Stats counts the results of an endpoint's attempts and deliveries over a period, and the
// webhooks that the endpoint refused or accepted without a key.
type Stats struct {
	Outcomes [OutcomeCount]int64 // attempts by Outcome
	Ended    [EndedCount]int64   // deliveries by terminal status, Delivered first
	// Latency counts the durations of the attempts that the destination answered or that timed out.
	Latency Histogram
	// Refused counts the webhooks that were answered with an error and not stored.
	Refused int64
	// Unkeyed counts the webhooks that were accepted without an idempotency key although the
	// endpoint's settings name the place of one.
	Unkeyed int64
}

// EndedCount is the number of terminal statuses.
const EndedCount = int(Canceled-Delivered) + 1

// Outcome is a class of attempt results.
type Outcome uint8

// The outcomes.
const (
	Succeeded    Outcome = iota // answered 2xx
	ClientErrors                // answered 3xx or 4xx
	ServerErrors                // answered 5xx
	Timeouts                    // no answer in time
	NoAnswers                   // connection refused or lost, DNS, TLS, blocked, or no valid HTTP
	Unknowns                    // the node died before it recorded the result
	OutcomeCount = iota
)

// OutcomeOf returns the class of an attempt's error code; "" means success.
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

// Timed reports whether the duration of an attempt with this outcome says how long the destination
// takes to answer.
func (o Outcome) Timed() bool { return o <= Timeouts }

// AddAttempt counts an attempt with an error code ("" for success) and a duration.
func (s *Stats) AddAttempt(code Code, took time.Duration) {
	o := OutcomeOf(code)
	s.Outcomes[o]++
	if o.Timed() {
		s.Latency[BucketOf(took)]++
	}
}

// AddEnd counts a delivery that has reached a status. It ignores statuses that are not terminal.
func (s *Stats) AddEnd(to DeliveryStatus) {
	if to.Terminal() {
		s.Ended[to-Delivered]++
	}
}

// Add adds the counts of o to s.
func (s *Stats) Add(o *Stats) {
	mine, theirs := s.Counters(), o.Counters()
	for i := range mine {
		*mine[i] += *theirs[i]
	}
}

// Counters returns pointers to all counters, in the order in which stores keep them: outcomes,
// ended, latency, refused, unkeyed. A new counter must go to the end.
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

// StatsCounters is the number of counters in Stats.
const StatsCounters = OutcomeCount + EndedCount + len(Histogram{}) + 2

// Attempts returns the number of attempts counted.
func (s *Stats) Attempts() (n int64) {
	for _, o := range s.Outcomes {
		n += o
	}
	return n
}

// Histogram counts durations in buckets of doubling width: the first holds durations up to 1 ms,
// the second up to 2 ms, and so on; the last holds everything above 262,144 ms. Stored rows have
// these buckets, so they can never change.
type Histogram [20]int64

// BucketOf returns the index of the bucket that counts a duration.
func BucketOf(d time.Duration) int {
	if d <= time.Millisecond {
		return 0
	}
	ms := (d - 1) / time.Millisecond // rounded up to whole ms, less 1: durations above 1 ms up to 2 ms give 1
	return min(bits.Len64(uint64(ms)), len(Histogram{})-1)
}

// Quantile estimates the duration that a share q (0 to 1) of the counted durations do not exceed.
// It returns false if nothing was counted. The true value lies in the same bucket, so the estimate
// is more than half of it and less than twice.
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
		// Assume that the durations of a bucket are spread evenly over it.
		low, high := time.Millisecond<<i/2, time.Millisecond<<i
		if i == 0 {
			low = 0
		}
		return low + time.Duration((rank-below)/float64(n)*float64(high-low)), true
	}
	return time.Millisecond << (len(h) - 1), true
}

// StatsHour returns the start, in UTC, of the hour under which stats of time t are counted.
func StatsHour(t time.Time) time.Time { return t.UTC().Truncate(time.Hour) }

// Usage counts what a tenant used over a period.
type Usage struct {
	Events     int64 // accepted events; duplicates are not counted
	Bytes      int64 // total size of the accepted events' bodies
	Attempts   int64
	Deliveries int64 // deliveries that ended, in any terminal status
	Delivered  int64 // deliveries that ended as delivered
}

// Add adds the counts of o to u.
func (u *Usage) Add(o Usage) {
	u.Events += o.Events
	u.Bytes += o.Bytes
	u.Attempts += o.Attempts
	u.Deliveries += o.Deliveries
	u.Delivered += o.Delivered
}

// AddEnd counts a delivery that has reached a status. It ignores statuses that are not terminal.
func (u *Usage) AddEnd(to DeliveryStatus) {
	if to.Terminal() {
		u.Deliveries++
	}
	if to == Delivered {
		u.Delivered++
	}
}

// UsageDay returns the start, in UTC, of the day under which usage of time t is counted.
func UsageDay(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// UsageMonth returns the bounds, in UTC, of the calendar month that contains t: from first,
// inclusive, to next, exclusive.
func UsageMonth(t time.Time) (first, next time.Time) {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
}
