package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// ed25519Note is the type of an Ed25519 signature in a note (C2SP signed-note).
const ed25519Note = 1

// KeyHash returns the number by which the notes of a log name a public key: the first 4 bytes of the
// SHA-256 of the log's origin, a line feed, the signature's type and the key (C2SP signed-note).
func KeyHash(log kapsel.LogID, public ed25519.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(log.Origin()))
	h.Write([]byte{'\n', ed25519Note})
	h.Write(public)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// signer is a note.Signer of a log.
type signer struct {
	log kapsel.LogID
	key ed25519.PrivateKey
}

func (s signer) Name() string { return s.log.Origin() }

func (s signer) KeyHash() uint32 { return KeyHash(s.log, s.key.Public().(ed25519.PublicKey)) }

func (s signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.key, text), nil }

// checkpoint returns the signed head of a log.
func checkpoint(log kapsel.LogID, size int64, root store.Hash, key ed25519.PrivateKey) ([]byte, error) {
	return note.Sign(&note.Note{Text: headText(log, size, root)}, signer{log, key})
}

// headText returns the text of a head, which is what is signed.
func headText(log kapsel.LogID, size int64, root store.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", log.Origin(), size, tlog.Hash(root))
}
