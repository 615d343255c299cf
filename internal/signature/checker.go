package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"sync"
)

// A checker holds a key and reports whether one of a message's signatures was made with it.
type checker interface{ check(m *message) bool }

// A keyer makes a checker of a secret as its owner gave it; it is an error when the secret
// is not of the form that the provider gives out. The error does not show the secret.
type keyer func(secret []byte) (checker, error)

// encoding is how signatures are written.
type encoding struct {
	length func(decoded int) int
	decode func(dst, src []byte) (int, error)
}

var (
	inHex    = encoding{hex.EncodedLen, hex.Decode}
	inBase64 = encoding{base64.StdEncoding.EncodedLen, base64.StdEncoding.Strict().Decode}
)

// hmacKey checks HMACs. Keyed hashes are kept for the next message: to make one costs more
// than to hash a small body.
type hmacKey struct {
	version  string
	encoding encoding
	hashes   sync.Pool // of hash.Hash
}

func newHMAC(version string, h func() hash.Hash, e encoding, key []byte) *hmacKey {
	key = bytes.Clone(key)
	return &hmacKey{
		version:  version,
		encoding: e,
		hashes:   sync.Pool{New: func() any { return hmac.New(h, key) }},
	}
}

func (k *hmacKey) check(m *message) bool {
	mac := k.hashes.Get().(hash.Hash)
	defer k.hashes.Put(mac)
	mac.Reset()
	mac.Write(m.head)
	mac.Write(m.body)
	mac.Write(m.tail)
	want := mac.Sum(m.sum[:0])
	for _, c := range m.signatures[:m.n] {
		if got, ok := m.decode(c, k.version, k.encoding, len(want)); ok && hmac.Equal(got, want) {
			return true
		}
	}
	return false
}

// decode is a candidate's signature if it is of a version and a length, in bytes.
func (m *message) decode(c candidate, version string, e encoding, length int) ([]byte, bool) {
	if c.version != version || len(c.text) != e.length(length) {
		return nil, false
	}
	n, err := e.decode(m.decoded[:], m.text[:copy(m.text[:], c.text)])
	return m.decoded[:n], err == nil && n == length
}

// ed25519Key checks Ed25519 signatures.
type ed25519Key struct {
	version  string
	encoding encoding
	public   ed25519.PublicKey
}

func (k *ed25519Key) check(m *message) bool {
	signed := bytes.Join([][]byte{m.head, m.body, m.tail}, nil)
	for _, c := range m.signatures[:m.n] {
		if got, ok := m.decode(c, k.version, k.encoding, ed25519.SignatureSize); ok && ed25519.Verify(k.public, signed, got) {
			return true
		}
	}
	return false
}

var hashes = map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New, "sha1": sha1.New}

// textKey is for providers whose HMAC key is the secret as it is written.
func textKey(h func() hash.Hash, e encoding) keyer {
	return func(secret []byte) (checker, error) {
		if len(secret) == 0 {
			return nil, errors.New("the secret is empty")
		}
		return newHMAC("", h, e, secret), nil
	}
}

// The versions of Standard Webhooks signatures.
const (
	versionHMAC    = "v1"
	versionEd25519 = "v1a"
)

// standardKey reads a Standard Webhooks secret: standard base64, with or without whsec_ before
// it, is the key of an HMAC, and whpk_ with base64 is an Ed25519 public key.
func standardKey(secret []byte) (checker, error) {
	if text, ok := bytes.CutPrefix(secret, []byte("whpk_")); ok {
		public, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(public) != ed25519.PublicKeySize {
			return nil, errors.New("the secret is not whpk_ and 32 bytes in standard base64")
		}
		return &ed25519Key{versionEd25519, inBase64, public}, nil
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimPrefix(secret, []byte("whsec_"))))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not whsec_ and standard base64")
	}
	return newHMAC(versionHMAC, sha256.New, inBase64, key), nil
}
