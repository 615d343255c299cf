package telemetry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckEnvironment(t *testing.T) {
	for name := range checks {
		t.Setenv(name, "")
	}
	if err := CheckEnvironment(); err != nil {
		t.Fatalf("with nothing set: %v", err)
	}
	folder := t.TempDir()
	noPEM, missing := filepath.Join(folder, "no.pem"), filepath.Join(folder, "missing.pem")
	if err := os.WriteFile(noPEM, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string]struct{ right, wrong []string }{
		"OTEL_SDK_DISABLED":                                 {[]string{"true", "FALSE", " 1 "}, []string{"yes", "hunter2"}},
		"OTEL_TRACES_EXPORTER":                              {[]string{"otlp", "none"}, []string{"console", "jaeger", "hunter2"}},
		"OTEL_TRACES_SAMPLER":                               {[]string{"always_on", "ParentBased_TraceIDRatio"}, []string{"ratio", "hunter2"}},
		"OTEL_TRACES_SAMPLER_ARG":                           {[]string{"0", "0.25", "1"}, []string{"-0.1", "1.1", "NaN", "hunter2"}},
		"OTEL_RESOURCE_ATTRIBUTES":                          {[]string{"a=b", "service.name=x%20y, b="}, []string{"hunter2", "a=b,", "=b", "a=%zz"}},
		"OTEL_BSP_SCHEDULE_DELAY":                           {[]string{"5000"}, []string{"5s", "0", "-1", "hunter2"}},
		"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT":                   {[]string{"0", "-1", "128"}, []string{"many", "-2", "hunter2"}},
		"OTEL_EXPORTER_OTLP_ENDPOINT":                       {[]string{"http://localhost:4318", "https://a:hunter2@b.example/otlp"}, []string{"localhost:4318", "grpc://a", "http://", "http://[::1", "hunter2"}},
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT":                {[]string{"http://10.0.0.1/v1/traces"}, []string{"/v1/traces"}},
		"OTEL_EXPORTER_OTLP_HEADERS":                        {[]string{"api-key=hunter2,x=%20"}, []string{"hunter2", "api key=hunter2", "a=hunter2%zz"}},
		"OTEL_EXPORTER_OTLP_PROTOCOL":                       {[]string{"http/protobuf", "http/json"}, []string{"grpc", "HTTP/protobuf", "hunter2"}},
		"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION":             {[]string{"gzip", "none"}, []string{"zstd", "GZIP", "hunter2"}},
		"OTEL_EXPORTER_OTLP_TIMEOUT":                        {[]string{"10000"}, []string{"10s", "0", "hunter2"}},
		"OTEL_EXPORTER_OTLP_INSECURE":                       {[]string{"TRUE", "false"}, []string{"1", "hunter2"}},
		"OTEL_EXPORTER_OTLP_CERTIFICATE":                    {nil, []string{missing, noPEM, "hunter2"}},
		"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE":      {nil, []string{noPEM, missing}},
		"OTEL_METRICS_EXPORTER":                             {[]string{"otlp", "none"}, []string{"prometheus", "hunter2"}},
		"OTEL_METRIC_EXPORT_INTERVAL":                       {[]string{"60000"}, []string{"60s", "0", "hunter2"}},
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT":               {[]string{"http://10.0.0.1/v1/metrics"}, []string{"/v1/metrics"}},
		"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": {[]string{"Delta", "cumulative"}, []string{"hunter2"}},
		"OTEL_BLRP_SCHEDULE_DELAY":                          {[]string{"whatever"}, nil}, // is not read
	} {
		t.Run(name, func(t *testing.T) {
			for _, value := range values.right {
				t.Setenv(name, value)
				if err := CheckEnvironment(); err != nil {
					t.Errorf("%q: %v", value, err)
				}
			}
			for _, value := range values.wrong {
				t.Setenv(name, value)
				err := CheckEnvironment()
				if err == nil || !strings.HasPrefix(err.Error(), name) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%q: %v", value, err)
				}
			}
		})
	}

	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "11")
	if err := CheckEnvironment(); err == nil || !strings.Contains(err.Error(), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE: must be at most") {
		t.Errorf("a batch larger than the queue: %v", err)
	}
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "x")
	t.Setenv("OTEL_TRACES_SAMPLER", "x")
	if err := CheckEnvironment(); err == nil || strings.Count(err.Error(), "; ") != 1 {
		t.Errorf("two at once: %v", err)
	}
}
