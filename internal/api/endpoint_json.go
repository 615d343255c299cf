package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// EndpointInput is what people set on an endpoint.
type EndpointInput struct {
	Name        string   `json:"name" minLength:"1" maxLength:"200"`
	URL         string   `json:"url" format:"uri" maxLength:"2048" doc:"Where the webhooks go"`
	Description string   `json:"description" required:"false" maxLength:"2000"`
	UID         *string  `json:"uid,omitempty" required:"false" maxLength:"255" pattern:"^[A-Za-z0-9._-]+$" doc:"Your own id of it, not in the form of an id; unique among the endpoints of its app, or among those without one"`
	Metadata    metadata `json:"metadata,omitempty" required:"false" doc:"At most 50 texts of your own. PATCH changes single names; null takes one away"`
	IntakeInput
	Retry        Retry         `json:"retry" required:"false"`
	RetryOn      []int         `json:"retry_on" required:"false" minimum:"300" maximum:"599" maxItems:"300" doc:"Statuses that are retried beside 408, 425, 429 and 5xx"`
	Timeout      duration      `json:"timeout" required:"false" doc:"Of a whole exchange, 1s to 300s; 30s by default"`
	RateLimit    *RateLimit    `json:"rate_limit" required:"false" doc:"How fast exchanges start; none without it"`
	Concurrency  int           `json:"concurrency" required:"false" minimum:"1" maximum:"1000" default:"100"`
	Circuit      CircuitPolicy `json:"circuit" required:"false"`
	Headers      HeadersInput  `json:"headers" required:"false"`
	Signing      SigningInput  `json:"signing" required:"false"`
	ForwardQuery bool          `json:"forward_query" required:"false" doc:"Send the query along that a webhook came with"`

	App           *string        `json:"app,omitempty" required:"false" maxLength:"255" example:"acme" doc:"The app that it belongs to, by id or uid, for ever: it gets what is published to the app, and nothing else. Needs subscriptions, of publish only"`
	Subscriptions []Subscription `json:"subscriptions,omitempty" required:"false" maxItems:"50" doc:"Whose events it gets beside those of its own ingest. An endpoint that is made with this field, an empty list included, has no ingest"`
}

// Subscription is whose events an endpoint gets.
type Subscription struct {
	Source     string   `json:"source" example:"src_01hf6b2z6ye0ar00000000000a" doc:"A source (src_…), an endpoint with an ingest (ep_…), or publish for what the tenant publishes"`
	EventTypes []string `json:"event_types,omitempty" required:"false" maxItems:"200" doc:"Only events of these types: a type, or its beginning and .* at the end; empty: all"`
	Channels   []string `json:"channels,omitempty" required:"false" maxItems:"10" doc:"Only events with one of these channels; empty: all"`
}

// EndpointPatch is what PATCH takes; the admin key may set the state too.
type EndpointPatch struct {
	EndpointInput
	State kapsel.EndpointState `json:"state" required:"false" enum:"active,paused,disabled" doc:"With the admin key only"`
}

