package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// PushMetrics exports what metrics gathers by OTLP over HTTP, once a minute or as
// OTEL_METRIC_EXPORT_INTERVAL says, under the names and labels of /metrics. It is configured by
// OpenTelemetry's own environment variables; callers must have called CheckEnvironment. If
// OTEL_METRICS_EXPORTER is not otlp and OTEL_EXPORTER_OTLP_METRICS_ENDPOINT names no endpoint, PushMetrics
// does nothing: a collector that takes traces need not take metrics. What cannot be exported is dropped, and
// the failure is logged. shutdown exports the last values until its context ends.
func PushMetrics(ctx context.Context, version string, metrics prometheus.Gatherer) (shutdown func(context.Context) error, err error) {
	if !pushWanted() {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make metric exporter: %w", err)
	}
	about, err := describe(ctx, version)
	if err != nil {
		return nil, err
	}
	reader := sdkmetric.NewPeriodicReader(loudly{exporter}, sdkmetric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(metrics))))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(about))
	return provider.Shutdown, nil
}

// loudly is an exporter whose failures are logged, without what the collector answered.
type loudly struct{ sdkmetric.Exporter }

func (l loudly) Export(ctx context.Context, metrics *metricdata.ResourceMetrics) error {
	if err := l.Exporter.Export(ctx, metrics); err != nil {
		slog.Warn("cannot export metrics", "error", exportFailure(err))
	}
	return nil
}

func pushWanted() bool {
	if disabled() {
		return false
	}
	switch strings.TrimSpace(os.Getenv("OTEL_METRICS_EXPORTER")) {
	case "none":
		return false
	case "otlp":
		return os.Getenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != ""
	default:
		return os.Getenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") != ""
	}
}

// describe returns what traces and metrics say of their process. Later sources win, so OTEL_SERVICE_NAME
// and OTEL_RESOURCE_ATTRIBUTES override ours.
func describe(ctx context.Context, version string) (*resource.Resource, error) {
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "kapsel"), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe the process: %w", err)
	}
	return about, nil
}
