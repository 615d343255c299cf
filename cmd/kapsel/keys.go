package main

import (
	"context"
	"io"
	"iter"
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
func keys(tenant string) objects[client.Key] { return keysAt(keysPath(tenant)) }

// instanceAsKeys shows keys of the instance as those of a tenant, which have the same fields and a tenant.
func instanceAsKeys(all iter.Seq2[client.InstanceKey, error]) iter.Seq2[client.Key, error] {
	return func(yield func(client.Key, error) bool) {
		for k, err := range all {
			if !yield(client.Key{
				ID: k.ID, Name: k.Name, Scope: k.Scope, Prefix: k.Prefix, CreatedAt: k.CreatedAt,
				ExpiresAt: k.ExpiresAt, LastUsedAt: k.LastUsedAt, RevokedAt: k.RevokedAt,
			}, err) {
				return
			}
		}
	}
}

// keysAt describes the API keys of a list of the API.
func keysAt(path string) objects[client.Key] {
	return objects[client.Key]{
		path:    path,
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

// instanceKeys is the path of the API's list of the keys that are of no tenant.
const instanceKeys = "/v1/keys"

// ofInstance says that a command is about the keys of no tenant.
type ofInstance struct {
	Instance bool `help:"The keys of the instance, of scope ledger, with the admin key."`
}

// keysOf names the tenant whose keys a command is about.
type keysOf struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"With the admin key, where there are several: the tenant's id or name."`
}

type keysList struct {
	keysOf
	ofInstance
	listing
}

// Help has an example.
func (keysList) Help() string {
	return `Examples:
  kapsel keys list --tenant acme
  kapsel keys list --instance`
}

func (c keysList) do(ctx context.Context, s *session) error {
	if c.Instance {
		return keysAt(instanceKeys).list(s, c.listing, raws(s, instanceAsKeys(s.ListInstanceKeys(ctx))))
	}
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
	Name      string         `required:"" help:"What it is for."`
	Scope     string         `enum:"read,write,ledger" default:"write" help:"read or write (default ${default}); ledger: a key of the instance for kapsel-ledger, which opens nothing else, with the admin key."`
	ExpiresIn *time.Duration `placeholder:"DURATION" help:"How long it is valid, such as 30d; for ever without it."`
}

// Help has examples.
func (keysCreate) Help() string {
	return `The secret is printed once and cannot be shown again. With --quiet only it is printed.

Examples:
  kapsel keys create --name ci
  kapsel keys create --tenant acme --name report --scope read --expires-in 30d
  export KAPSEL_API_KEY=$(kapsel keys create --tenant acme --name me -q)
  kapsel keys create --name booker --scope ledger`
}

func (c keysCreate) do(ctx context.Context, s *session) error {
	in := client.KeyInput{Name: c.Name, Scope: c.Scope}
	if c.ExpiresIn != nil {
		if *c.ExpiresIn <= 0 {
			return settingError("--expires-in: %v is not more than 0; leave the flag out for a key that is valid for ever", *c.ExpiresIn)
		}
		in.ExpiresAt = client.Some(time.Now().Add(*c.ExpiresIn))
	}
	if c.Scope == "ledger" {
		if c.Tenant != "" {
			return settingError("--scope ledger: such a key is of the instance, and --tenant names a tenant; leave that out")
		}
		return newKeys.ask(ctx, s, http.MethodPost, instanceKeys, in)
	}
	tenant, err := s.theTenant(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return newKeys.ask(ctx, s, http.MethodPost, keysPath(tenant), in)
}

type keysRevoke struct {
	keysOf
	ofInstance
	Key string `arg:"" name:"key" complete:"key" help:"The key's id, key_…, or its name."`
}

// Help has an example.
func (keysRevoke) Help() string {
	return `Example:
  kapsel keys revoke --tenant acme key_01m84z1c6te8yvrh3wq0n5x2ja`
}

func (c keysRevoke) do(ctx context.Context, s *session) error {
	if c.Instance {
		return keysAt(instanceKeys).remove(ctx, s, target{ref: c.Key})
	}
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
