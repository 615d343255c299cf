package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"slices"
	"strconv"
	"sync"
	"time"
)

// SigningKey holds the keys that belong to one secret of an endpoint: an HMAC key (v1), and an
// Ed25519 key (v1a), which receivers can verify with the public half; nil: no v1a.
type SigningKey struct {
	HMAC    []byte // the decoded whsec_… secret
	Ed25519 ed25519.PrivateKey
}

// Signer makes webhook-signature headers (Standard Webhooks 1.0) with the keys of one endpoint. It
// is safe for concurrent use.
type Signer struct {
	pool sync.Pool // of *signing
}

// signing is the state of one call of Sign: a keyed hash per key, and buffers.
type signing struct {
	macs    []hash.Hash
	private []ed25519.PrivateKey // as many as macs
	message []byte               // "id.time.body"
	sum     []byte
	out     []byte
}

// maxMessage is the largest buffer, in bytes, that is kept for the next message.
const maxMessage = 64 << 10

// NewSigner returns a signer with a copy of the keys.
func NewSigner(keys []SigningKey) *Signer {
	own := slices.Clone(keys)
	for i := range own {
		own[i].HMAC = bytes.Clone(own[i].HMAC)
	}
	return &Signer{pool: sync.Pool{New: func() any {
		var s signing
		for _, key := range own {
			s.macs = append(s.macs, hmac.New(sha256.New, key.HMAC))
			s.private = append(s.private, key.Ed25519)
		}
		return &s
	}}}
}

// Sign returns the value of webhook-signature for a message. For each key it has "v1," and the
// base64 of the HMAC-SHA256 of "id.time.body" and, if there is an Ed25519 key, "v1a," and the
// base64 of the Ed25519 signature of the same, all separated by spaces. The time is in whole
// seconds, as in webhook-timestamp. The ID must not contain a dot.
func (s *Signer) Sign(id string, at time.Time, body []byte) string {
	w := s.pool.Get().(*signing)
	defer s.pool.Put(w)
	w.message = append(append(w.message[:0], id...), '.')
	w.message = append(strconv.AppendInt(w.message, at.Unix(), 10), '.')
	w.message = append(w.message, body...)
	w.out = w.out[:0]
	for i, mac := range w.macs {
		mac.Reset()
		mac.Write(w.message)
		w.sum = mac.Sum(w.sum[:0])
		w.add(versionHMAC, w.sum)
		if private := w.private[i]; private != nil {
			w.add(versionEd25519, ed25519.Sign(private, w.message))
		}
	}
	if cap(w.message) > maxMessage {
		w.message = nil
	}
	return string(w.out)
}

func (w *signing) add(version string, signature []byte) {
	if len(w.out) > 0 {
		w.out = append(w.out, ' ')
	}
	w.out = append(append(w.out, version...), ',')
	w.out = base64.StdEncoding.AppendEncode(w.out, signature)
}

// PublicKey returns the text of an Ed25519 public key in Standard Webhooks: whpk_ and base64.
func PublicKey(private ed25519.PrivateKey) string {
	return "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
}
