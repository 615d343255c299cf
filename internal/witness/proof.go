package witness

import (
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel/receipt"
)

// provenOld returns the root of the first old leaves of the tree of size leaves with a root, as a consistency
// proof shows it (RFC 9162, section 2.1.4.2). It returns false if the proof does not lead to the root, or
// shows nothing of the first leaves: that is so if old is a power of two, because the proof then begins at
// the root that the reader knows already.
//
// So who has signed both roots of one size has forked the log, and the proof shows it to anyone.
func provenOld(proof []receipt.Hash, old, size int64, root receipt.Hash) (first receipt.Hash, ok bool) {
	if old < 1 || old >= size || old&(old-1) == 0 || len(proof) == 0 {
		return first, false
	}
	fn, sn := uint64(old-1), uint64(size-1)
	shift := bits.TrailingZeros64(^fn)
	fn, sn = fn>>shift, sn>>shift
	fr, sr := tlog.Hash(proof[0]), tlog.Hash(proof[0])
	for _, h := range proof[1:] {
		c := tlog.Hash(h)
		switch {
		case sn == 0:
			return first, false
		case fn&1 == 1 || fn == sn:
			fr, sr = tlog.NodeHash(c, fr), tlog.NodeHash(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		default:
			sr = tlog.NodeHash(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return receipt.Hash(fr), sn == 0 && receipt.Hash(sr) == root
}