type VerificationInput struct {
	Provider  string        `json:"provider" required:"false" default:"none" doc:"Who signs; /v1/providers lists them"`
	Secrets   []SecretInput `json:"secrets" required:"false" maxItems:"10" doc:"All that are valid from now on, replaced as a whole: texts, and {\"id\":\"sec_…\"} for one that is there and stays"`
	Tolerance *duration     `json:"tolerance" required:"false" doc:"How long ago a signed time may be, 1s to 96h, and at most 5m ahead; the provider's usual one by default"`
	// VerifyToken is of use where the provider has one. It answers challenges and verifies nothing.
	VerifyToken *secret.Text `json:"verify_token" required:"false" doc:"For meta: what the provider asks for before the first event; it verifies no signature"`
	// AwaitingHandshake opens a window if true, and closes it if false.
	AwaitingHandshake *bool    `json:"awaiting_handshake" required:"false" doc:"For asana and notion: for 10 minutes accept the handshake that brings the secret, if there is none"`
	Header            string   `json:"header" required:"false" doc:"For hmac: X-Webhook-Signature by default"`
	Algorithm         string   `json:"algorithm" required:"false" enum:"sha256,sha512,sha1" doc:"For hmac"`
	Encoding          string   `json:"encoding" required:"false" enum:"hex,base64" doc:"For hmac: of the signature"`
	Prefix            string   `json:"prefix" required:"false" doc:"For hmac: what stands before a signature; with the format pairs its key, v1= by default"`
	Signed            string   `json:"signed" required:"false" doc:"For hmac: what is signed, a text with {body} and any of {time} {id} {url} {method} {header:Name}; {body} by default"`
	Format            string   `json:"format" required:"false" enum:"plain,pairs,list" doc:"For hmac, of the header: one signature, pairs such as t=1,v1=ab, or a list of signatures"`
	TimeHeader        string   `json:"time_header" required:"false" doc:"For hmac: the header that has the signed time"`
	TimeUnit          string   `json:"time_unit" required:"false" enum:"seconds,milliseconds,rfc3339" doc:"For hmac: of the signed time"`
	KeyEncoding       string   `json:"key_encoding" required:"false" enum:"text,hex,base64" doc:"For hmac: how the secret is written"`
	Decompress        bool     `json:"decompress" required:"false" doc:"For hmac: a body with a Content-Encoding is signed as it is when decoded"`
	In                string   `json:"in" required:"false" doc:"For token: where the secret is, header:NAME, basic or query:NAME"`
	TopicARNs         []string `json:"topic_arns" required:"false" maxItems:"50" doc:"For aws-sns: the topics whose messages count"`
	Audience          string   `json:"audience" required:"false" doc:"For google-oidc: the audience of tokens that count"`
	Email             string   `json:"email" required:"false" doc:"For google-oidc: the service account of tokens that count"`
}

// Challenge is where a sender's challenge is, and where the answer has it.
type Challenge struct {
	From string `json:"from" doc:"query:NAME, json:$.NAME (a member of a small object of strings) or header:NAME"`
	To   string `json:"to" doc:"body (as text), json:NAME or, with the same header in from, header:NAME"`
}

// Response is what accepted webhooks are answered. Handshakes have answers of their own.
type Response struct {
	Status      *int    `json:"status" required:"false" enum:"200,201,202,204" default:"200"`
	ContentType *string `json:"content_type" required:"false" enum:"none,text/plain,application/json" default:"none"`
	Body        string  `json:"body" required:"false" maxLength:"4096" doc:"At most 4 KiB of UTF-8; none for 204"`
}

func viewResponse(r *kapsel.Response) *Response {
	if r == nil {
		return nil
	}
	return &Response{&r.Status, &r.ContentType, r.Body}
}

// config returns the response in the domain's form, with defaults filled in.
func (r *Response) config() *kapsel.Response {
	if r == nil {
		return nil
	}
	c := &kapsel.Response{Status: http.StatusOK, ContentType: kapsel.NoContentType, Body: r.Body}
	if r.Status != nil {
		c.Status = *r.Status
	}
	if r.ContentType != nil {
		c.ContentType = *r.ContentType
	}
	return c
}

type Idempotency struct {
	Strategy string   `json:"strategy" required:"false" enum:"header,content,source_id,none" default:"header"`
	Header   string   `json:"header" required:"false" doc:"Looked at before X-Idempotency-Key and Idempotency-Key"`
	Path     string   `json:"path" required:"false" doc:"For source_id, such as $.data.id"`
	Window   duration `json:"window" required:"false" doc:"How long a key is remembered, 1m to 720h; 24h by default"`
}

type Retry struct {
	Strategy    string     `json:"strategy" required:"false" enum:"exponential,linear,fixed,schedule" default:"exponential"`
	MaxAttempts int        `json:"max_attempts" required:"false" minimum:"1" maximum:"100" default:"20"`
	Base        duration   `json:"base" required:"false" doc:"100ms to 1h; 1s by default"`
	Max         duration   `json:"max" required:"false" doc:"At most 24h; 4h by default"`
	Schedule    []duration `json:"schedule" required:"false" maxItems:"100" doc:"For the strategy schedule; the last entry repeats"`
}

