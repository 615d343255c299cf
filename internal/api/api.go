// Package api is the management API: tenants, keys, endpoints, sources, apps, and what became of events,
// as JSON under /v1, with its own OpenAPI 3.1 document at /openapi.json and a page to read
// it at /docs.
//
// A request passes, in this order: the key (401), what the key may do (403), the names of
// query parameters (400), their values (400) and the ids in the path (404), the body (413,
// 415, 400, 422), and then the store. So no answer before the key tells anything, and an id
// of another tenant is answered, byte for byte, as one that does not exist.
//
// Each resource has a file: its operations first, then the shapes that it has in JSON. The use cases are
// manage's.
package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Tenants finds tenants.
type Tenants interface {
	Tenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error)
}

// Rates are those at which tenants may send events.
type Rates interface {
	// Tell writes to an answer's header what is left of a tenant's rate, if it has one, and takes nothing
	// from it.
	Tell(ctx context.Context, w http.ResponseWriter, tenant kapsel.TenantID)
}

// Config is what the API works with. Fields without "may be nil" are needed; for the OpenAPI document
// alone only Log is.
type Config struct {
	Manage    *manage.Manager // does what is asked
	Guard     *access.Guard   // says who asks
	AdminKey  secret.Text     // key of the cursors' signatures
	PublicURL string          // of the OpenAPI document's server
	Version   string          // of Kapsel, for the OpenAPI document
	Clock     func() time.Time
	Log       *slog.Logger

	// Publisher stores what is published. It may be nil for who only wants the document.
	Publisher Publisher

	// Rates writes to answers what is left of tenants' rates. It may be nil: then answers say nothing of them.
	Rates Rates

	// Answers keeps what POSTs with an Idempotency-Key were answered. It may be nil: the
	// header means nothing then. Tenants and Vault seal answers that have secrets.
	Answers store.Answers
	Tenants Tenants
	Vault   *secret.Vault
}

// api is the state that all handlers share.
type api struct {
	Config
	huma    huma.API
	cursors []byte // key of the cursors' signatures
}

// New returns the API's handler. It answers every path, unknown ones with E1009.
func New(cfg Config) http.Handler {
	mac := hmac.New(sha256.New, []byte(cfg.AdminKey.Reveal()))
	mac.Write([]byte("kapsel cursor"))
	a := &api{Config: cfg, cursors: mac.Sum(nil)}
	mux := http.NewServeMux()
	a.huma = humago.New(mux, document(cfg))
	a.tenants()
	a.keys()
	a.endpoints()
	a.sources()
	a.apps()
	a.eventTypes()
	a.events()
	a.publishing()
	a.why()
	a.stream()
	a.deliveries()
	a.replays()
	a.portalLinks()
	a.portalLogos()
	a.usage()
	a.refusals()
	a.providers()
	a.changes()
	a.audit(mux)
	a.ledger()
	explain(a.huma.OpenAPI())
	a.documentation(mux)
	return a.outer(mux)
}

// outer wraps the routes. It gives every answer a request ID and the security headers, answers unknown
// paths and methods with problem documents, and turns a panic into a 500.
func (a *api) outer(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if problem.RequestID(r.Context()) == "" {
			r = r.WithContext(problem.WithRequestID(r.Context(), problem.NewRequestID()))
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.Log.ErrorContext(r.Context(), "api: panic", "panic", p, "stack", string(debug.Stack()), "request_id", problem.RequestID(r.Context()))
			problem.Write(w, r, errPanic)
		}()
		// The mux would redirect a path that is not clean; it stands for no route of ours.
		if _, pattern := mux.Handler(r); pattern == "" || r.URL.Path != path.Clean(r.URL.Path) {
			unrouted(mux, w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// unrouted answers a request that has no route: 405 where another method has one, else 404.
func unrouted(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var c captured
	mux.ServeHTTP(&c, r)
	if c.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", c.Header().Get("Allow"))
		problem.Write(w, r, &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusMethodNotAllowed, Detail: "the path has other methods, which Allow lists"})
		return
	}
	problem.Write(w, r, kapsel.Errorf(kapsel.NotFound, "no such path; /openapi.json lists those there are"))
}

// captured records the status and Allow header of the mux's own answer to an unrouted request.
type captured struct {
	header http.Header
	status int
}

func (c *captured) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}
func (c *captured) WriteHeader(status int)      { c.status = status }
func (c *captured) Write(b []byte) (int, error) { return len(b), nil }

// out is the answer of an operation: a JSON body.
type out[T any] struct{ Body T }

func answer[T any](v T) *out[T] { return &out[T]{v} }

// shownAs answers with the view of what a use case returned, or with its error.
func shownAs[V, T any](view func(*T) V, v T, err error) (*out[V], error) {
	if err != nil {
		return nil, err
	}
	return answer(view(&v)), nil
}

