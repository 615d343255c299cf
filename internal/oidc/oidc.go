// Package oidc signs people in by OpenID Connect: the authorization code flow with PKCE at the one provider
// that the operator's settings name. It says who a person is and what the settings give them; it keeps
// neither sessions nor tokens.
//
// The provider is asked for its configuration when the first person wants to sign in, so one that is down
// keeps nothing else from working. Every call has a time limit and a limit of bytes. An ID token counts only
// with a signature by one of the provider's public keys, for this client, in its time, and with the nonce of
// the sign-in that asked for it.
package oidc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// Limits of what a provider is asked.
const (
	callTimeout  = 5 * time.Second  // of one call
	flowTimeout  = 15 * time.Second // of all calls that a sign-in makes
	mostBytes    = 1 << 20          // of an answer
	mostAtOnce   = 16               // sign-ins that wait for the provider
	refreshAfter = time.Hour        // after which the provider's configuration is read again
	retryAfter   = 3 * time.Second  // for which a provider that did not answer is not asked for it again
	maxSubject   = 255              // characters of a subject (OpenID Connect Core, section 2)
)

// algorithms are the signatures that an ID token may have, all with public keys: an HMAC or none would let
// whoever knows the client's secret, or anybody, write one.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// Config is what a Provider works with.
type Config struct {
	Issuer      string // as ID tokens name it
	ClientID    string
	Secret      secret.Text // empty: a public client
	Scopes      []string
	RedirectURL string // of the callback, as the provider knows it
	Name        string // what people call the provider
	Rules       Rules
	Egress      egress.Config // where the provider may be
	Clock       func() time.Time
	Log         *slog.Logger
}

// CheckURL says what is wrong with the URL of an issuer, or with one that a provider names: it must be https,
// or http on this machine.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("is not a URL such as https://login.example.com")
	case u.Scheme == "https", u.Scheme == "http" && egress.IsLoopback(u.Hostname()):
		return nil
	}
	return errors.New("must begin with https://; http:// is for a provider on this machine alone")
}

// Provider is an OpenID provider. It is safe for concurrent use.
type Provider struct {
	Config
	with  func(context.Context) context.Context // adds the client for all calls
	busy  chan struct{}                         // holds an item for each sign-in that waits for the provider
	group singleflight.Group

	mu      sync.Mutex // guards the fields below
	known   *provider  // nil: its configuration was not read yet
	readAt  time.Time
	failure error // of the last reading, nil if it went well
	triedAt time.Time
}

// provider is what a provider says of itself.
type provider struct {
	*oidc.Provider
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
	sendsIss bool // says in its answer to the browser who it is (RFC 9207)
}

// New returns a provider.
func New(cfg Config) *Provider {
	client := egress.NewSmallClient(cfg.Egress, callTimeout, mostBytes)
	return &Provider{
		Config: cfg, busy: make(chan struct{}, mostAtOnce),
		with: func(ctx context.Context) context.Context { return oidc.ClientContext(ctx, client) },
	}
}

// Settings returns a hash of the settings that say who may do what. Sessions that were made under others are
// worth nothing.
func (p *Provider) Settings() [32]byte {
	text, err := json.Marshal([]any{p.Issuer, p.ClientID, p.Rules})
	if err != nil {
		panic(err) // plain texts
	}
	return sha256.Sum256(text)
}

// Label returns what people call the provider.
func (p *Provider) Label() string { return p.Name }

// Begin returns the URL at the provider to which a browser goes to sign in. state and nonce come back, and
// whoever has the code of the sign-in can use it only with verifier. again asks the provider to let the
// person sign in anew, perhaps as somebody else. The error is an access.Refusal.
func (p *Provider) Begin(ctx context.Context, state, nonce, verifier secret.Text, again bool) (string, error) {
	known, err := p.configuration(ctx)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(nonce.Reveal()), oauth2.S256ChallengeOption(verifier.Reveal())}
	if again {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"))
	}
	return known.oauth.AuthCodeURL(state.Reveal(), options...), nil
}