type RateLimit struct {
	PerSecond float64 `json:"per_second" exclusiveMinimum:"0"`
	Burst     int     `json:"burst" minimum:"1"`
}

type CircuitPolicy struct {
	Enabled   bool     `json:"enabled" required:"false" default:"true" doc:"false: the circuit never opens"`
	Failures  int      `json:"failures" required:"false" default:"5" doc:"In a row that open it while the window's last 60 s hold no success; twice as many do in any case"`
	Ratio     float64  `json:"ratio" required:"false" default:"0.8" doc:"Of failures that opens it: of the window's exchanges, or of the probes"`
	Window    int      `json:"window" required:"false" default:"20" doc:"Exchanges looked back at, of the last 60 s"`
	Minimum   int      `json:"minimum" required:"false" default:"10" doc:"Failures in the window, or probes, before the ratio counts"`
	OpenFor   duration `json:"open_for" required:"false" doc:"Before the first probe; 30s by default"`
	Successes int      `json:"successes" required:"false" default:"3" doc:"Of probes that close it, if fewer than ratio failed"`
}

type HeadersInput struct {
	Set  map[string]*secret.Text `json:"set" required:"false" doc:"At most 32. PATCH changes single names; null takes one away"`
	Drop []string                `json:"drop" required:"false" maxItems:"32"`
	Keep []string                `json:"keep" required:"false" maxItems:"32" doc:"Headers that are left out otherwise, such as Authorization"`
}

type SigningInput struct {
	Enabled bool `json:"enabled" required:"false" default:"true"`
	V1a     bool `json:"v1a" required:"false" doc:"Also sign with Ed25519 (v1a): receivers verify with the public keys of /v1/signing-keys and hold no secret"`
}

type RotateInput struct {
	Overlap duration `json:"overlap" required:"false" doc:"How long deliveries carry the former signature too, 0s to 168h; 24h by default"`
}

// inputOf returns an endpoint's settings as its owner would write them, without the secrets.
func inputOf(s manage.EndpointSettings) EndpointInput {
	c := s.Config
	r := c.Retry
	in := EndpointInput{
		Name: c.Name, URL: c.URL, Description: c.Description, UID: s.UID, Metadata: metadataOf(c.Metadata),
		IntakeInput: intakeOf(c.Intake), ForwardQuery: c.ForwardQuery,
		Retry:       Retry{r.Strategy, r.MaxAttempts, duration(r.Base), duration(r.Max), mapped(r.Schedule, func(d time.Duration) duration { return duration(d) })},
		RetryOn:     orEmpty(c.RetryOn),
		Timeout:     duration(c.Timeout),
		RateLimit:   (*RateLimit)(c.RateLimit),
		Concurrency: c.Concurrency,
		Circuit:     circuitOf(c.Circuit),
		Headers:     HeadersInput{Drop: orEmpty(c.Headers.Drop), Keep: orEmpty(c.Headers.Keep)},
		Signing:     SigningInput{c.Signing.Enabled, c.Signing.V1a},
		App:         s.App,
	}
	if len(c.Subscriptions) > 0 { // a list that is there makes an endpoint without an ingest
		in.Subscriptions = mapped(c.Subscriptions, func(s kapsel.Subscription) Subscription { return Subscription(s) })
	}
	return in
}

// settings returns what the input says; patch is the one that led to it, nil without one.
func (in *EndpointInput) settings(patch map[string]any) manage.EndpointSettings {
	s := manage.EndpointSettings{Config: in.config(), UID: in.UID, App: in.App, Secrets: in.secrets(patch), Headers: manage.HeaderValues{Set: in.Headers.Set}}
	if set, there := said(patch, "headers", "set"); there {
		names, isObject := set.(map[string]any)
		s.Headers = manage.HeaderValues{Clear: !isObject, Set: map[string]*secret.Text{}}
		for name := range names {
			s.Headers.Set[name] = in.Headers.Set[name] // nil: taken away
		}
	}
	return s
}

