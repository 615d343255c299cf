package signature

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"sync"
)

// A checker holds a key and reports whether one of a message's signatures was made with it.
type checker interface{ check(m *message) bool }

// A keyer makes a checker from a secret as its owner entered it. It returns an error if the secret
// does not have the form that the provider gives out. The error must not show the secret.
type keyer func(secret []byte) (checker, error)

// encoding is how a provider encodes signatures.
type encoding struct {
	length func(decoded int) int
	decode func(dst, src []byte) (int, error)
	encode func(src []byte) string
}

var (
	inHex    = encoding{hex.EncodedLen, hex.Decode, hex.EncodeToString}
	inBase64 = encoding{base64.StdEncoding.EncodedLen, base64.StdEncoding.Strict().Decode, base64.StdEncoding.EncodeToString}
	// inBase64URL is URL-safe base64 without padding.
	inBase64URL = encoding{base64.RawURLEncoding.EncodedLen, base64.RawURLEncoding.Strict().Decode, base64.RawURLEncoding.EncodeToString}
)

// hmacKey checks HMACs. It pools keyed hashes, because making one costs more than hashing a small
// body.
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
	if !m.write(mac) {
		return false
	}
	want := mac.Sum(m.sum[:0])
	for _, c := range m.signatures[:m.n] {
		if got, ok := m.decode(c, k.version, k.encoding, len(want)); ok && hmac.Equal(got, want) {
			return true
		}
	}
	return false
}

// decode returns a candidate's signature; false unless the candidate has the version and decodes
// to length bytes.
func (m *message) decode(c candidate, version string, e encoding, length int) ([]byte, bool) {
	if c.version != version || len(c.text) != e.length(length) {
		return nil, false
	}
	n, err := e.decode(m.decoded[:], m.text[:copy(m.text[:], c.text)])
	return m.decoded[:n], err == nil && n == length
}

// methodKey makes a checker for providers that name the hash beside the signature (WebSub).
func methodKey(secret []byte) (checker, error) {
	if len(secret) == 0 {
		return nil, errEmptySecret
	}
	all := anyKey{}
	for name, h := range hashes {
		all[name] = newHMAC(name, h, inHex, secret)
	}
	return all, nil
}

// anyKey checks HMACs whose hash the request names. It computes only those.
type anyKey map[string]*hmacKey

func (k anyKey) check(m *message) bool {
	for _, c := range m.signatures[:m.n] {
		if key := k[c.version]; key != nil && key.check(m) {
			return true
		}
	}
	return false
}

// ed25519Key checks Ed25519 signatures.
type ed25519Key struct {
	version  string
	encoding encoding
	public   ed25519.PublicKey
}

// maxEd25519 is how many signatures are tried with one Ed25519 key, because each try hashes the
// whole message again. Two are enough: a sender that is changing its key sends two.
const maxEd25519 = 2

func (k *ed25519Key) check(m *message) bool {
	var signed []byte
	tried := 0
	for _, c := range m.signatures[:m.n] {
		got, ok := m.decode(c, k.version, k.encoding, ed25519.SignatureSize)
		if !ok {
			continue
		}
		if tried++; tried > maxEd25519 {
			return false
		}
		if signed == nil {
			signed = bytes.Join([][]byte{m.head, m.body, m.tail}, nil)
		}
		if ed25519.Verify(k.public, signed, got) {
			return true
		}
	}
	return false
}

// ecdsaKey checks ECDSA signatures (P-256, SHA-256, ASN.1 in base64).
type ecdsaKey struct{ public *ecdsa.PublicKey }

func (k *ecdsaKey) check(m *message) bool {
	h := sha256.New()
	if !m.write(h) {
		return false
	}
	digest := h.Sum(m.sum[:0])
	for _, c := range m.signatures[:m.n] {
		if len(c.text) > 4*72/3 { // an ASN.1 signature with P-256 has at most 72 bytes
			continue
		}
		n, err := inBase64.decode(m.decoded[:], m.text[:copy(m.text[:], c.text)])
		if err == nil && ecdsa.VerifyASN1(k.public, digest, m.decoded[:n]) {
			return true
		}
	}
	return false
}

