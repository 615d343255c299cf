package receipt

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a hash of the tree. Its text is standard base64 with padding, as in a checkpoint.
type Hash [Size]byte

// String returns the hash in base64.
func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }

// MarshalText returns the hash in base64. The error is always nil.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText accepts exactly what MarshalText returns.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != Size || len(text) != base64.StdEncoding.EncodedLen(Size) { // DecodeString skips line ends
		return errors.New("a hash is the base64 of 32 bytes")
	}
	*h = Hash(b)
	return nil
}

// Salt is the salt of an event: who has it can check the commitments of the event's leaves. Its text
// is hexadecimal in lower case.
type Salt [Size]byte

// MarshalText returns the salt in hexadecimal. The error is always nil.
func (s Salt) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText accepts exactly what MarshalText returns.
func (s *Salt) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != Size || hex.EncodeToString(b) != string(text) {
		return errors.New("a salt is 64 hexadecimal digits in lower case")
	}
	*s = Salt(b)
	return nil
}

// InclusionProof shows that a leaf is at an index of a log of some size (RFC 6962, section 2.1.1).
type InclusionProof struct {
	LeafHash    Hash   `json:"leaf_hash"`
	LeafIndex   int64  `json:"leaf_index"`
	TreeSize    int64  `json:"tree_size"`
	ProofHashes []Hash `json:"proof_hashes"` // from the leaf's sibling to the child of the root
	RootHash    Hash   `json:"root_hash"`
}

// Check returns an error if the proof does not lead from the leaf's hash to the root.
func (p *InclusionProof) Check() error {
	if p.TreeSize < 1 || p.LeafIndex < 0 || p.LeafIndex >= p.TreeSize {
		return fmt.Errorf("a log of %d leaves has no leaf %d", p.TreeSize, p.LeafIndex)
	}
	if err := tlog.CheckRecord(hashes(p.ProofHashes), p.TreeSize, tlog.Hash(p.RootHash), p.LeafIndex, tlog.Hash(p.LeafHash)); err != nil {
		return errors.New("the inclusion proof does not lead from the leaf to the log's root hash")
	}
	return nil
}

// ConsistencyProof shows that a log of size To has the log of size From as its beginning (RFC 6962,
// section 2.1.2).
type ConsistencyProof struct {
	From        int64  `json:"from"`
	To          int64  `json:"to"`
	ProofHashes []Hash `json:"proof_hashes"`
}

// Check returns an error if the proof does not lead from one root to the other. An empty log is the
// beginning of every log; the proof then has no hashes.
func (p *ConsistencyProof) Check(from, to Hash) error {
	switch {
	case p.From < 0 || p.From > p.To:
		return fmt.Errorf("a log of %d leaves cannot become one of %d", p.From, p.To)
	case p.From == 0:
		if len(p.ProofHashes) == 0 && from == emptyRoot && (p.To > 0 || to == emptyRoot) {
			return nil
		}
	default:
		if tlog.CheckTree(hashes(p.ProofHashes), p.To, tlog.Hash(to), p.From, tlog.Hash(from)) == nil {
			return nil
		}
	}
	return errors.New("the consistency proof does not lead from the one root hash to the other")
}

// emptyRoot is the root hash of a log without leaves: SHA-256 of nothing.
var emptyRoot = Hash{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}

func hashes(all []Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(all))
	for i, h := range all {
		out[i] = tlog.Hash(h)
	}
	return out
}