// putAs does what shownAs does, for a PUT.
func putAs[V, T any](view func(*T) V, v T, made bool, err error) (*upserted[V], error) {
	switch {
	case err != nil:
		return nil, err
	case made:
		return &upserted[V]{http.StatusCreated, view(&v)}, nil
	}
	return &upserted[V]{http.StatusOK, view(&v)}, nil
}

// upserted is an answer to a PUT: 201 with what it made, 200 with what it replaced.
type upserted[T any] struct {
	Status int
	Body   T
}

// addPut registers a PUT that makes or replaces what its path names.
func addPut[I, T any](a *api, op huma.Operation, handle func(context.Context, *I) (*upserted[T], error)) {
	add(a, access.Write, op, handle)
	doc := registered(a.huma.OpenAPI(), op.Method, op.Path)
	doc.Responses["201"] = &huma.Response{Description: "Created", Content: doc.Responses["200"].Content}
}

// tagged returns a function that makes the operations of a resource.
func tagged(tag string) func(id, method, path, summary string) huma.Operation {
	return func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{tag}}
	}
}

// add registers an operation for callers who have a right.
func add[I, O any](a *api, who access.Right, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	op.Middlewares = append(op.Middlewares, a.gate(who))
	if who != access.Anyone {
		op.Security = []map[string][]string{{"key": {}}}
	}
	op.Extensions = map[string]any{"x-access": string(who)}
	body, _ := op.Metadata["body"].(reflect.Type)
	huma.Register(a.huma, op, handle)
	doc := registered(a.huma.OpenAPI(), op.Method, op.Path)
	switch {
	case op.Method == http.MethodPost && ownKeys(&op):
		doc.Parameters = append(doc.Parameters, eventKey)
	case op.Method == http.MethodPost:
		doc.Parameters = append(doc.Parameters, idempotencyKey)
	}
	documentFailures(doc, failuresOf(doc, who, body != nil))
	if body == nil {
		return
	}
	// The body is documented after Register: so huma leaves reading it to read.
	schemas := a.huma.OpenAPI().Components.Schemas
	content := map[string]*huma.MediaType{"application/json": {Schema: schemas.Schema(body, true, "")}}
	if op.Method == http.MethodPatch {
		asPatch(schemas.SchemaFromRef(content["application/json"].Schema.Ref))
		content[mergePatch] = content["application/json"]
	}
	doc.RequestBody = &huma.RequestBody{Required: op.Metadata["optional"] == nil, Content: content}
}

// idempotencyKey is the parameter of every POST that once handles; eventKey is the parameter of the
// publication of an event.
var (
	idempotencyKey = keyParam("The request runs once; sent again within 24h it is answered the same")
	eventKey       = keyParam("The key of one event without an id: published again within 24h it is a duplicate. Not for a batch")
)

func keyParam(description string) *huma.Param {
	return &huma.Param{
		Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(kapsel.MaxKey)},
		Description: description,
	}
}

func ptr[T any](v T) *T { return &v }

// Nothing is the body of an action, which needs none.
type Nothing struct{}

// takes returns the operation with a body of type T.
func takes[T any](op huma.Operation) huma.Operation {
	return with(op, "body", reflect.TypeFor[T]())
}

// mayTake returns the operation with an optional body of type T.
func mayTake[T any](op huma.Operation) huma.Operation {
	return with(takes[T](op), "optional", true)
}

// with returns the operation with a value that add reads by its name.
func with(op huma.Operation, name string, v any) huma.Operation {
	op.Metadata = maps.Clone(op.Metadata)
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[name] = v
	return op
}

// asPatch turns the schema of an object into the schema of a merge patch to it: nothing is required, and
// everything may be null.
func asPatch(s *huma.Schema) {
	s.Required = nil
	for name, p := range s.Properties {
		switch {
		case p.Ref != "":
			mayBeNull(s, name)
		case len(p.Enum) > 0:
			p.Nullable, p.Enum = true, append(p.Enum, nil)
		case p.Type != "":
			p.Nullable = true
		}
	}
}

// mayBeNull lets a property whose schema is a reference be null, which no tag can say.
func mayBeNull(s *huma.Schema, property string) *huma.Schema {
	p := s.Properties[property]
	s.Properties[property] = &huma.Schema{OneOf: []*huma.Schema{{Ref: p.Ref}, {Type: "null"}}, Description: p.Description}
	return s
}

func registered(doc *huma.OpenAPI, method, path string) *huma.Operation {
	p := doc.Paths[path]
	switch method {
	case http.MethodGet:
		return p.Get
	case http.MethodPost:
		return p.Post
	case http.MethodPut:
		return p.Put
	case http.MethodPatch:
		return p.Patch
	default:
		return p.Delete
	}
}
