package gate

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

const (
	// MaxClaim is the most deliveries of one Collect.
	MaxClaim = 512
	// claimWait is how long a gate with little free capacity waits for more before it claims.
	claimWait = 10 * time.Millisecond
	// slowWait is how long a slow gate waits while slow endpoints hold their half of the workers.
	slowWait = 100 * time.Millisecond
)

// agenda is a heap of gates, ordered by the time at which Collect looks at them next. A gate outside of the agenda
// has no known work, or is in line for the node's capacity, or waits for something that puts the gate
// back: the end of an exchange, a change of settings, or the next list of the backlog.
type agenda []*Gate

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].look.Before(a[j].look) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}
func (a *agenda) Push(x any) {
	g := x.(*Gate)
	g.index = len(*a)
	*a = append(*a, g)
}
func (a *agenda) Pop() any {
	old := *a
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	g.index = -1
	return g
}

// lookAt has Collect look at a gate at t, by the store's clock. If the gate is in the agenda for an
// earlier time, lookAt changes nothing.
func (k *Keeper) lookAt(g *Gate, t time.Time) {
	switch {
	case g.index < 0:
		g.look = t
		heap.Push(&k.agenda, g)
	case t.Before(g.look):
		g.look = t
		heap.Fix(&k.agenda, g.index)
	default:
		return
	}
	if g.index == 0 {
		k.host.Wake()
	}
}

// NextLook returns when Collect has a gate to look at, by the store's clock; zero: no gate is on the
// agenda.
func (k *Keeper) NextLook() time.Time {
	if len(k.agenda) == 0 {
		return time.Time{}
	}
	return k.agenda[0].look
}

// DueAt notes that a delivery of the gate waits in the store and is due at t.
func (k *Keeper) DueAt(g *Gate, t time.Time) {
	g.notes++
	k.meter(g)
	if g.nextDue.IsZero() || t.Before(g.nextDue) {
		g.nextDue = t
	}
	if !g.starving && !k.line.has(g) {
		k.lookAt(g, t)
	}
}

// Backlog notes that the oldest delivery that waits in the store for the gate is due at t.
func (k *Keeper) Backlog(g *Gate, t time.Time, at Time) {
	k.DueAt(g, t)
	if !t.After(at.Store) {
		g.share.backlog = at.Mono
	}
}

// Claim says how many deliveries are to be claimed for a gate.
type Claim struct {
	Gate  *Gate
	Limit int
	notes int // the gate's notes at that time
}

// Collect takes the gates whose time has come off the agenda, puts those with due work in line,
// and hands out the node's free capacity to the gates in line, one delivery a turn. It returns what to
// claim; callers must end the claims with Claimed or Unclaimed. A gate whose work is due later, or
// whose circuit lets nothing start, goes back into the agenda.
func (k *Keeper) Collect(at Time) (claims []Claim) {
	for len(k.agenda) > 0 && !k.agenda[0].look.After(at.Store) {
		g := heap.Pop(&k.agenda).(*Gate)
		g.starving = false
		if len(g.ready) > 0 {
			k.turns.add(g) // the gate may have waited for its rate
		}
		if g.lack.applies(at) { // nothing else looks when the shortage is over
			k.lookAt(g, at.Store.Add(g.lack.until.Sub(at.Mono)+claimWait))
		}
		switch {
		case g.nextDue.IsZero() || !g.admits():
		case g.unread.After(at.Mono):
			k.lookAt(g, at.Store.Add(g.unread.Sub(at.Mono)))
		case g.nextDue.After(at.Store):
			k.lookAt(g, g.nextDue)
		case !k.sends(g, at):
			k.lookAtCircuit(g, at)
		default:
			k.line.add(g)
		}
	}
	if k.worthClaim(at) {
		claims = k.serve(min(k.free(at), MaxClaim), at)
	}
	k.Dispatch(at)
	return claims
}

