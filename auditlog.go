package kapsel

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// LogID names a tenant's audit log. It is random, so that it says nothing of the tenant.
type LogID [16]byte

// NewLogID returns a random ID.
func NewLogID() (id LogID) {
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

// ParseLogID returns the ID of a text that LogID.String made.
func ParseLogID(text string) (id LogID, err error) {
	b, err := hex.DecodeString(text)
	if copy(id[:], b); err != nil || len(b) != len(id) || id.String() != text {
		return LogID{}, fmt.Errorf("%q is not the id of an audit log: 32 lower-case hexadecimal digits", text)
	}
	return id, nil
}

// String returns the ID as 32 lower-case hexadecimal digits.
func (id LogID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns what String returns. The error is always nil.
func (id LogID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts what ParseLogID accepts.
func (id *LogID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseLogID(string(text))
	return err
}

// Origin returns the name of the log in its signed heads. It never changes.
func (id LogID) Origin() string { return "kapsel/" + id.String() }

// Commitments are what the audit log keeps of the contents of an attempt: 32 bytes each, which say
// nothing without the event's salt. A nil one means that there is none: no request was sent, nothing
// was read, or the event is older than the log.
type Commitments struct {
	URL, Payload, Request, Response []byte
}

// SaltSize is the length of an event's salt, in bytes.
const SaltSize = 32

// NewSalt returns a random salt of an event.
func NewSalt() []byte {
	salt := make([]byte, SaltSize)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return salt
}
