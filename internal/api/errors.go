package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
)

var errPanic = errors.New("panic")

// init replaces the functions by which huma makes errors. They are global; no other package uses huma.
func init() {
	huma.NewError = func(status int, _ string, _ ...error) huma.StatusError {
		return &Problem{problem.Document{Status: status}} // for the document's schema only
	}
	huma.NewErrorWithContext = func(ctx huma.Context, _ int, _ string, errs ...error) huma.StatusError {
		return problemOf(ctx, errs)
	}
	huma.DefaultArrayNullable = false
	validation.MsgExpectedOneOf = "must be one of \"%s\""
}

// Problem is the answer of a request that failed (RFC 9457).
type Problem struct{ problem.Document }

func (p *Problem) Error() string           { return p.Detail }
func (p *Problem) GetStatus() int          { return p.Status }
func (*Problem) ContentType(string) string { return problem.ContentType }

// problemOf returns the answer to what huma reports: the error of a handler, or wrong parameters.
func problemOf(ctx huma.Context, errs []error) *Problem {
	r, w := humago.Unwrap(ctx)
	err := parameters(ctx.Operation(), errs)
	if err == nil && len(errs) > 0 {
		err = errs[0]
	}
	d := problem.New(r.Context(), err)
	if after := problem.RetryAfter(err, d.Status); after != "" {
		w.Header().Set("Retry-After", after)
	}
	callOf(ctx.Context()).api.log(r, d, err)
	return &Problem{d}
}

// log logs server errors with their causes, and refusals that an operator may look for: a wrong key, a
// missing right, a blocked destination. It logs no server error if the caller has gone away, because that
// may be its only cause.
func (a *api) log(r *http.Request, d problem.Document, err error) {
	switch {
	case d.Status >= 500 && r.Context().Err() == nil:
		a.Log.ErrorContext(r.Context(), "api: request failed", "method", r.Method, "path", r.URL.Path, "status", d.Status, "error", err, "request_id", d.RequestID)
	case d.Code == kapsel.Unauthorized, d.Code == kapsel.Forbidden, d.Code == kapsel.DestinationBlocked:
		a.Log.InfoContext(r.Context(), "api: request refused", "method", r.Method, "path", r.URL.Path, "code", d.Code, "client", a.Guard.Client(r), "request_id", d.RequestID)
	}
}

// parameters returns the error for path and query parameters of an operation that huma refused, nil
// if there are none. An ID in the path that is malformed stands for nothing, so it comes first.
func parameters(op *huma.Operation, errs []error) error {
	var fields, large []kapsel.FieldError
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if !errors.As(err, &detail) {
			continue
		}
		message := strings.TrimPrefix(detail.Message, "invalid value: ")
		_, name, _ := strings.Cut(detail.Location, ".") // behind "path.", "query." or "header."
		number, _ := detail.Value.(string)
		switch {
		case message == "invalid integer" && unbounded(op, name) && isWhole(number):
			large = append(large, kapsel.FieldError{Field: name, Detail: fmt.Sprintf("must be at most %d", math.MaxInt64)})
			continue
		case strings.HasPrefix(detail.Location, "path."):
			return kapsel.Errorf(kapsel.NotFound, "%s", message)
		case message == "invalid boolean":
			message = "must be true or false"
		case strings.HasPrefix(message, "expected "), message == "invalid integer":
			message = bounds(op, name)
		case strings.HasPrefix(message, "not "):
			message = "is " + message
		}
		fields = append(fields, kapsel.FieldError{Field: name, Detail: message})
	}
	switch {
	case fields != nil:
		return unreadable(fields)
	case large != nil:
		return refused(large)
	}
	return nil
}

// isWhole reports whether a text is a whole number, however large.
func isWhole(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// unbounded reports whether the document says no more of a parameter than that it is a whole number.
func unbounded(op *huma.Operation, name string) bool {
	return slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == name && p.Schema.Maximum == nil })
}

// bounds says what a parameter of an operation must be, by its schema.
func bounds(op *huma.Operation, name string) string {
	i := slices.IndexFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == name })
	if i < 0 {
		return "is not valid"
	}
	switch s := op.Parameters[i].Schema; {
	case s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("must be a whole number from %v to %v", *s.Minimum, *s.Maximum)
	case s.MaxLength != nil:
		return fmt.Sprintf("must have at most %d characters", *s.MaxLength)
	}
	return "is not valid"
}

// unreadable returns the error for a request that cannot be read: 400.
func unreadable(fields []kapsel.FieldError) error {
	return kapsel.Invalid(http.StatusBadRequest, fields...)
}

// refused returns the error for wrong values of a request that was read: 422.
func refused(fields []kapsel.FieldError) error {
	return kapsel.Invalid(http.StatusUnprocessableEntity, fields...)
}

// field returns what is wrong with one field.
func field(name, detail string) []kapsel.FieldError {
	return []kapsel.FieldError{{Field: name, Detail: detail}}
}

// missing reports whether an error says that something does not exist.
func missing(err error) bool { return kapsel.CodeOf(err) == kapsel.NotFound }

type callKey struct{}

// call is what the gate learned about a request.
type call struct {
	api    *api
	r      *http.Request
	w      http.ResponseWriter
	caller access.Caller

	// The ID that the request's Idempotency-Key reserved; zero without a key. See reserved.
	seed [16]byte
	made string // the reserved ID, once a handler has asked for it

	// The request was answered before under its Idempotency-Key: the handler must do nothing but answer with
	// what the request is about, as it is now. Only of operations that showsNow names.
	repeated bool
}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }
