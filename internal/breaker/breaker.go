// Package breaker decides when the circuit of an endpoint opens, probes and closes.
//
// All of it is pure. A Window counts what one node sees of one endpoint while the circuit is
// closed, and says when to open it. A Trial counts a node's probes while the circuit is half-open,
// and says whether to close or reopen it. The functions on kapsel.Circuit change the state that
// all nodes share:
//
//	closed ── Trip ──► open ── Probe, once RetryAt has come ──► half-open, of one node
//	  ▲                  ▲                                      │   │
//	  │                  └───────── Conclude: Failing ──────────┘   │
//	  └──────────────── Conclude: Recovered; Reset ─────────────────┘
//
// None of them touches Version, Revision or Destination. The store counts Version and Revision; a
// compare-and-set on Version lets only one node's change through. A function with nothing to do
// returns the circuit unchanged.
package breaker

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Verdict is what an exchange says about the health of its destination.
type Verdict uint8

// The verdicts. A neutral exchange is not counted: it neither extends nor ends a run of failures.
const (
	Neutral Verdict = iota
	Success
	Failure
)

func (v Verdict) String() string { return [...]string{"neutral", "success", "failure"}[v] }

// Judge returns the verdict on an attempt, given its error code ("" for a 2xx) and the status that
// the destination answered (0: none). A destination that refuses a request is healthy. One that
// asks the sender to wait (408, 425, 429) counts neither way, as does an attempt that never
// reached the destination (blocked at dial) or whose outcome is unknown.
func Judge(code kapsel.Code, status int) Verdict {
	switch code {
	case "":
		return Success
	case kapsel.HTTPClientError:
		switch status {
		case 408, 425, 429:
			return Neutral
		}
		return Success
	case kapsel.HTTPServerError, kapsel.ConnectionRefused, kapsel.ConnectionTimeout,
		kapsel.TLSError, kapsel.DNSError, kapsel.BadResponse:
		return Failure
	}
	return Neutral
}

// span is how far back a Window looks.
const span = 60 * time.Second

// Window counts one node's exchanges with one endpoint while the circuit is closed. The zero
// Window is empty. It is not safe for concurrent use.
type Window struct {
	row int     // failures since the last success
	log []int64 // counted exchanges, oldest first: Unix milliseconds times 2, plus 1 for a failure
}

// Record counts an exchange that ended at now and reports whether it opens the circuit. Only a
// failure does, in one of three cases:
//
//   - p.Failures exchanges in a row have failed, and none in the window's last 60 s has succeeded;
//   - twice as many in a row have failed;
//   - among the last p.Window exchanges, those older than 60 s aside, at least p.Minimum have
//     failed, and at least the share p.Ratio.
//
// Runs of 5 failures are common at a destination that fails half of the time, and it is worth
// trying; a destination that is down has no success at all.
func (w *Window) Record(v Verdict, now time.Time, p kapsel.CircuitPolicy) (trip bool) {
	entry := now.UnixMilli() << 1
	switch v {
	case Neutral:
		return false
	case Success:
		w.row = 0
	case Failure:
		w.row++
		entry |= 1
	}
	if drop := len(w.log) + 1 - p.Window; drop > 0 {
		w.log = w.log[:copy(w.log, w.log[min(drop, len(w.log)):])]
	}
	w.log = append(w.log, entry)
	if v != Failure {
		return false
	}
	var counted, failed int
	for _, e := range w.log {
		if e>>1 > now.Add(-span).UnixMilli() {
			counted++
			failed += int(e & 1)
		}
	}
	return w.row >= p.Failures && failed == counted || w.row >= 2*p.Failures ||
		failed >= p.Minimum && mostly(failed, counted, p)
}

// mostly reports whether the share of failures is large enough to open a circuit.
func mostly(failed, counted int, p kapsel.CircuitPolicy) bool {
	return float64(failed) >= p.Ratio*float64(counted)
}

// Reset empties the window. Call it when the circuit has changed its state: exchanges begun before
// the change do not count after it.
func (w *Window) Reset() { *w = Window{} }

// Trial counts the probes of one node while a circuit is half-open. The zero Trial allows one
// probe at a time. It is not safe for concurrent use.
type Trial struct {
	more    int // probes allowed at a time, besides the first
	row     int // failures since the last success
	good    int // successes
	counted int
}

// Places returns how many probes may run at the same time.
func (t *Trial) Places() int { return 1 + t.more }

// Finding is the result of a Trial so far.
type Finding uint8

// The findings.
const (
	Undecided Finding = iota
	Recovered         // the circuit should close
	Failing           // the circuit should open again
)

