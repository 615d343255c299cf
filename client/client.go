// Package client calls Kapsel's management API. The methods, and the types of what they send
// and get, are generated from the server's OpenAPI document.
//
//	c, err := client.New("http://127.0.0.1:8080", key)
//	...
//	for event, err := range c.ListEvents(ctx, client.ListEventsFilter{Status: client.EventStatusDeadLetter}) {
//
// What the server refuses is an *Error. A Client is safe for concurrent use. It repeats no
// request by itself, but for StreamEvents, which keeps a stream going; with WithIdempotencyKey a caller may repeat a POST.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:generate go run ./internal/gen

// maxAnswer is more than any answer has: a payload is at most 64 MiB, a page of attempts with
// their headers and bodies less than 200 times 40 KiB.
const maxAnswer = 80 << 20

// timeout bounds every request of the default http.Client; its context may end it earlier.
const timeout = time.Minute

// Client calls one server with one key.
type Client struct {
	base    string
	key     string
	http    *http.Client
	endless *http.Client // without a time-out, for streams
}

// Option changes how a client works.
type Option func(*Client)

// WithHTTPClient makes requests with an http.Client of the caller's: with its Transport, its
// Jar, and its Timeout, 0 for none. The Timeout does not hold for streams. Redirects are never
// followed. The http.Client itself is not changed, and changes to it later mean nothing.
func WithHTTPClient(h *http.Client) Option {
	return func(c *Client) {
		limited, endless := *h, *h
		endless.Timeout = 0
		c.http, c.endless = &limited, &endless
	}
}

// New makes a client of the server at a base URL such as https://kapsel.example. The key is
// a tenant's or the admin key; without one only what is open to anyone can be called. Without
// WithHTTPClient a request may take a minute.
func New(base, key string, options ...Option) (*Client, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the base URL must be http or https, with a host and without a query")
	case u.User != nil:
		return nil, errors.New("the base URL must not have a user; the key goes with each request")
	case strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }):
		return nil, errors.New("the key must be printable ASCII without spaces")
	}
	c := &Client{base: strings.TrimRight(base, "/"), key: key}
	WithHTTPClient(&http.Client{Timeout: timeout})(c)
	for _, option := range options {
		option(c)
	}
	// No route redirects. Whatever does is not the server that the key is for.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http.CheckRedirect, c.endless.CheckRedirect = stay, stay
	return c, nil
}

// Error is a request that the server refused or could not do.
type Error struct {
	Status     int          // of the answer
	Code       string       // E1006, …; "" when the answer was not Kapsel's or is a bug
	Title      string       // the code in words
	Detail     string       // what happened and what to do
	Fields     []FieldError // what is wrong with which field, for E1006
	RequestID  string       // finds the request in the server's log
	RetryAfter time.Duration
}

// Error is the detail, what is wrong with each field, and how to find the request again.
func (e *Error) Error() string {
	text := e.Detail
	if len(e.Fields) > 1 {
		for _, f := range e.Fields {
			text += "; " + f.Field + " " + f.Detail
		}
	}
	names := []string{"status " + strconv.Itoa(e.Status)}
	if e.Code != "" {
		names[0] = e.Code
	}
	if e.RequestID != "" {
		names = append(names, "request "+e.RequestID)
	}
	return text + " (" + strings.Join(names, ", ") + ")"
}

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

type idempotencyKey struct{}

// WithIdempotencyKey lets the POSTs made with the context run once: sent again with the same
// key within 24 hours they are answered the same. Use a context for one call only.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

type rawAnswers struct{}

// WithRawAnswers has f called with what the server answered, byte for byte: the body of each
// answer, or each object of a list or stream, before a call made with the context returns or
// yields it. f must copy what it keeps.
func WithRawAnswers(ctx context.Context, f func(answer []byte)) context.Context {
	return context.WithValue(ctx, rawAnswers{}, f)
}

// tellRaw tells who wants to know what was answered.
func tellRaw(ctx context.Context, answer []byte) {
	if f, ok := ctx.Value(rawAnswers{}).(func([]byte)); ok {
		f(answer)
	}
}

// Do sends a request that no method has: body, unless nil, as JSON, and the answer's JSON to
// answer, unless nil. The path begins with /v1/ and may have a query.
func (c *Client) Do(ctx context.Context, method, path string, body, answer any) error {
	return c.do(ctx, method, path, nil, body, answer)
}

func encode(body any) ([]byte, error) {
	if v, ok := body.(verbatim); ok {
		return v.verbatim()
	}
	return json.Marshal(body)
}

