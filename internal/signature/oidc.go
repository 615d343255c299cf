package signature

import (
	"crypto/rsa"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/kapsel-hq/kapsel"
)

// This file checks the OpenID Connect tokens of Google's services:
// docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions and
// developers.google.com/workspace/chat/verify-requests-from-chat. Anybody with an account can get
// such a token, so its audience and account must be those that the endpoint names. The token does
// not cover the body.

// issuer is an issuer of tokens: its names, and the URL of its keys.
type issuer struct {
	names   []string
	keys    string
	account bool // its tokens must name the endpoint's account
}

var (
	googleAccounts = issuer{[]string{"https://accounts.google.com", "accounts.google.com"}, "https://www.googleapis.com/oauth2/v3/certs", true}
	googleChat     = issuer{[]string{chatAccount}, "https://www.googleapis.com/service_accounts/v1/jwk/" + chatAccount, false}
)

// chatAccount is the account of Google Chat. If an app's audience is its project number, Chat
// issues the tokens itself; if it is the URL, Google does.
const chatAccount = "chat@system.gserviceaccount.com"

// Bounds of tokens.
const (
	maxToken   = 8 << 10 // bytes
	tokenSkew  = time.Minute
	keysMaxAge = time.Hour
)

// tokenClaims holds the claims that are read from a token.
type tokenClaims struct {
	jwt.Claims
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
}

// verifyOIDC checks the token of a request. It accepts only RS256.
func verifyOIDC(v *Verifier, r Request, now time.Time) error {
	value, err := header(r, "Authorization")
	if err != nil {
		return err
	}
	scheme, raw, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "bearer") || len(raw) > maxToken {
		return refuse("the Authorization header has no bearer token of at most %d bytes", maxToken)
	}
	token, err := jwt.ParseSigned(strings.TrimLeft(raw, " "), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(token.Headers) != 1 {
		return refuse("the bearer token is no JSON Web Token signed by RS256")
	}
	// Which keys are fetched depends only on the endpoint and on the issuers' fixed names, so reading
	// the claims before the signature is checked is safe.
	var claims tokenClaims
	if err := token.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return refuse("the bearer token's claims cannot be read")
	}
	by := googleAccounts
	if v.email == chatAccount && slices.Contains(googleChat.names, claims.Issuer) {
		by = googleChat
	}
	switch {
	case !slices.Contains(by.names, claims.Issuer):
		return refuse("the bearer token's issuer is not Google")
	case !claims.Audience.Contains(v.audience):
		return refuse("the bearer token's audience is not the endpoint's")
	case by.account && (claims.Email != v.email || !claims.EmailVerified):
		return refuse("the bearer token's account is not the endpoint's email, or not verified")
	case claims.Expiry == nil || claims.ValidateWithLeeway(jwt.Expected{Time: now}, tokenSkew) != nil:
		return refuse("the bearer token is not valid at this time")
	}
	public, err := v.googleKey(by, token.Headers[0].KeyID)
	if err != nil {
		return err
	}
	if err := token.Claims(public, &tokenClaims{}); err != nil {
		return refuse("the bearer token's signature was not made by its issuer")
	}
	return nil
}

// googleKey returns an issuer's key by its ID. If the keys cannot be fetched, the error is
// QueueFull.
func (v *Verifier) googleKey(by issuer, id string) (*rsa.PublicKey, error) {
	body, fresh, err := v.remote.get(by.keys, keysMaxAge, func(body []byte) bool { return keyOf(body, id) != nil })
	if err != nil {
		return nil, notFetched("Google's keys")
	}
	if public := keyOf(body, id); public != nil {
		return public, nil
	}
	if !fresh { // the key may be newer than the cached set
		return nil, notFetched("Google's keys")
	}
	return nil, refuse("the bearer token names a key that its issuer does not have")
}

// keyOf returns the RSA key with an ID from a set of keys (RFC 7517); nil if there is none.
func keyOf(set []byte, id string) *rsa.PublicKey {
	var keys jose.JSONWebKeySet
	if id == "" || json.Unmarshal(set, &keys) != nil {
		return nil
	}
	for _, k := range keys.Key(id) {
		if public, ok := k.Key.(*rsa.PublicKey); ok && k.Valid() && (k.Use == "" || k.Use == "sig") {
			return public
		}
	}
	return nil
}

// checkOIDC returns the wrong fields among the settings of provider google-oidc.
func checkOIDC(v kapsel.Verification) (fields []kapsel.FieldError) {
	if v.Audience == "" || len(v.Audience) > 1_024 {
		fields = append(fields, field("audience", "must be the audience that tokens have, such as the endpoint's ingest_url"))
	}
	if name, domain, ok := strings.Cut(v.Email, "@"); !ok || name == "" || domain == "" || len(v.Email) > 320 {
		fields = append(fields, field("email", "must be the service account that tokens have: anybody can get a token from Google"))
	}
	return fields
}
