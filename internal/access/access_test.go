package access_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestCaller checks what each kind of caller may do, and whose objects it sees.
func TestCaller(t *testing.T) {
	own, other := kapsel.NewTenantID(noon), kapsel.NewTenantID(noon)
	rights := []access.Right{access.Anyone, access.Read, access.Write, access.Operate} // Book has a test of its own
	for _, tt := range []struct {
		name   string
		caller access.Caller
		may    int // how many of rights
		code   kapsel.Code
		sees   kapsel.TenantID // of other
	}{
		{"nobody", access.Caller{}, 1, kapsel.Unauthorized, kapsel.TenantID{}},
		{"a right without a tenant", access.Caller{Right: access.Write}, 1, kapsel.Unauthorized, kapsel.TenantID{}},
		{"no such right", access.Caller{Right: "root", Tenant: own}, 1, kapsel.Unauthorized, own},
		{"reader", access.Caller{Right: access.Read, Tenant: own}, 2, kapsel.Forbidden, own},
		{"writer", access.Caller{Right: access.Write, Tenant: own}, 3, kapsel.Forbidden, own},
		{"admin", access.Caller{Right: access.Operate}, 4, "", other},
	} {
		for i, right := range rights {
			err := tt.caller.Check(right)
			if may := tt.caller.May(right); may != (i < tt.may) || may != (err == nil) || err != nil && kapsel.CodeOf(err) != tt.code {
				t.Errorf("%s, %s: may %t, %v", tt.name, right, may, err)
			}
		}
		if tt.caller.May("everything") {
			t.Errorf("%s has a right that there is not", tt.name)
		}
		if got := tt.caller.TenantOr(other); got != tt.sees {
			t.Errorf("%s sees %s", tt.name, got)
		}
	}
}

// TestBook checks that who books may do that and nothing else, that the admin alone may do it, too, and that no
// session is made of a key that is of no tenant.
func TestBook(t *testing.T) {
	booker := access.Caller{Right: access.Book}
	for _, right := range []access.Right{access.Read, access.Write, access.Operate, "everything"} {
		if err := booker.Check(right); booker.May(right) || kapsel.CodeOf(err) != kapsel.Forbidden {
			t.Errorf("the booker may do what needs %s: %v", right, err)
		}
	}
	if !booker.May(access.Book) || !booker.May(access.Anyone) || booker.IsAdmin() {
		t.Error("the booker may not book, or is the admin")
	}
	own := kapsel.NewTenantID(noon)
	for _, c := range []access.Caller{{}, {Right: access.Read, Tenant: own}, {Right: access.Write, Tenant: own}, {Right: access.Write}} {
		if c.May(access.Book) || c.Check(access.Book) == nil {
			t.Errorf("%+v may book", c)
		}
	}
	if !(access.Caller{Right: access.Operate}).May(access.Book) {
		t.Error("the admin may not book")
	}

	text, hash, prefix := secret.NewAPIKey()
	for _, tt := range []struct {
		key   kapsel.Key
		right access.Right
	}{
		{kapsel.Key{Scope: kapsel.ScopeLedger}, access.Book},
		{kapsel.Key{Scope: kapsel.ScopeLedger, TenantID: own}, access.Read}, // which the domain refuses to make
	} {
		tt.key.ID, tt.key.Hash, tt.key.Prefix = kapsel.NewKeyID(noon), hash, prefix
		g := access.New(access.Config{Keys: &shelf{key: tt.key}, AdminKey: secret.NewText("an admin key that nobody sends here"), Clock: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler)})
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+text.Reveal())
		if c, err := g.Caller(r); err != nil || c.Right != tt.right || c.Tenant != tt.key.TenantID {
			t.Errorf("a key of scope %s of tenant %s: %+v, %v", tt.key.Scope, tt.key.TenantID, c, err)
		}
		if !tt.key.TenantID.IsZero() {
			continue
		}
		if _, _, err := g.SignIn(r, text.Reveal()); kapsel.CodeOf(err) != kapsel.Forbidden {
			t.Errorf("a key of scope ledger signs in: %v", err)
		}
	}
}

// shelf holds one key.
type shelf struct {
	key  kapsel.Key
	err  error
	used int
}

func (s *shelf) KeyByHash(_ context.Context, hash [32]byte) (kapsel.Key, error) {
	if s.err != nil || hash == s.key.Hash {
		return s.key, s.err
	}
	return kapsel.Key{}, kapsel.Errorf(kapsel.NotFound, "no such key")
}

func (s *shelf) TouchKeys(context.Context, map[kapsel.KeyID]time.Time) error {
	s.used++
	return nil
}

// TestGuard checks who is found by which Authorization headers.
func TestGuard(t *testing.T) {
	const admin = "an admin key of thirty-two characters or more"
	key, hash, _ := secret.NewAPIKey()
	tenant, id := kapsel.NewTenantID(noon), kapsel.NewKeyID(noon)
	s := &shelf{key: kapsel.Key{ID: id, TenantID: tenant, Scope: kapsel.ScopeWrite, Hash: hash, ExpiresAt: noon.Add(time.Hour), LastUsedAt: noon.Add(-time.Minute)}}
	now := noon
	g := access.New(access.Config{
		Keys: s, AdminKey: secret.NewText(admin), Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	})
	client := netip.MustParseAddr("192.0.2.1") // of httptest.NewRequest
	writer := access.Caller{
		Right: access.Write, Tenant: tenant, Key: id, Until: noon.Add(time.Hour),
		Actor: kapsel.Actor{Kind: kapsel.ActorKey, KeyID: id, Client: client},
	}
	for _, tt := range []struct {
		name   string
		values []string
		want   access.Caller
	}{
		{"a key", []string{"Bearer " + key.Reveal()}, writer},
		{"another case", []string{"bearer " + key.Reveal()}, writer},
		{"the admin key", []string{"Bearer " + admin}, access.Caller{Right: access.Operate, Actor: kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true, Client: client}}},
		{"nothing", nil, access.Caller{}},
		{"two", []string{"Bearer " + admin, "Bearer " + admin}, access.Caller{}},
		{"another scheme", []string{"Basic " + admin}, access.Caller{}},
		{"no scheme", []string{admin}, access.Caller{}},
		{"a wrong key", []string{"Bearer " + admin + "x"}, access.Caller{}},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = tt.values
		c, err := g.Caller(r)
		if c != tt.want || (err == nil) != (tt.want != access.Caller{}) || err != nil && !errors.Is(err, access.ErrUnauthorized) {
			t.Errorf("%s: %+v, %v", tt.name, c, err)
		}
	}
	if s.used != 2 {
		t.Errorf("the use of the key was recorded %d times, want 2", s.used)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+key.Reveal())
	now = noon.Add(time.Hour)
	if c, err := g.Caller(r); c != (access.Caller{}) || !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("expired: %+v, %v", c, err)
	}
	s.err = errors.New("the store is away")
	if c, err := g.Caller(r); c != (access.Caller{}) || !errors.Is(err, s.err) {
		t.Errorf("store trouble: %+v, %v", c, err)
	}
}
