package gate

import "time"

// slowAfter is the age at which exchanges without an answer make their endpoint slow.
const slowAfter = time.Second

// slow sees to it that slow endpoints together hold at most half of the workers.
type slow struct {
	running map[*Gate]struct{} // gates with exchanges
	sum     int                // exchanges of slow endpoints when last counted, and started since …
	at      time.Time          // … then, by the monotonic clock
	old     bool               // an exchange has ended since then
	parked  []*Gate            // kept from starting by the share of slow endpoints

	reserved int // places that were reserved for endpoints when they were slow
}

// slowNow reports whether the endpoint counts as slow: its latest exchange ended without an
// answer, or all that run are older than a second.
func (g *Gate) slowNow(at Time) bool {
	return g.unanswered || g.running > 0 && at.Store.Sub(g.lastStart) > slowAfter
}

// slowFull reports whether slow endpoints together hold their half of the workers. It counts again
// if the last count is older than 20 ms, because an endpoint becomes slow as time passes, or if
// the last count reached the half and an exchange has ended since.
func (k *Keeper) slowFull(at Time) bool {
	s, most := &k.slow, max(1, k.Workers(at)/2)
	if s.sum >= most && s.old || at.Mono.Sub(s.at) > 20*time.Millisecond {
		s.sum, s.at, s.old = 0, at.Mono, false
		for g := range s.running {
			s.sum += g.former
			if g.slowNow(at) {
				s.sum += g.running
			}
		}
	}
	return s.sum >= most
}

// slowLeft returns how many more deliveries of slow endpoints are worth holding: as many as may start,
// less those that wait for it. More would take the room of other endpoints and only wait.
func (k *Keeper) slowLeft(at Time) int {
	if k.slowFull(at) {
		return 0
	}
	left := max(1, k.Workers(at)/2) - k.slow.sum
	for _, g := range k.slow.parked {
		left -= len(g.ready)
	}
	for g := range k.turns.in { // many only while all workers are busy
		if g.slowNow(at) && !g.parked {
			left -= len(g.ready)
		}
	}
	return left - k.slow.reserved
}

// park keeps a gate from its turn until slow endpoints hold less than their half of the workers.
func (k *Keeper) park(g *Gate) {
	if !g.parked {
		g.parked = true
		k.slow.parked = append(k.slow.parked, g)
	}
}

// unpark gives up to 8 parked gates a turn. While slow endpoints hold their half of the workers,
// at least one of their exchanges runs, and its end calls unpark.
func (k *Keeper) unpark() {
	for n := 0; n < 8 && len(k.slow.parked) > 0; {
		g := k.slow.parked[0]
		k.slow.parked = k.slow.parked[1:]
		g.parked = false
		if len(g.ready) > 0 {
			k.turns.add(g)
			n++
		}
	}
}