// Finish returns the person whom the provider sent back with parameters, whose state the caller has checked.
// The error is an access.Refusal.
func (p *Provider) Finish(ctx context.Context, query url.Values, nonce, verifier secret.Text) (access.Person, error) {
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	default:
		return access.Person{}, &access.Refusal{Status: http.StatusServiceUnavailable, Text: "Too many people sign in at this moment. Try again."}
	}
	ctx, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	known, err := p.configuration(ctx)
	if err != nil {
		return access.Person{}, err
	}
	if iss, sent := query["iss"]; (sent || known.sendsIss) && (len(iss) != 1 || iss[0] != p.Issuer) {
		return access.Person{}, p.refuse(ctx, "answer", errors.New("another issuer sent the browser back"))
	}
	if code := query.Get("error"); code != "" {
		return access.Person{}, p.said(ctx, code, query.Get("error_description"))
	}
	if query.Get("code") == "" {
		return access.Person{}, p.refuse(ctx, "answer", errors.New("there is neither a code nor an error"))
	}
	ctx = p.with(ctx)
	token, err := known.oauth.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(verifier.Reveal()))
	if err != nil {
		return access.Person{}, p.failed(ctx, "exchange the code", err)
	}
	of, err := known.identify(ctx, token, nonce, p.ClientID, p.Rules.names())
	if err != nil {
		return access.Person{}, p.failed(ctx, "identify the person", err)
	}
	person, err := p.Rules.person(of)
	if err != nil {
		p.Log.InfoContext(ctx, "oidc: somebody who may do nothing here", "reason", err, "subject", person.Subject)
		text := fmt.Sprintf("%s knows you as %s, but nothing here is open to you. Ask who runs this Kapsel, or sign in as somebody else.", p.Name, person.Name)
		if errors.Is(err, errMany) {
			text = fmt.Sprintf("%s says that %s belongs to more than one tenant, and a session shows one. Ask who runs this Kapsel.", p.Name, person.Name)
		}
		return access.Person{}, &access.Refusal{Status: http.StatusForbidden, Text: text}
	}
	return person, nil
}

// configuration returns what the provider says of itself. It is read again once in a while; a provider that
// does not answer then is used as it was.
func (p *Provider) configuration(ctx context.Context) (*provider, error) {
	p.mu.Lock()
	known, now, err := p.known, time.Now(), p.failure
	current := known != nil && now.Sub(p.readAt) < refreshAfter
	waits := err != nil && now.Sub(p.triedAt) < retryAfter
	p.mu.Unlock()
	if current || waits && known != nil {
		return known, nil
	}
	if !waits {
		read := p.group.DoChan("", func() (any, error) { return nil, p.read(context.WithoutCancel(ctx)) })
		select {
		case got := <-read:
			err = got.Err
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		known = p.known
		p.mu.Unlock()
	}
	if known != nil {
		return known, nil
	}
	return nil, p.failed(ctx, "read the configuration", err)
}

// read asks the provider for its configuration.
func (p *Provider) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	known, err := p.discover(p.with(ctx))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure, p.triedAt = err, time.Now(); err == nil {
		p.known, p.readAt = known, p.triedAt
	}
	return err
}

// discover reads the provider's configuration (OpenID Connect Discovery 1.0) and checks it.
func (p *Provider) discover(ctx context.Context) (*provider, error) {
	found, err := oidc.NewProvider(ctx, p.Issuer)
	if err != nil {
		return nil, err
	}
	var document struct {
		Auth     string   `json:"authorization_endpoint"`
		Token    string   `json:"token_endpoint"`
		Keys     string   `json:"jwks_uri"`
		UserInfo string   `json:"userinfo_endpoint"`
		Methods  []string `json:"token_endpoint_auth_methods_supported"`
		Algs     []string `json:"id_token_signing_alg_values_supported"`
		SendsIss bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&document); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"authorization_endpoint": document.Auth, "token_endpoint": document.Token, "jwks_uri": document.Keys, "userinfo_endpoint": document.UserInfo} {
		if text == "" && name == "userinfo_endpoint" {
			continue
		}
		if err := CheckURL(text); err != nil {
			return nil, fmt.Errorf("the provider's %s %w", name, err)
		}
		if strings.HasPrefix(p.Issuer, "https:") && !strings.HasPrefix(text, "https:") {
			return nil, fmt.Errorf("the provider's %s is not https", name)
		}
	}
	accepted := slices.DeleteFunc(slices.Clone(algorithms), func(alg string) bool { return !slices.Contains(document.Algs, alg) })
	if len(accepted) == 0 {
		accepted = []string{oidc.RS256} // which every provider has
	}
	endpoint := found.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.Secret.IsZero() || len(document.Methods) > 0 && !slices.Contains(document.Methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &provider{
		Provider: found,
		oauth:    oauth2.Config{ClientID: p.ClientID, ClientSecret: p.Secret.Reveal(), Endpoint: endpoint, RedirectURL: p.RedirectURL, Scopes: p.Scopes},
		verifier: found.Verifier(&oidc.Config{ClientID: p.ClientID, SupportedSigningAlgs: accepted, Now: p.Clock}),
		sendsIss: document.SendsIss,
	}, nil
}

