package kapsel

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// valid returns an endpoint's configuration that nothing is wrong with.
func valid() EndpointConfig {
	c := DefaultEndpoint()
	c.Name, c.URL = "orders", "https://example.com/hook?a=1"
	return c
}

// fieldsOf returns the fields that errors name, in order.
func fieldsOf(errs []FieldError) []string {
	var names []string
	for _, e := range errs {
		names = append(names, e.Field)
	}
	return names
}

// TestEndpointConfigValidate checks that each wrong setting of an endpoint is refused by the
// name of its field, among them a name of more than 200 characters.
func TestEndpointConfigValidate(t *testing.T) {
	if errs := with(func(*EndpointConfig) {}).Validate(false); errs != nil {
		t.Fatalf("the default policy: %v", errs)
	}
	ms := time.Millisecond
	tests := []struct {
		name   string
		change func(*EndpointConfig)
		want   string // fields, space-separated; "" when nothing is wrong
	}{
		{"name empty", func(c *EndpointConfig) { c.Name = " " }, "name"},
		{"name of 200", func(c *EndpointConfig) { c.Name = strings.Repeat("ü", 200) }, ""},
		{"B-46 name of 201", func(c *EndpointConfig) { c.Name = strings.Repeat("ü", 201) }, "name"},
		{"B-46 name of 1 MiB", func(c *EndpointConfig) { c.Name = strings.Repeat("a", 1<<20) }, "name"},
		{"name with NUL", func(c *EndpointConfig) { c.Name = "a\x00b" }, "name"},
		{"name of two lines", func(c *EndpointConfig) { c.Name = "a\nb" }, "name"},
		{"name not UTF-8", func(c *EndpointConfig) { c.Name = "a\xff" }, "name"},
		{"B-47 bidi override", func(c *EndpointConfig) { c.Name = "a\u202eb\u200b" }, ""},
		{"description of lines", func(c *EndpointConfig) { c.Description = "a\nb\tc" }, ""},
		{"description with NUL", func(c *EndpointConfig) { c.Description = "a\x00" }, "description"},
		{"description too long", func(c *EndpointConfig) { c.Description = strings.Repeat("a", 2001) }, "description"},
		{"window least", func(c *EndpointConfig) { c.Idempotency.Window = time.Minute }, ""},
		{"window below", func(c *EndpointConfig) { c.Idempotency.Window = time.Minute - 1 }, "idempotency.window"},
		{"window most", func(c *EndpointConfig) { c.Idempotency.Window = 720 * time.Hour }, ""},
		{"window above", func(c *EndpointConfig) { c.Idempotency.Window = 720*time.Hour + 1 }, "idempotency.window"},
		{"strategy", func(c *EndpointConfig) { c.Idempotency.Strategy = "Header" }, "idempotency.strategy"},
		{"key header", func(c *EndpointConfig) { c.Idempotency.Header = "X Y" }, "idempotency.header"},
		{"key header with credentials", func(c *EndpointConfig) { c.Idempotency.Header = "authorization" }, "idempotency.header"},
		{"path missing", func(c *EndpointConfig) { c.Idempotency.Strategy = KeyFromSourceID }, "idempotency.path"},
		{"retry least", func(c *EndpointConfig) { c.Retry.Base = 100 * ms }, ""},
		{"retry below", func(c *EndpointConfig) { c.Retry.Base = 99 * ms }, "retry.base"},
		{"retry base most", func(c *EndpointConfig) { c.Retry.Base, c.Retry.Max = time.Hour, 24*time.Hour }, ""},
		{"retry base above", func(c *EndpointConfig) { c.Retry.Base = time.Hour + 1 }, "retry.base"},
		{"retry max above", func(c *EndpointConfig) { c.Retry.Max = 24*time.Hour + 1 }, "retry.max"},
		{"retry max below base", func(c *EndpointConfig) { c.Retry.Max = ms }, "retry.max"},
		{"attempts 0", func(c *EndpointConfig) { c.Retry.MaxAttempts = 0 }, "retry.max_attempts"},
		{"attempts 100", func(c *EndpointConfig) { c.Retry.MaxAttempts = 100 }, ""},
		{"attempts 101", func(c *EndpointConfig) { c.Retry.MaxAttempts = 101 }, "retry.max_attempts"},
		{"retry strategy", func(c *EndpointConfig) { c.Retry.Strategy = "" }, "retry.strategy"},
		{"schedule empty", func(c *EndpointConfig) { c.Retry.Strategy = RetrySchedule }, "retry.schedule"},
		{"schedule", func(c *EndpointConfig) {
			c.Retry.Strategy, c.Retry.Schedule = RetrySchedule, []time.Duration{time.Second, 0, 25 * time.Hour}
		}, "retry.schedule[1] retry.schedule[2]"},
		{"schedule of 101", func(c *EndpointConfig) { c.Retry.Schedule = make([]time.Duration, 101) }, "retry.schedule"},
		{"retry_on", func(c *EndpointConfig) { c.RetryOn = []int{299, 300, 599, 600} }, "retry_on[0] retry_on[3]"},
		{"retry_on, more than there are", func(c *EndpointConfig) { c.RetryOn = slices.Repeat([]int{500}, 301) }, "retry_on"},
		{"timeout below", func(c *EndpointConfig) { c.Timeout = time.Second - 1 }, "timeout"},
		{"timeout above", func(c *EndpointConfig) { c.Timeout = 300*time.Second + 1 }, "timeout"},
		{"concurrency 0", func(c *EndpointConfig) { c.Concurrency = 0 }, "concurrency"},
		{"concurrency 1001", func(c *EndpointConfig) { c.Concurrency = 1001 }, "concurrency"},
		{"rate", func(c *EndpointConfig) { c.RateLimit = &RateLimit{PerSecond: 0.1, Burst: 1} }, ""},
		{"rate 0", func(c *EndpointConfig) { c.RateLimit = &RateLimit{} }, "rate_limit.per_second rate_limit.burst"},
		{"rate NaN", func(c *EndpointConfig) { c.RateLimit = &RateLimit{PerSecond: math.NaN(), Burst: 1} }, "rate_limit.per_second"},
		{"circuit", func(c *EndpointConfig) { c.Circuit = CircuitPolicy{} },
			"circuit.failures circuit.ratio circuit.window circuit.minimum circuit.open_for circuit.successes"},
		{"circuit minimum", func(c *EndpointConfig) { c.Circuit.Minimum = c.Circuit.Window + 1 }, "circuit.minimum"},
		{"secrets", func(c *EndpointConfig) { c.Verification.Secrets = make([]Secret, 11) }, "verification.secrets"},
		{"all at once", func(c *EndpointConfig) { *c = EndpointConfig{} }, "name url idempotency.strategy idempotency.window retry.strategy " +
			"retry.max_attempts retry.base timeout concurrency circuit.failures circuit.ratio circuit.window circuit.minimum circuit.open_for circuit.successes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(fieldsOf(with(tt.change).Validate(false)), " ")
			if got != tt.want {
				t.Errorf("fields %q, want %q", got, tt.want)
			}
		})
	}
	if errs := with(func(c *EndpointConfig) { c.Retry.Base = 10 * ms; c.Circuit.OpenFor = 10 * ms }).Validate(true); errs != nil {
		t.Errorf("with dev: %v", errs)
	}
}

