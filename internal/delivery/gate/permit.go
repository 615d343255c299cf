package gate

// Admits reports whether a new delivery may be held for the endpoint without waiting in the store:
// the endpoint is active, its circuit lets exchanges start, and its rate, its concurrency, the workers
// and, if it is slow, the share of slow endpoints are not used up. While older deliveries of the
// endpoint are due in the store, new ones get at most three quarters of what may be held for the
// endpoint. While any older delivery waits for capacity or for a worker, new ones get at most three
// quarters of the workers.
func (k *Keeper) Admits(g *Gate, at Time) bool {
	free, of := k.capacity(g, at)
	switch {
	case !g.open(at),
		free <= 0 && k.refused(g),
		g.permitted >= of*3/4 && g.backlog(at),
		g.rated(at).After(at.Store) && k.refused(g),
		k.free(at) <= 0,
		g.slowNow(at) && k.slowLeft(at) <= 0,
		k.permitted >= max(1, k.Workers(at)*3/4) && k.older():
		return false
	}
	return true
}

// Reserve takes a place for a new delivery. Callers must end it with Cancel or Redeem.
func (k *Keeper) Reserve(g *Gate, at Time) {
	if g.slowNow(at) {
		g.slowReserved++
		k.slow.reserved++
	}
	g.reserved++
	g.permitted++
	k.waiting++
	k.permitted++
}

// Cancel gives back a place that Reserve took.
func (k *Keeper) Cancel(g *Gate, at Time) {
	k.unreserve(g)
	g.permitted--
	k.permitted--
	k.refill(g, at)
}

// Redeem holds a delivery in the place that Reserve took, and starts it when its turn comes. If
// valid is false, or the gate is no longer open, Redeem gives the delivery back.
func (k *Keeper) Redeem(g *Gate, j *Job, valid bool, at Time) {
	k.unreserve(g) // before what follows, which may look how much room the gate has
	k.enqueue(g, j)
	if valid && g.open(at) {
		k.Dispatch(at)
	} else {
		k.giveBackReady(g, at)
	}
}

func (k *Keeper) unreserve(g *Gate) {
	if g.slowReserved > 0 {
		g.slowReserved--
		k.slow.reserved--
	}
	g.reserved--
	k.waiting--
}
