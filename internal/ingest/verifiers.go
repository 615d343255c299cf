package ingest

import (
	"context"
	"fmt"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// verifiers keeps the verifiers of the endpoints and sources in use, each made from the settings
// of one revision. A verifier holds secrets in clear, so drop removes it as soon as its endpoint
// or source is changed or deleted.
type verifiers struct {
	config *Config
	mu     sync.RWMutex
	byID   map[kapsel.OriginID]made
}

type made struct {
	revision int64
	verifier *signature.Verifier
}

// of returns the origin's verifier and makes it if need be. It returns nil if the origin wants
// none. It fails if the tenant cannot be read, a secret cannot be opened or the settings are not
// valid.
func (v *verifiers) of(ctx context.Context, o origin) (*signature.Verifier, error) {
	if p := o.Verification.Provider; p == "" || p == "none" {
		return nil, nil
	}
	v.mu.RLock()
	got := v.byID[o.id]
	v.mu.RUnlock()
	if got.verifier != nil && got.revision == o.revision() {
		return got.verifier, nil
	}
	tenant, err := v.config.Settings.Tenant(ctx, o.tenant)
	if err != nil {
		return nil, err
	}
	keys := make([]signature.Key, 0, len(o.Verification.Secrets))
	for _, s := range o.Verification.Secrets {
		value, err := v.config.Vault.Open(tenant, o.text(), s)
		if err != nil {
			return nil, fmt.Errorf("open a verification secret: %w", err)
		}
		keys = append(keys, signature.Key{ID: s.ID, Value: value})
	}
	var verifyToken []byte
	if s := o.Verification.VerifyToken; s != nil {
		if verifyToken, err = v.config.Vault.Open(tenant, o.text(), *s); err != nil {
			return nil, fmt.Errorf("open the verify token: %w", err)
		}
	}
	verifier, err := signature.New(o.Verification, keys, string(verifyToken), v.config.Remote)
	if err != nil {
		return nil, fmt.Errorf("make the verifier: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !o.current(v.config.Settings) {
		return verifier, nil // for this request only: nothing would drop it
	}
	if v.byID == nil {
		v.byID = map[kapsel.OriginID]made{}
	}
	v.byID[o.id] = made{o.revision(), verifier}
	return verifier, nil
}

// drop removes the verifiers of endpoints and sources that have changed.
func (v *verifiers) drop(changed *store.Settings) {
	v.mu.Lock()
	defer v.mu.Unlock()
	drop := func(id kapsel.OriginID, revision int64) {
		if v.byID[id].revision < revision {
			delete(v.byID, id)
		}
	}
	for i := range changed.Endpoints {
		drop(kapsel.OriginID(changed.Endpoints[i].ID), changed.Endpoints[i].Revision)
	}
	for i := range changed.Sources {
		drop(kapsel.OriginID(changed.Sources[i].ID), changed.Sources[i].Revision)
	}
}
