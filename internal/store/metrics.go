package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures of the hot path's group commits. Observe is the CommitObserver to
// open a store with.
type Metrics struct {
	duration, batch prometheus.Histogram
}

// NewMetrics makes them.
func NewMetrics() *Metrics {
	return &Metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kapsel_store_commit_duration_seconds", Help: "Duration of a group commit, the sync included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kapsel_store_batch_size", Help: "Writes in a group commit.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		}),
	}
}

// Observe records a commit.
func (m *Metrics) Observe(calls int, took time.Duration) {
	m.duration.Observe(took.Seconds())
	m.batch.Observe(float64(calls))
}

// Collectors are the metrics, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.duration, m.batch}
}
