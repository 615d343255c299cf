// Package ingest accepts webhooks over HTTP and checks their signatures. It acknowledges a webhook
// only after the event and its deliveries are durably stored.
//
// The order of checks is a promise, so that an unsigned request never learns whether a key was
// seen: ID → endpoint or source → method → header → loop → Content-Length → room → rate → quota →
// body → signature → key → store. A webhook answered with 4xx is never stored; 503 means "not
// known to be stored".
package ingest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// Limits of a request.
const (
	DefaultMaxBody = store.UsualBody // of a body, in bytes
	LargestMaxBody = 64 << 20        // largest value of Config.MaxBody

	maxHeaders     = 100
	maxHeaderBytes = 16 << 10
	maxContentType = 255
)

// Path is where webhooks are posted. The ID of an endpoint or a source follows it.
const Path = "/ingest/"

// Config holds what a handler needs. All fields but MaxBody, Proxies, Remote and Wait are
// required.
type Config struct {
	Store     store.Inbox
	Counters  store.Counters // for the monthly quotas, and for counting refused webhooks and those without a key
	Settings  *settings.Cache
	Clock     *clock.Clock
	Engine    *delivery.Engine
	Vault     *secret.Vault
	Budget    *budget.Budget
	PublicURL string         // base of the URLs that providers sign
	Capacity  int            // requests waiting for a commit before new ones get 503
	MaxBody   int64          // of a body, in bytes; 0: DefaultMaxBody
	Proxies   []netip.Prefix // proxies whose X-Forwarded-For is trusted
	Log       *slog.Logger
	Remote    *signature.Remote // keys that providers publish; nil: none are available
	Endpoints interface {       // stores the secrets that handshakes bring to endpoints
		UpdateEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (kapsel.Endpoint, error)
	}
	Sources interface { // stores the secrets that handshakes bring to sources
		UpdateSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error)
	}
	// Opened, if set, is called after an event was stored whose other deliveries an expansion makes.
	Opened func()
	// Wait, if set, makes an answer to ?wait=DURATION wait until the event's delivery has ended, and
	// tell its status. It is meant for development.
	Wait func(ctx context.Context, id kapsel.EventID) (status string)
}

// Handler serves the requests below Path.
type Handler struct {
	Config
	metrics   *metrics
	limits    *ratelimit.Limiter[kapsel.OriginID] // of tenants and of apps
	quotas    quotas
	checkers  checkers
	prepared  *settings.Prepared[*prepared]
	strangers strangers
	refusals  refusals
	arrivals  arrivals
	waiting   atomic.Int64 // requests accepted and not yet committed
	stopping  atomic.Bool
	current   atomic.Bool // Store.Current was nil once
}

// New returns a handler. It also registers the handler with cfg.Engine and cfg.Settings.
func New(cfg Config) *Handler {
	cfg.MaxBody = cmp.Or(cfg.MaxBody, DefaultMaxBody)
	h := &Handler{Config: cfg, metrics: newMetrics(), limits: &ratelimit.Limiter[kapsel.OriginID]{}}
	h.refusals.since = cfg.Clock.Now()
	h.strangers.asking = make(chan struct{}, strangersAtOnce)
	h.quotas.config = &h.Config
	cfg.Engine.ShareRates(h.limits.Asked)
	h.prepared = settings.NewPrepared[*prepared](cfg.Settings)
	cfg.Settings.OnChange(h.settingsChanged)
	return h
}

// settingsChanged removes what the handler keeps of endpoints and tenants that were deleted.
func (h *Handler) settingsChanged(s store.Settings) {
	deleted := s.Deleted()
	h.refusals.drop(deleted.Endpoints)
	h.quotas.drop(deleted.Tenants)
	h.checkers.drop(s.Types)
}

// Stop makes the handler accept nothing more: webhooks and publications that pass the checks
// before room get 503 ShuttingDown.
func (h *Handler) Stop() { h.stopping.Store(true) }

