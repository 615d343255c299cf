package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash/crc32"
	"math/big"
	"strings"
)

// An API key is kap_, 43 characters of base62 that hold 256 random bits, and 6 of base62
// that hold their CRC-32 (IEEE): a mistyped key is told from a wrong one without a look-up.
const (
	apiKeyPrefix   = "kap_"
	apiKeyRandom   = 43
	apiKeyChecksum = 6
	apiKeyLength   = len(apiKeyPrefix) + apiKeyRandom + apiKeyChecksum
	// APIKeyShown is how many characters of a key are stored to recognise it by.
	APIKeyShown = 8
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewAPIKey makes an API key: the secret to show once, the hash it is found by, and the
// characters to recognise it by.
func NewAPIKey() (key Text, hash [32]byte, prefix string) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	random := encode62(new(big.Int).SetBytes(b[:]), apiKeyRandom)
	s := apiKeyPrefix + random + apiKeySum(random)
	return NewText(s), sha256.Sum256([]byte(s)), s[:APIKeyShown]
}

// HashAPIKey is the hash by which a key is found, and whether s has the form of a key at
// all, its checksum included.
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
	// The checksum is no secret: whoever has the key can compute it.
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

// encode62 writes n in base62 with leading zeros. It changes n.
func encode62(n *big.Int, width int) string {
	b := make([]byte, width)
	base, digit := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		b[i] = base62[digit.Int64()]
	}
	return string(b)
}

// NewSigningSecret makes a Standard Webhooks secret: its text (whsec_ and standard base64)
// to show once, and the 32 bytes that it stands for, the key of the HMAC.
func NewSigningSecret() (text Text, key []byte) {
	key = make([]byte, 32)
	rand.Read(key)
	return NewText("whsec_" + base64.StdEncoding.EncodeToString(key)), key
}
