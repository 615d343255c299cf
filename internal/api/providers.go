package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel/internal/signature"
)

func (a *api) providers() {
	add(a, anyone, huma.Operation{
		OperationID: "list-providers", Method: http.MethodGet, Path: "/v1/providers", Summary: "List the providers whose signatures can be checked", Tags: []string{"Endpoints"},
	}, a.listProviders)
}

func (a *api) listProviders(context.Context, *struct{}) (*out[Providers], error) {
	return answer(Providers{mapped(signature.Providers(), func(name string) Provider { return Provider{name} })}), nil
}

// Providers is the list of providers, by name. It has one page.
type Providers struct {
	Data []Provider `json:"data"`
}

// Provider is a name for verification.provider.
type Provider struct {
	Name string `json:"name"`
}
