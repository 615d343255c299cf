// Package harness measures a webhook gateway from outside. The tests that load, slow down and kill a real
// Kapsel stand on it, and so does package bench:
//
//   - Load sends events over plain keep-alive connections and records the result of each.
//   - Sink is the destination: it recognises each event, answers by mode or script, and counts.
//   - Process runs Kapsel or another gateway as a child process that can be killed, frozen and measured.
//
// Every event carries a marker with its number, so each single loss or duplicate is seen, not
// derived from totals. The load generator and the sink share one process, so that all times come
// from one monotonic clock.
package harness

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what one run of load observed. Its JSON names are stable.
type Result struct {
	// Sent is the number of events for which a request was begun. Each is counted in Status or in
	// Errors.
	Sent int `json:"sent"`
	// Acked is the number of events answered 2xx. Only these must not be lost.
	Acked int `json:"acked"`
	// Errors is the number of requests without an answer. It is unknown what became of their events.
	Errors     int         `json:"errors"`
	FirstError string      `json:"first_error,omitempty"`
	Status     map[int]int `json:"status"`
	// Seconds is how long sending took, from the first event to the last answer.
	Seconds float64 `json:"seconds"`
	AckPerS float64 `json:"ack_per_s"`

	// Delivered is the number of events that the sink received and answered 2xx at least once.
	// DeliveredPerS is measured from the first event sent to the last one delivered.
	Delivered     int     `json:"delivered"`
	DeliveredPerS float64 `json:"delivered_per_s"`
	// Lost is the number of acknowledged events that were not delivered when waiting ended. It is 0 if
	// the sink does not answer 2xx, because then Load does not wait for deliveries.
	Lost int `json:"lost"`
	// Duplicates is the number of deliveries answered 2xx after the first one of the same event.
	Duplicates int `json:"duplicates"`
	// UnackedDelivered is the number of events that were delivered although they were not
	// acknowledged. That is allowed: an error or a 503 means "not known".
	UnackedDelivered int `json:"unacked_delivered"`
	// Requests is the number of requests of this run at the sink, whatever it answered. Foreign is the
	// number of requests that did not belong to this run.
	Requests int `json:"requests"`
	Foreign  int `json:"foreign"`

	// AckMS is the time from when an event was due to be sent until its acknowledgement. In a closed
	// loop an event is due when its connection is free. In an open loop the schedule says when, so
	// waiting for a connection counts.
	AckMS Latency `json:"ack_ms"`
	// E2EMS is the time from when an event was due until its first delivery, when a sink that answers
	// 2xx has read the whole request.
	E2EMS Latency `json:"e2e_ms"`
	// AfterAckMS is the time from the acknowledgement to the first delivery; 0 if the delivery came
	// first.
	AfterAckMS Latency `json:"after_ack_ms"`

	// PeakRSSMiB is the largest resident memory of the measured process; 0 if it is unknown.
	PeakRSSMiB float64 `json:"peak_rss_mib,omitempty"`
	// Output is the file with the output of the measured process, which is kept if something failed.
	Output string `json:"output,omitempty"`
}

// Latency holds percentiles in milliseconds, exact to three digits.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// histogram collects latencies from 1 µs to an hour. Longer ones count as an hour.
type histogram struct{ h *hdrhistogram.Histogram }

const longest = time.Hour

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, longest.Microseconds(), 3)}
}

func (h histogram) add(d time.Duration) {
	// The only possible error is a value out of range, which min and max rule out.
	_ = h.h.RecordValue(min(max(d, 0), longest).Microseconds())
}

func (h histogram) latency() Latency {
	at := func(percentile float64) float64 { return float64(h.h.ValueAtPercentile(percentile)) / 1e3 }
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: at(100)}
}
