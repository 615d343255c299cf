package audit

import (
	"crypto/ed25519"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// keyOf returns a public key as the key of a log.
func keyOf(log kapsel.LogID, public ed25519.PublicKey) receipt.Key {
	return receipt.Key{Name: log.Origin(), Public: public}
}

// checkpoint returns the signed head of a log.
func checkpoint(log kapsel.LogID, size int64, root store.Hash, key ed25519.PrivateKey) []byte {
	return []byte(receipt.Sign(receipt.Checkpoint{Origin: log.Origin(), Size: size, Root: receipt.Hash(root)}, key))
}

// headText returns the text of a head, which is what is signed.
func headText(log kapsel.LogID, size int64, root store.Hash) string {
	return receipt.Checkpoint{Origin: log.Origin(), Size: size, Root: receipt.Hash(root)}.String()
}
