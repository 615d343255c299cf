// Command provider is an OpenID provider with people in memory, for tests: the example server of
// zitadel/oidc, in which people also have groups, and those of the group acme a tenant. It is a module of its own, so that Kapsel does not depend
// on it.
//
//	provider ADDRESS REDIRECT-URI TENANT
//
// It serves the issuer http://ADDRESS/ with the clients kapsel, whose secret is "secret: 100%", and
// kapsel-public, which has none.
package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// people are who can sign in, all with the password "verysecure", and their groups.
var people = map[string]struct {
	user   storage.User
	groups []string
}{
	"id-ann": {storage.User{Username: "ann", Email: "ann@example.com", EmailVerified: true, FirstName: "Ann"}, []string{"kapsel-admins"}},
	"id-bob": {storage.User{Username: "bob", Email: "bob@example.com", EmailVerified: true, FirstName: "Bob"}, []string{"acme"}},
	"id-cat": {storage.User{Username: "cat", Email: "cat@example.com", EmailVerified: true, FirstName: "Cat"}, []string{"acme", "writers"}},
	"id-eve": {storage.User{Username: "eve", Email: "ann@example.com", FirstName: "Eve"}, []string{"strangers"}},
}

// users are the people as the example's storage wants them.
type users struct{}

func (users) GetUserByID(id string) *storage.User {
	p, ok := people[id]
	if !ok {
		return nil
	}
	p.user.ID, p.user.Password = id, "verysecure"
	return &p.user
}

func (u users) GetUserByUsername(name string) *storage.User {
	for id, p := range people {
		if p.user.Username == name {
			return u.GetUserByID(id)
		}
	}
	return nil
}

func (users) ExampleClientID() string { return storage.ServiceUserID }

// grouped is the example's storage, in which the user info has groups.
type grouped struct{ *storage.Storage }

func (g grouped) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, token, subject, origin string) error {
	err := g.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin)
	if err == nil {
		groups := people[info.Subject].groups
		if info.AppendClaims("groups", groups); slices.Contains(groups, "acme") {
			info.AppendClaims("kapsel_tenant", os.Args[3])
		}
	}
	return err
}

func main() {
	address, redirect := os.Args[1], os.Args[2]
	storage.RegisterClients(storage.WebClient("kapsel", "secret: 100%", redirect), storage.NativeClient("kapsel-public", redirect))
	handler := exampleop.SetupServer("http://"+address+"/", grouped{storage.NewStorage(users{})}, slog.New(slog.NewTextHandler(io.Discard, nil)), false, op.WithAllowInsecure())
	handler.Get("/favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		panic(err)
	}
}
