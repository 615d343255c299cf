package delivery

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// gaugeAge is how old a reading of the store's queue may be. gaugeLimit is how many deliveries are
// counted for one endpoint: a reading must stay cheap however long the queue is.
const (
	gaugeAge   = 15 * time.Second
	gaugeLimit = 10_000
)

// Gauges collects figures of the queue, of endpoints and of circuits. It reads the queue from the
// store when the figures are scraped, at most once in 15 s, and the others from Settings.
type Gauges struct {
	Store    store.Housekeeping
	Settings *settings.Cache
	Clock    *clock.Clock

	mu    sync.Mutex
	at    time.Time
	depth store.QueueDepth
}

var (
	depthDesc    = prometheus.NewDesc("kapsel_queue_depth", "Deliveries that are not terminal, by state: pending, due (of the pending) and delivering; counted up to 10,000 an endpoint.", []string{"state"}, nil)
	oldestDesc   = prometheus.NewDesc("kapsel_queue_oldest_seconds", "For how long the oldest due delivery has been due.", nil, nil)
	circuitDesc  = prometheus.NewDesc("kapsel_circuits", "Endpoints by the state of their circuit.", []string{"state"}, nil)
	endpointDesc = prometheus.NewDesc("kapsel_endpoints", "Endpoints by state.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- depthDesc
	ch <- oldestDesc
	ch <- circuitDesc
	ch <- endpointDesc
}

// Collect implements prometheus.Collector.
func (g *Gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if depth, ok := g.read(); ok {
		gauge(depthDesc, float64(depth.Pending), "pending")
		gauge(depthDesc, float64(depth.Due), "due")
		gauge(depthDesc, float64(depth.Delivering), "delivering")
		age := 0.0
		if !depth.Oldest.IsZero() {
			age = max(0, g.Clock.Now().Sub(depth.Oldest).Seconds())
		}
		gauge(oldestDesc, age)
	}
	endpoints, circuits := g.Settings.Count()
	for _, s := range []kapsel.EndpointState{kapsel.EndpointActive, kapsel.EndpointPaused, kapsel.EndpointDisabled} {
		gauge(endpointDesc, float64(endpoints[s]), string(s))
	}
	for _, s := range []kapsel.CircuitState{kapsel.CircuitClosed, kapsel.CircuitOpened, kapsel.CircuitHalfOpen} {
		gauge(circuitDesc, float64(circuits[s]), string(s))
	}
}

// read returns the last reading of the queue, and makes a new one if that is older than gaugeAge.
// It returns false if the store cannot be read; Collect then leaves out the queue's figures.
func (g *Gauges) read() (store.QueueDepth, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.at) < gaugeAge {
		return g.depth, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	depth, err := g.Store.QueueDepth(ctx, g.Clock.Now(), gaugeLimit)
	if err != nil {
		return store.QueueDepth{}, false
	}
	g.at, g.depth = time.Now(), depth
	return depth, true
}
