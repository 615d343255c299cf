package api

import (
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// SecretInput is a secret in a request: its text, or the ID of a secret that the endpoint has and
// keeps. So callers rotate a provider's secret by adding the new one; they need not know the former
// secret, which cannot be read.
type SecretInput struct {
	ID kapsel.SecretID `json:"id"`

	keeps bool        // the input names a secret by ID
	text  secret.Text // the secret, if keeps is false
}

// orText lets checkShape take a string in place of the object.
func (SecretInput) orText() {}

// UnmarshalJSON reads a string or an object with an ID.
func (s *SecretInput) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		var text string
		err := json.Unmarshal(b, &text)
		*s = SecretInput{text: secret.NewText(text)}
		return err
	}
	var object struct{ ID kapsel.SecretID }
	err := json.Unmarshal(b, &object)
	*s = SecretInput{ID: object.ID, keeps: true}
	return err
}

// MarshalJSON writes an ID as it is. It writes a text redacted.
func (s SecretInput) MarshalJSON() ([]byte, error) {
	if s.keeps {
		return json.Marshal(map[string]kapsel.SecretID{"id": s.ID})
	}
	return json.Marshal(s.text)
}

// Schema implements huma.SchemaProvider.
func (SecretInput) Schema(r huma.Registry) *huma.Schema {
	id := r.Schema(reflect.TypeFor[kapsel.SecretID](), true, "")
	id.Description = "Of a secret that the endpoint has: it stays"
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeString, Description: "A secret as the provider gives it out"},
		{Type: huma.TypeObject, Properties: map[string]*huma.Schema{"id": id}, Required: []string{"id"}, AdditionalProperties: false},
	}}
}

// setting returns what the input says.
func (s SecretInput) setting() manage.SecretSetting {
	return manage.SecretSetting{Keep: s.keeps, ID: s.ID, Text: s.text}
}
