package api

import (
	"context"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Most operations do nothing but call a use case with what the path names and show what it returns. Their
// handlers are made here: use is the use case, ref returns what the path names, and view shows the result.

// got returns the handler of a GET of one object.
func got[P, R, T, V any](use func(context.Context, access.Caller, R) (T, error), ref func(*P) R, view func(*T) V) func(context.Context, *P) (*out[V], error) {
	return func(ctx context.Context, in *P) (*out[V], error) {
		v, err := use(ctx, callerOf(ctx), ref(in))
		return shownAs(view, v, err)
	}
}

// acted returns the handler of a POST that needs no body.
func acted[P, R, T, V any](use func(context.Context, access.Caller, R) (T, error), ref func(*P) R, view func(*T) V) func(context.Context, *P) (*out[V], error) {
	handle := got(use, ref, view)
	return func(ctx context.Context, in *P) (*out[V], error) {
		if err := readOptional(ctx, &Nothing{}); err != nil {
			return nil, err
		}
		return handle(ctx, in)
	}
}

// removed returns the handler of a DELETE.
func removed[P, R any](use func(context.Context, access.Caller, R) error, ref func(*P) R) func(context.Context, *P) (*struct{}, error) {
	return func(ctx context.Context, in *P) (*struct{}, error) {
		return nil, use(ctx, callerOf(ctx), ref(in))
	}
}

// TenantList holds the parameters of a list of one tenant's objects; with the admin key, which need not
// name a tenant, of all tenants'.
type TenantList struct {
	TenantQuery
	PageQuery
}

// listed returns the handler of such a list. id returns the ID of a row.
func listed[ID ~[16]byte, Row, View any](use func(context.Context, access.Caller, kapsel.TenantID, store.Page[ID]) ([]Row, error), id func(Row) ID, view func(*Row) View) func(context.Context, *TenantList) (*out[list[View]], error) {
	return func(ctx context.Context, in *TenantList) (*out[list[View]], error) {
		return paginate(ctx, in.PageQuery,
			func(p store.Page[ID]) ([]Row, error) { return use(ctx, callerOf(ctx), in.TenantID, p) },
			id,
			func(row Row) (View, error) { return view(&row), nil })
	}
}
