package ingest

import (
	"context"
	"fmt"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// verifiers keeps the verifiers of endpoints and sources in use, each made of one revision's settings. They
// hold secrets in clear, so a verifier goes as soon as that is changed or deleted.
type verifiers struct {
	config *Config
	mu     sync.RWMutex
	byID   map[kapsel.OriginID]made
}

type made struct {
	revision int64
	verifier *signature.Verifier
}

// of finds or makes the origin's verifier; nil when it wants none.
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

// drop forgets the verifiers of endpoints and sources that have changed.
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
