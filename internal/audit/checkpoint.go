package audit

import (
	"crypto/ed25519"

	"golang.org/x/mod/sumdb/note"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// keyOf returns a public key as the key of a log.
func keyOf(log kapsel.LogID, public ed25519.PublicKey) receipt.Key {
	return receipt.Key{Name: log.Origin(), Public: public}
}

// signer is a note.Signer of a log.
type signer struct {
	log kapsel.LogID
	key ed25519.PrivateKey
}

func (s signer) Name() string { return s.log.Origin() }

func (s signer) KeyHash() uint32 { return keyOf(s.log, s.key.Public().(ed25519.PublicKey)).ID() }

func (s signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.key, text), nil }

// checkpoint returns the signed head of a log.
func checkpoint(log kapsel.LogID, size int64, root store.Hash, key ed25519.PrivateKey) ([]byte, error) {
	return note.Sign(&note.Note{Text: headText(log, size, root)}, signer{log, key})
}

// headText returns the text of a head, which is what is signed.
func headText(log kapsel.LogID, size int64, root store.Hash) string {
	return receipt.Checkpoint{Origin: log.Origin(), Size: size, Root: receipt.Hash(root)}.String()
}