// ServeHTTP accepts one webhook.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// An answer may hold text of a caller or of an endpoint's owner. These headers keep browsers from
	// running it.
	header := w.Header()
	header["X-Content-Type-Options"] = nosniff
	header["Content-Security-Policy"] = sandboxed
	err := h.safely(w, r)
	code := "ok"
	if err != nil {
		if code = string(kapsel.CodeOf(err)); code == "" {
			code = "internal"
		}
		h.refuse(w, r, err)
	}
	h.metrics.requests.WithLabelValues(code).Inc()
	h.metrics.duration.Observe(time.Since(start).Seconds())
}

// Headers of all answers. Nothing may write to these slices.
var (
	nosniff   = []string{"nosniff"}
	sandboxed = []string{"sandbox; default-src 'none'"}
)

// safely calls serve and returns a panic as an error. A bug that one request triggers is answered,
// logged and counted, and affects no other request.
func (h *Handler) safely(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h.serve(w, r)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (err error) {
	// A client that hangs up early changes nothing, even if the store must be asked first.
	ctx := context.WithoutCancel(r.Context())
	o, err := h.origin(ctx, r)
	if err != nil {
		return err
	}
	if o.endpoint != nil {
		defer func() { h.noteRefusal(o.endpoint.ID, err, h.Clock.Now()) }()
	}
	tenant, err := h.Settings.Tenant(ctx, o.tenant)
	if err != nil {
		return err
	}
	limits := tenant.Effective()
	rate := h.rate(tenant.ID, limits)
	rate.tell(w)
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		p, err := h.prepare(ctx, o)
		if err != nil {
			return err
		}
		handshake, err := p.handshake(h.signed(r, nil))
		if err != nil || handshake != nil {
			return reply(w, handshake, cmp.Or(rate.take(w, 1), err))
		}
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusMethodNotAllowed, Detail: "webhooks are posted: use POST"}
	}
	header, err := headerOf(r)
	if err != nil {
		return err
	}
	if header.Hops() >= kapsel.MaxHops {
		return &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity,
			Detail: fmt.Sprintf("the webhook has passed %d endpoints of Kapsel, which may send to each other in a loop; change the url of one", kapsel.MaxHops),
		}
	}
	if via := header.Via(); via != nil && slices.Contains(via, h.Engine.Instance.Mark(o.id)) {
		return &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity,
			Detail: "the webhook has come in at this endpoint before: its destinations lead back here; change a url or a subscription",
		}
	}
	if r.ContentLength > h.MaxBody {
		return tooLarge(h.MaxBody)
	}
	room, err := h.enter(r)
	if err != nil {
		return err
	}
	defer room.leave()
	if err := rate.take(w, 1); err != nil {
		return err
	}
	place, err := h.quotas.take(ctx, tenant.ID, limits.EventsPerMonth)
	if err != nil {
		return err
	}
	defer place.leave()
	body, err := room.read(w, r, h.MaxBody)
	if err != nil {
		return err
	}
	p, err := h.prepare(ctx, o)
	if err != nil {
		return err
	}
	signed := h.signed(r, body)
	if handshake, err := h.unsigned(ctx, o, p, signed); err != nil || handshake != nil {
		return reply(w, handshake, err)
	}
	now := h.Clock.Now()
	verdict, err := p.verify(signed, now)
	if err != nil {
		return err
	}
	if handshake, err := p.handshake(signed); err != nil || handshake != nil {
		return reply(w, handshake, err)
	}
	query := signature.CleanQuery(o.Verification, r.URL.RawQuery)
	key, unkeyed, err := keyOf(o.Intake, p.key, r.Header, query, body, room.more)
	if err != nil {
		return err
	}
	ev := o.event(now)
	if ev.Type, err = o.eventType(p.eventType, r.Header, body, room.more); err != nil {
		return err
	}
	ev.ContentType, ev.Header, ev.Query = r.Header.Get("Content-Type"), redact(header, o), query
	ev.Body, ev.Size, ev.IdempotencyKey, ev.Signature = body, len(body), key, verdict
	var endSpan func(error, ...slog.Attr)
	ev.TraceParent, endSpan = telemetry.Span(r.Header.Get("Traceparent"), "ingest")
	accepted, _, err := h.accept(ctx, store.Acceptance{
		Event: ev, Window: o.Idempotency.Window, Guard: p.guard(signed), GuardWindow: signature.GuardKept,
	}, h.destinations(&ev, o.endpoint))
	place.settle(accepted, err)
	endSpan(err, slog.Any("event_id", ev.ID), o.attr())
	switch {
	case err == nil && accepted.Duplicate:
		err = h.redeliver(ctx, accepted.EventID)
	case err == nil && unkeyed && o.endpoint != nil:
		h.arrivals.add(o.endpoint.ID, now, store.Arrivals{Unkeyed: 1})
	}
	if err != nil {
		return err
	}
	h.answer(w, r, o.Intake, accepted)
	return nil
}

