package kapsel

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// App is a customer of a tenant. Events are published to it, and its endpoints get those and no
// others.
type App struct {
	ID        AppID
	TenantID  TenantID
	UID       string // the tenant's own id of it, unique among the tenant's apps; "": none
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // zero: not deleted
	Revision  int64     // of the settings counter, at the last change
	AppConfig
}

// AppConfig is what people set on an app beside its uid. The stores keep it as JSON.
type AppConfig struct {
	Name      string            `json:"name"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	RateLimit *RateLimit        `json:"rate_limit,omitempty"` // of publishing to it; nil: none
}

// NoApp returns the error for a request with a field that names an app that the tenant does not have.
func NoApp(field string) *Error {
	return &Error{
		Code: InvalidRequest, Status: 422, Detail: "the tenant has no such app",
		Fields: []FieldError{{Field: field, Detail: "is no app of the tenant; give the id or the uid of one"}},
	}
}

// Bounds of a uid and of metadata.
const (
	maxUID      = 255 // bytes
	maxMetadata = 50  // entries
	maxMetaName = 100 // characters
	maxMetaText = 500 // characters of a value
)

// uidForm is what ValidUID asks for.
var uidForm = fmt.Sprintf("1 to %d letters, digits, dots, underscores and hyphens, and not in the form of an id", maxUID)

// ValidUID reports whether a text can be the uid of an app or an endpoint. What has the form of an ID of any kind
// cannot, nor can . and .., which would not stand in the path of a URL.
func ValidUID(s string) bool {
	return s != "" && len(s) <= maxUID && strings.Trim(s, nameAlphabet) == "" && s != "." && s != ".." && !idForm(s)
}

// idForm reports whether a text has the form of an ID of some kind.
func idForm(s string) bool {
	i := strings.LastIndexByte(s, '_')
	return i > 0 && strings.Trim(s[:i], "abcdefghijklmnopqrstuvwxyz_") == "" &&
		len(s)-i == 27 && s[i+1] <= '7' && strings.Trim(s[i+1:], base32) == ""
}

// Validate returns all that is wrong with an app, by the fields' paths in the API.
func (a *App) Validate() []FieldError {
	var f fields
	f.name("name", a.Name)
	f.uid(a.UID)
	f.rateLimit(a.RateLimit)
	f.metadata(a.Metadata)
	return f
}

// uid checks the field uid; "" is none.
func (f *fields) uid(s string) {
	if s != "" && !ValidUID(s) {
		f.add("uid", "must be %s", uidForm)
	}
}

// metadata checks the field metadata.
func (f *fields) metadata(texts map[string]string) {
	if len(texts) > maxMetadata {
		f.add("metadata", "must have at most %d entries", maxMetadata)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if name == "" || utf8.RuneCountInString(name) > maxMetaName || strings.ContainsFunc(name, unicode.IsControl) {
			f.add("metadata", "must have names of 1 to %d characters, none of them a control character", maxMetaName)
			return
		}
		f.text("metadata."+name, texts[name], maxMetaText)
	}
}
