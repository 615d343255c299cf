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
	copy(sum[:], NewCommitter(salt).Commit(label, value))
	return sum
}

// Committer computes commitments under the salt of one event, one after the other. To use one Committer
// for all commitments of an attempt costs half of what a Commitment for each does.
type Committer struct {
	mac   hash.Hash
	label []byte // scratch
}

// NewCommitter returns a Committer.
func NewCommitter(salt []byte) *Committer {
	return &Committer{mac: hmac.New(sha256.New, salt), label: make([]byte, 0, 64)}
}

// Begin returns a hash that computes a commitment of what is written to it, until the next call of Begin
// or Commit. Its Sum appends the Size bytes of the commitment. Its Reset forgets the label, too; do not
// call it.
func (c *Committer) Begin(label string) hash.Hash {
	c.mac.Reset()
	c.label = append(append(c.label[:0], label...), 0)
	c.mac.Write(c.label)
	return c.mac
}

// Commit returns the commitment to a value.
func (c *Committer) Commit(label string, value []byte) []byte {
	h := c.Begin(label)
	h.Write(value)
	return h.Sum(make([]byte, 0, Size))
}
