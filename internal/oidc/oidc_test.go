package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

const (
	clientID     = "kapsel"
	clientSecret = "a secret of the client: 100%"
	accessToken  = "an-access-token-that-nobody-may-see"
)

var tenant = kapsel.NewTenantID(time.Unix(1_700_000_000, 0))

// issuer is a provider that a test can make do what none should. A test sets its fields before it uses it.
type issuer struct {
	*httptest.Server
	key, other *rsa.PrivateKey

	document map[string]any                         // changes of the configuration
	claims   map[string]any                         // changes of the ID token; nil values are left out
	sign     func(header, payload string) string    // instead of the usual signature
	alg      string                                 // in the token's header; "": RS256
	userInfo map[string]any                         // nil: there is no such page
	answer   map[string]http.HandlerFunc            // instead of a page, by its path
	tokens   func(w http.ResponseWriter, id string) // instead of the usual answer with tokens

	mu         sync.Mutex
	codes      map[string]url.Values // of the request for each code that was not used yet
	configured int                   // how often the configuration was asked for
}

// keys are those of issuers and of nobody.
var keys = sync.OnceValue(func() (all [2]*rsa.PrivateKey) {
	for i := range all {
		var err error
		if all[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err)
		}
	}
	return all
})

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{codes: map[string]url.Values{}, answer: map[string]http.HandlerFunc{}}
	i.key, i.other = keys()[0], keys()[1]
	i.Server = httptest.NewServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if own := i.answer[r.URL.Path]; own != nil {
		own(w, r)
		return
	}
	show := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		i.mu.Lock()
		i.configured++
		i.mu.Unlock()
		document := map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "HS256", "none"},
		}
		if i.userInfo != nil {
			document["userinfo_endpoint"] = i.URL + "/userinfo"
		}
		maps.Copy(document, i.document)
		show(document)
	case "/keys":
		n := base64.RawURLEncoding.EncodeToString(i.key.N.Bytes())
		show(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": n, "e": "AQAB"}}})
	case "/token":
		_ = r.ParseForm()
		id, password, basic := r.BasicAuth()
		if !basic {
			id, password = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
		} else {
			id, _ = url.QueryUnescape(id)
			password, _ = url.QueryUnescape(password)
		}
		i.mu.Lock()
		asked, ok := i.codes[r.PostForm.Get("code")]
		delete(i.codes, r.PostForm.Get("code"))
		i.mu.Unlock()
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		challenge := base64.RawURLEncoding.EncodeToString(sum[:])
		if !ok || id != clientID || password != clientSecret || challenge != asked.Get("code_challenge") || asked.Get("code_challenge_method") != "S256" || asked.Get("redirect_uri") != r.PostForm.Get("redirect_uri") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"secret %s code %s"}`, password, r.PostForm.Get("code"))
			return
		}
		token := i.token(asked.Get("nonce"))
		if i.tokens != nil {
			i.tokens(w, token)
			return
		}
		show(map[string]any{"access_token": accessToken, "token_type": "Bearer", "expires_in": 60, "id_token": token})
	case "/userinfo":
		if r.Header.Get("Authorization") != "Bearer "+accessToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		show(i.userInfo)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// token returns an ID token.
func (i *issuer) token(nonce string) string {
	claims := map[string]any{
		"iss": i.URL, "sub": "person-1", "aud": clientID, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "nonce": nonce,
		"email": "ann@example.com", "email_verified": true, "groups": []string{"staff", "acme"},
	}
	for name, value := range i.claims {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	alg := i.alg
	if alg == "" {
		alg = "RS256"
	}
	code := base64.RawURLEncoding.EncodeToString
	body, _ := json.Marshal(claims)
	header, payload := code([]byte(`{"alg":"`+alg+`","kid":"1","typ":"JWT"}`)), code(body)
	if i.sign != nil {
		return header + "." + payload + "." + i.sign(header, payload)
	}
	return header + "." + payload + "." + rs256(i.key, header, payload)
}

func rs256(key *rsa.PrivateKey, header, payload string) string {
	sum := sha256.Sum256([]byte(header + "." + payload))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(signature)
}

// relying is Kapsel at an issuer, with what it logged.
type relying struct {
	*Provider
	log *strings.Builder
}

func (i *issuer) relying(t *testing.T, change func(*Config)) relying {
	t.Helper()
	var log strings.Builder
	cfg := Config{
		Issuer: i.URL, ClientID: clientID, Secret: secret.NewText(clientSecret), Scopes: []string{"openid", "email"}, RedirectURL: "http://127.0.0.1:8080/sign-in/oidc/callback", Name: "Example",
		Rules:  Rules{Admin: []Match{{"groups", "admins"}}, Tenant: []TenantRule{{Match{"groups", "acme"}, tenant}}, Write: []Match{{"groups", "writers"}}},
		Egress: egress.Config{AllowAllPrivate: true}, Clock: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	return relying{New(cfg), &log}
}

var state, nonce, verifier = secret.NewText("the state"), secret.NewText("nonce-5d41402abc"), secret.NewText(strings.Repeat("v", 43))

// signIn lets a person sign in: the browser goes to the issuer and comes back with a code.
func (r relying) signIn(t *testing.T, i *issuer) (access.Person, error) {
	t.Helper()
	to, err := r.Begin(t.Context(), state, nonce, verifier, false)
	if err != nil {
		return access.Person{}, err
	}
	return r.Finish(t.Context(), url.Values{"code": {i.visit(t, to)}, "state": {state.Reveal()}}, nonce, verifier)
}

// visit does what a browser's visit to the issuer does, and returns the code.
func (i *issuer) visit(t *testing.T, to string) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Get("response_type") != "code" || q.Get("client_id") != clientID || q.Get("state") != state.Reveal() || q.Get("nonce") != nonce.Reveal() || !strings.Contains(q.Get("scope"), "openid") {
		t.Errorf("the browser goes to %s", to)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	code := fmt.Sprint("code-", len(i.codes))
	i.codes[code] = q
	return code
}

// is checks that a sign-in was refused with a status, and that nothing secret was said of it.
func (r relying) is(t *testing.T, err error, status int) {
	t.Helper()
	var refusal *access.Refusal
	if !errors.As(err, &refusal) || refusal.Status != status {
		t.Errorf("the sign-in is answered %v, want status %d; log: %s", err, status, r.log)
		return
	}
	if refusal.Text == "" {
		t.Error("the refusal says nothing")
	}
	for _, hidden := range []string{clientSecret, accessToken, verifier.Reveal(), nonce.Reveal(), "code-"} {
		if strings.Contains(refusal.Text+r.log.String(), hidden) {
			t.Errorf("%q is shown: %s; log: %s", hidden, refusal.Text, r.log)
		}
	}
}

// TestSignIn_S11_People checks that whom the provider vouches for is signed in with what the rules give.
func TestSignIn_S11_People(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*issuer)
		settings func(*Config)
		want     access.Person
		status   int
	}{
		"a reader": {want: access.Person{Subject: "person-1", Name: "ann@example.com", Right: access.Read, Tenant: tenant}},
		"a writer": {
			change: func(i *issuer) { i.claims = map[string]any{"groups": []string{"acme", "writers"}} },
			want:   access.Person{Subject: "person-1", Name: "ann@example.com", Right: access.Write, Tenant: tenant},
		},
		"an admin": {
			change: func(i *issuer) { i.claims = map[string]any{"groups": "admins", "email": nil, "name": "Zoë\u202e <b>"} },
			want:   access.Person{Subject: "person-1", Name: "Zoë <b>", Right: access.Operate},
		},
		"nobody": {change: func(i *issuer) { i.claims = map[string]any{"groups": nil} }, status: http.StatusForbidden},
		"by the user info": {
			change: func(i *issuer) {
				i.claims = map[string]any{"groups": nil, "email": nil}
				i.userInfo = map[string]any{"sub": "person-1", "groups": []string{"acme"}, "email": "ann@example.com", "iss": "ignored"}
			},
			want: access.Person{Subject: "person-1", Name: "ann@example.com", Right: access.Read, Tenant: tenant},
		},
		"a public client": {
			change:   func(i *issuer) { i.answer["/token"] = nil },
			settings: func(c *Config) { c.Secret = secret.Text{} },
			status:   http.StatusUnauthorized, // this issuer wants the secret
		},
		"a secret in the form": {
			change: func(i *issuer) {
				i.document = map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}}
			},
			want: access.Person{Subject: "person-1", Name: "ann@example.com", Right: access.Read, Tenant: tenant},
		},
		"for several, with this client as the authorized party": {
			change: func(i *issuer) { i.claims = map[string]any{"aud": []string{"other", clientID}, "azp": clientID} },
			want:   access.Person{Subject: "person-1", Name: "ann@example.com", Right: access.Read, Tenant: tenant},
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			if c.change != nil {
				c.change(i)
			}
			r := i.relying(t, c.settings)
			got, err := r.signIn(t, i)
			if c.status != 0 {
				r.is(t, err, c.status)
				return
			}
			if err != nil || got != c.want {
				t.Errorf("%+v, %v, want %+v; log: %s", got, err, c.want, r.log)
			}
		})
	}
}

// TestSignIn_S11_ForgedTokens checks that no ID token counts but one that the provider signed, for this client and
// this sign-in, in its time.
func TestSignIn_S11_ForgedTokens(t *testing.T) {
	const long = 2 << 20
	for name, change := range map[string]func(*issuer){
		"another nonce":      func(i *issuer) { i.claims = map[string]any{"nonce": "another"} },
		"no nonce":           func(i *issuer) { i.claims = map[string]any{"nonce": nil} },
		"another audience":   func(i *issuer) { i.claims = map[string]any{"aud": "other"} },
		"no audience":        func(i *issuer) { i.claims = map[string]any{"aud": nil} },
		"another party":      func(i *issuer) { i.claims = map[string]any{"azp": "other"} },
		"several, no party":  func(i *issuer) { i.claims = map[string]any{"aud": []string{clientID, "other"}} },
		"expired":            func(i *issuer) { i.claims = map[string]any{"exp": time.Now().Add(-time.Minute).Unix()} },
		"no expiry":          func(i *issuer) { i.claims = map[string]any{"exp": nil} },
		"another issuer":     func(i *issuer) { i.claims = map[string]any{"iss": "https://evil.example"} },
		"no subject":         func(i *issuer) { i.claims = map[string]any{"sub": nil} },
		"a long subject":     func(i *issuer) { i.claims = map[string]any{"sub": strings.Repeat("x", maxSubject+1)} },
		"a hidden subject":   func(i *issuer) { i.claims = map[string]any{"sub": "a\u202eb"} },
		"another key":        func(i *issuer) { i.sign = func(h, p string) string { return rs256(i.other, h, p) } },
		"no signature":       func(i *issuer) { i.sign = func(string, string) string { return "" } },
		"alg none":           func(i *issuer) { i.alg, i.sign = "none", func(string, string) string { return "" } },
		"alg None":           func(i *issuer) { i.alg, i.sign = "None", func(string, string) string { return "" } },
		"HMAC of the secret": func(i *issuer) { i.alg, i.sign = "HS256", hs256([]byte(clientSecret)) },
		"HMAC of the key": func(i *issuer) {
			i.alg, i.sign = "HS256", hs256(i.key.N.Bytes())
		},
		"an unknown elliptic key": func(i *issuer) {
			key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			i.alg, i.sign = "ES256", func(h, p string) string {
				sum := sha256.Sum256([]byte(h + "." + p))
				r, s, _ := ecdsa.Sign(rand.Reader, key, sum[:])
				return base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
			}
		},
		"no ID token": func(i *issuer) {
			i.tokens = func(w http.ResponseWriter, _ string) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer"}`, accessToken)
			}
		},
		"an ID token that is none": func(i *issuer) {
			i.tokens = func(w http.ResponseWriter, _ string) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":%q,"id_token":{"a":1}}`, accessToken)
			}
		},
		"another's user info": func(i *issuer) {
			i.claims, i.userInfo = map[string]any{"email": nil}, map[string]any{"sub": "person-2", "groups": []string{"admins"}}
		},
		"a user info that is refused": func(i *issuer) {
			i.claims, i.userInfo = map[string]any{"email": nil}, map[string]any{}
			i.answer["/userinfo"] = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, "no: ", r.Header.Get("Authorization"))
			}
		},
		"keys without an end": func(i *issuer) {
			i.answer["/keys"] = func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, long)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			change(i)
			r := i.relying(t, nil)
			person, err := r.signIn(t, i)
			r.is(t, err, http.StatusUnauthorized)
			if person != (access.Person{}) {
				t.Errorf("%+v was returned", person)
			}
		})
	}
}

