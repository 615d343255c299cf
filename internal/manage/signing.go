package manage

import (
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// DefaultOverlap and maxOverlap are how long deliveries carry the signatures of two secrets after a
// rotation, if nothing else is said, and at most.
const (
	DefaultOverlap = 24 * time.Hour
	maxOverlap     = 168 * time.Hour
)

// RotateSecret makes a new signing secret and returns the endpoint with it. Deliveries carry the former
// signature, too, for the overlap.
func (m *Manager) RotateSecret(ctx context.Context, c access.Caller, id kapsel.EndpointID, overlap time.Duration) (Endpoint, error) {
	if err := c.Check(access.Write); err != nil {
		return Endpoint{}, err
	}
	if overlap < 0 || overlap > maxOverlap {
		return Endpoint{}, refused("overlap", "must be 0s to 168h")
	}
	_, t, err := m.withTenant(ctx, c.Tenant, id)
	if err != nil {
		return Endpoint{}, err
	}
	now := m.Clock()
	var text secret.Text
	e, err := m.by(c, "rotate_secret").UpdateEndpoint(ctx, c.Tenant, id, func(e *kapsel.Endpoint) (err error) {
		e.UpdatedAt = now
		e.Signing.Secrets = overlapping(e.Signing.Secrets, now, now.Add(overlap))
		text, err = m.addSigningSecret(e, &t, now)
		return err
	})
	e, err = settled(m, e, err)
	view, err := m.shown(ctx, e, err)
	view.SigningSecret = text
	return view, err
}

// overlapping returns the former signing secrets that deliveries still carry after now, until end at
// most; of many the newest.
func overlapping(former []kapsel.Secret, now, end time.Time) []kapsel.Secret {
	var kept []kapsel.Secret
	for _, s := range former {
		if s.ExpiresAt.IsZero() || s.ExpiresAt.After(end) {
			s.ExpiresAt = end
		}
		if s.ExpiresAt.After(now) {
			kept = append(kept, s)
		}
	}
	return kept[:min(len(kept), kapsel.MaxSecrets-1)]
}

// addSigningSecret puts a new signing secret before the others, and returns its text.
func (m *Manager) addSigningSecret(e *kapsel.Endpoint, t *kapsel.Tenant, now time.Time) (secret.Text, error) {
	text, key := secret.NewSigningSecret()
	s, err := m.Vault.Seal(t, e.ID.String(), key, now)
	if err != nil {
		return text, err
	}
	e.Signing.Secrets = append([]kapsel.Secret{s}, e.Signing.Secrets...)
	return text, nil
}

// SigningKey is a public key that verifies the v1a signatures of an endpoint's deliveries.
type SigningKey struct {
	Secret kapsel.Secret // the signing secret that it goes with
	Public string        // whpk_ and base64
}

// SigningKeys returns the public keys of an endpoint, the newest first. It needs no caller: the keys are
// public, and who knows the ID of an endpoint learns as much from its ingest URL.
func (m *Manager) SigningKeys(ctx context.Context, id kapsel.EndpointID) ([]SigningKey, error) {
	if id.IsZero() {
		return nil, refused("endpoint_id", "is needed: each endpoint has keys of its own")
	}
	e, t, err := m.withTenant(ctx, kapsel.TenantID{}, id)
	if err != nil {
		return nil, err
	}
	list, now := []SigningKey{}, m.Clock()
	for _, s := range valid(e.Signing.Secrets, now) {
		private, err := m.Vault.SigningKey(&t, e.ID.String(), s.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, SigningKey{s, signature.PublicKey(private)})
	}
	return list, nil
}

// valid returns the secrets that have not expired at a time.
func valid(secrets []kapsel.Secret, now time.Time) []kapsel.Secret {
	return slices.DeleteFunc(slices.Clone(secrets), func(s kapsel.Secret) bool { return !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(now) })
}
