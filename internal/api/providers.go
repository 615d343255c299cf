package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

func (a *api) providers() {
	add(a, access.Anyone, huma.Operation{
		OperationID: "list-providers", Method: http.MethodGet, Path: "/v1/providers", Summary: "List the providers whose signatures can be checked", Tags: []string{"Endpoints"},
	}, a.listProviders)
	add(a, access.Anyone, fails(huma.Operation{
		OperationID: "list-signing-keys", Method: http.MethodGet, Path: "/v1/signing-keys", Summary: "List the public keys that verify an endpoint's deliveries (v1a)", Tags: []string{"Endpoints"},
	}, failure{404, kapsel.NotFound}, failure{422, kapsel.InvalidRequest}), a.listSigningKeys)
}

func (a *api) listProviders(context.Context, *struct{}) (*out[Providers], error) {
	return answer(Providers{mapped(signature.Describe(), viewProvider)}), nil
}

// Providers is the list of providers, by name. It has one page.
type Providers struct {
	Data []Provider `json:"data"`
}

// Provider is a name for verification.provider, with what to paste where.
type Provider struct {
	Name              string    `json:"name"`
	Title             string    `json:"title" doc:"For people"`
	Paste             string    `json:"paste" doc:"Where in the provider's settings ingest_url goes"`
	Secret            string    `json:"secret" doc:"What verification.secrets takes"`
	Find              string    `json:"find" doc:"Where the secret is"`
	Note              string    `json:"note" doc:"What is peculiar, and what the provider's documentation leaves open"`
	Headers           []string  `json:"headers" doc:"That carry signatures; none: the body does"`
	Tolerance         *duration `json:"tolerance" nullable:"true" doc:"The default; null: no time is signed"`
	Handshake         bool      `json:"handshake" doc:"The provider asks the URL to prove itself, which is answered"`
	DeliveryIDHeaders []string  `json:"delivery_id_headers" doc:"That name a delivery, the same when it is sent again: the default idempotency key"`
	DeliveryIDPath    *string   `json:"delivery_id_path" nullable:"true" doc:"Where the body names it"`
	Retries           string    `json:"retries" doc:"When the provider sends again what was not accepted"`
	Resigned          string    `json:"resigned" doc:"Whether a retry is signed anew: yes, no, not known, or no time is checked"`
	Answer            *string   `json:"answer" nullable:"true" doc:"What the provider reads for an event: status, content type and body; null: the usual answer"`
	Sources           []string  `json:"sources" doc:"Pages that say so"`
}

func viewProvider(p signature.Provider) Provider {
	return Provider{
		Name: p.Name, Title: p.Title, Paste: p.Paste, Secret: p.Secret, Find: p.Find, Note: p.Note,
		Headers: orEmpty(p.Headers), Tolerance: orNull(duration(p.Tolerance)), Handshake: p.Handshake, DeliveryIDHeaders: orEmpty(p.DeliveryID),
		DeliveryIDPath: orNull(p.DeliveryIn), Retries: p.Retries, Resigned: p.Resigned, Answer: viewAnswer(p.Answer), Sources: p.Sources,
	}
}

// viewAnswer is an answer in words; nil for none.
func viewAnswer(a *signature.Answer) *string {
	if a == nil {
		return nil
	}
	return new(strings.TrimSpace(strings.Join([]string{strconv.Itoa(a.Status), a.ContentType, string(a.Body)}, " ")))
}

// SigningKeysQuery is which endpoint's keys are asked for.
type SigningKeysQuery struct {
	EndpointID kapsel.EndpointID `query:"endpoint_id" doc:"Needed: each endpoint has keys of its own"`
}

// listSigningKeys needs no API key: what it lists is public.
func (a *api) listSigningKeys(ctx context.Context, in *SigningKeysQuery) (*out[SigningKeys], error) {
	keys, err := a.Manage.SigningKeys(ctx, in.EndpointID)
	if err != nil {
		return nil, err
	}
	return answer(SigningKeys{mapped(keys, func(k manage.SigningKey) SigningKey {
		return SigningKey{
			ID: k.Secret.ID, EndpointID: in.EndpointID, Scheme: "v1a", PublicKey: k.Public,
			CreatedAt: timestamp(k.Secret.CreatedAt), ExpiresAt: timeOrNull(k.Secret.ExpiresAt),
		}
	})}), nil
}

// SigningKeys are the public keys of an endpoint, the newest first: a delivery carries a
// signature of each. The list has one page.
type SigningKeys struct {
	Data []SigningKey `json:"data"`
}

// SigningKey verifies the v1a signatures of an endpoint's deliveries.
type SigningKey struct {
	ID         kapsel.SecretID   `json:"id" doc:"Of the signing secret that it goes with"`
	EndpointID kapsel.EndpointID `json:"endpoint_id"`
	Scheme     string            `json:"scheme" enum:"v1a" doc:"Ed25519, as Standard Webhooks has it"`
	PublicKey  string            `json:"public_key" doc:"whpk_ and base64 of 32 bytes"`
	CreatedAt  timestamp         `json:"created_at"`
	ExpiresAt  *timestamp        `json:"expires_at" nullable:"true" doc:"When a rotation's overlap ends; null: not yet known"`
}
