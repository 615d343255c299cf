package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// IntakeInput is what people set on an ingest URL, an endpoint's or a source's.
type IntakeInput struct {
	Verification VerificationInput `json:"verification" required:"false"`
	Challenge    *Challenge        `json:"challenge" required:"false" doc:"For the providers none, hmac and token: what the sender asks the URL before the first event"`
	Probe        bool              `json:"probe" required:"false" doc:"For the providers none, hmac and token: GET and HEAD are answered 200, with nothing"`
	Response     *Response         `json:"response" required:"false" doc:"What accepted webhooks are answered; null: what the provider wants, or the event's id"`
	Idempotency  Idempotency       `json:"idempotency" required:"false"`
}

// intakeOf returns an intake as its owner would set it, without the secrets.
func intakeOf(c kapsel.Intake) IntakeInput {
	v, i := c.Verification, c.Idempotency
	in := IntakeInput{
		Verification: VerificationInput{
			Provider: v.Provider, Header: v.Header, Algorithm: v.Algorithm, Encoding: v.Encoding, Prefix: v.Prefix, Signed: v.Signed, Format: v.Format,
			TimeHeader: v.TimeHeader, TimeUnit: v.TimeUnit, KeyEncoding: v.KeyEncoding, Decompress: v.Decompress, In: v.In,
			TopicARNs: v.TopicARNs, Audience: v.Audience, Email: v.Email,
		},
		Challenge: (*Challenge)(c.Challenge), Probe: c.Probe, Response: viewResponse(c.Response),
		Idempotency: Idempotency{i.Strategy, i.Header, i.Path, duration(i.Window)},
	}
	if v.Provider == "" {
		in.Verification.Provider = signature.None
	}
	if v.Tolerance != 0 {
		in.Verification.Tolerance = (*duration)(&v.Tolerance)
	}
	return in
}

// config returns the input in the domain's form, without the secrets.
func (in *IntakeInput) config() kapsel.Intake {
	v, i := in.Verification, in.Idempotency
	config := kapsel.Intake{
		Verification: kapsel.Verification{
			Provider: v.Provider, Header: v.Header, Algorithm: v.Algorithm, Encoding: v.Encoding, Prefix: v.Prefix, Signed: v.Signed, Format: v.Format,
			TimeHeader: v.TimeHeader, TimeUnit: v.TimeUnit, KeyEncoding: v.KeyEncoding, Decompress: v.Decompress, In: v.In,
			TopicARNs: v.TopicARNs, Audience: v.Audience, Email: v.Email,
		},
		Challenge: (*kapsel.Challenge)(in.Challenge), Probe: in.Probe, Response: in.Response.config(),
		Idempotency: kapsel.Idempotency{Strategy: i.Strategy, Header: i.Header, Path: i.Path, Window: time.Duration(i.Window)},
	}
	if v.Tolerance != nil {
		config.Verification.Tolerance = time.Duration(*v.Tolerance)
	}
	return config
}

// forgetProvider takes away what was set for one provider, secrets included, where a patch sets
// another, to which it means nothing.
func forgetProvider(had *kapsel.Intake, current *IntakeInput, patch map[string]any) {
	if provider, there := said(patch, "verification", "provider"); there && provider != current.Verification.Provider {
		had.Verification = kapsel.Verification{}
		current.Verification = VerificationInput{}
	}
}

// intake returns the intake of an input and what is wrong with it. It seals the secrets for the
// endpoint or source that has the id. Secrets cannot be read back, so a secret that the patch does
// not mention stays as it was; a nil patch mentions none. The domain's own checks are not made here.
func (a *api) intake(had *kapsel.Intake, t *kapsel.Tenant, id string, in *IntakeInput, patch map[string]any, now time.Time) (config kapsel.Intake, wrong []kapsel.FieldError, err error) {
	config = in.config()
	secrets := in.Verification.Secrets
	config.Verification.Secrets = had.Verification.Secrets
	if _, there := said(patch, "verification", "secrets"); there || secrets != nil {
		config.Verification.Secrets = nil
		for i, in := range secrets {
			s, kept, problem := in.kept(had.Verification.Secrets, secrets[:i])
			if problem != "" {
				wrong = append(wrong, kapsel.FieldError{Field: fmt.Sprintf("verification.secrets[%d].id", i), Detail: problem})
			}
			if !kept {
				if s, err = a.Vault.Seal(t, id, []byte(in.text.Reveal()), now); err != nil {
					return config, nil, err
				}
			}
			config.Verification.Secrets = append(config.Verification.Secrets, s)
		}
	}
	config.Verification.VerifyToken = had.Verification.VerifyToken
	if _, there := said(patch, "verification", "verify_token"); there || in.Verification.VerifyToken != nil {
		config.Verification.VerifyToken = nil
		if token := in.Verification.VerifyToken; token != nil {
			s, err := a.Vault.Seal(t, id, []byte(token.Reveal()), now)
			if err != nil {
				return config, nil, err
			}
			config.Verification.VerifyToken = &s
		}
	}
	config.Verification.AwaitingUntil = had.Verification.AwaitingUntil
	if _, there := said(patch, "verification", "secrets"); !there { // only what a handshake brought is shown
		config.Verification.ShownUntil = had.Verification.ShownUntil
	}
	if !now.Before(config.Verification.AwaitingUntil) {
		config.Verification.AwaitingUntil = time.Time{}
	}
	if _, there := said(patch, "verification", "awaiting_handshake"); there || in.Verification.AwaitingHandshake != nil {
		config.Verification.AwaitingUntil = time.Time{}
		if on := in.Verification.AwaitingHandshake; on != nil && *on {
			config.Verification.AwaitingUntil = now.Add(signature.HandshakeWindow)
		}
	}
	if of := a.CheckVerification(config.Verification); of != nil {
		wrong = append(wrong, of...)
	} else {
		for i, in := range secrets {
			if !in.keeps {
				wrong = append(wrong, checkSecret(config.Verification, fmt.Sprintf("verification.secrets[%d]", i), in.text.Reveal())...)
			}
		}
		if token := in.Verification.VerifyToken; token != nil && (token.IsZero() || len(token.Reveal()) > maxSecret) {
			wrong = append(wrong, kapsel.FieldError{Field: "verification.verify_token", Detail: fmt.Sprintf("must have 1 to %d bytes", maxSecret)})
		}
	}
	wrong = append(wrong, signature.CheckChallenge(config.Verification.Provider, config.Challenge, config.Probe)...)
	wrong = append(wrong, storedSecret(config.Verification, "idempotency.header", config.Idempotency.Header)...)
	return config, wrong, nil
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
// else "". Only callers of scope write see it.
func (a *api) brought(ctx context.Context, tenant kapsel.TenantID, id string, v kapsel.Verification) (string, error) {
	if !callerOf(ctx).May(access.Write) || !a.Clock().Before(v.ShownUntil) || len(v.Secrets) != 1 {
		return "", nil
	}
	t, err := a.Store.Tenant(ctx, tenant)
	if err != nil {
		return "", err
	}
	brought, err := a.Vault.Open(&t, id, v.Secrets[0])
	if err != nil {
		return "", fmt.Errorf("open the handshake's secret: %w", err)
	}
	return string(brought), nil
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
