package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash/crc32"
	"math/big"
	"strings"
)

// An API key is kap_, 43 characters of base62 that hold 256 random bits, and 6 characters of
// base62 that hold the CRC-32 (IEEE) of the 43. The checksum tells a mistyped key from a wrong one
// without a look-up.
const (
	apiKeyPrefix   = "kap_"
	apiKeyRandom   = 43
	apiKeyChecksum = 6
	apiKeyLength   = len(apiKeyPrefix) + apiKeyRandom + apiKeyChecksum
	// APIKeyShown is how many characters of a key are stored for people to recognise it by.
	APIKeyShown = 8
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewAPIKey returns a new API key, to be shown once, the hash by which it is found, and the prefix
// by which people recognise it.
func NewAPIKey() (key Text, hash [32]byte, prefix string) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	random := encode62(new(big.Int).SetBytes(b[:]), apiKeyRandom)
	s := apiKeyPrefix + random + apiKeySum(random)
	return NewText(s), sha256.Sum256([]byte(s)), s[:APIKeyShown]
}

// HashAPIKey returns the hash by which a key is found. It returns false if s does not have the
// form of a key, including a right checksum.
func HashAPIKey(s string) (hash [32]byte, ok bool) {
	if len(s) != apiKeyLength || s[:len(apiKeyPrefix)] != apiKeyPrefix {
		return hash, false
	}
	random := s[len(apiKeyPrefix) : len(apiKeyPrefix)+apiKeyRandom]
	for _, c := range []byte(random) {
		if strings.IndexByte(base62, c) < 0 {
			return hash, false
		}
	}
	// No constant time needed: the checksum is not secret.
	if s[apiKeyLength-apiKeyChecksum:] != apiKeySum(random) {
		return hash, false
	}
	return sha256.Sum256([]byte(s)), true
}

func apiKeySum(random string) string {
	n := crc32.ChecksumIEEE([]byte(random))
	var b [apiKeyChecksum]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = base62[n%62]
		n /= 62
	}
	return string(b[:])
}

// encode62 returns n in base62, with leading zeros up to width. It modifies n.
func encode62(n *big.Int, width int) string {
	b := make([]byte, width)
	base, digit := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		b[i] = base62[digit.Int64()]
	}
	return string(b)
}

// NewSigningSecret returns a new Standard Webhooks secret: its text (whsec_ and standard base64),
// to be shown once, and the 32 bytes that the text encodes, which are the HMAC key.
func NewSigningSecret() (text Text, key []byte) {
	key = make([]byte, 32)
	rand.Read(key)
	return NewText("whsec_" + base64.StdEncoding.EncodeToString(key)), key
}
