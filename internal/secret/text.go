// Package secret protects secrets: it has a string type that never prints itself, envelope
// encryption for stored secrets, and generators of keys.
//
// A stored secret is sealed with its tenant's data key, and the data key is wrapped with the
// instance's key, both with AES-256-GCM. Each ciphertext is bound to its place: moved to another
// row, object or tenant it cannot be opened. To change the instance's key, only the data keys must
// be wrapped again; sealed secrets stay as they are.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is printed in place of a secret.
const Redacted = "[redacted]"

// Text is a secret in the clear. However it is printed, logged or encoded, it reads "[redacted]";
// only Reveal returns it. The zero Text is empty.
type Text struct {
	_ [0]func() // forbids ==, which would compare the pointers
	// A pointer, because fmt prints unexported fields of structs that hold a Text without calling its
	// methods, and then shows only the address.
	s *string
}

// NewText returns s as a Text.
func NewText(s string) Text { return Text{s: &s} }

// Reveal returns the secret in the clear.
func (t Text) Reveal() string {
	if t.s == nil {
		return ""
	}
	return *t.s
}

// IsZero reports whether the secret is empty.
func (t Text) IsZero() bool { return t.Reveal() == "" }

// Equal reports whether the secrets are equal. Its time does not depend on where they differ.
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

// UnmarshalText sets the secret, so that settings and requests can hold one. It never fails.
func (t *Text) UnmarshalText(b []byte) error {
	*t = NewText(string(b))
	return nil
}