func tooLarge(limit int64) error {
	return kapsel.Errorf(kapsel.PayloadTooLarge, "the body is larger than %d bytes; the operator can raise the limit (KAPSEL_MAX_BODY)", limit)
}

// AnswerTime is how long after its body's deadline a request may be answered. A body larger than
// store.UsualBody adds store.BodyTime.
const AnswerTime = time.Minute

// ReadTime returns how long a body of n bytes may take to arrive: 30 s, and 3 s for each MiB
// above store.UsualBody.
func ReadTime(n int64) time.Duration { return 30*time.Second + 3*store.BodyTime(n) }

// allowTime sets the request's deadlines for a body of n bytes: ReadTime for the body to arrive,
// and after that the time that the commit and the answer may take. Bodies up to store.UsualBody
// keep the server's own limits.
func allowTime(w http.ResponseWriter, n int64) {
	if n <= store.UsualBody {
		return
	}
	c := http.NewResponseController(w)
	read := time.Now().Add(ReadTime(n))
	// If deadlines cannot be set, the server's limits hold.
	_ = c.SetReadDeadline(read)
	_ = c.SetWriteDeadline(read.Add(AnswerTime + store.BodyTime(n)))
}

// headerOf returns the request's header as a list. It returns InvalidRequest if the header is too
// large or has a value that cannot be stored.
func headerOf(r *http.Request) (kapsel.Header, error) {
	list := kapsel.HeaderOf(r.Header)
	if len(list) > maxHeaders || list.Size() > maxHeaderBytes {
		return nil, &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusRequestHeaderFieldsTooLarge,
			Detail: "more than 100 header lines, or more than 16 KiB of them",
		}
	}
	for _, f := range list {
		// Go's server joins folded lines and refuses NUL; a bare CR must not reach a header that we send.
		if strings.ContainsAny(f.Value, "\r\n\x00") {
			return nil, kapsel.Errorf(kapsel.InvalidRequest, "header %s has a control character", f.Name)
		}
	}
	if len(r.Header.Get("Content-Type")) > maxContentType {
		return nil, kapsel.Errorf(kapsel.InvalidRequest, "the content type is longer than %d bytes", maxContentType)
	}
	return list, nil
}

// redact replaces header values that carry credentials, because they are no longer needed and
// would be stored. It keeps those that the endpoint forwards, but never a secret that the provider
// itself sends in a header. redact changes header and returns it.
func redact(header kapsel.Header, o origin) kapsel.Header {
	shared := signature.SharedSecretHeaders(o.Verification)
	for i, f := range header {
		if kapsel.CarriesCredentials(f.Name) && !o.keeps(f.Name) || slices.Contains(shared, f.Name) {
			header[i].Value = secret.Redacted
		}
	}
	return header
}

// rate is the rate at which a tenant may send, or at which may be published to an app. It is nil if
// there is no limit. It uses the monotonic clock, not the store's.
type rate struct {
	h         *Handler
	of        kapsel.OriginID // the tenant or the app
	perSecond float64         // this node's part of the rate
	burst     int             // this node's part of the burst
	limit     int             // burst of all nodes together
	exceeded  string          // what the caller is told
}

func (h *Handler) rate(tenant kapsel.TenantID, limits kapsel.Limits) *rate {
	if limits.IngestPerSecond == nil {
		return nil
	}
	burst := max(1, int(*limits.IngestPerSecond))
	if limits.IngestBurst != nil {
		burst = *limits.IngestBurst
	}
	return h.rateOf(kapsel.OriginID(tenant), *limits.IngestPerSecond, burst, "the tenant sends faster than its limit; slow down")
}