// tokenKey checks secrets of providers that send the secret itself.
type tokenKey struct{ digest [sha256.Size]byte }

// sameToken reports whether a and b are equal, in a time that depends on the contents of neither.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func (k *tokenKey) check(m *message) bool {
	for _, c := range m.signatures[:m.n] {
		digest := sha256.Sum256([]byte(c.text)) // gives both sides the same length
		if c.version == versionToken && subtle.ConstantTimeCompare(digest[:], k.digest[:]) == 1 {
			return true
		}
	}
	return false
}

var hashes = map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New, "sha1": sha1.New}

var errEmptySecret = errors.New("the secret is empty")

// textKey returns a keyer for providers whose HMAC key is the text of the secret.
func textKey(h func() hash.Hash, e encoding) keyer { return decodedKey(h, e, keyEncodings["text"]) }

// decodedKey returns a keyer for providers whose HMAC key is the decoded secret.
func decodedKey(h func() hash.Hash, e encoding, decode func([]byte) ([]byte, error)) keyer {
	return func(secret []byte) (checker, error) {
		key, err := decode(secret)
		if err != nil {
			return nil, err
		}
		if len(key) == 0 {
			return nil, errEmptySecret
		}
		return newHMAC("", h, e, key), nil
	}
}

// Versions of signatures, for requests that may hold several kinds: Standard Webhooks names two,
// and GitLab can also send a token.
const (
	versionHMAC    = "v1"
	versionEd25519 = "v1a"
	versionToken   = "token"
)

// standardKey reads a Standard Webhooks secret. Standard base64, with or without the prefix whsec_
// (Supabase: v1,whsec_), is an HMAC key; whpk_ and base64 is an Ed25519 public key.
func standardKey(secret []byte) (checker, error) {
	if text, ok := bytes.CutPrefix(secret, []byte("whpk_")); ok {
		public, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(public) != ed25519.PublicKeySize {
			return nil, errors.New("the secret is not whpk_ and 32 bytes in standard base64")
		}
		return &ed25519Key{versionEd25519, inBase64, public}, nil
	}
	secret = bytes.TrimPrefix(bytes.TrimPrefix(secret, []byte("v1,")), []byte("whsec_"))
	key, err := base64.StdEncoding.DecodeString(string(secret))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not whsec_ and standard base64")
	}
	return newHMAC(versionHMAC, sha256.New, inBase64, key), nil
}

// hexEd25519Key reads an Ed25519 public key in hex (Discord).
func hexEd25519Key(secret []byte) (checker, error) {
	public, err := hex.DecodeString(string(secret))
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, errors.New("the secret is not the application's public key: 64 hex digits")
	}
	return &ed25519Key{"", inHex, public}, nil
}

// p256Key reads a P-256 public key: its PKIX form in base64 (SendGrid).
func p256Key(secret []byte) (checker, error) {
	if der, err := base64.StdEncoding.DecodeString(string(secret)); err == nil {
		key, _ := x509.ParsePKIXPublicKey(der) // nil on an error
		if public, ok := key.(*ecdsa.PublicKey); ok && public.Curve == elliptic.P256() {
			return &ecdsaKey{public}, nil
		}
	}
	return nil, errors.New("the secret is not the verification key: a P-256 public key in base64")
}

// tokenSecret makes a checker for a secret that is sent as it is.
func tokenSecret(secret []byte) (checker, error) {
	if len(secret) == 0 {
		return nil, errEmptySecret
	}
	return &tokenKey{sha256.Sum256(secret)}, nil
}

// gitlabKey reads a GitLab secret: a signing token if it begins with whsec_, otherwise a secret
// token.
func gitlabKey(secret []byte) (checker, error) {
	if bytes.HasPrefix(secret, []byte("whsec_")) {
		return standardKey(secret)
	}
	return tokenSecret(secret)
}
