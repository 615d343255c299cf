package kapsel

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code names a failure, for users and programs. A code never changes its meaning: E1… says what a
// caller did wrong, E2… what happened to an attempt, E3… what is wrong with Kapsel itself.
type Code string

// The codes of errors.
const (
	InvalidSignature    Code = "E1001"
	PayloadTooLarge     Code = "E1002"
	InvalidEndpoint     Code = "E1003"
	RateLimited         Code = "E1004"
	DuplicateEvent      Code = "E1005"
	InvalidRequest      Code = "E1006"
	Unauthorized        Code = "E1007"
	Forbidden           Code = "E1008"
	NotFound            Code = "E1009"
	Conflict            Code = "E1010"
	QuotaExceeded       Code = "E1011"
	DestinationBlocked  Code = "E1012"
	UnknownEventType    Code = "E1013"
	SchemaMismatch      Code = "E1014"
	ConnectionRefused   Code = "E2001"
	ConnectionTimeout   Code = "E2002"
	HTTPClientError     Code = "E2003"
	HTTPServerError     Code = "E2004"
	CircuitOpen         Code = "E2005"
	TLSError            Code = "E2006"
	DNSError            Code = "E2007"
	BadResponse         Code = "E2008"
	DialBlocked         Code = "E2009"
	OutcomeUnknown      Code = "E2010"
	DatabaseUnavailable Code = "E3001"
	LedgerUnavailable   Code = "E3002"
	QueueFull           Code = "E3003"
	WorkersExhausted    Code = "E3004"
	ShuttingDown        Code = "E3005"
)

// codes holds each code's name, the HTTP status of answers with the code (0: the API never answers
// with it) and whether the same request may succeed later.
var codes = map[Code]struct {
	name      string
	status    int
	retryable bool
}{
	InvalidSignature:    {"INVALID_SIGNATURE", 401, false},
	PayloadTooLarge:     {"PAYLOAD_TOO_LARGE", 413, false},
	InvalidEndpoint:     {"INVALID_ENDPOINT", 404, false},
	RateLimited:         {"RATE_LIMITED", 429, true},
	DuplicateEvent:      {"DUPLICATE_EVENT", 409, false},
	InvalidRequest:      {"INVALID_REQUEST", 400, false},
	Unauthorized:        {"UNAUTHORIZED", 401, false},
	Forbidden:           {"FORBIDDEN", 403, false},
	NotFound:            {"NOT_FOUND", 404, false},
	Conflict:            {"CONFLICT", 409, false},
	QuotaExceeded:       {"QUOTA_EXCEEDED", 429, true},
	DestinationBlocked:  {"DESTINATION_BLOCKED", 422, false},
	UnknownEventType:    {"UNKNOWN_EVENT_TYPE", 422, false},
	SchemaMismatch:      {"SCHEMA_MISMATCH", 422, false},
	ConnectionRefused:   {"CONNECTION_REFUSED", 0, true},
	ConnectionTimeout:   {"CONNECTION_TIMEOUT", 0, true},
	HTTPClientError:     {"HTTP_CLIENT_ERROR", 0, false},
	HTTPServerError:     {"HTTP_SERVER_ERROR", 0, true},
	CircuitOpen:         {"CIRCUIT_OPEN", 0, true},
	TLSError:            {"TLS_ERROR", 0, true},
	DNSError:            {"DNS_ERROR", 0, true},
	BadResponse:         {"BAD_RESPONSE", 0, true},
	DialBlocked:         {"DESTINATION_BLOCKED", 0, false},
	OutcomeUnknown:      {"OUTCOME_UNKNOWN", 0, true},
	DatabaseUnavailable: {"DATABASE_UNAVAILABLE", 503, true},
	LedgerUnavailable:   {"TIGERBEETLE_UNAVAILABLE", 503, true},
	QueueFull:           {"QUEUE_FULL", 503, true},
	WorkersExhausted:    {"WORKER_POOL_EXHAUSTED", 0, true},
	ShuttingDown:        {"SHUTTING_DOWN", 503, true},
}

// Name returns the code's name, such as INVALID_SIGNATURE.
func (c Code) Name() string { return codes[c].name }

// Status returns the HTTP status that the API answers with for the code, unless the Error sets
// another; 0 if the API never answers with the code.
func (c Code) Status() int { return codes[c].status }

// Retryable reports whether the same request may succeed later.
func (c Code) Retryable() bool { return codes[c].retryable }

// Error is a failure that a user can meet. Detail says what happened and what to do about it. It
// is shown to callers, so it must never hold a secret, SQL, a path or an address.
type Error struct {
	Code   Code
	Detail string
	// Status overrides the code's HTTP status for codes with several (E1006, E1011); 0: the code's.
	Status int
	// Fields holds all wrong fields of a request.
	Fields []FieldError
	// RetryAfter is how long to wait before trying again, for 429 and 503; 0: not stated.
	RetryAfter time.Duration
	// Err is the cause. It goes to the log only; Unwrap returns it.
	Err error
}

// FieldError says what is wrong with one field of a request. Field is the field's path, such as
// "retry.base" or "headers.set.X-Token".
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// MaxFields is how many wrong fields an error names at most.
const MaxFields = 50

// Invalid returns the error for wrong fields of a request; there must be at least one. status is 400
// for a request that cannot be read, and 422 for one that was read.
func Invalid(status int, wrong ...FieldError) error {
	detail := wrong[0].Field + " " + wrong[0].Detail
	if len(wrong) > 1 {
		detail = "several fields are wrong; errors lists them"
	}
	return &Error{Code: InvalidRequest, Status: status, Detail: detail, Fields: wrong[:min(len(wrong), MaxFields)]}
}

// Full returns the QuotaExceeded error for what a tenant may have no more of. It is 403: the same request
// succeeds only after something was deleted or a limit raised.
func Full(format string, args ...any) error {
	return &Error{Code: QuotaExceeded, Status: 403, Detail: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Err != nil && !strings.Contains(e.Detail, e.Err.Error()) {
		return fmt.Sprintf("%s %s: %s: %v", e.Code, e.Code.Name(), e.Detail, e.Err)
	}
	return fmt.Sprintf("%s %s: %s", e.Code, e.Code.Name(), e.Detail)
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error with the same code, so that errors.Is(err, &Error{Code:
// c}) tests for a code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an Error with a code and a detail for users. A %w argument becomes the cause and,
// like every argument, part of the detail. Put a cause that users must not see into Err instead.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// CodeOf returns the code of the first Error in err's chain; "" if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
