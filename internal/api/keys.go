package api

import (
	"context"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) keys() {
	op := tagged("Keys")
	create := op("create-key", http.MethodPost, "/v1/tenants/{id}/keys", "Create a key; its secret is in this answer only")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, takes[KeyInput](create), a.createKey)
	add(a, access.Read, op("list-keys", http.MethodGet, "/v1/tenants/{id}/keys", "List keys, revoked ones included"), a.listKeys)
	instance := op("create-instance-key", http.MethodPost, "/v1/keys", "Create a key of the instance; its secret is in this answer only")
	instance.DefaultStatus = http.StatusCreated
	add(a, access.Operate, takes[InstanceKeyInput](instance), a.createInstanceKey)
	add(a, access.Operate, op("list-instance-keys", http.MethodGet, "/v1/keys", "List the instance's keys, revoked ones included"), a.listInstanceKeys)
	add(a, access.Operate, op("revoke-instance-key", http.MethodDelete, "/v1/keys/{id}", "Revoke a key of the instance"), removed(a.Manage.RevokeInstanceKey, (*InstanceKeyPath).ref))
	add(a, access.Write, op("revoke-key", http.MethodDelete, "/v1/tenants/{id}/keys/{key_id}", "Revoke a key"), a.revokeKey)
}

func (a *api) createKey(ctx context.Context, in *TenantPath) (*out[NewKey], error) {
	var body KeyInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	s := manage.KeySettings{Name: body.Name, Scope: body.Scope}
	if body.ExpiresAt != nil {
		s.ExpiresAt = time.Time(*body.ExpiresAt)
	}
	k, text, err := a.Manage.CreateKey(ctx, callerOf(ctx), in.ID, reserved[kapsel.KeyID](ctx), s)
	if err != nil {
		return nil, err
	}
	return answer(NewKey{viewKey(k), text.Reveal()}), nil
}

// KeysList is the list of a tenant's keys.
type KeysList struct {
	TenantPath
	PageQuery
}

func (a *api) listKeys(ctx context.Context, in *KeysList) (*out[list[Key]], error) {
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
			return a.Manage.ListKeys(ctx, callerOf(ctx), in.ID, p)
		},
		func(k kapsel.Key) kapsel.KeyID { return k.ID },
		func(k kapsel.Key) (Key, error) { return viewKey(k), nil })
}

// KeyPath is the route of one key.
type KeyPath struct {
	TenantPath
	KeyID kapsel.KeyID `path:"key_id"`
}

func (a *api) revokeKey(ctx context.Context, in *KeyPath) (*struct{}, error) {
	return nil, a.Manage.RevokeKey(ctx, callerOf(ctx), in.ID, in.KeyID)
}

// KeyInput is what people set on a key.
type KeyInput struct {
	Name      string       `json:"name" minLength:"1" maxLength:"200"`
	Scope     kapsel.Scope `json:"scope" enum:"read,write"`
	ExpiresAt *timestamp   `json:"expires_at,omitempty" nullable:"true"`
}

// Key is a key as the API shows it.
type Key struct {
	ID         kapsel.KeyID    `json:"id"`
	TenantID   kapsel.TenantID `json:"tenant_id"`
	Name       string          `json:"name"`
	Scope      kapsel.Scope    `json:"scope" enum:"read,write"`
	Prefix     string          `json:"prefix" doc:"The secret's first characters, to recognise it by"`
	CreatedAt  timestamp       `json:"created_at"`
	ExpiresAt  *timestamp      `json:"expires_at" nullable:"true"`
	LastUsedAt *timestamp      `json:"last_used_at" nullable:"true" doc:"To the minute"`
	RevokedAt  *timestamp      `json:"revoked_at" nullable:"true"`
}

// InstanceKeyInput is what people set on a key of the instance.
type InstanceKeyInput struct {
	Name      string       `json:"name" minLength:"1" maxLength:"200"`
	Scope     kapsel.Scope `json:"scope" enum:"ledger"`
	ExpiresAt *timestamp   `json:"expires_at,omitempty" nullable:"true"`
}

// InstanceKey is a key of the instance as the API shows it.
type InstanceKey struct {
	ID         kapsel.KeyID `json:"id"`
	Name       string       `json:"name"`
	Scope      kapsel.Scope `json:"scope" enum:"ledger"`
	Prefix     string       `json:"prefix" doc:"The secret's first characters, to recognise it by"`
	CreatedAt  timestamp    `json:"created_at"`
	ExpiresAt  *timestamp   `json:"expires_at" nullable:"true"`
	LastUsedAt *timestamp   `json:"last_used_at" nullable:"true" doc:"To the minute"`
	RevokedAt  *timestamp   `json:"revoked_at" nullable:"true"`
}

// NewInstanceKey is a key of the instance in the one answer that has its secret.
type NewInstanceKey struct {
	InstanceKey
	Secret string `json:"secret" doc:"Shown once; send it as Authorization: Bearer"`
}

func viewInstanceKey(k kapsel.Key) InstanceKey {
	return InstanceKey{
		k.ID, k.Name, k.Scope, k.Prefix, timestamp(k.CreatedAt), timeOrNull(k.ExpiresAt), timeOrNull(k.LastUsedAt), timeOrNull(k.RevokedAt),
	}
}

func (a *api) createInstanceKey(ctx context.Context, _ *struct{}) (*out[NewInstanceKey], error) {
	var body InstanceKeyInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	s := manage.KeySettings{Name: body.Name, Scope: body.Scope}
	if body.ExpiresAt != nil {
		s.ExpiresAt = time.Time(*body.ExpiresAt)
	}
	k, text, err := a.Manage.CreateInstanceKey(ctx, callerOf(ctx), reserved[kapsel.KeyID](ctx), s)
	if err != nil {
		return nil, err
	}
	return answer(NewInstanceKey{viewInstanceKey(k), text.Reveal()}), nil
}

func (a *api) listInstanceKeys(ctx context.Context, in *PageQuery) (*out[list[InstanceKey]], error) {
	return paginate(ctx, *in,
		func(p store.Page[kapsel.KeyID]) ([]kapsel.Key, error) {
			return a.Manage.ListInstanceKeys(ctx, callerOf(ctx), p)
		},
		func(k kapsel.Key) kapsel.KeyID { return k.ID },
		func(k kapsel.Key) (InstanceKey, error) { return viewInstanceKey(k), nil })
}

// InstanceKeyPath is the route of one key of the instance.
type InstanceKeyPath struct {
	ID kapsel.KeyID `path:"id"`
}

func (in *InstanceKeyPath) ref() kapsel.KeyID { return in.ID }

// NewKey is a key in the one answer that has its secret.
type NewKey struct {
	Key
	Secret string `json:"secret" doc:"Shown once; send it as Authorization: Bearer"`
}

func viewKey(k kapsel.Key) Key {
	return Key{
		k.ID, k.TenantID, k.Name, k.Scope, k.Prefix, timestamp(k.CreatedAt),
		timeOrNull(k.ExpiresAt), timeOrNull(k.LastUsedAt), timeOrNull(k.RevokedAt),
	}
}
