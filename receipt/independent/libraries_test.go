package independent

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
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
	Cosignatures []struct {
		WitnessSeed string `json:"witness_seed"`
		WitnessKey  string `json:"witness_key"`
		Time        int64
		Checkpoint  string
		Line        string
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

// TestCosignatures checks that package receipt and transparency-dev/formats read each other's cosignatures,
// and write the same ones.
func TestCosignatures(t *testing.T) {
	v := readVectors(t)
	log, err := note.NewVerifier(v.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	logKey, err := receipt.ParseKey(v.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Cosignatures) == 0 {
		t.Fatal("no examples")
	}
	for _, c := range v.Cosignatures {
		theirs, err := fnote.NewVerifierForCosignatureV1(c.WitnessKey)
		if err != nil {
			t.Fatal(err)
		}
		_, _, n, err := checkpoints.ParseCheckpoint([]byte(c.Checkpoint+c.Line), log.Name(), log, theirs)
		if err != nil || len(n.Sigs) != 2 {
			t.Errorf("the library says of the cosignature at %d: %v", c.Time, err)
			continue
		}
		if at, err := fnote.CoSigV1Timestamp(n.Sigs[1]); err != nil || at.Unix() != c.Time {
			t.Errorf("the cosignature at %d has the time %v, %v", c.Time, at, err)
		}

		// The library signs now, with the same key; what it signs is read here.
		seed, err := hex.DecodeString(c.WitnessSeed)
		if err != nil {
			t.Fatal(err)
		}
		key := ed25519.NewKeyFromSeed(seed)
		signer, err := fnote.NewSignerForCosignatureV1(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", theirs.Name(), theirs.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{4}, seed...))))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(n, signer)
		if err != nil {
			t.Fatal(err)
		}
		witness, err := receipt.ParseKey(c.WitnessKey)
		if err != nil {
			t.Fatal(err)
		}
		s, err := receipt.OpenCheckpoint(string(signed), logKey, witness)
		if err != nil || !s.Cosigned(witness) {
			t.Errorf("of the library's cosignature: %+v, %v", s, err)
			continue
		}
		line, err := receipt.Cosign(c.Checkpoint, witness.Name, key, s.Cosignatures[0].At)
		if err != nil || !strings.Contains(string(signed), line) {
			t.Errorf("the library signs %q, and package receipt %q, %v", signed, line, err)
		}
	}
}
