package kapsel

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// EventType is an entry of a tenant's catalogue: a type of the events that the tenant publishes.
type EventType struct {
	ID        EventTypeID // by which lists go; people know the name
	TenantID  TenantID
	Name      string // unique among the tenant's types
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // zero: not deleted
	Revision  int64     // of the settings counter, at the last change
	EventTypeConfig
}

// EventTypeConfig is what people set on an event type. The stores keep it as JSON.
type EventTypeConfig struct {
	Description string                     `json:"description,omitempty"`
	Group       string                     `json:"group,omitempty"`   // under which the catalogue shows it
	Schemas     map[string]json.RawMessage `json:"schemas,omitempty"` // JSON Schemas of the body, by version
	Validate    Validation                 `json:"validate"`
	Archived    bool                       `json:"archived,omitempty"`   // a closed catalogue refuses it
	Deprecated  bool                       `json:"deprecated,omitempty"` // to be shown only
}

// Validation says what happens to an event that matches none of its type's schemas.
type Validation string

// The values of Validation.
const (
	ValidateOff    Validation = "off"    // nothing is checked
	ValidateWarn   Validation = "warn"   // it is published, and the answer says what is wrong
	ValidateRefuse Validation = "refuse" // it is refused
)

// Bounds of event types.
const (
	MaxEventTypes = 1000     // of a tenant
	MaxSchema     = 32 << 10 // bytes of a schema

	maxVersions = 10 // schemas of a type
	maxVersion  = 32 // bytes of a schema's version
)

// Versions returns the versions of the type's schemas, the newest first. The numbers in a version
// count as numbers: 10 is newer than 9.
func (c *EventTypeConfig) Versions() []string {
	return slices.SortedFunc(maps.Keys(c.Schemas), func(a, b string) int { return compareVersions(b, a) })
}

// compareVersions compares versions by their parts between dots, underscores and hyphens.
func compareVersions(a, b string) int {
	separator := func(r rune) bool { return strings.ContainsRune("._-", r) }
	return slices.CompareFunc(strings.FieldsFunc(a, separator), strings.FieldsFunc(b, separator), func(x, y string) int {
		if digits := "0123456789"; strings.Trim(x, digits) == "" && strings.Trim(y, digits) == "" {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
		}
		return strings.Compare(x, y)
	})
}

// Check returns all that is wrong with an event type but for the schemas themselves, by the fields'
// paths in the API.
func (t *EventType) Check() []FieldError {
	var f fields
	if !ValidEventType(t.Name) || strings.Trim(t.Name, ".") == "" {
		f.add("name", "must be %s, not dots alone", nameForm)
	}
	f.text("description", t.Description, MaxDescription)
	if t.Group != "" {
		f.name("group", t.Group)
	}
	f.oneOf("validate", string(t.Validate), string(ValidateOff), string(ValidateWarn), string(ValidateRefuse))
	if len(t.Schemas) > maxVersions {
		f.add("schemas", "must be at most %d", maxVersions)
	}
	for _, version := range t.Versions() {
		if !ValidEventType(version) || len(version) > maxVersion {
			f.add("schemas", "must be named by versions of 1 to %d letters, digits, dots, underscores and hyphens", maxVersion)
		} else if len(t.Schemas[version]) > MaxSchema {
			f.add(SchemaField(version), "must have at most %d bytes", MaxSchema)
		}
	}
	return f
}

// SchemaField returns the path in the API of a schema of an event type.
func SchemaField(version string) string { return fmt.Sprintf("schemas.%s", version) }
