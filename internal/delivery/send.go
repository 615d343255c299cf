package delivery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// Limits of what is sent and kept.
const (
	maxHeaders     = 100
	maxHeaderBytes = 16 << 10
	maxAnswerBytes = 8 << 10 // of a response's headers, as they are kept
	redacted       = secret.Redacted
)

// courier holds an endpoint's settings, prepared for its exchanges.
type courier struct {
	revision int64
	until    time.Time // when a secret expires and a new courier is needed; zero: never
	url      *url.URL
	timeout  time.Duration
	signer   *signature.Signer // nil: not signed
	set      kapsel.Header     // the headers that the endpoint sets, values in clear
	along    Forwarding
}

// couriers holds the couriers of the endpoints in use. A courier holds secrets in clear, so it is
// dropped as soon as its endpoint is changed or deleted, and with the endpoint's gate.
type couriers struct {
	engine *Engine
	mu     sync.RWMutex
	byID   map[kapsel.EndpointID]*courier
}

// of returns the courier for the settings in ep. If none is held, or a secret in it has expired,
// of makes a new one; it fails if the tenant cannot be read or a secret cannot be opened. Only a
// courier for the newest settings is held for later exchanges.
func (c *couriers) of(ctx context.Context, ep *kapsel.Endpoint, now time.Time) (*courier, error) {
	c.mu.RLock()
	got := c.byID[ep.ID]
	c.mu.RUnlock()
	if got != nil && got.revision == ep.Revision && (got.until.IsZero() || now.Before(got.until)) {
		return got, nil
	}
	made, err := c.engine.newCourier(ctx, ep, now)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if latest := c.engine.Settings.Latest(ep); latest.Revision != ep.Revision || !latest.DeletedAt.IsZero() {
		return made, nil // for this exchange only: nothing would ever drop it from byID
	}
	if c.byID == nil {
		c.byID = map[kapsel.EndpointID]*courier{}
	}
	c.byID[ep.ID] = made
	return made, nil
}

// changed drops an endpoint's courier if it was made for settings older than ep.
func (c *couriers) changed(ep *kapsel.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := c.byID[ep.ID]; got != nil && got.revision < ep.Revision {
		delete(c.byID, ep.ID)
	}
}

// drop drops an endpoint's courier.
func (c *couriers) drop(id kapsel.EndpointID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, id)
}

// newCourier makes a courier for the settings in ep, without the signing secrets that have expired
// at now. It fails if the tenant cannot be read, the URL is invalid or a secret cannot be opened.
func (e *Engine) newCourier(ctx context.Context, ep *kapsel.Endpoint, now time.Time) (*courier, error) {
	tenant, err := e.Settings.Tenant(ctx, ep.TenantID)
	if err != nil {
		return nil, fmt.Errorf("read the tenant: %w", err)
	}
	c := &courier{revision: ep.Revision, timeout: ep.Timeout, along: NewForwarding(ep.Headers.Drop, ep.Headers.Keep, ep.Signing.Enabled, ep.ForwardQuery)}
	if c.url, err = url.Parse(ep.URL); err != nil {
		return nil, fmt.Errorf("parse the endpoint's URL: %w", err)
	}
	var keys []signature.SigningKey
	for _, s := range ep.Signing.Secrets {
		if !s.ExpiresAt.IsZero() {
			if !now.Before(s.ExpiresAt) {
				continue
			}
			if c.until.IsZero() || s.ExpiresAt.Before(c.until) {
				c.until = s.ExpiresAt
			}
		}
		key, err := e.Vault.Open(tenant, ep.ID.String(), s)
		if err != nil {
			return nil, fmt.Errorf("open a signing secret: %w", err)
		}
		signing := signature.SigningKey{HMAC: key}
		if ep.Signing.V1a {
			if signing.Ed25519, err = e.Vault.SigningKey(tenant, ep.ID.String(), s.ID); err != nil {
				return nil, fmt.Errorf("derive a signing key: %w", err)
			}
		}
		keys = append(keys, signing)
	}
	if ep.Signing.Enabled && len(keys) > 0 {
		c.signer = signature.NewSigner(keys)
	}
	for name, s := range ep.Headers.Set {
		value, err := e.Vault.Open(tenant, ep.ID.String(), s)
		if err != nil {
			return nil, fmt.Errorf("open the value of header %s: %w", name, err)
		}
		c.set = append(c.set, kapsel.HeaderField{Name: textproto.CanonicalMIMEHeaderKey(name), Value: string(value)})
	}
	return c, nil
}

// canonical returns the set of the names in their canonical form.
func canonical(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[textproto.CanonicalMIMEHeaderKey(n)] = true
	}
	return set
}

// framing holds the headers that are never sent along, because they belong to one connection or
// because Kapsel writes its own.
var framing = canonical([]string{
	"Host", "Content-Length", "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Traceparent",
})

