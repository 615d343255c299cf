package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// Sessions keeps the sessions of all nodes. store.Sessions says what its methods do.
type Sessions interface {
	CreateSession(ctx context.Context, s kapsel.Session) error
	SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error)
	TouchSession(ctx context.Context, id kapsel.SessionID, seen time.Time) error
	DeleteSession(ctx context.Context, tenant kapsel.TenantID, id kapsel.SessionID) error
}

// ErrSignedOut refuses a request without a session, or with one that has ended, whatever ended it.
var ErrSignedOut = kapsel.Errorf(kapsel.Unauthorized, "sign in first")

// maxAgent is how many bytes of a browser's name a session keeps.
const maxAgent = 200

// SignIn makes a session of the caller who sent a key in a form, and returns the session and its token,
// which is nowhere else. A key that is not valid is ErrUnauthorized; guesses are limited as those of
// Caller. A session ends with its key. It is found by an HMAC of the token under the admin key, so all
// sessions end when the admin key changes, and who reads the store can neither use nor make one.
func (g *Guard) SignIn(r *http.Request, key string) (s kapsel.Session, token secret.Text, err error) {
	client, now := g.Client(r), g.Clock()
	c, err := g.callerOf(r, key, client, now)
	if err == nil && !c.IsAdmin() && c.Tenant.IsZero() { // a session without a tenant is the operator's
		err = c.Check(Read)
	}
	if err != nil {
		return s, token, err
	}
	s, token = g.newSession(r, client, now)
	s.TenantID, s.KeyID = c.Tenant, c.Key
	if !c.IsAdmin() {
		s.KeyHash, _ = secret.HashAPIKey(key)
	}
	inSession(&c, &s)
	return s, token, g.sessionsBy(c, "sign_in").CreateSession(r.Context(), s)
}

// newSession returns a session of nobody that begins now, and its token.
func (g *Guard) newSession(r *http.Request, client netip.Addr, now time.Time) (kapsel.Session, secret.Text) {
	token := g.newSessionToken("session")
	return kapsel.Session{
		ID: kapsel.NewSessionID(now), Hash: g.tokenHash("session", token.Reveal()),
		Address: client.String(), Agent: printable(r.UserAgent(), maxAgent), CreatedAt: now, SeenAt: now,
	}, token
}

// Session returns the session of a token and the caller who has it. used says that a person did something,
// which keeps the session from being idle; a page that keeps itself up to date is no person. The error is
// ErrSignedOut if the session, its key or its tenant has ended, that of Sessions or Keys, or RateLimited if
// too many tokens that this instance never made came from the client's address.
func (g *Guard) Session(r *http.Request, token string, used bool) (kapsel.Session, Caller, error) {
	ctx, now := r.Context(), g.Clock()
	if !g.made("session", token) {
		return kapsel.Session{}, Caller{}, g.forgery(r, now, ErrSignedOut)
	}
	s, err := g.Sessions.SessionByHash(ctx, g.tokenHash("session", token), now)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		err = ErrSignedOut
	}
	if err != nil {
		return s, Caller{}, err
	}
	c := Caller{Right: Operate}
	switch {
	case s.Subject != "":
		c, err = g.person(&s)
	case !s.TenantID.IsZero():
		if c, err = g.holder(ctx, s.KeyHash, now); errors.Is(err, ErrUnauthorized) {
			err = ErrSignedOut
		}
	}
	if err != nil {
		return s, Caller{}, err
	}
	inSession(&c, &s)
	if used && now.Sub(s.SeenAt) >= time.Minute {
		if err := g.Sessions.TouchSession(ctx, s.ID, now); err != nil {
			g.Log.WarnContext(ctx, "access: record the use of a session", "session_id", s.ID, "error", err)
		}
	}
	return s, c, nil
}

// inSession makes a caller one who has a session. The client is the sign-in's; who has the request knows better.
func inSession(c *Caller, s *kapsel.Session) {
	c.Actor.Kind, c.Actor.Operator, c.Actor.Session = kapsel.ActorSession, c.IsAdmin(), s.ID.String()
	c.Actor.Client, _ = netip.ParseAddr(s.Address)
}

// sessionsBy returns the sessions for what a caller does to them.
func (g *Guard) sessionsBy(c Caller, verb string) Sessions {
	if g.SessionsBy == nil {
		return g.Sessions
	}
	return g.SessionsBy(c.Actor, verb)
}

// SignOut ends the session that makes a caller; one that has ended already is no error.
func (g *Guard) SignOut(ctx context.Context, s kapsel.Session, c Caller) error {
	err := g.sessionsBy(c, "sign_out").DeleteSession(ctx, s.TenantID, s.ID)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return nil
	}
	return err
}

// newToken returns a secret of 256 random bits.
func newToken() secret.Text {
	var random [32]byte
	rand.Read(random[:])
	return secret.NewText(base64.RawURLEncoding.EncodeToString(random[:]))
}

// newSessionToken returns a token for a session of a kind: random bits, and a check value that only this
// instance can compute. A token that was made here is so known without a look into the store, also when its
// session has ended.
func (g *Guard) newSessionToken(kind string) secret.Text {
	random := newToken().Reveal()
	return secret.NewText(random + g.checkValue(kind, random))
}

func (g *Guard) checkValue(kind, random string) string {
	sum := g.tokenHash(kind+" check", random)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// tokenLength is how many characters newToken's tokens have.
var tokenLength = base64.RawURLEncoding.EncodedLen(32)

// made reports whether newSessionToken of this instance made a token.
func (g *Guard) made(kind, token string) bool {
	return len(token) > tokenLength && hmac.Equal([]byte(token[tokenLength:]), []byte(g.checkValue(kind, token[:tokenLength])))
}

// forgery counts a session token that was not made here. It returns an error to answer: ended, or RateLimited
// if too many came from the client's address. The store is not asked, and who shares the address is not
// limited: neither the holders of tokens that were made here, whose sessions may have ended, nor the senders
// of keys.
func (g *Guard) forgery(r *http.Request, now time.Time, ended error) error {
	err := g.forged.count(r.Context(), g.Log, g.Client(r), now)
	if errors.Is(err, ErrUnauthorized) {
		return ended
	}
	return err
}

// tokenHash returns what finds the row of a token of a kind: an HMAC under the admin key.
func (g *Guard) tokenHash(kind, token string) (hash [32]byte) {
	mac := hmac.New(sha256.New, g.admin[:])
	mac.Write([]byte("kapsel " + kind + "\x00" + token))
	copy(hash[:], mac.Sum(nil))
	return hash
}

// printable returns the printable ASCII characters of a text, at most so many.
func printable(text string, most int) string {
	kept := make([]byte, 0, min(len(text), most))
	for i := 0; i < len(text) && len(kept) < most; i++ {
		if c := text[i]; c >= ' ' && c <= '~' {
			kept = append(kept, c)
		}
	}
	return string(kept)
}
