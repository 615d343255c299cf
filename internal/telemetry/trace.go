package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// A traceparent is "00-" trace id "-" parent span id "-" flags, in lower-case hex
// (W3C Trace Context, 3.2).
const (
	traceparentLen = 55
	traceAt, idAt  = 3, 36 // where the trace id and the span id begin
	flagsAt        = 53
)

// Continue is the traceparent for a request that follows from one that carried a given
// traceparent: the same trace and flags under a new span id. An absent or invalid one begins
// a new trace, with the sampled flag off as for every trace that its starter does not record
// (W3C Trace Context, 3.2.2.5).
func Continue(traceparent string) string {
	var b [traceparentLen]byte
	copy(b[:], "00-")
	b[idAt-1], b[flagsAt-1] = '-', '-'
	if validTraceparent(traceparent) {
		copy(b[traceAt:idAt-1], traceparent[traceAt:])
		// Of the flags only "sampled" is known; the others must be sent as zero.
		b[flagsAt], b[flagsAt+1] = '0', '0'+unhex(traceparent[flagsAt+1])&1
	} else {
		randomHex(b[traceAt : traceAt+16])
		randomHex(b[traceAt+16 : idAt-1])
		b[flagsAt], b[flagsAt+1] = '0', '0'
	}
	randomHex(b[idAt : flagsAt-1])
	return string(b[:])
}

// randomHex fills 16 bytes with a random number other than zero, in hex. Span and trace ids
// need no secrecy, only to be unlike others.
func randomHex(dst []byte) {
	n := rand.Uint64()
	for n == 0 {
		n = rand.Uint64()
	}
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(n >> (8 * i))
	}
	hex.Encode(dst, raw[:])
}

// validTraceparent reports whether a traceparent is of a version that can be read: version
// 00 exactly as long as it is, later ones perhaps longer, and never ff.
func validTraceparent(s string) bool {
	switch {
	case len(s) < traceparentLen, s[2] != '-', s[idAt-1] != '-', s[flagsAt-1] != '-':
		return false
	case !isHex(s[:2]), s[:2] == "ff":
		return false
	case len(s) > traceparentLen && (s[:2] == "00" || s[traceparentLen] != '-'):
		return false
	}
	id, span := s[traceAt:idAt-1], s[idAt:flagsAt-1]
	return isHex(id) && isHex(span) && isHex(s[flagsAt:traceparentLen]) &&
		strings.Trim(id, "0") != "" && strings.Trim(span, "0") != ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// unhex is the value of a lower-case hex digit.
func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// tracer records spans; nil while tracing is off.
var tracer atomic.Pointer[trace.Tracer]

// StartTracing exports spans by OTLP over HTTP as OpenTelemetry's own environment variables
// say, which CheckEnvironment has accepted. Without an endpoint in them, with
// OTEL_SDK_DISABLED or with OTEL_TRACES_EXPORTER=none it does nothing, and Span
// costs no more than Continue. Spans that cannot be exported are dropped; failures are
// logged. shutdown sends what waits, for as long as its context allows.
func StartTracing(ctx context.Context, version string) (shutdown func(context.Context) error, err error) {
	if !tracingWanted() {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make trace exporter: %w", err)
	}
	// Later sources win, so OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override ours.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "kapsel"), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe trace resource: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		slog.Warn("cannot export traces", "error", exportFailure(err))
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	t := provider.Tracer("github.com/kapsel-hq/kapsel", trace.WithInstrumentationVersion(version))
	tracer.Store(&t)
	return func(ctx context.Context) error {
		tracer.Store(nil)
		if err := provider.Shutdown(ctx); err != nil {
			return fmt.Errorf("send remaining traces: %s", exportFailure(err))
		}
		return nil
	}, nil
}

// refusal matches the status in the exporter's error, which goes on with what was answered.
var refusal = regexp.MustCompile(`failed to send to \S+: (\d{3}) `)

// exportFailure says why an export failed, without the bytes of the collector's answer, which
// the exporter's errors quote: it may repeat the headers that it got, and they hold keys.
func exportFailure(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &errno):
		return "the collector cannot be reached: " + errno.Error()
	case errors.As(err, &dns):
		return "the collector's name cannot be looked up"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "the collector did not answer in time"
	}
	if status := refusal.FindStringSubmatch(err.Error()); status != nil {
		return "the collector answered " + status[1]
	}
	return "the collector refuses, or answers what cannot be read"
}

func tracingWanted() bool {
	if off, err := strconv.ParseBool(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED"))); err == nil && off {
		return false
	}
	if strings.TrimSpace(os.Getenv("OTEL_TRACES_EXPORTER")) == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Span begins a span that follows from a traceparent ("" or invalid: a new trace). child is
// the traceparent of requests made within it. end closes it, with an error when it failed
// and with what is known of it by then; it must be called once. With tracing off, child is
// Continue's and end does nothing.
func Span(traceparent, name string) (child string, end func(err error, attrs ...slog.Attr)) {
	t := tracer.Load()
	if t == nil {
		return Continue(traceparent), func(error, ...slog.Attr) {}
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parse(traceparent))
	_, span := (*t).Start(ctx, name)
	own := span.SpanContext()
	child = "00-" + own.TraceID().String() + "-" + own.SpanID().String() + "-" + (own.TraceFlags() & trace.FlagsSampled).String()
	return child, func(err error, attrs ...slog.Attr) {
		for _, a := range attrs {
			span.SetAttributes(attributeOf(a))
		}
		if err != nil {
			span.SetStatus(codes.Error, cut(err.Error()))
		}
		span.End()
	}
}

// attributeOf is a log attribute as a span's. Texts are cut as in the log.
func attributeOf(a slog.Attr) attribute.KeyValue {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindInt64:
		return attribute.Int64(a.Key, v.Int64())
	case slog.KindFloat64:
		return attribute.Float64(a.Key, v.Float64())
	case slog.KindBool:
		return attribute.Bool(a.Key, v.Bool())
	case slog.KindAny:
		return attribute.String(a.Key, cut(text(v.Any())))
	default:
		return attribute.String(a.Key, cut(v.String()))
	}
}

// parse is a traceparent as the span context of the sender, the zero one when invalid.
func parse(traceparent string) trace.SpanContext {
	if !validTraceparent(traceparent) {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{Remote: true, TraceFlags: trace.TraceFlags(unhex(traceparent[flagsAt+1]) & 1)}
	// The two errors cannot be: the text is valid hex of the right length.
	config.TraceID, _ = trace.TraceIDFromHex(traceparent[traceAt : idAt-1])
	config.SpanID, _ = trace.SpanIDFromHex(traceparent[idAt : flagsAt-1])
	return trace.NewSpanContext(config)
}
