package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// keysName is the name of the value of the instance that holds the keys of its logs.
const keysName = "audit_keys"

// Key is a key by which heads are, or were, signed.
type Key struct {
	Public    ed25519.PublicKey `json:"public_key"`
	Sealed    []byte            `json:"sealed,omitempty"` // its seed; none if the key is in a file
	CreatedAt time.Time         `json:"created_at"`
	RetiredAt time.Time         `json:"retired_at,omitzero"`
}

// Meta holds the methods of the store by which the keys are kept; see store.Directory.
type Meta interface {
	Meta(ctx context.Context, name string) ([]byte, error)
	SetMeta(ctx context.Context, name string, value []byte) ([]byte, error)
	ReplaceMeta(ctx context.Context, name string, was, now []byte) error
}

// Sealer seals and opens values of the instance, bound to a name; see secret.Keyring.
type Sealer interface {
	SealValue(name string, plain []byte) ([]byte, error)
	OpenValue(name string, sealed []byte) ([]byte, error)
}

// Keys are the keys of an instance's logs, the current one last. They are Ed25519 keys, kept in the
// store sealed by the instance's encryption key, or in a file that only the operator's machines have.
type Keys struct {
	Store Meta
	Seal  Sealer
	// File is the key that the operator gave in a file; nil: the store keeps the key.
	File ed25519.PrivateKey
	// FileName names the setting by which File is given, for messages.
	FileName string
}

// Refusal is why this node signs no heads before somebody changes something. Its text says what.
type Refusal struct {
	text string
	own  bool // another node may be able to sign
}

func (r *Refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &Refusal{text: fmt.Sprintf(format, args...)} }

// refuseHere returns a Refusal for a reason that concerns this node alone.
func refuseHere(format string, args ...any) error {
	return &Refusal{text: fmt.Sprintf(format, args...), own: true}
}

// All returns the keys, the current one last. There are none before the first node has signed.
func (k *Keys) All(ctx context.Context) ([]Key, error) {
	value, err := k.Store.Meta(ctx, keysName)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeKeys(value)
}

func decodeKeys(value []byte) (all []Key, err error) {
	if err := json.Unmarshal(value, &all); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("the database's keys of the audit log cannot be read: %w", errors.Join(err))
	}
	for _, key := range all {
		if len(key.Public) != ed25519.PublicKeySize {
			return nil, errors.New("the database's keys of the audit log cannot be read: a public key has another length")
		}
	}
	return all, nil
}

// Current returns the key that signs. If the instance has none yet, Current makes one, at now; of nodes
// that do so at the same time one wins. The error is a Refusal if this node must not sign.
func (k *Keys) Current(ctx context.Context, now time.Time) (ed25519.PrivateKey, error) {
	value, err := k.Store.Meta(ctx, keysName)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		var first Key
		if first, err = k.fresh(now); err == nil {
			if value, err = json.Marshal([]Key{first}); err == nil {
				value, err = k.Store.SetMeta(ctx, keysName, value)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	all, err := decodeKeys(value)
	if err != nil {
		return nil, err
	}
	last := all[len(all)-1]
	switch {
	case k.File != nil && !last.Public.Equal(k.File.Public()):
		return nil, refuseHere("the audit log is signed with the key %x, and %s has the key %x: give this node the key that the others have", []byte(last.Public), k.FileName, []byte(k.File.Public().(ed25519.PublicKey)))
	case k.File != nil:
		return k.File, nil
	case last.Sealed == nil:
		return nil, refuseHere("the audit log is signed with the key %x, which is in a file: set %s on this node as on the others", []byte(last.Public), k.FileName)
	}
	seed, err := k.Seal.OpenValue(keysName, last.Sealed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, refuseHere("the key %x of the audit log cannot be opened: this node has another KAPSEL_ENCRYPTION_KEY than the node that made it (%v)", []byte(last.Public), err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	if !last.Public.Equal(key.Public()) {
		return nil, refuse("the sealed key of the audit log is not the key %x: somebody has changed it in the database", []byte(last.Public))
	}
	return key, nil
}

// fresh returns the first key of an instance.
func (k *Keys) fresh(now time.Time) (Key, error) {
	if k.File != nil {
		return Key{Public: k.File.Public().(ed25519.PublicKey), CreatedAt: now}, nil
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	sealed, err := k.Seal.SealValue(keysName, private.Seed())
	return Key{Public: public, Sealed: sealed, CreatedAt: now}, err
}

// Rotate replaces the current key at now: by the key in the file, else by a new one. The former key
// stays in the list.
func (k *Keys) Rotate(ctx context.Context, now time.Time) (Key, error) {
	value, err := k.Store.Meta(ctx, keysName)
	if err != nil {
		return Key{}, err
	}
	all, err := decodeKeys(value)
	if err != nil {
		return Key{}, err
	}
	next, err := k.fresh(now)
	if err != nil {
		return Key{}, err
	}
	for _, key := range all {
		if key.Public.Equal(next.Public) {
			return Key{}, refuse("the key %x is, or was, the key of the audit log already: give another one", []byte(next.Public))
		}
	}
	last := &all[len(all)-1]
	last.RetiredAt, last.Sealed = now, nil // it signs nothing any more
	changed, err := json.Marshal(append(all, next))
	if err != nil {
		return Key{}, err
	}
	return next, k.Store.ReplaceMeta(ctx, keysName, value, changed)
}

// Reseal seals the current key with the first key of the instance's keyring. It changes nothing if the
// store keeps no key.
func (k *Keys) Reseal(ctx context.Context) error {
	value, err := k.Store.Meta(ctx, keysName)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := decodeKeys(value)
	if err != nil {
		return err
	}
	last := &all[len(all)-1]
	if last.Sealed == nil {
		return nil
	}
	seed, err := k.Seal.OpenValue(keysName, last.Sealed)
	if err != nil {
		return err
	}
	if last.Sealed, err = k.Seal.SealValue(keysName, seed); err != nil {
		return err
	}
	changed, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return k.Store.ReplaceMeta(ctx, keysName, value, changed)
}
