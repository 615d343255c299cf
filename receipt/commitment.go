package receipt

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
)

// Size is the length in bytes of a hash, a commitment and a salt.
const Size = sha256.Size

// PayloadLabel is the label of the commitment to an event's body. It has no attempt in it, so the
// commitment is the same in all leaves of an event.
const PayloadLabel = "payload"

// URLLabel returns the label of the commitment to the URL that an attempt called, in UTF-8.
func URLLabel(attemptID string) string { return "url:" + attemptID }

// RequestLabel returns the label of the commitment to the body that an attempt sent.
func RequestLabel(attemptID string) string { return "request:" + attemptID }

// ResponseLabel returns the label of the commitment to what an attempt read of the response's body: at
// most the first 64 KiB, without any decoding.
func ResponseLabel(attemptID string) string { return "response:" + attemptID }

// Commitment returns the commitment to a value under the salt of an event: HMAC-SHA256 with the salt
// as its key, of the label, a zero byte and the value.
func Commitment(salt []byte, label string, value []byte) (sum [Size]byte) {
	h := NewCommitment(salt, label)
	h.Write(value)
	h.Sum(sum[:0])
	return sum
}

// NewCommitment returns a hash that computes a commitment of what is written to it. Sum appends the
// Size bytes of the commitment. Reset forgets the label, too; do not call it.
func NewCommitment(salt []byte, label string) hash.Hash {
	h := hmac.New(sha256.New, salt)
	h.Write(append([]byte(label), 0))
	return h
}
