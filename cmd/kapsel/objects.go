package main

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// objects is a kind of objects of the API that people list, show, create, change and delete by
// commands of one form. The kind's own file holds what is special to it: its flags and its help.
type objects[T any] struct {
	path    string // of the API's list
	id      func(T) string
	card    func(w io.Writer, v T, raw []byte) // prints an object for people; raw is the object as it was answered
	created func(T) time.Time                  // what --since and --until of a list mean
	columns []column[T]                        // of a list
	removed string                             // what the API has done to an object that is gone; "": deleted
}

// target says which object of the API a command is about.
type target struct {
	tenant string // whose object it is, if ref is not an id; "": the tenant of the key
	ref    string // the object's id, or a name that is unique within the tenant
}

// byID returns the target whose id a call returned, or the call's error.
func byID(id string, err error) (target, error) { return target{ref: id}, err }

// reference is how a command line names an object.
type reference interface {
	// find returns the object. It fails if the command line names no object or several ones.
	find(ctx context.Context, s *session) (target, error)
}

// find implements reference.
func (t target) find(context.Context, *session) (target, error) { return t, nil }

// list prints objects, newest first.
func (o objects[T]) list(s *session, l listing, all iter.Seq2[found[T], error]) error {
	return list(s, all, l, true, o.created, o.columns...)
}

// create makes an object of the tenant that --tenant names, and shows it.
func (o objects[T]) create(ctx context.Context, s *session, tenant string, in requestBody) error {
	s.named = in.by
	owner, err := s.newOwner(ctx, tenant)
	if err != nil {
		return err
	}
	return o.ask(ctx, s, http.MethodPost, ownedBy(owner, o.path), in.body)
}

// get shows an object.
func (o objects[T]) get(ctx context.Context, s *session, of reference) error {
	at, err := of.find(ctx, s)
	if err != nil {
		return err
	}
	return o.ask(ctx, s, http.MethodGet, o.one(at), nil)
}

// update changes an object and shows it.
func (o objects[T]) update(ctx context.Context, s *session, of reference, in requestBody) error {
	s.named = in.by
	at, err := of.find(ctx, s)
	if err != nil {
		return err
	}
	return o.ask(ctx, s, http.MethodPatch, o.one(at), in.body)
}

// remove deletes an object and says so.
func (o objects[T]) remove(ctx context.Context, s *session, of reference) error {
	at, err := of.find(ctx, s)
	if err != nil {
		return err
	}
	if err := s.Do(ctx, http.MethodDelete, o.one(at), nil, nil); err != nil {
		return err
	}
	done := o.removed
	if done == "" {
		done = "deleted"
	}
	return s.removed(at.ref, done)
}

// one returns the path of an object.
func (o objects[T]) one(at target) string {
	return ownedBy(at.tenant, o.path+"/"+url.PathEscape(at.ref))
}

// ask sends a request and shows the object that is answered.
func (o objects[T]) ask(ctx context.Context, s *session, method, path string, body any) error {
	var v T
	if err := s.Do(ctx, method, path, body, &v); err != nil {
		return err
	}
	return o.show(s, v)
}

// show prints an object that the API has just answered.
func (o objects[T]) show(s *session, v T) error {
	return s.show(o.id(v), func(w io.Writer) { o.card(w, v, s.raw) })
}