// do sends a request. An answer that is a *[]byte gets the body as it is.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	var sent io.Reader
	if body != nil {
		text, err := encode(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, sent)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if key, ok := ctx.Value(idempotencyKey{}).(string); ok && method == http.MethodPost {
		req.Header.Set("Idempotency-Key", key)
	}
	switch {
	case method == http.MethodPatch:
		req.Header.Set("Content-Type", "application/merge-patch+json")
	case body != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err // says method and URL; the key is in neither
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer of %s: %w", c.base, err)
	case resp.StatusCode/100 != 2:
		return refusal(resp, got)
	case len(got) > maxAnswer:
		return fmt.Errorf("the answer of %s is larger than %d MiB", c.base, maxAnswer>>20)
	case answer == nil:
		return nil
	}
	if _, list := answer.(*page); !list {
		tellRaw(ctx, got)
	}
	if raw, ok := answer.(*[]byte); ok {
		*raw = got
		return nil
	}
	if err := json.Unmarshal(got, answer); err != nil {
		return fmt.Errorf("read the answer of %s, which may not be Kapsel: %w", c.base, err)
	}
	return nil
}

// refusal is the error of an answer that is not a success.
func refusal(resp *http.Response, body []byte) *Error {
	e := &Error{Status: resp.StatusCode}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/problem+json" {
		_ = json.Unmarshal(body, e) // else the detail below says it
	}
	if e.Detail == "" {
		e.Detail = "the server answered " + resp.Status + ", not as Kapsel does"
	}
	return e
}

// UnmarshalJSON reads a problem document (RFC 9457), the answer to a request that was refused.
func (e *Error) UnmarshalJSON(b []byte) error {
	said := struct {
		Status    int          `json:"status"`
		Title     string       `json:"title"`
		Detail    string       `json:"detail"`
		Code      string       `json:"code"`
		RequestID string       `json:"request_id"`
		Errors    []FieldError `json:"errors"`
	}{Status: e.Status}
	if err := json.Unmarshal(b, &said); err != nil {
		return err
	}
	e.Status, e.Code, e.Title, e.Detail, e.Fields, e.RequestID = said.Status, said.Code, said.Title, said.Detail, said.Errors, said.RequestID
	return nil
}

// pageSize is how many objects a list asks for at once.
const pageSize = 100

// page is a part of a list.
type page struct {
	Data       []json.RawMessage `json:"data"`
	NextCursor *string           `json:"next_cursor"`
}

// pages is a list's objects, page after page. After an error it ends.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := copied(query)
		query.Set("limit", strconv.Itoa(pageSize))
		for {
			var p page
			var none T
			if err := c.do(ctx, http.MethodGet, path, query, nil, &p); err != nil {
				yield(none, err)
				return
			}
			for _, raw := range p.Data {
				var v T
				if err := json.Unmarshal(raw, &v); err != nil {
					yield(none, fmt.Errorf("read the answer of %s, which may not be Kapsel: %w", c.base, err))
					return
				}
				tellRaw(ctx, raw)
				if !yield(v, nil) {
					return
				}
			}
			if p.NextCursor == nil {
				return
			}
			query.Set("cursor", *p.NextCursor)
		}
	}
}

func copied(query url.Values) url.Values {
	c := url.Values{}
	for name, values := range query {
		c[name] = values
	}
	return c
}

func setString(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

func setTime(query url.Values, name string, value time.Time) {
	if !value.IsZero() {
		query.Set(name, value.UTC().Format(time.RFC3339Nano))
	}
}

// Duration is a duration that is a Go duration string in JSON, such as "30s".
type Duration time.Duration

// String is the duration as Go writes it, without the units at its end that are zero: 24h.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes the duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// SecretInput is one secret of a list that replaces an endpoint's: NewSecret makes one, and
// KeepSecret lets one stay that is there.
type SecretInput struct {
	id, text string
}

// NewSecret is a secret as the provider gives it out.
func NewSecret(text string) SecretInput { return SecretInput{text: text} }

// KeepSecret is the secret with an id, sec_…, that the endpoint has.
func KeepSecret(id string) SecretInput { return SecretInput{id: id} }

// MarshalJSON writes the text, or an object with the id.
func (s SecretInput) MarshalJSON() ([]byte, error) {
	if s.id != "" {
		return json.Marshal(map[string]string{"id": s.id})
	}
	return json.Marshal(s.text)
}

// Optional is a field of a request that may be left out (the zero value), null, or have a
// value. In a patch null sets the default.
type Optional[T any] struct {
	Value *T // nil: null, if Set
	Set   bool
}

// Some is a field that has a value.
func Some[T any](v T) Optional[T] { return Optional[T]{&v, true} }

// Null is a field that is null.
func Null[T any]() Optional[T] { return Optional[T]{nil, true} }

// IsZero reports whether the field is left out.
func (o Optional[T]) IsZero() bool { return !o.Set }

// MarshalJSON writes the value or null.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON reads a value or null.
func (o *Optional[T]) UnmarshalJSON(text []byte) error {
	o.Set = true
	return json.Unmarshal(text, &o.Value)
}
