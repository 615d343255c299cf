package kapsel

import (
	"cmp"
	"net/url"
	"strings"
	"time"
)

// IngestPath is the path below which webhooks are posted. The ID of an endpoint or a source follows it.
const IngestPath = "/ingest/"

// Endpoint is an ingest URL and the destination that its webhooks go to.
type Endpoint struct {
	ID             EndpointID
	TenantID       TenantID
	Part           uint8 // PartOf(ID), of every event that comes in here
	State          EndpointState
	DisabledReason string // "", "gone" or "admin"
	CreatedAt      time.Time
	UpdatedAt      time.Time
	DeletedAt      time.Time // zero: not deleted
	Revision       int64     // of the settings counter, at the last change
	// Destination numbers the endpoint's destinations from 1: a change of the URL's scheme, host,
	// port or path begins the next. What is learned about one destination says nothing of another.
	Destination int
	// Replan is the revision of the last change after which waiting deliveries may be due too
	// late; zero once they have been rescheduled. See store.Replans.
	Replan int64
	EndpointConfig
}

// Follow notes on a changed endpoint what the change means beyond the fields that it set:
// whether a new destination begins, and whether waiting deliveries have to be rescheduled.
// from is the endpoint before the change, Revision that of the change. The stores call it.
func (e *Endpoint) Follow(from *Endpoint) {
	e.Destination, e.Replan = from.Destination, from.Replan
	moved := !SameDestination(from.URL, e.URL)
	if moved {
		e.Destination++
	}
	if moved || !e.Retry.Equal(from.Retry) {
		e.Replan = e.Revision
	}
}

// SameDestination reports whether two URLs have the same scheme, host, port and path.
func SameDestination(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	if errX != nil || errY != nil {
		return false
	}
	port := func(u *url.URL) string {
		if u.Port() == "" {
			return map[string]string{"http": "80", "https": "443"}[u.Scheme] // Parse lowers the scheme
		}
		return u.Port()
	}
	return x.Scheme == y.Scheme && strings.EqualFold(x.Hostname(), y.Hostname()) && port(x) == port(y) &&
		cmp.Or(x.EscapedPath(), "/") == cmp.Or(y.EscapedPath(), "/")
}

// EndpointState says whether deliveries may start. Ingest accepts in every state.
type EndpointState string

// The states: a person pauses; 410 from the destination or the admin key disables.
const (
	EndpointActive   EndpointState = "active"
	EndpointPaused   EndpointState = "paused"
	EndpointDisabled EndpointState = "disabled"
)

// The reasons for EndpointDisabled.
const (
	DisabledGone  = "gone"
	DisabledAdmin = "admin"
)

// EndpointConfig is what people set on an endpoint. The stores keep it as JSON; its secrets
// are sealed (see Secret).
type EndpointConfig struct {
	Name        string `json:"name"`
	URL         string `json:"url"`
	Description string `json:"description,omitempty"`
	// UID is the tenant's own id of it, unique among the endpoints of its app, or among those without
	// one; "": none. The stores keep it in a column of its own.
	UID      string            `json:"-"`
	Metadata map[string]string `json:"metadata,omitempty"` // texts of the tenant's own
	Intake
	Retry        RetryPolicy   `json:"retry"`
	RetryOn      []int         `json:"retry_on,omitempty"`
	Timeout      time.Duration `json:"timeout"` // of a whole exchange
	RateLimit    *RateLimit    `json:"rate_limit,omitempty"`
	Concurrency  int           `json:"concurrency"`
	Circuit      CircuitPolicy `json:"circuit"`
	Headers      HeaderPolicy  `json:"headers"`
	Signing      Signing       `json:"signing"`
	ForwardQuery bool          `json:"forward_query,omitempty"` // the query that an event came with is sent along

	Subscriptions []Subscription `json:"subscriptions,omitempty"`
	NoIngest      bool           `json:"no_ingest,omitempty"` // fixed when the endpoint is made; see Ingests
	// Shared is set once an event of this endpoint's ingest may go to another endpoint, and stays.
	// The stores set it.
	Shared bool `json:"shared,omitempty"`
	// AppID is the app that the endpoint belongs to, fixed when the endpoint is made; zero: none. The
	// stores keep it in a column of its own.
	AppID AppID `json:"-"`
}

// Intake says what becomes of what is sent to an ingest URL, an endpoint's or a source's.
type Intake struct {
	Verification Verification `json:"verification"`
	Challenge    *Challenge   `json:"challenge,omitempty"` // nil: none but the provider's own
	Probe        bool         `json:"probe,omitempty"`     // GET and HEAD are answered 200
	Response     *Response    `json:"response,omitempty"`  // to accepted webhooks; nil: the provider's, or the usual one
	Idempotency  Idempotency  `json:"idempotency"`
	// ExpectEvery is how long nothing may come in before a notice says so; zero: any time.
	ExpectEvery time.Duration `json:"expect_every,omitempty"`
}

