package gate

import "time"

// If this machine runs short of something that connections need, such as file descriptors, no
// destination has failed: the delivery goes back without an attempt, the circuit does not move,
// and the destination keeps the exchanges at once that it has earned. Until the shortage ends, the
// Keeper asks for less:
//
//   - The endpoint may have no more exchanges running than it had when the shortage was met. This
//     lasts for 1 s at first, and for twice as long each time that the shortage returns before an
//     exchange was made, up to 30 s. The delivery waits as long.
//   - The node makes no more exchanges at once than were running. A second later it may make one
//     more, after the next second two more, then four, and so on. A shortage of ports limits the
//     endpoint only.
//
// All of this state is in memory only. The shortage is this node's: another node that claims the
// delivery may try at once, and so may this node after a restart. A delivery that is tried too
// early after a restart costs one try and no attempt.

const (
	shortWait = time.Second
	shortMost = 30 * time.Second
)

// lack is what a shortage leaves to an endpoint.
type lack struct {
	until  time.Time     // when the limit ends, by the monotonic clock
	places int           // exchanges that may run until then
	wait   time.Duration // how long the limit lasts; 0: no shortage since the last exchange that was made
}

// applies reports whether the endpoint may have no more than l.places exchanges running.
func (l *lack) applies(at Time) bool { return l.wait > 0 && at.Mono.Before(l.until) }

// squeeze is what a shortage leaves to the node.
type squeeze struct {
	most  int       // exchanges at once; 0: as many as Keeper.most
	step  int       // how much most grows …
	grows time.Time // … at this time, by the monotonic clock
}

// Workers returns how many exchanges the node may make at once now. It raises a limit that a
// shortage has set once the limit's second is over.
func (k *Keeper) Workers(at Time) int {
	s := &k.squeeze
	for ; s.most > 0 && !at.Mono.Before(s.grows); s.grows = s.grows.Add(time.Second) {
		if s.most += s.step; s.most >= k.most {
			s.most = 0
		}
		s.step *= 2
	}
	if s.most > 0 {
		return s.most
	}
	return k.most
}

// short notes that an exchange could not be made because this machine is short of something, and
// returns when the delivery is due again. ports says that the machine is short of ports. present
// says that the exchange was for the endpoint's present destination. Callers must have taken the
// exchange off the gate's books (see ended), and must not have freed its worker yet.
func (k *Keeper) short(g *Gate, ports, present bool, at Time) (due time.Time) {
	wait := shortWait
	if s := &g.lack; present {
		_, used := k.places(g, at)
		if !s.applies(at) { // if it does, this exchange began before the shortage was known
			s.wait = min(max(shortWait, 2*s.wait), shortMost)
			s.until, s.places = at.Mono.Add(s.wait), used
		}
		s.places = min(s.places, used)
		wait = s.wait
	}
	s := &k.squeeze
	if !ports { // a shortage of ports may leave enough for other destinations
		s.most = max(1, min(k.Workers(at), k.busy-1))
		s.step, s.grows = 1, at.Mono.Add(time.Second)
	}
	// It may be that no exchange is running whose end would put the gate back into the agenda.
	due = at.Store.Add(wait)
	k.DueAt(g, due)
	k.lookAt(g, due.Add(claimWait))
	return due
}