func circuitOf(p kapsel.CircuitPolicy) CircuitPolicy {
	return CircuitPolicy{!p.Disabled, p.Failures, p.Ratio, p.Window, p.Minimum, duration(p.OpenFor), p.Successes}
}

// config returns the input in the domain's form, without the secrets.
func (in *EndpointInput) config() kapsel.EndpointConfig {
	r, c := in.Retry, in.Circuit
	config := kapsel.EndpointConfig{
		Name: in.Name, URL: in.URL, Description: in.Description, Metadata: in.Metadata.texts(),
		Intake:       in.IntakeInput.config(),
		ForwardQuery: in.ForwardQuery,
		Retry: kapsel.RetryPolicy{
			Strategy: r.Strategy, MaxAttempts: r.MaxAttempts, Base: time.Duration(r.Base), Max: time.Duration(r.Max),
			Schedule: mapped(r.Schedule, func(d duration) time.Duration { return time.Duration(d) }),
		},
		RetryOn:     in.RetryOn,
		Timeout:     time.Duration(in.Timeout),
		RateLimit:   (*kapsel.RateLimit)(in.RateLimit),
		Concurrency: in.Concurrency,
		Circuit: kapsel.CircuitPolicy{
			Disabled: !c.Enabled, Failures: c.Failures, Ratio: c.Ratio, Window: c.Window, Minimum: c.Minimum, OpenFor: time.Duration(c.OpenFor), Successes: c.Successes,
		},
		Headers: kapsel.HeaderPolicy{Drop: in.Headers.Drop, Keep: in.Headers.Keep},
		Signing: kapsel.Signing{Enabled: in.Signing.Enabled, V1a: in.Signing.V1a},
	}
	if in.Subscriptions != nil {
		config.Subscriptions = mapped(in.Subscriptions, func(s Subscription) kapsel.Subscription { return kapsel.Subscription(s) })
	}
	return config
}

// Endpoint is an endpoint as the API shows it.
type Endpoint struct {
	ID              kapsel.EndpointID    `json:"id"`
	TenantID        kapsel.TenantID      `json:"tenant_id"`
	Name            string               `json:"name"`
	URL             string               `json:"url"`
	Description     string               `json:"description"`
	UID             *string              `json:"uid" nullable:"true" doc:"Your own id of it; null: none"`
	Metadata        map[string]string    `json:"metadata" doc:"Texts of your own"`
	State           kapsel.EndpointState `json:"state" enum:"active,paused,disabled"`
	DisabledReason  *string              `json:"disabled_reason" nullable:"true" doc:"gone: the destination answered 410; admin: the operator did"`
	IngestURL       *string              `json:"ingest_url" nullable:"true" doc:"Where the provider posts to; null: the endpoint has no ingest"`
	App             *kapsel.AppID        `json:"app" nullable:"true" doc:"The app that it belongs to; null: none"`
	Subscriptions   []Subscription       `json:"subscriptions" doc:"Whose events it gets beside those of its own ingest"`
	Verification    Verification         `json:"verification"`
	Challenge       *Challenge           `json:"challenge" required:"false" doc:"null: none but the provider's own"`
	Probe           bool                 `json:"probe"`
	Response        *Response            `json:"response" required:"false" doc:"null: what the provider wants, or the event's id"`
	Idempotency     Idempotency          `json:"idempotency"`
	ExpectEvery     *duration            `json:"expect_every" nullable:"true" doc:"How long nothing may come in before a notice says so; null: any time"`
	Retry           Retry                `json:"retry"`
	RetryOn         []int                `json:"retry_on"`
	Timeout         duration             `json:"timeout"`
	RateLimit       *RateLimit           `json:"rate_limit" required:"false"`
	Concurrency     int                  `json:"concurrency"`
	Circuit         Circuit              `json:"circuit"`
	Headers         Headers              `json:"headers"`
	Signing         Signing              `json:"signing"`
	ForwardQuery    bool                 `json:"forward_query"`
	Backlog         *int                 `json:"backlog" nullable:"true" doc:"Waiting deliveries: exact below 100, from there up to 15 s old and counted up to 10,000; null: not known"`
	OldestWaitingAt *timestamp           `json:"oldest_waiting_at" nullable:"true" doc:"When the oldest of them is due"`
	ThrottledUntil  *timestamp           `json:"throttled_until" nullable:"true" doc:"Nothing is sent before, because the destination asked for it (429 with Retry-After); null: it did not"`
	Warnings        []string             `json:"warnings"`
	CreatedAt       timestamp            `json:"created_at"`
	UpdatedAt       timestamp            `json:"updated_at"`
}

