package ingest

import (
	"context"
	"fmt"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// verifiers keeps the verifiers of endpoints in use, each made of one revision's settings. They
// hold secrets in clear, so a verifier goes as soon as the endpoint is changed or deleted.
type verifiers struct {
	config *Config
	mu     sync.RWMutex
	byID   map[kapsel.EndpointID]made
}

type made struct {
	revision int64
	verifier *signature.Verifier
}

// of finds or makes the endpoint's verifier; nil when it wants none.
func (v *verifiers) of(ctx context.Context, ep *kapsel.Endpoint) (*signature.Verifier, error) {
	if p := ep.Verification.Provider; p == "" || p == "none" {
		return nil, nil
	}
	v.mu.RLock()
	got := v.byID[ep.ID]
	v.mu.RUnlock()
	if got.verifier != nil && got.revision == ep.Revision {
		return got.verifier, nil
	}
	tenant, err := v.config.Settings.Tenant(ctx, ep.TenantID)
	if err != nil {
		return nil, err
	}
	keys := make([]signature.Key, 0, len(ep.Verification.Secrets))
	for _, s := range ep.Verification.Secrets {
		value, err := v.config.Vault.Open(tenant, ep.ID.String(), s)
		if err != nil {
			return nil, fmt.Errorf("open a verification secret: %w", err)
		}
		keys = append(keys, signature.Key{ID: s.ID, Value: value})
	}
	var verifyToken []byte
	if s := ep.Verification.VerifyToken; s != nil {
		if verifyToken, err = v.config.Vault.Open(tenant, ep.ID.String(), *s); err != nil {
			return nil, fmt.Errorf("open the verify token: %w", err)
		}
	}
	verifier, err := signature.New(ep.Verification, keys, string(verifyToken), v.config.Remote)
	if err != nil {
		return nil, fmt.Errorf("make the verifier: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if latest := v.config.Settings.Latest(ep); latest.Revision != ep.Revision || !latest.DeletedAt.IsZero() {
		return verifier, nil // for this request only: nothing would drop it
	}
	if v.byID == nil {
		v.byID = map[kapsel.EndpointID]made{}
	}
	v.byID[ep.ID] = made{ep.Revision, verifier}
	return verifier, nil
}

// drop forgets the verifiers of endpoints that have changed.
func (v *verifiers) drop(changed []kapsel.Endpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range changed {
		if ep := &changed[i]; v.byID[ep.ID].revision < ep.Revision {
			delete(v.byID, ep.ID)
		}
	}
}
