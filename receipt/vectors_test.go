package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "write testdata/vectors.json")

// vectors are examples for other implementations, made with keys that never change. What they say of a
// package, every implementation must say.
type vectors struct {
	About       string             `json:"about"`
	LogKey      string             `json:"log_key"`        // vkey
	PublicKey   string             `json:"log_public_key"` // the same, without a name
	OtherKey    string             `json:"other_key"`      // of the same log name; has signed nothing
	WitnessKey  string             `json:"witness_key"`
	Commitments []commitmentVector `json:"commitments"`
	Leaves      []leafVector       `json:"leaves"` // of the log, in order
	NoLeaves    []string           `json:"no_leaves"`
	Roots       []Hash             `json:"roots"` // of the log's first 0, 1, 2 … leaves
	Consistency []ConsistencyProof `json:"consistency"`
	Packages    []packageVector    `json:"packages"`
	// Cosignatures are what witnesses add to a checkpoint. Ed25519 is deterministic, so an
	// implementation that signs must make the same lines.
	Cosignatures []cosignatureVector `json:"cosignatures"`
}

type cosignatureVector struct {
	WitnessSeed string `json:"witness_seed"` // Ed25519, hexadecimal
	WitnessKey  string `json:"witness_key"`
	Time        int64  `json:"time"`    // seconds since the Unix epoch
	Message     string `json:"message"` // that is signed
	Checkpoint  string `json:"checkpoint"`
	Line        string `json:"line"`
}

type commitmentVector struct {
	Salt       Salt   `json:"salt"`
	Label      string `json:"label"`
	Value      string `json:"value"`
	Commitment string `json:"commitment"`
}

type leafVector struct {
	Text string `json:"text"`
	Hash Hash   `json:"hash"`
}

type packageVector struct {
	Name      string   `json:"name"`
	Text      string   `json:"text"`      // JSON, or a C2SP tlog-proof
	Valid     bool     `json:"valid"`     // with log_key and witness_key
	Witnessed []string `json:"witnessed"` // the times of cosignatures by witness_key
	Payload   *string  `json:"payload"`   // that fits; null: the package has no salt or is not valid
}

// exampleLog is a log with deterministic keys.
type exampleLog struct {
	origin     string
	key, other ed25519.PrivateKey
	witness    ed25519.PrivateKey
	leaves     []string
	salts      []*Salt // of each leaf's event
	payloads   []string
	stored     []tlog.Hash
}

const witnessName = "witness.example/w1"

// cosigned at this time.
var witnessTime = time.Date(2024, 11, 29, 11, 0, 30, 0, time.UTC)

func seed(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytesOf(b)) }

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// newExampleLog returns a log with n leaves: the first says which key signs, the last but one that the
// event of the second was erased.
func newExampleLog(t testing.TB, n int) *exampleLog {
	l := &exampleLog{origin: "kapsel/000102030405060708090a0b0c0d0e0f", key: seed(1), other: seed(2), witness: seed(3)}
	for i := range n {
		var leaf Leaf
		var salt *Salt
		payload := fmt.Sprintf(`{"number":%d}`, i)
		at := int64(1732878000000 + 1000*i)
		attempt := &Attempt{AttemptID: id("att_", i), DeliveryID: id("dlv_", i), EventID: id("evt_", i), EndpointID: id("ep_", 0), Number: 1 + i%3, AttemptedAtMS: at, EndedAtMS: at + 50}
		switch {
		case i == 0:
			leaf = &KeyChange{ChangedAtMS: at, PublicKey: public(l.key)}
		case i > 1 && i == n-2:
			leaf = &Erased{EventID: id("evt_", 1), AttemptIDs: []string{id("att_", 1)}, ErasedAtMS: at}
		case i%4 == 1: // of an event that is older than the log
			attempt.ErrorCode = "E2002"
			leaf = attempt
		default:
			salt = (*Salt)(bytesOf(byte(i)))
			attempt.StatusCode = 200
			if i%4 == 2 {
				attempt.StatusCode, attempt.ErrorCode = 503, "E2004"
			}
			for part, value := range map[*[]byte][2]string{
				&attempt.URL:      {URLLabel(attempt.AttemptID), "https://example.com/hook"},
				&attempt.Payload:  {PayloadLabel, payload},
				&attempt.Request:  {RequestLabel(attempt.AttemptID), payload},
				&attempt.Response: {ResponseLabel(attempt.AttemptID), "ok"},
			} {
				sum := Commitment(salt[:], value[0], []byte(value[1]))
				*part = sum[:]
			}
			leaf = attempt
		}
		l.leaves, l.salts, l.payloads = append(l.leaves, string(leaf.Append(nil))), append(l.salts, salt), append(l.payloads, payload)
		more, err := tlog.StoredHashes(int64(i), []byte(l.leaves[i]), tlog.HashReaderFunc(l.read))
		if err != nil {
			t.Fatal(err)
		}
		l.stored = append(l.stored, more...)
	}
	return l
}

