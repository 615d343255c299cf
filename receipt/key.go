package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// Kinds of keys, as C2SP signed-note and tlog-cosignature number them. The number goes into the key's
// ID.
const (
	logKey     = 1
	witnessKey = 4
)

// Key is a public key of a log or of a witness. Get it from its owner, not from who hands out a
// package: a proof is worth as much as the way in which the key came.
type Key struct {
	// Name is the name of the log (its origin, such as kapsel/ and 32 hexadecimal digits) or of the
	// witness. A log's key without a name stands for all logs of one Kapsel, which have one key.
	Name    string
	Public  ed25519.PublicKey
	Witness bool // the key is a witness's, which makes cosignatures
}

// ParseKey returns the key of a text: a C2SP vkey of type Ed25519 (NAME+ID+BASE64), of a log or of a
// witness; or the 32 bytes of a log's public key alone, in base64.
func ParseKey(text string) (Key, error) {
	if raw, err := base64.StdEncoding.Strict().DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
		return Key{Public: raw}, nil
	}
	name, rest, _ := strings.Cut(text, "+")
	id, material, ok := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(material)
	if !ok || err != nil || len(raw) == 0 || CheckName(name) != nil {
		return Key{}, errors.New("a key is the base64 of 32 bytes, or NAME+ID+BASE64 (a C2SP vkey)")
	}
	k := Key{Name: name, Public: raw[1:], Witness: raw[0] == witnessKey}
	switch {
	case raw[0] != logKey && raw[0] != witnessKey:
		return Key{}, fmt.Errorf("the key of %s is of type %d; only Ed25519 can be verified: type 1 (a log's) or 4 (a witness's)", name, raw[0])
	case len(k.Public) != ed25519.PublicKeySize:
		return Key{}, fmt.Errorf("the key of %s has %d bytes instead of %d", name, len(k.Public), ed25519.PublicKeySize)
	case id != fmt.Sprintf("%08x", k.ID()):
		return Key{}, fmt.Errorf("the id %s in the key of %s does not belong to its bytes: is a character missing?", id, name)
	}
	return k, nil
}

// CheckName returns an error if a log or a witness cannot have a name: it must be UTF-8 without spaces and
// plus signs, and not empty (C2SP signed-note).
func CheckName(name string) error {
	if name == "" || !utf8.ValidString(name) || strings.ContainsRune(name, '+') || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("%q is no name of a log or a witness: it must not be empty, and have no spaces and no plus signs", name)
	}
	return nil
}

// String returns the key as a vkey; without a name as base64.
func (k Key) String() string {
	if k.Name == "" {
		return base64.StdEncoding.EncodeToString(k.Public)
	}
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.ID(), base64.StdEncoding.EncodeToString(append([]byte{k.kind()}, k.Public...)))
}

// ID returns what signature lines call the key by beside its name: four bytes of the SHA-256 of name,
// kind and key (C2SP signed-note).
func (k Key) ID() uint32 {
	sum := sha256.Sum256(append([]byte(k.Name+"\n"), append([]byte{k.kind()}, k.Public...)...))
	return binary.BigEndian.Uint32(sum[:])
}

func (k Key) kind() byte {
	if k.Witness {
		return witnessKey
	}
	return logKey
}

// verifier lets package note check signatures with the key.
type verifier struct {
	key Key
	id  uint32
}

var _ note.Verifier = verifier{}

func (v verifier) Name() string    { return v.key.Name }
func (v verifier) KeyHash() uint32 { return v.id }

// Verify reports whether sig is the key's signature of a note's text.
func (v verifier) Verify(text, sig []byte) bool {
	if !v.key.Witness {
		return ed25519.Verify(v.key.Public, text, sig)
	}
	at, ok := cosignedAt(sig)
	return ok && ed25519.Verify(v.key.Public, cosigned(at, string(text)), sig[8:])
}

// cosigned returns what a witness signs to say that it has seen a checkpoint at a time.
func cosigned(at time.Time, checkpoint string) []byte {
	return []byte("cosignature/v1\ntime " + strconv.FormatInt(at.Unix(), 10) + "\n" + checkpoint)
}

// cosignedAt returns the time of a cosignature; false if it is none.
func cosignedAt(sig []byte) (time.Time, bool) {
	if len(sig) != 8+ed25519.SignatureSize || sig[0] > 0x7f {
		return time.Time{}, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(sig)), 0).UTC(), true
}
