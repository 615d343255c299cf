package harness

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// tally counts the events of one run of load by their numbers.
type tally struct {
	start    time.Time
	events   []sunk
	requests atomic.Int64
	unique   atomic.Int64
	repeated atomic.Int64
	last     atomic.Int64 // ns from start to the latest first delivery
}

// sunk counts the deliveries of one event at the sink.
type sunk struct {
	count atomic.Uint32 // requests answered 2xx
	at    atomic.Int64  // ns from start to the first of these requests
}

func newTally(n int) *tally { return &tally{start: time.Now(), events: make([]sunk, n)} }

// expect registers a run of n events that starts now.
func (s *Sink) expect(n int) (run uint32, t *tally) {
	t = newTally(n)
	for {
		// Random, so that late deliveries of an earlier run are not counted for this one.
		run = rand.Uint32()
		if _, taken := s.runs.LoadOrStore(run, t); !taken {
			return run, t
		}
	}
}

// forgetRun stops counting a run. Its later requests count as foreign.
func (s *Sink) forgetRun(run uint32) { s.runs.Delete(run) }

// count counts a request that is about to be answered with a status.
func (s *Sink) count(m marker, marked bool, at time.Time, status int) {
	var t *tally
	if v, ok := s.runs.Load(m.run); marked && ok {
		t = v.(*tally)
	}
	if t == nil || int(m.seq) >= len(t.events) {
		s.foreign.Add(1)
		return
	}
	t.requests.Add(1)
	if status < 200 || status > 299 {
		return
	}
	e := &t.events[m.seq]
	if e.count.Add(1) > 1 {
		t.repeated.Add(1)
		return
	}
	since := max(int64(at.Sub(t.start)), 1)
	e.at.Store(since)
	for last := t.last.Load(); since > last && !t.last.CompareAndSwap(last, since); last = t.last.Load() {
	}
	t.unique.Add(1)
}
