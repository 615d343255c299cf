package kapsel

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of user-supplied settings.
const (
	MaxName        = 200     // characters of a name
	MaxDescription = 2000    // characters of a description
	MaxURL         = 2048    // bytes of a destination
	MaxHeaders     = 32      // entries of each of headers.set, .drop and .keep
	MaxHeaderValue = 4 << 10 // bytes of a header that an endpoint sets
	MaxSecrets     = 10      // secrets of one verification
	MaxResponse    = 4 << 10 // bytes of the body of an endpoint's own response
)

// fields collects the wrong fields of a request. Each check adds at most one entry per field.
type fields []FieldError

func (f *fields) add(field, format string, args ...any) {
	*f = append(*f, FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
}

// between adds an entry if n is outside [low, high].
func (f *fields) between(field string, n, low, high int) {
	if n < low || n > high {
		f.add(field, "must be %d to %d", low, high)
	}
}

// lasts adds an entry if d is outside [low, high].
func (f *fields) lasts(field string, d, low, high time.Duration) {
	if d < low || d > high {
		f.add(field, "must be %s to %s", short(low), short(high))
	}
}

// oneOf adds an entry if s is not among the choices.
func (f *fields) oneOf(field, s string, choices ...string) {
	if !slices.Contains(choices, s) {
		f.add(field, "must be one of %s", strings.Join(choices, ", "))
	}
}

// short formats a duration without zero minutes and seconds: "24h", not "24h0m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Validate checks everything about an endpoint's configuration that needs no other knowledge, and
// returns all wrong fields, named by their paths in the API; nil if none is wrong. It does not
// check whether the destination may be reached (package egress) or what a provider's verification
// needs (package signature). dev allows the shorter delays of a development instance.
func (c *EndpointConfig) Validate(dev bool) []FieldError {
	var f fields
	f.name("name", c.Name)
	f.text("description", c.Description, MaxDescription)
	f.url("url", c.URL)
	f.intake(&c.Intake)
	f.retry(&c.Retry, dev)
	if most := 300; len(c.RetryOn) > most { // every status from 300 to 599, once
		f.add("retry_on", "must be at most %d", most)
	}
	for i, status := range c.RetryOn {
		f.between(fmt.Sprintf("retry_on[%d]", i), status, 300, 599)
	}
	f.lasts("timeout", c.Timeout, time.Second, 300*time.Second)
	f.rateLimit(c.RateLimit)
	f.between("concurrency", c.Concurrency, 1, 1000)
	f.circuit(&c.Circuit, dev)
	f.headers(&c.Headers)
	f.subscriptions(c)
	f.uid(c.UID)
	f.metadata(c.Metadata)
	return f
}

// rateLimit checks the field rate_limit; nil is no limit.
func (f *fields) rateLimit(r *RateLimit) {
	if r == nil {
		return
	}
	if !(r.PerSecond > 0 && r.PerSecond <= maxRate) { // NaN is refused too
		f.add("rate_limit.per_second", "must be above 0, at most %.0f", maxRate)
	}
	f.between("rate_limit.burst", r.Burst, 1, maxRate)
}

// maxRate is more requests per second than one process can handle; it keeps arithmetic on rates
// exact.
const maxRate = 1e6

// name checks a name: not empty, at most MaxName characters, no control characters.
func (f *fields) name(field, s string) {
	if strings.TrimSpace(s) == "" {
		f.add(field, "must not be empty")
		return
	}
	before := len(*f)
	f.text(field, s, MaxName)
	if len(*f) == before && strings.ContainsFunc(s, unicode.IsControl) {
		f.add(field, "must not hold control characters")
	}
}

// text checks a text, which may have several lines.
func (f *fields) text(field, s string, most int) {
	switch {
	case !utf8.ValidString(s):
		f.add(field, "must be UTF-8")
	case utf8.RuneCountInString(s) > most:
		f.add(field, "must have at most %d characters", most)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }):
		f.add(field, "must not hold control characters")
	}
}

// url checks a destination's URL as far as that is possible without a DNS lookup.
func (f *fields) url(field, s string) {
	if s == "" {
		f.add(field, "must not be empty")
		return
	}
	if len(s) > MaxURL {
		f.add(field, "must have at most %d bytes", MaxURL)
		return
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '\\' }) {
		f.add(field, "must be a URL without spaces, control characters and backslashes")
		return
	}
	u, err := url.Parse(s)
	if err != nil {
		f.add(field, "must be a URL such as https://example.com/hook")
		return
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		f.add(field, "must begin with https:// or http://")
	case u.Hostname() == "" || u.Opaque != "":
		f.add(field, "must name a host")
	case strings.HasSuffix(u.Host, ":") || err != nil || port == 0:
		f.add(field, "must have a port of 1 to 65535, or none")
	case u.User != nil:
		f.add(field, "must not hold a user or a password: use headers.set")
	case strings.Contains(s, "#"):
		f.add(field, "must not have a fragment: it is never sent")
	}
}