func (h *Handler) rateOf(of kapsel.OriginID, perSecond float64, burst int, exceeded string) *rate {
	part := h.Engine.RatePart(of, perSecond)
	return &rate{h, of, perSecond * part, ratelimit.BurstPart(burst, part), burst, exceeded}
}

// tell writes to the answer's header what is left of the rate, whatever the answer will be.
func (l *rate) tell(w http.ResponseWriter) {
	if l != nil {
		remaining, reset := l.h.limits.Look(l.of, l.perSecond, l.burst, time.Now())
		l.write(w, remaining, reset)
	}
}

// take takes n events from the tenant's rate, and writes to the answer's header what is left. It
// returns RateLimited, with the time to wait, if too few are left.
func (l *rate) take(w http.ResponseWriter, n int) error {
	if l == nil {
		return nil
	}
	remaining, reset, err := l.allow(n)
	l.write(w, remaining, reset)
	return err
}

// allow takes n events from the rate, and returns what is left of it and when it will be full
// again. It returns RateLimited, with the time to wait, if too few are left.
func (l *rate) allow(n int) (remaining int, reset time.Duration, err error) {
	ok, remaining, reset := l.h.limits.AllowN(l.of, l.perSecond, l.burst, time.Now(), n)
	if !ok {
		// reset is the time until the next token. The other missing tokens follow that one.
		others := max(0, min(n, l.burst)-remaining-1)
		wait := reset + time.Duration(float64(others)/l.perSecond*float64(time.Second))
		err = &kapsel.Error{Code: kapsel.RateLimited, Detail: l.exceeded, RetryAfter: max(wait, time.Second)}
	}
	return remaining, reset, err
}

func (l *rate) write(w http.ResponseWriter, remaining int, reset time.Duration) {
	w.Header().Set("X-RateLimit-Limit", strconv.Itoa(l.limit))
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(remaining))
	w.Header().Set("X-RateLimit-Reset", strconv.Itoa(int((reset+time.Second-1)/time.Second)))
}

// verify checks a request's signature by the origin's settings. It returns what it found out, and
// an error if the signature is not valid.
func (p *prepared) verify(signed signature.Request, now time.Time) (kapsel.SignatureVerdict, error) {
	if p.verifier == nil {
		return kapsel.SignatureVerdict{Scheme: signature.None}, nil
	}
	return p.verifier.Verify(signed, now)
}

// signed returns the request as its sender signed it.
func (h *Handler) signed(r *http.Request, body []byte) signature.Request {
	return signature.Request{Method: r.Method, URL: h.PublicURL + r.URL.RequestURI(), Header: r.Header, Body: body}
}

// unsigned returns the answer to a challenge that the sender does not sign, or nil if the request
// is no such challenge. The answer reveals only that the endpoint exists. If the challenge brings
// a secret, unsigned stores the secret, and returns an error if nobody awaits it.
func (h *Handler) unsigned(ctx context.Context, o origin, p *prepared, signed signature.Request) (*signature.Answer, error) {
	if v := p.verifier; v != nil {
		if a := v.Unsigned(signed); a != nil {
			return a, nil
		}
		if brought, a := v.Brought(signed); a != nil {
			return a, h.keep(ctx, o, brought)
		}
		if v.Claims(signed) {
			return nil, nil // answered after the signature is verified, if at all
		}
	}
	return p.challenge.Answer(signed), nil
}

// guard returns what tells a verified request from all others of its origin; nil if no guard is
// kept for it.
func (p *prepared) guard(signed signature.Request) []byte {
	if p.verifier == nil {
		return nil
	}
	return p.verifier.Guard(signed)
}

