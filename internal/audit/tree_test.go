package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// kept is a store of one log.
type kept struct {
	state  store.State
	tiles  map[tileID][]byte
	leaves []store.Hash
}

func newKept() *kept { return &kept{state: store.State{Root: rootOf(nil)}, tiles: map[tileID][]byte{}} }

func (k *kept) Tile(_ context.Context, _ kapsel.LogID, level int, n int64) ([]byte, error) {
	return k.tiles[tileID{level, n}], nil
}

func (k *kept) Hashes(_ context.Context, _ kapsel.LogID, n int64, limit int) (b []byte, err error) {
	for _, h := range k.leaves[n:min(int64(len(k.leaves)), n+int64(limit))] {
		b = append(b, h[:]...)
	}
	return b, nil
}

// add appends n leaves.
func (k *kept) add(t *testing.T, n int) {
	t.Helper()
	g := store.Growth{Was: k.state}
	for i := range n {
		text := binary.BigEndian.AppendUint64(nil, uint64(k.state.Size)+uint64(i))
		g.Leaves = append(g.Leaves, store.Leaf{Index: k.state.Size + int64(i), Hash: receipt.LeafHash(text)})
	}
	if err := grow(t.Context(), k, &g); err != nil {
		t.Fatal(err)
	}
	for _, l := range g.Leaves {
		k.leaves = append(k.leaves, l.Hash)
	}
	for _, tile := range g.Tiles {
		k.tiles[tileID{tile.Level, tile.N}] = slices.Clone(tile.Hashes)
	}
	k.state = store.State{Size: g.Size, Root: g.Root, Edge: g.Edge}
}

// These are the definitions of RFC 6962, 2.1, word for word.

func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func mth(d []store.Hash) store.Hash {
	switch len(d) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return d[0]
	}
	left, right := mth(d[:split(len(d))]), mth(d[split(len(d)):])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

func path(m int, d []store.Hash) []store.Hash {
	if len(d) == 1 {
		return nil
	}
	if k := split(len(d)); m < k {
		return append(path(m, d[:k]), mth(d[k:]))
	} else {
		return append(path(m-k, d[k:]), mth(d[:k]))
	}
}

func subproof(m int, d []store.Hash, whole bool) []store.Hash {
	if m == len(d) {
		if whole {
			return nil
		}
		return []store.Hash{mth(d)}
	}
	if k := split(len(d)); m <= k {
		return append(subproof(m, d[:k], whole), mth(d[k:]))
	} else {
		return append(subproof(m-k, d[k:], false), mth(d[:k]))
	}
}

// TestTree_FH2 checks that roots, proofs of every leaf at every size up to 300, and proofs between
// every two of these sizes, are those of RFC 6962 and accepted by package tlog, however many leaves
// were appended at once.
func TestTree_FH2(t *testing.T) {
	k := newKept()
	for k.state.Size < 300 {
		k.add(t, 1+rand.IntN(int(min(40, 300-k.state.Size))))
	}
	tree := Tree{Hashes: k}
	for size := 1; size <= 300; size++ {
		at := &kept{tiles: k.tiles, leaves: k.leaves[:size]}
		tree.Hashes = at
		root, err := tree.Root(t.Context(), int64(size))
		if err != nil || root != mth(k.leaves[:size]) {
			t.Fatalf("root of %d: %x, %v", size, root, err)
		}
		for i := range size {
			in, err := tree.Inclusion(t.Context(), int64(i), int64(size))
			if err != nil || in.Leaf != k.leaves[i] || in.Root != root {
				t.Fatalf("proof of %d in %d: %+v, %v", i, size, in, err)
			}
			proof := in.Proof
			if size%16 == 0 || size < 20 { // the definitions are slow
				if want := path(i, k.leaves[:size]); !slices.Equal(proof, want) {
					t.Fatalf("proof of %d in %d: %x, want %x", i, size, proof, want)
				}
			}
			if err := tlog.CheckRecord(hashesOf(proof), int64(size), tlog.Hash(root), int64(i), tlog.Hash(k.leaves[i])); err != nil {
				t.Fatalf("proof of %d in %d: %v", i, size, err)
			}
			from := i + 1
			proof, err = tree.Consistency(t.Context(), int64(from), int64(size))
			if err != nil {
				t.Fatal(err)
			}
			if size%16 == 0 || size < 20 {
				if want := subproof(from, k.leaves[:size], true); !slices.Equal(proof, want) {
					t.Fatalf("proof from %d to %d: %x, want %x", from, size, proof, want)
				}
			}
			old, err := tree.Root(t.Context(), int64(from))
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(hashesOf(proof), int64(size), tlog.Hash(root), int64(from), tlog.Hash(old)); err != nil {
				t.Fatalf("proof from %d to %d: %v", from, size, err)
			}
		}
	}
}