func with(change func(*EndpointConfig)) *EndpointConfig {
	c := valid()
	change(&c)
	return &c
}

func TestValidateURL(t *testing.T) {
	good := []string{
		"https://example.com", "http://example.com:8080/a/b?c=d", "https://[2001:db8::1]:8443/x", "https://bücher.example/",
		"HTTPS://example.com/", "https://example.com/" + strings.Repeat("a", MaxURL-len("https://example.com/")),
	}
	bad := []string{
		"", "example.com", "//example.com/x", "/x", "ftp://example.com", "javascript:alert(1)", "file:///etc/passwd", "https://", "https:///x",
		"https://user@example.com", "https://user:secret@example.com", "https://example.com/#top", "https://example.com/#", "https://example.com:0/",
		"https://example.com:65536/", "https://example.com:/", "https://example.com:http/", "https://exa mple.com/", "https://example.com/a b",
		"https://example.com/\r\nX: y", "https://example.com/\x00", "https://example.com\\@evil.example/", "https://%zz/", "https:example.com",
		" https://example.com", "https://example.com/\xff", "https://example.com/" + strings.Repeat("a", MaxURL),
	}
	for _, u := range good {
		if errs := with(func(c *EndpointConfig) { c.URL = u }).Validate(false); errs != nil {
			t.Errorf("%q: %v", u, errs)
		}
	}
	for _, u := range bad {
		errs := with(func(c *EndpointConfig) { c.URL = u }).Validate(false)
		if diff := cmp.Diff([]string{"url"}, fieldsOf(errs)); diff != "" {
			t.Errorf("%q: %v", u, errs)
		}
		for _, e := range errs {
			if strings.Contains(e.Detail, "secret") {
				t.Errorf("%q: the detail shows the password: %s", u, e.Detail)
			}
		}
	}
}

