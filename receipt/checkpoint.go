package receipt

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is the head of a log: its size and root hash (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string // the log's name
	Size   int64
	Root   Hash
}

// String returns the text that is signed. Each line has a line end.
func (c Checkpoint) String() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// Cosignature is a witness's word that it saw a checkpoint, and that the log had only grown since
// the checkpoint that it had seen before.
type Cosignature struct {
	Witness string
	At      time.Time // UTC, in whole seconds
}

// Signed is a checkpoint with what has been verified of its signatures.
type Signed struct {
	Checkpoint
	Key          Key // that signed for the log
	Cosignatures []Cosignature
	// Unknown is how many signature lines belong to none of the keys that were given. They show
	// nothing.
	Unknown int
}

// OpenCheckpoint verifies a signed checkpoint. One of the keys must be the log's and must have signed.
// The cosignatures of those keys that are witnesses' are verified, and are not required. A signature
// line of any other key is accepted and counted, as the note format demands; a wrong signature of a
// key that was given is an error.
func OpenCheckpoint(text string, keys ...Key) (*Signed, error) {
	origin, _, _ := strings.Cut(text, "\n")
	known := make([]note.Verifier, 0, len(keys))
	for _, k := range keys {
		if k.Name == "" {
			k.Name = origin
		}
		v := verifier{k, k.ID()}
		if !slices.Contains(ids(known), idOf(v)) { // package note refuses a key that it is given twice
			known = append(known, v)
		}
	}
	n, err := note.Open([]byte(text), note.VerifierList(known...))
	var none *note.UnverifiedNoteError
	var wrong *note.InvalidSignatureError
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("the checkpoint of %s is signed by none of the keys that were given", origin)
	case errors.As(err, &wrong):
		return nil, fmt.Errorf("the signature of %s does not fit the checkpoint", wrong.Name)
	case err != nil:
		return nil, errors.New("the checkpoint is not a signed note: text, an empty line, and lines that begin with — and a name")
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	s := &Signed{Checkpoint: c, Unknown: len(n.UnverifiedSigs)}
	for _, sig := range n.Sigs {
		i := slices.Index(ids(known), signerID{sig.Name, sig.Hash})
		k := known[i].(verifier).key
		if !k.Witness {
			if k.Name == c.Origin {
				s.Key = k
			}
			continue
		}
		raw, _ := base64.StdEncoding.DecodeString(sig.Base64) // note.Open has decoded it before
		at, _ := cosignedAt(raw[4:])
		s.Cosignatures = append(s.Cosignatures, Cosignature{k.Name, at})
	}
	if s.Key.Public == nil {
		return nil, fmt.Errorf("none of the keys that signed the checkpoint belongs to its log, %s", c.Origin)
	}
	return s, nil
}

// signerID is how signature lines name a key.
type signerID struct {
	name string
	id   uint32
}

func idOf(v note.Verifier) signerID { return signerID{v.Name(), v.KeyHash()} }

func ids(verifiers []note.Verifier) []signerID {
	all := make([]signerID, len(verifiers))
	for i, v := range verifiers {
		all[i] = idOf(v)
	}
	return all
}

// parseCheckpoint returns the checkpoint of a note's text. Lines behind the third are extensions,
// which a reader that does not know them ignores.
func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 || slices.Contains(lines, "") {
		return c, errors.New("the checkpoint does not have three lines: origin, size and root hash")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return c, errors.New("the checkpoint's second line is not the size of the log in decimal")
	}
	c = Checkpoint{Origin: lines[0], Size: int64(size)}
	if err := c.Root.UnmarshalText([]byte(lines[2])); err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's third line is not a root hash: %w", err)
	}
	return c, nil
}
