package secret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/kapsel-hq/kapsel"
)

// KeySize is the size of the instance's keys and of data keys, in bytes.
const KeySize = 32

// ParseKeys parses a comma-separated list of one or more keys of 32 bytes in standard base64. Its
// errors say which key is wrong, but never show it.
func ParseKeys(list string) ([][]byte, error) {
	var keys [][]byte
	for i, text := range strings.Split(list, ",") {
		key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
		if err != nil || len(key) != KeySize {
			return nil, fmt.Errorf("key %d is not %d bytes in standard base64", i+1, KeySize)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// NewKey returns a random key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key) // never fails: crypto/rand ends the process instead
	return key
}

// KeyID names a key of the instance without revealing it: the first 8 bytes of an HMAC under the
// key.
type KeyID [8]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Keyring holds the instance's keys. The first key wraps; every key unwraps. It is immutable and
// safe for concurrent use.
type Keyring struct {
	keys []wrapKey
}

type wrapKey struct {
	id    KeyID
	check []byte
	aead  *subtle.AESGCM
}

// NewKeyring returns a keyring of one or more keys of 32 bytes.
func NewKeyring(keys ...[]byte) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("no encryption key")
	}
	var r Keyring
	for i, key := range keys {
		if len(key) != KeySize {
			return nil, fmt.Errorf("encryption key %d has %d bytes, not %d", i+1, len(key), KeySize)
		}
		aead, err := subtle.NewAESGCM(key)
		if err != nil {
			return nil, fmt.Errorf("encryption key %d: %w", i+1, err)
		}
		k := wrapKey{aead: aead, check: derive(key, "kapsel key check")}
		copy(k.id[:], derive(key, "kapsel key id"))
		r.keys = append(r.keys, k)
	}
	return &r, nil
}

func derive(key []byte, purpose string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(purpose))
	return h.Sum(nil)
}

// ID returns the ID of the key that wraps.
func (r *Keyring) ID() KeyID { return r.keys[0].id }

// find returns the key with an ID; nil if there is none.
func (r *Keyring) find(id KeyID) *wrapKey {
	for i := range r.keys {
		if r.keys[i].id == id {
			return &r.keys[i]
		}
	}
	return nil
}

// UnknownKeyError says that the key needed is not in the keyring.
type UnknownKeyError struct{ ID KeyID }

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("the encryption key %s is needed and not among those given", e.ID)
}

// Formats of wrapped data keys and check values. Each begins with a version.
const (
	wrapVersion  = 1
	checkVersion = 1
	headerSize   = 1 + len(KeyID{})
)

// wrapAAD returns the additional data that binds a wrapped data key to its tenant.
func wrapAAD(tenant kapsel.TenantID) []byte {
	aad := append([]byte("kapsel data key"), wrapVersion)
	return append(aad, tenant[:]...)
}

// NewDataKey makes a data key for a tenant and returns it wrapped, for kapsel.Tenant.DataKey.
func (r *Keyring) NewDataKey(tenant kapsel.TenantID) (wrapped []byte, err error) {
	return r.wrap(tenant, NewKey())
}

func (r *Keyring) wrap(tenant kapsel.TenantID, dataKey []byte) ([]byte, error) {
	first := &r.keys[0]
	sealed, err := first.aead.Encrypt(dataKey, wrapAAD(tenant))
	if err != nil {
		return nil, fmt.Errorf("wrap data key: %w", err)
	}
	return append(header(wrapVersion, first.id), sealed...), nil
}

func header(version byte, id KeyID) []byte {
	return append([]byte{version}, id[:]...)
}

// unwrap returns a tenant's data key in the clear. If the keyring lacks the key that wrapped it,
// the error wraps an UnknownKeyError.
func (r *Keyring) unwrap(tenant kapsel.TenantID, wrapped []byte) ([]byte, error) {
	if len(wrapped) < headerSize || wrapped[0] != wrapVersion {
		return nil, errors.New("unwrap data key: unknown format")
	}
	id := KeyID(wrapped[1:headerSize])
	key := r.find(id)
	if key == nil {
		return nil, fmt.Errorf("unwrap data key: %w", &UnknownKeyError{id})
	}
	dataKey, err := key.aead.Decrypt(wrapped[headerSize:], wrapAAD(tenant))
	if err != nil {
		return nil, fmt.Errorf("unwrap data key: %w", err)
	}
	return dataKey, nil
}

// Rewrap returns a tenant's data key, wrapped with the first key. It returns wrapped itself if the
// first key wrapped it already.
func (r *Keyring) Rewrap(tenant kapsel.TenantID, wrapped []byte) ([]byte, error) {
	dataKey, err := r.unwrap(tenant, wrapped)
	if err != nil {
		return nil, err
	}
	if KeyID(wrapped[1:headerSize]) == r.ID() {
		return wrapped, nil
	}
	return r.wrap(tenant, dataKey)
}

// CanUnwrap returns nil if the keyring has the key that wraps a data key, else an UnknownKeyError.
// An unknown format is another error.
func (r *Keyring) CanUnwrap(wrapped []byte) error {
	if len(wrapped) < headerSize || wrapped[0] != wrapVersion {
		return errors.New("a wrapped data key has an unknown format")
	}
	if id := KeyID(wrapped[1:headerSize]); r.find(id) == nil {
		return &UnknownKeyError{id}
	}
	return nil
}

// Check returns a value by which a database remembers the key that wraps. The value does not
// reveal the key and is the same every time.
func (r *Keyring) Check() []byte {
	return append(header(checkVersion, r.ID()), r.keys[0].check...)
}

// Verify returns nil if one of the keys made a check value, else an UnknownKeyError with the ID of
// the key needed. An unknown format is another error.
func (r *Keyring) Verify(check []byte) error {
	if len(check) != headerSize+sha256.Size || check[0] != checkVersion {
		return errors.New("the check value of the encryption key has an unknown format")
	}
	id := KeyID(check[1:headerSize])
	if key := r.find(id); key == nil || !hmac.Equal(key.check, check[headerSize:]) {
		return &UnknownKeyError{id}
	}
	return nil
}

// valueAAD returns the additional data that binds a sealed value of the instance to its name.
func valueAAD(name string) []byte {
	return append(append([]byte("kapsel instance value"), wrapVersion), name...)
}

// SealValue seals a value of the instance with the first key, for a name.
func (r *Keyring) SealValue(name string, plain []byte) ([]byte, error) {
	first := &r.keys[0]
	sealed, err := first.aead.Encrypt(plain, valueAAD(name))
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return append(header(wrapVersion, first.id), sealed...), nil
}

// OpenValue returns what SealValue sealed for a name. If the keyring lacks the key that sealed it, the
// error wraps an UnknownKeyError.
func (r *Keyring) OpenValue(name string, sealed []byte) ([]byte, error) {
	if len(sealed) < headerSize || sealed[0] != wrapVersion {
		return nil, fmt.Errorf("open %s: unknown format", name)
	}
	id := KeyID(sealed[1:headerSize])
	key := r.find(id)
	if key == nil {
		return nil, fmt.Errorf("open %s: %w", name, &UnknownKeyError{id})
	}
	plain, err := key.aead.Decrypt(sealed[headerSize:], valueAAD(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return plain, nil
}
