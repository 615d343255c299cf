package ingest

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
}

// answered holds the codes of the answers that senders get: ok, or the error's.
var answered = []kapsel.Code{
	"ok", kapsel.InvalidSignature, kapsel.PayloadTooLarge, kapsel.InvalidEndpoint, kapsel.RateLimited,
	kapsel.InvalidRequest, kapsel.QuotaExceeded, kapsel.DatabaseUnavailable, kapsel.QueueFull, kapsel.ShuttingDown,
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kapsel_ingest_requests_total", Help: "Webhooks received, by the code of the answer; ok: stored, or a provider's handshake.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kapsel_ingest_duration_seconds", Help: "Time from a webhook's header to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	// A series that begins with its first event shows no increase, so an alert would miss that event.
	for _, code := range answered {
		m.requests.WithLabelValues(string(code))
	}
	return m
}

// Collectors returns the handler's metrics. Callers must register them.
func (h *Handler) Collectors() []prometheus.Collector {
	return []prometheus.Collector{h.metrics.requests, h.metrics.duration}
}
