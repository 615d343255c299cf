package access_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// kept is the sessions of a test, as all nodes see them.
type kept map[[32]byte]kapsel.Session

func (k kept) CreateSession(_ context.Context, s kapsel.Session) error {
	k[s.Hash] = s
	return nil
}

func (k kept) SessionByHash(_ context.Context, hash [32]byte, now time.Time) (kapsel.Session, error) {
	s, ok := k[hash]
	if !ok || !s.ExpiresAt().After(now) {
		return s, kapsel.Errorf(kapsel.NotFound, "no session")
	}
	return s, nil
}

func (k kept) TouchSession(_ context.Context, id kapsel.SessionID, seen time.Time) error {
	for hash, s := range k {
		if s.ID == id {
			s.SeenAt = seen
			k[hash] = s
		}
	}
	return nil
}

func (k kept) DeleteSession(_ context.Context, _ kapsel.TenantID, id kapsel.SessionID) error {
	for hash, s := range k {
		if s.ID == id {
			delete(k, hash)
		}
	}
	return nil
}

// oneKey is the keys of a test: one.
type oneKey struct{ key *kapsel.Key }

func (o oneKey) KeyByHash(_ context.Context, hash [32]byte) (kapsel.Key, error) {
	if hash != o.key.Hash {
		return kapsel.Key{}, kapsel.Errorf(kapsel.NotFound, "no key")
	}
	return *o.key, nil
}

func (o oneKey) TouchKeys(context.Context, map[kapsel.KeyID]time.Time) error { return nil }

