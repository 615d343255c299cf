// Package storetest checks an implementation of store.Store against every promise of its
// contract (Run, RunReopen), measures it (BenchmarkStore), and makes stores that fail on purpose
// (Faulty).
//
// A bug found in one implementation becomes a promise here, so that no other has it.
package storetest

import (
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// Run checks a store. open gives a new, empty one, and closes it when its test ends; it is
// called once for each promise, and the store must tell facts (store.Ledger). Times handed to it are of one day in 2026, in microseconds.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, part := range []struct {
		name     string
		promises []promise
	}{
		{"Accept", accepting},
		{"Redeliver", redelivering},
		{"Many", fanningOut},
		{"Origins", originating},
		{"Scheduled", scheduling},
		{"Expansions", expansions},
		{"Apps", grouping},
		{"EventTypes", cataloguing},
		{"Claim", claiming},
		{"Complete", completing},
		{"GiveBack", givingBack},
		{"Nodes", nodes},
		{"Queue", queueing},
		{"Directory", directing},
		{"Settings", settling},
		{"Archive", archiving},
		{"Stream", streaming},
		{"Replays", replaying},
		{"Missing", missing},
		{"Replans", replanning},
		{"Counters", counting},
		{"Answers", answering},
		{"Sessions", signedIn},
		{"PortalLinks", portals},
		{"PortalLogos", logos},
		{"Journal", journaling},
		{"Erasure", erasing},
		{"Changes", noting},
		{"Ledger", telling},
		{"Housekeeping", keeping},
	} {
		t.Run(part.name, func(t *testing.T) {
			for _, p := range part.promises {
				t.Run(p.text, func(t *testing.T) {
					w := newWorld(t, open(t))
					p.check(w)
					w.checkTold()
				})
			}
		})
	}
}

// promise is one sentence of the contract, and a check of it in a fresh world.
type promise struct {
	text  string
	check func(w *world)
}
