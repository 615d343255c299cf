package delivery

import (
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
)

// When this machine is short of something that connections need, such as file descriptors,
// nobody has failed: the delivery goes back with no attempt, the circuit does not move, and what
// the destination has earned stays. Until there is more of it the engine asks for less:
//
//   - The endpoint starts no more exchanges than it has running, for 1 s at first and for twice
//     as long each time that it happens again before an exchange was made, at most for 30 s. Its
//     delivery waits as long.
//   - The node makes no more exchanges at once than were running; a second later one more, then
//     two more, then four.
//
// All of that is in memory only. The shortage is this node's: another node that claims the
// delivery may try at once, and so may this one after a restart. What a restart forgets is tried
// too early, once, and costs no attempt.

const (
	shortWait = time.Second
	shortMost = 30 * time.Second
)

// lack is an endpoint's part in a shortage. Engine.mu guards it.
type lack struct {
	until  time.Time // no more than places exchanges until then, by the monotonic clock
	places int
	wait   time.Duration // how long that was; 0: none since the last exchange that was made
}

// holds reports whether the endpoint may have only lack.places exchanges running.
func (l *lack) holds() bool { return l.wait > 0 && time.Now().Before(l.until) }

// squeeze is the node's part in a shortage. Engine.mu guards it.
type squeeze struct {
	most   int       // exchanges at once; 0: as many as there are workers
	step   int       // how many more there may be …
	grows  time.Time // … from then on, by the monotonic clock
	warned time.Time // when a shortage was last said in the log, by the monotonic clock
	unsaid int       // deliveries that went back since then
}

// workers is how many exchanges the node makes at once. The caller holds mu.
func (e *Engine) workers() int {
	s := &e.squeeze
	for now := time.Now(); s.most > 0 && !now.Before(s.grows); s.grows = s.grows.Add(time.Second) {
		if s.most += s.step; s.most >= e.Workers {
			s.most = 0
		}
		s.step *= 2
	}
	if s.most > 0 {
		return s.most
	}
	return e.Workers
}

// short takes note that an exchange could not be made for want of something, and returns when
// its delivery is due again. The exchange is off the gate's books and still has its worker.
// present says that it was for the endpoint's present destination. The caller holds mu.
func (e *Engine) short(g *gate, what *egress.Shortage, present bool) (due time.Time) {
	now, wait := time.Now(), shortWait
	if s := &g.lack; present {
		_, used := e.places(g)
		if !s.holds() { // else the exchange began before the one that this lasts for had failed
			s.wait = min(max(shortWait, 2*s.wait), shortMost)
			s.until, s.places = now.Add(s.wait), used
		}
		s.places = min(s.places, used)
		wait = s.wait
	}
	s := &e.squeeze
	if !what.Ports { // of ports others may have enough
		s.most = max(1, min(e.workers(), e.busy-1))
		s.step, s.grows = 1, now.Add(time.Second)
	}
	e.metrics.shortages.Inc()
	if s.unsaid++; now.Sub(s.warned) >= time.Minute {
		e.Log.Warn("this machine is short of what connections need; deliveries go back without an attempt and wait",
			"short_of", what.Limit, "deliveries", s.unsaid, "at_once", e.workers())
		s.warned, s.unsaid = now, 0
	}
	// Nothing may be running whose end would have the gate looked at.
	due = e.Clock.Now().Add(wait)
	e.dueAt(g, due)
	e.lookAt(g, due.Add(claimWait))
	return due
}