func hs256(key []byte) func(header, payload string) string {
	return func(header, payload string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(header + "." + payload))
		return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
}

// TestCallback_S11 checks that a code that comes back with the browser counts once, with the verifier of its
// sign-in, and that errors are told in words.
func TestCallback_S11(t *testing.T) {
	i := newIssuer(t)
	r := i.relying(t, nil)
	back := func(q url.Values, verifier secret.Text) error {
		t.Helper()
		q.Set("state", state.Reveal())
		_, err := r.Finish(t.Context(), q, nonce, verifier)
		return err
	}
	to, err := r.Begin(t.Context(), state, nonce, verifier, true)
	if err != nil || !strings.Contains(to, "prompt=login") {
		t.Fatal(to, err)
	}
	code := i.visit(t, to)
	if err := back(url.Values{"code": {code}}, verifier); err != nil {
		t.Fatal(err, r.log)
	}
	r.is(t, back(url.Values{"code": {code}}, verifier), http.StatusUnauthorized) // again
	r.is(t, back(url.Values{"code": {i.visit(t, to)}}, secret.NewText(strings.Repeat("w", 43))), http.StatusUnauthorized)
	r.is(t, back(url.Values{"code": {i.visit(t, to)}, "iss": {"https://evil.example"}}, verifier), http.StatusUnauthorized)
	r.is(t, back(url.Values{}, verifier), http.StatusUnauthorized)
	if err := back(url.Values{"code": {i.visit(t, to)}, "iss": {i.URL}}, verifier); err != nil {
		t.Error("with the issuer's own name:", err)
	}
	r.is(t, back(url.Values{"error": {"access_denied"}, "code": {code}}, verifier), http.StatusForbidden)
	r.is(t, back(url.Values{"error": {"server_error"}}, verifier), http.StatusServiceUnavailable)
	err = back(url.Values{"error": {"strange\x00\u202e" + strings.Repeat("x", 1000)}, "error_description": {"<script>" + strings.Repeat("y", 1000)}}, verifier)
	r.is(t, err, http.StatusForbidden)
	if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x00\u202e") {
		t.Errorf("the page says %q", err)
	}

	i = newIssuer(t)
	i.document = map[string]any{"authorization_response_iss_parameter_supported": true}
	r = i.relying(t, nil)
	_, err = r.signIn(t, i) // without iss, from one that always says it
	r.is(t, err, http.StatusUnauthorized)
}