// Bounds of Intake.ExpectEvery.
const (
	MinExpect = time.Minute
	MaxExpect = 720 * time.Hour
)

// DefaultIntake returns the intake of an ingest URL on which nothing is set.
func DefaultIntake() Intake {
	return Intake{Idempotency: Idempotency{Strategy: KeyFromHeader, Window: 24 * time.Hour}}
}

// Secret is a secret at rest. Sealed is opened with the tenant's data key, bound to the
// tenant, the object that holds it, and the secret's id.
type Secret struct {
	ID        SecretID  `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // end of a rotation's overlap; zero: none
	Sealed    []byte    `json:"sealed"`
}

// Verification says how a provider signs what it sends. Provider "" or "none": it does not.
type Verification struct {
	Provider    string        `json:"provider,omitempty"`
	Secrets     []Secret      `json:"secrets,omitempty"`
	Tolerance   time.Duration `json:"tolerance,omitempty"`    // 0: the provider's default
	VerifyToken *Secret       `json:"verify_token,omitempty"` // answers challenges; verifies no signature

	// Of providers that bring the secret themselves, with a handshake. The first is until when one
	// is accepted, the second until when its secret is shown to who may write; zero: not at all.
	AwaitingUntil time.Time `json:"awaiting_until,omitzero"`
	ShownUntil    time.Time `json:"shown_until,omitzero"`

	// For provider "hmac" only; "" where the default holds.
	Header      string `json:"header,omitempty"`
	Algorithm   string `json:"algorithm,omitempty"`
	Encoding    string `json:"encoding,omitempty"`
	Prefix      string `json:"prefix,omitempty"`
	Signed      string `json:"signed,omitempty"` // a template of what is signed
	Format      string `json:"format,omitempty"`
	TimeHeader  string `json:"time_header,omitempty"`
	TimeUnit    string `json:"time_unit,omitempty"`
	KeyEncoding string `json:"key_encoding,omitempty"`
	Decompress  bool   `json:"decompress,omitempty"`

	In        string   `json:"in,omitempty"`         // for provider "token" only: where the secret is
	TopicARNs []string `json:"topic_arns,omitempty"` // for provider "aws-sns" only
	Audience  string   `json:"audience,omitempty"`   // for provider "google-oidc" only
	Email     string   `json:"email,omitempty"`      // for provider "google-oidc" only
}

// Challenge says what a sender asks a URL before the first event, and how that is answered, for
// senders that are no provider with a name.
type Challenge struct {
	From string `json:"from"` // query:NAME, json:$.NAME or header:NAME
	To   string `json:"to"`   // body, json:NAME or header:NAME
}

// Response is what senders of accepted webhooks are answered.
type Response struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type"` // NoContentType, text/plain or application/json
	Body        string `json:"body,omitempty"`
}

// NoContentType stands for an answer without a content type.
const NoContentType = "none"

// Idempotency says where an event's key comes from and how long it is remembered.
type Idempotency struct {
	Strategy string        `json:"strategy"` // one of the strategies below
	Header   string        `json:"header,omitempty"`
	Path     string        `json:"path,omitempty"`
	Window   time.Duration `json:"window"`
}

// The idempotency strategies.
const (
	KeyFromHeader   = "header"    // the first header that names one; the default
	KeyFromContent  = "content"   // SHA-256 of the body
	KeyFromSourceID = "source_id" // a path into a JSON body
	KeyNone         = "none"
)

// RateLimit is a token bucket for the start of exchanges.
type RateLimit struct {
	PerSecond float64 `json:"per_second"`
	Burst     int     `json:"burst"`
}

// HeaderPolicy changes what is sent along. Set holds sealed values by header name.
type HeaderPolicy struct {
	Set  map[string]Secret `json:"set,omitempty"`
	Drop []string          `json:"drop,omitempty"`
	Keep []string          `json:"keep,omitempty"`
}

// Signing says whether and with which secrets deliveries are signed (Standard Webhooks).
// Until an overlap ends, a delivery carries a signature of each secret. V1a adds a signature
// that is verified with a public key (Ed25519) to each HMAC; it costs a fifth of the CPU that
// a delivery takes, so it is asked for.
type Signing struct {
	Enabled bool     `json:"enabled"`
	V1a     bool     `json:"v1a,omitempty"`
	Secrets []Secret `json:"secrets,omitempty"`
}

// DefaultEndpoint returns the policy of an endpoint that sets nothing.
func DefaultEndpoint() EndpointConfig {
	return EndpointConfig{
		Intake:      DefaultIntake(),
		Retry:       DefaultRetry(),
		Timeout:     30 * time.Second,
		Concurrency: 100,
		Circuit:     DefaultCircuit(),
		Signing:     Signing{Enabled: true},
	}
}