// signed holds the headers of Kapsel's signature, which replace a provider's headers of these
// names.
var signed = canonical([]string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"})

// personal holds headers that are sent along only if the endpoint keeps them. The X-Forwarded-
// headers are treated alike; see forwards.
var personal = canonical([]string{"Authorization", "Cookie", "Forwarded", "X-Real-Ip", "Tracestate", "User-Agent"})

// Forwarding says which of an event's headers are sent along, and whether its query is.
type Forwarding struct {
	drop map[string]bool // canonical names that are not sent along
	keep map[string]bool // canonical names that are sent along although usually not
	ours bool            // deliveries carry our signature, and no other under its names

	query bool
}

// NewForwarding returns the Forwarding of an endpoint that drops and keeps the named headers.
// signs says that Kapsel signs the deliveries, and query that the event's query is sent along.
func NewForwarding(drop, keep []string, signs, query bool) Forwarding {
	return Forwarding{canonical(drop), canonical(keep), signs, query}
}

// Target returns the URL to which an event with the given query is sent: destination or, if the
// query is sent along, a copy of destination with the query appended unchanged to its own.
func (f Forwarding) Target(destination *url.URL, query string) *url.URL {
	if !f.query || query == "" {
		return destination
	}
	u := *destination
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	u.RawQuery = query
	return &u
}

// forwards reports whether a received header with the given canonical name is sent along.
func (f Forwarding) forwards(name string) bool {
	switch {
	case framing[name], f.ours && signed[name], strings.HasPrefix(name, "X-Kapsel-"), f.drop[name]:
		return false
	case f.keep[name]:
		return true
	}
	return !personal[name] && !strings.HasPrefix(name, "X-Forwarded-")
}

// ContentType reports whether the event's content type is sent along.
func (f Forwarding) ContentType() bool { return !f.drop["Content-Type"] }

// Of returns the received headers that are sent along, in order, by their canonical names. It
// leaves out Content-Type, which the event holds separately, headers that a Connection header
// names, and values that were redacted when the event was received.
func (f Forwarding) Of(received kapsel.Header) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		named := connectionNames(received)
		for _, h := range received {
			name := textproto.CanonicalMIMEHeaderKey(h.Name)
			if !f.forwards(name) || named[name] || name == "Content-Type" ||
				h.Value == redacted { // the value was not stored with the event
				continue
			}
			if !yield(name, h.Value) {
				return
			}
		}
	}
}