// maxPlaces keeps the doubling within an int; an endpoint's concurrency is far below it.
const maxPlaces = 1 << 20

// Record counts a probe that has ended and returns the finding. A success doubles how many probes
// may run at a time, a failure halves it. The trial has failed if the first counted probe fails,
// after p.Failures consecutive failures, or once p.Minimum probes were counted and at least
// p.Ratio of them failed. It has passed after p.Successes successes, if less than p.Ratio of all
// failed.
func (t *Trial) Record(v Verdict, p kapsel.CircuitPolicy) Finding {
	switch v {
	case Neutral:
		return Undecided
	case Success:
		t.good++
		t.row = 0
		t.more = min(2*t.Places(), maxPlaces) - 1
	case Failure:
		t.row++
		t.more = max(1, t.Places()/2) - 1
	}
	t.counted++
	failed := t.counted - t.good
	switch {
	case t.good == 0, t.row >= p.Failures, t.counted >= p.Minimum && mostly(failed, t.counted, p):
		return Failing
	case v == Success && t.good >= p.Successes && !mostly(failed, t.counted, p):
		return Recovered
	}
	return Undecided
}

// Trip opens a circuit at now, when the last failure ended. It changes nothing if the circuit is
// not closed, or if its state changed after now: then another node opened it first, and it may
// have closed again.
func Trip(c kapsel.Circuit, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	if !closed(c) || c.ChangedAt.After(now) {
		return c
	}
	return open(c, now, p)
}

// Probe gives a node the right to probe, and reports whether it did. It does if the circuit is
// open and RetryAt has come, or if it is half-open and no node has the right; and only if the
// destination has not asked for quiet. The node keeps the right until Conclude or Yield. If the node
// dies, the store clears it, and the next node begins a new Trial.
func Probe(c kapsel.Circuit, now time.Time, node kapsel.NodeID) (kapsel.Circuit, bool) {
	switch {
	case held(c, now):
		return c, false
	case c.State == kapsel.CircuitOpened && !now.Before(c.RetryAt):
		c.State, c.ChangedAt, c.RetryAt = kapsel.CircuitHalfOpen, now, time.Time{}
	case c.State == kapsel.CircuitHalfOpen && c.Probe.IsZero():
	default:
		return c, false
	}
	c.Probe = node
	return c, true
}

// Conclude applies the finding of a node's Trial to a half-open circuit. It changes nothing if the
// node does not have the right to probe.
func Conclude(c kapsel.Circuit, node kapsel.NodeID, f Finding, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	switch {
	case c.State != kapsel.CircuitHalfOpen || c.Probe != node:
	case f == Recovered:
		return shut(c, now)
	case f == Failing:
		return open(c, now, p)
	}
	return c
}

// Yield takes the right to probe from a node that cannot make use of it. It changes nothing if the node does not
// have the right.
func Yield(c kapsel.Circuit, node kapsel.NodeID) kapsel.Circuit {
	if c.State == kapsel.CircuitHalfOpen && c.Probe == node {
		c.Probe = kapsel.NodeID{}
	}
	return c
}

// MaxHold is the longest time for which a destination can hold its endpoint's deliveries.
const MaxHold = time.Hour

// Hold stops exchanges until the time that the destination asked for, at most MaxHold from now. It
// never shortens an earlier hold.
func Hold(c kapsel.Circuit, until, now time.Time) kapsel.Circuit {
	if limit := now.Add(MaxHold); until.After(limit) {
		until = limit
	}
	if until.After(now) && until.After(c.HoldUntil) {
		c.HoldUntil = until
	}
	return c
}

// Reset closes the circuit and ends its hold, at a person's request.
func Reset(c kapsel.Circuit, now time.Time) kapsel.Circuit {
	c.HoldUntil = time.Time{}
	if closed(c) {
		return c
	}
	return shut(c, now)
}

// Allows reports whether exchanges may start freely: the circuit is closed and not held.
func Allows(c kapsel.Circuit, now time.Time) bool { return closed(c) && !held(c, now) }

func closed(c kapsel.Circuit) bool {
	return c.State == kapsel.CircuitClosed || c.State == ""
}

func held(c kapsel.Circuit, now time.Time) bool { return now.Before(c.HoldUntil) }

func open(c kapsel.Circuit, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	c.State, c.ChangedAt, c.RetryAt = kapsel.CircuitOpened, now, now.Add(p.OpenFor)
	c.Probe = kapsel.NodeID{}
	return c
}

func shut(c kapsel.Circuit, now time.Time) kapsel.Circuit {
	c.State, c.ChangedAt, c.RetryAt = kapsel.CircuitClosed, now, time.Time{}
	c.Probe = kapsel.NodeID{}
	return c
}
