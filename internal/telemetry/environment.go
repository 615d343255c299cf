package telemetry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// checks holds the check of each environment variable that OpenTelemetry's library reads for
// traces and metrics (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables and
// …/protocol/exporter). The library silently ignores a value that it cannot read, so they would
// go nowhere, or elsewhere. The errors never repeat a value, which may hold credentials.
var checks = func() map[string]func(value string) error {
	all := map[string]func(string) error{
		"OTEL_SDK_DISABLED":        checkSwitch,
		"OTEL_TRACES_EXPORTER":     oneOf("otlp", "none"),
		"OTEL_METRICS_EXPORTER":    oneOf("otlp", "none"),
		"OTEL_RESOURCE_ATTRIBUTES": checkPairs(func(name string) bool { return name != "" }),
		"OTEL_TRACES_SAMPLER": anyCase("always_on", "always_off", "traceidratio",
			"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
		"OTEL_TRACES_SAMPLER_ARG": checkRatio,
	}
	for _, name := range []string{"BSP_SCHEDULE_DELAY", "BSP_EXPORT_TIMEOUT", "BSP_MAX_QUEUE_SIZE", "BSP_MAX_EXPORT_BATCH_SIZE",
		"METRIC_EXPORT_INTERVAL", "METRIC_EXPORT_TIMEOUT"} {
		all["OTEL_"+name] = checkNumber(1)
	}
	for _, name := range []string{"ATTRIBUTE_VALUE_LENGTH", "ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT",
		"SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT"} {
		all["OTEL_"+name+"_LIMIT"] = checkNumber(-1) // the library's "unlimited"
	}
	for name, check := range map[string]func(string) error{
		"ENDPOINT":           checkEndpoint,
		"HEADERS":            checkPairs(isHeaderName),
		"PROTOCOL":           oneOf("http/protobuf", "http/json"), // no gRPC in this program
		"COMPRESSION":        oneOf("gzip", "none"),
		"TIMEOUT":            checkNumber(1),
		"INSECURE":           anyCase("true", "false"),
		"CERTIFICATE":        checkCertificates,
		"CLIENT_CERTIFICATE": checkFile,
		"CLIENT_KEY":         checkFile,
	} {
		for _, of := range exporters {
			all[of+name] = check
		}
	}
	all["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] = anyCase("cumulative", "delta", "lowmemory")
	all["OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"] = anyCase("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
	return all
}()

// exporters holds what the variables of exporters begin with: of all, of traces and of metrics.
var exporters = []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_METRICS_"}

// CheckEnvironment returns an error of one line that names everything wrong with OpenTelemetry's
// variables; nil if nothing is. Empty variables count as not set. Variables that this program does
// not read, such as those of metrics, are not checked.
func CheckEnvironment() error {
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		value := strings.TrimSpace(os.Getenv(name))
		if value == "" {
			continue
		}
		if err := checks[name](value); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, of := range exporters {
		certificate, key := os.Getenv(of+"CLIENT_CERTIFICATE"), os.Getenv(of+"CLIENT_KEY")
		switch {
		case (certificate == "") != (key == ""):
			wrong = append(wrong, fmt.Errorf("%sCLIENT_CERTIFICATE and %[1]sCLIENT_KEY: one is of no use without the other", of))
		case certificate != "" && checkFile(certificate) == nil && checkFile(key) == nil:
			if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
				wrong = append(wrong, fmt.Errorf("%sCLIENT_CERTIFICATE and %[1]sCLIENT_KEY: are no pair of a certificate and its key (PEM)", of))
			}
		}
	}
	if queue, batch := os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE"), os.Getenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"); wrong == nil && queue != "" && batch != "" {
		q, _ := strconv.Atoi(strings.TrimSpace(queue))
		if b, _ := strconv.Atoi(strings.TrimSpace(batch)); b > q {
			wrong = append(wrong, errors.New("OTEL_BSP_MAX_EXPORT_BATCH_SIZE: must be at most OTEL_BSP_MAX_QUEUE_SIZE"))
		}
	}
	if wrong == nil {
		return nil
	}
	texts := make([]string, len(wrong))
	for i, err := range wrong {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

func oneOf(values ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

// anyCase is oneOf for variables in which the library ignores case.
func anyCase(values ...string) func(string) error {
	check := oneOf(values...)
	return func(value string) error { return check(strings.ToLower(value)) }
}

func checkSwitch(value string) error {
	if _, err := strconv.ParseBool(value); err != nil {
		return errors.New("must be true or false")
	}
	return nil
}

// isHeaderName reports whether the library accepts a header name (RFC 9110: a token).
func isHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func checkNumber(least int) func(string) error {
	return func(value string) error {
		if n, err := strconv.Atoi(value); err != nil || n < least {
			return fmt.Errorf("must be a whole number of at least %d", least)
		}
		return nil
	}
}

func checkRatio(value string) error {
	if f, err := strconv.ParseFloat(value, 64); err != nil || !(f >= 0 && f <= 1) {
		return errors.New("must be a number from 0 to 1")
	}
	return nil
}

func checkEndpoint(value string) error {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("must be a URL of http or https, such as http://localhost:4318")
	}
	return nil
}

// checkPairs returns a check of lists of name=value whose values are escaped as in a URL.
func checkPairs(valid func(name string) bool) func(string) error {
	return func(list string) error {
		for pair := range strings.SplitSeq(list, ",") {
			name, value, ok := strings.Cut(pair, "=")
			if _, err := url.PathUnescape(value); !ok || err != nil || !valid(strings.TrimSpace(name)) {
				return errors.New("must be a comma list of NAME=VALUE, with % escapes in the values")
			}
		}
		return nil
	}
}

func checkFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return errors.New("must name a file that can be read")
	}
	return f.Close()
}

func checkCertificates(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return checkFile(name)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("must name a file with certificates (PEM)")
	}
	return nil
}
