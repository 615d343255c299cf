// Package breaker decides when the circuit of an endpoint opens, probes and closes.
//
// It has two halves, both pure. A Window counts what one node sees of one endpoint while
// the circuit is closed, and says when it is enough to open it. The functions on
// kapsel.Circuit move the state that all nodes share:
//
//	closed ── Trip ──► open ── Probe, once RetryAt has come ──► half-open
//	  ▲                  ▲                                      │ │  ▲ │ Probe, Answer:
//	  │                  └────────── Answer: failure ───────────┘ │  └─┘ one at a time
//	  └──── Answer: the last success in a row; Reset ─────────────┘
//
// None of them touches Version or Revision: the store counts those, and a compare-and-set on
// Version is what makes one node's move the only one. A function that has nothing to do
// returns the circuit as it is.
package breaker

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Verdict is what an exchange says about the health of its destination.
type Verdict uint8

// The verdicts. Neutral ones count as nothing: they neither break nor make a row.
const (
	Neutral Verdict = iota
	Success
	Failure
)

func (v Verdict) String() string { return [...]string{"neutral", "success", "failure"}[v] }

// Judge gives the verdict on an attempt, from its error code ("": a 2xx) and the status that
// the destination answered (0: none). A destination that refuses a request is healthy, one
// that asks for patience (408, 425, 429) is neither; an attempt that never reached it
// (blocked at dial) or whose end is unknown says nothing.
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

// span is how far a Window looks back.
const span = 60 * time.Second

// Window counts one node's exchanges with one endpoint while its circuit is closed. The zero
// Window is empty. It is not safe for concurrent use.
type Window struct {
	row int     // failures since the last success
	log []int64 // counted exchanges, oldest first: Unix milliseconds, doubled, plus 1 for a failure
}

// Record counts an exchange that ended at now and reports whether it opens the circuit: it is
// the last of p.Failures failures in a row, or of the last p.Window exchanges of the last 60 s
// at least p.Minimum failed, and they are at least p.Ratio of them. Only a failure opens.
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
	if w.row >= p.Failures {
		return true
	}
	var counted, failed int
	for _, e := range w.log {
		if e>>1 > now.Add(-span).UnixMilli() {
			counted++
			failed += int(e & 1)
		}
	}
	return failed >= p.Minimum && float64(failed) >= p.Ratio*float64(counted)
}

// Reset forgets everything, for when the circuit has changed its state: exchanges begun
// before a change do not count after it.
func (w *Window) Reset() { *w = Window{} }

// Trip opens a closed circuit. One that another node opened first stays as it is.
func Trip(c kapsel.Circuit, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	if !closed(c) {
		return c
	}
	return open(c, now, p)
}

// Probe takes the right to send the one probe that may be on its way, and reports whether
// the node got it: the circuit is open and RetryAt has come, or half-open and no probe is
// out, and the destination has not asked for quiet.
func Probe(c kapsel.Circuit, now time.Time, node kapsel.NodeID) (kapsel.Circuit, bool) {
	switch {
	case held(c, now):
		return c, false
	case c.State == kapsel.CircuitOpened && !now.Before(c.RetryAt):
		c.State, c.ChangedAt, c.RetryAt, c.Successes = kapsel.CircuitHalfOpen, now, time.Time{}, 0
	case c.State == kapsel.CircuitHalfOpen && c.Probe.IsZero():
	default:
		return c, false
	}
	c.Probe = node
	return c, true
}

// Answer takes the verdict on the probe that is out. A success counts, and the last of
// p.Successes in a row closes the circuit; a failure opens it again; a neutral one only
// frees the probe. Whether the probe is still the caller's own is for the caller to compare.
func Answer(c kapsel.Circuit, v Verdict, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	if c.State != kapsel.CircuitHalfOpen || c.Probe.IsZero() {
		return c
	}
	c.Probe = kapsel.NodeID{}
	switch v {
	case Success:
		if c.Successes++; c.Successes >= p.Successes {
			return shut(c, now)
		}
	case Failure:
		return open(c, now, p)
	}
	return c
}

// MaxHold is the longest that a destination can keep its endpoint quiet.
const MaxHold = time.Hour

// Hold keeps the endpoint quiet until the time that its destination asked for, at most
// MaxHold from now. It never shortens a longer hold.
func Hold(c kapsel.Circuit, until, now time.Time) kapsel.Circuit {
	if limit := now.Add(MaxHold); until.After(limit) {
		until = limit
	}
	if until.After(now) && until.After(c.HoldUntil) {
		c.HoldUntil = until
	}
	return c
}

// Reset closes the circuit and ends its hold, because a person says so.
func Reset(c kapsel.Circuit, now time.Time) kapsel.Circuit {
	c.HoldUntil = time.Time{}
	if closed(c) {
		return c
	}
	return shut(c, now)
}

// Allows reports whether exchanges may start freely: the circuit is closed, and the
// destination has not asked for quiet.
func Allows(c kapsel.Circuit, now time.Time) bool { return closed(c) && !held(c, now) }

func closed(c kapsel.Circuit) bool {
	return c.State == kapsel.CircuitClosed || c.State == ""
}

func held(c kapsel.Circuit, now time.Time) bool { return now.Before(c.HoldUntil) }

func open(c kapsel.Circuit, now time.Time, p kapsel.CircuitPolicy) kapsel.Circuit {
	c.State, c.ChangedAt, c.RetryAt = kapsel.CircuitOpened, now, now.Add(p.OpenFor)
	c.Successes, c.Probe = 0, kapsel.NodeID{}
	return c
}

func shut(c kapsel.Circuit, now time.Time) kapsel.Circuit {
	c.State, c.ChangedAt, c.RetryAt = kapsel.CircuitClosed, now, time.Time{}
	c.Successes, c.Probe = 0, kapsel.NodeID{}
	return c
}
