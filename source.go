package kapsel

import (
	"fmt"
	"strings"
	"time"
)

// Source is an ingest URL without a destination of its own: endpoints subscribe to it.
type Source struct {
	ID        SourceID
	TenantID  TenantID
	State     SourceState
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // zero: not deleted
	Revision  int64     // of the settings counter, at the last change
	SourceConfig
}

// SourceState says whether a source takes anything in.
type SourceState string

// The states. The ingest of a disabled source answers as if there were none.
const (
	SourceActive   SourceState = "active"
	SourceDisabled SourceState = "disabled"
)

// SourceConfig is what people set on a source. The stores keep it as JSON; its secrets are
// sealed (see Secret).
type SourceConfig struct {
	Name string `json:"name"`
	Intake
	Type TypeRule `json:"type,omitzero"`
	// Kept says that the source goes on with the ingest of a deleted endpoint with the same UUID:
	// what is posted to that endpoint's URL comes in here, and subscriptions may name either.
	Kept bool `json:"kept,omitempty"`
}

// TypeRule says where the type of a source's events is: in a header (header:NAME), at a path
// in a JSON body (path:$.…), or the same for all (const, with Value). The zero rule gives none.
type TypeRule struct {
	From  string `json:"from"`
	Value string `json:"value,omitempty"` // for const
}

// The forms of TypeRule.From; the first two are followed by a name and a path.
const (
	TypeFromHeader = "header:"
	TypeFromPath   = "path:"
	TypeConst      = "const"
)

// Header returns the name of the header that has the type.
func (r TypeRule) Header() (name string, ok bool) { return strings.CutPrefix(r.From, TypeFromHeader) }

// Path returns the path that leads to the type in a JSON body, as text.
func (r TypeRule) Path() (path string, ok bool) { return strings.CutPrefix(r.From, TypeFromPath) }

// DefaultSource returns the configuration of a source on which nothing is set.
func DefaultSource() SourceConfig { return SourceConfig{Intake: DefaultIntake()} }

// Validate checks everything that a source says by itself, and returns all that is wrong with
// it, by the fields' paths in the API. What a provider's verification needs is for package
// signature to say, and whether a path can be parsed is for package jsonpath.
func (s *Source) Validate() []FieldError {
	var f fields
	f.name("name", s.Name)
	f.oneOf("state", string(s.State), string(SourceActive), string(SourceDisabled))
	f.intake(&s.Intake)
	f.typeRule(s.Type)
	return f
}

// CarriesCredentials reports whether a header of this name carries credentials, whoever sends it.
// The case of the name does not matter.
func CarriesCredentials(name string) bool {
	return strings.EqualFold(name, "Authorization") || strings.EqualFold(name, "Cookie") || strings.EqualFold(name, "Proxy-Authorization")
}

func (f *fields) typeRule(r TypeRule) {
	if r == (TypeRule{}) {
		return
	}
	if r.From == TypeConst {
		if TypeText(r.Value) == "" {
			f.add("type.value", "is needed with const, and must be %s", typeForm)
		}
		return
	}
	if r.Value != "" {
		f.add("type.value", "belongs to const")
	}
	if name, ok := r.Header(); ok {
		switch {
		case !validHeaderName(name):
			f.add("type.from", "must have the name of a header behind header:")
		case CarriesCredentials(name):
			f.add("type.from", "names a header that carries credentials, which would be stored and sent to others as the type")
		}
	} else if _, ok := r.Path(); !ok {
		f.add("type.from", "must be header:NAME, path:$.… or const")
	}
}

// maxType is the most bytes of an event's type.
const maxType = 255

// typeForm is the form of a type that TypeText accepts.
var typeForm = fmt.Sprintf("a type of 1 to %d printable ASCII characters without a space", maxType)

// TypeText returns a text that a sender gave as an event's type, "" if the text is not a valid type. A
// type is 1 to 255 printable ASCII characters without a space: providers have names such as
// orders/create.
func TypeText(s string) string {
	if len(s) > maxType || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// maxEventName is the greatest length, in bytes, of a name that a tenant chooses: a published event's type or a
// channel.
const maxEventName = 128

// nameForm is the form that ValidEventType and ValidChannel require.
var nameForm = fmt.Sprintf("1 to %d letters, digits, dots, underscores and hyphens", maxEventName)

// ValidEventType reports whether a text can be the type of a published event.
func ValidEventType(s string) bool {
	return s != "" && len(s) <= maxEventName && strings.Trim(s, nameAlphabet) == ""
}

// ValidChannel reports whether a text can be a channel of a published event.
func ValidChannel(s string) bool { return ValidEventType(s) }

const nameAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
