package kapsel

import "time"

// Tenant is the unit of isolation: keys, endpoints, events and all below belong to one.
type Tenant struct {
	ID        TenantID
	Name      string
	Plan      string // a key of Plans
	Limits    Limits // as set for this tenant alone; see Effective
	DataKey   []byte // seals the tenant's secrets; itself wrapped by the instance's key
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // zero: not deleted
	Revision  int64     // of the settings counter, at the last change
}

// Limits bound what a tenant may use. A nil field is not set: the plan's value holds, and
// where the plan has none, there is no limit. Own limits replace the plan's as a whole, so
// there a nil field is no limit.
type Limits struct {
	Own             bool           `json:"own,omitempty"`
	IngestPerSecond *float64       `json:"ingest_per_second,omitempty"`
	IngestBurst     *int           `json:"ingest_burst,omitempty"`
	Endpoints       *int           `json:"endpoints,omitempty"`
	EventsPerMonth  *int64         `json:"events_per_month,omitempty"`
	Retention       *time.Duration `json:"retention,omitempty"`
}

// DefaultRetention is how long finished events are kept where no limit says otherwise.
const DefaultRetention = 90 * 24 * time.Hour

// Retention is how long the tenant's finished events are kept.
func (t *Tenant) Retention() time.Duration {
	if r := t.Effective().Retention; r != nil {
		return *r
	}
	return DefaultRetention
}

// Scope is what a key may do.
type Scope string

// The scopes: read is every GET of the own tenant; write is also every other verb.
const (
	ScopeRead  Scope = "read"
	ScopeWrite Scope = "write"
)

// Key is an API key. Its secret is shown once and never stored: Hash is its SHA-256.
type Key struct {
	ID         KeyID
	TenantID   TenantID
	Name       string
	Scope      Scope
	Prefix     string // the secret's first 8 characters, to recognise it by
	Hash       [32]byte
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never
	RevokedAt  time.Time // zero: not revoked
	Revision   int64
}

// Valid reports whether the key opens anything at a time.
func (k *Key) Valid(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}