// header returns the headers of an attempt's request, and the same headers as they are recorded:
// in the order of the wire, with secret values redacted. It leaves out received headers beyond
// maxHeaders and maxHeaderBytes.
func (c *courier) header(j *job, instance kapsel.InstanceID, trace, version string, now time.Time) (http.Header, kapsel.Header) {
	d, ev := &j.delivery, &j.event
	h := make(http.Header, len(ev.Header)+len(c.set)+11)
	size := 0
	add := func(name, value string) {
		size += len(name) + len(value) + 4
		h[name] = append(h[name], value)
	}
	add("X-Kapsel-Event-Id", ev.ID.String())
	add("X-Kapsel-Delivery-Attempt", strconv.Itoa(d.Attempts+1))
	add("X-Kapsel-Attempt-Id", d.Token.String())
	add("X-Kapsel-Original-Timestamp", ev.ReceivedAt.UTC().Format("2006-01-02T15:04:05.000Z"))
	if ev.Type != "" {
		add(kapsel.EventTypeHeader, ev.Type)
	}
	if hops := ev.Header.Hops(); hops > 0 {
		add(kapsel.HopsHeader, strconv.Itoa(hops+1))
	}
	add(kapsel.ViaHeader, strings.Join(append(ev.Header.Via(), instance.Mark(ev.Origin())), ","))
	add("User-Agent", "Kapsel/"+version)
	add("Traceparent", trace)
	if c.signer != nil {
		id := ev.ID.String()
		add("Webhook-Id", id)
		add("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
		add("Webhook-Signature", c.signer.Sign(id, now, ev.Body))
	}
	for _, f := range c.set {
		delete(h, f.Name)
		add(f.Name, f.Value)
	}
	if ev.ContentType != "" && h["Content-Type"] == nil && c.along.ContentType() {
		add("Content-Type", ev.ContentType)
	}
	count := len(h)
	for name, value := range c.along.Of(ev.Header) {
		switch {
		case slices.ContainsFunc(c.set, func(s kapsel.HeaderField) bool { return s.Name == name }):
		case name == "User-Agent": // the endpoint keeps it: the sender's value replaces ours
			h[name] = []string{value}
		case count >= maxHeaders || size+len(name)+len(value)+4 > maxHeaderBytes:
		default:
			count++
			add(name, value)
		}
	}
	sent := make(kapsel.Header, 0, count)
	for name, values := range h {
		for _, v := range values {
			sent = append(sent, kapsel.HeaderField{Name: name, Value: v})
		}
	}
	slices.SortStableFunc(sent, func(a, b kapsel.HeaderField) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range sent {
		if f.Name == "Authorization" || f.Name == "Cookie" ||
			slices.ContainsFunc(c.set, func(s kapsel.HeaderField) bool { return s.Name == f.Name }) {
			sent[i].Value = redacted
		}
	}
	return h, sent
}

// connectionNames returns the names that Connection headers list: those headers were meant for the
// connection to Kapsel only.
func connectionNames(h kapsel.Header) map[string]bool {
	var names []string
	for _, f := range h {
		if strings.EqualFold(f.Name, "Connection") {
			for name := range strings.SplitSeq(f.Value, ",") {
				names = append(names, strings.TrimSpace(name))
			}
		}
	}
	if names == nil {
		return nil
	}
	return canonical(names)
}

// outcome holds how an attempt ended.
type outcome struct {
	started    time.Time // store time
	duration   time.Duration
	status     int         // 0: no status line
	code       kapsel.Code // "": a 2xx
	text       string      // for people, without addresses
	sent       kapsel.Header
	header     kapsel.Header
	body       []byte
	retryAfter time.Time // the destination asked for no request before; zero: it did not
	lost       bool      // not known whether the request was answered: E2010
	panicked   bool      // … because the exchange panicked
	unsent     error     // why nothing was sent; then no attempt is recorded
	due        time.Time // when an unsent delivery is due again
}

// err returns the outcome as an error, or nil if the event was delivered.
func (o *outcome) err() error {
	switch {
	case o.unsent != nil:
		return o.unsent
	case o.code != "":
		return kapsel.Errorf(o.code, "%s", o.text)
	}
	return nil
}

// errNotLeased is why nothing is sent without a certain lease: another node may hold the delivery.
var errNotLeased = errors.New("the node's lease is not certain")

// answered reports whether the destination answered.
func (o *outcome) answered() bool { return o.status != 0 }

// exchange makes the one request of an attempt. It never panics: a panic inside becomes an outcome
// that is not known.
func (e *Engine) exchange(j *job) (o outcome) {
	start := time.Now()
	now := e.Clock.Now()
	o.started = now
	defer func() {
		o.duration = time.Since(start)
		if p := recover(); p != nil {
			e.Log.Error("panic in an exchange; its outcome is not known", "panic", fmt.Sprint(p), "delivery_id", j.delivery.ID.String())
			o.lost, o.panicked, o.code, o.text = true, true, kapsel.OutcomeUnknown, "an internal error ended the exchange"
		}
	}()
	c, err := e.couriers.of(e.cut, j.ep, now)
	if err != nil {
		o.unsent = err
		return o
	}
	ctx, cancel := context.WithTimeout(e.cut, c.timeout)
	defer cancel()
	trace, endSpan := telemetry.Span(j.event.TraceParent, "attempt")
	defer func() {
		endSpan(o.err(), slog.Any("attempt_id", j.delivery.Token), slog.Any("event_id", j.delivery.EventID), slog.Int("status_code", o.status))
	}()
	h, sent := c.header(j, e.Instance, trace, e.Version, now)
	o.sent = sent

	// A process that was frozen may have lost its lease since the delivery was dispatched.
	e.mu.Lock()
	leased := e.leased() && j.delivery.Node == e.node
	e.mu.Unlock()
	if !leased {
		o.unsent = errNotLeased
		return o
	}

	resp, err := e.Transport.RoundTrip(egress.NewRequest(ctx, c.along.Target(c.url, j.event.Query), h, j.event.Body))
	if err != nil {
		if short, ok := errors.AsType[*egress.Shortage](err); ok {
			o.unsent = short
			return o
		}
		if e.cut.Err() != nil {
			o.lost, o.code, o.text = true, kapsel.OutcomeUnknown, "the process stopped during the exchange"
			return o
		}
		o.code, o.text = egress.Classify(err)
		return o
	}
	o.status = resp.StatusCode
	if o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable {
		now := e.Clock.Now() // the destination counts from its answer, not from the exchange's start
		if wait := egress.RetryAfter(resp.Header, now); wait > 0 {
			o.retryAfter = now.Add(wait)
		}
	}
	o.header = answerHeader(resp.Header)
	o.body = egress.ReadBody(resp, egress.BodyKept, egress.BodyRead)
	switch {
	case o.status >= 200 && o.status < 300:
	case o.status >= 500 && o.status < 600:
		o.code, o.text = kapsel.HTTPServerError, "the destination answered "+strconv.Itoa(o.status)
	default:
		o.code, o.text = kapsel.HTTPClientError, "the destination answered "+strconv.Itoa(o.status)
	}
	return o
}

// answerHeader lists a response's header. A field that does not fit into what is kept is left out;
// later ones that fit are kept.
func answerHeader(h http.Header) kapsel.Header {
	left := maxAnswerBytes
	return slices.DeleteFunc(kapsel.HeaderOf(h), func(f kapsel.HeaderField) bool {
		if f.Size() > left {
			return true
		}
		left -= f.Size()
		return false
	})
}
