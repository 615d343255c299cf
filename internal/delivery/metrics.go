package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
)

// metrics holds the engine's figures. The gauges are computed when they are read.
type metrics struct {
	outcomes   *prometheus.CounterVec
	attempts   prometheus.Histogram
	firstDelay prometheus.Histogram
	exhausted  prometheus.Counter
	shortages  prometheus.Counter
	busy       prometheus.GaugeFunc
	memory     prometheus.GaugeFunc
}

func newMetrics(e *Engine) *metrics {
	buckets := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kapsel_deliveries_total", Help: "Recorded attempts by what became of the delivery: delivered, retry, failed, dead_letter or canceled.",
		}, []string{"outcome"}),
		attempts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kapsel_delivery_attempt_duration_seconds", Help: "Duration of exchanges with destinations.", Buckets: buckets,
		}),
		firstDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kapsel_delivery_first_attempt_delay_seconds", Help: "Time from an event's reception, or from its deliver_at, to the start of its first attempt.", Buckets: buckets,
		}),
		exhausted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kapsel_workers_exhausted_total", Help: "Times that all workers became busy while deliveries waited (E3004).",
		}),
		shortages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kapsel_delivery_shortages_total", Help: "Deliveries that went back without an attempt for want of files, ports or memory on this machine.",
		}),
		busy: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kapsel_workers_busy", Help: "Workers in use.",
		}, func() float64 { e.mu.Lock(); defer e.mu.Unlock(); return float64(e.gates.Busy()) }),
		memory: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kapsel_body_memory_bytes", Help: "Bytes of event bodies held in memory.",
		}, func() float64 { return float64(e.Budget.Used()) }),
	}
	// A series that begins with its first event shows no increase, so an alert would miss that event.
	for _, outcome := range []string{"retry", kapsel.Delivered.String(), kapsel.Failed.String(), kapsel.DeadLetter.String(), kapsel.Canceled.String()} {
		m.outcomes.WithLabelValues(outcome)
	}
	return m
}

// Collectors returns the engine's metrics. Callers must register them.
func (e *Engine) Collectors() []prometheus.Collector {
	m := e.metrics
	return []prometheus.Collector{m.outcomes, m.attempts, m.firstDelay, m.exhausted, m.shortages, m.busy, m.memory}
}

// RateAllows returns when the endpoint's rate, or this node's share of it, lets the next exchange
// start: now if it may start at once, or if the engine has no gate for the endpoint.
func (e *Engine) RateAllows(ep *kapsel.Endpoint) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.now()
	if g := e.gates.Gate(ep.ID); g != nil {
		return e.gates.Standing(g, at).Rated
	}
	return at.Store
}

// Why returns what a pending delivery waits for, in the words of the API. It returns "" if the
// delivery is not pending or waits for nothing that the engine knows.
func (e *Engine) Why(ep *kapsel.Endpoint, d kapsel.Delivery) string {
	if d.Status != kapsel.Pending {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.now()
	now := at.Store // one reading for all: by a later one, what may start now would seem to start later
	if d.Scheduled(now) {
		return "scheduled"
	}
	switch ep.State {
	case kapsel.EndpointPaused:
		return "paused"
	case kapsel.EndpointDisabled:
		return "disabled"
	}
	standing := gate.Standing{Circuit: e.Settings.Circuit(ep.ID), Full: true}
	g := e.gates.Gate(ep.ID)
	if g != nil {
		standing = e.gates.Standing(g, at)
	}
	c := ep.CircuitNow(standing.Circuit)
	switch {
	case c.State == kapsel.CircuitOpened,
		c.State == kapsel.CircuitHalfOpen && (!standing.Probing || standing.Full):
		return "circuit"
	case c.HoldUntil.After(now):
		return "throttled"
	case standing.Short > 0 && !d.DueAt.After(now.Add(standing.Short)):
		return "worker"
	case d.DueAt.After(now):
		return "retry"
	case g == nil:
		return ""
	case standing.Rated.After(now):
		return "rate"
	case standing.Full:
		return "concurrency"
	case e.gates.Busy() >= e.gates.Workers(at):
		return "worker"
	}
	return ""
}
