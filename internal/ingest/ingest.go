// Package ingest accepts webhooks over HTTP and checks their signatures. It acknowledges a webhook
// only after the event and its deliveries are durably stored.
//
// The order of checks is a promise, so that an unsigned request never learns whether a key was
// seen: ID → endpoint or source → method → header → loop → Content-Length → room → rate → quota →
// body → signature → key → store. A webhook answered with 4xx is never stored; 503 means "not
// known to be stored".
package ingest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/delivery"
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

// Handler serves the requests below kapsel.IngestPath.
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
	var trace string
	err := h.safely(w, r, &trace)
	code := "ok"
	if err != nil {
		if code = string(kapsel.CodeOf(err)); code == "" {
			code = "internal"
		}
		h.refuse(w, r, err)
	}
	h.metrics.requests.WithLabelValues(code).Inc()
	telemetry.Observe(h.metrics.duration, time.Since(start).Seconds(), trace)
}

// Headers of all answers. Nothing may write to these slices.
var (
	nosniff   = []string{"nosniff"}
	sandboxed = []string{"sandbox; default-src 'none'"}
)

// safely calls serve and returns a panic as an error. A bug that one request triggers is answered,
// logged and counted, and affects no other request.
func (h *Handler) safely(w http.ResponseWriter, r *http.Request, trace *string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h.serve(w, r, trace)
}

// serve accepts a webhook, or returns the error that the sender is answered with. It sets trace to the
// event's traceparent once there is an event.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, trace *string) (err error) {
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
	*trace = ev.TraceParent
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
