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

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// TileHeight is the number of levels of the tree in a tile, and TileWidth the number of hashes in a
// complete one.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// leafOf returns the leaf that an entry of the outbox becomes, without its index, and when its attempt ended,
// or began if that is not known any more, or when its event was erased; in milliseconds since the epoch. It
// returns scratch, which may be longer.
func leafOf(e *store.Entry, scratch []byte) (l store.Leaf, at int64, _ []byte, err error) {
	if erasure, ok := store.ReadErasure(e.Record); ok {
		text := erasure.Leaf().Append(nil)
		return store.Leaf{Hash: receipt.LeafHash(text), Record: text}, erasure.At, scratch, nil
	}
	if hash, ok := store.ErasedHash(e.Record); ok {
		return store.Leaf{AttemptID: e.AttemptID, Hash: hash}, e.AttemptID.Time().UnixMilli(), scratch, nil
	}
	r, err := store.ReadRecord(e.AttemptID, e.Record)
	if err != nil {
		return l, 0, scratch, err
	}
	scratch = r.Leaf().Append(scratch[:0])
	return store.Leaf{AttemptID: e.AttemptID, Hash: receipt.LeafHash(scratch), Record: e.Record}, r.EndedAt, scratch, nil
}

// maxText is about how long the text of an attempt's leaf is.
const maxText = 768

// Open returns the text of a leaf and what it says. The record of a leaf is its text, or, of an attempt,
// the shorter form that store.ReadRecord reads. The text is nil if it was deleted, or if the record has
// neither form; the leaf is nil if the text is that of no leaf. err says why one of them is nil; it is
// nil of a text that was deleted.
func Open(l *store.Leaf) (text []byte, leaf receipt.Leaf, err error) {
	switch {
	case l.Record == nil:
		return nil, nil, nil
	case len(l.Record) > 0 && l.Record[0] == '{':
		leaf, err = receipt.ParseLeaf(string(l.Record))
		return l.Record, leaf, err
	}
	r, err := store.ReadRecord(l.AttemptID, l.Record)
	if err != nil {
		return nil, nil, err
	}
	a := r.Leaf()
	return a.Append(make([]byte, 0, maxText)), a, nil
}

// node returns the hash of a node of the tree that has two children.
func node(left, right store.Hash) store.Hash {
	return store.Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(right)))
}