// keep stores the secret that a handshake brought, if the origin has none and a person awaits one.
// If handshakes come at the same time, the first one wins.
func (h *Handler) keep(ctx context.Context, o origin, brought string) error {
	now := h.Clock.Now()
	awaits := func(in *kapsel.Intake) error {
		v := &in.Verification
		if len(v.Secrets) > 0 || !now.Before(v.AwaitingUntil) || v.Provider != o.Verification.Provider {
			return kapsel.Errorf(kapsel.InvalidSignature, "nobody awaits this handshake: set verification.awaiting_handshake where there is no secret, at most 10 minutes before")
		}
		return nil
	}
	if err := awaits(o.Intake); err != nil {
		return err
	}
	tenant, err := h.Settings.Tenant(ctx, o.tenant)
	if err != nil {
		return err
	}
	sealed, err := h.Vault.Seal(tenant, o.text(), []byte(brought), now)
	if err != nil {
		return fmt.Errorf("seal the handshake's secret: %w", err)
	}
	err = h.update(ctx, o, now, func(in *kapsel.Intake) error {
		if err := awaits(in); err != nil {
			return err
		}
		v := &in.Verification
		v.Secrets, v.AwaitingUntil = []kapsel.Secret{sealed}, time.Time{}
		if signature.Shows(v.Provider) {
			v.ShownUntil = now.Add(signature.HandshakeWindow)
		}
		return nil
	})
	if err == nil {
		h.Settings.Obey()
	}
	return err
}

// handshake returns the answer to a provider's challenge, or nil if the request is no challenge.
// For a POST, callers must verify the signature first. handshake returns Forbidden if the
// challenge does not name the endpoint's secret. A challenge is no event, so nothing is stored.
func (p *prepared) handshake(signed signature.Request) (a *signature.Answer, err error) {
	if p.verifier != nil {
		if a, err = p.verifier.Handshake(signed); err != nil {
			return nil, err
		}
	}
	if a == nil {
		a = p.challenge.Answer(signed)
	}
	if a != nil && a.Status == http.StatusForbidden {
		return nil, kapsel.Errorf(kapsel.Forbidden, "the challenge does not name the endpoint's secret")
	}
	return a, nil
}

