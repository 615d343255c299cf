package delivery

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// unsentWait is how long a delivery waits after it could not be prepared.
const unsentWait = 10 * time.Second

// finish applies the outcome of an exchange to the endpoint's gate. It sets o.due, which counts if
// nothing was sent.
func (e *Engine) finish(g *gate.Gate, j *gate.Job, o *outcome) {
	j.Release()
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.now()
	short, isShort := errors.AsType[*egress.Shortage](o.unsent)
	o.due = e.gates.End(g, j, gate.Result{
		Unsent: o.unsent != nil, Short: isShort, ShortPorts: isShort && short.Ports,
		Lost: o.lost, Status: o.status, Code: o.code, RetryAfter: o.retryAfter,
	}, at)
	switch {
	case isShort:
		e.lacks(short, at)
	case o.unsent != nil && o.unsent != errNotLeased:
		e.Log.Error("a delivery could not be prepared; it is given back", "error", o.unsent,
			"delivery_id", j.Delivery.ID.String(), "endpoint_id", g.ID().String())
		o.due = at.Store.Add(unsentWait)
	case o.unsent == nil && !o.lost:
		telemetry.Observe(e.metrics.attempts, o.duration.Seconds(), o.trace)
	}
}

// giveBack writes deliveries back as pending, in the background. The engine knows their tokens
// until that is done or has failed.
func (e *Engine) giveBack(jobs []*gate.Job) {
	back := make([]kapsel.Delivery, len(jobs))
	for i, j := range jobs {
		back[i] = j.Delivery
	}
	e.background(func() {
		err := e.insist(func(ctx context.Context) error { return e.Store.GiveBack(ctx, back) })
		if err != nil {
			e.Log.Warn("deliveries could not be given back; they return when the node's lease ends", "error", err, "deliveries", len(back))
		}
		e.mu.Lock()
		for _, d := range back {
			e.holds.drop(d.Token)
		}
		e.mu.Unlock()
	})
}

// shortage is what the log says of what this machine is short of. Engine.mu guards it.
type shortage struct {
	warned time.Time // when it was last logged, by the monotonic clock
	unsaid int       // deliveries that went back since then and are not in the log
}

// lacks counts and logs, at most once a minute, that a delivery went back because this machine is
// short of what. Callers must hold mu.
func (e *Engine) lacks(what *egress.Shortage, at gate.Time) {
	e.metrics.shortages.Inc()
	s := &e.short
	if s.unsaid++; at.Mono.Sub(s.warned) >= time.Minute {
		e.Log.Warn("this machine is short of what connections need; deliveries go back without an attempt and wait",
			"short_of", what.Limit, "deliveries", s.unsaid, "at_once", e.gates.Workers(at))
		s.warned, s.unsaid = at.Mono, 0
	}
}

// record writes the attempt and the delivery's next state, and disables an endpoint that answered
// 410. It repeats the write while the store is unavailable. If this node was declared dead
// meanwhile, the store refuses the record, and the attempt that was written in its place stands.
func (e *Engine) record(g *gate.Gate, j *gate.Job, o *outcome) {
	now := e.Clock.Now()
	var ep *kapsel.Endpoint
	var after kapsel.Delivery
	attempt := kapsel.Attempt{
		ID: j.Delivery.Token, DeliveryID: j.Delivery.ID, EventID: j.Delivery.EventID,
		EndpointID: j.Delivery.EndpointID, TenantID: j.Delivery.TenantID,
		StartedAt: o.started, Duration: o.duration,
		StatusCode: o.status, ErrorCode: o.code, Error: o.text,
		RequestHeaders: o.sent, ResponseHeaders: o.header, ResponseBody: o.body,
	}
	err := e.insist(func(ctx context.Context) (err error) {
		// The endpoint may have been changed or deleted during the exchange, or while the store was away.
		ep = e.Settings.Latest(j.Endpoint)
		if after, err = j.Delivery.After(o.transition(j, ep), now); err != nil {
			e.Log.Error("a delivery cannot be moved", "error", err, "delivery_id", j.Delivery.ID.String())
			return err
		}
		attempt.Number = after.Attempts
		return e.Store.Complete(ctx, store.Completion{Attempt: attempt, Delivery: after, Commitments: o.sums})
	})
	if code := kapsel.CodeOf(err); err != nil && code != kapsel.Conflict && code != kapsel.DatabaseUnavailable {
		// The store refuses this very row, which is a bug. Record an attempt that the store cannot refuse.
		e.Log.Error("the store refuses an attempt; it is recorded as unknown", "error", err, "delivery_id", j.Delivery.ID.String())
		o.code, o.status = kapsel.OutcomeUnknown, 0
		attempt.StatusCode, attempt.ErrorCode, attempt.Error = 0, kapsel.OutcomeUnknown, "the answer could not be recorded"
		attempt.RequestHeaders, attempt.ResponseHeaders, attempt.ResponseBody = nil, nil, nil
		o.sums.Response = nil
		if after, err = j.Delivery.After(kapsel.Lost{Takeover: true}, now); err == nil {
			err = e.insist(func(ctx context.Context) error {
				return e.Store.Complete(ctx, store.Completion{Attempt: attempt, Delivery: after, Commitments: o.sums})
			})
		}
	}
	e.mu.Lock()
	if err == nil || kapsel.CodeOf(err) == kapsel.Conflict { // Conflict: superseded
		e.holds.drop(attempt.ID)
	}
	if err == nil && after.Status == kapsel.Pending {
		e.gates.DueAt(g, after.DueAt)
	}
	e.mu.Unlock()
	e.logAttempt(&attempt, &after, err)
	if err != nil {
		return
	}
	if e.Recorded != nil {
		e.Recorded(&attempt, &after)
	}
	if after.Status == kapsel.Pending {
		e.metrics.outcomes.WithLabelValues("retry").Inc()
	} else {
		e.metrics.outcomes.WithLabelValues(after.Status.String()).Inc()
	}
	if after.Attempts == 1 {
		due := j.Event.FirstDue(j.Event.ReceivedAt) // a person may have retried it before
		telemetry.Observe(e.metrics.firstDelay, max(0, o.started.Sub(due).Seconds()), o.trace)
	}
	if o.status == http.StatusGone && ep.State != kapsel.EndpointDisabled && ep.Destination == j.Endpoint.Destination { // not a former one
		err := e.insist(func(ctx context.Context) error { return e.Store.DisableGone(ctx, ep.ID, j.Endpoint.Destination, now) })
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			e.Log.Warn("an endpoint that is gone could not be disabled", "error", err, "endpoint_id", ep.ID.String())
		}
		e.Settings.Changed()
	}
}