// id returns an id of the examples.
func id(prefix string, i int) string { return fmt.Sprintf("%s01jdxqk4v8e0ht6zq3m9w2%04d", prefix, i) }

func (l *exampleLog) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = l.stored[at]
	}
	return out, nil
}

func (l *exampleLog) root(t testing.TB, n int64) Hash {
	root, err := tlog.TreeHash(n, tlog.HashReaderFunc(l.read))
	if err != nil {
		t.Fatal(err)
	}
	return Hash(root)
}

func (l *exampleLog) inclusion(t testing.TB, n, i int64) InclusionProof {
	proof, err := tlog.ProveRecord(n, i, tlog.HashReaderFunc(l.read))
	if err != nil {
		t.Fatal(err)
	}
	return InclusionProof{LeafHash: LeafHash([]byte(l.leaves[i])), LeafIndex: i, TreeSize: n, ProofHashes: ourHashes(proof), RootHash: l.root(t, n)}
}

func (l *exampleLog) consistency(t testing.TB, from, to int64) ConsistencyProof {
	p := ConsistencyProof{From: from, To: to, ProofHashes: []Hash{}}
	if from > 0 {
		proof, err := tlog.ProveTree(to, from, tlog.HashReaderFunc(l.read))
		if err != nil {
			t.Fatal(err)
		}
		p.ProofHashes = ourHashes(proof)
	}
	return p
}

func ourHashes(proof []tlog.Hash) []Hash {
	all := make([]Hash, len(proof))
	for i, h := range proof {
		all[i] = Hash(h)
	}
	return all
}

// checkpoint returns a signed checkpoint with some more signature lines.
func (l *exampleLog) checkpoint(t testing.TB, n int64, lines ...string) string {
	return Sign(Checkpoint{l.origin, n, l.root(t, n)}, l.key) + strings.Join(lines, "")
}

// cosignature returns the witness's line for a checkpoint of a size.
func (l *exampleLog) cosignature(t testing.TB, n int64) string {
	line, err := Cosign(l.checkpoint(t, n), witnessName, l.witness, witnessTime)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func (l *exampleLog) logKey() Key { return Key{Name: l.origin, Public: public(l.key)} }
func (l *exampleLog) witnessKey() Key {
	return Key{Name: witnessName, Public: public(l.witness), Witness: true}
}

func (l *exampleLog) pack(t testing.TB, n, i int64, lines ...string) *Package {
	return &Package{Leaf: l.leaves[i], Opening: Opening{l.salts[i]}, InclusionProof: l.inclusion(t, n, i), Checkpoint: l.checkpoint(t, n, lines...)}
}

// TestVectors makes the vectors, which must be those of testdata, and checks them.
func TestVectors(t *testing.T) {
	want := makeVectors(t)
	text, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(bytes.ReplaceAll(text, []byte(`\u003c`), []byte("<")), '\n')
	const file = "testdata/vectors.json"
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, text) {
		t.Fatalf("%s is not what is made today; vectors that were published must never change", file)
	}

	var v vectors
	if err := json.Unmarshal(stored, &v); err != nil {
		t.Fatal(err)
	}
	key, witness := parseKey(t, v.LogKey), parseKey(t, v.WitnessKey)
	for _, c := range v.Commitments {
		if sum := Commitment(c.Salt[:], c.Label, []byte(c.Value)); hex.EncodeToString(sum[:]) != c.Commitment {
			t.Errorf("the commitment %s to %q is %x", c.Commitment, c.Value, sum)
		}
	}
	for _, l := range v.Leaves {
		if !parses(l.Text) || LeafHash([]byte(l.Text)) != l.Hash {
			t.Errorf("%s does not have the hash %s, or is no leaf", l.Text, l.Hash)
		}
	}
	for _, text := range v.NoLeaves {
		if parses(text) {
			t.Errorf("%s is a leaf", text)
		}
	}
	for _, c := range v.Consistency {
		if err := c.Check(v.Roots[c.From], v.Roots[c.To]); err != nil {
			t.Errorf("from %d to %d: %v", c.From, c.To, err)
		}
	}
	for _, c := range v.Cosignatures {
		by := parseKey(t, c.WitnessKey)
		s, err := OpenCheckpoint(c.Checkpoint+c.Line, key, by)
		if err != nil || !s.Cosigned(by) || s.Cosignatures[0].At.Unix() != c.Time || s.Witnesses() != 1 {
			t.Errorf("the cosignature at %d: %+v, %v", c.Time, s, err)
		}
	}
	for _, p := range v.Packages {
		proven, err := verify(p.Text, key, witness)
		if _, other := verify(p.Text, parseKey(t, v.OtherKey)); other == nil {
			t.Errorf("%s: valid with a key that has not signed", p.Name)
		}
		if err != nil {
			if p.Valid {
				t.Errorf("%s: %v", p.Name, err)
			}
			continue
		}
		var times []string
		for _, c := range proven.Signed.Cosignatures {
			times = append(times, c.At.Format(time.RFC3339))
		}
		if fits := p.Payload != nil && proven.Compare(Payload, []byte(*p.Payload)) == nil; !p.Valid || fits != (p.Payload != nil) || fmt.Sprint(times) != fmt.Sprint(p.Witnessed) {
			t.Errorf("%s: valid %v, payload fits %v, witnessed %v", p.Name, p.Valid, fits, times)
		}
	}
}

// verify parses and verifies a package.
func verify(text string, keys ...Key) (*Proven, error) {
	p, err := ParsePackage([]byte(text))
	if err != nil {
		return nil, err
	}
	return p.Verify(keys...)
}

func parseKey(t testing.TB, text string) Key {
	k, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func makeVectors(t *testing.T) vectors {
	const n = 21
	l := newExampleLog(t, n)
	v := vectors{
		About:     "Examples of Kapsel's audit log; docs/audit.md describes the forms. The secret keys of log, other and witness are the Ed25519 seeds of 32 bytes 1, 2 and 3.",
		LogKey:    l.logKey().String(),
		PublicKey: Key{Public: public(l.key)}.String(),
		OtherKey:  Key{Name: l.origin, Public: public(l.other)}.String(), WitnessKey: l.witnessKey().String(),
	}
	salt := Salt(bytesOf(0x11))
	for _, c := range [][2]string{{PayloadLabel, `{"hello":"kapsel"}`}, {PayloadLabel, ""}, {URLLabel(attemptID), "https://example.com/hook"}, {RequestLabel(attemptID), "grüße"}, {ResponseLabel(attemptID), "ok"}} {
		sum := Commitment(salt[:], c[0], []byte(c[1]))
		v.Commitments = append(v.Commitments, commitmentVector{salt, c[0], c[1], hex.EncodeToString(sum[:])})
	}
	v.Roots = append(v.Roots, emptyRoot)
	for i, text := range l.leaves {
		v.Leaves = append(v.Leaves, leafVector{text, LeafHash([]byte(text))})
		v.Roots = append(v.Roots, l.root(t, int64(i+1)))
	}
	leaf := l.leaves[3]
	v.NoLeaves = []string{leaf + " ", leaf[:len(leaf)-1], strings.Replace(leaf, `,"type"`, `, "type"`, 1), strings.Replace(leaf, `"v":1`, `"v":2`, 1), strings.Replace(leaf, `"status_code":200`, `"status_code":200.0`, 1), strings.Replace(leaf, `}`, `,"more":1}`, 1)}
	for _, c := range [][2]int64{{0, 5}, {1, 1}, {1, 2}, {3, 7}, {4, 8}, {8, 21}, {20, 21}, {21, 21}} {
		v.Consistency = append(v.Consistency, l.consistency(t, c[0], c[1]))
	}

	unknown := signatureLine(Key{Name: "other.example", Public: public(l.other)}, make([]byte, 70))
	add := func(name, text string, valid bool, leaf int64, witnessed ...string) {
		p := packageVector{Name: name, Text: text, Valid: valid, Witnessed: witnessed}
		if valid && l.salts[leaf] != nil {
			p.Payload = &l.payloads[leaf]
		}
		v.Packages = append(v.Packages, p)
	}
	for _, i := range []int64{0, 1, 3, 6, 19, 20} {
		add(fmt.Sprintf("leaf %d of %d", i, n), asJSON(t, l.pack(t, n, i)), true, i)
	}
	add("a log of one leaf", asJSON(t, l.pack(t, 1, 0)), true, 0)
	add("with a witness and an unknown signature", asJSON(t, l.pack(t, n, 3, unknown, l.cosignature(t, n))), true, 3, witnessTime.Format(time.RFC3339))
	add("as a tlog-proof", l.pack(t, n, 3, l.cosignature(t, n)).Text(), true, 3, witnessTime.Format(time.RFC3339))
	add("a tlog-proof without a salt", l.pack(t, n, 1).Text(), true, 1)

	change := func(name string, f func(p *Package)) {
		p := l.pack(t, n, 3)
		f(p)
		add(name, asJSON(t, p), false, 3)
	}
	change("the leaf says another status", func(p *Package) { p.Leaf = strings.Replace(p.Leaf, ":200,", ":201,", 1) })
	change("the leaf and its hash were changed", func(p *Package) {
		p.Leaf = strings.Replace(p.Leaf, ":200,", ":201,", 1)
		p.InclusionProof.LeafHash = LeafHash([]byte(p.Leaf))
	})
	change("another index", func(p *Package) { p.InclusionProof.LeafIndex++ })
	change("an index that is not in the log", func(p *Package) { p.InclusionProof.LeafIndex = n })
	change("another tree size", func(p *Package) { p.InclusionProof.TreeSize-- })
	change("a bit of a hash", func(p *Package) { p.InclusionProof.ProofHashes[0][31] ^= 1 })
	change("two hashes in the other order", func(p *Package) {
		h := p.InclusionProof.ProofHashes
		h[0], h[1] = h[1], h[0]
	})
	change("a hash too few", func(p *Package) { p.InclusionProof.ProofHashes = p.InclusionProof.ProofHashes[1:] })
	change("a hash too many", func(p *Package) { p.InclusionProof.ProofHashes = append(p.InclusionProof.ProofHashes, Hash{}) })
	change("another root", func(p *Package) { p.InclusionProof.RootHash[0] ^= 1 })
	change("another checkpoint of the log", func(p *Package) { p.Checkpoint = l.checkpoint(t, n-1) })
	change("another size in the checkpoint", func(p *Package) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n21\n", "\n22\n", 1) })
	change("a checkpoint without its log's signature", func(p *Package) {
		body, _, _ := strings.Cut(p.Checkpoint, "— ")
		p.Checkpoint = body + l.cosignature(t, n)
	})
	change("a cosignature of another head", func(p *Package) { p.Checkpoint += l.cosignature(t, n-1) })
	good := asJSON(t, l.pack(t, n, 3))
	add("a member twice", strings.Replace(good, `{"leaf":`, `{"leaf":"{}","leaf":`, 1), false, 3)
	add("a member in upper case", strings.Replace(good, `{"leaf":`, `{"LEAF":`, 1), false, 3)
	add("no opening", strings.Replace(good, `"opening"`, `"closing"`, 1), false, 3)
	add("more behind the object", good+"{}", false, 3)
	add("cut off", good[:len(good)-1], false, 3)

	for i, size := range []int64{1, 16, 21} {
		at, name, key := witnessTime.Add(time.Duration(i)*time.Hour), witnessName, l.witness
		if i == 1 {
			name, key = "zeuge.example/münchen", seed(4)
		}
		text := l.checkpoint(t, size)
		line, err := Cosign(text, name, key, at)
		if err != nil {
			t.Fatal(err)
		}
		body, _, _ := strings.Cut(text, "\n\n")
		v.Cosignatures = append(v.Cosignatures, cosignatureVector{
			hex.EncodeToString(key.Seed()), Key{Name: name, Public: public(key), Witness: true}.String(), at.Unix(), string(cosigned(at, body+"\n")), text, line,
		})
	}
	return v
}

func asJSON(t testing.TB, p *Package) string {
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
