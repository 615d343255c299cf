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

// Vault seals and opens the secrets of tenants. It keeps the data keys that it unwrapped,
// and is safe concurrently.
type Vault struct {
	keyring *Keyring

	mu   sync.RWMutex
	open map[kapsel.TenantID]openKey // guarded by mu
}

// openKey is a data key and the wrapped form that it was unwrapped from.
type openKey struct {
	wrapped []byte
	aead    *subtle.AESGCM
	signing []byte // derived from the data key: what SigningKey derives from
}

// NewVault makes a vault that unwraps data keys with a keyring.
func NewVault(r *Keyring) *Vault {
	return &Vault{keyring: r, open: map[kapsel.TenantID]openKey{}}
}

// sealVersion is the first byte of what Seal makes; AES-256-GCM under the tenant's data key
// follows it.
const sealVersion = 1

// sealAAD binds a ciphertext to its place. All parts but the last have a fixed length, so
// no two places give the same bytes.
func sealAAD(tenant kapsel.TenantID, id kapsel.SecretID, object string) []byte {
	aad := make([]byte, 0, 64+len(object))
	aad = append(aad, "kapsel secret"...)
	aad = append(aad, sealVersion)
	aad = append(aad, tenant[:]...)
	aad = append(aad, id[:]...)
	return append(aad, object...)
}

// Seal makes a secret of the tenant for an object, such as an endpoint's id. It gets a new
// id, made at now.
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

// Open is the plain text of a secret that was sealed for the tenant and the object. What
// was sealed for another place, or changed, is an error.
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

// SigningKey is the Ed25519 key that goes with a signing secret of the tenant and the object.
// It is derived from the tenant's data key, so it is stored nowhere, is the same on every
// node and after a change of the instance's key, and cannot be computed from the secret,
// which receivers have.
func (v *Vault) SigningKey(t *kapsel.Tenant, object string, id kapsel.SecretID) (ed25519.PrivateKey, error) {
	key, err := v.key(t)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(derive(key.signing, string(sealAAD(t.ID, id, object)))), nil
}

// Forget lets go of the data key of a tenant that was deleted.
func (v *Vault) Forget(id kapsel.TenantID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, id)
}

// key is the tenant's data key, unwrapped once for each form it was wrapped in.
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
