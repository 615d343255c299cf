// Package secret keeps secrets secret: a string type that never prints, envelope encryption
// of what the store holds, and the making of keys.
//
// At rest a secret is sealed with its tenant's data key, and the data key is wrapped with
// the instance's key, both AES-256-GCM. Each ciphertext is bound to where it belongs, so one
// that is moved to another row, object or tenant does not open. Changing the instance's key
// means wrapping the data keys again; what they sealed stays as it is.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what stands for a secret wherever one is shown.
const Redacted = "[redacted]"

// Text is a secret in the clear. However it is printed, logged or encoded, it reads
// "[redacted]"; only Reveal gives it out. The zero Text is empty.
type Text struct {
	_ [0]func() // not comparable by ==, which would compare the pointers
	// A pointer, because fmt prints unexported fields of the structs that hold a Text
	// without asking its methods: what it shows then is the address.
	s *string
}

// NewText makes a Text of a string.
func NewText(s string) Text { return Text{s: &s} }

// Reveal is the secret itself.
func (t Text) Reveal() string {
	if t.s == nil {
		return ""
	}
	return *t.s
}

// IsZero reports whether the secret is empty.
func (t Text) IsZero() bool { return t.Reveal() == "" }

// Equal compares in a time that depends on neither secret's content.
func (t Text) Equal(u Text) bool {
	a, b := sha256.Sum256([]byte(t.Reveal())), sha256.Sum256([]byte(u.Reveal()))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (Text) String() string               { return Redacted }
func (Text) GoString() string             { return Redacted }
func (Text) Format(f fmt.State, _ rune)   { io.WriteString(f, Redacted) }
func (Text) LogValue() slog.Value         { return slog.StringValue(Redacted) }
func (Text) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
func (Text) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// UnmarshalText takes a secret in, from settings and requests.
func (t *Text) UnmarshalText(b []byte) error {
	*t = NewText(string(b))
	return nil
}
