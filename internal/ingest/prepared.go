package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// prepared is what an origin's settings ask of each request, parsed and with its secrets opened.
type prepared struct {
	verifier  *signature.Verifier // nil: signatures are not checked
	challenge signature.Challenge // beside those of the verifier's provider
	key       jsonpath.Path       // of the idempotency key, if it is read from the body
	eventType jsonpath.Path       // of the event's type, if it is read from the body
}

// plain is the prepared form of settings that ask for nothing.
var plain = &prepared{}

// prepare returns the prepared settings of an origin, and prepares them if need be. It fails if the
// tenant cannot be read, a secret cannot be opened or the settings are not valid.
func (h *Handler) prepare(ctx context.Context, o origin) (*prepared, error) {
	verified := o.Verification.Provider != "" && o.Verification.Provider != signature.None
	keyed := o.Idempotency.Strategy == kapsel.KeyFromSourceID
	typed := o.typePath()
	if !verified && !keyed && typed == "" && o.Challenge == nil && !o.Probe {
		return plain, nil
	}
	if p, ok := h.prepared.Get(o.id, o.revision(), time.Time{}); ok {
		return p, nil
	}
	p := &prepared{challenge: signature.NewChallenge(o.Challenge, o.Probe)}
	if keyed {
		p.key, _ = jsonpath.Parse(o.Idempotency.Path) // it was checked when it was set
	}
	if typed != "" {
		p.eventType, _ = jsonpath.Parse(typed) // it was checked when it was set
	}
	if verified {
		var err error
		if p.verifier, err = h.verifier(ctx, o); err != nil {
			return nil, err
		}
	}
	h.prepared.Keep(o.id, o.revision(), time.Time{}, p)
	return p, nil
}

// verifier returns a verifier by an origin's settings.
func (h *Handler) verifier(ctx context.Context, o origin) (*signature.Verifier, error) {
	tenant, err := h.Settings.Tenant(ctx, o.tenant)
	if err != nil {
		return nil, err
	}
	keys := make([]signature.Key, 0, len(o.Verification.Secrets))
	for _, s := range o.Verification.Secrets {
		value, err := h.Vault.Open(tenant, o.text(), s)
		if err != nil {
			return nil, fmt.Errorf("open a verification secret: %w", err)
		}
		keys = append(keys, signature.Key{ID: s.ID, Value: value})
	}
	var verifyToken []byte
	if s := o.Verification.VerifyToken; s != nil {
		if verifyToken, err = h.Vault.Open(tenant, o.text(), *s); err != nil {
			return nil, fmt.Errorf("open the verify token: %w", err)
		}
	}
	verifier, err := signature.New(o.Verification, keys, string(verifyToken), h.Remote)
	if err != nil {
		return nil, fmt.Errorf("make the verifier: %w", err)
	}
	return verifier, nil
}
