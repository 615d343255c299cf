package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
)

// callerOf is the caller of the request that a handler answers.
func callerOf(ctx context.Context) access.Caller { return callOf(ctx).caller }

// gate lets a request through to an operation when its caller may call it and the operation
// knows its query parameters. Every answer to a tenant's key tells what is left of the tenant's rate.
func (a *api) gate(who access.Right) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		c := &call{api: a, r: r, w: w}
		var err error
		if who != access.Anyone {
			c.caller, err = a.Guard.Caller(r)
		}
		if err == nil && a.Rates != nil && !c.caller.Tenant.IsZero() {
			a.Rates.Tell(r.Context(), w, c.caller.Tenant)
		}
		if err == nil {
			err = c.caller.Check(who)
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
	if errors.Is(err, access.ErrUnauthorized) {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	a.log(r, problem.New(r.Context(), err), err)
	problem.Write(w, r, err)
}

// checkQuery refuses what huma would overlook: parameters that an operation does not have, that are
// there twice, are empty or are no text, and tenant_id from a key, which has a tenant of its own.
func checkQuery(op *huma.Operation, u *url.URL, c access.Caller) error {
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
		} else if !kapsel.IsText(query.Get(name)) {
			wrong = append(wrong, kapsel.FieldError{Field: name, Detail: "must be UTF-8 without NUL"})
		} else if query.Get(name) == "" { // a filter that a script left empty must not list everything
			wrong = append(wrong, kapsel.FieldError{Field: name, Detail: "is empty; give it a value or leave it out"})
		}
	}
	if wrong != nil {
		return unreadable(wrong)
	}
	if query.Has("tenant_id") && !c.IsAdmin() {
		return refused(field("tenant_id", "is for the admin key: a tenant's key stands for its tenant"))
	}
	return nil
}