// reply writes the answer that a provider demands. If err is not nil, reply writes nothing and
// returns err.
func reply(w http.ResponseWriter, a *signature.Answer, err error) error {
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = nil // no content type, rather than one that net/http guesses
	if a.ContentType != "" {
		header["Content-Type"] = []string{a.ContentType}
	}
	for name, value := range a.Header {
		header[name] = []string{value}
	}
	if a.Status != http.StatusNoContent {
		header["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body) // an error means that the client hung up
	return nil
}

// destinations returns the endpoints that get an event: own, the endpoint whose ingest it came in
// at (nil if it came in elsewhere), and those with a subscription that matches. Callers must not
// change the result.
func (h *Handler) destinations(ev *kapsel.Event, own *kapsel.Endpoint) []*kapsel.Endpoint {
	others := h.Settings.Subscribers(ev.Origin(), ev.Type, ev.Channels)
	if own == nil {
		return others
	}
	to := make([]*kapsel.Endpoint, 0, 1+len(others))
	return append(append(to, own), others...)
}

// accept stores an event with one delivery to each of the endpoints to, and returns the
// deliveries. If there are more than MaxInline, it stores and returns the first of them, and leaves
// the others to an expansion. Callers must pass in without deliveries. If the engine has a permit for a delivery,
// this node holds the delivery from the start and sends it as soon as it is committed; the other
// deliveries wait in the store, as all deliveries of a scheduled event do. If the event is a
// duplicate, accept returns no deliveries.
func (h *Handler) accept(ctx context.Context, in store.Acceptance, to []*kapsel.Endpoint) (store.Accepted, []kapsel.Delivery, error) {
	ev := &in.Event
	if len(to) > kapsel.MaxInline {
		to = to[:kapsel.MaxInline]
		in.ExpandAfter = to[len(to)-1].ID
	}
	var permits []*delivery.Permit // nil: none
	if !ev.FirstDue(ev.ReceivedAt).After(ev.ReceivedAt) {
		permits = h.Engine.Permits(to, ev.ID.Part(), ev.Size)
	}
	confirmed := false // stays false if the store panics; the deferred call returns the permits all the same
	defer func() {
		for _, p := range permits {
			if p != nil {
				h.Engine.Return(p, confirmed)
			}
		}
	}()
	in.Deliveries = firstDeliveries(ev, to)
	for i, p := range permits {
		if p == nil {
			continue
		}
		d := &in.Deliveries[i]
		var err error
		if *d, err = d.After(kapsel.Claim{Node: p.Node, Token: p.Token}, ev.ReceivedAt); err != nil {
			return store.Accepted{}, nil, err
		}
	}
	_, endSpan := telemetry.Span(ev.TraceParent, "commit")
	accepted, err := h.Store.Accept(ctx, in)
	endSpan(err, slog.Any("event_id", ev.ID))
	confirmed = err == nil || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable
	if err != nil || accepted.Duplicate {
		return accepted, nil, err
	}
	for i, dest := range to {
		if permits == nil || permits[i] == nil {
			h.Engine.Waiting(dest, in.Deliveries[i].DueAt)
			continue
		}
		h.Engine.HandOver(permits[i], in.Deliveries[i], *ev)
		permits[i] = nil
	}
	if !in.ExpandAfter.IsZero() && h.Opened != nil {
		h.Opened()
	}
	return accepted, in.Deliveries, nil
}

// firstDeliveries returns the first deliveries of an event, pending, in the order of the endpoints
// to. They are due at once, or when the event says.
func firstDeliveries(ev *kapsel.Event, to []*kapsel.Endpoint) []kapsel.Delivery {
	deliveries, due := make([]kapsel.Delivery, len(to)), ev.FirstDue(ev.ReceivedAt)
	for i, dest := range to {
		deliveries[i] = kapsel.Delivery{
			ID: kapsel.NewDeliveryID(ev.ReceivedAt, ev.ID.Part()), EventID: ev.ID, EndpointID: dest.ID, TenantID: ev.TenantID,
			Status: kapsel.Pending, DueAt: due, Size: ev.Size, CreatedAt: ev.ReceivedAt,
		}
	}
	return deliveries
}

// redeliver makes new deliveries of an event that was sent again after deliveries of it had
// failed. If a person makes a provider send an event once more, the provider keeps the ID, and the
// person expects a new delivery.
func (h *Handler) redeliver(ctx context.Context, id kapsel.EventID) error {
	for {
		made, err := h.Store.Redeliver(ctx, id, h.Clock.Now())
		for _, d := range made {
			h.Engine.Due(d)
		}
		if err != nil || len(made) < kapsel.MaxInline {
			return err
		}
	}
}

// ownAnswer returns the answer to an accepted webhook that the endpoint or source sets or, if it
// sets none, the one that its provider demands. It returns nil for the usual answer.
func ownAnswer(in *kapsel.Intake) *signature.Answer {
	r := in.Response
	if r == nil {
		return signature.Accepted(in.Verification.Provider)
	}
	a := &signature.Answer{Status: r.Status, Body: []byte(r.Body)}
	if r.ContentType != kapsel.NoContentType {
		a.ContentType = r.ContentType
	}
	return a
}

// answer writes that the event is stored. Without Wait, the usual body is constant but for the ID.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, in *kapsel.Intake, a store.Accepted) {
	id := a.EventID.String()
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["X-Kapsel-Event-Id"] = []string{id}
	if a.Duplicate {
		header["Idempotent-Replayed"] = []string{"true"}
	}
	if own := ownAnswer(in); own != nil {
		reply(w, own, nil)
		return
	}
	status := "received"
	if h.Wait != nil && strings.Contains(r.URL.RawQuery, "wait=") {
		if d, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil && d > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), min(d, time.Minute))
			defer cancel()
			status = h.Wait(ctx, a.EventID)
		}
	}
	body := make([]byte, 0, 96)
	body = append(body, `{"event_id":"`...)
	body = append(body, id...)
	body = append(body, `","status":"`...)
	body = append(body, status...)
	body = append(body, "\"}"...)
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.Write(body) // an error means that the client hung up; its event is stored all the same
}

// RefusedMessage is the log message for a refused webhook.
const RefusedMessage = "webhook refused"

