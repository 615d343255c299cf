// Package problem answers HTTP requests with errors: it turns a kapsel.Error into a problem
// document (RFC 9457) with the API's own members.
//
// Callers see the code and detail of an error. Causes, and errors without a code, are for the log;
// Write neither shows nor logs them.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// ContentType is the media type of a problem document.
const ContentType = "application/problem+json"

// Document is the body of an error answer.
type Document struct {
	Type      string              `json:"type"`  // urn:kapsel:error:E…, stable; about:blank for a bug
	Title     string              `json:"title"` // the code's name in words
	Status    int                 `json:"status"`
	Detail    string              `json:"detail"`
	Code      kapsel.Code         `json:"code"` // "" for a bug
	RequestID string              `json:"request_id"`
	Errors    []kapsel.FieldError `json:"errors,omitempty"`
}

// New returns the document for an error. An error without a code that the API answers with is a
// bug: it becomes status 500, and the document shows nothing of it.
func New(ctx context.Context, err error) Document {
	d := Document{
		Type:      "about:blank",
		Title:     "Internal server error",
		Status:    http.StatusInternalServerError,
		Detail:    "something went wrong on our side; the log has the request id",
		RequestID: RequestID(ctx),
	}
	var e *kapsel.Error
	if !errors.As(err, &e) {
		return d
	}
	status := e.Status
	if status == 0 {
		status = e.Code.Status()
	}
	if status == 0 { // a code of an attempt, or an unknown one
		return d
	}
	d.Type = "urn:kapsel:error:" + string(e.Code)
	d.Title = title(e.Code.Name())
	d.Status = status
	d.Detail = e.Detail
	d.Code = e.Code
	d.Errors = e.Fields
	return d
}

// title turns INVALID_SIGNATURE into "Invalid signature".
func title(name string) string {
	if name == "" {
		return ""
	}
	return name[:1] + strings.ToLower(strings.ReplaceAll(name[1:], "_", " "))
}

// RetryAfter returns the value of the Retry-After header for an error answered with a status:
// whole seconds, rounded up, at least 1. It returns "" if the error does not say when to retry,
// unless the status is 429 or 503, whose answers always have the header.
func RetryAfter(err error, status int) string {
	var wait time.Duration
	var e *kapsel.Error
	if errors.As(err, &e) {
		wait = e.RetryAfter
	}
	if wait <= 0 && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return ""
	}
	return strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10)
}

// Write answers a request with an error. It keeps other headers that the caller set before, such
// as Allow with a 405.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	d := New(r.Context(), err)
	body, jsonErr := json.Marshal(d)
	if jsonErr != nil {
		panic(jsonErr) // a struct of strings and an int always encodes
	}
	h := w.Header()
	h["Content-Type"] = contentType
	h["X-Content-Type-Options"] = noSniff
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if after := RetryAfter(err, d.Status); after != "" {
		h["Retry-After"] = []string{after}
	}
	w.WriteHeader(d.Status)
	w.Write(body) // an error means that the client is gone
}

// Header values shared by all answers. They must not be modified.
var (
	contentType = []string{ContentType}
	noSniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}
)

type requestIDKey struct{}

// WithRequestID returns a context that carries a request's ID.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the request ID that the context carries; "" if there is none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID returns an ID by which people find a request in the log: req_ and 26 characters of
// lower-case base32 (128 random bits). It is unique, but not secret.
func NewRequestID() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	id := [30]byte{'r', 'e', 'q', '_'}
	for i := 4; i < len(id); i += 13 {
		for j, bits := 0, rand.Uint64(); j < 13; j, bits = j+1, bits>>5 {
			// 13 characters encode 64 bits; the last one encodes 4.
			id[i+j] = alphabet[bits&31]
		}
	}
	return string(id[:])
}
