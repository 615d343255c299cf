package settings

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Keys is a node's copy of the API keys that are not revoked. A key that is not in the copy is
// looked for in the store, so a key made a moment ago on another node is found; a key revoked
// there is obeyed when the node's Cache has read the change.
type Keys struct {
	dir store.Directory

	mu     sync.RWMutex // guards what follows
	byHash map[[32]byte]kapsel.Key
	hashes map[kapsel.KeyID][32]byte

	// What ended in the last deletedKept, and when this node learned of it, by the monotonic clock.
	// An answer of the store that was read before does not bring a key back.
	revoked map[kapsel.KeyID]time.Time
	deleted map[kapsel.TenantID]time.Time
}

// NewKeys makes a copy that has no keys. Changed must be told of every change of settings.
func NewKeys(dir store.Directory) *Keys {
	return &Keys{
		dir: dir, byHash: map[[32]byte]kapsel.Key{}, hashes: map[kapsel.KeyID][32]byte{},
		revoked: map[kapsel.KeyID]time.Time{}, deleted: map[kapsel.TenantID]time.Time{},
	}
}

// Changed takes over what changed; it is for Cache.OnChange. Of a revoked key the ID and RevokedAt
// are enough. The keys of a deleted tenant are revoked with it.
func (k *Keys) Changed(s store.Settings) {
	gone := s.Deleted().Tenants
	if len(s.Keys)+len(gone) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	over := func(at time.Time) bool { return now.Sub(at) >= deletedKept }
	maps.DeleteFunc(k.revoked, func(_ kapsel.KeyID, at time.Time) bool { return over(at) })
	maps.DeleteFunc(k.deleted, func(_ kapsel.TenantID, at time.Time) bool { return over(at) })
	for _, id := range gone {
		k.deleted[id] = now
		for _, key := range k.byHash {
			if key.TenantID == id {
				k.drop(key.ID)
			}
		}
	}
	for _, key := range s.Keys {
		if key.RevokedAt.IsZero() {
			k.keep(key)
		} else {
			k.revoked[key.ID] = now
			k.drop(key.ID)
		}
	}
}

// keep puts a key that the store has as valid into the copy, unless it has ended since, and reports
// whether it did. The caller must hold mu.
func (k *Keys) keep(key kapsel.Key) bool {
	if _, revoked := k.revoked[key.ID]; revoked {
		return false
	}
	if _, deleted := k.deleted[key.TenantID]; deleted {
		return false
	}
	k.byHash[key.Hash], k.hashes[key.ID] = key, key.Hash
	return true
}

// drop takes a key out of the copy. The caller must hold mu.
func (k *Keys) drop(id kapsel.KeyID) {
	delete(k.byHash, k.hashes[id])
	delete(k.hashes, id)
}

// KeyByHash finds a key as Directory.KeyByHash does. A key that ends while the store is asked is
// returned as revoked.
func (k *Keys) KeyByHash(ctx context.Context, hash [32]byte) (kapsel.Key, error) {
	k.mu.RLock()
	key, ok := k.byHash[hash]
	k.mu.RUnlock()
	if ok {
		return key, nil
	}
	key, err := k.dir.KeyByHash(ctx, hash)
	if err != nil || !key.RevokedAt.IsZero() {
		return key, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.keep(key) {
		key.RevokedAt = time.Now()
	}
	return key, nil
}

// TouchKeys records when keys were used as Directory.TouchKeys does.
func (k *Keys) TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error {
	if err := k.dir.TouchKeys(ctx, used); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, at := range used {
		hash, ok := k.hashes[id]
		if key := k.byHash[hash]; ok && key.LastUsedAt.Before(at) {
			key.LastUsedAt = at
			k.byHash[hash] = key
		}
	}
	return nil
}
