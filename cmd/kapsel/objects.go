package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
)

// objects are a kind of objects of the API that people make, change and delete by commands of the
// same form.
type objects[T any] struct {
	path string // of the API's list
	id   func(T) string
	card func(w io.Writer, v T, raw []byte) // prints one for people; raw is the object as it was answered
}

// create makes an object of a tenant, "" for the tenant of the key, and shows it.
func (o objects[T]) create(ctx context.Context, s *session, tenant string, body any) error {
	return o.ask(ctx, s, http.MethodPost, ownedBy(tenant, o.path), body)
}

// get shows the object with an id or with another name that is one's only in a tenant.
func (o objects[T]) get(ctx context.Context, s *session, tenant, ref string) error {
	return o.ask(ctx, s, http.MethodGet, o.one(tenant, ref), nil)
}

// update changes an object and shows it.
func (o objects[T]) update(ctx context.Context, s *session, tenant, ref string, patch any) error {
	return o.ask(ctx, s, http.MethodPatch, o.one(tenant, ref), patch)
}

// remove deletes an object and says so.
func (o objects[T]) remove(ctx context.Context, s *session, tenant, ref string) error {
	if err := s.Do(ctx, http.MethodDelete, o.one(tenant, ref), nil, nil); err != nil {
		return err
	}
	return s.removed(ref, "deleted")
}

// one returns the path of an object.
func (o objects[T]) one(tenant, ref string) string {
	return ownedBy(tenant, o.path+"/"+url.PathEscape(ref))
}

// ask sends a request and shows the object that is answered.
func (o objects[T]) ask(ctx context.Context, s *session, method, path string, body any) error {
	var v T
	if err := s.Do(ctx, method, path, body, &v); err != nil {
		return err
	}
	return s.show(o.id(v), func(w io.Writer) { o.card(w, v, s.raw) })
}
