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
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// deliver makes one attempt: it makes the exchange, applies the outcome to the endpoint, and
// records the outcome. The worker stays in use until the record is durable or given up, so the
// node never has more unrecorded exchanges than workers.
func (e *Engine) deliver(g *gate, j *job) {
	o := e.exchange(j)
	j.event.Body = nil
	e.finish(g, j, &o)
	if o.unsent != nil {
		j.delivery.DueAt = o.due
		e.giveBack([]kapsel.Delivery{j.delivery})
	} else {
		e.record(g, j, &o)
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

// unsentWait is how long a delivery waits after it could not be prepared.
const unsentWait = 10 * time.Second

// finish takes an ended exchange off the gate's books and applies its outcome to the endpoint: to
// what the destination has earned, to the circuit, and to the time until which the destination
// wants no requests. An exchange with a former destination changes none of these. An exchange that
// was made ends the endpoint's part in a shortage. finish sets o.due, which counts if nothing was
// sent.
func (e *Engine) finish(g *gate, j *job, o *outcome) {
	e.Budget.Adjust(-int64(j.delivery.Size))
	now := e.Clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended(g, j)
	if j.fresh {
		g.fresh--
	}
	present := j.ep.Destination == g.ep.Destination
	o.due = j.due
	switch short, ok := o.unsent.(*egress.Shortage); {
	case ok:
		o.due = e.short(g, short, present)
	case o.unsent == nil && present:
		g.lack = lack{}
	case o.unsent == nil:
	case o.unsent != errNotLeased:
		e.Log.Error("a delivery could not be prepared; it is given back", "error", o.unsent,
			"delivery_id", j.delivery.ID.String(), "endpoint_id", g.id.String())
		o.due = now.Add(unsentWait)
	}
	verdict := breaker.Neutral
	if o.unsent == nil && !o.lost {
		e.metrics.attempts.Observe(o.duration.Seconds())
		verdict = breaker.Judge(o.code, o.status)
		if present {
			g.earn(o)
		}
	}
	if present && o.unsent == nil {
		g.tick(now, 1)
	}
	if j.epoch == g.epoch { // then it was with the present destination, too
		e.judge(g, verdict, o.code, now)
	}
	if present && o.status == http.StatusTooManyRequests {
		until := breaker.Hold(g.circuit, o.retryAfter, now).HoldUntil
		if until.Sub(g.circuit.HoldUntil) > time.Second {
			e.moveCircuit(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Hold(c, until, now) })
		}
	}
	e.unpark()
	if len(g.ready) > 0 {
		e.turns.add(g)
	}
	e.feed(g, now)
	e.dispatch()
}

// earn updates how many exchanges at once the present destination has earned. An answer earns one
// more, up to the endpoint's concurrency; 5xx and 429 halve the number, but not below firstEarned.
// No answer halves it down to one, except that a blocked address changes nothing.
func (g *gate) earn(o *outcome) {
	g.unanswered = !o.answered()
	switch {
	case o.status == http.StatusTooManyRequests || o.status >= 500 && o.status < 600:
		if g.earned > firstEarned {
			g.earned = max(firstEarned, g.earned/2)
		}
	case o.answered():
		g.earned = min(g.earned+1, max(1, g.ep.Concurrency))
	case o.code != kapsel.DialBlocked:
		g.earned = max(1, g.earned/2)
	}
}

// judge counts an exchange for the circuit and moves the circuit if the exchange decides the trial
// or trips the window. The exchange must have begun in the gate's present epoch. code is for the
// log. Callers must hold mu.
func (e *Engine) judge(g *gate, v breaker.Verdict, code kapsel.Code, now time.Time) {
	policy, node := g.ep.Circuit, e.node
	switch {
	case policy.Disabled:
	case e.probing(g):
		finding := g.trial.Record(v, policy)
		if finding == breaker.Undecided {
			return
		}
		e.moveCircuit(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Conclude(c, node, finding, now, policy) })
		g.nextDue = now // the trial passed over the backlog: deliveries may be due
		e.lookAt(g, now)
		e.logCircuit(g, code)
	case g.circuit.State == kapsel.CircuitClosed && g.window.Record(v, now, policy):
		e.moveCircuit(g, func(c kapsel.Circuit) kapsel.Circuit { return breaker.Trip(c, now, policy) })
		e.logCircuit(g, code)
	}
}

// logCircuit logs a change of the circuit's state with the error code of the exchange that caused
// it.
func (e *Engine) logCircuit(g *gate, code kapsel.Code) {
	e.Log.Info("circuit "+string(g.circuit.State), "endpoint_id", g.id.String(), "tenant_id", g.ep.TenantID.String(), "error_code", string(code))
}

