package independent

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	checkpoints "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/kapsel-hq/kapsel/receipt"
)

// vectors are the examples of package receipt.
type vectors struct {
	LogKey      string `json:"log_key"`
	PublicKey   string `json:"log_public_key"`
	OtherKey    string `json:"other_key"`
	WitnessKey  string `json:"witness_key"`
	Commitments []struct{ Salt, Label, Value, Commitment string }
	Leaves      []struct {
		Text string
		Hash receipt.Hash
	}
	NoLeaves    []string `json:"no_leaves"`
	Roots       []receipt.Hash
	Consistency []receipt.ConsistencyProof
	Packages    []struct {
		Name, Text string
		Valid      bool
		Witnessed  []string
		Payload    *string
	}
}

const vectorsFile = "../testdata/vectors.json"

func readVectors(t *testing.T) (v vectors) {
	text, err := os.ReadFile(vectorsFile)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil || len(v.Packages) == 0 {
		t.Fatal(vectorsFile, len(v.Packages), err)
	}
	return v
}

func hashes(all []receipt.Hash) (out [][]byte) {
	for _, h := range all {
		out = append(out, h[:])
	}
	return out
}

// TestLibraries verifies the examples with libraries that share no code with package receipt: the
// tree by transparency-dev/merkle, checkpoints and cosignatures by transparency-dev/formats.
func TestLibraries(t *testing.T) {
	v := readVectors(t)
	tree := rfc6962.DefaultHasher
	for _, l := range v.Leaves {
		if got := tree.HashLeaf([]byte(l.Text)); receipt.Hash(got) != l.Hash {
			t.Errorf("%s has the hash %x", l.Text, got)
		}
	}
	if receipt.Hash(tree.EmptyRoot()) != v.Roots[0] {
		t.Errorf("an empty log has the root %x", tree.EmptyRoot())
	}
	for _, c := range v.Consistency {
		if err := proof.VerifyConsistency(tree, uint64(c.From), uint64(c.To), hashes(c.ProofHashes), v.Roots[c.From][:], v.Roots[c.To][:]); err != nil {
			t.Errorf("from %d to %d: %v", c.From, c.To, err)
		}
	}
	log, err := note.NewVerifier(v.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	witness, err := fnote.NewVerifierForCosignatureV1(v.WitnessKey)
	if err != nil {
		t.Fatal(err)
	}
	verified := 0
	for _, p := range v.Packages {
		pack, err := receipt.ParsePackage([]byte(p.Text))
		if err != nil {
			continue
		}
		inclusion := &pack.InclusionProof
		head, _, n, err := checkpoints.ParseCheckpoint([]byte(pack.Checkpoint), log.Name(), log, witness)
		if err == nil {
			err = proof.VerifyInclusion(tree, uint64(inclusion.LeafIndex), head.Size, tree.HashLeaf([]byte(pack.Leaf)), hashes(inclusion.ProofHashes), head.Hash)
		}
		// What the package repeats of its own checkpoint and leaf, the libraries do not read.
		repeats := err == nil && inclusion.TreeSize == int64(head.Size) && string(inclusion.RootHash[:]) == string(head.Hash) && string(inclusion.LeafHash[:]) == string(tree.HashLeaf([]byte(pack.Leaf)))
		if repeats != p.Valid {
			t.Errorf("%s: the libraries say %v, %v", p.Name, repeats, err)
			continue
		}
		if !p.Valid {
			continue
		}
		verified++
		var at []string
		for _, sig := range n.Sigs {
			if sig.Name == witness.Name() {
				seen, err := fnote.CoSigV1Timestamp(sig)
				if err != nil {
					t.Errorf("%s: %v", p.Name, err)
				}
				at = append(at, seen.UTC().Format(time.RFC3339))
			}
		}
		if strings.Join(at, " ") != strings.Join(p.Witnessed, " ") {
			t.Errorf("%s: witnessed at %v", p.Name, at)
		}
	}
	if verified < 5 {
		t.Errorf("only %d packages were verified", verified)
	}
}
