package signature

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"strconv"
	"sync"
	"time"
)

// Signer makes webhook-signature headers (Standard Webhooks 1.0, v1) with the keys of one
// endpoint. It is safe concurrently.
type Signer struct {
	pool sync.Pool // of *signing
}

// signing is what one call of Sign works with: a keyed hash for each key, and room.
type signing struct {
	macs []hash.Hash
	head []byte // "id.time."
	sum  []byte
	out  []byte
}

// NewSigner makes a signer. Each key is what whsec_… decodes to; a signature is made with each.
func NewSigner(keys [][]byte) *Signer {
	own := make([][]byte, len(keys))
	for i, key := range keys {
		own[i] = bytes.Clone(key)
	}
	return &Signer{pool: sync.Pool{New: func() any {
		s := &signing{macs: make([]hash.Hash, len(own))}
		for i, key := range own {
			s.macs[i] = hmac.New(sha256.New, key)
		}
		return s
	}}}
}

// Sign is the value of webhook-signature for a message: "v1," and base64 of the HMAC-SHA256
// of "id.time.body" for each key, separated by spaces. Time counts in whole seconds, as
// webhook-timestamp says it. The id must hold no dot.
func (s *Signer) Sign(id string, at time.Time, body []byte) string {
	w := s.pool.Get().(*signing)
	defer s.pool.Put(w)
	w.head = append(append(w.head[:0], id...), '.')
	w.head = append(strconv.AppendInt(w.head, at.Unix(), 10), '.')
	w.out = w.out[:0]
	for _, mac := range w.macs {
		mac.Reset()
		mac.Write(w.head)
		mac.Write(body)
		w.sum = mac.Sum(w.sum[:0])
		if len(w.out) > 0 {
			w.out = append(w.out, ' ')
		}
		w.out = append(append(w.out, versionHMAC...), ',')
		w.out = base64.StdEncoding.AppendEncode(w.out, w.sum)
	}
	return string(w.out)
}

// Sign signs one message; a Signer is cheaper for many.
func Sign(keys [][]byte, id string, at time.Time, body []byte) string {
	return NewSigner(keys).Sign(id, at, body)
}
