package delivery

import (
	"context"
	"fmt"
	"net/textproto"
	"net/url"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// recipient returns the recipient by the settings in ep, and prepares it if none is held or a secret
// in it has expired. It fails if the tenant cannot be read, the URL is invalid or a secret cannot be
// opened.
func (e *Engine) recipient(ctx context.Context, ep *kapsel.Endpoint, now time.Time) (*Recipient, error) {
	if r, ok := e.recipients.Get(kapsel.OriginID(ep.ID), ep.Revision, now); ok {
		return r, nil
	}
	r, until, err := e.newRecipient(ctx, ep, now)
	if err == nil {
		e.recipients.Keep(kapsel.OriginID(ep.ID), ep.Revision, until, r)
	}
	return r, err
}

// newRecipient returns the recipient by the settings in ep, without the signing secrets that have
// expired at now. until is when the next one expires; zero: none does. newRecipient fails if the
// tenant cannot be read, the URL is invalid or a secret cannot be opened.
func (e *Engine) newRecipient(ctx context.Context, ep *kapsel.Endpoint, now time.Time) (r *Recipient, until time.Time, err error) {
	tenant, err := e.Settings.Tenant(ctx, ep.TenantID)
	if err != nil {
		return nil, until, fmt.Errorf("read the tenant: %w", err)
	}
	keep := ep.Headers.Keep
	if !ep.AppID.IsZero() {
		keep = nil // a customer's endpoint gets no credentials of senders, whatever it asks for
	}
	r = &Recipient{Timeout: ep.Timeout, Along: NewForwarding(ep.Headers.Drop, keep, ep.Signing.Enabled, ep.ForwardQuery)}
	if r.URL, err = url.Parse(ep.URL); err != nil {
		return nil, until, fmt.Errorf("parse the endpoint's URL: %w", err)
	}
	var keys []signature.SigningKey
	for _, s := range ep.Signing.Secrets {
		if !s.ExpiresAt.IsZero() {
			if !now.Before(s.ExpiresAt) {
				continue
			}
			if until.IsZero() || s.ExpiresAt.Before(until) {
				until = s.ExpiresAt
			}
		}
		key, err := e.Vault.Open(tenant, ep.ID.String(), s)
		if err != nil {
			return nil, until, fmt.Errorf("open a signing secret: %w", err)
		}
		signing := signature.SigningKey{HMAC: key}
		if ep.Signing.V1a {
			if signing.Ed25519, err = e.Vault.SigningKey(tenant, ep.ID.String(), s.ID); err != nil {
				return nil, until, fmt.Errorf("derive a signing key: %w", err)
			}
		}
		keys = append(keys, signing)
	}
	if ep.Signing.Enabled && len(keys) > 0 {
		r.Signer = signature.NewSigner(keys)
	}
	for name, s := range ep.Headers.Set {
		value, err := e.Vault.Open(tenant, ep.ID.String(), s)
		if err != nil {
			return nil, until, fmt.Errorf("open the value of header %s: %w", name, err)
		}
		r.Set = append(r.Set, kapsel.HeaderField{Name: textproto.CanonicalMIMEHeaderKey(name), Value: string(value)})
	}
	return r, until, nil
}
