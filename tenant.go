package kapsel

import "time"

// Tenant is the unit of isolation: every key, endpoint, event and delivery belongs to one tenant.
type Tenant struct {
	ID        TenantID
	Name      string
	Plan      string // a key of Plans
	Limits    Limits // set for this tenant alone; Effective returns those in force
	Audit     AuditSettings
	DataKey   []byte // seals the tenant's secrets; stored wrapped with the instance's key
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // zero: not deleted
	Revision  int64     // value of the settings counter at the last change
}

// Limits bounds what a tenant may use. A nil field takes the plan's value, and no limit if the
// plan has none. If Own is set, these limits replace the plan's as a whole, and a nil field means
// no limit.
type Limits struct {
	Own             bool           `json:"own,omitempty"`
	IngestPerSecond *float64       `json:"ingest_per_second,omitempty"`
	IngestBurst     *int           `json:"ingest_burst,omitempty"`
	Endpoints       *int           `json:"endpoints,omitempty"`
	EventsPerMonth  *int64         `json:"events_per_month,omitempty"`
	Retention       *time.Duration `json:"retention,omitempty"`
	ClosedCatalogue bool           `json:"closed_catalogue,omitempty"` // only types in the tenant's catalogue are published
}

// AuditSettings are what is set on a tenant's audit log.
type AuditSettings struct {
	// Private closes the routes that show the log's heads and hashes to who knows its ID, but for callers
	// with a key. Witnesses get its heads all the same.
	Private bool `json:"private,omitempty"`
	// Witnesses is how many witnesses must have signed a head; nil: as many as the instance wants. 0: none is
	// asked.
	Witnesses *int `json:"witnesses,omitempty"`
	// Retention is how long the texts of leaves are kept; nil: DefaultAuditRetention.
	Retention *time.Duration `json:"retention,omitempty"`
}

// DefaultAuditRetention is how long the texts of an audit log's leaves are kept if the tenant does not say:
// seven years.
const DefaultAuditRetention = 7 * 365 * 24 * time.Hour

// Kept returns how long the texts of leaves are kept. The log of a deleted tenant is kept as long after the
// deletion.
func (s *AuditSettings) Kept() time.Duration {
	if s.Retention != nil {
		return *s.Retention
	}
	return DefaultAuditRetention
}

// MaxWitnesses is how many witnesses a log can want.
const MaxWitnesses = 20

// DefaultRetention is how long ended events are kept if neither the tenant nor its plan sets a
// limit.
const DefaultRetention = 90 * 24 * time.Hour

// Retention returns how long the tenant's ended events are kept.
func (t *Tenant) Retention() time.Duration {
	if r := t.Effective().Retention; r != nil {
		return *r
	}
	return DefaultRetention
}

// LogUntil returns how long the audit log of a deleted tenant is kept: as long as the texts of its leaves, and
// at least as long as its events.
func (t *Tenant) LogUntil() time.Time { return t.DeletedAt.Add(max(t.Audit.Kept(), t.Retention())) }

// Scope says what an API key may do.
type Scope string

// The scopes. A read key may GET everything of its own tenant; a write key may use every other
// method, too. A ledger key is of no tenant, and books: it opens what kapsel-ledger needs, and nothing else.
const (
	ScopeRead  Scope = "read"
	ScopeWrite Scope = "write"

	ScopeLedger Scope = "ledger"
)

// Key is an API key of a tenant, or of the instance. Its secret is shown once and never stored; Hash is the secret's SHA-256.
type Key struct {
	ID         KeyID
	TenantID   TenantID // zero: it is the instance's
	Name       string
	Scope      Scope
	Prefix     string // first 8 characters of the secret, for people to recognise it
	Hash       [32]byte
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never
	RevokedAt  time.Time // zero: not revoked
	Revision   int64
}

// Valid reports whether the key is neither revoked nor expired at now.
func (k *Key) Valid(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}