func hashesOf(proof []store.Hash) (all []tlog.Hash) {
	for _, h := range proof {
		all = append(all, tlog.Hash(h))
	}
	return all
}

// TestTree_FH2_Large checks that roots and proofs around powers of two, up to 2¹⁷ leaves, are right.
func TestTree_FH2_Large(t *testing.T) {
	k := newKept()
	var sizes []int64
	for e := 1; e <= 17; e++ {
		sizes = append(sizes, 1<<e-1, 1<<e, 1<<e+1)
	}
	roots := map[int64]store.Hash{}
	for _, size := range sizes {
		for k.state.Size < size {
			k.add(t, int(min(4000, size-k.state.Size)))
		}
		tree := Tree{Hashes: k}
		root, err := tree.Root(t.Context(), size)
		if err != nil || root != k.state.Root || root != mth(k.leaves) {
			t.Fatalf("root of %d: %x, %v; the state has %x", size, root, err, k.state.Root)
		}
		roots[size] = root
		for range 20 {
			i := rand.Int64N(size)
			in, err := tree.Inclusion(t.Context(), i, size)
			if err != nil || in.Leaf != k.leaves[i] || in.Root != root {
				t.Fatalf("proof of %d in %d: %+v, %v", i, size, in, err)
			}
			if err := tlog.CheckRecord(hashesOf(in.Proof), size, tlog.Hash(root), i, tlog.Hash(k.leaves[i])); err != nil {
				t.Fatalf("proof of %d in %d: %v", i, size, err)
			}
		}
		for from, old := range roots {
			proof, err := tree.Consistency(t.Context(), from, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(hashesOf(proof), size, tlog.Hash(root), from, tlog.Hash(old)); err != nil {
				t.Fatalf("proof from %d to %d: %v", from, size, err)
			}
		}
	}
}

// TestTree_Tile checks which tiles a log of some size has, and that a tile that is not complete is a
// prefix of what it becomes.
func TestTree_Tile(t *testing.T) {
	k := newKept()
	k.add(t, 2*TileWidth+3)
	tree := Tree{Hashes: k}
	for _, tt := range []struct {
		level int
		n     int64
		width int
		want  bool
	}{
		{0, 0, 256, true}, {0, 1, 256, true}, {0, 1, 5, true}, {0, 2, 3, true}, {0, 2, 1, true}, {1, 0, 2, true}, {1, 0, 1, true},
		{0, 2, 4, false}, {0, 2, 256, false}, {0, 3, 1, false}, {1, 0, 3, false}, {1, 1, 1, false}, {2, 0, 1, false},
		{-1, 0, 1, false}, {0, -1, 1, false}, {0, 0, 0, false}, {0, 0, 257, false}, {8, 0, 1, false}, {63, 0, 1, false}, {0, 1 << 62, 1, false},
	} {
		b, ok, err := tree.Tile(t.Context(), tt.level, tt.n, tt.width, k.state.Size)
		if err != nil || ok != tt.want {
			t.Errorf("tile %+v: %v, %v", tt, ok, err)
		}
		if ok && len(b) != tt.width*store.HashSize {
			t.Errorf("tile %+v has %d bytes", tt, len(b))
		}
	}
}

// TestGrow_Fault checks that nothing is appended to a log whose rows do not fit together.
func TestGrow_Fault(t *testing.T) {
	for name, spoil := range map[string]func(k *kept){
		"edge":    func(k *kept) { k.state.Edge[0]++ },
		"cut":     func(k *kept) { k.state.Edge = k.state.Edge[32:] },
		"root":    func(k *kept) { k.state.Root[0]++ },
		"size":    func(k *kept) { k.state.Size++ },
		"missing": func(k *kept) { k.leaves = k.leaves[:256] },
	} {
		k := newKept()
		k.add(t, 300)
		spoil(k)
		g := store.Growth{Was: k.state, Leaves: make([]store.Leaf, 300)}
		if err := grow(t.Context(), k, &g); err == nil {
			t.Errorf("%s: a spoilt log grows", name)
		}
	}
}
