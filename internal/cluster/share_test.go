package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/cluster"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// limit is a limit that the nodes of these tests share.
var limit = store.Limit{Kind: store.Concurrency, Of: kapsel.OriginID{1}}

// node returns the ID of the n-th node.
func node(n int) kapsel.NodeID { return kapsel.NodeID{15: byte(n + 1)} }

// demand returns a demand of the limit.
func demand(amount float64, held int) []store.Demand {
	return []store.Demand{{Limit: limit, Amount: amount, Held: held}}
}

// read has a node publish its own demand into all and read the others'.
func read(s *cluster.Shares, all []store.NodeDemands, n int, own []store.Demand, now time.Time) bool {
	all[n] = store.NodeDemands{Node: node(n), At: now, Demands: own}
	return s.Read(slices.Clone(all), node(n), own, now, 3*time.Second)
}

// TestShares_Alone checks that a node that is alone has all of every limit.
func TestShares_Alone(t *testing.T) {
	var s cluster.Shares
	if !s.Alone() || s.Fraction(limit, 7) != 1 || s.Places(limit, 7, 0) != 7 {
		t.Errorf("the zero Shares have %v of a limit, and %d of 7 places", s.Fraction(limit, 7), s.Places(limit, 7, 0))
	}
	now := time.Unix(1_000_000, 0)
	all := make([]store.NodeDemands, 1)
	if !read(&s, all, 0, demand(5, 0), now) || !s.Alone() || s.Places(limit, 7, 0) != 7 {
		t.Error("a node that reads only itself is not alone")
	}
	if limits, all := s.Affected(); len(limits) > 0 || all {
		t.Errorf("shares of a node that stays alone changed: %v, all: %t", limits, all)
	}
}

// TestShares_NotAlive checks that a node that the store does not list keeps its shares.
func TestShares_NotAlive(t *testing.T) {
	var s cluster.Shares
	now := time.Unix(1_000_000, 0)
	all := []store.NodeDemands{{Node: node(0), At: now}, {Node: node(1), At: now}}
	if s.Read(all, node(7), nil, now, time.Second) || !s.Alone() {
		t.Error("a node that is not listed took over shares")
	}
}

// TestShares_SlowToGrow checks that a share shrinks with the reading that says so, and grows one
// reading later.
func TestShares_SlowToGrow(t *testing.T) {
	var s cluster.Shares
	now := time.Unix(1_000_000, 0)
	all := make([]store.NodeDemands, 2)
	all[1] = store.NodeDemands{Node: node(1), At: now, Demands: demand(10, 0)}
	places := func(theirs float64) int {
		now = now.Add(time.Second)
		all[1] = store.NodeDemands{Node: node(1), At: now, Demands: demand(theirs, 0)}
		if !read(&s, all, 0, demand(10, 0), now) {
			t.Fatal("the node is not listed")
		}
		return s.Places(limit, 10, 0)
	}
	var got []int
	for _, theirs := range []float64{10, 0, 0, 10} {
		got = append(got, places(theirs))
	}
	if got[0] != 5 || got[1] != 5 || got[2] <= 5 || got[3] != 5 {
		t.Errorf("while the other node demands 10, 0, 0 and 10 the places are %v", got)
	}
}

// TestShares_NeverMore checks that two nodes that read in turns never have more of a limit together than
// there is, whatever they demand. Their first round is left out.
func TestShares_NeverMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most, turn := rapid.IntRange(1, 12).Draw(t, "limit"), rapid.IntRange(0, 5).Draw(t, "turn")
		now := time.Unix(1_000_000, 0)
		all := []store.NodeDemands{{Node: node(0), At: now}, {Node: node(1), At: now}}
		shares := make([]cluster.Shares, 2)
		for round := range 8 {
			for n := range shares {
				now = now.Add(100 * time.Millisecond)
				amount := rapid.Float64Range(0, 20).Draw(t, fmt.Sprint("demand of ", n))
				read(&shares[n], all, n, demand(amount, 0), now)
				if round == 0 {
					continue // a node that has just joined knows no earlier demands
				}
				places := shares[0].Places(limit, most, turn) + shares[1].Places(limit, most, turn)
				part := shares[0].Fraction(limit, float64(most)) + shares[1].Fraction(limit, float64(most))
				if places > most || part > 1.000001 {
					t.Fatalf("in round %d the nodes have %d of %d places together, and %v of a rate", round, places, most, part)
				}
			}
		}
	})
}
