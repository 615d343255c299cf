package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type keysCmd struct {
	List   ask[keysList]   `cmd:"" help:"List a tenant's API keys."`
	Create ask[keysCreate] `cmd:"" help:"Create an API key; its secret is shown once."`
	Revoke ask[keysRevoke] `cmd:"" aliases:"delete" help:"Revoke an API key."`
}

// keys describes the API keys of a tenant.
func keys(tenant string) objects[client.Key] {
	return objects[client.Key]{
		path:    keysPath(tenant),
		id:      func(k client.Key) string { return k.ID },
		created: func(k client.Key) time.Time { return k.CreatedAt },
		columns: []column[client.Key]{
			{"ID", func(k client.Key) string { return k.ID }},
			{"NAME", func(k client.Key) string { return k.Name }},
			{"SCOPE", func(k client.Key) string { return k.Scope }},
			{"PREFIX", func(k client.Key) string { return k.Prefix }},
			{"STATE", keyState},
			{"LAST USED", func(k client.Key) string { return agoOr(k.LastUsedAt) }},
			{"EXPIRES", func(k client.Key) string { return agoOr(k.ExpiresAt) }},
		},
		removed: "revoked",
	}
}

// newKeys describes keys in the answer that makes them, which has their secret. With --quiet the secret is
// printed, not the id.
var newKeys = objects[client.NewKey]{
	id: func(k client.NewKey) string { return k.Secret },
	card: func(w io.Writer, k client.NewKey, _ []byte) {
		card(w, fact{"id", k.ID}, fact{"name", k.Name}, fact{"scope", k.Scope}, fact{"expires", atOr(k.ExpiresAt)},
			fact{"secret", k.Secret}, fact{"", "(shown once: keep it now)"})
	},
}

// keysPath returns the path of the API's list of a tenant's keys.
func keysPath(tenant string) string { return "/v1/tenants/" + url.PathEscape(tenant) + "/keys" }

// keysOf names the tenant whose keys a command is about.
type keysOf struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"With the admin key, where there are several: the tenant's id or name."`
}

type keysList struct {
	keysOf
	listing
}

// Help has an example.
func (keysList) Help() string {
	return `Example:
  kapsel keys list --tenant acme`
}

func (c keysList) do(ctx context.Context, s *session) error {
	tenant, err := s.theTenant(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return keys(tenant).list(s, c.listing, raws(s, s.ListKeys(ctx, tenant)))
}

func keyState(k client.Key) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt != nil && k.ExpiresAt.Before(time.Now()):
		return "expired"
	}
	return "valid"
}

type keysCreate struct {
	keysOf
	Name      string        `required:"" help:"What it is for."`
	Scope     string        `enum:"read,write" default:"write" help:"read or write (default ${default})."`
	ExpiresIn time.Duration `placeholder:"DURATION" help:"How long it is valid, such as 30d; for ever without it."`
}

// Help has examples.
func (keysCreate) Help() string {
	return `The secret is printed once and cannot be shown again. With --quiet only it is printed.

Examples:
  kapsel keys create --name ci
  kapsel keys create --tenant acme --name report --scope read --expires-in 30d
  export KAPSEL_API_KEY=$(kapsel keys create --tenant acme --name me -q)`
}

func (c keysCreate) do(ctx context.Context, s *session) error {
	in := client.KeyInput{Name: c.Name, Scope: c.Scope}
	if c.ExpiresIn != 0 {
		in.ExpiresAt = client.Some(time.Now().Add(c.ExpiresIn))
	}
	tenant, err := s.theTenant(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return newKeys.ask(ctx, s, http.MethodPost, keysPath(tenant), in)
}

type keysRevoke struct {
	keysOf
	Key string `arg:"" name:"key" complete:"key" help:"The key's id, key_…, or its name."`
}

// Help has an example.
func (keysRevoke) Help() string {
	return `Example:
  kapsel keys revoke --tenant acme key_01m84z1c6te8yvrh3wq0n5x2ja`
}

func (c keysRevoke) do(ctx context.Context, s *session) error {
	tenant, err := s.theTenant(ctx, c.Tenant)
	if err != nil {
		return err
	}
	id, err := s.keyNamed(ctx, c.Key, tenant)
	if err != nil {
		return err
	}
	return keys(tenant).remove(ctx, s, target{ref: id})
}
