package receipt

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
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
	Key Key       // the witness's
	At  time.Time // UTC, in whole seconds
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

// ErrUnsigned is in the error of OpenCheckpoint for a checkpoint that no key of its log has signed, or in
// which a signature of a key that was given is wrong.
var ErrUnsigned = errors.New("the signature is missing or wrong")

// unsigned is an error that is ErrUnsigned and says more.
type unsigned struct{ text string }

func (u unsigned) Error() string        { return u.text }
func (u unsigned) Is(target error) bool { return target == ErrUnsigned }

// ReadCheckpoint returns what a signed checkpoint says. Nothing is verified; see OpenCheckpoint.
func ReadCheckpoint(text string) (Checkpoint, error) {
	body, _, ok := strings.Cut(text, "\n\n")
	if !ok {
		return Checkpoint{}, errNoNote
	}
	return parseCheckpoint(body + "\n")
}

var errNoNote = errors.New("the checkpoint is not a signed note: text, an empty line, and lines that begin with — and a name")

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
		return nil, unsigned{fmt.Sprintf("the checkpoint of %s is signed by none of the keys that were given", origin)}
	case errors.As(err, &wrong):
		return nil, unsigned{fmt.Sprintf("the signature of %s does not fit the checkpoint", wrong.Name)}
	case err != nil:
		return nil, errNoNote
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
		s.Cosignatures = append(s.Cosignatures, Cosignature{k, at})
	}
	if s.Key.Public == nil {
		return nil, unsigned{fmt.Sprintf("none of the keys that signed the checkpoint belongs to its log, %s", c.Origin)}
	}
	return s, nil
}

// Witnesses returns how many witnesses have cosigned the checkpoint. Keys with the same public key count
// once, whatever their names: what a witness signs does not say its name (C2SP tlog-cosignature). The
// key of the log does not count, because it is no other's word.
func (s *Signed) Witnesses() int {
	var counted []Key
	for _, c := range s.Cosignatures {
		same := func(k Key) bool { return k.Public.Equal(c.Key.Public) }
		if !same(s.Key) && !slices.ContainsFunc(counted, same) {
			counted = append(counted, c.Key)
		}
	}
	return len(counted)
}

// Cosigned reports whether a witness's key has cosigned the checkpoint.
func (s *Signed) Cosigned(k Key) bool {
	return slices.ContainsFunc(s.Cosignatures, func(c Cosignature) bool { return c.Key.Name == k.Name && c.Key.Public.Equal(k.Public) })
}

// Sign returns a checkpoint signed by a key of its log.
func Sign(c Checkpoint, key ed25519.PrivateKey) string {
	text := c.String()
	k := Key{Name: c.Origin, Public: key.Public().(ed25519.PublicKey)}
	return text + "\n" + signatureLine(k, ed25519.Sign(key, []byte(text)))
}

// Cosign returns the line with which a witness of a name signs a checkpoint at a time (C2SP
// tlog-cosignature, cosignature/v1): appended to the checkpoint it makes a checkpoint again. Callers must
// have verified the checkpoint, and that the log has only grown since the one before. The time has whole
// seconds. The error says that the name or the checkpoint is none.
func Cosign(checkpoint, name string, key ed25519.PrivateKey, at time.Time) (line string, err error) {
	if _, err := ReadCheckpoint(checkpoint); err != nil {
		return "", fmt.Errorf("only a checkpoint can be cosigned: %w", err)
	}
	text, _, _ := strings.Cut(checkpoint, "\n\n")
	if err := CheckName(name); err != nil {
		return "", err
	}
	sig := binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))
	sig = append(sig, ed25519.Sign(key, cosigned(at, text+"\n"))...)
	return signatureLine(Key{Name: name, Public: key.Public().(ed25519.PublicKey), Witness: true}, sig), nil
}

// signatureLine returns the line of a note that holds a signature by a key.
func signatureLine(k Key, sig []byte) string {
	return "— " + k.Name + " " + base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, k.ID()), sig...)) + "\n"
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
