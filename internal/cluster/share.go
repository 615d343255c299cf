// Package cluster makes a process one node among others. A Node joins, renews its lease, and takes over
// the deliveries of dead nodes; Shares computes this node's share of the limits that all nodes share.
//
// Nodes share limits by demand. Once a second every node publishes, through the store, what it
// could use of the limits that are in use, reads what the other nodes published, and computes its
// own share of each limit. A node that is alone has all of every limit and publishes nothing.
//
// Nodes read at different moments, so a node may count on capacity that another node has not given
// up yet. Therefore a node's share is the least by all that other nodes may have read: by the
// demands of this round, by the same with what this node published in the round before, and by all
// demands of the round before. So shares shrink at once and grow one round later.
package cluster

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Shares holds this node's shares of limits. The zero Shares is of a node that is alone. Read and
// Affected are for one goroutine at a time, the other methods for any number.
type Shares struct {
	// views holds the newest view, the same view with what this node published in the round before,
	// and the newest view of the round before. It is nil if the node is alone.
	views  atomic.Pointer[[3]*view]
	before *[3]*view      // views in the round before
	own    []store.Demand // what this node published last
}

// Alone reports whether this node shares its limits with no other.
func (s *Shares) Alone() bool { return s.views.Load() == nil }

// Fraction returns this node's share of a limit as a fraction of the limit, 0 to 1.
func (s *Shares) Fraction(l store.Limit, limit float64) float64 {
	views := s.views.Load()
	if views == nil {
		return 1
	}
	return min(views[0].fraction(l, limit), views[1].fraction(l, limit), views[2].fraction(l, limit))
}

// Places returns how many of limit places are this node's. turn decides which nodes get the
// remainder if limit does not divide evenly.
func (s *Shares) Places(l store.Limit, limit, turn int) int {
	views := s.views.Load()
	if views == nil {
		return limit
	}
	return min(views[0].places(l, limit, turn), views[1].places(l, limit, turn), views[2].places(l, limit, turn))
}

// Read takes over what all nodes have published by now; own is what this node has. Demands of other
// nodes that are older than stale do not count. Read reports whether the node is among them: one
// that the store does not list as alive is about to join again, and keeps its shares.
func (s *Shares) Read(all []store.NodeDemands, node kapsel.NodeID, own []store.Demand, now time.Time, stale time.Duration) bool {
	v := newView(all, node, own, now, stale)
	if v == nil {
		return false
	}
	s.before = s.views.Load()
	switch {
	case v.nodes == 1:
		s.views.Store(nil)
	case s.before == nil:
		s.views.Store(&[3]*view{v, v, v})
	default:
		s.views.Store(&[3]*view{v, newView(all, node, s.own, now, stale), s.before[0]})
	}
	s.own = own
	return true
}

// Affected returns the limits whose share of this node may have changed with the last Read. all
// says that every share may have: nodes have come or gone.
func (s *Shares) Affected() (limits []store.Limit, all bool) {
	before, next := s.before, s.views.Load()
	if before == nil && next == nil {
		return nil, false
	}
	moved := func(v *view) bool { return v.nodes != next[0].nodes || v.me != next[0].me }
	if before == nil || next == nil || slices.ContainsFunc(before[:], moved) {
		return nil, true
	}
	for _, v := range slices.Concat(before[:], next[:]) {
		for l := range v.amounts {
			limits = append(limits, l)
		}
	}
	return limits, false
}

// view holds what all nodes had published at one time, without the demands that were too old then.
type view struct {
	nodes   int
	me      int // this node's index among the nodes, in the order of their IDs
	amounts map[store.Limit][]float64
	held    map[store.Limit][]int
}

// newView returns a view of what all nodes published, with own as this node's demands. Demands of
// others that are older than stale do not count. newView returns nil if node is not among them.
func newView(all []store.NodeDemands, node kapsel.NodeID, own []store.Demand, now time.Time, stale time.Duration) *view {
	me := slices.IndexFunc(all, func(d store.NodeDemands) bool { return d.Node == node })
	if me < 0 {
		return nil
	}
	v := &view{nodes: len(all), me: me, amounts: map[store.Limit][]float64{}, held: map[store.Limit][]int{}}
	for i, told := range all {
		demands, old := told.Demands, now.Sub(told.At) > stale
		if i == me {
			demands, old = own, false
		}
		for _, d := range demands {
			if v.amounts[d.Limit] == nil {
				v.amounts[d.Limit], v.held[d.Limit] = make([]float64, v.nodes), make([]int, v.nodes)
			}
			v.held[d.Limit][i] = d.Held
			if !old {
				v.amounts[d.Limit][i] = d.Amount
			}
		}
	}
	return v
}

// fraction is Shares.Fraction by one view. If no node has published a demand, all shares are equal.
func (v *view) fraction(l store.Limit, limit float64) float64 {
	amounts := v.amounts[l]
	if amounts == nil || !(limit > 0) {
		return 1 / float64(v.nodes)
	}
	return ratelimit.Share(limit, amounts, v.me) / limit
}

// places returns how many of limit places are this node's. turn decides which nodes get the
// remainder if limit does not divide evenly; see ratelimit.Places.
func (v *view) places(l store.Limit, limit, turn int) int {
	amounts, held := v.amounts[l], v.held[l]
	if amounts == nil {
		amounts, held = make([]float64, v.nodes), make([]int, v.nodes)
	}
	return ratelimit.Places(limit, amounts, held, v.me, turn)
}
