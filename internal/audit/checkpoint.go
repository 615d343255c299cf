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

// keysOf returns the keys of an instance as keys of a log.
func keysOf(log kapsel.LogID, keys []Key) []receipt.Key {
	all := make([]receipt.Key, len(keys))
	for i := range keys {
		all[i] = keyOf(log, keys[i].Public)
	}
	return all
}

// checkpoint returns the signed head of a log.
func checkpoint(log kapsel.LogID, size int64, root store.Hash, key ed25519.PrivateKey) []byte {
	return []byte(receipt.Sign(headOf(log, size, root), key))
}

// headOf returns the head of a log. Its String is what is signed.
func headOf(log kapsel.LogID, size int64, root store.Hash) receipt.Checkpoint {
	return receipt.Checkpoint{Origin: log.Origin(), Size: size, Root: receipt.Hash(root)}
}
