package settings

import (
	"context"
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

	mu      sync.RWMutex // guards what follows
	byHash  map[[32]byte]kapsel.Key
	hashes  map[kapsel.KeyID][32]byte
	changes int // how often keys were changed
}

// NewKeys makes a copy that has no keys. Changed must be told of every change of settings.
func NewKeys(dir store.Directory) *Keys {
	return &Keys{dir: dir, byHash: map[[32]byte]kapsel.Key{}, hashes: map[kapsel.KeyID][32]byte{}}
}

// Changed takes over what changed; it is for Cache.OnChange.
func (k *Keys) Changed(s store.Settings) {
	if len(s.Keys) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	for _, key := range s.Keys {
		k.keep(key)
	}
}

// keep takes over a version of a key. It holds mu.
func (k *Keys) keep(key kapsel.Key) {
	if !key.RevokedAt.IsZero() {
		delete(k.byHash, key.Hash)
		delete(k.hashes, key.ID)
		return
	}
	k.byHash[key.Hash], k.hashes[key.ID] = key, key.Hash
}

// KeyByHash finds a key as Directory.KeyByHash does.
func (k *Keys) KeyByHash(ctx context.Context, hash [32]byte) (kapsel.Key, error) {
	k.mu.RLock()
	key, ok := k.byHash[hash]
	changes := k.changes
	k.mu.RUnlock()
	if ok {
		return key, nil
	}
	key, err := k.dir.KeyByHash(ctx, hash)
	if err != nil {
		return kapsel.Key{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// After a change the answer may be older than what Changed took over.
	if k.changes == changes {
		k.keep(key)
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