// moveCircuit changes the endpoint's circuit on this node at once, and in the store in the
// background. A change that returns a circuit unchanged does not apply to it. Callers must hold
// mu.
func (e *Engine) moveCircuit(g *gate, change func(kapsel.Circuit) kapsel.Circuit) {
	if change(g.circuit) == g.circuit {
		return
	}
	ep := g.ep
	g.moves = append(g.moves, func(stored kapsel.Circuit) (next kapsel.Circuit, ok bool) {
		if stored.Destination > ep.Destination {
			return stored, false // the stored circuit is of a later destination than this node knew
		}
		before := ep.CircuitNow(stored)
		next = change(before)
		return next, next != before
	})
	e.restate(g, e.Clock.Now())
	if len(g.moves) == 1 {
		e.background(func() { e.writeCircuit(g) })
	}
}

// writeCircuit writes the gate's moves one after the other until none is left. If another node has
// changed the circuit first, writeCircuit applies the move to the circuit which that node wrote,
// if the move still applies to it.
func (e *Engine) writeCircuit(g *gate) {
	for more := true; more; {
		e.mu.Lock()
		move, c := g.moves[0], g.stored
		e.mu.Unlock()
		err := e.insist(func(ctx context.Context) error {
			for {
				next, ok := move(c)
				if !ok {
					return nil
				}
				newer, err := e.Store.SaveCircuit(ctx, next)
				again := kapsel.CodeOf(err) == kapsel.Conflict
				if again {
					newer, err = e.readCircuit(ctx, g, next.Version)
				}
				if err != nil {
					return err // c keeps its value: newer was not read, and the move might not apply to it
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
		g.moves = g.moves[1:]
		more = len(g.moves) > 0
		if c.Version > g.stored.Version {
			g.stored = c
		}
		e.restate(g, e.Clock.Now())
		e.dispatch()
		e.mu.Unlock()
	}
}

// readCircuit reads the circuit again after a change of the given version was refused. If the
// stored version is older, the store has gone back, for instance by a fail-over to a standby that
// lagged. Then what the gate knows is no longer true, and readCircuit lets the older circuit
// replace it.
func (e *Engine) readCircuit(ctx context.Context, g *gate, version int64) (kapsel.Circuit, error) {
	c, err := e.Store.Circuit(ctx, g.id)
	if err == nil && c.Version < version {
		e.mu.Lock()
		g.stored.Version = -1 // below every stored version; see setCircuit
		e.mu.Unlock()
	}
	return c, err
}

// record writes the attempt and the delivery's next state, and disables an endpoint that answered
// 410. It repeats the write while the store is unavailable. If this node was declared dead
// meanwhile, the store refuses the record, and the attempt that was written in its place stands.
func (e *Engine) record(g *gate, j *job, o *outcome) {
	now := e.Clock.Now()
	ep := e.Settings.Latest(j.ep) // the endpoint may have been changed or deleted during the exchange
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
		// The store refuses this very row, which is a bug. Record an attempt that the store cannot refuse.
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
	if e.Recorded != nil {
		e.Recorded(&attempt, &after)
	}
	if after.Status == kapsel.Pending {
		e.metrics.outcomes.WithLabelValues("retry").Inc()
	} else {
		e.metrics.outcomes.WithLabelValues(after.Status.String()).Inc()
	}
	if after.Attempts == 1 {
		due := j.event.FirstDue(j.event.ReceivedAt) // a person may have retried it before
		e.metrics.firstDelay.Observe(max(0, o.started.Sub(due).Seconds()))
	}
	if o.status == http.StatusGone && ep.State != kapsel.EndpointDisabled && ep.URL == j.ep.URL { // not a former destination
		err := e.insist(func(ctx context.Context) error { return e.Store.DisableGone(ctx, ep.ID, j.ep.Destination, now) })
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			e.Log.Warn("an endpoint that is gone could not be disabled", "error", err, "endpoint_id", ep.ID.String())
		}
		e.Settings.Changed()
	}
}

// happening returns what the outcome means for the delivery, by the endpoint's settings as they
// are now. What a former destination asked for does not count.
func (o *outcome) happening(j *job, ep *kapsel.Endpoint) kapsel.Happening {
	if o.lost {
		// A delivery whose exchange panics would be tried again at once for ever. So a panic counts like
		// an exchange that kills its process.
		return kapsel.Lost{Takeover: o.panicked}
	}
	answer := kapsel.Answer{
		Status: o.status, Code: o.code,
		Retry:       o.retried(ep),
		Delay:       ep.Retry.Delay(j.delivery.Counted+1, rand.Float64()),
		MaxAttempts: ep.Retry.MaxAttempts,
		Gone:        !ep.DeletedAt.IsZero(),
	}
	if ep.Destination == j.ep.Destination {
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
