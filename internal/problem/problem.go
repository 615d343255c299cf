// Package problem answers HTTP requests with errors: a kapsel.Error as a problem document
// (RFC 9457) with the members of the contract.
//
// What a caller reads is the error's code and detail. Causes, and errors without a code,
// are for the log; Write neither shows nor logs them.
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

// Document is the body of an answer that is an error.
type Document struct {
	Type      string              `json:"type"`  // urn:kapsel:error:E…, stable; about:blank for a bug
	Title     string              `json:"title"` // the code's name in words
	Status    int                 `json:"status"`
	Detail    string              `json:"detail"`
	Code      kapsel.Code         `json:"code"` // "" for a bug
	RequestID string              `json:"request_id"`
	Errors    []kapsel.FieldError `json:"errors,omitempty"`
}

// New is the document for an error. One that has no code that can be answered is a bug of
// ours: status 500, and nothing of the error is in the document.
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
	if status == 0 { // the code of an attempt, or none
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

// RetryAfter is the value of the Retry-After header for an error answered with a status:
// whole seconds, rounded up, at least 1. It is "" where there is nothing to wait for; an
// answer 429 or 503 always says it.
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

// Write answers a request with an error. Headers that the caller set before, such as Allow
// with a 405, stay.
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
	w.Write(body) // the caller is gone when it fails: nothing is left to do
}

// Header values that every answer shares; nothing appends to them.
var (
	contentType = []string{ContentType}
	noSniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}
)

type requestIDKey struct{}

// WithRequestID is a context that carries a request's id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is the id that the context carries, "" without one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID makes an id by which a person finds a request in the log: req_ and 26
// characters of lower-case base32 (128 random bits). It is unique, not secret.
func NewRequestID() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	id := [30]byte{'r', 'e', 'q', '_'}
	for i := 4; i < len(id); i += 13 {
		for j, bits := 0, rand.Uint64(); j < 13; j, bits = j+1, bits>>5 {
			// 13 characters hold 64 bits: the last one has 4.
			id[i+j] = alphabet[bits&31]
		}
	}
	return string(id[:])
}
