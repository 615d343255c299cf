package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// Keys finds keys by their hashes, and records that they were used.
type Keys interface {
	// KeyByHash returns NotFound for a key that there is not.
	KeyByHash(ctx context.Context, hash [32]byte) (kapsel.Key, error)
	TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error
}

// Config is what a Guard works with. Fields without "may be nil" are needed.
type Config struct {
	Keys     Keys
	AdminKey secret.Text
	Sessions Sessions // may be nil for who has no sessions
	// SessionsBy returns Sessions whose changes leave rows that name an actor and a verb. It may be nil: they
	// leave none.
	SessionsBy func(by kapsel.Actor, verb string) Sessions
	Portals    PortalLinks                    // may be nil for who has no portal
	People     [32]byte                       // names the settings of the single sign-on, which let people in without a key; zero: there is none
	Client     func(*http.Request) netip.Addr // the address that a request came from, such as by ClientOf; may be nil: the peer's
	Clock      func() time.Time
	Log        *slog.Logger
}

// Guard finds the callers of requests. It is safe for concurrent use.
type Guard struct {
	Config
	admin   [32]byte // SHA-256 of the admin key
	guesses guesses
	forged  guesses // session tokens that this instance never made
}

// New returns a guard.
func New(cfg Config) *Guard {
	if cfg.Client == nil {
		cfg.Client = func(r *http.Request) netip.Addr { return ClientOf(r, nil) }
	}
	return &Guard{Config: cfg, admin: sha256.Sum256([]byte(cfg.AdminKey.Reveal())), guesses: guesses{of: "keys"}, forged: guesses{of: "session cookies"}}
}

// Caller returns the caller of a request. Only the Authorization header counts, no query parameter and
// no cookie, and it must be there once. Caller returns ErrUnauthorized without a valid key, RateLimited if
// too many wrong keys came from the client's address (see guesses), or the error of Keys.
func (g *Guard) Caller(r *http.Request) (Caller, error) {
	values := r.Header["Authorization"]
	if len(values) != 1 {
		return Caller{}, ErrUnauthorized
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Caller{}, ErrUnauthorized
	}
	return g.callerOf(r, token, g.Client(r), g.Clock())
}

// callerOf returns the caller that has a key which a client sent.
func (g *Guard) callerOf(r *http.Request, key string, client netip.Addr, now time.Time) (Caller, error) {
	if err := g.guesses.may(r.Context(), g.Log, client, now); err != nil {
		return Caller{}, err
	}
	c, err := g.find(r.Context(), key, now)
	switch {
	case err == nil:
		c.Actor.Client = client
	case errors.Is(err, ErrUnauthorized):
		err = g.guesses.count(r.Context(), g.Log, client, now)
	}
	return c, err
}

// find returns the caller that has a key: the admin, or the holder of a valid key.
func (g *Guard) find(ctx context.Context, token string, now time.Time) (Caller, error) {
	// Hashes have equal lengths, so the comparison tells nothing of the admin key's.
	if hash := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(hash[:], g.admin[:]) == 1 {
		return Caller{Right: Operate, Actor: kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true}}, nil
	}
	hash, ok := secret.HashAPIKey(token)
	if !ok {
		return Caller{}, ErrUnauthorized
	}
	return g.holder(ctx, hash, now)
}

// holder returns the caller that has the key of a hash.
func (g *Guard) holder(ctx context.Context, hash [32]byte, now time.Time) (Caller, error) {
	key, err := g.Keys.KeyByHash(ctx, hash)
	switch {
	case kapsel.CodeOf(err) == kapsel.NotFound:
		return Caller{}, ErrUnauthorized
	case err != nil:
		return Caller{}, err
	case !key.Valid(now):
		return Caller{}, ErrUnauthorized
	}
	g.touch(ctx, &key, now)
	right := Read
	switch {
	case key.Scope == kapsel.ScopeLedger && key.TenantID.IsZero():
		right = Book
	case key.Scope == kapsel.ScopeWrite:
		right = Write
	}
	return Caller{
		Right: right, Tenant: key.TenantID, Key: key.ID, Until: key.ExpiresAt,
		Actor: kapsel.Actor{Kind: kapsel.ActorKey, KeyID: key.ID, Prefix: key.Prefix},
	}, nil
}

// touch records that a key was used, at most once a minute. last_used_at is for people who wonder
// whether a key is still needed.
func (g *Guard) touch(ctx context.Context, k *kapsel.Key, now time.Time) {
	if now.Sub(k.LastUsedAt) < time.Minute {
		return
	}
	if err := g.Keys.TouchKeys(ctx, map[kapsel.KeyID]time.Time{k.ID: now}); err != nil {
		g.Log.WarnContext(ctx, "access: record the use of a key", "key_id", k.ID, "error", err)
	}
}
