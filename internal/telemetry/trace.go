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
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// A traceparent is "00-" trace ID "-" parent span ID "-" flags, in lower-case hex (W3C Trace
// Context, 3.2).
const (
	traceparentLen = 55
	traceAt, idAt  = 3, 36 // offsets of the trace ID and the span ID
	flagsAt        = 53
)

// Continue returns the traceparent for a request that was caused by one with a given traceparent:
// the same trace and flags with a new span ID. If traceparent is "" or not valid, Continue starts
// a new trace with the sampled flag off, as a party that does not record it must (W3C Trace
// Context, 3.2.2.5).
func Continue(traceparent string) string {
	var b [traceparentLen]byte
	copy(b[:], "00-")
	b[idAt-1], b[flagsAt-1] = '-', '-'
	if validTraceparent(traceparent) {
		copy(b[traceAt:idAt-1], traceparent[traceAt:])
		// Only the flag "sampled" is known; others must be sent as zero.
		b[flagsAt], b[flagsAt+1] = '0', '0'+unhex(traceparent[flagsAt+1])&1
	} else {
		randomHex(b[traceAt : traceAt+16])
		randomHex(b[traceAt+16 : idAt-1])
		b[flagsAt], b[flagsAt+1] = '0', '0'
	}
	randomHex(b[idAt : flagsAt-1])
	return string(b[:])
}

// randomHex writes a random number other than zero as 16 hex digits. IDs of spans and traces must
// be unique, not secret.
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

// validTraceparent reports whether s is a valid traceparent: of version 00 with its exact length,
// or of a later version, except ff, which may be longer.
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

// sampled reports whether a traceparent that Span has returned belongs to a trace that is recorded.
func sampled(traceparent string) bool {
	return len(traceparent) >= traceparentLen && unhex(traceparent[flagsAt+1])&1 == 1
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// unhex returns the value of a lower-case hex digit.
func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// tracer records spans; nil while tracing is off.
var tracer atomic.Pointer[trace.Tracer]

// StartTracing exports spans by OTLP over HTTP, configured by OpenTelemetry's own environment
// variables. Callers must have called CheckEnvironment. If the variables name no endpoint, or
// OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none is set, StartTracing does nothing, and Span costs
// no more than Continue. Spans that cannot be exported are dropped, and the failure is logged.
// shutdown exports the remaining spans until its context ends.
func StartTracing(ctx context.Context, version string) (shutdown func(context.Context) error, err error) {
	if !tracingWanted() {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make trace exporter: %w", err)
	}
	about, err := describe(ctx, version)
	if err != nil {
		return nil, err
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

// refusal matches the status in the exporter's error, which continues with the collector's answer.
var refusal = regexp.MustCompile(`failed to send (?:metrics )?to \S+: (\d{3}) `)

// exportFailure returns why an export failed, without the collector's answer, which the exporter's
// errors quote. The answer may repeat request headers, and they hold keys.
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

// disabled reports whether the environment turns OpenTelemetry off.
func disabled() bool {
	off, err := strconv.ParseBool(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")))
	return err == nil && off
}

func tracingWanted() bool {
	if disabled() || strings.TrimSpace(os.Getenv("OTEL_TRACES_EXPORTER")) == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Span starts a span below the one of a traceparent ("" or not valid: in a new trace). child is
// the traceparent for requests made within the span. end ends the span, with an error if it failed
// and with more attributes; callers must call it exactly once. While tracing is off, child is the
// result of Continue and end does nothing.
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

// attributeOf converts a log attribute to a span's. It cuts texts as the log does.
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

// parse returns a traceparent as the sender's span context; the zero one if it is not valid.
func parse(traceparent string) trace.SpanContext {
	if !validTraceparent(traceparent) {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{Remote: true, TraceFlags: trace.TraceFlags(unhex(traceparent[flagsAt+1]) & 1)}
	// Errors are impossible: the text is valid hex of the right length.
	config.TraceID, _ = trace.TraceIDFromHex(traceparent[traceAt : idAt-1])
	config.SpanID, _ = trace.SpanIDFromHex(traceparent[idAt : flagsAt-1])
	return trace.NewSpanContext(config)
}
