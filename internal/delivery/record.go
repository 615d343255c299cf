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
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// maxHold is how long a 429 with Retry-After holds its whole endpoint at most.
const maxHold = time.Hour

// deliver is the life of one attempt: exchange, then what it means for the endpoint, then
// the record. The worker is free when the record is durable, so no more exchanges can be
// unrecorded than there are workers.
func (e *Engine) deliver(g *gate, j *job) {
	e.mu.Lock()
	ep := g.ep
	e.mu.Unlock()
	o := e.exchange(g, j, ep)
	j.event.Body = nil
	e.finish(g, j, ep, &o)
	if o.unsent != nil {
		j.delivery.DueAt = j.due
		if o.unsent != errNotLeased {
			e.Log.Error("a delivery could not be prepared; it is given back", "error", o.unsent,
				"delivery_id", j.delivery.ID.String(), "endpoint_id", ep.ID.String())
			j.delivery.DueAt = e.Clock.Now().Add(unsentWait)
		}
		e.giveBack([]kapsel.Delivery{j.delivery})
	} else {
		e.record(g, j, ep, &o)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy--
	g.unrecorded--
	if j.fresh {
		e.fresh--
	}
	e.feed(g, e.Clock.Now())
	e.dispatch()
}

// unsentWait is how long a delivery waits that could not be prepared.
const unsentWait = 10 * time.Second

// finish takes an ended exchange off the gate's books and draws the conclusions for the
// endpoint: what it has earned, its circuit, and whether it wants quiet.
func (e *Engine) finish(g *gate, j *job, ep *kapsel.Endpoint, o *outcome) {
	e.Budget.Adjust(-int64(j.delivery.Size))
	now := e.Clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended(g)
	if j.fresh {
		g.fresh--
	}
	g.tick(now, 1)
	verdict := breaker.Neutral
	if o.unsent == nil && !o.lost {
		e.metrics.attempts.Observe(o.duration.Seconds())
		if o.answered() {
			g.earned = min(g.earned+1, max(1, ep.Concurrency))
		} else if o.code != kapsel.DialBlocked {
			g.earned = max(1, g.earned/2)
		}
		g.unanswered = !o.answered()
		verdict = breaker.Judge(o.code, o.status)
	}
	switch {
	case j.probe:
		e.answerProbe(g, j, verdict)
	case g.epoch == j.epoch && g.window.Record(verdict, now, ep.Circuit):
		policy := ep.Circuit
		e.moveCircuit(g, func(c kapsel.Circuit) (kapsel.Circuit, bool) {
			return breaker.Trip(c, now, policy), c.State != kapsel.CircuitOpened && c.State != kapsel.CircuitHalfOpen
		})
		e.Log.Info("circuit opened", "endpoint_id", ep.ID.String(), "tenant_id", ep.TenantID.String(), "error_code", string(o.code))
	}
	if o.status == http.StatusTooManyRequests && !o.retryAfter.IsZero() {
		until := o.retryAfter
		if latest := now.Add(maxHold); until.After(latest) {
			until = latest
		}
		if until.Sub(g.circuit.HoldUntil) > time.Second {
			e.moveCircuit(g, func(c kapsel.Circuit) (kapsel.Circuit, bool) {
				return breaker.Hold(c, until, now), until.After(c.HoldUntil)
			})
		}
	}
	e.unpark()
	if len(g.ready) > 0 {
		e.turns.add(g)
	}
	e.feed(g, now)
	e.dispatch()
}

// answerProbe tells the circuit what its probe found. The gate is looked at again when that
// is written.
func (e *Engine) answerProbe(g *gate, j *job, v breaker.Verdict) {
	policy, node := g.ep.Circuit, j.delivery.Node
	e.background(func() {
		e.changeCircuit(g, func(c kapsel.Circuit) (kapsel.Circuit, bool) {
			return breaker.Answer(c, v, e.Clock.Now(), policy), c.Probe == node
		})
		e.mu.Lock()
		defer e.mu.Unlock()
		g.probing = false
		now := e.Clock.Now()
		g.nextDue = now // a probe passes over a backlog: there may be more
		e.lookAt(g, now)
	})
}

// moveCircuit changes the circuit at once on this node and in the background for all.
func (e *Engine) moveCircuit(g *gate, change func(kapsel.Circuit) (kapsel.Circuit, bool)) {
	next, ok := change(g.circuit)
	if !ok {
		return
	}
	if next.State != g.circuit.State {
		g.epoch++
		g.window.Reset()
	}
	before := g.circuit
	g.circuit = next
	e.giveBackReady(g)
	e.background(func() { e.changeCircuitFrom(g, before, change) })
}

// changeCircuit changes the circuit that the gate knows, for all nodes.
func (e *Engine) changeCircuit(g *gate, change func(kapsel.Circuit) (kapsel.Circuit, bool)) {
	e.mu.Lock()
	from := g.circuit
	e.mu.Unlock()
	e.changeCircuitFrom(g, from, change)
}

// changeCircuitFrom writes a change of the circuit. When another node changed it first, the
// change is made to what that node wrote, if it still applies.
func (e *Engine) changeCircuitFrom(g *gate, c kapsel.Circuit, change func(kapsel.Circuit) (kapsel.Circuit, bool)) {
	err := e.insist(func(ctx context.Context) error {
		for {
			next, ok := change(c)
			if !ok {
				return nil
			}
			newer, err := e.Store.SaveCircuit(ctx, next)
			again := kapsel.CodeOf(err) == kapsel.Conflict
			if again {
				newer, err = e.readCircuit(ctx, g, next.Version)
			}
			if err != nil {
				return err // c stays what it was: to a circuit not read the change might not apply
			}
			if c = newer; !again {
				return nil
			}
		}
	})
	if err != nil {
		e.Log.Warn("a circuit's change could not be written", "error", err, "endpoint_id", g.id.String())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setCircuit(g, c, e.Clock.Now())
}

// readCircuit reads the circuit again after a change of the given version was refused. An older
// one means that the store has gone back, as with a fail-over to a standby that lagged: then
// what the gate knows is no longer so, and the older one is to take its place.
func (e *Engine) readCircuit(ctx context.Context, g *gate, version int64) (kapsel.Circuit, error) {
	c, err := e.Store.Circuit(ctx, g.id)
	if err == nil && c.Version < version {
		e.mu.Lock()
		g.circuit.Version = -1 // below every other; see setCircuit
		e.mu.Unlock()
	}
	return c, err
}

// record writes the attempt and where the delivery goes from it. It insists while the store
// is in trouble; when the node was declared dead meanwhile, the record is refused and the
// attempt that was written in its place stands.
func (e *Engine) record(g *gate, j *job, ep *kapsel.Endpoint, o *outcome) {
	now, url := e.Clock.Now(), ep.URL
	if latest, err := e.Settings.AnyEndpoint(e.cut, ep.ID); err == nil {
		ep = latest // it may have been changed, or deleted, during the exchange
	}
	after, err := j.delivery.After(o.happening(j, ep), now)
	if err != nil {
		e.Log.Error("a delivery cannot be moved", "error", err, "delivery_id", j.delivery.ID.String())
		return
	}
	attempt := kapsel.Attempt{
		ID: j.delivery.Token, DeliveryID: j.delivery.ID, EventID: j.delivery.EventID,
		EndpointID: j.delivery.EndpointID, TenantID: j.delivery.TenantID,
		Number: after.Attempts, StartedAt: o.started, Duration: o.duration,
		StatusCode: o.status, ErrorCode: o.code, Error: o.text,
		RequestHeaders: o.sent, ResponseHeaders: o.header, ResponseBody: o.body,
	}
	err = e.insist(func(ctx context.Context) error {
		return e.Store.Complete(ctx, store.Completion{Attempt: attempt, Delivery: after})
	})
	if code := kapsel.CodeOf(err); err != nil && code != kapsel.Conflict && code != kapsel.DatabaseUnavailable {
		// The store refuses this very row, which is a bug: record what it cannot refuse.
		e.Log.Error("the store refuses an attempt; it is recorded as unknown", "error", err, "delivery_id", j.delivery.ID.String())
		o.code, o.status = kapsel.OutcomeUnknown, 0
		attempt.StatusCode, attempt.ErrorCode, attempt.Error = 0, kapsel.OutcomeUnknown, "the answer could not be recorded"
		attempt.RequestHeaders, attempt.ResponseHeaders, attempt.ResponseBody = nil, nil, nil
		if after, err = j.delivery.After(kapsel.Lost{Takeover: true}, now); err == nil {
			err = e.insist(func(ctx context.Context) error {
				return e.Store.Complete(ctx, store.Completion{Attempt: attempt, Delivery: after})
			})
		}
	}
	e.mu.Lock()
	if err == nil || kapsel.CodeOf(err) == kapsel.Conflict { // Conflict: superseded
		delete(e.held, attempt.ID)
	}
	if err == nil && after.Status == kapsel.Pending {
		e.dueAt(g, after.DueAt)
	}
	e.mu.Unlock()
	e.logAttempt(&attempt, &after, err)
	if err != nil {
		return
	}
	if after.Status == kapsel.Pending {
		e.metrics.outcomes.WithLabelValues("retry").Inc()
	} else {
		e.metrics.outcomes.WithLabelValues(after.Status.String()).Inc()
	}
	if after.Attempts == 1 {
		e.metrics.firstDelay.Observe(o.started.Sub(j.event.ReceivedAt).Seconds())
	}
	if o.status == http.StatusGone && ep.State != kapsel.EndpointDisabled && ep.URL == url { // not a former one
		err := e.insist(func(ctx context.Context) error { return e.Store.DisableGone(ctx, ep.ID, now) })
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			e.Log.Warn("an endpoint that is gone could not be disabled", "error", err, "endpoint_id", ep.ID.String())
		}
		e.Settings.Changed()
	}
}

// happening says what an outcome is to the delivery.
func (o *outcome) happening(j *job, ep *kapsel.Endpoint) kapsel.Happening {
	if o.lost {
		// What panics would be tried again at once for ever: it ends as what kills its process.
		return kapsel.Lost{Takeover: o.panicked}
	}
	return kapsel.Answer{
		Status: o.status, Code: o.code,
		Retry:       o.retried(ep),
		Delay:       ep.Retry.Delay(j.delivery.Counted+1, rand.Float64()),
		NotBefore:   o.retryAfter,
		MaxAttempts: ep.Retry.MaxAttempts,
		Gone:        !ep.DeletedAt.IsZero(),
	}
}

// retried reports whether the outcome is one after which the delivery is tried again: no
// answer, 5xx, 408, 425, 429, and what the endpoint adds.
func (o *outcome) retried(ep *kapsel.Endpoint) bool {
	switch o.status {
	case 0:
		return o.code.Retryable()
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return o.status >= 500 && o.status < 600 || slices.Contains(ep.RetryOn, o.status)
}

// logAttempt writes the one line of an attempt.
func (e *Engine) logAttempt(a *kapsel.Attempt, d *kapsel.Delivery, err error) {
	level, message := slog.LevelDebug, "attempt"
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
