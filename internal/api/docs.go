package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
)

// document returns the OpenAPI document without operations, which add themselves.
func document(cfg Config) huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:   "Kapsel",
				Version: cfg.Version,
				Description: "Kapsel receives webhooks, stores them, and delivers them. This is its management API.\n\n" +
					"Send a key as `Authorization: Bearer KEY`. `x-access` of an operation says which keys may call it: any (`read`), those of scope `write`, or the `admin` key alone.\n\n" +
					"Lists are newest first. Times are RFC 3339 in UTC, durations Go durations. In a PATCH (RFC 7396) null sets a field to its default.\n\n" +
					"Beside it, without a key: `POST /ingest/{id}`, the `ingest_url` of an endpoint or source, takes a webhook of any content type. 200 `{\"event_id\":\"evt_…\",\"status\":\"received\"}`, or the answer that `response` or the provider sets, says that the event is stored, `Idempotent-Replayed: true` that it is a duplicate; a 4xx that nothing was stored; 503 that nothing is known to be, and that the sender may send it again. " +
					"`GET /health/live`, `/health/startup` and `/health/ready` are for whoever starts and watches the process. " +
					"`GET /attestation/{log}/checkpoint` and `/attestation/{log}/tile/{level}/{n}` are those of C2SP tlog-checkpoint and tlog-tiles; a log whose tenant has `audit.public` off wants a key of the tenant.",
			},
			Servers: []*huma.Server{{URL: cfg.PublicURL}},
			Tags:    []*huma.Tag{{Name: "Tenants"}, {Name: "Keys"}, {Name: "Endpoints"}, {Name: "Sources"}, {Name: "Apps"}, {Name: "Event types"}, {Name: "Events"}, {Name: "Deliveries"}, {Name: "Replays"}, {Name: "Portal"}, {Name: "Changes"}, {Name: "Audit log"}, {Name: "Ledger"}},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"key": {Type: "http", Scheme: "bearer"}},
			},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}, // "json": what huma makes of application/problem+json
		DefaultFormat: "application/json",
	}
}

//go:embed docs.html
var docsPage []byte

// documentation serves the document and a page that shows it. The page loads nothing but the document, which is
// made when somebody first asks for it: it would be a third of the CPU time in which a process starts.
func (a *api) documentation(mux *http.ServeMux) {
	document := sync.OnceValue(func() []byte {
		doc, err := json.Marshal(a.huma.OpenAPI())
		if err != nil {
			panic(err) // the operations are the program's: a test makes the document
		}
		return doc
	})
	page := func() []byte { return docsPage }
	serve := func(contentType string, body func() []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", contentType)
			h.Set("Content-Security-Policy", docsPolicy)
			h.Set("Referrer-Policy", "no-referrer")
			w.Write(body())
		}
	}
	mux.HandleFunc("GET /openapi.json", serve("application/json", document))
	mux.HandleFunc("GET /docs", serve("text/html; charset=utf-8", page))
}

// docsPolicy lets the page run its own script and style, load the document, and no more.
var docsPolicy = "default-src 'none'; script-src " + hashOf("script") + "; style-src " + hashOf("style") +
	"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// hashOf returns the policy's name for the text of the page's only element of a kind.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(docsPage, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
