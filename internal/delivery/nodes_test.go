package delivery_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// besides is a store in which other nodes are alive, too, that demand what this one does: what
// waits in the store, waits for all.
type besides struct {
	store.Store
	others *atomic.Pointer[[]kapsel.NodeID]
}

func (b besides) Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error) {
	nodes, err := b.Store.Nodes(ctx, now)
	if others := b.others.Load(); others != nil {
		nodes = append(nodes, *others...)
	}
	slices.SortFunc(nodes, func(a, b kapsel.NodeID) int { return slices.Compare(a[:], b[:]) })
	return nodes, err
}

func (b besides) Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []store.Demand) (all []store.NodeDemands, err error) {
	theirs := slices.Clone(own)
	for i := range theirs {
		theirs[i].Held = 0
	}
	nodes, err := b.Nodes(ctx, now)
	for _, id := range nodes {
		all = append(all, store.NodeDemands{Node: id, At: now, Demands: theirs})
	}
	return all, err
}

// Ids that sort before and after those of a bubble's processes.
var first, last = kapsel.NodeID{15: 1}, kapsel.NodeID{0xff}

// among runs a test with other nodes that come and go.
func among(t *testing.T, test func(t *testing.T, w *sim.World, come func(others ...kapsel.NodeID))) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		var others atomic.Pointer[[]kapsel.NodeID]
		w.Wrap = func(_ *sim.Process, s store.Store) store.Store { return besides{s, &others} }
		test(t, w, func(ids ...kapsel.NodeID) { others.Store(&ids); w.Pass(6100 * time.Millisecond) })
	})
}

// TestShare_Concurrency checks that nodes share an endpoint's concurrency, including the remainder
// that does not divide evenly, and take over each other's shares when nodes come and go.
func TestShare_Concurrency(t *testing.T) {
	among(t, func(t *testing.T, w *sim.World, come func(...kapsel.NodeID)) {
		d := w.Net.Destination("shop.example", ends(100*time.Millisecond))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Concurrency = 5 })
		p := w.Start()
		backlog(w, p, 2000, ep)
		w.Pass(3 * time.Second)
		open := func(others ...kapsel.NodeID) int {
			come(others...)
			w.Pass(200 * time.Millisecond) // those begun before have ended
			most := 0
			for range 10 {
				w.Pass(17 * time.Millisecond)
				now, _ := d.Open()
				most = max(most, now)
			}
			return most
		}
		if n := open(); n != 5 {
			t.Errorf("alone: %d exchanges at once, want 5", n)
		}
		// The same node at rank 1 and at rank 0 of two: together all there is.
		if a, b := open(first), open(last); a+b != 5 || max(a, b) != 3 {
			t.Errorf("of two nodes one has %d exchanges at once, the other %d", a, b)
		}
		if n := open(); n != 5 {
			t.Errorf("alone again: %d exchanges at once, want 5", n)
		}
		w.UntilDone(5 * time.Minute)
		balanced(t, p)
	})
}

// TestShare_None checks that a concurrency below the number of nodes leaves some nodes without a
// share, that these give back what they hold, and that they take deliveries again with the next
// share.
func TestShare_None(t *testing.T) {
	for _, other := range []kapsel.NodeID{first, last} {
		among(t, func(t *testing.T, w *sim.World, come func(...kapsel.NodeID)) {
			d := w.Net.Destination("shop.example", ends(50*time.Millisecond))
			ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Concurrency = 1 })
			p := w.Start()
			backlog(w, p, 500, ep)
			w.Pass(2 * time.Second)
			come(other)
			n := d.Count()
			w.Pass(5 * time.Second)
			if d.Count() == n { // the share is the other's
				for _, got := range w.Deliveries(ep) {
					if got.Status == kapsel.Delivering {
						t.Error("it holds a delivery that it may not send")
					}
				}
			} else if got := d.Count() - n; got < 80 {
				t.Errorf("%d exchanges in 5 s with the whole share", got)
			}
			come()
			w.UntilDone(5 * time.Minute)
			balanced(t, p)
		})
	}
}

// TestShare_Rate checks that a node's share of a rate follows the number of nodes.
func TestShare_Rate(t *testing.T) {
	among(t, func(t *testing.T, w *sim.World, come func(...kapsel.NodeID)) {
		d := w.Net.Destination("shop.example", ends(10*time.Millisecond))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.RateLimit = &kapsel.RateLimit{PerSecond: 30, Burst: 1} })
		p := w.Start()
		backlog(w, p, 3000, ep)
		w.Pass(2 * time.Second)
		for _, test := range []struct {
			others []kapsel.NodeID
			want   float64
		}{{nil, 30}, {[]kapsel.NodeID{first, last}, 10}, {[]kapsel.NodeID{first}, 15}, {nil, 30}} {
			come(test.others...)
			n := d.Count()
			w.Pass(10 * time.Second)
			if got := float64(d.Count()-n) / 10; got < test.want*0.9 || got > test.want*1.1 {
				t.Errorf("with %d others %v a second, want %v", len(test.others), got, test.want)
			}
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.RateLimit = nil })
		w.UntilDone(5 * time.Minute)
		balanced(t, p)
	})
}