// transition returns the delivery's transition after the outcome, by the endpoint's settings as they
// are now. What a former destination asked for does not count.
func (o *outcome) transition(j *gate.Job, ep *kapsel.Endpoint) kapsel.Transition {
	if o.lost {
		// A delivery whose exchange panics would be tried again at once for ever. So a panic counts like
		// an exchange that kills its process.
		return kapsel.Lost{Takeover: o.panicked}
	}
	answer := kapsel.Answer{
		Status: o.status, Code: o.code,
		Retry:       o.retried(ep),
		Delay:       ep.Retry.Delay(j.Delivery.Counted+1, rand.Float64()),
		MaxAttempts: ep.Retry.MaxAttempts,
		Gone:        !ep.DeletedAt.IsZero(),
	}
	if ep.Destination == j.Endpoint.Destination {
		answer.NotBefore, answer.Destination = o.retryAfter, ep.Destination
	}
	return answer
}

// retried reports whether the delivery is tried again after the outcome: after an error without an
// answer if its code is retryable, and after 5xx, 408, 425, 429 and the statuses in ep.RetryOn.
func (o *outcome) retried(ep *kapsel.Endpoint) bool {
	switch o.status {
	case 0:
		return o.code.Retryable()
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return o.status >= 500 && o.status < 600 || slices.Contains(ep.RetryOn, o.status)
}

// AttemptMessage is the log's message for an attempt.
const AttemptMessage = "attempt"

// logAttempt writes the one log line of an attempt.
func (e *Engine) logAttempt(a *kapsel.Attempt, d *kapsel.Delivery, err error) {
	level, message := slog.LevelDebug, AttemptMessage
	switch {
	case errors.Is(err, &kapsel.Error{Code: kapsel.Conflict}):
		level, message = slog.LevelWarn, "late result of a superseded attempt: the delivery was taken over"
	case err != nil:
		level, message = slog.LevelError, "an attempt could not be recorded; its delivery is taken over when this node ends"
	case a.ErrorCode != "" || a.Number > 1:
		level = slog.LevelInfo
	}
	ctx := context.Background()
	if !e.Log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("attempt_id", a.ID.String()), slog.String("delivery_id", a.DeliveryID.String()),
		slog.String("event_id", a.EventID.String()), slog.String("endpoint_id", a.EndpointID.String()),
		slog.String("tenant_id", a.TenantID.String()), slog.Int("number", a.Number),
		slog.Int("status_code", a.StatusCode), slog.String("error_code", string(a.ErrorCode)),
		slog.String("reason", a.Error), slog.Int64("duration_ms", a.Duration.Milliseconds()),
		slog.String("delivery", d.Status.String()),
	}
	if tp := a.RequestHeaders.Get("Traceparent"); len(tp) == 55 {
		attrs = append(attrs, slog.String("trace_id", tp[3:35]))
	}
	if d.Status == kapsel.Pending {
		attrs = append(attrs, slog.Time("next_attempt_at", d.DueAt))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	e.Log.LogAttrs(ctx, level, message, attrs...)
}