// serve hands out capacity for up to left deliveries to the gates in line and returns what to claim.
func (k *Keeper) serve(left int, at Time) (claims []Claim) {
	var served []*Gate
	slowLeft := k.slowLeft(at)
	for left > 0 {
		g := k.line.next()
		if g == nil {
			break
		}
		free, of := k.capacity(g, at)
		switch {
		case g.want > 0 && free <= g.want: // the gate has all that it can take
		case g.nextDue.IsZero() || !g.admits(): // the gate changed while it was in line
		case !k.sends(g, at):
			k.lookAtCircuit(g, at)
		case of == 0: // no places: the next list of the backlog looks again
		case free <= 0:
			g.starving = true
		case g.slowNow(at) && slowLeft <= 0:
			k.lookAt(g, at.Store.Add(slowWait))
		case g.rated(at).After(at.Store):
			k.lookAt(g, g.rated(at))
		default:
			if g.want == 0 {
				served = append(served, g)
			}
			g.want++
			left--
			if g.slowNow(at) {
				slowLeft--
			}
			k.line.add(g)
		}
	}
	slices.SortStableFunc(served, func(a, b *Gate) int { return cmp.Compare(b.missed, a.missed) })
	for _, g := range served {
		k.line.remove(g)
		claims = append(claims, Claim{g, g.want, g.notes})
		k.wanted += g.want
		g.claiming += g.want
		g.want = 0
	}
	return claims
}

// Unclaimed ends claims that were not made for want of memory: the end of an exchange frees some.
func (k *Keeper) Unclaimed(claims []Claim) {
	k.unwant(claims)
	for _, c := range claims {
		k.line.add(c.Gate)
	}
}

// Failed ends claims that may or may not have been made. The next claims for their gates follow after wait.
func (k *Keeper) Failed(claims []Claim, at Time, wait time.Duration) {
	k.unwant(claims)
	for _, c := range claims {
		c.Gate.unread = at.Mono.Add(wait)
		k.lookAt(c.Gate, at.Store.Add(wait))
	}
}

// Claimed ends claims that were made, and holds the deliveries that they found. If valid is false,
// Claimed gives them back. reached says at which of the claims they ended early, as because bodies were large, and
// is len(claims) if they did not: those from there on may have more that is due, and those that got nothing come
// first in the next claims. Claimed reports whether more deliveries may be due.
func (k *Keeper) Claimed(claims []Claim, jobs []*Job, reached int, valid bool, at Time) (more bool) {
	k.unwant(claims)
	got := map[*Gate]int{}
	for _, j := range jobs {
		g := k.gates[j.Delivery.EndpointID]
		k.enqueue(g, j)
		got[g]++
	}
	for i, c := range claims {
		g := c.Gate
		if g.missed++; i < reached || got[g] > 0 {
			g.missed = 0
		}
		switch {
		case !k.sends(g, at) || !valid:
			k.giveBackReady(g, at)
		case got[g] == c.Limit || i >= reached || g.notes != c.notes:
			k.lookAt(g, at.Store) // more deliveries may be due
			more = true
		default:
			// The rest is not due, or another node takes it. The next list of the backlog finds what is left.
			g.nextDue = time.Time{}
		}
	}
	k.Dispatch(at)
	return more
}

func (k *Keeper) unwant(claims []Claim) {
	for _, c := range claims {
		k.wanted -= c.Limit
		c.Gate.claiming -= c.Limit
	}
}

// refill wakes the claim loop when there is enough free capacity for a claim: for the starving gate g,
// now or soon, and for gates in line for the node's capacity. Every release of a held delivery must be
// followed by refill. A gate without capacity always holds at least one delivery, so no starving gate is
// forgotten.
func (k *Keeper) refill(g *Gate, at Time) {
	if g.starving {
		switch n, of := k.capacity(g, at); {
		case n <= 0:
		case 2*n >= of:
			k.lookAt(g, at.Store)
		default:
			k.lookAt(g, at.Store.Add(claimWait)) // no more capacity may become free for a long time
		}
	}
	if k.line.any() && k.worthClaim(at) {
		k.host.Wake()
	}
}

// worthClaim reports whether the node has enough free capacity for a claim. If not, it holds many
// deliveries, and the end of one of them asks again.
func (k *Keeper) worthClaim(at Time) bool {
	return 4*min(k.free(at), MaxClaim) >= min(k.Workers(at), MaxClaim)
}

// Gates returns the endpoints that have gates.
func (k *Keeper) Gates() []kapsel.EndpointID {
	ids := make([]kapsel.EndpointID, 0, len(k.gates))
	for id := range k.gates {
		ids = append(ids, id)
	}
	return ids
}