// refuse answers a request with an error, and logs the error with the request's path and client.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	id := problem.NewRequestID()
	r = r.WithContext(problem.WithRequestID(r.Context(), id))
	level := slog.LevelDebug
	switch code := kapsel.CodeOf(err); {
	case code == "":
		level = slog.LevelError // a bug
	case code == kapsel.DatabaseUnavailable || code == kapsel.InvalidSignature:
		level = slog.LevelInfo
	}
	h.Log.Log(r.Context(), level, RefusedMessage, "request_id", id, "error", err, "path", r.URL.Path, "client", ClientOf(r, h.Proxies))
	problem.Write(w, r, err)
}

// ClientOf returns the address that a request came from. If the peer is one of proxies, that is
// the last address in X-Forwarded-For that is not one of proxies; addresses before that one cannot
// be trusted. ClientOf returns the zero address if r.RemoteAddr is not valid.
func ClientOf(r *http.Request, proxies []netip.Prefix) netip.Addr {
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := remote.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusted(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap()
	}
	return client
}

// enter reserves a place for the request and the memory for its body, before the body is read. It
// returns ShuttingDown if the process stops, and QueueFull if there is no place or no memory. If
// err is nil, callers must call leave.
func (h *Handler) enter(r *http.Request) (*room, error) {
	if h.stopping.Load() {
		return nil, &kapsel.Error{Code: kapsel.ShuttingDown, Detail: "this process is stopping; try again", RetryAfter: time.Second}
	}
	n := r.ContentLength
	if n < 0 { // chunked: more is reserved as the body grows
		n = firstChunk
	}
	if h.waiting.Add(1) > int64(h.Capacity) {
		h.waiting.Add(-1)
		return nil, full("too many requests wait for the database; try again")
	}
	if !h.Budget.Request(n) {
		h.waiting.Add(-1)
		return nil, full("too many bytes of bodies are held at the moment; try again")
	}
	return &room{h: h, held: n, places: 1}, nil
}

func full(detail string) error {
	return &kapsel.Error{Code: kapsel.QueueFull, Detail: detail, RetryAfter: time.Second}
}

// firstChunk is the memory, in bytes, reserved for a body of unknown length before the body is
// read.
const firstChunk = 64 << 10

// room is what a request takes up: memory, and a place for each event that the request brings.
type room struct {
	h      *Handler
	held   int64 // bytes
	places int64
}

// more reserves n more bytes, for a body that grows or for a copy of a body. It returns QueueFull
// if there is no memory left.
func (m *room) more(n int) error {
	if !m.h.Budget.Grow(m.held, int64(n)) {
		return full("too many bytes of bodies are held at the moment; try again")
	}
	m.held += int64(n)
	return nil
}

func (m *room) leave() {
	m.h.Budget.ReturnRequest(m.held)
	m.h.waiting.Add(-m.places)
}

// read returns the whole body. A body of unknown length may have up to limit bytes; for others,
// callers must check Content-Length first.
func (m *room) read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength >= 0 {
		allowTime(w, r.ContentLength)
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, unreadable(err, limit)
		}
		return body, nil
	}
	src := http.MaxBytesReader(w, r.Body, limit)
	body := make([]byte, 0, firstChunk)
	for {
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			return bytes.Clone(body), nil // the event's body holds no more memory than its size
		case err != nil:
			return nil, unreadable(err, limit)
		case len(body) == cap(body):
			more := min(int64(cap(body)), limit+1-int64(cap(body)))
			if err := m.more(int(more)); err != nil {
				return nil, err
			}
			allowTime(w, int64(cap(body))+more)
			body = append(make([]byte, 0, int64(cap(body))+more), body...)
		}
	}
}

// unreadable returns the error for a body that could not be read to its end.
func unreadable(err error, limit int64) error {
	var large *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &large):
		return tooLarge(limit)
	case errors.As(err, &network) && network.Timeout():
		return &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusRequestTimeout, Detail: "the body did not arrive in time", Err: err}
	}
	return &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the body ended early or is not valid chunked encoding", Err: err}
}