// TestSession_S11 checks that a session is the caller of the key that made it, on every node, until it is
// idle, too old, signed out, or without its key; and that a wrong key makes none.
func TestSession_S11(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text, hash, prefix := secret.NewAPIKey()
	key := &kapsel.Key{ID: kapsel.NewKeyID(now), TenantID: kapsel.NewTenantID(now), Scope: kapsel.ScopeRead, Hash: hash, Prefix: prefix, CreatedAt: now}
	sessions := kept{}
	const admin = "an admin key that is long enough for it"
	node := func(adminKey string) *access.Guard {
		return access.New(access.Config{
			Keys: oneKey{key}, Sessions: sessions, AdminKey: secret.NewText(adminKey), Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
		})
	}
	first, second := node(admin), node(admin)
	r := httptest.NewRequest(http.MethodPost, "/sign-in", nil)
	r.Header.Set("User-Agent", "browser\r\n\x00é")
	signIn := func(key string) string {
		t.Helper()
		s, token, err := first.SignIn(r, key)
		if err != nil {
			t.Fatal(err)
		}
		if s.Agent != "browser" || len(token.Reveal()) < 22 {
			t.Errorf("the session is %+v, its token has %d characters", s, len(token.Reveal()))
		}
		return token.Reveal()
	}
	is := func(what, token string, want access.Caller) {
		t.Helper()
		for _, g := range []*access.Guard{first, second} {
			s, got, err := g.Session(r, token, true)
			if err == nil {
				want.Actor.Session = s.ID.String()
			}
			if got != want || (err == nil) != (want != access.Caller{}) || err != nil && err != access.ErrSignedOut {
				t.Errorf("%s: the caller is %+v, %v, want %+v", what, got, err, want)
			}
		}
	}
	nobody, reader, operator := access.Caller{}, access.Caller{Right: access.Read, Tenant: key.TenantID, Key: key.ID}, access.Caller{Right: access.Operate}
	client := netip.MustParseAddr("192.0.2.1")
	reader.Actor = kapsel.Actor{Kind: kapsel.ActorSession, KeyID: key.ID, Prefix: prefix, Client: client}
	operator.Actor = kapsel.Actor{Kind: kapsel.ActorSession, Operator: true, Client: client}

	for _, wrong := range []string{"", "wrong", text.Reveal() + "x", "kap_"} {
		if _, token, err := first.SignIn(r, wrong); err != access.ErrUnauthorized || token.Reveal() != "" {
			t.Errorf("a sign-in with the key %q: %v", wrong, err)
		}
	}
	if len(sessions) > 0 {
		t.Errorf("wrong keys made %d sessions", len(sessions))
	}
	begin := now
	mine, theirs := signIn(text.Reveal()), signIn(admin)
	is("a tenant's", mine, reader)
	is("the admin's", theirs, operator)
	is("a token that is none", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", nobody)
	if _, _, err := node("another admin key, long enough as well").Session(r, theirs, true); err != access.ErrSignedOut {
		t.Errorf("with another admin key: %v", err)
	}

	now = begin.Add(29 * time.Minute)
	is("used in time", mine, reader)
	now = begin.Add(58 * time.Minute)
	is("used again", mine, reader)
	is("idle", theirs, nobody)
	now = begin.Add(80 * time.Minute)
	if _, _, err := first.Session(r, mine, false); err != nil {
		t.Errorf("a page that keeps itself up to date: %v", err)
	}
	now = begin.Add(kapsel.SessionLife)
	is("too old", mine, nobody)

	token := signIn(text.Reveal())
	s, c, err := second.Session(r, token, true)
	if err == nil {
		err = second.SignOut(t.Context(), s, c)
	}
	if err != nil {
		t.Fatal(err)
	}
	is("signed out at the other node", token, nobody)

	token = signIn(text.Reveal())
	key.RevokedAt = now
	is("with its key revoked", token, nobody)
}

// TestSession_S11_Guesses checks that wrong keys at the sign-in count as those in requests do.
func TestSession_S11_Guesses(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := access.New(access.Config{
		Keys: oneKey{&kapsel.Key{}}, Sessions: kept{}, AdminKey: secret.NewText("x"), Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	})
	r := httptest.NewRequest(http.MethodPost, "/sign-in", nil)
	limited := 0
	for range 200 {
		if _, _, err := g.SignIn(r, "wrong"); kapsel.CodeOf(err) == kapsel.RateLimited {
			limited++
		}
	}
	if limited < 80 {
		t.Errorf("%d of 200 guesses were refused without a look, want 80 or more", limited)
	}
}

// TestSession_S11_Forged checks that session cookies which this instance never made are limited by address
// and cost the store nothing, while cookies that it made still work from there, in sessions that go on and
// that have ended, and so do keys.
func TestSession_S11_Forged(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	asked := &counting{kept: kept{}}
	const admin = "an admin key that is long enough for it"
	g := access.New(access.Config{
		Keys: oneKey{&kapsel.Key{}}, Sessions: asked, AdminKey: secret.NewText(admin), Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	})
	r := httptest.NewRequest(http.MethodPost, "/sign-in", nil)
	signIn := func() (kapsel.Session, string) {
		t.Helper()
		s, token, err := g.SignIn(r, admin)
		if err != nil {
			t.Fatal(err)
		}
		return s, token.Reveal()
	}
	_, live := signIn()
	old, ended := signIn()
	if err := g.SignOut(t.Context(), old, access.Caller{}); err != nil {
		t.Fatal(err)
	}
	limited, wrong := 0, []string{"", "x", live[:len(live)-1], live + "A", "A" + live[1:], ended[:len(ended)-2] + "AA"}
	for i := range 300 {
		switch _, _, err := g.Session(r, wrong[i%len(wrong)], true); {
		case kapsel.CodeOf(err) == kapsel.RateLimited:
			limited++
		case err != access.ErrSignedOut:
			t.Fatalf("a forged cookie: %v", err)
		}
	}
	if limited < 150 || asked.looked != 0 {
		t.Errorf("of 300 forged cookies %d were refused and %d looked up, want at least 150 and 0", limited, asked.looked)
	}
	for range 50 {
		if _, _, err := g.Session(r, live, true); err != nil {
			t.Fatalf("a session behind the address: %v", err)
		}
		if _, _, err := g.Session(r, ended, true); err != access.ErrSignedOut {
			t.Fatalf("a session that has ended: %v", err)
		}
	}
	signIn()
	other := httptest.NewRequest(http.MethodGet, "/", nil)
	other.RemoteAddr = "198.51.100.1:1"
	if _, _, err := g.Session(other, "x", true); err != access.ErrSignedOut {
		t.Errorf("from another address: %v", err)
	}
}

// counting counts how often a session is looked up.
type counting struct {
	kept
	looked int
}

func (c *counting) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error) {
	c.looked++
	return c.kept.SessionByHash(ctx, hash, now)
}
