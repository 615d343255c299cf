// Package audit keeps a log of every attempt that its tenant, or anyone with a proof of it, can verify
// without trusting this instance.
//
// Each tenant has a log: a tree of leaves (RFC 6962), one leaf for each attempt, in tiles (C2SP
// tlog-tiles) under signed heads (C2SP tlog-checkpoint). The store writes an entry of an outbox with
// each attempt. One node at a time, the leader of the duty "audit", is the writer: it makes leaves of
// the entries (sequencing), signs the new sizes of the logs, and publishes a head by storing it. So the
// log follows the store, and never slows what it follows.
//
// No head may ever contradict one that was published before. Three things see to that. A writer
// raises the epoch of a log before it writes, and every write names the size, the root and the epoch
// that it builds on; so a writer that was stopped for a while, and replaced, can write nothing any
// more. A head is served only after it is stored, under the same condition. And a file outside of the
// store (HighWater) remembers each head before it is published, because a store that was restored from
// a backup cannot know what it had published since. The writer compares each log with the file when it
// begins to write the log, and the file refuses a head that contradicts the one it holds.
package audit

import (
	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// TileHeight is the number of levels of the tree in a tile, and TileWidth the number of hashes in a
// complete one.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// text returns the text of the leaf of an attempt.
func text(e *store.Entry) []byte {
	a, c := &e.Attempt, &e.Commitments
	return (&receipt.Attempt{
		AttemptID: a.ID.String(), DeliveryID: a.DeliveryID.String(), EventID: a.EventID.String(), EndpointID: a.EndpointID.String(),
		Number: a.Number, AttemptedAtMS: a.StartedAt.UnixMilli(), EndedAtMS: a.StartedAt.Add(a.Duration).UnixMilli(),
		StatusCode: statusOf(a), ErrorCode: string(a.ErrorCode),
		URL: c.URL, Payload: c.Payload, Request: c.Request, Response: c.Response,
	}).Append(make([]byte, 0, 768))
}

// statusOf returns the status of an attempt in its leaf. One that no leaf can have is 0: an attempt of an
// earlier version may have such a status, and a leaf that nobody can read must not be signed.
func statusOf(a *kapsel.Attempt) int {
	if a.StatusCode < 100 || a.StatusCode > 999 {
		return 0
	}
	return a.StatusCode
}

// node returns the hash of a node of the tree that has two children.
func node(left, right store.Hash) store.Hash {
	return store.Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(right)))
}
