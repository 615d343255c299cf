package settings

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Keys is a node's copy of the API keys that are not revoked. KeyByHash looks in the store for a key
// that is not in the copy, so it finds one that another node made a moment ago. A key that another
// node revoked is valid here until this node's Cache has read the change.
type Keys struct {
	dir store.Directory

	mu     sync.RWMutex // guards what follows
	byHash map[[32]byte]kapsel.Key
	hashes map[kapsel.KeyID][32]byte

	// The keys and tenants that ended in the last deletedKept, and when this node learned of it, by the
	// monotonic clock. They keep an older answer of the store from bringing a key back.
	revoked map[kapsel.KeyID]time.Time
	deleted map[kapsel.TenantID]time.Time
}

// NewKeys returns an empty copy. Callers must pass Changed to Cache.OnChange.
func NewKeys(dir store.Directory) *Keys {
	return &Keys{
		dir: dir, byHash: map[[32]byte]kapsel.Key{}, hashes: map[kapsel.KeyID][32]byte{},
		revoked: map[kapsel.KeyID]time.Time{}, deleted: map[kapsel.TenantID]time.Time{},
	}
}

// Changed removes the keys that were revoked, and those of tenants that were deleted. A revoked key in s
// needs no fields but ID and RevokedAt.
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

// keep puts a key that the store returned as valid into the copy, unless the key has ended since, and
// reports whether it did. Callers must hold mu.
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

// drop removes a key from the copy. Callers must hold mu.
func (k *Keys) drop(id kapsel.KeyID) {
	delete(k.byHash, k.hashes[id])
	delete(k.hashes, id)
}

// KeyByHash implements Directory.KeyByHash. It returns a key that ends while the store is asked as
// revoked.
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

// TouchKeys implements Directory.TouchKeys.
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