// TestBadInput_B50_B51_HeaderNames checks that an endpoint's headers cannot replace those that
// frame a request, that Kapsel sets itself or that carry cookies, and at most 32 are set.
func TestBadInput_B50_B51_HeaderNames(t *testing.T) {
	set := func(names ...string) func(*EndpointConfig) {
		return func(c *EndpointConfig) {
			c.Headers.Set = map[string]Secret{}
			for _, n := range names {
				c.Headers.Set[n] = Secret{}
			}
		}
	}
	many := make([]string, 33)
	for i := range many {
		many[i] = "X-" + strings.Repeat("a", i+1)
	}
	tests := []struct {
		name   string
		change func(*EndpointConfig)
		want   []string
	}{
		{"fine", set("Authorization", "X-Token", "Content-Type", "User-Agent"), nil},
		{"32", set(many[:32]...), nil},
		{"33", set(many...), []string{"headers.set"}},
		{"empty", set(""), []string{"headers.set."}},
		{"space", set("X Y"), []string{"headers.set.X Y"}},
		{"colon", set("X:Y"), []string{"headers.set.X:Y"}},
		{"line", set("X\r\nY"), []string{"headers.set.X\r\nY"}},
		{"NUL", set("X\x00"), []string{"headers.set.X\x00"}},
		{"not ASCII", set("Ü"), []string{"headers.set.Ü"}},
		{"twice", set("X-A", "x-a"), []string{"headers.set.x-a"}},
		{"drop", func(c *EndpointConfig) { c.Headers.Drop = []string{"X-Ok", "x y"} }, []string{"headers.drop[1]"}},
		{"keep", func(c *EndpointConfig) { c.Headers.Keep = []string{"Authorization", "HOST", "x-kapsel-a", ""} },
			[]string{"headers.keep[1]", "headers.keep[2]", "headers.keep[3]"}},
		{"keep what may be", func(c *EndpointConfig) {
			c.Headers.Keep = []string{"Authorization", "cookie", "Forwarded", "X-Forwarded-For", "X-Real-IP", "tracestate", "User-Agent"}
		}, nil},
		{"keep 33", func(c *EndpointConfig) { c.Headers.Keep = many }, []string{"headers.keep"}},
	}
	for _, name := range []string{"Host", "host", "CONTENT-LENGTH", "Transfer-Encoding", "Connection", "Keep-Alive", "Expect", "TE", "te", "Trailer", "Upgrade",
		"Proxy-Authorization", "proxy-x", "webhook-id", "Webhook-Signature", "kapsel-x", "X-Kapsel-Event-Id", "Cookie", "cookie", "traceparent"} {
		tests = append(tests, struct {
			name   string
			change func(*EndpointConfig)
			want   []string
		}{name, set(name), []string{"headers.set." + name}})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, fieldsOf(with(tt.change).Validate(false))); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBadInput_B50_HeaderValues checks that a header's value with a line break, a control
// character, outer spaces or more than 4 KiB is refused.
func TestBadInput_B50_HeaderValues(t *testing.T) {
	for _, v := range []string{"", "Bearer abc", "a\tb", "ü", strings.Repeat("a", 4096)} {
		if errs := ValidateHeaderValue("X", v); errs != nil {
			t.Errorf("%.20q: %v", v, errs)
		}
	}
	for _, v := range []string{"a\r\nB: c", "a\nb", "a\x00", "a\x7f", " a", "a ", strings.Repeat("a", 4097), strings.Repeat("a", 64<<10)} {
		if diff := cmp.Diff([]string{"headers.set.X"}, fieldsOf(ValidateHeaderValue("X", v))); diff != "" {
			t.Errorf("%.20q: (-want +got)\n%s", v, diff)
		}
	}
}

func TestTenantValidate(t *testing.T) {
	ok := Tenant{Name: "acme", Plan: DefaultPlan}
	if errs := ok.Validate(); errs != nil {
		t.Errorf("%v", errs)
	}
	bad := Tenant{Plan: "gold", Limits: Limits{
		IngestPerSecond: ptr(-1.0), IngestBurst: ptr(0), Endpoints: ptr(0), EventsPerMonth: ptr(int64(-1)), Retention: ptr(time.Minute),
	}}
	want := []string{"name", "plan", "limits.ingest_per_second", "limits.ingest_burst", "limits.endpoints", "limits.events_per_month", "limits.retention"}
	if diff := cmp.Diff(want, fieldsOf(bad.Validate())); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestKeyValidate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tenant := NewTenantID(now)
	for _, k := range []Key{{TenantID: tenant, Name: "ci", Scope: ScopeRead}, {TenantID: tenant, Name: "ci", Scope: ScopeWrite, ExpiresAt: now.Add(1)}, {Name: "booker", Scope: ScopeLedger}} {
		if errs := k.Validate(now); errs != nil {
			t.Errorf("%+v: %v", k, errs)
		}
	}
	bad := Key{Name: "a\nb", Scope: "admin", ExpiresAt: now}
	if diff := cmp.Diff([]string{"name", "scope", "expires_at"}, fieldsOf(bad.Validate(now))); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// TestValidateRetryIsSafe checks that no valid policy makes a delay that is negative or above 1.25
// max.
func TestValidateRetryIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := valid()
		c.Retry = RetryPolicy{
			Strategy:    rapid.SampledFrom([]string{RetryExponential, RetryLinear, RetryFixed, RetrySchedule}).Draw(t, "strategy"),
			MaxAttempts: rapid.IntRange(-1, 101).Draw(t, "attempts"),
			Base:        time.Duration(rapid.Int64().Draw(t, "base")),
			Max:         time.Duration(rapid.Int64().Draw(t, "max")),
		}
		if rapid.Bool().Draw(t, "in range") {
			c.Retry.Base = time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(time.Hour)).Draw(t, "base in range"))
			c.Retry.Max = time.Duration(rapid.Int64Range(int64(c.Retry.Base), int64(24*time.Hour)).Draw(t, "max in range"))
		}
		if c.Validate(false) != nil {
			return
		}
		n := rapid.IntRange(1, 200).Draw(t, "n")
		if d := c.Retry.Delay(n, rapid.Float64Range(0, 0.999).Draw(t, "random")); d <= 0 || d > 30*time.Hour {
			t.Fatalf("%+v: delay %d is %v", c.Retry, n, d)
		}
	})
}
