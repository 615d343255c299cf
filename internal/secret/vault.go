package secret

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/kapsel-hq/kapsel"
)

// Vault seals and opens the secrets of tenants. It caches unwrapped data keys until Forget. It is
// safe for concurrent use.
type Vault struct {
	keyring *Keyring

	mu   sync.RWMutex
	open map[kapsel.TenantID]openKey // guarded by mu
}

// openKey is a data key and the wrapped form that it was unwrapped from.
type openKey struct {
	wrapped []byte
	aead    *subtle.AESGCM
	signing []byte // derived from the data key; SigningKey derives from this
}

// NewVault returns a vault that unwraps data keys with a keyring.
func NewVault(r *Keyring) *Vault {
	return &Vault{keyring: r, open: map[kapsel.TenantID]openKey{}}
}

// sealVersion is the first byte of a sealed secret. The rest is AES-256-GCM under the tenant's
// data key.
const sealVersion = 1

// sealAAD returns the additional data that binds a ciphertext to its place. All its components
// except the last have a fixed length, so different places give different bytes.
func sealAAD(tenant kapsel.TenantID, id kapsel.SecretID, object string) []byte {
	aad := make([]byte, 0, 64+len(object))
	aad = append(aad, "kapsel secret"...)
	aad = append(aad, sealVersion)
	aad = append(aad, tenant[:]...)
	aad = append(aad, id[:]...)
	return append(aad, object...)
}

// Seal seals a secret of the tenant for an object, such as an endpoint's ID. The secret gets a new
// ID, made at now.
func (v *Vault) Seal(t *kapsel.Tenant, object string, plain []byte, now time.Time) (kapsel.Secret, error) {
	key, err := v.key(t)
	if err != nil {
		return kapsel.Secret{}, err
	}
	s := kapsel.Secret{ID: kapsel.NewSecretID(now), CreatedAt: now}
	sealed, err := key.aead.Encrypt(plain, sealAAD(t.ID, s.ID, object))
	if err != nil {
		return kapsel.Secret{}, fmt.Errorf("seal secret: %w", err)
	}
	s.Sealed = append([]byte{sealVersion}, sealed...)
	return s, nil
}

// Open returns the plain text of a secret that was sealed for the tenant and the object. It
// returns an error if the secret was sealed for another place or was changed.
func (v *Vault) Open(t *kapsel.Tenant, object string, s kapsel.Secret) ([]byte, error) {
	if len(s.Sealed) == 0 || s.Sealed[0] != sealVersion {
		return nil, fmt.Errorf("open secret %s: unknown format", s.ID)
	}
	key, err := v.key(t)
	if err != nil {
		return nil, err
	}
	plain, err := key.aead.Decrypt(s.Sealed[1:], sealAAD(t.ID, s.ID, object))
	if err != nil {
		return nil, fmt.Errorf("open secret %s: %w", s.ID, err)
	}
	return plain, nil
}

// Move returns a secret of the tenant, sealed for the object from, as it is sealed for the object
// to. Everything else of the secret stays.
func (v *Vault) Move(t *kapsel.Tenant, from, to string, s kapsel.Secret) (kapsel.Secret, error) {
	plain, err := v.Open(t, from, s)
	if err != nil {
		return kapsel.Secret{}, err
	}
	key, err := v.key(t)
	if err != nil {
		return kapsel.Secret{}, err
	}
	sealed, err := key.aead.Encrypt(plain, sealAAD(t.ID, s.ID, to))
	if err != nil {
		return kapsel.Secret{}, fmt.Errorf("seal secret: %w", err)
	}
	s.Sealed = append([]byte{sealVersion}, sealed...)
	return s, nil
}

// SigningKey returns the Ed25519 key that belongs to a signing secret of the tenant and the
// object. The key is derived from the tenant's data key. So it is stored nowhere, is the same on
// every node and after a change of the instance's key, and receivers, who have the secret, cannot
// compute it.
func (v *Vault) SigningKey(t *kapsel.Tenant, object string, id kapsel.SecretID) (ed25519.PrivateKey, error) {
	key, err := v.key(t)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(derive(key.signing, string(sealAAD(t.ID, id, object)))), nil
}

// Forget drops the cached data key of a deleted tenant.
func (v *Vault) Forget(id kapsel.TenantID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, id)
}

// key returns the tenant's data key. It unwraps the key again if the tenant's wrapped key has
// changed.
func (v *Vault) key(t *kapsel.Tenant) (openKey, error) {
	v.mu.RLock()
	k, ok := v.open[t.ID]
	v.mu.RUnlock()
	if ok && hmac.Equal(k.wrapped, t.DataKey) {
		return k, nil
	}
	if len(t.DataKey) == 0 {
		return k, errors.New("the tenant has no data key")
	}
	dataKey, err := v.keyring.unwrap(t.ID, t.DataKey)
	if err != nil {
		return k, err
	}
	aead, err := subtle.NewAESGCM(dataKey)
	if err != nil {
		return k, fmt.Errorf("use data key: %w", err)
	}
	k = openKey{bytes.Clone(t.DataKey), aead, derive(dataKey, "kapsel signing key")}
	v.mu.Lock()
	v.open[t.ID] = k
	v.mu.Unlock()
	return k, nil
}
