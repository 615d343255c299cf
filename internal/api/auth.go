package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// access is who may call an operation.
type access string

const (
	anyone  access = "anyone"
	readers access = "read"  // any key that is valid
	writers access = "write" // keys of scope write, and the admin key
	admins  access = "admin" // the admin key alone
)

// caller is who a request comes from: the admin, or a key of a tenant.
type caller struct {
	admin  bool
	tenant kapsel.TenantID // zero for the admin: the stores read that as every tenant
	scope  kapsel.Scope
	key    kapsel.KeyID // zero for the admin
	until  time.Time    // when the key expires; zero: never
}

func (c caller) may(who access) bool {
	switch who {
	case anyone, readers:
		return true
	case writers:
		return c.admin || c.scope == kapsel.ScopeWrite
	default:
		return c.admin
	}
}

// callerOf is the caller of the request that a handler answers.
func callerOf(ctx context.Context) caller { return callOf(ctx).caller }

// errUnauthorized does not say what is wrong with a key: who has none learns nothing.
var errUnauthorized = kapsel.Errorf(kapsel.Unauthorized, "send a valid key as Authorization: Bearer KEY")

// gate lets a request through to an operation when its caller may call it and the operation
// knows its query parameters.
func (a *api) gate(who access) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		c := &call{api: a, r: r, w: w}
		var err error
		if who != anyone {
			c.caller, err = a.authenticate(r)
		}
		if err == nil && !c.caller.may(who) {
			err = forbidden(who)
		}
		if err == nil {
			err = checkQuery(ctx.Operation(), r.URL, c.caller)
		}
		if err == nil {
			err = a.once(ctx, c, next)
		}
		if err != nil {
			a.refuse(w, r, err)
		}
	}
}

// refuse answers a request that got no further than the gate.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errUnauthorized) {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	a.log(r, problem.New(r.Context(), err), err)
	problem.Write(w, r, err)
}

func forbidden(who access) error {
	if who == admins {
		return kapsel.Errorf(kapsel.Forbidden, "only the admin key may do that")
	}
	return kapsel.Errorf(kapsel.Forbidden, "the key may only read; use one of scope write")
}

// authenticate finds who sent a request. The one Authorization header counts and nothing
// else: no query parameter, no cookie. Wrong keys are counted by the address that they come
// from; see guesses.
func (a *api) authenticate(r *http.Request) (caller, error) {
	values := r.Header["Authorization"]
	if len(values) != 1 {
		return caller{}, errUnauthorized
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return caller{}, errUnauthorized
	}
	client, now := a.Client(r), a.Clock()
	if err := a.guesses.may(r.Context(), a.Log, client, now); err != nil {
		return caller{}, err
	}
	c, err := a.find(r.Context(), token, now)
	if errors.Is(err, errUnauthorized) {
		err = a.guesses.count(r.Context(), a.Log, client, now)
	}
	return c, err
}

// find is who has a key: the admin, or who has a key that is valid.
func (a *api) find(ctx context.Context, token string, now time.Time) (caller, error) {
	// Hashes have equal lengths, so the comparison tells nothing of the admin key's.
	if hash := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(hash[:], a.admin[:]) == 1 {
		return caller{admin: true, scope: kapsel.ScopeWrite}, nil
	}
	hash, ok := secret.HashAPIKey(token)
	if !ok {
		return caller{}, errUnauthorized
	}
	key, err := a.Keys.KeyByHash(ctx, hash)
	switch {
	case missing(err):
		return caller{}, errUnauthorized
	case err != nil:
		return caller{}, err
	case !key.Valid(now):
		return caller{}, errUnauthorized
	}
	a.touch(ctx, &key, now)
	return caller{tenant: key.TenantID, scope: key.Scope, key: key.ID, until: key.ExpiresAt}, nil
}

// touch records that a key was used, once a minute: last_used_at is for people who wonder
// whether a key is still needed.
func (a *api) touch(ctx context.Context, k *kapsel.Key, now time.Time) {
	if now.Sub(k.LastUsedAt) < time.Minute {
		return
	}
	if err := a.Keys.TouchKeys(ctx, map[kapsel.KeyID]time.Time{k.ID: now}); err != nil {
		a.Log.WarnContext(ctx, "api: record the use of a key", "key_id", k.ID, "error", err)
	}
}

// checkQuery refuses what huma would overlook: parameters that an operation does not have, that are
// there twice or are empty, and tenant_id from a key, which has a tenant of its own.
func checkQuery(op *huma.Operation, u *url.URL, c caller) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the query string cannot be read"}
	}
	var wrong []kapsel.FieldError
	for _, name := range slices.Sorted(maps.Keys(query)) {
		known := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "query" && p.Name == name })
		if !known {
			wrong = append(wrong, kapsel.FieldError{Field: clip(name), Detail: "is not a parameter of this route"})
		} else if len(query[name]) > 1 {
			wrong = append(wrong, kapsel.FieldError{Field: name, Detail: "is there more than once"})
		} else if query.Get(name) == "" { // a filter that a script left empty must not list everything
			wrong = append(wrong, kapsel.FieldError{Field: name, Detail: "is empty; give it a value or leave it out"})
		}
	}
	if wrong != nil {
		return unreadable(wrong[:min(len(wrong), maxErrors)])
	}
	if query.Has("tenant_id") && !c.admin {
		return refused(field("tenant_id", "is for the admin key: a tenant's key stands for its tenant"))
	}
	return nil
}
