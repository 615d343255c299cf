package manage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// newManager returns a manager over a store of its own with one tenant, and the admin.
func newManager(t *testing.T) (*manage.Manager, kapsel.Tenant, access.Caller) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ring, err := secret.NewKeyring(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	m := manage.New(manage.Config{
		Store: s, Vault: secret.NewVault(ring), Keyring: ring, PublicURL: "https://kapsel.example", Clock: func() time.Time { return noon },
		Show:     func(o any, _ time.Time) any { return map[string]any{"of": o} },
		CheckURL: func(string) error { return nil }, CheckVerification: signature.Check,
	})
	admin := access.Caller{Right: access.Operate}
	tenant, err := m.CreateTenant(t.Context(), admin, kapsel.TenantID{}, func(s *manage.TenantSettings) error { s.Name = "acme"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return m, tenant, admin
}

// TestUpdateEndpoint checks that an edit of some settings leaves the others and all secrets, that another
// provider takes the former one's secrets away, and that a tenant's caller neither sets a state nor sees
// another tenant's endpoint.
func TestUpdateEndpoint(t *testing.T) {
	m, tenant, admin := newManager(t)
	writer := access.Caller{Right: access.Write, Tenant: tenant.ID}
	text := func(s string) *secret.Text { return new(secret.NewText(s)) }
	in := manage.DefaultEndpoint()
	in.Config.Name, in.Config.URL, in.Config.Verification.Provider = "orders", "https://example.com/hook", "github"
	in.Secrets = manage.IntakeSecrets{Replace: true, List: []manage.SecretSetting{{Text: *text("a secret of github")}}}
	in.Headers.Set = map[string]*secret.Text{"X-One": text("1"), "X-Two": text("2")}
	e, err := m.CreateEndpoint(t.Context(), writer, kapsel.TenantID{}, kapsel.EndpointID{}, in)
	if err != nil || e.SigningSecret.IsZero() {
		t.Fatalf("%+v, %v", e, err)
	}
	update := func(edit func(*manage.EndpointSettings)) manage.Endpoint {
		t.Helper()
		next, err := m.UpdateEndpoint(t.Context(), writer, e.ID, manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error { edit(s); return nil }})
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	next := update(func(s *manage.EndpointSettings) {
		s.Config.Name = "other"
		s.Headers.Set = map[string]*secret.Text{"X-One": nil, "X-Three": text("3")}
	})
	if next.Name != "other" || next.URL != e.URL || !slices.EqualFunc(next.Verification.Secrets, e.Verification.Secrets, func(a, b kapsel.Secret) bool { return a.ID == b.ID }) {
		t.Errorf("a new name makes it %+v", next.EndpointConfig)
	}
	if h := next.Headers.Set; len(h) != 2 || h["X-Two"].ID != e.Headers.Set["X-Two"].ID || h["X-Three"].ID.IsZero() {
		t.Errorf("the headers are %v", h)
	}
	next = update(func(s *manage.EndpointSettings) { s.Config.Verification = kapsel.Verification{} })
	if v := next.Verification; v.Provider != "none" || len(v.Secrets) != 0 {
		t.Errorf("without a provider the verification is %+v", v)
	}

	keep := func(*manage.EndpointSettings) error { return nil }
	disabled := manage.EndpointChange{Edit: keep, State: new(kapsel.EndpointDisabled)}
	if _, err := m.UpdateEndpoint(t.Context(), writer, e.ID, disabled); kapsel.CodeOf(err) != kapsel.Forbidden {
		t.Errorf("a tenant's caller sets the state: %v", err)
	}
	if next, err := m.UpdateEndpoint(t.Context(), admin, e.ID, disabled); err != nil || next.State != kapsel.EndpointDisabled || next.DisabledReason != kapsel.DisabledAdmin {
		t.Errorf("the admin makes it %s (%s), %v", next.State, next.DisabledReason, err)
	}
	if _, err := m.ResumeEndpoint(t.Context(), writer, e.ID); kapsel.CodeOf(err) != kapsel.Forbidden {
		t.Errorf("a tenant's caller resumes what the operator disabled: %v", err)
	}
	stranger := access.Caller{Right: access.Write, Tenant: kapsel.NewTenantID(time.Now())}
	if _, err := m.UpdateEndpoint(t.Context(), stranger, e.ID, manage.EndpointChange{Edit: keep}); kapsel.CodeOf(err) != kapsel.NotFound {
		t.Errorf("another tenant's caller: %v", err)
	}
	if _, err := m.Endpoint(t.Context(), stranger, e.ID); kapsel.CodeOf(err) != kapsel.NotFound {
		t.Errorf("another tenant's caller sees it: %v", err)
	}
}
