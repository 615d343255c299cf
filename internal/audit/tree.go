package audit

import (
	"context"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Hashes holds the methods of the store by which the hashes of a tree are read; see store.Journal.
type Hashes interface {
	Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error)
	Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error)
}

// grower appends leaves to a tree.
type grower struct {
	ctx   context.Context
	from  Hashes
	g     *store.Growth
	peaks []store.Hash // of the complete subtrees that the tree consists of, the largest first
	tiles map[tileID]*store.Tile
}

type tileID struct {
	level int
	n     int64
}

// grow sets of g what follows from g.Was and g.Leaves: the leaves' hashes are set already. It reads
// tiles that go on.
func grow(ctx context.Context, from Hashes, g *store.Growth) error {
	t := grower{ctx: ctx, from: from, g: g, tiles: map[tileID]*store.Tile{}}
	if want := bits.OnesCount64(uint64(g.Was.Size)) * store.HashSize; len(g.Was.Edge) != want {
		return fmt.Errorf("the edge of audit log %s has %d bytes; of %d leaves it has %d", g.Log, len(g.Was.Edge), g.Was.Size, want)
	}
	for b := g.Was.Edge; len(b) > 0; b = b[store.HashSize:] {
		t.peaks = append(t.peaks, store.Hash(b))
	}
	if root := rootOf(t.peaks); root != g.Was.Root {
		return fmt.Errorf("the edge of audit log %s does not have the root of the log", g.Log)
	}
	// A tile of level 0 is stored when it is complete. Its first hashes may be those of leaves before.
	first := g.Was.Size - g.Was.Size%TileWidth
	size := g.Was.Size + int64(len(g.Leaves))
	if first < g.Was.Size && size >= first+TileWidth {
		hashes, err := from.Hashes(ctx, g.Log, first, int(g.Was.Size-first))
		if err != nil {
			return err
		}
		if len(hashes) != int(g.Was.Size-first)*store.HashSize {
			return fmt.Errorf("leaves of audit log %s from %d on are missing", g.Log, first)
		}
		t.tiles[tileID{0, first / TileWidth}] = &store.Tile{N: first / TileWidth, Hashes: hashes}
	}
	for i := range g.Leaves {
		if err := t.add(g.Was.Size+int64(i), g.Leaves[i].Hash); err != nil {
			return err
		}
	}
	g.Size, g.Root, g.Edge = size, rootOf(t.peaks), nil
	for i := range t.peaks {
		g.Edge = append(g.Edge, t.peaks[i][:]...)
	}
	for id, tile := range t.tiles {
		if id.level > 0 || len(tile.Hashes) == TileWidth*store.HashSize {
			g.Tiles = append(g.Tiles, *tile)
		}
	}
	return nil
}

// add appends the leaf with index n.
func (t *grower) add(n int64, hash store.Hash) error {
	for height := 0; ; height++ {
		at := n >> height // the index of the complete subtree with this height and this hash
		if height%TileHeight == 0 {
			if err := t.tile(height/TileHeight, at, hash); err != nil {
				return err
			}
		}
		if at&1 == 0 {
			break
		}
		last := len(t.peaks) - 1
		hash = node(t.peaks[last], hash)
		t.peaks = t.peaks[:last]
	}
	t.peaks = append(t.peaks, hash)
	return nil
}

// tile appends the hash with index n on a level of tiles.
func (t *grower) tile(level int, n int64, hash store.Hash) error {
	id := tileID{level, n / TileWidth}
	tile := t.tiles[id]
	if tile == nil {
		tile = &store.Tile{Level: level, N: id.n}
		t.tiles[id] = tile
		if level > 0 && n%TileWidth > 0 {
			b, err := t.from.Tile(t.ctx, t.g.Log, level, id.n)
			if err != nil {
				return err
			}
			tile.Hashes = b
		}
	}
	if level == 0 && len(tile.Hashes) == 0 && n%TileWidth > 0 {
		return nil // it does not get complete now
	}
	if got := int64(len(tile.Hashes)) / store.HashSize; got != n%TileWidth {
		return fmt.Errorf("tile %d of level %d of audit log %s has %d hashes, not %d", id.n, level, t.g.Log, got, n%TileWidth)
	}
	tile.Hashes = append(tile.Hashes, hash[:]...)
	return nil
}

// rootOf returns the root of a tree that consists of complete subtrees, the largest first.
func rootOf(peaks []store.Hash) store.Hash {
	if len(peaks) == 0 {
		root, _ := tlog.TreeHash(0, nil) // never fails
		return store.Hash(root)
	}
	root := peaks[len(peaks)-1]
	for i := len(peaks) - 2; i >= 0; i-- {
		root = node(peaks[i], root)
	}
	return root
}