// intake checks what an ingest URL does, but for what package signature knows.
func (f *fields) intake(c *Intake) {
	if len(c.Verification.Secrets) > MaxSecrets {
		f.add("verification.secrets", "must be at most %d", MaxSecrets)
	}
	f.response(c.Response)
	f.idempotency(&c.Idempotency)
	if every := c.ExpectEvery; every != 0 && (every < MinExpect || every > MaxExpect) {
		f.add("expect_every", "must be 1m to 720h, or null")
	}
}

func (f *fields) response(r *Response) {
	if r == nil {
		return
	}
	if !slices.Contains([]int{200, 201, 202, 204}, r.Status) {
		f.add("response.status", "must be one of 200, 201, 202, 204")
	}
	f.oneOf("response.content_type", r.ContentType, NoContentType, "text/plain", "application/json")
	switch {
	case !utf8.ValidString(r.Body):
		f.add("response.body", "must be UTF-8")
	case len(r.Body) > MaxResponse:
		f.add("response.body", "must have at most %d bytes", MaxResponse)
	case r.Body != "" && r.Status == 204:
		f.add("response.body", "must be empty for the status 204, which has none")
	}
}

func (f *fields) idempotency(i *Idempotency) {
	f.oneOf("idempotency.strategy", i.Strategy, KeyFromHeader, KeyFromContent, KeyFromSourceID, KeyNone)
	switch {
	case i.Header != "" && !validHeaderName(i.Header):
		f.add("idempotency.header", "must be the name of a header")
	case CarriesCredentials(i.Header):
		f.add("idempotency.header", "names a header that carries credentials, which would be stored as the key")
	}
	if i.Path == "" && i.Strategy == KeyFromSourceID {
		f.add("idempotency.path", "is needed for the strategy %s, such as $.data.id", KeyFromSourceID)
	}
	f.lasts("idempotency.window", i.Window, time.Minute, 30*24*time.Hour)
}

func (f *fields) retry(r *RetryPolicy, dev bool) {
	least := 100 * time.Millisecond
	if dev {
		least = 10 * time.Millisecond
	}
	const most = 24 * time.Hour
	f.oneOf("retry.strategy", r.Strategy, RetryExponential, RetryLinear, RetryFixed, RetrySchedule)
	f.between("retry.max_attempts", r.MaxAttempts, 1, 100)
	f.lasts("retry.base", r.Base, least, time.Hour)
	if r.Max < r.Base || r.Max > most {
		f.add("retry.max", "must be at least base and at most %s", short(most))
	}
	if r.Strategy == RetrySchedule && len(r.Schedule) == 0 {
		f.add("retry.schedule", "must have an entry for the strategy %s", RetrySchedule)
	}
	if len(r.Schedule) > 100 {
		f.add("retry.schedule", "must have at most 100 entries")
		return
	}
	for i, d := range r.Schedule {
		f.lasts(fmt.Sprintf("retry.schedule[%d]", i), d, least, most)
	}
}

func (f *fields) circuit(c *CircuitPolicy, dev bool) {
	least := time.Second
	if dev {
		least = 10 * time.Millisecond
	}
	f.between("circuit.failures", c.Failures, 1, 1000)
	if !(c.Ratio > 0 && c.Ratio <= 1) {
		f.add("circuit.ratio", "must be above 0, at most 1")
	}
	f.between("circuit.window", c.Window, 1, 1000)
	if c.Minimum < 1 || c.Minimum > max(c.Window, 1) {
		f.add("circuit.minimum", "must be 1 to window")
	}
	f.lasts("circuit.open_for", c.OpenFor, least, time.Hour)
	f.between("circuit.successes", c.Successes, 1, 100)
}