// TransformSchema says that rate_limit, challenge and response may be null.
func (Endpoint) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(mayBeNull(mayBeNull(s, "rate_limit"), "challenge"), "response")
}

// TransformSchema is as Endpoint's, and says that uid may be null, too.
func (EndpointInput) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["uid"].Nullable = true
	return mayBeNull(mayBeNull(mayBeNull(s, "rate_limit"), "challenge"), "response")
}

// NewEndpoint is an endpoint in an answer that has its new signing secret.
type NewEndpoint struct {
	Endpoint
	SigningSecret string `json:"signing_secret" doc:"Shown once; verifies the webhook-signature of deliveries"`
}

type Verification struct {
	Provider  string    `json:"provider"`
	Secrets   []Secret  `json:"secrets"`
	Tolerance *duration `json:"tolerance" nullable:"true" doc:"null: no time is signed"`

	VerifyToken       *Secret  `json:"verify_token,omitempty" doc:"Where it is set"`
	AwaitingHandshake *bool    `json:"awaiting_handshake,omitempty" doc:"For asana and notion: whether a handshake is accepted now"`
	HandshakeSecret   string   `json:"handshake_secret,omitempty" doc:"For notion: what the handshake brought, to be pasted into Notion; for 10 minutes, to keys of scope write, in GET alone"`
	Header            string   `json:"header,omitempty" doc:"For hmac"`
	Algorithm         string   `json:"algorithm,omitempty" doc:"For hmac"`
	Encoding          string   `json:"encoding,omitempty" doc:"For hmac"`
	Prefix            *string  `json:"prefix,omitempty" doc:"For hmac"`
	Signed            string   `json:"signed,omitempty" doc:"For hmac"`
	Format            string   `json:"format,omitempty" doc:"For hmac"`
	TimeHeader        string   `json:"time_header,omitempty" doc:"For hmac"`
	TimeUnit          string   `json:"time_unit,omitempty" doc:"For hmac"`
	KeyEncoding       string   `json:"key_encoding,omitempty" doc:"For hmac"`
	Decompress        *bool    `json:"decompress,omitempty" doc:"For hmac"`
	In                string   `json:"in,omitempty" doc:"For token"`
	TopicARNs         []string `json:"topic_arns,omitempty" doc:"For aws-sns"`
	Audience          string   `json:"audience,omitempty" doc:"For google-oidc"`
	Email             string   `json:"email,omitempty" doc:"For google-oidc"`
}

type Circuit struct {
	CircuitPolicy
	State     kapsel.CircuitState `json:"state" enum:"closed,open,half_open"`
	ChangedAt *timestamp          `json:"changed_at" nullable:"true" doc:"When the state last changed; null: never"`
	RetryAt   *timestamp          `json:"retry_at" nullable:"true" doc:"While open: when the first probe may start"`
}

type Headers struct {
	Set  map[string]Secret `json:"set"`
	Drop []string          `json:"drop"`
	Keep []string          `json:"keep"`
}

type Signing struct {
	Enabled bool     `json:"enabled"`
	V1a     bool     `json:"v1a"`
	Secrets []Secret `json:"secrets"`
}