// TestProvider_B95_Trouble checks that a provider that is down, hangs, or says what cannot be used is told to the
// person and is asked again later, and that it is reached as the settings say only.
func TestProvider_B95_Trouble(t *testing.T) {
	const configuration = "/.well-known/openid-configuration"
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices that the client has gone
		<-r.Context().Done()
	}
	for name, change := range map[string]func(*issuer){
		"not there": func(i *issuer) { i.answer[configuration] = http.NotFound },
		"elsewhere": func(i *issuer) { i.answer[configuration] = http.RedirectHandler("/x", http.StatusFound).ServeHTTP },
		"no JSON": func(i *issuer) {
			i.answer[configuration] = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
		},
		"without an end": func(i *issuer) {
			i.answer[configuration] = func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2<<20)) }
		},
		"another issuer":       func(i *issuer) { i.document = map[string]any{"issuer": "https://evil.example"} },
		"plain HTTP elsewhere": func(i *issuer) { i.document = map[string]any{"token_endpoint": "http://login.example.com/token"} },
		"a script":             func(i *issuer) { i.document = map[string]any{"authorization_endpoint": "javascript:alert(1)"} },
		"no keys":              func(i *issuer) { i.document = map[string]any{"jwks_uri": ""} },
		"tokens that hang":     func(i *issuer) { i.answer["/token"] = hang },
		"tokens without an end": func(i *issuer) {
			i.answer["/token"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":"%s`, strings.Repeat("x", 2<<20))
			}
		},
		"tokens with trouble": func(i *issuer) {
			i.answer["/token"] = func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				http.Error(w, r.PostForm.Encode(), http.StatusBadGateway)
			}
		},
		"configuration that hangs": func(i *issuer) { i.answer[configuration] = hang },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			change(i)
			r := i.relying(t, nil)
			_, err := r.signIn(t, i)
			r.is(t, err, http.StatusServiceUnavailable)
		})
	}
	t.Run("guarded", func(t *testing.T) {
		i := newIssuer(t)
		r := i.relying(t, func(c *Config) { c.Egress = egress.Config{} })
		_, err := r.signIn(t, i)
		r.is(t, err, http.StatusServiceUnavailable)
		if i.configured != 0 {
			t.Error("a private address was asked although the settings allow none")
		}
	})
	t.Run("again", func(t *testing.T) {
		i := newIssuer(t)
		i.answer[configuration] = http.NotFound
		r := i.relying(t, nil)
		for range 3 {
			_, err := r.signIn(t, i)
			r.is(t, err, http.StatusServiceUnavailable)
		}
		i.answer[configuration] = nil
		r.mu.Lock()
		r.triedAt = time.Now().Add(-retryAfter)
		r.mu.Unlock()
		for range 3 {
			if _, err := r.signIn(t, i); err != nil {
				t.Fatal(err, r.log)
			}
		}
		if i.configured != 1 {
			t.Errorf("the configuration was read %d times, want 1", i.configured)
		}
		// One that goes down later is used as it was.
		i.answer[configuration] = http.NotFound
		r.mu.Lock()
		r.readAt = time.Now().Add(-refreshAfter)
		r.mu.Unlock()
		if _, err := r.signIn(t, i); err != nil {
			t.Error(err, r.log)
		}
	})
}

// TestRules checks which claims give what.
func TestRules(t *testing.T) {
	other := kapsel.NewTenantID(time.Unix(1_700_000_001, 0))
	parse := func(admin, tenants, write string) Rules {
		t.Helper()
		a, err := ParseMatches(admin)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseTenantRules(tenants)
		if err != nil {
			t.Fatal(err)
		}
		w, err := ParseMatches(write)
		if err != nil {
			t.Fatal(err)
		}
		return Rules{a, b, w}
	}
	rules := parse("groups=admins, realm_access.roles=kapsel admin,email=root@example.com", "kapsel_tenant,groups=acme:"+tenant.String()+", https://example.com/team=a:b:"+other.String(), "role=2,writes=true")
	for text, want := range map[string]string{
		`{}`:                         errNobody.Error(),
		`{"groups":["admins"]}`:      "admin",
		`{"groups":"admins"}`:        "admin",
		`{"groups":["admin"]}`:       errNobody.Error(),
		`{"groups":[["admins"]]}`:    errNobody.Error(),
		`{"groups":{"admins":true}}`: errNobody.Error(),
		`{"realm_access":{"roles":["x","kapsel admin"]}}`:                "admin",
		`{"realm_access.roles":["kapsel admin"]}`:                        "admin",
		`{"realm_access":{"roles":"x"},"realm_access.x":"kapsel admin"}`: errNobody.Error(),
		`{"email":"root@example.com"}`:                                   errNobody.Error(),
		`{"email":"root@example.com","email_verified":false}`:            errNobody.Error(),
		`{"email":"root@example.com","email_verified":"true"}`:           "admin",
		`{"email":"root@example.com","email_verified":true}`:             "admin",
		`{"kapsel_tenant":"` + other.String() + `"}`:                     "read " + other.String(),
		`{"kapsel_tenant":["x","` + other.String() + `"],"role":2}`:      "write " + other.String(),
		`{"kapsel_tenant":"ten_x","writes":true}`:                        errNobody.Error(),
		`{"groups":["acme"],"writes":"true"}`:                            "write " + tenant.String(),
		`{"groups":["acme"],"kapsel_tenant":"` + tenant.String() + `"}`:  "read " + tenant.String(),
		`{"groups":["acme"],"kapsel_tenant":"` + other.String() + `"}`:   errMany.Error(),
		`{"https://example.com/team":"a:b"}`:                             "read " + other.String(),
		`{"groups":["acme","admins"]}`:                                   "admin",
	} {
		of, err := read(func(v any) error { return json.Unmarshal([]byte(text), v) })
		if err != nil {
			t.Fatal(err)
		}
		p, err := rules.person(of)
		got := fmt.Sprint(p.Right, " ", p.Tenant)
		switch {
		case err != nil:
			got = err.Error()
		case p.Right == access.Operate && p.Tenant.IsZero():
			got = "admin"
		}
		if got != want {
			t.Errorf("%s gives %s, want %s", text, got, want)
		}
	}
	for _, wrong := range []string{"x", "=x", "x=", "a=b,c"} {
		if _, err := ParseMatches(wrong); err == nil {
			t.Errorf("%q is read as matches", wrong)
		}
	}
	for _, wrong := range []string{"a=b", "a=b:ten_x", "=b:" + tenant.String(), "a=:" + tenant.String(), "a=b:acme"} {
		if _, err := ParseTenantRules(wrong); err == nil {
			t.Errorf("%q is read as rules", wrong)
		}
	}
	a, b := New(Config{Rules: rules}), New(Config{Rules: parse("groups=admins", "", "")})
	if a.Settings() == b.Settings() || a.Settings() != New(Config{Rules: rules, Scopes: []string{"openid"}}).Settings() {
		t.Error("the hash of the settings does not follow the rules alone")
	}
}