// Tree reads the hashes of a log. It may only be asked about sizes that the log has, or has had.
type Tree struct {
	Log    kapsel.LogID
	Hashes Hashes
}

// Root returns the root of the first size leaves.
func (t Tree) Root(ctx context.Context, size int64) (store.Hash, error) {
	root, err := tlog.TreeHash(size, t.reader(ctx, size))
	return store.Hash(root), err
}

// Inclusion holds the hashes of a leaf and of a tree, and those that prove that the leaf is in the tree:
// what the leaf's hash is combined with, beside the leaf first (RFC 6962, 2.1.1).
type Inclusion struct {
	Leaf, Root store.Hash
	Proof      []store.Hash
}

// Inclusion returns the proof that the leaf with an index is among the first size leaves. index must be
// below size. It reads each tile once.
func (t Tree) Inclusion(ctx context.Context, index, size int64) (in Inclusion, err error) {
	r := t.reader(ctx, size)
	proof, err := tlog.ProveRecord(size, index, r)
	if err != nil {
		return in, err
	}
	root, err := tlog.TreeHash(size, r)
	if err != nil {
		return in, err
	}
	leaf, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return in, err
	}
	return Inclusion{store.Hash(leaf[0]), store.Hash(root), hashes(proof)}, nil
}

// Consistency returns the proof that the first to leaves begin with the first from leaves (RFC 6962,
// 2.1.2). from must be above 0 and not above to.
func (t Tree) Consistency(ctx context.Context, from, to int64) ([]store.Hash, error) {
	proof, err := tlog.ProveTree(to, from, t.reader(ctx, to))
	return hashes(proof), err
}

// Tile returns the first width hashes of a tile, of a log that has size leaves. ok is false if the
// tile does not have as many.
func (t Tree) Tile(ctx context.Context, level int, n int64, width int, size int64) (b []byte, ok bool, err error) {
	if level < 0 || n < 0 || width < 1 || width > TileWidth || level*TileHeight > 62 {
		return nil, false, nil
	}
	if has := size >> (level * TileHeight); n > has/TileWidth || n*TileWidth+int64(width) > has {
		return nil, false, nil
	}
	b, err = t.reader(ctx, size).tile(level, n, width)
	return b, err == nil, err
}

func hashes(proof []tlog.Hash) []store.Hash {
	all := make([]store.Hash, len(proof))
	for i := range proof {
		all[i] = store.Hash(proof[i])
	}
	return all
}

// reader returns a tlog.HashReader of a tree with size leaves.
func (t Tree) reader(ctx context.Context, size int64) *reader {
	return &reader{ctx: ctx, tree: t, size: size, tiles: map[tileID][]byte{}}
}

// reader reads hashes from tiles. It keeps those that it has read.
type reader struct {
	ctx   context.Context
	tree  Tree
	size  int64
	tiles map[tileID][]byte
}

// ReadHashes returns the hashes with the given indexes; see tlog.StoredHashIndex.
func (r *reader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		height, n := tlog.SplitStoredHashIndex(index)
		under := height % TileHeight // levels below it in its tile
		level, first := height/TileHeight, n<<under
		b, err := r.tile(level, first/TileWidth, int(first%TileWidth)+1<<under)
		if err != nil {
			return nil, err
		}
		b = b[first%TileWidth*store.HashSize:]
		found[i] = tlog.Hash(subtree(b[:store.HashSize<<under]))
	}
	return found, nil
}

// subtree returns the root of a complete subtree of the hashes in b.
func subtree(b []byte) store.Hash {
	if len(b) == store.HashSize {
		return store.Hash(b)
	}
	return node(subtree(b[:len(b)/2]), subtree(b[len(b)/2:]))
}

// tile returns the first width hashes of a tile. It fails if the store lacks them.
func (r *reader) tile(level int, n int64, width int) (b []byte, err error) {
	id := tileID{level, n}
	b, read := r.tiles[id]
	if !read {
		if first := n * TileWidth; level == 0 && first+TileWidth > r.size {
			b, err = r.tree.Hashes.Hashes(r.ctx, r.tree.Log, first, int(r.size-first))
		} else {
			b, err = r.tree.Hashes.Tile(r.ctx, r.tree.Log, level, n)
		}
		if err == nil && level == 0 && len(b) == 0 { // complete by now at another size, or not yet at this one
			b, err = r.tree.Hashes.Hashes(r.ctx, r.tree.Log, n*TileWidth, TileWidth)
		}
		if err != nil {
			return nil, err
		}
		r.tiles[id] = b
	}
	if len(b) < width*store.HashSize {
		return nil, fmt.Errorf("tile %d of level %d of audit log %s has %d hashes, not %d", n, level, r.tree.Log, len(b)/store.HashSize, width)
	}
	return b[:width*store.HashSize], nil
}
