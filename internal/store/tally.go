package store

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Tally is what a transaction has to add to the counters; see Counters for what counts when.
// A store gathers it from what it writes, so that each row of counters is touched once.
type Tally struct {
	Stats map[StatsKey]*kapsel.Stats
	Usage map[UsageKey]*kapsel.Usage
	Told  *Told // what it tells the ledger; nil: nothing
}

// StatsKey and UsageKey name a row of counters by when its hour or day begins, in microseconds
// since the Unix epoch.
type (
	StatsKey struct {
		Endpoint kapsel.EndpointID
		Hour     int64
	}
	UsageKey struct {
		Tenant kapsel.TenantID
		Day    int64
	}
)

// NewTally makes an empty tally.
func NewTally() Tally {
	return Tally{Stats: map[StatsKey]*kapsel.Stats{}, Usage: map[UsageKey]*kapsel.Usage{}}
}

// Reset forgets what was gathered.
func (t Tally) Reset() {
	clear(t.Stats)
	clear(t.Usage)
	t.Told.Reset()
}

// Event counts an event that is stored.
func (t Tally) Event(e *kapsel.Event) {
	t.usage(e.TenantID, e.ReceivedAt).Add(kapsel.Usage{Events: 1, Bytes: int64(len(e.Body))})
}

// Made counts a delivery that is stored.
func (t Tally) Made(d *kapsel.Delivery) {
	if t.Told != nil {
		t.Told.Add(kapsel.MadeFact(d))
	}
}

// Attempt counts an attempt of a delivery that is stored, and the delivery if it has ended so.
func (t Tally) Attempt(a *kapsel.Attempt, d *kapsel.Delivery) {
	at := a.EndedAt()
	t.stats(d.EndpointID, at).AddAttempt(a.ErrorCode, a.Duration)
	t.usage(d.TenantID, at).Attempts++
	t.End(d, at)
}

// End counts a delivery that has moved, if that was its end.
func (t Tally) End(d *kapsel.Delivery, at time.Time) {
	if d.Status.Terminal() {
		t.stats(d.EndpointID, at).AddEnd(d.Status)
		t.usage(d.TenantID, at).AddEnd(d.Status)
		if t.Told != nil {
			t.Told.Add(kapsel.EndFact(d))
		}
	}
}

// Arrivals counts webhooks of an endpoint, in the hour that a key names.
func (t Tally) Arrivals(k StatsKey, n Arrivals) {
	s := entry(t.Stats, k)
	s.Refused += n.Refused
	s.Unkeyed += n.Unkeyed
}

func (t Tally) stats(id kapsel.EndpointID, at time.Time) *kapsel.Stats {
	return entry(t.Stats, StatsKey{id, kapsel.StatsHour(at).UnixMicro()})
}

func (t Tally) usage(id kapsel.TenantID, at time.Time) *kapsel.Usage {
	return entry(t.Usage, UsageKey{id, kapsel.UsageDay(at).UnixMicro()})
}

// entry is a map's value for a key, made if it is not there.
func entry[K comparable, V any](m map[K]*V, key K) *V {
	v := m[key]
	if v == nil {
		v = new(V)
		m[key] = v
	}
	return v
}
