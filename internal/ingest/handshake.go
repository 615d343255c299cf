package ingest

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// verify checks a request's signature by the origin's settings. It returns what it found out, and
// an error if the signature is not valid.
func (p *prepared) verify(signed signature.Request, now time.Time) (kapsel.SignatureVerdict, error) {
	if p.verifier == nil {
		return kapsel.SignatureVerdict{Scheme: signature.None}, nil
	}
	return p.verifier.Verify(signed, now)
}

// signed returns the request as its sender signed it.
func (h *Handler) signed(r *http.Request, body []byte) signature.Request {
	return signature.Request{Method: r.Method, URL: h.PublicURL + r.URL.RequestURI(), Header: r.Header, Body: body}
}

// unsigned returns the answer to a challenge that the sender does not sign, or nil if the request
// is no such challenge. The answer reveals only that the endpoint exists. If the challenge brings
// a secret, unsigned stores the secret, and returns an error if nobody awaits it.
func (h *Handler) unsigned(ctx context.Context, o origin, p *prepared, signed signature.Request) (*signature.Answer, error) {
	if v := p.verifier; v != nil {
		if a := v.Unsigned(signed); a != nil {
			return a, nil
		}
		if brought, a := v.Brought(signed); a != nil {
			return a, h.keep(ctx, o, brought)
		}
		if v.Claims(signed) {
			return nil, nil // answered after the signature is verified, if at all
		}
	}
	return p.challenge.Answer(signed), nil
}

// guard returns what tells a verified request from all others of its origin; nil if no guard is
// kept for it.
func (p *prepared) guard(signed signature.Request) []byte {
	if p.verifier == nil {
		return nil
	}
	return p.verifier.Guard(signed)
}

// keep stores the secret that a handshake brought, if the origin has none and a person awaits one.
// If handshakes come at the same time, the first one wins.
func (h *Handler) keep(ctx context.Context, o origin, brought string) error {
	now := h.Clock.Now()
	awaits := func(in *kapsel.Intake) error {
		v := &in.Verification
		if len(v.Secrets) > 0 || !now.Before(v.AwaitingUntil) || v.Provider != o.Verification.Provider {
			return kapsel.Errorf(kapsel.InvalidSignature, "nobody awaits this handshake: set verification.awaiting_handshake where there is no secret, at most 10 minutes before")
		}
		return nil
	}
	if err := awaits(o.Intake); err != nil {
		return err
	}
	tenant, err := h.Settings.Tenant(ctx, o.tenant)
	if err != nil {
		return err
	}
	sealed, err := h.Vault.Seal(tenant, o.text(), []byte(brought), now)
	if err != nil {
		return fmt.Errorf("seal the handshake's secret: %w", err)
	}
	err = h.update(ctx, o, now, func(in *kapsel.Intake) error {
		if err := awaits(in); err != nil {
			return err
		}
		v := &in.Verification
		v.Secrets, v.AwaitingUntil = []kapsel.Secret{sealed}, time.Time{}
		if signature.Shows(v.Provider) {
			v.ShownUntil = now.Add(signature.HandshakeWindow)
		}
		return nil
	})
	if err == nil {
		h.Settings.Obey()
	}
	return err
}

// handshake returns the answer to a provider's challenge, or nil if the request is no challenge.
// For a POST, callers must verify the signature first. handshake returns Forbidden if the
// challenge does not name the endpoint's secret. A challenge is no event, so nothing is stored.
func (p *prepared) handshake(signed signature.Request) (a *signature.Answer, err error) {
	if p.verifier != nil {
		if a, err = p.verifier.Handshake(signed); err != nil {
			return nil, err
		}
	}
	if a == nil {
		a = p.challenge.Answer(signed)
	}
	if a != nil && a.Status == http.StatusForbidden {
		return nil, kapsel.Errorf(kapsel.Forbidden, "the challenge does not name the endpoint's secret")
	}
	return a, nil
}
