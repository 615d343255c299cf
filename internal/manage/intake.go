package manage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// IntakeSecrets say what becomes of the secrets of an ingest URL, an endpoint's or a source's. Secrets
// cannot be read back, so what is not mentioned stays as it is, unless the provider changes: then
// everything of the former provider goes.
type IntakeSecrets struct {
	Replace bool // whether List takes the place of the secrets that there are
	List    []SecretSetting

	ReplaceToken bool         // whether VerifyToken takes the place of the one that there is
	VerifyToken  *secret.Text // nil: none

	// AwaitHandshake opens the window in which a handshake may bring the secret, or closes it; nil: as it is.
	AwaitHandshake *bool
}

// SecretSetting is the text of a new secret, or names one that is there and stays.
type SecretSetting struct {
	Keep bool            // whether ID names the secret
	ID   kapsel.SecretID // of a secret that stays
	Text secret.Text     // of a new secret
}

// MaxSecret is how many bytes a secret may have; a public key in PEM fits.
const MaxSecret = 8 << 10

// forgetProvider removes from an intake what was set for a provider that next replaces, to which it means
// nothing. "" and none are the same provider.
func forgetProvider(had *kapsel.Intake, next kapsel.Intake) {
	name := func(in kapsel.Intake) string {
		if in.Verification.Provider == "" {
			return signature.None
		}
		return in.Verification.Provider
	}
	if name(*had) != name(next) {
		had.Verification = kapsel.Verification{}
	}
}

// intake returns an intake as it is set, with the secrets that it had or gets, and what is wrong with it.
// It seals new secrets for the endpoint or source that has the id. The domain's own checks are not made
// here.
func (m *Manager) intake(had *kapsel.Intake, t *kapsel.Tenant, id string, next kapsel.Intake, s *IntakeSecrets, now time.Time) (config kapsel.Intake, wrong []kapsel.FieldError, err error) {
	config = next
	v := &config.Verification
	v.Secrets = had.Verification.Secrets
	if s.Replace {
		v.Secrets = nil
		for i, in := range s.List {
			sealed, problem := in.kept(had.Verification.Secrets, s.List[:i])
			if problem != "" {
				wrong = append(wrong, kapsel.FieldError{Field: fmt.Sprintf("verification.secrets[%d].id", i), Detail: problem})
			}
			if !in.Keep {
				if sealed, err = m.Vault.Seal(t, id, []byte(in.Text.Reveal()), now); err != nil {
					return config, nil, err
				}
			}
			v.Secrets = append(v.Secrets, sealed)
		}
	}
	v.VerifyToken = had.Verification.VerifyToken
	if s.ReplaceToken {
		v.VerifyToken = nil
		if s.VerifyToken != nil {
			token, err := m.Vault.Seal(t, id, []byte(s.VerifyToken.Reveal()), now)
			if err != nil {
				return config, nil, err
			}
			v.VerifyToken = &token
		}
	}
	v.AwaitingUntil, v.ShownUntil = had.Verification.AwaitingUntil, had.Verification.ShownUntil
	if s.Replace { // only what a handshake brought is shown
		v.ShownUntil = time.Time{}
	}
	if !now.Before(v.AwaitingUntil) {
		v.AwaitingUntil = time.Time{}
	}
	if s.AwaitHandshake != nil {
		v.AwaitingUntil = time.Time{}
		if *s.AwaitHandshake {
			v.AwaitingUntil = now.Add(signature.HandshakeWindow)
		}
	}
	if of := m.CheckVerification(*v); of != nil {
		wrong = append(wrong, of...)
	} else {
		for i, in := range s.List {
			if !in.Keep {
				wrong = append(wrong, checkSecret(*v, fmt.Sprintf("verification.secrets[%d]", i), in.Text.Reveal())...)
			}
		}
		if token := s.VerifyToken; token != nil && (token.IsZero() || len(token.Reveal()) > MaxSecret) {
			wrong = append(wrong, kapsel.FieldError{Field: "verification.verify_token", Detail: fmt.Sprintf("must have 1 to %d bytes", MaxSecret)})
		}
	}
	wrong = append(wrong, signature.CheckChallenge(v.Provider, config.Challenge, config.Probe)...)
	wrong = append(wrong, storedSecret(*v, "idempotency.header", config.Idempotency.Header)...)
	if path := config.Idempotency.Path; path != "" {
		if _, err := jsonpath.Parse(path); err != nil {
			wrong = append(wrong, kapsel.FieldError{Field: "idempotency.path", Detail: err.Error()})
		}
	}
	return config, wrong, nil
}

// kept returns the secret of has that the setting names. It returns a problem if the ID is missing, is not
// in has, or is named in before, which holds the settings that come before this one.
func (s SecretSetting) kept(has []kapsel.Secret, before []SecretSetting) (found kapsel.Secret, problem string) {
	if !s.Keep {
		return found, ""
	}
	i := slices.IndexFunc(has, func(h kapsel.Secret) bool { return h.ID == s.ID })
	switch {
	case s.ID.IsZero():
		return found, "is needed in an object; a new secret is a string"
	case i < 0:
		return found, "is no secret that the endpoint has for this provider; GET lists those it has"
	case slices.ContainsFunc(before, func(b SecretSetting) bool { return b.Keep && b.ID == s.ID }):
		return found, "is there twice"
	}
	return has[i], ""
}

// checkSecret returns what is wrong with a secret of a verification whose other settings are right.
func checkSecret(v kapsel.Verification, at, text string) []kapsel.FieldError {
	if text == "" || len(text) > MaxSecret {
		return []kapsel.FieldError{{Field: at, Detail: fmt.Sprintf("must have 1 to %d bytes", MaxSecret)}}
	}
	if err := signature.CheckSecret(v, []byte(text)); err != nil {
		return []kapsel.FieldError{{Field: at, Detail: err.Error()}}
	}
	return nil
}

// storedSecret refuses a field that names a header whose value is stored, where the provider sends
// the secret in that header.
func storedSecret(v kapsel.Verification, field, header string) []kapsel.FieldError {
	same := func(name string) bool { return strings.EqualFold(name, header) }
	if !slices.ContainsFunc(signature.SharedSecretHeaders(v), same) || kapsel.CarriesCredentials(header) { // the domain refuses the latter
		return nil
	}
	return []kapsel.FieldError{{Field: field, Detail: "names the header in which the provider sends the secret, which would be stored"}}
}

// brought returns the secret that a provider brought with a handshake, as long as it may be shown,
// else "". Only callers who may write see it.
func (m *Manager) brought(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id string, v kapsel.Verification) (string, error) {
	if !c.May(access.Write) || !m.Clock().Before(v.ShownUntil) || len(v.Secrets) != 1 {
		return "", nil
	}
	t, err := m.Store.Tenant(ctx, tenant)
	if err != nil {
		return "", err
	}
	text, err := m.Vault.Open(&t, id, v.Secrets[0])
	if err != nil {
		return "", fmt.Errorf("open the handshake's secret: %w", err)
	}
	return string(text), nil
}

// intakeWarnings returns the warnings that the owner of an ingest URL is shown.
func intakeWarnings(in *kapsel.Intake) []string {
	list := []string{}
	if in.Verification.Provider == "" || in.Verification.Provider == signature.None {
		list = append(list, "unverified: anyone who knows the URL can post events")
	}
	if signature.Brings(in.Verification.Provider) && len(in.Verification.Secrets) == 0 {
		list = append(list, "no secret yet: set verification.awaiting_handshake, then make the webhook at the provider within 10 minutes")
	}
	return list
}