func viewNewEndpoint(e *manage.Endpoint) NewEndpoint {
	return NewEndpoint{viewEndpoint(e), e.SigningSecret.Reveal()}
}

// Defaults returns what the API shows of an endpoint on which nothing was set but the provider of its
// verification.
func Defaults(provider string) Endpoint {
	e := kapsel.Endpoint{State: kapsel.EndpointActive, EndpointConfig: kapsel.DefaultEndpoint()}
	e.Verification.Provider = provider
	view := manage.EndpointAt(&e, kapsel.Circuit{State: kapsel.CircuitClosed}, time.Time{})
	return viewEndpoint(&view)
}

func viewEndpoint(e *manage.Endpoint) Endpoint {
	in, circuit := inputOf(manage.EndpointSettings{Config: e.EndpointConfig}), e.Breaker
	set := make(map[string]Secret, len(e.Headers.Set))
	for name, s := range e.Headers.Set {
		set[name] = viewSecret(s)
	}
	view := Endpoint{
		ID: e.ID, TenantID: e.TenantID, Name: in.Name, URL: in.URL, Description: in.Description, UID: orNull(e.UID), Metadata: textsOf(e.Metadata), IngestURL: orNull(e.IngestURL),
		State: e.State, DisabledReason: orNull(e.DisabledReason),
		Verification: viewVerification(e.Verification, e.At), Challenge: in.Challenge, Probe: in.Probe, Response: in.Response,
		Idempotency: in.Idempotency, ExpectEvery: in.ExpectEvery, Retry: in.Retry, RetryOn: in.RetryOn, Timeout: in.Timeout, RateLimit: in.RateLimit, Concurrency: in.Concurrency,
		Circuit: Circuit{in.Circuit, circuit.State, timeOrNull(circuit.ChangedAt), timeOrNull(circuit.RetryAt)},
		Headers: Headers{set, in.Headers.Drop, in.Headers.Keep},
		Signing: Signing{in.Signing.Enabled, in.Signing.V1a, viewSecrets(e.Signing.Secrets)}, ForwardQuery: in.ForwardQuery, App: orNull(e.AppID), Subscriptions: orEmpty(in.Subscriptions),
		Backlog: e.Backlog, OldestWaitingAt: timeOrNull(e.OldestWaitingAt), ThrottledUntil: timeOrNull(e.ThrottledUntil), Warnings: e.Warnings,
		CreatedAt: timestamp(e.CreatedAt), UpdatedAt: timestamp(e.UpdatedAt),
	}
	view.Verification.HandshakeSecret = e.HandshakeSecret
	return view
}

// viewVerification returns how the API shows a verification that is in force at a time.
func viewVerification(v kapsel.Verification, now time.Time) Verification {
	view := Verification{
		Provider: v.Provider, Secrets: viewSecrets(v.Secrets), Tolerance: orNull(duration(v.Tolerance)),
		Header: v.Header, Algorithm: v.Algorithm, Encoding: v.Encoding, Signed: v.Signed, Format: v.Format,
		TimeHeader: v.TimeHeader, TimeUnit: v.TimeUnit, KeyEncoding: v.KeyEncoding, In: v.In,
		TopicARNs: v.TopicARNs, Audience: v.Audience, Email: v.Email,
	}
	if v.VerifyToken != nil {
		token := viewSecret(*v.VerifyToken)
		view.VerifyToken = &token
	}
	if signature.Brings(v.Provider) {
		view.AwaitingHandshake = new(now.Before(v.AwaitingUntil))
	}
	if v.Provider == "hmac" {
		view.Prefix, view.Decompress = &v.Prefix, &v.Decompress
	}
	return view
}

// mapped returns a new list of f of each element. The list is never nil.
func mapped[T, U any](list []T, f func(T) U) []U {
	made := make([]U, len(list))
	for i, v := range list {
		made[i] = f(v)
	}
	return made
}

// orEmpty returns the list, or an empty one for nil, which would be null in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
