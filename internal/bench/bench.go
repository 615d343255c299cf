// Package bench measures a webhook gateway from outside, and compares Kapsel with a relay
// that does the least a Go gateway can do.
//
// Its parts serve `kapsel bench` and the tests that load, slow down and kill a real Kapsel:
//
//   - Load sends events over plain keep-alive connections and counts what became of each.
//   - Sink is the destination: it finds each event again, answers as told, keeps facts.
//   - ServeRelay is the least gateway: append to a file, sync, answer, forward.
//   - Process runs Kapsel or the relay as a child that can be killed, frozen and measured.
//   - Compare runs all of them and makes a Report.
//
// Every event carries a marker with its number, so a loss or a duplicate is seen one by one
// and not guessed from totals. Load generator and sink run in one process on purpose: times
// of both ends come from one monotonic clock.
package bench

import (
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what one run of load saw. Its JSON names are stable.
type Result struct {
	// Sent events are those for which a request was begun. Each ends in Status or in Errors.
	Sent int `json:"sent"`
	// Acked events were answered 2xx: only they may not be lost.
	Acked int `json:"acked"`
	// Errors are requests without an answer; what became of their events is not known.
	Errors     int         `json:"errors"`
	FirstError string      `json:"first_error,omitempty"`
	Status     map[int]int `json:"status"`
	// Seconds is how long sending took, from the first event to the last answer.
	Seconds float64 `json:"seconds"`
	AckPerS float64 `json:"ack_per_s"`

	// Delivered events reached the sink at least once and were answered 2xx there.
	// DeliveredPerS counts from the first event sent to the last one delivered.
	Delivered     int     `json:"delivered"`
	DeliveredPerS float64 `json:"delivered_per_s"`
	// Lost events were acknowledged and not delivered when waiting ended. Where the sink
	// does not answer 2xx, nothing is waited for and nothing counts as lost.
	Lost int `json:"lost"`
	// Duplicates are deliveries answered 2xx beyond the first of an event.
	Duplicates int `json:"duplicates"`
	// UnackedDelivered events came through although they were not acknowledged. That is
	// allowed: an error or a 503 means "not known".
	UnackedDelivered int `json:"unacked_delivered"`
	// Requests are all that the sink saw of this run, whatever it answered; Foreign are
	// those that were not of this run.
	Requests int `json:"requests"`
	Foreign  int `json:"foreign"`

	// AckMS is from the time an event was due to be sent to its acknowledgement. In a closed
	// loop it is due when its connection is free; in an open loop by the schedule, so that
	// waiting for a connection counts.
	AckMS Latency `json:"ack_ms"`
	// E2EMS is from the same moment to the event's first delivery: its request completely
	// read by a sink that answers 2xx.
	E2EMS Latency `json:"e2e_ms"`
	// AfterAckMS is from the acknowledgement to the first delivery; a delivery that overtook
	// its acknowledgement counts as 0.
	AfterAckMS Latency `json:"after_ack_ms"`

	// PeakRSSMiB is the largest resident memory of the measured process, 0 if not known.
	PeakRSSMiB float64 `json:"peak_rss_mib,omitempty"`
	// Output is the file with what the measured process wrote, kept when something failed.
	Output string `json:"output,omitempty"`
}

// Latency has the percentiles of a latency in milliseconds, three digits exact.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// histogram collects latencies from 1 µs to an hour; longer ones count as an hour.
type histogram struct{ h *hdrhistogram.Histogram }

const longest = time.Hour

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, longest.Microseconds(), 3)}
}

func (h histogram) add(d time.Duration) {
	// The only error is a value out of range, which the bounds rule out.
	_ = h.h.RecordValue(min(max(d, 0), longest).Microseconds())
}

func (h histogram) latency() Latency {
	at := func(percentile float64) float64 { return float64(h.h.ValueAtPercentile(percentile)) / 1e3 }
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: at(100)}
}

// median is the middle of the values, the lower one of two; 0 without any.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[(len(s)-1)/2]
}
