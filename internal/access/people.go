package access

import (
	"crypto/hmac"
	"encoding/base64"
	"net/http"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// Person is somebody whom the provider of the single sign-on vouches for, with what the operator's settings
// give them.
type Person struct {
	Subject string          // who it is, as the provider says and never changes
	Name    string          // what the person is called there
	Right   Right           // Read or Write of a tenant, or Operate
	Tenant  kapsel.TenantID // whose objects the person sees; zero for Operate
}

// Refusal says in words, for the person, why the single sign-on let nobody in.
type Refusal struct {
	Status int // of the answer
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// SignInPerson makes a session of a person, as SignIn does of the holder of a key. The session ends when
// Config.People changes, and with its tenant. The error is a Refusal if the tenant is not there.
func (g *Guard) SignInPerson(r *http.Request, p Person) (s kapsel.Session, token secret.Text, err error) {
	s, token = g.newSession(r, g.Client(r), g.Clock())
	s.TenantID, s.KeyHash, s.Subject, s.Name = p.Tenant, g.People, p.Subject, p.Name
	switch {
	case p.Subject == "" || g.People == [32]byte{} || p.Tenant.IsZero() != (p.Right == Operate):
		return s, token, ErrUnauthorized
	case p.Right == Write:
		s.Scope = kapsel.ScopeWrite
	case p.Right == Read:
		s.Scope = kapsel.ScopeRead
	case p.Right != Operate:
		return s, token, ErrUnauthorized
	}
	c, err := g.person(&s)
	if err != nil {
		return s, token, err
	}
	inSession(&c, &s)
	err = g.sessionsBy(c, "sign_in").CreateSession(r.Context(), s)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		err = &Refusal{http.StatusForbidden, "You were recognised, but the tenant that you belong to is not there, or no longer. Ask who runs this Kapsel."}
	}
	return s, token, err
}

// person returns the caller that a session of a person makes. The error is ErrSignedOut if the settings that
// let the person in have changed since.
func (g *Guard) person(s *kapsel.Session) (Caller, error) {
	if g.People == [32]byte{} || !hmac.Equal(s.KeyHash[:], g.People[:]) {
		return Caller{}, ErrSignedOut
	}
	c := Caller{Right: Operate, Tenant: s.TenantID, Actor: kapsel.Actor{Subject: s.Subject, Name: s.Name}}
	if !s.TenantID.IsZero() {
		if c.Right = Read; s.Scope == kapsel.ScopeWrite {
			c.Right = Write
		}
	}
	return c, nil
}

// Derive returns a secret of 256 bits that only this instance can compute from a text, on every node, and
// another one for another kind.
func (g *Guard) Derive(kind, text string) secret.Text {
	hash := g.tokenHash(kind, text)
	return secret.NewText(base64.RawURLEncoding.EncodeToString(hash[:]))
}

// MayTry returns a RateLimited error if too many sign-ins from a request's address have failed.
func (g *Guard) MayTry(r *http.Request) error {
	return g.guesses.may(r.Context(), g.Log, g.Client(r), g.Clock())
}

// Failed counts a sign-in that failed as a wrong key of a request's address is counted.
func (g *Guard) Failed(r *http.Request) {
	_ = g.guesses.count(r.Context(), g.Log, g.Client(r), g.Clock()) // MayTry says so the next time
}
