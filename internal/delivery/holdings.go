package delivery

import (
	"context"
	"maps"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// doubtFor is how long reconcile looks for what an unconfirmed write left. If the store was held
// up, a commit may become visible even later, so reconcile looks at the node's own ID every
// lookEvery, with or without a doubt.
const (
	doubtFor  = time.Minute
	lookEvery = 15 * time.Second
)

// holdings is what this node holds by its own account. A permit's token is in tokens from before its
// acceptance is written until after its record. A claim's tokens are in tokens from the end of the
// claim, and until then known by the millisecond of the claim. So a delivery that the store lists as
// held by the node, and whose token is unknown after that, is nobody's. Engine.mu guards it.
type holdings struct {
	tokens  map[kapsel.AttemptID]struct{}
	claims  map[int64]int               // claims under way, by the millisecond in which their tokens are made
	doubts  map[kapsel.NodeID]time.Time // IDs of this node with unconfirmed writes, and until when reconcile looks for what they left
	checked time.Time                   // when reconcile last looked at the node's own ID without a doubt
}

func newHoldings() holdings {
	return holdings{tokens: map[kapsel.AttemptID]struct{}{}, claims: map[int64]int{}, doubts: map[kapsel.NodeID]time.Time{}}
}

// add notes that the node holds the delivery with a token, or soon will.
func (h *holdings) add(token kapsel.AttemptID) { h.tokens[token] = struct{}{} }

// drop notes that the node no longer holds the delivery with a token.
func (h *holdings) drop(token kapsel.AttemptID) { delete(h.tokens, token) }

// claiming notes that a claim whose tokens are made at a time is under way.
func (h *holdings) claiming(at time.Time) { h.claims[at.UnixMilli()]++ }

// claimed notes the end of a claim that began with claiming. Callers must have added its
// tokens.
func (h *holdings) claimed(at time.Time) {
	ms := at.UnixMilli()
	if h.claims[ms]--; h.claims[ms] == 0 {
		delete(h.claims, ms)
	}
}

// knows reports whether the node knows of the delivery with a token, or a claim under way may have
// made the token.
func (h *holdings) knows(token kapsel.AttemptID) bool {
	_, known := h.tokens[token]
	return known || h.claims[token.Time().UnixMilli()] > 0
}

// doubt notes that a write under an ID of this node was not confirmed: the store may hold deliveries
// for the ID that nobody would send.
func (h *holdings) doubt(node kapsel.NodeID) { h.doubts[node] = time.Now().Add(doubtFor) }

// toCheck returns the IDs of this node, which is now called node, for which the store may hold
// deliveries that the node does not know of, each with the end of its doubt.
func (h *holdings) toCheck(node kapsel.NodeID) map[kapsel.NodeID]time.Time {
	ids := maps.Clone(h.doubts)
	if _, doubted := ids[node]; !doubted && time.Since(h.checked) >= lookEvery {
		ids[node] = time.Time{}
		h.checked = time.Now()
	}
	return ids
}

// settle ends the doubt about an ID if its time is over and no later write renewed it.
func (h *holdings) settle(node kapsel.NodeID, until time.Time) {
	if h.doubts[node].Equal(until) && time.Now().After(until) {
		delete(h.doubts, node)
	}
}

// reconcile gives back deliveries that this node holds according to the store but does not know of.
// It fails if the store does.
func (e *Engine) reconcile(ctx context.Context) error {
	e.mu.Lock()
	ids := e.holds.toCheck(e.node.ID())
	e.mu.Unlock()
	for node, until := range ids {
		held, err := e.Store.Held(ctx, node)
		if err != nil {
			return err
		}
		now := e.Clock.Now()
		lost := held[:0]
		e.mu.Lock()
		for _, d := range held {
			if !e.holds.knows(d.Token) {
				d.DueAt = now
				lost = append(lost, d)
			}
		}
		e.mu.Unlock()
		if len(lost) > 0 {
			if err := e.Store.GiveBack(ctx, lost); err != nil {
				return err
			}
			e.relist()
		}
		e.mu.Lock()
		e.holds.settle(node, until)
		e.mu.Unlock()
	}
	return nil
}
