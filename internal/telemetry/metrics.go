package telemetry

import (
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry returns a registry with the metrics of the Go runtime, the process and the log. The
// caller must register the collectors of other packages.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kapsel_log_lines_lost_total",
			Help: "Log lines that could not be written.",
		}, func() float64 { return float64(linesLost.Load()) }),
	)
	return reg
}

// Observe adds a value to a histogram. If the value belongs to a trace that is recorded, the trace's ID
// goes along as the exemplar of the value's bucket, which leads from a slow bucket to a trace of it.
func Observe(h prometheus.Histogram, value float64, traceparent string) {
	if tracer.Load() != nil && sampled(traceparent) {
		if with, ok := h.(prometheus.ExemplarObserver); ok {
			with.ObserveWithExemplar(value, prometheus.Labels{"trace_id": traceparent[traceAt : idAt-1]})
			return
		}
	}
	h.Observe(value)
}

// Handler serves the metrics listener: /metrics and /debug/pprof/. It is for operators only and
// needs its own address, because profiles show the process's memory.
func Handler(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	// ContinueOnError: one failing collector must not hide the others in an incident.
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