// identify returns what the provider claims of the person for whom it gave a token. The claims that are
// needed and that the ID token lacks are asked for; those of the ID token win.
func (known *provider) identify(ctx context.Context, token *oauth2.Token, nonce secret.Text, client string, needed []string) (claims, error) {
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return nil, errors.New("the provider gave no ID token; is openid among the scopes?")
	}
	id, err := known.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce.Reveal())) != 1 {
		return nil, errors.New("the ID token has the nonce of another sign-in")
	}
	of, err := read(id.Claims)
	if err != nil {
		return nil, err
	}
	if azp, sent := of["azp"]; sent && azp != any(client) || !sent && len(id.Audience) > 1 {
		return nil, errors.New("the ID token was made for another client")
	}
	if id.Subject == "" || len(id.Subject) > maxSubject || Printable(id.Subject, maxSubject) != id.Subject {
		return nil, errors.New("the ID token has a subject that is empty, too long or cannot be printed")
	}
	lacks := func(name string) bool { return of.find(name) == nil }
	if known.UserInfoEndpoint() == "" || !slices.ContainsFunc(append(needed, "email"), lacks) {
		return of, nil
	}
	info, err := known.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if web := (*url.Error)(nil); errors.As(err, &web) {
		return nil, err
	}
	if err != nil { // its text has the whole answer, which may repeat the token
		status, _, _ := strings.Cut(err.Error(), ":")
		return nil, fmt.Errorf("the user info cannot be read: %s", status)
	}
	if info.Subject != id.Subject {
		return nil, errors.New("the user info is somebody else's")
	}
	more, err := read(info.Claims)
	if err != nil {
		return nil, err
	}
	for name, value := range more {
		if _, there := of[name]; !there {
			of[name] = value
		}
	}
	return of, nil
}

// read returns the claims that a function of the library decodes. Numbers keep their digits.
func read(decode func(any) error) (of claims, err error) {
	var text json.RawMessage
	if err := decode(&text); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return of, d.Decode(&of)
}

// said returns the refusal for an error with which the provider sent the browser back.
func (p *Provider) said(ctx context.Context, code, description string) error {
	code, description = Printable(code, 60), Printable(description, 300)
	p.Log.InfoContext(ctx, "oidc: the provider refused a sign-in", "error", code, "description", description)
	r := &access.Refusal{Status: http.StatusForbidden, Text: fmt.Sprintf("%s did not sign you in", p.Name)}
	switch code {
	case "access_denied":
		r.Text += ": you, or it, refused."
	case "login_required", "interaction_required", "account_selection_required", "consent_required":
		r.Text += ": it needs more from you. Try again."
	case "temporarily_unavailable", "server_error":
		r.Status = http.StatusServiceUnavailable
		r.Text += ": it has trouble of its own. Try again later, or sign in with an API key."
	default:
		r.Text += fmt.Sprintf(" (%s). Ask who runs this Kapsel.", code)
	}
	if description != "" {
		r.Text += " It says: “" + description + "”"
	}
	return r
}

// failed returns the refusal for a call that failed, and logs why.
func (p *Provider) failed(ctx context.Context, what string, err error) error {
	var refused *oauth2.RetrieveError
	var web *url.Error
	switch {
	case errors.As(err, &refused) && refused.Response.StatusCode < http.StatusInternalServerError:
		// The text of the error may hold what was sent.
		return p.refuse(ctx, what, fmt.Errorf("the provider answered %d %q", refused.Response.StatusCode, Printable(refused.ErrorCode, 60)))
	case errors.As(err, &refused):
		err = fmt.Errorf("the provider answered %d", refused.Response.StatusCode)
	case errors.As(err, &web):
		_, text := egress.Classify(err)
		err = errors.New(text)
	case what == "identify the person":
		return p.refuse(ctx, what, err)
	}
	p.Log.WarnContext(ctx, "oidc: the provider cannot be used", "doing", what, "issuer", p.Issuer, "error", Printable(err.Error(), 300))
	return &access.Refusal{Status: http.StatusServiceUnavailable, Text: p.Name + " does not answer as it should at this moment. Try again later, or sign in with an API key."}
}

// refuse returns the refusal of an answer that cannot be trusted, and logs why.
func (p *Provider) refuse(ctx context.Context, what string, err error) error {
	p.Log.WarnContext(ctx, "oidc: a sign-in was refused", "doing", what, "issuer", p.Issuer, "error", Printable(err.Error(), 300))
	return &access.Refusal{Status: http.StatusUnauthorized, Text: "What " + p.Name + " said cannot be used to sign you in. Try again; the log of Kapsel says why."}
}
