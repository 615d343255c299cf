package api

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// duration is a Go duration string in JSON: "30s", "24h".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return errors.New("must be a duration such as 500ms, 30s or 24h")
	}
	*d = duration(v)
	return nil
}

// Schema says what the type is in the OpenAPI document.
func (duration) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: `^-?([0-9.]+(ns|us|µs|ms|s|m|h))+$|^0$`, Description: anyDuration, Examples: []any{anyDurationExample}}
}

// timestamp is a time in JSON: RFC 3339, UTC, milliseconds.
type timestamp time.Time

func (t timestamp) MarshalText() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z07:00"), nil
}

// The years of times, in UTC, that other programs and all databases can hold, too.
const firstYear, lastYear = 2000, 2099

var (
	errTime = errors.New("must be a time such as 2026-01-31T12:00:00Z")
	errYear = fmt.Errorf("must be a time of the years %d to %d", firstYear, lastYear)
)

// UnmarshalText reads an RFC 3339 time of any offset. It fails if the year in UTC is not firstYear
// to lastYear.
func (t *timestamp) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return errTime
	}
	if v = v.UTC(); v.Year() < firstYear || v.Year() > lastYear {
		return errYear
	}
	*t = timestamp(v)
	return nil
}

// Schema says what the type is in the OpenAPI document.
func (timestamp) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time"}
}

// orNull returns a pointer to v, or nil, which is null in JSON, for the zero value.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// timeOrNull returns t as a timestamp, or nil, which is null in JSON, for the zero time.
func timeOrNull(t time.Time) *timestamp {
	if t.IsZero() {
		return nil
	}
	v := timestamp(t)
	return &v
}

// Secret identifies a secret in an answer. It does not hold the secret's text.
type Secret struct {
	ID        kapsel.SecretID `json:"id"`
	CreatedAt timestamp       `json:"created_at"`
}

func viewSecret(s kapsel.Secret) Secret { return Secret{s.ID, timestamp(s.CreatedAt)} }

func viewSecrets(list []kapsel.Secret) []Secret {
	views := make([]Secret, len(list))
	for i, s := range list {
		views[i] = viewSecret(s)
	}
	return views
}

// lines holds header fields in order: [["Name","value"],…].
type lines [][]string

// linesOf returns a header's fields in order. It redacts the values of fields that carry
// credentials, and replaces bytes that are not UTF-8.
func linesOf(h kapsel.Header) lines {
	l := make(lines, len(h))
	for i, f := range h {
		if secret.InHeader(f.Name) {
			f.Value = secret.Redacted
		}
		l[i] = []string{strings.ToValidUTF8(f.Name, "\uFFFD"), strings.ToValidUTF8(f.Value, "\uFFFD")}
	}
	return l
}