func (f *fields) headers(h *HeaderPolicy) {
	if len(h.Set) > MaxHeaders {
		f.add("headers.set", "must have at most %d headers", MaxHeaders)
	}
	seen := make(map[string]bool, len(h.Set))
	for _, name := range slices.Sorted(maps.Keys(h.Set)) {
		field, canonical := "headers.set."+name, textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !validHeaderName(name):
			f.add(field, "is not the name of a header")
		case reservedHeader(canonical) || canonical == "Cookie":
			f.add(field, "may not be set")
		case seen[canonical]:
			f.add(field, "is there twice, in another case")
		}
		seen[canonical] = true
	}
	f.names("headers.drop", h.Drop, func(string) bool { return false })
	f.names("headers.keep", h.Keep, func(canonical string) bool { return reservedHeader(canonical) && canonical != "Tracestate" })
}

// names checks a list of header names.
func (f *fields) names(field string, list []string, reserved func(canonical string) bool) {
	if len(list) > MaxHeaders {
		f.add(field, "must have at most %d names", MaxHeaders)
		return
	}
	for i, name := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !validHeaderName(name) {
			f.add(at, "is not the name of a header")
		} else if reserved(textproto.CanonicalMIMEHeaderKey(name)) {
			f.add(at, "%s may not be kept", name)
		}
	}
}

// reservedHeader reports whether a header belongs to the connection (RFC 9110, 7.6.1; RFC 9112) or
// is one that Kapsel itself writes on a delivery.
func reservedHeader(canonical string) bool {
	switch canonical {
	case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Expect", "Te", "Trailer", "Upgrade", "Http2-Settings",
		"Traceparent", "Tracestate":
		return true
	}
	for _, prefix := range []string{"Proxy-", "Webhook-", "Kapsel-", "X-Kapsel-"} {
		if strings.HasPrefix(canonical, prefix) {
			return true
		}
	}
	return false
}

// validHeaderName reports whether s is a token (RFC 9110, 5.6.2) of at most 256 bytes.
func validHeaderName(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

// ValidateHeaderValue checks a value of headers.set before it is sealed: at most 4 KiB, no control
// characters except tabs, no space or tab at either end (RFC 9110, 5.5).
func ValidateHeaderValue(name, value string) []FieldError {
	var f fields
	field := "headers.set." + name
	switch {
	case len(value) > MaxHeaderValue:
		f.add(field, "must have at most %d bytes", MaxHeaderValue)
	case strings.Trim(value, " \t") != value:
		f.add(field, "must not begin or end with a space")
	case strings.ContainsFunc(value, func(r rune) bool { return isControl(r) && r != '\t' }):
		f.add(field, "must not hold control characters")
	}
	return f
}

// Validate checks a tenant's name, plan and own limits, and returns all wrong fields; nil if none
// is wrong.
func (t *Tenant) Validate() []FieldError {
	var f fields
	f.name("name", t.Name)
	if _, ok := Plans[t.Plan]; !ok {
		f.oneOf("plan", t.Plan, slices.Sorted(maps.Keys(Plans))...)
	}
	l := t.Limits
	if r := l.IngestPerSecond; r != nil && !(*r > 0 && *r <= maxRate) {
		f.add("limits.ingest_per_second", "must be above 0, at most %.0f; null is no limit", maxRate)
	}
	if l.IngestBurst != nil {
		f.between("limits.ingest_burst", *l.IngestBurst, 1, maxRate)
	}
	if l.Endpoints != nil {
		f.between("limits.endpoints", *l.Endpoints, 1, maxRate)
	}
	if n := l.EventsPerMonth; n != nil && (*n < 0 || *n > math.MaxInt64/2) {
		f.add("limits.events_per_month", "must not be negative")
	}
	if l.Retention != nil {
		f.lasts("limits.retention", *l.Retention, time.Hour, 10*365*24*time.Hour)
	}
	if d := t.Audit.Retention; d != nil {
		f.lasts("audit.retention", *d, 24*time.Hour, 100*365*24*time.Hour)
	}
	if n := t.Audit.Witnesses; n != nil {
		f.between("audit.witnesses", *n, 0, MaxWitnesses)
	}
	return f
}

// Validate checks a key's name, scope and expiry, and returns all wrong fields; nil if none is
// wrong.
func (k *Key) Validate(now time.Time) []FieldError {
	var f fields
	f.name("name", k.Name)
	if k.TenantID.IsZero() {
		f.oneOf("scope", string(k.Scope), string(ScopeLedger))
	} else {
		f.oneOf("scope", string(k.Scope), string(ScopeRead), string(ScopeWrite))
	}
	if !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(now) {
		f.add("expires_at", "must be in the future")
	}
	return f
}

// IsText reports whether every store can keep and compare s as text: it is UTF-8 without NUL.
func IsText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// isControl reports whether r is a C0 control character or DEL.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }
