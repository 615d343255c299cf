package receipt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxPackage is more than any package has, in bytes: a leaf has less than 40 KiB, a proof at most 63
// hashes, and a note is at most 1 MB.
const maxPackage = 2 << 20

// Package is a proof package: all that is needed to verify one leaf without asking anybody, but the
// keys. Its JSON is what GET /v1/attempts/{id}/proof answers.
type Package struct {
	Leaf           string         `json:"leaf"` // the exact text that was hashed
	Opening        Opening        `json:"opening"`
	InclusionProof InclusionProof `json:"inclusion_proof"`
	Checkpoint     string         `json:"checkpoint"` // signed, of the proof's tree size
}

// Opening lets a reader check commitments.
type Opening struct {
	Salt *Salt `json:"salt"` // nil: it was erased, or the event is older than the log
}

// ParsePackage returns the package of a text: the JSON of a Package or a C2SP tlog-proof that Text
// made. Nothing is verified yet.
func ParsePackage(text []byte) (*Package, error) {
	switch {
	case len(text) > maxPackage:
		return nil, fmt.Errorf("a proof package has at most %d bytes", maxPackage)
	case bytes.HasPrefix(text, []byte(proofHeader)):
		return parseText(string(text))
	}
	p := &Package{}
	if err := p.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("this is not a proof package: %w", err)
	}
	return p, nil
}

// proofHeader begins a C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1\n"

// Text returns the package as a C2SP tlog-proof. Its extra line holds the base64 of a JSON object with
// the package's leaf and opening.
func (p *Package) Text() string {
	extra, err := json.Marshal(struct {
		Leaf    string  `json:"leaf"`
		Opening Opening `json:"opening"`
	}{p.Leaf, p.Opening})
	if err != nil {
		panic(err) // strings and hexadecimal digits are always JSON
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%sextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(extra), p.InclusionProof.LeafIndex)
	for _, h := range p.InclusionProof.ProofHashes {
		b.WriteString(h.String() + "\n")
	}
	return b.String() + "\n" + p.Checkpoint
}

// parseText reads what Text returns. The tree's size and root are the checkpoint's.
func parseText(text string) (*Package, error) {
	if !utf8.ValidString(text) { // the package's JSON could not hold it
		return nil, errors.New("this tlog-proof is not UTF-8")
	}
	head, checkpoint, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimPrefix(head, proofHeader), "\n")
	if !ok || len(lines) < 2 {
		return nil, errors.New("this tlog-proof is cut off: it needs lines with extra and index, an empty line and a checkpoint")
	}
	encoded, ok := strings.CutPrefix(lines[0], "extra ")
	extra, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil {
		return nil, errors.New("this tlog-proof has no extra line in base64, which holds Kapsel's leaf")
	}
	p := &Package{Checkpoint: checkpoint, InclusionProof: InclusionProof{ProofHashes: []Hash{}}}
	if err := object(extra, member{"leaf", &p.Leaf}, member{"opening", &p.Opening}); err != nil {
		return nil, fmt.Errorf("the extra line of this tlog-proof holds no leaf of Kapsel: %w", err)
	}
	number, ok := strings.CutPrefix(lines[1], "index ")
	index, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil || strconv.FormatUint(index, 10) != number {
		return nil, errors.New("this tlog-proof has no index line with a decimal number")
	}
	for _, line := range lines[2:] {
		var h Hash
		if err := h.UnmarshalText([]byte(line)); err != nil {
			return nil, fmt.Errorf("this tlog-proof has a line in its proof that is none: %w", err)
		}
		p.InclusionProof.ProofHashes = append(p.InclusionProof.ProofHashes, h)
	}
	c, err := ReadCheckpoint(checkpoint)
	if err != nil {
		return nil, err
	}
	p.InclusionProof.LeafHash, p.InclusionProof.LeafIndex = LeafHash([]byte(p.Leaf)), int64(index)
	p.InclusionProof.TreeSize, p.InclusionProof.RootHash = c.Size, c.Root
	return p, nil
}

// member is a member of an object that must be there, and where its value goes.
type member struct {
	name string
	to   any
}

// UnmarshalJSON reads a package. It refuses members that are missing or come twice, or whose names are
// in another case.
func (p *Package) UnmarshalJSON(b []byte) error {
	return object(b, member{"leaf", &p.Leaf}, member{"opening", &p.Opening}, member{"inclusion_proof", &p.InclusionProof}, member{"checkpoint", &p.Checkpoint})
}

// UnmarshalJSON reads an opening as strictly as a package.
func (o *Opening) UnmarshalJSON(b []byte) error { return object(b, member{"salt", &o.Salt}) }

// UnmarshalJSON reads a proof as strictly as a package.
func (p *InclusionProof) UnmarshalJSON(b []byte) error {
	return object(b, member{"leaf_hash", &p.LeafHash}, member{"leaf_index", &p.LeafIndex}, member{"tree_size", &p.TreeSize}, member{"proof_hashes", &p.ProofHashes}, member{"root_hash", &p.RootHash})
}

// object reads a JSON object that has each of some members exactly once. Others are ignored. Package
// json alone would take members in any case, and the last of two: another program would then read
// another leaf in the same package.
func object(text []byte, members ...member) error {
	if !utf8.Valid(text) { // package json would replace what is not, silently
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return errors.New("it is not JSON")
		}
		name := token.(string) // package json returns nothing else where a name must be
		if seen[name] {
			return fmt.Errorf("it has the member %q twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return errors.New("it is not JSON")
		}
		for _, m := range members {
			if m.name != name {
				continue
			}
			if err := json.Unmarshal(value, m.to); err != nil || string(value) == "null" && name != "salt" {
				return fmt.Errorf("its member %q does not have the form that it must have", name)
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("it is not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows behind the JSON object")
	}
	for _, m := range members {
		if !seen[m.name] {
			return fmt.Errorf("it has no member %q", m.name)
		}
	}
	return nil
}
