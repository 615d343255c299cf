package delivery

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
	"github.com/kapsel-hq/kapsel/receipt"
)

// maxAnswerBytes is how many bytes of a response's headers an attempt keeps.
const maxAnswerBytes = 8 << 10

// outcome holds how an attempt ended.
type outcome struct {
	started    time.Time // store time
	duration   time.Duration
	status     int         // 0: no status line
	code       kapsel.Code // "": a 2xx
	text       string      // for people, without addresses
	sent       kapsel.Header
	url        string // as dialled; "": the exchange did not come so far
	header     kapsel.Header
	body       []byte
	retryAfter time.Time // the destination asked for no request before; zero: it did not
	lost       bool      // not known whether the request was answered: E2010
	panicked   bool      // … because the exchange panicked
	sums       kapsel.Commitments
	committer  *receipt.Committer // of the event; nil: there is none yet, or the event has no salt
	untouched  bool               // no byte of the request was sent
	unsent     error              // why nothing was sent; then no attempt is recorded
	due        time.Time          // when an unsent delivery is due again
	trace      string             // the traceparent that was sent
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

// deliver makes one attempt: it makes the exchange, applies the outcome to the endpoint, and
// records the outcome. The worker stays in use until the record is durable or given up, so the
// node never has more unrecorded exchanges than workers.
func (e *Engine) deliver(g *gate.Gate, j *gate.Job) {
	o := e.exchange(j)
	if o.unsent == nil {
		o.commit(j)
	}
	e.finish(g, j, &o)
	if o.unsent != nil {
		j.Delivery.DueAt = o.due
		e.giveBack([]*gate.Job{j})
	} else {
		e.record(g, j, &o)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates.Recorded(g, j, e.now())
}

// errNotLeased is why nothing is sent without a certain lease: another node may hold the delivery.
var errNotLeased = errors.New("the node's lease is not certain")

// exchange makes the one request of an attempt. It never panics: a panic inside becomes an outcome
// that is not known.
func (e *Engine) exchange(j *gate.Job) (o outcome) {
	start := time.Now()
	now := e.Clock.Now()
	o.started = now
	defer func() {
		o.duration = time.Since(start)
		if p := recover(); p != nil {
			e.Log.Error("panic in an exchange; its outcome is not known", "panic", fmt.Sprint(p), "delivery_id", j.Delivery.ID.String())
			o.lost, o.panicked, o.code, o.text = true, true, kapsel.OutcomeUnknown, "an internal error ended the exchange"
		}
	}()
	to, err := e.recipient(e.cut, j.Endpoint, now)
	if err != nil {
		o.unsent = err
		return o
	}
	ctx, cancel := context.WithTimeout(e.cut, to.Timeout)
	defer cancel()
	var endSpan func(error, ...slog.Attr)
	o.trace, endSpan = telemetry.Span(j.Event.TraceParent, "attempt")
	defer func() {
		endSpan(o.err(), slog.Any("attempt_id", j.Delivery.Token), slog.Any("event_id", j.Delivery.EventID), slog.Int("status_code", o.status))
	}()
	target, header := to.Compose(&Sending{
		Event: &j.Event, Attempt: j.Delivery.Attempts + 1, AttemptID: j.Delivery.Token.String(),
		Mark: e.Instance.Mark(j.Event.Origin()), TraceParent: o.trace, Version: e.Version, At: now,
	})
	o.sent = to.recorded(header)

	// A process that was frozen may have lost its lease since the delivery was dispatched.
	if node, certain := e.node.Certain(); !certain || j.Delivery.Node != node {
		o.unsent = errNotLeased
		return o
	}

	o.url = target.String()
	resp, err := e.Transport.RoundTrip(egress.NewRequest(ctx, target, header, j.Event.Body))
	if err != nil {
		if short, ok := errors.AsType[*egress.Shortage](err); ok {
			o.unsent = short
			return o
		}
		o.untouched = egress.IsUnsent(err)
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
	var read hash.Hash
	if j.Event.Salt != nil {
		o.committer = receipt.NewCommitter(j.Event.Salt)
		read = o.committer.Begin(receipt.ResponseLabel(j.Delivery.Token.String()))
	}
	o.body = egress.ReadBody(resp, egress.BodyKept, egress.BodyRead, read)
	if read != nil {
		o.sums.Response = read.Sum(nil)
	}
	switch {
	case o.status >= 200 && o.status < 300:
	case o.status >= 500 && o.status < 600:
		o.code, o.text = kapsel.HTTPServerError, "the destination answered "+strconv.Itoa(o.status)
	default:
		o.code, o.text = kapsel.HTTPClientError, "the destination answered "+strconv.Itoa(o.status)
	}
	return o
}

// commit computes what the audit log keeps of a request's contents: of all of them if the request may
// have been sent, else of the URL and the payload. It needs the event's body.
func (o *outcome) commit(j *gate.Job) {
	salt, attempt := j.Event.Salt, j.Delivery.Token.String()
	if salt == nil || o.url == "" {
		return
	}
	if o.committer == nil {
		o.committer = receipt.NewCommitter(salt)
	}
	o.sums.URL = o.committer.Commit(receipt.URLLabel(attempt), []byte(o.url))
	o.sums.Payload = o.committer.Commit(receipt.PayloadLabel, j.Event.Body)
	if !o.untouched {
		o.sums.Request = o.committer.Commit(receipt.RequestLabel(attempt), j.Event.Body)
	}
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
